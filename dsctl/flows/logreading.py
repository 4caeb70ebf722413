"""Reads the logs of a diagnosis: each file once, in bounded memory; dumps of flight recorders beside them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from dsctl.doctor import judge
from dsctl.facts import flight
from dsctl.facts.flight import Flight
from dsctl.facts.logscan import Scan, Scanner, scan
from dsctl.reach import logfiles

Told = Callable[[int], None]


@cache
def scanner() -> Scanner:
    """One automaton for all files and all calls."""
    return Scanner(judge.literals())


Pairs = list[tuple[str, str]]
UNPICKLE = (
    "a pickle: it is never opened, since opening one can run what is written in it. Where you trust it: python3 -c "
    '\'import json,pickle,sys; n=sys.argv[1]; json.dump(pickle.load(open(n,"rb")), open(n+".json","w"), default=str)\' '
)


def read(logs: tuple[str, ...], told: Told | None) -> tuple[list[Scan], Pairs, Pairs, list[Flight]]:
    """(what the logs hold, what was passed over, what could not be read, dumps of flight recorders)."""
    if not logs:
        return [], [], [], []
    files, passed, unanswered = logfiles.expand(list(logs))
    automaton = scanner()
    tail = max(1 << 16, min(1 << 20, (64 << 20) // max(1, len(files))))
    scans: list[Scan] = []
    flights: list[Flight] = []
    for file in files:
        try:
            head = logfiles.head(file)
            if flight.is_pickle(file.shown, head):
                passed.append((file.shown, UNPICKLE + file.shown))
            elif flight.is_dump(head):
                flights += flight.read(file.shown, logfiles.text(file, flight.MOST_BYTES))
            elif logfiles.is_binary(head):
                passed.append((file.shown, "it is not text"))
            else:
                found = scan(file.shown, logfiles.blocks(file), automaton, tail_bytes=tail, told=told)
                if found.bytes:
                    scans.append(found)
                else:
                    passed.append((file.shown, "it is empty"))
        except (OSError, ValueError) as problem:
            why = problem.strerror if isinstance(problem, OSError) and problem.strerror else problem
            unanswered.append((file.shown, f"could not be read: {why}"))
    if not (scans or flights or unanswered):
        unanswered.append(("the logs", "nothing in them could be looked at"))
    return scans, passed, unanswered, flights
