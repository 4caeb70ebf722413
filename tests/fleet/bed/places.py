"""Where a bed keeps its files, and the names and addresses that follow from its own name."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class Place:
    """One bed's directory; two beds share neither Engine, names nor addresses, only what `shared` holds for all."""

    root: Path
    shared: Path

    @property
    def tag(self) -> str:
        """Four hex digits that stand for the directory."""
        return sha256(os.fsencode(self.root)).hexdigest()[:4]

    @property
    def subnet(self) -> str:
        """The first three numbers of the bed's addresses, out of 10.64.0.0/10."""
        number = int(self.tag, 16)
        return f"10.{64 + number % 64}.{number // 64 % 256}"

    @property
    def bridge(self) -> str:
        """The bridge all hosts hang on."""
        return f"dsbed{self.tag}"

    @property
    def data(self) -> Path:
        """Docker's images and layers, kept between runs."""
        return self.root / "docker"

    @property
    def run(self) -> Path:
        """What exists only while the bed is up."""
        return self.root / "run"

    @property
    def socket(self) -> Path:
        """The socket of the bed's own Docker Engine."""
        return self.run / "docker.sock"

    @property
    def pidfile(self) -> Path:
        """The Engine's pid."""
        return self.run / "docker.pid"

    @property
    def log(self) -> Path:
        """The Engine's log."""
        return self.root / "dockerd.log"

    @property
    def keys(self) -> Path:
        """The operator's key, the hosts' keys, known_hosts."""
        return self.root / "keys"

    @property
    def base(self) -> Path:
        """The Debian tree every image starts from, as a tar file."""
        return self.shared / "base.tar"

    @property
    def contexts(self) -> Path:
        """Build contexts, written anew for each build."""
        return self.root / "build"

    @property
    def wheels(self) -> Path:
        """The wheels of dsctl's requirements."""
        return self.shared / "wheels"

    @property
    def archive(self) -> Path:
        """The product's image as an archive: what an operator has in hand where there is no registry."""
        return self.root / "app.tar"

    @property
    def summary(self) -> Path:
        """What is up, as JSON."""
        return self.run / "bed.json"


NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")


def place_of(name: str = "") -> Place:
    """The bed of that name, else of $DSCTL_BED, else of this checkout: below $XDG_CACHE_HOME or ~/.cache.

    ValueError for a name that would not do as a directory.
    """
    name = name or os.environ.get("DSCTL_BED", "") or f"of-{sha256(os.fsencode(ROOT)).hexdigest()[:6]}"
    if not NAME.fullmatch(name):
        raise ValueError(f"a bed's name is made of a-z, 0-9 and '-', not {name!r}")
    cache = os.environ.get("XDG_CACHE_HOME")
    shared = (Path(cache) if cache else Path.home() / ".cache") / "dsctl" / "bed"
    return Place(shared / "named" / name, shared)
