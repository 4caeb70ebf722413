"""The catalogue: every rule the doctor knows, by area."""

from __future__ import annotations

from functools import cache

from dsctl.doctor.model import Rule


@cache
def catalogue() -> dict[str, Rule]:
    """All rules by id, in the order of their areas."""
    from dsctl.doctor.rules import (  # fmt: skip
        active,
        beside,
        building,
        container,
        driver,
        edge,
        engines,
        gpu,
        host,
        kubernetes,
        machine,
        memory,
        nccl,
        network,
        own,
        refusals,
        startup,
        torch,
        transfer,
        weights,
    )

    areas = (
        memory,
        nccl,
        network,
        edge,
        transfer,
        beside,
        driver,
        container,
        kubernetes,
        host,
        gpu,
        engines,
        startup,
        refusals,
        own,
        weights,
        torch,
        building,
        machine,
        active,
    )
    return {rule.id: rule for area in areas for rule in area.RULES}
