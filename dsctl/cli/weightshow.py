"""What `dsctl weights` shows: the plan of a push, where it ended, and what a check found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from dsctl.base.exits import Exit
from dsctl.base.missing import Missing
from dsctl.base.units import seconds, size
from dsctl.cli import fleetshow, show

if TYPE_CHECKING:
    from dsctl.flows.weights import Push


def planned(found: Push, *, json: bool) -> Exit:
    """The steps and how long they may take."""
    code = fleetshow.steps(found.steps, json=json)
    if found.steps and not json:
        eta = found.eta_s.reason if isinstance(found.eta_s, Missing) else f"about {seconds(found.eta_s)}"
        show.result(f"\n{size(found.size)} on each host; how long: {eta}")
    return code


def pushed(found: Push, *, json: bool) -> None:
    """Where they are now."""
    if json:
        show.json({"changed": bool(found.steps), "directory": found.directory, "bytes": found.size})
    else:
        show.result(f"{found.directory} is whole on every host" + ("" if found.steps else "; nothing was to do"))


def verified(rows: Sequence[dict[str, object]], *, json: bool) -> Exit:
    """One line a host, and every chunk that is wrong."""
    if json:
        show.json({"hosts": list(rows)})
    else:
        for row in rows:
            bad = cast("list[str]", row["bad"])
            show.result(f"{row['host']}: " + ("whole" if row["whole"] else f"{len(bad)} wrong"))
            for each in bad:
                show.warn(f"{row['host']}: {each}")
    return Exit.OK if all(row["whole"] for row in rows) else Exit.FAILED
