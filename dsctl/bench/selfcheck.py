"""Whether a run is to be believed: what the client did wrong is told before any number of the server is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dsctl.base.units import seconds
from dsctl.bench.loads import ENDLESS
from dsctl.bench.plan import Plan
from dsctl.bench.progress import Ended
from dsctl.bench.records import UNFINISHED, Record, SelfCheck, Window

LAG_LIMIT_S = 0.005  # p99 of how late a 10 ms nap may end
CPU_LIMIT = 0.8  # of one core
SEND_LAG_LIMIT_S = 0.010
SEND_LAG_SHARE = 0.02  # … or this part of the median TTFT, if that is more
RATE_TOLERANCE = 0.02
MIN_SAMPLES = 20  # the median of fewer is not shown either
LATE_SERVER_S = 0.005


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a run left behind besides its rows."""

    ended: Sequence[Ended]
    workers_lost: int = 0
    server_restarts: int = 0
    is_partial: bool = False
    mock_late_p99: float | None = None  # how late the stand-in server sent its tokens, seconds


def window_of(plan: Plan, records: Sequence[Record], evidence: Evidence) -> Window:
    """The measured span: as planned, or as long as its requests took, or until the run was stopped."""
    window = plan.window
    end = window.end
    if end >= ENDLESS:
        closed = [record.t_close for record in records if not record.warmup and record.t_close is not None]
        end = max(closed, default=window.start)
    if evidence.is_partial or evidence.workers_lost:
        end = min(end, max((one.arrivals_ended for one in evidence.ended), default=window.start))
    return Window(window.start, max(window.start, round(end, 6)))


def examine(plan: Plan, records: Sequence[Record], evidence: Evidence, window: Window) -> tuple[SelfCheck, list[str]]:
    """The figures of the self-check, and a sentence for each that breaks its limit."""
    spans = [one for ended in evidence.ended for one in ended.seconds if window.start < one.at <= window.end + 1]
    lags = sorted(lag for span in spans for lag in span.lags)
    measured = [record for record in records if window.start <= record.t_intended < window.end]
    ttfts = sorted(r.t_first - r.t_send for r in measured if r.t_first is not None and r.t_send is not None)
    median = quantile(ttfts, 0.5) if ttfts else 0.0
    target, achieved = _rates(plan, records, window)
    check = SelfCheck(
        loop_lag_p99=quantile(lags, 0.99),
        loop_lag_max=lags[-1] if lags else 0.0,
        cpu=round(max((_cpu(ended, window) for ended in evidence.ended), default=0.0), 4),
        send_lag_p99=round(_send_lag(measured), 6) if plan.load.is_open else 0.0,
        send_lag_limit=round(max(SEND_LAG_LIMIT_S, SEND_LAG_SHARE * median), 6),
        target_rate=target,
        achieved_rate=achieved,
        samples=sum(record.status not in UNFINISHED for record in measured),
        server_restarts=evidence.server_restarts,
        workers_lost=evidence.workers_lost,
    )
    return check, [*_client(check, spans_seen=bool(lags)), *_load(check, window), *_server(check, evidence)]


def _client(check: SelfCheck, *, spans_seen: bool) -> list[str]:
    found: list[str] = []
    if check.workers_lost:
        found.append(
            f"{check.workers_lost} of the load's own workers died: part of the load was not made or not recorded"
        )
    if not spans_seen:
        found.append("the load's workers did not report on themselves")
    if check.loop_lag_p99 > LAG_LIMIT_S:
        found.append(
            f"the client saw events up to {_ms(check.loop_lag_p99)} late (p99; limit {_ms(LAG_LIMIT_S)}): "
            + ("use more --workers" if check.cpu > CPU_LIMIT / 2 else "this machine is too busy with other work")
        )
    if check.cpu > CPU_LIMIT:
        found.append(
            f"a worker of the load used {check.cpu:.0%} of a core (limit {CPU_LIMIT:.0%}): "
            "use more --workers, or less load"
        )
    if check.send_lag_p99 > check.send_lag_limit:
        found.append(
            f"requests were sent {_ms(check.send_lag_p99)} after their time (p99; limit {_ms(check.send_lag_limit)}): "
            "the client could not keep its own schedule"
        )
    return found


def _load(check: SelfCheck, window: Window) -> list[str]:
    found: list[str] = []
    if check.target_rate and check.achieved_rate is not None:
        missed = abs(check.target_rate - check.achieved_rate)
        if missed > max(RATE_TOLERANCE * check.target_rate, 2.5 / max(window.seconds, 1e-9)):
            found.append(
                f"{check.achieved_rate:.2f} requests per second were sent where {check.target_rate:.2f} were due "
                f"(tolerance {RATE_TOLERANCE:.0%})"
            )
    if check.samples < MIN_SAMPLES:
        found.append(
            f"only {check.samples} requests were measured in {seconds(window.seconds)} (at least {MIN_SAMPLES}): "
            "a longer --duration, or shorter answers (--osl)"
        )
    return found


def _server(check: SelfCheck, evidence: Evidence) -> list[str]:
    found: list[str] = []
    if check.server_restarts:
        found.append(f"the server restarted during the run ({check.server_restarts} times)")
    if evidence.mock_late_p99 is not None and evidence.mock_late_p99 > LATE_SERVER_S:
        found.append(
            f"the stand-in server sent tokens {_ms(evidence.mock_late_p99)} late (p99; limit {_ms(LATE_SERVER_S)}): "
            "its schedule is no measure on a machine this busy"
        )
    return found


def _send_lag(measured: Sequence[Record]) -> float:
    """p99 of t_send − t_intended over what the schedule (not a conversation's answer) timed."""
    lags = sorted(r.t_send - r.t_intended for r in measured if r.t_send is not None and r.turn == 0)
    return quantile(lags, 0.99)


def _rates(plan: Plan, records: Sequence[Record], window: Window) -> tuple[float | None, float | None]:
    """(due, sent) conversations per second of the window; None for closed loads."""
    if not plan.load.is_open or window.seconds <= 0:
        return None, None
    first = [record for record in records if record.turn == 0]
    due = sum(window.start <= record.t_intended < window.end for record in first)
    sent = sum(record.t_send is not None and window.start <= record.t_send < window.end for record in first)
    return due / window.seconds, sent / window.seconds


def _cpu(ended: Ended, window: Window) -> float:
    used = [one.cpu for one in ended.seconds if window.start < one.at <= window.end + 1]
    return sum(used) / len(used) if used else 0.0


def quantile(ordered: Sequence[float], q: float) -> float:
    """The smallest value with at least `q` of all at or below it; 0 when there is none."""
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)] if ordered else 0.0


def _ms(value: float) -> str:
    return f"{value * 1000:.1f} ms"


def remarks(plan: Plan, records: Sequence[Record]) -> list[str]:
    """What a reader should know though the run is valid."""
    target, found = plan.target, list[str]()
    done = [record for record in records if record.status == "ok" and not record.warmup]
    if not target.takes_usage or (done and all(record.n_out is None for record in done)):
        found.append("the server tells no usage: token counts are n/a (chunks are not tokens)")
    if plan.workload.ignore_eos and not target.takes_ignore_eos:
        found.append("the server refuses ignore_eos: answers end where the model ends them")
    counted = [(r.n_out, r.want_out) for r in done if r.n_out is not None and r.want_out]
    off = sum(abs(out - want) > 0.05 * want for out, want in counted)
    if off:
        found.append(f"{off} of {len(counted)} answers were more than 5 % shorter or longer than asked for")
    again = sum(record.resent for record in records if not record.warmup)
    if again:
        found.append(f"{again} requests were sent again: the server closed idle connections as they were used")
    told = [(r.n_in, r.n_cached or 0) for r in done if r.n_in]
    if (cached := sum(hit for _, hit in told)) and not plan.workload.prefixes:
        share = cached / sum(length for length, _ in told)
        if share > 0.05:
            found.append(f"{share:.0%} of the prompt tokens came from the server's prefix cache")
    return found
