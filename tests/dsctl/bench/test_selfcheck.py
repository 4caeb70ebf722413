"""A run that is not to be believed says so: each limit, from either side, on made-up evidence."""

from __future__ import annotations

from typing import Any

import pytest

from dsctl.bench import selfcheck
from dsctl.bench.lengths import Length
from dsctl.bench.loads import Level, Load
from dsctl.bench.plan import Plan, Target, Workload
from dsctl.bench.probe import Second
from dsctl.bench.progress import Ended
from dsctl.bench.records import Record, Window
from dsctl.bench.scrape import chosen
from dsctl.bench.selfcheck import Evidence


def plan(kind: str = "poisson") -> Plan:
    """10 per second (or users) for 10 s after 1 s."""
    load = Load(kind=kind, levels=[Level(10, 10)], warmup=1.0)  # type: ignore[arg-type]
    return Plan(target=Target(url="http://h", model="m"), load=load, workload=Workload(isl=Length(), osl=Length()))


def rows(count: int = 100, lag: float = 0.001, ttft: float = 0.1, **more: Any) -> list[Record]:
    """Requests spread over the window."""
    return [
        Record(
            id=i, worker=0, status="ok", t_intended=(at := 1 + i * 10 / count), t_send=at + lag,
            t_first=at + lag + ttft, t_last=at + lag + ttft, t_close=at + lag + ttft,
            chunks=1, **more,
        )
        for i in range(count)
    ]  # fmt: skip


def evidence(lag: float = 0.0005, cpu: float = 0.3, late_share: float = 1.0, **more: Any) -> Evidence:
    """One worker that was as late and as busy."""
    late = round(100 * late_share)
    seconds = [Second(float(at), cpu, [lag] * late + [0.0] * (100 - late)) for at in range(1, 12)]
    return Evidence((Ended(11.0, 11.0, seconds),), **more)


def reasons(found: Evidence, records: list[Record], kind: str = "poisson") -> list[str]:
    """What the run says against itself."""
    return selfcheck.examine(plan(kind), records, found, Window(1.0, 11.0))[1]


def test_a_clean_run_has_nothing_to_say() -> None:
    """Open and closed."""
    assert reasons(evidence(), rows()) == []
    assert reasons(evidence(), rows(), "closed") == []


@pytest.mark.parametrize(
    ("found", "records", "word"),
    [
        (evidence(lag=0.006), rows(), "late"),
        (evidence(cpu=0.85), rows(), "CPU|core"),
        (evidence(), rows(lag=0.02), "after their time"),
        (evidence(), rows(count=19), "only 19"),
        (evidence(server_restarts=1), rows(), "restarted"),
        (evidence(workers_lost=1), rows(), "died"),
        (evidence(mock_late_p99=0.01), rows(), "stand-in"),
        (Evidence(()), rows(), "did not report"),
    ],
)
def test_each_limit_is_told(found: Evidence, records: list[Record], word: str) -> None:
    """Beyond a limit there is one reason, and it names the figure."""
    import re

    said = reasons(found, records)
    assert len(said) == 1
    assert re.search(word, said[0])


def test_limits_have_another_side() -> None:
    """Just within each limit nothing is said; a long TTFT forgives 2 % of itself, rare late naps are no p99."""
    assert reasons(evidence(lag=0.0049, cpu=0.79), rows(lag=0.0099, count=20)) == []
    assert reasons(evidence(), rows(lag=0.018, ttft=1.0)) == []
    assert reasons(evidence(lag=0.5, late_share=0.0), rows()) == []
    assert reasons(evidence(), rows(lag=0.5), "closed") == []


def test_unsent_requests_miss_the_rate() -> None:
    """Arrivals that were due and not sent lower the achieved rate; that is no valid run."""
    found = rows()
    unsent = [Record(id=r.id, worker=0, status="unsent", t_intended=r.t_intended) for r in found[:10]]
    said = reasons(evidence(), [*unsent, *found[10:]])
    assert len(said) == 1
    assert "9.00 requests per second were sent where 10.00 were due" in said[0]


def test_the_window_ends_with_what_was_measured() -> None:
    """By time, by the last answer where requests are counted, and where a run was stopped."""
    by_time = plan("closed")
    assert selfcheck.window_of(by_time, rows(), evidence()) == Window(1.0, 11.0)
    stopped = Evidence((Ended(5.0, 4.5, []),), is_partial=True)
    assert selfcheck.window_of(by_time, rows(), stopped) == Window(1.0, 4.5)
    endless = Load(kind="closed", levels=[Level(10, 1e9)], warmup=1.0, requests=100)
    counted = Plan(target=by_time.target, load=endless, workload=by_time.workload)
    assert selfcheck.window_of(counted, rows(), evidence()).end == pytest.approx(10.9 + 0.101)


def test_remarks_tell_what_a_reader_should_know() -> None:
    """Usage that never came, lengths that were missed, prompts that a cache answered."""
    said = " ".join(selfcheck.remarks(plan(), rows(want_out=10)))
    assert "no usage" in said
    said = " ".join(selfcheck.remarks(plan(), rows(want_out=10, n_out=5, n_in=100, n_cached=50)))
    assert "100 of 100 answers" in said
    assert "50% of the prompt tokens" in said
    assert selfcheck.remarks(plan(), rows(want_out=10, n_out=10, n_in=100, n_cached=0)) == []


def test_server_metrics_are_chosen_and_summed() -> None:
    """Of a page of metrics the telling families are kept, each summed over its labels; nonsense is skipped."""
    page = (
        "# HELP vllm:num_requests_running now\n"
        'vllm:num_requests_running{model="a"} 3\nvllm:num_requests_running{model="b",x="}"} 4 1700000000\n'
        "vllm:num_requests_waiting 2.5\nvllm:generation_tokens_total nonsense\nprocess_open_fds 9\n"
    )
    assert chosen(page) == {"vllm:num_requests_running": 7.0, "vllm:num_requests_waiting": 2.5}
