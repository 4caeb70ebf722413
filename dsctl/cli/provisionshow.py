"""What `dsctl provision` shows: a line a host, and with --check every difference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dsctl.cli import show

if TYPE_CHECKING:
    from dsctl.reach.ansible import Tally


def done(found: Mapping[str, Tally], *, is_check: bool, json: bool) -> None:
    """Per host: how much was right, what changed, what failed."""
    if json:
        told = [
            {"host": host, "ok": each.ok, "changed": each.changed, "diffs": each.diffs, "failed": each.failed,
             "unreachable": each.unreachable}
            for host, each in found.items()
        ]  # fmt: skip
        return show.json({"check": is_check, "hosts": told})
    for host, each in found.items():
        if is_check:
            for diff in each.diffs:
                show.result(f"{host}:\n" + "\n".join(f"  {line}" for line in diff.splitlines()))
        state = "failed" if each.failed else "unreachable" if each.unreachable else "ok"
        show.result(f"{host}: {state}, {len(each.changed)} {'to change' if is_check else 'changed'}, {each.ok} tasks")
        if reason := each.failed or each.unreachable:
            show.warn(f"{host}: {reason}")
    return None
