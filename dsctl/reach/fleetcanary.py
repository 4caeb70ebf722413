"""Watching a canary: its answers against the old release's before it takes traffic, its traffic while it has some."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from dsctl.base.errors import GateError
from dsctl.base.fleetstep import Canary, Compare
from dsctl.base.voice import Voice
from dsctl.facts.canary import Evidence, Tally, Terms, judge, ratio, read_tally, total
from dsctl.reach import fleetwaits
from dsctl.reach.hostdoor import HostDoor

GOLDEN = (
    "Count from one to ten.", "What is 17 + 25?", "Name the days of the week.", "Write a sentence about the sea.",
)  # fmt: skip
GOLDEN_TOKENS = 24
EACH_ROUND = 3  # gate requests to the canary and to an old copy, when clients send too few
PATIENCE = 4.0  # times the soak, and then PATIENCE_S more: a doubt that lasts so long counts against it
PATIENCE_S = 60.0


def same_tokens(front: HostDoor, action: Compare, voice: Voice, pause_s: float) -> None:
    """GateError when the new copy answers a golden prompt otherwise than an old one whose numbers are the same."""
    rows = {str(row["name"]): row for row in (fleetwaits.gateway_status(front) or {}).get("replicas", [])}
    mine = rows.get(action.replica, {})
    equal = [
        name
        for name in action.others
        if mine.get("exact") and rows.get(name, {}).get("exact")
        and mine.get("numerics_id") and rows[name].get("numerics_id") == mine.get("numerics_id")
    ]  # fmt: skip
    if not equal:
        voice.say(f"  answers of {action.replica} are not compared: no old copy computes with exactly the same numbers")
        return
    for prompt in GOLDEN:
        wanted, got = (_answer(front, action, name, prompt, voice, pause_s) for name in (equal[0], action.replica))
        if wanted != got:
            raise GateError(
                f"{action.replica} answers a golden prompt otherwise than {equal[0]}, whose numbers are the same",
                why=f"asked: {prompt}\n{equal[0]}: {wanted}\n{action.replica}: {got}",
                hint="the checkpoint or the image of the new release is not what it should be",
            )  # fmt: skip
    voice.note(f"  {len(GOLDEN)} golden prompts are answered alike by {equal[0]} and {action.replica}")


def _answer(front: HostDoor, action: Compare, name: str, prompt: str, voice: Voice, pause_s: float) -> str:
    """Text, reason of the end and number of tokens, as one string."""
    asked = {
        "model": action.model, "messages": [{"role": "user", "content": prompt}], "max_tokens": GOLDEN_TOKENS,
        "temperature": 0, "seed": 1,
    }  # fmt: skip
    text = fleetwaits.complete(front, action, name, asked, voice, pause_s)
    told = cast("dict[str, Any]", json.loads(text))
    choices = cast("list[dict[str, Any]]", told.get("choices") or [])
    shown = [[choice.get("message"), choice.get("finish_reason")] for choice in choices]
    return json.dumps([shown, told.get("usage", {}).get("completion_tokens")], ensure_ascii=False, sort_keys=True)


@dataclass(slots=True)
class _Counted:
    """Sums over all gateways at one moment."""

    evidence: Evidence
    offered: int
    taken: int
    deaths: int
    lost: str  # why it cannot serve any more; empty: it can


def watch(fronts: Sequence[HostDoor], action: Canary, voice: Voice, pause_s: float) -> None:
    """Until the canary has stood its time and shown enough; GateError as soon as it is surely worse, or dies."""
    terms = Terms(action.wanted, action.ttft_ratio)
    first = _count(fronts, action)
    began = time.monotonic()
    limit = action.seconds * PATIENCE + PATIENCE_S
    while True:
        now = _since(_count(fronts, action), first)
        waited = time.monotonic() - began
        if now.lost or now.deaths > 0:
            raise GateError(f"{action.replica} stopped serving {waited:.1f} s after it took traffic",
                            why=now.lost or f"it died {now.deaths} times", hint=_hint(action))  # fmt: skip
        found = judge(now.evidence, terms)
        if found.bad or (found.doubt and waited > limit):
            raise GateError(f"{action.replica} is worse than the old release: {found.bad or found.doubt}",
                            why=_told(action, now, terms), hint=_hint(action))  # fmt: skip
        if waited >= action.seconds and not found.doubt:
            voice.say(f"  {_told(action, now, terms)}")
            return
        voice.waiting(f"{action.replica} to prove itself ({found.doubt or 'so far as good'})", waited, limit)
        if _wants_gates(now.evidence, terms):
            _ask_both(fronts[0], action)
        time.sleep(min(pause_s, max(0.0, action.seconds - waited)) if waited < action.seconds else pause_s)


def _told(action: Canary, now: _Counted, terms: Terms) -> str:
    mine = now.evidence.real.plus(now.evidence.gates)
    times = ratio(now.evidence, terms)
    shared = f"{100 * now.taken / now.offered:.1f} % of {now.offered} requests" if now.offered else "no requests"
    longer = f", first token {times:.2f} times the old release's" if times else ""
    return f"{action.replica} took {shared}; {mine.errors} errors in {mine.attempts}{longer}"


def _hint(action: Canary) -> str:
    return f"dsctl logs {action.replica}"


def _wants_gates(evidence: Evidence, terms: Terms) -> bool:
    if min(evidence.real.ttft_n, evidence.real_old.ttft_n if evidence.has_old else terms.wanted) >= terms.wanted:
        return False
    return (
        min(evidence.gates.ttft_n, evidence.gates_old.ttft_n if evidence.has_old else terms.wanted) < 5 * terms.wanted
    )


def _ask_both(front: HostDoor, action: Canary) -> None:
    """The same few requests to the canary and to one old copy; what becomes of them the gateway counts."""
    asked = {"model": action.model, "messages": [{"role": "user", "content": GOLDEN[0]}], "max_tokens": 4, "seed": 1}
    for name in (action.replica, *action.others[:1]):
        fleetwaits.send(front, action, name, asked, times=EACH_ROUND)


def _count(fronts: Sequence[HostDoor], action: Canary) -> _Counted:
    rows = [row for front in fronts for row in (fleetwaits.gateway_status(front) or {}).get("replicas", [])]
    mine = [row for row in rows if row["name"] == action.replica]
    others = [row for row in rows if row["name"] in action.others]

    def summed(which: list[dict[str, Any]], key: str) -> Tally:
        return total([read_tally(row.get(key)) for row in which])

    evidence = Evidence(
        summed(mine, "tally"), summed(others, "tally"), summed(mine, "gate_tally"), summed(others, "gate_tally"),
        has_old=bool(action.others),
    )  # fmt: skip
    lost = "" if mine or not rows else "no gateway lists it any more"
    for row in mine:
        lost = lost or (str(row.get("cause") or "dead") if row.get("health") == "dead" else "")
    offered, taken, deaths = (sum(int(row.get(key, 0)) for row in mine) for key in ("offered", "taken", "deaths"))
    return _Counted(evidence, offered, taken, deaths, lost)


def _since(now: _Counted, first: _Counted) -> _Counted:
    mine, before = now.evidence, first.evidence
    evidence = Evidence(
        mine.real.since(before.real), mine.real_old.since(before.real_old), mine.gates.since(before.gates),
        mine.gates_old.since(before.gates_old), mine.has_old,
    )  # fmt: skip
    return _Counted(evidence, max(0, now.offered - first.offered), max(0, now.taken - first.taken),
                    now.deaths - first.deaths, now.lost)  # fmt: skip
