"""What the gateway counts, as plain numbers on the hot path and as Prometheus families when it is scraped."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from dsctl.gateway.desk import Desk

# The edges engines use for the same quantities, so that quantiles can be compared.
TTFT_EDGES = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
    640,
    2560,
)
ITL_EDGES = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
LONG_EDGES = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
GAP_EDGES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 5, 10, 30, 60)
HEALTH_STATES = ("starting", "healthy", "suspect", "dead")


class Histogram:
    """Counts of observations between fixed edges (seconds)."""

    __slots__ = ("_counts", "_edges", "total")

    def __init__(self, edges: tuple[float, ...]) -> None:
        self._edges = edges
        self._counts = [0] * (len(edges) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._edges, value)] += 1
        self.total += value

    def family(self, name: str, text: str) -> Metric:
        """As a Prometheus histogram."""
        buckets: list[tuple[str, float]] = []
        running = 0
        for edge, count in zip((*map(str, self._edges), "+Inf"), self._counts, strict=True):
            running += count
            buckets.append((edge, running))
        family = HistogramMetricFamily(name, text)
        family.add_metric([], buckets, self.total)
        return family


class Metrics(Collector):
    """All counters of one gateway."""

    def __init__(self, desk: Desk) -> None:
        self.requests: Counter[tuple[str, str, str]] = Counter()  # (route, status, outcome)
        self.retries: Counter[str] = Counter()
        self.continuations: Counter[str] = Counter()
        self.shed: Counter[str] = Counter()
        self.tokens = 0
        self.disconnects = 0
        self.ttft = Histogram(TTFT_EDGES)
        self.itl = Histogram(ITL_EDGES)
        self.e2e = Histogram(LONG_EDGES)
        self.queue_wait = Histogram(LONG_EDGES)
        self.gap = Histogram(GAP_EDGES)
        self.loop_lag = 0.0
        self._desk = desk
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing is known before the first scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All families."""
        requests = CounterMetricFamily("dsctl_requests", "Requests ended", labels=["route", "code", "outcome"])
        for (route, code, outcome), count in self.requests.items():
            requests.add_metric([route, code, outcome], count)
        yield requests
        yield _counter("dsctl_retries", "Attempts after the first", "phase", self.retries)
        yield _counter("dsctl_continuations", "Streams continued on another attempt", "result", self.continuations)
        yield _counter("dsctl_shed", "Requests refused before a replica saw them", "reason", self.shed)
        yield CounterMetricFamily("dsctl_tokens", "Tokens delivered", value=self.tokens)
        yield CounterMetricFamily("dsctl_client_disconnects", "Clients that left early", value=self.disconnects)
        yield self.ttft.family("dsctl_ttft_seconds", "Time to the first token")
        yield self.itl.family("dsctl_itl_seconds", "Time between token events")
        yield self.e2e.family("dsctl_e2e_seconds", "Duration of requests that were served")
        yield self.queue_wait.family("dsctl_queue_wait_seconds", "Time without a replica before an attempt")
        yield self.gap.family("dsctl_stream_gap_seconds", "Longest gap of streams that were continued")
        yield GaugeMetricFamily("dsctl_event_loop_lag_seconds", "Lateness of the last tick", value=self.loop_lag)
        yield from self._state()

    def _state(self) -> Iterator[Metric]:
        desk = self._desk
        yield GaugeMetricFamily("dsctl_inflight_requests", "Requests being served", value=len(desk.sessions))
        yield GaugeMetricFamily("dsctl_queue_depth", "Requests held without a replica", value=len(desk.held))
        yield GaugeMetricFamily(
            "dsctl_config_generation", "Generation of the replica table", value=desk.table.generation
        )
        yield CounterMetricFamily("dsctl_config_refused", "Replica tables refused", value=desk.table.refused)
        state = GaugeMetricFamily("dsctl_replica_state", "1 for the state a replica is in", labels=["replica", "state"])
        tokens = GaugeMetricFamily("dsctl_inflight_tokens", "Estimated tokens placed", labels=["replica"])
        deaths = CounterMetricFamily("dsctl_failovers", "Times a replica was judged dead", labels=["replica"])
        breaker = GaugeMetricFamily("dsctl_breaker_state", "2 while a replica is shunned, else 0", labels=["replica"])
        offered = CounterMetricFamily("dsctl_canary_offered", "Requests a canary could have had", labels=["replica"])
        taken = CounterMetricFamily("dsctl_canary_requests", "Requests that began on a canary", labels=["replica"])
        for name, replica in desk.fleet.replicas.items():
            for possible in HEALTH_STATES:
                state.add_metric([name, possible], float(replica.shown_state == possible))
            tokens.add_metric([name], replica.inflight_tokens)
            deaths.add_metric([name], replica.deaths)
            breaker.add_metric([name], 2.0 if replica.breaker.is_open else 0.0)
            if replica.split.offered:
                offered.add_metric([name], replica.split.offered)
                taken.add_metric([name], replica.split.taken)
        yield offered
        yield taken
        yield state
        yield tokens
        yield deaths
        yield breaker


def _counter(name: str, text: str, label: str, counts: Counter[str]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
