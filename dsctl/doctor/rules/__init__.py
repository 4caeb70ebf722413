"""The catalogue: every rule the doctor knows, by area."""

from __future__ import annotations

from functools import cache

from dsctl.doctor.model import Rule


@cache
def catalogue() -> dict[str, Rule]:
    """All rules by id, in the order of their areas."""
    from dsctl.doctor.rules import container, driver, engines, gpu, host, machine, memory, nccl, network, torch, weights

    areas = (memory, nccl, network, driver, container, host, gpu, engines, weights, torch, machine)
    return {rule.id: rule for area in areas for rule in area.RULES}
