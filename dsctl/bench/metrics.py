"""What is measured of a request and of a run: each metric with its formula, computed from the raw records alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsctl.bench import statistics
from dsctl.bench.records import FAILED, UNFINISHED, Record, Window
from dsctl.bench.statistics import Values

DEFINITIONS_VERSION = 1  # raised when a formula below changes: runs of different versions are not comparable
SUMMARY_KEYS = ("n", "mean", "std", "min", "p50", "p90", "p95", "p99", "p999", "max")


def ttft(record: Record) -> float | None:
    """Time to first token from the moment the request was sent, seconds."""
    return _between(record.t_send, record.t_first)


def ttft_sched(record: Record) -> float | None:
    """Time to first token from the moment the schedule wanted the request sent, seconds."""
    return _between(record.t_intended, record.t_first)


def ttft_visible(record: Record) -> float | None:
    """Time to the first token a reader sees (after the reasoning), seconds."""
    return _between(record.t_send, record.t_content)


def tpot(record: Record) -> float | None:
    """Time per output token after the first event, seconds; None below one such token or without the server's count."""
    if record.n_out is None or record.n_out <= record.n_first:
        return None
    whole = _between(record.t_first, record.t_last)
    return None if whole is None else whole / (record.n_out - record.n_first)


def e2e(record: Record) -> float | None:
    """From sent to the last token, seconds."""
    return _between(record.t_send, record.t_last)


def e2e_sched(record: Record) -> float | None:
    """From the scheduled moment to the last token, seconds."""
    return _between(record.t_intended, record.t_last)


def stream_close(record: Record) -> float | None:
    """From the last token to the stream's end, seconds."""
    return _between(record.t_last, record.t_close)


def connect(record: Record) -> float | None:
    """Making the connection, where a new one was made, seconds."""
    return record.t_connect


def gaps(record: Record) -> Sequence[float]:
    """Seconds between one token event and the next."""
    return record.gaps


def token_gaps(record: Record) -> Sequence[float]:
    """Seconds a token took where every event told its tokens: an event's gap divided evenly among its tokens."""
    if record.counts is None:
        return ()
    pairs = zip(record.gaps, record.counts[1:], strict=False)
    return [gap / count for gap, count in pairs if count > 0 for _ in range(count)]


@dataclass(frozen=True, slots=True)
class Metric:
    """A name, the formula as it is printed, and the function that computes it (one value a request, or many)."""

    name: str
    formula: str
    one: Callable[[Record], float | None] | None = None
    many: Callable[[Record], Sequence[float]] | None = None
    counts_failures: bool = False  # has an `_all` form in which a failed request is +∞


METRICS: tuple[Metric, ...] = (
    Metric(
        "ttft_sched", "t_first − t_intended; t_first: first content, reasoning or tool arguments",
        ttft_sched, counts_failures=True,
    ),
    Metric("ttft", "t_first − t_send", ttft, counts_failures=True),
    Metric("ttft_visible", "t_content − t_send; t_content: first visible content", ttft_visible),
    Metric(
        "tpot", "(t_last − t_first) / (n_out − n_first); n_out: the server's usage; undefined below one token more",
        tpot, counts_failures=True,
    ),
    Metric("itl", "time between tokens, where each event tells its tokens: gap / tokens of the event", many=token_gaps),
    Metric("icl", "time between token events (chunks), all requests together", many=gaps),
    Metric("e2e_sched", "t_last − t_intended", e2e_sched, counts_failures=True),
    Metric("e2e", "t_last − t_send", e2e, counts_failures=True),
    Metric("connect", "making a new connection, where one was made (part of ttft)", connect),
    Metric("stream_close", "t_close − t_last", stream_close),
)  # fmt: skip
BY_NAME = {metric.name: metric for metric in METRICS}
FORMULAS: dict[str, str] = {
    **{metric.name: metric.formula for metric in METRICS},
    "*_all": "the same with every failed, unsent or unfinished request as +∞",
    "percentiles": "an observed value (inverted CDF), shown only when n ≥ 10 / (1 − p)",
    "attainment": "requests that meet every limit / (completed + failed + unfinished + unsent)",
    "goodput": "requests that meet every limit / seconds of the window",
    "output_tokens_per_s": "tokens by the server's usage, as their events arrive within the window / its seconds",
    "input_tokens_per_s": "prompt tokens of requests whose first token arrived within the window / its seconds",
    "requests_per_s": "requests whose last token arrived within the window / its seconds",
    "token_events_per_s": "token events (chunks) within the window / its seconds",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """The requests a window measures: those that ended well, and how the others ended."""

    ok: tuple[Record, ...]
    bad: tuple[Record, ...]  # failed, unsent, or not finished when the run ended: they count as missed, and as +∞
    left: tuple[Record, ...]  # the workload's client went away on purpose: neither good nor bad

    @property
    def attempted(self) -> int:
        """The denominator of attainment."""
        return len(self.ok) + len(self.bad)


def sample(records: Iterable[Record], window: Window) -> Sample:
    """The measured requests: no warm-up, scheduled within the window."""
    ok: list[Record] = []
    bad: list[Record] = []
    left: list[Record] = []
    for record in records:
        if not record.warmup and window.start <= record.t_intended < window.end:
            fate = ok if record.status == "ok" else left if record.status == "left" else bad
            fate.append(record)
    return Sample(tuple(ok), tuple(bad), tuple(left))


def counts(records: Iterable[Record], found: Sample) -> dict[str, int]:
    """How many requests ended how, of those that are measured; warm-up beside them."""
    statuses = ("ok", *sorted(FAILED), *sorted(UNFINISHED), "left")
    told = dict.fromkeys(statuses, 0)
    for record in (*found.ok, *found.bad, *found.left):
        told[record.status] = told.get(record.status, 0) + 1
    told["measured"] = found.attempted + len(found.left)
    told["warmup"] = sum(1 for record in records if record.warmup)
    told["tpot_undefined"] = sum(1 for record in found.ok if tpot(record) is None)
    told["usage_missing"] = sum(1 for record in found.ok if record.n_out is None)
    return told


def values(metric: Metric, records: Iterable[Record]) -> Values:
    """All values of a metric, unsorted; empty where the records do not tell it."""
    if metric.one is not None:
        one = metric.one
        return np.asarray([value for record in records if (value := one(record)) is not None], dtype=np.float64)
    if metric.many is None:
        return np.empty(0)
    lists = [np.asarray(metric.many(record), dtype=np.float64) for record in records]
    return np.concatenate(lists) if lists else np.empty(0)


def summary(found: Values, lost: int = 0, *, independent: bool = True) -> dict[str, Any]:
    """n, mean, std, min, percentiles, max, and 95 % intervals; what n is too small for is None, +∞ is "inf".

    `lost` failed requests are +∞: mean and std are then None, since no mean exists. `independent` is False where values
    of one request hang together (gaps): an interval that took them for independent would be too narrow.
    """
    ordered = statistics.ordered(found, lost)
    n = len(ordered)
    told: dict[str, Any] = dict.fromkeys(SUMMARY_KEYS)
    told["n"] = n
    if n == 0:
        return {**told, "ci95": {}}
    if not lost:
        told["mean"] = float(ordered.mean())
        told["std"] = float(ordered.std(ddof=1)) if n > 1 else None
    told["min"], told["max"] = number(float(ordered[0])), number(float(ordered[-1]))
    intervals: dict[str, Any] = {}
    for name, mille in statistics.PERCENTILES.items():
        told[name] = number(statistics.percentile(ordered, mille))
        interval = statistics.percentile_interval(ordered, mille) if independent else None
        if interval is not None:
            intervals[name] = [number(interval[0]), number(interval[1])]
    mean = statistics.mean_interval(ordered) if independent and not lost else None
    if mean is not None:
        intervals["mean"] = list(mean)
    return {**told, "ci95": intervals}


def summaries(found: Sample) -> dict[str, dict[str, Any]]:
    """The summary of every metric that has a value, and of its `_all` form."""
    told: dict[str, dict[str, Any]] = {}
    for metric in METRICS:
        gathered = values(metric, found.ok)
        if len(gathered):
            told[metric.name] = summary(gathered, independent=metric.one is not None)
        if metric.counts_failures and (len(gathered) or found.bad):
            told[f"{metric.name}_all"] = summary(gathered, len(found.bad))
    return told


@dataclass(frozen=True, slots=True)
class Events:
    """What arrived when, over all requests: token events with their tokens (nan: never told), first tokens, ends."""

    times: Values
    tokens: Values
    first_times: Values
    prompt_tokens: Values  # nan: never told
    done_times: Values

    @classmethod
    def of(cls, records: Iterable[Record]) -> Events:
        """Whoever's requests they are (warm-up too: the server served them in that time)."""
        rows = [record for record in records if record.t_first is not None]
        times = [np.asarray(row.arrivals()) for row in rows]
        tokens = [_told(tokens_of_events(row), len(when)) for row, when in zip(rows, times, strict=True)]
        return cls(
            np.concatenate(times) if times else np.empty(0),
            np.concatenate(tokens) if tokens else np.empty(0),
            np.asarray([row.t_first for row in rows], dtype=np.float64),
            np.asarray([np.nan if row.n_in is None else row.n_in for row in rows], dtype=np.float64),
            np.asarray([row.t_last for row in rows if row.status == "ok" and row.t_last is not None], dtype=np.float64),
        )

    def rates(self, edges: Values) -> dict[str, Values]:
        """Each rate per second in each span between two edges."""
        widths = np.diff(edges)
        known = ~np.isnan(self.tokens)
        prompts = np.nan_to_num(self.prompt_tokens)
        sums = {
            "requests_per_s": _sums(self.done_times, edges),
            "output_tokens_per_s": _sums(self.times[known], edges, self.tokens[known]),
            "input_tokens_per_s": _sums(self.first_times, edges, prompts),
            "token_events_per_s": _sums(self.times, edges),
        }
        return {name: found / widths for name, found in sums.items()}


def _told(tokens: Values | None, events: int) -> Values:
    return np.full(events, np.nan) if tokens is None else tokens


def _sums(times: Values, edges: Values, weights: Values | None = None) -> Values:
    """The sum of weights in each half-open span [edge, next edge)."""
    places = np.searchsorted(edges, times, side="right") - 1
    inside = (places >= 0) & (places < len(edges) - 1)
    chosen = None if weights is None else weights[inside]
    return np.bincount(places[inside], chosen, minlength=len(edges) - 1).astype(np.float64)


def throughput(records: Iterable[Record], window: Window) -> dict[str, Any]:
    """Rates within the window; None where it has no length, and for tokens where the server told no count.

    Tokens are the server's counts. `tokens_unknown_events` came from requests whose count never came (cut, left, usage
    refused): they are in no token rate, which is then a lower bound.
    """
    names = ("requests_per_s", "output_tokens_per_s", "input_tokens_per_s", "token_events_per_s")
    if window.seconds <= 0:
        return {**dict.fromkeys(names), "tokens_unknown_events": 0}
    events = Events.of(records)
    told: dict[str, Any] = {
        name: float(found[0]) for name, found in events.rates(np.asarray([window.start, window.end])).items()
    }
    lost = np.isnan(events.tokens)
    if bool(lost.all()):
        told["output_tokens_per_s"] = None
    if bool(np.isnan(events.prompt_tokens).all()):
        told["input_tokens_per_s"] = None
    inside = (events.times >= window.start) & (events.times < window.end)
    told["tokens_unknown_events"] = int((lost & inside).sum())
    return told


def tokens_of_events(record: Record) -> Values | None:
    """Tokens of each event: told by each, or the server's total spread evenly after the first; None without a total."""
    if record.counts is not None and len(record.counts) == len(record.gaps) + 1:
        return np.asarray(record.counts, dtype=np.float64)
    if record.n_out is None or record.t_first is None:
        return None
    events = len(record.gaps) + 1
    if events == 1:
        return np.asarray([float(record.n_out)])
    first = min(record.n_first, record.n_out)
    return np.concatenate([[float(first)], np.full(events - 1, (record.n_out - first) / (events - 1))])


def number(value: float | None) -> float | str | None:
    """A value as JSON can hold it: +∞ is the string "inf"."""
    return "inf" if value == float("inf") else value


def real(value: float | str | None) -> float | None:
    """The inverse of `number`."""
    return float(value) if isinstance(value, str) else value


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else end - start
