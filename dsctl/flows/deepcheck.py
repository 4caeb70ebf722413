"""`dsctl doctor --deep`: active self-tests of this machine, each announced and ended by its deadline."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dsctl.base.cards import Cards
from dsctl.base.errors import DsctlError
from dsctl.base.missing import Missing
from dsctl.base.places import default_home
from dsctl.base.secret import Secret
from dsctl.base.voice import Voice
from dsctl.doctor import idle
from dsctl.doctor.idle import Choice
from dsctl.doctor.model import Case
from dsctl.facts.programs import Label
from dsctl.facts.serving import Front, parse_front
from dsctl.flows.checkup import NO_CARD
from dsctl.flows.observe import gateway_label
from dsctl.flows.project import open_project
from dsctl.reach import cards, http, probes, vitals
from dsctl.reach.door import Reply

FRONT_S = 60.0
RANKS = 2  # processes of the small collective over Gloo
Answer = object  # a value, a str (not applicable), Missing, or Skipped


@dataclass(frozen=True, slots=True)
class Skipped:
    """Left alone on purpose, so not checked; no probe failed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Partly:
    """Done on some cards; the others were left alone, so the rule is not clear."""

    value: object
    reason: str


@dataclass(frozen=True, slots=True)
class Test:
    """One self-test: the fact it gives, how long it usually takes, and how it is done."""

    fact: str
    what: str
    about: str
    run: Callable[[], Answer]


def tests(*, disruptive: bool = False) -> tuple[Test, ...]:
    """All self-tests of this machine, the short ones first. `disruptive`: cards in use are tested too."""
    return (
        Test("deep.memory", "memory bandwidth", "1 s", lambda: [probes.memory_copy()]),
        Test("deep.disk", "disk rate", "1 s, at most 20 s", _disk),
        Test("deep.front", "a completion through the front", f"1 s, at most {FRONT_S:.0f} s", _front),
        Test("deep.gpu", "the cards' memory bandwidth", "10 s, at most 60 s", lambda: _card_memory(disruptive)),
        Test("deep.gloo", "a collective between processes", "3 s, at most 60 s", _gloo),
        Test("deep.nccl", "a collective between cards", "10 s, at most 60 s", lambda: _nccl(disruptive)),
        Test("deep.kernels", "compiled kernels against their references", "10 s, at most 180 s", _kernels),
    )


def run(case: Case, voice: Voice, *, disruptive: bool = False) -> tuple[list[str], list[tuple[str, str]]]:
    """Adds what the tests found to the case; returns what was measured, in words, and what gave no answer."""
    told: list[str] = []
    mute: list[tuple[str, str]] = []
    for test in tests(disruptive=disruptive):
        voice.say(f"testing {test.what} (about {test.about})")
        began = time.monotonic()
        answer = test.run()
        if isinstance(answer, Missing | Skipped):
            case.missing[test.fact] = answer.reason
        if isinstance(answer, Missing):
            mute.append((test.what, answer.reason))
        elif isinstance(answer, Skipped):
            told.append(f"{test.what}: not tested ({answer.reason})")
        else:
            told.append(_keep(case, test, answer) + f" ({time.monotonic() - began:.1f} s)")
    return told, mute


def _keep(case: Case, test: Test, answer: Answer) -> str:
    """The answer becomes a fact; what was measured, in words."""
    case.missing.pop(test.fact, None)
    value, rest = (answer.value, f"; not tested: {answer.reason}") if isinstance(answer, Partly) else (answer, "")
    case.facts[test.fact] = value
    if isinstance(answer, Partly):
        case.missing[test.fact] = answer.reason
    return f"{test.what}: {_words(test.fact, value)}{rest}"


def _words(fact: str, answer: Answer) -> str:
    if isinstance(answer, str):
        return answer
    values = cast("list[Any]", answer)
    if fact == "deep.memory":
        return f"{values[0] / 1e9:.1f} GB/s read and written by one core"
    if fact == "deep.disk":
        return f"{values[0] / 1e6:.0f} MB/s to {values[1]}"
    if fact == "deep.gpu":
        return ", ".join(f"card {index} {rate / 1e9:.0f} GB/s" for index, _, rate in values)
    return str(values[1])


def _card_memory(disruptive: bool) -> Answer:
    """[[card, name, bytes a second] …] of the cards that may be tested now."""
    found = _choice(disruptive)
    if not isinstance(found, tuple):
        return found
    shown, choice = found
    if not choice.tested:
        return Skipped(choice.why)
    rates = probes.card_copies(choice.tested)
    if isinstance(rates, str | Missing):
        return rates
    names = {card.index: card.name for card in shown.cards}
    value = [[index, names[index], rate] for index, rate in zip(choice.tested, rates, strict=True)]
    return Partly(value, choice.why) if choice.skipped else value


def _nccl(disruptive: bool) -> Answer:
    found = _choice(disruptive)
    if not isinstance(found, tuple):
        return found
    shown, choice = found
    if len(shown.cards) < 2:
        return "fewer than two cards have nobody to talk to"
    if len(choice.tested) < 2:
        return Skipped(choice.why)
    answer = _judged(probes.collectives(len(choice.tested), choice.tested))
    return answer if isinstance(answer, str | Missing) or not choice.skipped else Partly(answer, choice.why)


def _gloo() -> Answer:
    return _judged(probes.collectives(RANKS))


def _judged(answer: tuple[int, str] | Missing) -> Answer:
    """[right, words] of a program that ends with 0, 1, or 3 for not applicable."""
    if isinstance(answer, Missing):
        return answer
    code, words = answer
    if code == 3:
        return words
    return [code == 0, words] if code in (0, 1) else Missing(f"the test ended with code {code}: {words[-300:]}")


def _choice(disruptive: bool) -> tuple[Cards, Choice] | str | Missing:
    """The cards and which of them may be tested; a sentence where there is none."""
    bus = vitals.pci_cards()
    if not isinstance(bus, Missing) and not bus:
        return NO_CARD
    shown = cards.look()
    if isinstance(shown, Missing):
        return shown
    if isinstance(bus, Missing) and shown.problem == "not loaded":
        return "no NVIDIA driver, and the bus cannot be seen"
    if not shown.cards:
        return Missing(shown.words or "the driver shows no card")
    return shown, idle.choose(shown, _inflight(), disruptive=disruptive)


def _inflight() -> int:
    """Requests that the deployment of this directory works on now; 0 without one."""
    try:
        project = open_project(None)
        label = gateway_label(project)
        front = (
            project.door.get(f"{label.url}/-/status", project.places.admin_token) if isinstance(label, Label) else None
        )
    except DsctlError:
        return 0
    told = parse_front(front.text) if isinstance(front, Reply) and front.status == 200 else None
    return sum(told.inflight.values()) if isinstance(told, Front) else 0


def _disk() -> Answer:
    home = default_home(os.environ)
    place = next((path for path in (home, *home.parents) if path.is_dir() and os.access(path, os.W_OK)), None)
    directory = place or Path(tempfile.gettempdir())
    rate = probes.disk_write(directory)
    return rate if isinstance(rate, Missing) else [rate, str(directory)]


def _kernels() -> Answer:
    return _judged(probes.kernels())


def _front() -> Answer:
    """One token from the deployed front, as a client would ask for it."""
    try:
        project = open_project(None)
        label = gateway_label(project)
    except DsctlError as problem:
        return Missing(problem.message)
    if not isinstance(label, Label):
        return "nothing is deployed here"
    key = Secret(os.environ.get("DSCTL_API_KEY", ""))
    try:
        body = {"model": http.first_model(label.url, key), "prompt": "1", "max_tokens": 1}
    except DsctlError as problem:
        return [False, problem.message + (f": {problem.why}" if problem.why else "")]
    reply = http.post(f"{label.url}/v1/completions", body, http.bearer(key), FRONT_S)
    if isinstance(reply, Missing):
        return [False, reply.reason]
    return [
        reply.status == 200,
        f"{reply.status} from {label.url}" + ("" if reply.status == 200 else f": {http.message(reply.text)}"),
    ]
