"""Each fault alone: the client's answer stays whole and identical, and the healthy replica is not blamed."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from benchmarks.rig import Rig, until
from tests.faults.clients import ask, ask_all, ask_until_moved, body_of, line_of


@pytest.mark.parametrize("after", [-1, 0, 5], ids=["before-head", "first-token", "mid-stream"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_kill_loses_nothing(rig: Rig, after: int, stream: bool) -> None:
    """A replica killed before the head, at the first token or mid-stream costs no request and no token."""
    rig.fault("r1", f"crash:after={after}:times=1")
    line = ask_until_moved(rig, stream=stream)
    assert (line.attempts[0][0], line.attempts[-1][0]) == ("r1", "r2")
    assert not rig.replicas["r1"].is_running


def test_kill_keeps_choices_logprobs_and_usage(rig: Rig) -> None:
    """n > 1, log-probabilities and usage survive a kill mid-stream, and usage counts every token once."""
    rig.fault("r1", "crash:after=7:times=1")
    line = ask_until_moved(rig, n=3, logprobs=True, stream=False)
    assert line.usage is not None
    assert line.usage["completion_tokens"] == sum(len(ids) for ids in line.ids) == 3 * 12


def test_stopped_process_is_left_and_its_late_bytes_are_dropped(rig: Rig) -> None:
    """A SIGSTOPped replica's streams move; after SIGCONT nothing of the old attempts reaches a client or goes on."""
    rig.fault("r1", "stop:after=5:times=1")
    ask_until_moved(rig)
    until("r1 is judged dead", lambda: rig.health()["r1"] == "dead")
    rig.replicas["r1"].signal(signal.SIGCONT)
    rig.wait_healthy("r1")
    until("r1 freed what was left on it", lambda: rig.status()["inflight"] == 0)


def test_hang_with_http_alive_is_noticed(rig: Rig) -> None:
    """A replica that answers and beats but does not step loses its streams to the other."""
    rig.fault("r1", "hang")
    ask_until_moved(rig)
    assert next(row for row in rig.status()["replicas"] if row["name"] == "r1")["deaths"] >= 1
    rig.replicas["r1"].end()  # begin the next test with a new one


@pytest.mark.parametrize("kind", ["truncate", "malformed", "eof", "bigline", "mute"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_broken_streams_go_on_elsewhere(rig: Rig, kind: str, stream: bool) -> None:
    """A cut, unreadable, endless, silently ended or silent stream is continued without gap or duplicate."""
    rig.fault("r1", f"{kind}:after=4:times=1:value=3000000")
    line = ask_until_moved(rig, stream=stream)
    assert [name for name, _ in line.attempts] == ["r1", "r2"]


def test_lost_core_moves_the_stream_to_an_equal_replica(rig: Rig) -> None:
    """When a core is announced lost and another replica has equal numerics, the stream goes on there."""
    rig.fault("r1", "lost:after=4:times=1:value=60000")
    line = ask_until_moved(rig)
    assert [name for name, _ in line.attempts] == ["r1", "r2"]
    rig.replicas["r1"].end()  # its pretended restart takes a minute


def test_lost_core_without_another_replica_waits_for_the_replay(rig: Rig) -> None:
    """When nobody else can take the stream, it stays and the replay goes on where it stopped."""
    rig.publish(r2="draining")
    rig.wait_generation(rig.generation)
    rig.fault("r1", "lost:after=4:times=1:value=700")
    answer = ask_all(rig, range(1))[0]
    assert [name for name, _ in line_of(rig, answer.ledger_name).attempts] == ["r1"]


def test_full_replica_is_not_an_ill_one(rig: Rig) -> None:
    """503 from one replica sends the request to the other and says nothing about health."""
    rig.fault("r1", "refuse")
    deaths = [row["deaths"] for row in rig.status()["replicas"]]
    ask_all(rig, range(4))
    assert [row["deaths"] for row in rig.status()["replicas"]] == deaths


def test_everybody_full_is_503_with_retry_after(rig: Rig) -> None:
    """When every replica refuses, the client hears 503 and when to come back."""
    rig.fault("r1", "refuse")
    rig.fault("r2", "refuse")
    answer = ask(rig, body_of(1))
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1


def test_server_errors_are_retried_and_never_passed_on(rig: Rig) -> None:
    """A 500 is tried elsewhere; when everybody answers 500 the client sees 503 with Retry-After."""
    rig.fault("r1", "error")
    ask_all(rig, range(4))
    rig.fault("r2", "error")
    answer = ask(rig, body_of(1))
    assert answer.status == 503
    assert "retry-after" in answer.headers


def test_replica_of_wrong_answers_is_shunned(rig: Rig) -> None:
    """A replica that answers 500 at once, and so always looks least busy, soon gets no more requests."""
    rig.fault("r1", "error")
    ask_until(rig, lambda: rig.metrics().get('dsctl_breaker_state{replica="r1"}') == 2)
    rig.fault("r1")
    ask_until(rig, lambda: rig.metrics().get('dsctl_breaker_state{replica="r1"}') == 0)


def ask_until(rig: Rig, condition: Callable[[], bool]) -> None:
    """Send requests, each of which must be exact, until something is so."""

    def step() -> bool:
        ask_all(rig, range(1), tokens=1)
        return condition()

    until("the breaker changes", step)


def test_refusals_of_the_engine_reach_the_client_once(rig: Rig) -> None:
    """A 400 of a replica is final: passed on as it is, and tried nowhere else."""
    rig.fault("r1", "reject")
    rig.fault("r2", "reject")
    answer = ask(rig, body_of(1))
    assert answer.status == 400
    assert answer.error is not None
    assert answer.error["code"] == "context_length_exceeded"
    assert len(line_of(rig, answer.ledger_name).attempts) == 1


def test_slow_replica_is_not_judged_dead(rig: Rig) -> None:
    """A replica whose steps take twenty times longer keeps its streams."""
    deaths = [row["deaths"] for row in rig.status()["replicas"]]
    rig.fault("r1", "slow:value=20")
    ask_all(rig, range(2), tokens=6)
    assert [row["deaths"] for row in rig.status()["replicas"]] == deaths
