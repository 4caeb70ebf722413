"""`dsctl doctor --deep`: active self-tests of this machine, each announced and ended by its deadline."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dsctl.base.errors import DsctlError
from dsctl.base.missing import Missing
from dsctl.base.places import default_home
from dsctl.base.secret import Secret
from dsctl.base.voice import Voice
from dsctl.doctor.model import Case
from dsctl.facts.programs import Label
from dsctl.flows.observe import gateway_label
from dsctl.flows.project import open_project
from dsctl.reach import http, probes

FRONT_S = 60.0
Answer = object  # a value, a str (not applicable), or Missing


@dataclass(frozen=True, slots=True)
class Test:
    """One self-test: the fact it gives, how long it usually takes, and how it is done."""

    fact: str
    what: str
    about: str
    run: Callable[[], Answer]


def tests() -> tuple[Test, ...]:
    """All self-tests, the short ones first."""
    return (
        Test("deep.memory", "memory bandwidth", "1 s", lambda: [probes.memory_copy()]),
        Test("deep.disk", "disk rate", "1 s, at most 20 s", _disk),
        Test("deep.front", "a completion through the front", f"1 s, at most {FRONT_S:.0f} s", _front),
        Test("deep.kernels", "compiled kernels against their references", "10 s, at most 180 s", _kernels),
    )


def run(case: Case, voice: Voice) -> tuple[list[str], list[tuple[str, str]]]:
    """Adds what the tests found to the case; returns what was measured, in words, and what gave no answer."""
    told: list[str] = []
    mute: list[tuple[str, str]] = []
    for test in tests():
        voice.say(f"testing {test.what} (about {test.about})")
        began = time.monotonic()
        answer = test.run()
        if isinstance(answer, Missing):
            case.missing[test.fact] = answer.reason
            mute.append((test.what, answer.reason))
        else:
            case.facts[test.fact] = answer
            told.append(f"{test.what}: {_words(test.fact, answer)} ({time.monotonic() - began:.1f} s)")
    return told, mute


def _words(fact: str, answer: Answer) -> str:
    if isinstance(answer, str):
        return answer
    values = cast("list[Any]", answer)
    if fact == "deep.memory":
        return f"{values[0] / 1e9:.1f} GB/s read and written by one core"
    if fact == "deep.disk":
        return f"{values[0] / 1e6:.0f} MB/s to {values[1]}"
    return str(values[1])


def _disk() -> Answer:
    home = default_home(os.environ)
    place = next((path for path in (home, *home.parents) if path.is_dir() and os.access(path, os.W_OK)), None)
    directory = place or Path(tempfile.gettempdir())
    rate = probes.disk_write(directory)
    return rate if isinstance(rate, Missing) else [rate, str(directory)]


def _kernels() -> Answer:
    answer = probes.kernels()
    if isinstance(answer, Missing):
        return answer
    code, words = answer
    if code == 3:
        return words
    return [code == 0, words] if code in (0, 1) else Missing(f"the kernels' check ended with code {code}: {words}")


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
