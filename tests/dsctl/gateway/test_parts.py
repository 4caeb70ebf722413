"""The gateway's pure parts: health, meta lines, whole answers, keys, metrics."""

from __future__ import annotations

import dataclasses
import hashlib

import msgspec
import pytest

from dsctl.gateway import events, health
from dsctl.gateway.call import Call
from dsctl.gateway.events import History, MetaLine, ProgressLine, decode_meta
from dsctl.gateway.health import Health
from dsctl.gateway.keys import read_keys
from dsctl.gateway.metrics import Histogram
from dsctl.gateway.refusal import RefusedError
from dsctl.gateway.replica import Breaker
from dsctl.gateway.settings import DEAD_TICKS, HUNG_TICKS, SUSPECT_TICKS, TICK_S
from dsctl.gateway.table import read_table
from dsctl.gateway.whole import Whole
from engine.spec import attempt as spec
from engine.spec.attempt import Usage


def progress(
    step: int = 0, *, running: int = 0, state: str = "ready", epoch: int = 1, step_limit_s: float = 0.0
) -> ProgressLine:
    """A line of the progress stream."""
    return ProgressLine(state, epoch, step, step, running, 0, 1, 1, 0, "n", True, step_limit_s=step_limit_s)


def made() -> tuple[Health, list[str]]:
    """A healthy replica's health, and the states it enters from then on."""
    entered: list[str] = []
    made = Health(lambda state, cause: entered.append(state))
    made.heard(progress())
    made.heard(progress())
    entered.clear()
    return made, entered


def test_structs_mirror_the_contract() -> None:
    """The gateway's fast structs have the fields and defaults of engine.spec.attempt."""
    pairs = [
        (events.MetaLine, spec.Meta),
        (events.ProgressLine, spec.Progress),
    ]
    for struct, contract in pairs:
        assert struct.__struct_fields__ == tuple(field.name for field in dataclasses.fields(contract))
    assert set(History().__slots__) >= {"ids", "finished", "cached"}
    wanted = {field.name for field in dataclasses.fields(spec.Resume)}
    assert set(msgspec.json.decode(History().resume())) == wanted


def test_request_is_the_contract_attempt() -> None:
    """What is sent to a replica decodes as engine.spec.attempt.Attempt with the client's body inside."""
    call = Call("chat", b'{"messages": [], "n": 2, "stream": true}', "-", "rid")
    history = History()
    history.add(MetaLine(c=1, t=(4, 5), cached=3))
    sent = call.request("h:1", "secret", 2, history.resume())
    attempt = msgspec.json.decode(sent.partition(b"\r\n\r\n")[2], type=spec.Attempt)
    assert (attempt.id, attempt.seed, attempt.attempt, attempt.body["n"]) == (call.id, call.seed, 2, 2)
    assert attempt.resume is not None
    assert [choice.ids for choice in attempt.resume.choices] == [[], [4, 5]]
    assert b"authorization: Bearer secret\r\n" in sent


def test_healthy_needs_two_good_probes() -> None:
    """One line is not enough to come back."""
    judged = Health(lambda state, cause: None)
    judged.heard(progress())
    assert judged.state == "starting"
    judged.heard(progress())
    assert judged.is_ready


def test_silence_is_suspect_then_dead() -> None:
    """Silence counts in ticks; any byte ends it."""
    judged, entered = made()
    for _ in range(SUSPECT_TICKS - 1):
        judged.tick()
    assert judged.is_ready
    judged.tick()
    assert judged.state == "suspect"
    judged.heard(progress())
    assert judged.is_ready
    for _ in range(DEAD_TICKS):
        judged.tick()
    assert entered == ["suspect", "healthy", "suspect", "dead"]


def test_a_stalled_gateway_accuses_nobody() -> None:
    """However long the gateway itself was stalled, it counts one tick."""
    judged, entered = made()
    judged.tick()
    judged.heard(progress())
    assert entered == []


def test_bytes_of_streams_are_signs_of_life() -> None:
    """A replica whose streams bring bytes is not dead, even when its progress stream is late."""
    judged, entered = made()
    for _ in range(3 * DEAD_TICKS):
        judged.silent = 0
        judged.tick()
    assert entered == []


def test_no_step_while_running_is_a_hang() -> None:
    """Two seconds without a step while something runs bury a replica; an idle one may stand still."""
    judged, entered = made()
    for _ in range(3 * HUNG_TICKS):
        judged.heard(progress(step=5))
        judged.tick()
    assert entered == []
    for _ in range(HUNG_TICKS + 1):
        judged.heard(progress(step=5, running=1))
        judged.tick()
    assert entered == ["dead"]
    judged.heard(progress(step=5, running=0))
    judged.heard(progress(step=5, running=0))
    assert judged.state == "dead"
    judged.heard(progress(step=1, epoch=2))
    judged.heard(progress(step=2, epoch=2))
    assert judged.is_ready


def test_long_steps_are_learnt() -> None:
    """A replica that has shown long steps is given ten times as long."""
    judged, entered = made()
    for step in range(1, 3):
        for _ in range(HUNG_TICKS - 1):
            judged.heard(progress(step=step, running=1))
            judged.tick()
    for _ in range(3 * HUNG_TICKS):
        judged.heard(progress(step=9, running=1))
        judged.tick()
    assert entered == []


def test_a_replica_may_say_how_long_its_steps_take() -> None:
    """A first step of ten seconds is no hang when the replica expects it; one beyond what it told is."""
    judged, entered = made()
    told_ticks = int(10.0 / TICK_S)
    for _ in range(told_ticks + HUNG_TICKS):
        judged.heard(progress(step=5, running=1, step_limit_s=10.0))
        judged.tick()
    assert entered == []
    for _ in range(2):
        judged.heard(progress(step=5, running=1, step_limit_s=10.0))
        judged.tick()
    assert entered == ["dead"]


def test_quarantine_ends() -> None:
    """A hung replica that shows no step is tried again after a while."""
    judged, _ = made()
    for _ in range(HUNG_TICKS + 1):
        judged.heard(progress(step=5, running=1))
        judged.tick()
    for _ in range(health.QUARANTINE_TICKS + 2):
        judged.tick()
        judged.heard(progress(step=5))
    assert judged.is_ready


def test_breaker_shuns_after_three_wrong_answers_and_forgives() -> None:
    """Three wrong answers in a row open it, fewer do not, one right answer closes it."""
    breaker = Breaker()
    breaker.wrong()
    breaker.wrong()
    assert not breaker.is_open
    breaker.wrong()
    assert breaker.is_open
    breaker.right()
    assert not breaker.is_open


def test_restarting_core_takes_no_work() -> None:
    """A replica whose core restarts is alive but not ready."""
    judged, _ = made()
    judged.heard(progress(state="restarting"))
    assert judged.state == "healthy"
    assert not judged.is_ready


def test_history_refuses_the_impossible() -> None:
    """Ids for a choice that does not exist or has ended are not accepted."""
    history = History()
    history.add(MetaLine(c=1, t=(1, 2), f="stop"))
    assert not history.accepts(MetaLine(c=1, t=(3,)))
    assert not history.accepts(MetaLine(c=-1, t=(3,)))
    assert not history.accepts(MetaLine(c=1 << 20, t=(3,)))
    assert history.accepts(MetaLine(c=0, t=(3,)))
    assert history.accepts(MetaLine(c=2, t=(3,)))
    assert history.started


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"t":[1.5]}', b'{"t":"x"}', b'{"c":"0"}', b'{"end":{}}'])
def test_meta_lines_are_checked(line: bytes) -> None:
    """A Meta line of the wrong shape is an error, not a guess."""
    with pytest.raises(msgspec.DecodeError):
        decode_meta(line)


def test_whole_chat_answer() -> None:
    """Content, reasoning, token ids and log-probabilities of each choice are joined in order."""
    whole = Whole("chat")
    for index in (0, 1):
        whole.feed(chunk({"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}))
    for text in ("a", "b"):
        for index in (1, 0):
            choice = {
                "index": index,
                "delta": {"content": f"{text}{index}"},
                "token_ids": [index],
                "finish_reason": None,
            }
            whole.feed(chunk({**choice, "logprobs": {"content": [{"token": text}]}}))
    whole.feed(chunk({"index": 0, "delta": {"reasoning_content": "r"}, "finish_reason": "stop", "logprobs": None}))
    whole.feed(chunk({"index": 1, "delta": {}, "finish_reason": "length"}))
    answer = whole.result(Usage(3, 4, 1, 2))
    first, second = answer["choices"]
    assert first["message"] == {
        "role": "assistant",
        "content": "a0b0",
        "reasoning_content": "r",
        "reasoning": None,
    }
    assert (first["finish_reason"], second["finish_reason"]) == ("stop", "length")
    assert first["token_ids"] == [0, 0]
    assert [item["token"] for item in second["logprobs"]["content"]] == ["a", "b"]
    assert answer["object"] == "chat.completion"
    assert answer["usage"]["total_tokens"] == 7
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}


def test_whole_inference_answer() -> None:
    """An inference answer has its text at the top, whichever shape the chunks had."""
    flat, choices = Whole("inference"), Whole("inference")
    for text in ("a", "b"):
        flat.feed(b"data: " + msgspec.json.encode({"id": "i", "text": text, "finish_reason": None}))
        choices.feed(chunk({"index": 0, "text": text, "finish_reason": "stop"}))
    assert flat.result(Usage(1, 2))["text"] == choices.result(Usage(1, 2))["text"] == "ab"


def chunk(choice: dict[str, object]) -> bytes:
    """A data line with one choice."""
    return b"data: " + msgspec.json.encode({"id": "x", "created": 1, "model": "m", "choices": [choice]})


def test_keys_are_digests() -> None:
    """keys.json holds SHA-256 only; anything else is refused."""
    digest = hashlib.sha256(b"s").hexdigest()
    assert read_keys(b'{"keys":[{"id":"a","sha256":"%b"}]}' % digest.encode()) == [("a", bytes.fromhex(digest))]
    for wrong in (b"{}", b'{"keys":[{"id":"a","sha256":"ab"}]}', b'{"keys":[{"id":"a","sha256":"zz"}]}'):
        with pytest.raises(ValueError):
            read_keys(wrong)


@pytest.mark.parametrize(
    "text",
    [
        '{"generation":1}',
        '{"generation":1,"replicas":[{"name":"a","url":"http://h"}]}',
        '{"generation":1,"replicas":[{"name":"a","url":"http://h:1","state":"odd"}]}',
        '{"generation":1,"replicas":[{"name":"a","url":"http://h:1"},{"name":"a","url":"http://h:2"}]}',
    ],
)
def test_tables_are_checked(text: str) -> None:
    """A table that lacks something, or names a replica twice, is refused."""
    with pytest.raises(ValueError):
        read_table(text.encode())


def test_call_reads_leniently_and_costs_its_tokens() -> None:
    """Odd types are left to the replica; only the placement reads lengths."""
    odd = Call("chat", b'{"n":"many","stream":"yes","max_tokens":1.5}', "-", "r")
    assert not odd.streams
    assert odd.cost < 300
    assert Call("chat", b'{"n":3,"max_tokens":100}', "-", "r").cost > 300
    with pytest.raises(RefusedError):
        Call("chat", b"[]", "-", "r")


def test_histogram_counts_at_the_edges() -> None:
    """A value equal to an edge belongs to that bucket, as Prometheus counts."""
    histogram = Histogram((0.1, 1.0))
    for value in (0.1, 0.5, 5.0):
        histogram.observe(value)
    samples = {
        sample.labels["le"]: sample.value for sample in histogram.family("x", "y").samples if "le" in sample.labels
    }
    assert samples == {"0.1": 1, "1.0": 2, "+Inf": 3}
