"""A network port of a host, InfiniBand or Ethernet, as the kernel shows it under /sys."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Port:
    """One port. `rate` in Gb/s; `width` in lanes, 0 where the kernel does not tell; `errors` by counter."""

    kind: str  # infiniband, ethernet
    name: str  # mlx5_0/1, eth0
    state: str  # DOWN, INIT, ARMED, ACTIVE; up, down
    rate: float = 0.0
    width: int = 0
    duplex: str = ""
    errors: tuple[tuple[str, int], ...] = ()

    @property
    def is_up(self) -> bool:
        """True when it carries traffic."""
        return self.state in ("ACTIVE", "up")
