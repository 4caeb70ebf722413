"""The replica table of a fleet: one table on every front host, changed under a higher generation, awaited as served."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict

from dsctl.base.errors import DeadlineError
from dsctl.base.fleetstep import EditTable
from dsctl.base.missing import Missing
from dsctl.base.step import Row
from dsctl.base.voice import Voice
from dsctl.facts.serving import Table, parse_table
from dsctl.reach import fleetwaits
from dsctl.reach.hostdoor import HostDoor

PATH = "gateway/replicas.json"
SERVED_S = 30.0


def edit(fronts: Sequence[HostDoor], action: EditTable, voice: Voice, pause_s: float) -> None:
    """The change on top of the newest table any front host holds; nothing when all hold the result already."""
    texts = [front.read(PATH) for front in fronts]
    tables = [parse_table(text) for text in texts if not isinstance(text, Missing)]
    known = [table for table in tables if isinstance(table, Table)]
    newest = max(known, key=lambda table: table.generation, default=Table(0, ()))
    rows = {row.name: row for row in newest.rows if row.name not in action.drop}
    rows |= {row.name: row for row in action.rows}
    ordered = tuple(sorted(rows.values(), key=lambda row: _number(row.name)))
    generation = newest.generation
    if ordered != newest.rows or not generation:
        generation += 1
    text = _shown(generation, ordered)
    for front, before in zip(fronts, texts, strict=True):
        if before != text:
            front.write(PATH, text)
    for front in fronts:
        _await_served(front, generation, voice, pause_s)


def _await_served(front: HostDoor, generation: int, voice: Voice, pause_s: float) -> None:
    began = time.monotonic()
    while True:
        status = fleetwaits.gateway_status(front)
        if status is None or int(status.get("generation", 0)) >= generation:
            return  # it does not run, and will read the table when it starts; or it has it
        waited = time.monotonic() - began
        if waited > SERVED_S:
            raise DeadlineError(f"the gateway on {front.name} did not take table {generation} within {SERVED_S:g} s",
                                hint=f"dsctl logs gateway, on {front.name}")  # fmt: skip
        voice.waiting(f"the gateway on {front.name}", waited, SERVED_S)
        time.sleep(min(pause_s, 0.1))


def _shown(generation: int, rows: Sequence[Row]) -> str:
    told = {"generation": generation, "replicas": [asdict(row) for row in rows]}
    return json.dumps(told, indent=1) + "\n"


def _number(name: str) -> tuple[int, str]:
    return (int(name[1:]) if name[:1] == "r" and name[1:].isdigit() else -1, name)
