"""Every metric against an example computed by hand, and goodput against a recount of the records."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsctl.bench import judge, metrics, slo
from dsctl.bench.records import Record, Stage, Window
from tests.dsctl.bench import examples

# Intended at 1.0, sent at 1.5, first token 2.0 (two tokens in it), then events after 0.1, 0.3; 6 tokens in all.
ONE = Record(
    id=0, worker=0, status="ok", t_intended=1.0, t_send=1.5, t_connect=0.05, t_headers=1.9, t_first=2.0, t_content=2.1,
    t_last=2.4, t_close=2.5, n_in=7, n_out=6, n_first=2, chunks=3, gaps=[0.1, 0.3], counts=[2, 1, 3],
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ttft", 0.5), ("ttft_sched", 1.0), ("ttft_visible", 0.6), ("tpot", 0.1), ("e2e", 0.9), ("e2e_sched", 1.4),
        ("connect", 0.05), ("stream_close", 0.1),
    ],
)  # fmt: skip
def test_a_metric_of_one_request(name: str, value: float) -> None:
    """Each metric of one request equals what its formula gives by hand."""
    one = metrics.BY_NAME[name].one
    assert one is not None
    assert one(ONE) == pytest.approx(value)


def test_gaps_between_events_and_between_tokens() -> None:
    """icl is the gaps as they are; itl divides a gap among the tokens of its event; without counts there is no itl."""
    assert metrics.gaps(ONE) == [0.1, 0.3]
    assert metrics.token_gaps(ONE) == pytest.approx([0.1, 0.1, 0.1, 0.1])
    assert metrics.token_gaps(examples.record(0, 0.0)) == ()


def test_tpot_is_undefined_below_two_tokens_or_without_usage() -> None:
    """One token, no count, or all tokens in the first event: None, never 0 and never the number of chunks."""
    assert metrics.tpot(examples.record(0, 0.0, itl=())) is None
    assert metrics.tpot(examples.record(0, 0.0, n_out=None)) is None
    assert metrics.tpot(examples.record(0, 0.0, n_out=4, n_first=4)) is None


def test_which_requests_are_measured() -> None:
    """Warm-up and what lies outside the window is not measured; failures are, and clients that left stand apart."""
    rows = [
        examples.record(0, 5.0, warmup=True), examples.record(1, 9.99), examples.record(2, 10.0),
        examples.failure(3, 11.0, "unsent", t_send=None), examples.failure(4, 12.0, "censored"),
        examples.record(5, 13.0, status="left"), examples.record(6, 20.0),
    ]  # fmt: skip
    found = metrics.sample(rows, Window(10.0, 20.0))
    assert [r.id for r in found.ok] == [2]
    assert [r.id for r in found.bad] == [3, 4]
    assert [r.id for r in found.left] == [5]
    told = metrics.counts(rows, found)
    assert (told["ok"], told["unsent"], told["censored"], told["left"], told["warmup"]) == (1, 1, 1, 1, 1)
    assert found.attempted == 3


def test_a_summary_by_hand() -> None:
    """Twenty values 1…20: mean 10.5, p50 the tenth; p90 needs a hundred and is not shown."""
    told = metrics.summary(np.arange(20, 0, -1, dtype=np.float64))
    assert (told["n"], told["mean"], told["min"], told["max"], told["p50"]) == (20, 10.5, 1.0, 20.0, 10.0)
    assert told["std"] == pytest.approx(math.sqrt(35.0))
    assert told["p90"] is None
    assert set(told["ci95"]) == {"p50", "mean"}


def test_failures_are_infinite_in_all() -> None:
    """With 11 failures beside 9 answers, p50 of `_all` is "inf" and there is no mean; the plain form knows the nine."""
    rows = [examples.record(i, i * 0.1) for i in range(9)] + [examples.failure(9 + i, 1 + i * 0.1) for i in range(11)]
    told = metrics.summaries(metrics.sample(rows, Window(0, 60)))
    assert told["ttft_all"]["n"] == 20
    assert told["ttft_all"]["p50"] == "inf"
    assert told["ttft_all"]["mean"] is None
    assert told["ttft"]["n"] == 9
    assert told["ttft"]["p50"] is None


def test_throughput_by_hand() -> None:
    """Tokens count where they arrive: of ONE (2 at 2.0, 1 at 2.1, 3 at 2.4) the window 2.05 – 2.55 saw 4."""
    told = metrics.throughput([ONE], Window(2.05, 2.55))
    assert told["output_tokens_per_s"] == pytest.approx(8.0)
    assert told["token_events_per_s"] == pytest.approx(4.0)
    assert told["requests_per_s"] == pytest.approx(2.0)
    assert told["input_tokens_per_s"] == 0.0
    assert metrics.throughput([ONE], Window(2.0, 3.0))["input_tokens_per_s"] == pytest.approx(7.0)


def test_tokens_are_never_guessed_from_chunks() -> None:
    """Without the server's count there is no token rate; events that have none are counted beside it."""
    told = metrics.throughput([examples.record(0, 0.0, n_out=None)], Window(0, 10))
    assert told["output_tokens_per_s"] is None
    assert told["tokens_unknown_events"] == 3
    assert told["token_events_per_s"] == pytest.approx(0.3)


@given(st.integers(1, 40), st.integers(1, 12))
def test_tokens_of_events_add_up(n_out: int, events: int) -> None:
    """However a total is spread over events, the sum is the server's total."""
    row = examples.record(0, 0.0, itl=[0.01] * (events - 1), n_out=n_out)
    weights = metrics.tokens_of_events(row)
    assert weights is not None
    assert len(weights) == events
    assert weights.sum() == pytest.approx(n_out)


def _mixture(seed: int) -> list[Record]:
    rng = np.random.default_rng(seed)
    rows: list[Record] = []
    for i in range(400):
        at = float(rng.uniform(-5, 65))
        kind = rng.integers(0, 10)
        if kind == 0:
            rows.append(examples.failure(i, at, "timeout"))
        elif kind == 1:
            rows.append(examples.failure(i, at, "unsent", t_send=None))
        else:
            gaps = [float(g) for g in rng.uniform(0.01, 0.06, int(rng.integers(0, 9)))]
            usage = None if kind == 2 else 1 + len(gaps)
            rows.append(examples.record(i, at, ttft=float(rng.uniform(0.1, 0.8)), itl=gaps, n_out=usage))
    return rows


@pytest.mark.parametrize("mode", ["open", "closed"])
@pytest.mark.parametrize("seed", range(3))
def test_goodput_is_a_recount_of_the_records(mode: judge.Mode, seed: int) -> None:
    """Goodput and attainment equal a count written without the product's functions; unsent is in the denominator."""
    rows = _mixture(seed)
    told = judge.document(examples.facts(mode=mode), rows, slo.parse("ttft=500ms,tpot=40ms", 0.9))
    good = tried = 0
    for r in rows:
        if not 0 <= r.t_intended < 60:
            continue
        tried += 1
        if r.status != "ok" or r.t_first is None or r.t_send is None or r.t_last is None:
            continue
        start = r.t_intended if mode == "open" else r.t_send
        steps = (r.n_out - 1) if r.n_out is not None else len(r.gaps)
        paced = steps == 0 or (r.t_last - r.t_first) / steps <= 0.04
        good += r.t_first - start <= 0.5 and paced
    assert told["goodput"]["good"] == good
    assert told["goodput"]["attempted"] == tried
    assert told["goodput"]["attainment"] == good / tried
    assert told["goodput"]["per_second"] == pytest.approx(good / 60)


def test_percentiles_are_numpys_on_the_rows() -> None:
    """Percentiles of run.json are bit-equal to numpy's on the rows read by hand."""
    rows = examples.lognormal(np.random.default_rng(1), 1200)
    told = judge.document(examples.facts(), rows)
    own = np.asarray([r.t_first - r.t_intended for r in rows if r.t_first is not None])
    for name, percent in (("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99)):
        assert told["metrics"]["ttft_sched"][name] == np.percentile(own, percent, method="inverted_cdf")
    assert told["metrics"]["ttft_sched"]["p999"] is None


@settings(max_examples=25)
@given(st.permutations(list(range(30))))
def test_rows_of_workers_merge_in_any_order(order: list[int]) -> None:
    """The order in which workers' rows are merged changes no figure."""
    rows = _mixture(9)[:30]
    one = judge.document(examples.facts(), rows, slo.parse("ttft=500ms"))
    assert judge.document(examples.facts(), [rows[i] for i in order], slo.parse("ttft=500ms")) == one


def test_stages_are_judged_apart() -> None:
    """A stage's figures are those of its own requests; tokens count where they arrive."""
    rows = [examples.record(i, i * 1.0, stage=0) for i in range(30)]
    rows += [examples.record(30 + i, 30 + i * 1.0, stage=1, ttft=0.4) for i in range(30)]
    stages = [Stage(0, 1.0, 0.0, 30.0), Stage(1, 1.0, 30.0, 60.0)]
    told = judge.document(examples.facts(stages=stages), rows)
    assert [stage["metrics"]["ttft"]["p50"] for stage in told["stages"]] == pytest.approx([0.2, 0.4])
    assert told["stages"][1]["counts"]["ok"] == 30


def test_an_invalid_run_has_no_other_verdict() -> None:
    """Whatever the objectives say, a run that does not believe itself is invalid, with its reasons."""
    rows = [examples.record(i, i * 0.1) for i in range(100)]
    told = judge.document(examples.facts(valid=False, reasons=["loop lag"]), rows, slo.parse("ttft=1s"))
    assert (told["verdict"], told["reasons"]) == ("invalid", ["loop lag"])


def test_the_failing_objective_is_named() -> None:
    """Each objective has its own line, and the verdict's reasons name the one that failed."""
    rows = [examples.record(i, i * 0.1) for i in range(200)]
    told = judge.document(examples.facts(), rows, slo.parse("ttft=500ms,tpot=10ms,e2e_p95=1s,error_rate=1%"))
    assert {one["name"]: one["outcome"] for one in told["slo"]} == {
        "ttft": "pass", "tpot": "fail", "all limits": "fail", "e2e_p95": "pass", "error_rate": "pass",
    }  # fmt: skip
    assert told["verdict"] == "fail"
    assert any(reason.startswith("tpot ≤ 0.01 s: 0.00% of 200") for reason in told["reasons"])


def test_what_cannot_be_judged_is_unknown_not_passed() -> None:
    """A p99 of 200 requests is not shown, and an objective on it is unknown with the number it needs."""
    rows = [examples.record(i, i * 0.1) for i in range(200)]
    told = judge.document(examples.facts(), rows, slo.parse("ttft_p99=1s"))
    assert told["verdict"] == "unknown"
    assert "needs 1000" in told["reasons"][0]


def test_open_loop_is_judged_from_the_schedule() -> None:
    """A client that sent late cannot flatter the server: in open loop ttft counts from the scheduled moment."""
    rows = [examples.record(i, i * 0.1, ttft=0.4, t_send=i * 0.1 + 0.3) for i in range(100)]
    objectives = slo.parse("ttft=350ms")
    assert judge.document(examples.facts(), rows, objectives)["verdict"] == "fail"
    assert judge.document(examples.facts(mode="closed"), rows, objectives)["verdict"] == "pass"
