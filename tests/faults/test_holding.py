"""No replica up: admitted requests are held, kept alive with heartbeats, and served or told why not."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import httpx

from benchmarks.rig import Rig, until
from tests.faults.clients import Answer, ask, assert_exact, body_of, line_of
from tests.faults.conftest import PACE


def test_both_dead_then_one_back(rig: Rig) -> None:
    """A stream and a plain request wait while both replicas are dead, and are served when one returns."""
    for program in rig.replicas.values():
        program.end()
    until("both judged dead", lambda: set(rig.health().values()) == {"dead"})
    bodies = [body_of(1), body_of(2, stream=False)]
    answers: list[Answer] = []

    def one(body: dict[str, object]) -> None:
        answers.append(ask(rig, body))

    threads = [threading.Thread(target=one, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    until("both are held", lambda: rig.status()["held"] == 2)
    rig.restart("r1")
    for thread in threads:
        thread.join()
    for body in bodies:
        assert any(answer.text for answer in answers)
        answer = next(a for a in answers if a.headers["content-type"].startswith("text/event") is bool(body["stream"]))
        assert_exact(answer, body)


def test_held_stream_is_kept_alive(rig: Rig) -> None:
    """A held stream gets comments, so that nobody on the way takes the silence for death."""
    for program in rig.replicas.values():
        program.end()
    until("both judged dead", lambda: set(rig.health().values()) == {"dead"})
    body = body_of(3)
    with httpx.stream("POST", f"{rig.url}/v1/chat/completions", json=body, timeout=60) as response:
        lines = response.iter_lines()
        assert next(line for line in lines if line) == ": hb"
        rig.restart("r2")
        rest = list(lines)
    text = "".join(
        json.loads(line[6:])["choices"][0]["delta"]["content"] for line in rest if line.startswith("data: {")
    )
    assert text == ask(rig, {**body, "stream": False}).text[0]
    assert rest[-2:] == ["data: [DONE]", ""]


def test_holding_ends_with_a_word(tmp_path: Path) -> None:
    """When no replica comes in time a plain request gets 503 with Retry-After, a stream an error event."""
    with Rig(tmp_path, replicas=1, replica_options=PACE, gateway_options=["--hold-s", "2.5"]) as rig:
        rig.replicas["r1"].end()
        answers: dict[bool, Answer] = {}

        def one(streams: bool) -> None:
            answers[streams] = ask(rig, body_of(1, stream=streams))

        threads = [threading.Thread(target=one, args=(streams,)) for streams in (False, True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        plain, stream = answers[False], answers[True]
        assert plain.status == 503
        assert int(plain.headers["retry-after"]) >= 1
        assert stream.error is not None
        assert stream.error["code"] == "no_replica"
        assert not stream.is_done


def test_deadline_ends_a_held_request(tmp_path: Path) -> None:
    """x-dsctl-deadline-ms bounds the whole request, held or running."""
    with Rig(tmp_path, replicas=1, replica_options=PACE) as rig:
        running = ask(rig, body_of(1, tokens=100000, stream=False), headers={"x-dsctl-deadline-ms": "500"})
        assert (running.status, running.error and running.error["code"]) == (503, "deadline_exceeded")
        rig.replicas["r1"].end()
        held = ask(rig, body_of(1, stream=False), headers={"x-dsctl-deadline-ms": "500"})
        assert (held.status, held.error and held.error["code"]) == (503, "deadline_exceeded")
        wrong = ask(rig, body_of(1), headers={"x-dsctl-deadline-ms": "-1"})
        assert wrong.status == 400


def test_too_many_held_are_refused(tmp_path: Path) -> None:
    """Beyond the bound of held requests the answer is 503 at once."""
    with Rig(tmp_path, replicas=1, gateway_options=["--max-held", "1"]) as rig:
        rig.replicas["r1"].end()
        until("dead", lambda: rig.health()["r1"] == "dead")
        thread = threading.Thread(target=lambda: ask(rig, body_of(1), headers={"x-dsctl-deadline-ms": "20000"}))
        thread.start()
        until("one is held", lambda: rig.status()["held"] == 1)
        assert ask(rig, body_of(2, stream=False)).status == 503
        rig.restart("r1")
        thread.join()


def test_request_that_kills_every_replica_is_given_up(tmp_path: Path) -> None:
    """A request whose every attempt ends with its replica's death is refused after a few, not tried for ever."""
    with Rig(tmp_path, replicas=1, replica_options=[*PACE, "--fault", "crash:after=-1"]) as rig:
        answers: list[Answer] = []
        thread = threading.Thread(target=lambda: answers.append(ask(rig, body_of(1, stream=False))))
        thread.start()
        while thread.is_alive():
            if not rig.replicas["r1"].is_running:
                rig.replicas["r1"].start()
            thread.join(0.05)
        assert answers[0].status == 503
        assert answers[0].error is not None
        assert answers[0].error["code"] == "no_replica_could_serve"
        assert len(line_of(rig, answers[0].ledger_name).attempts) <= 8
