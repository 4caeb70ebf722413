"""Prometheus metrics under vLLM's names and bucket edges, so that existing dashboards work."""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from engine.server.generation import Choice, Generation
from engine.server.ledger import Ledger, LedgerLine, hash_ids
from engine.spec.config import EngineConfig
from engine.wire.messages import Beat, Ready, Step

LABELS = ("model_name", "engine")
_FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)  # fmt: skip
_BETWEEN_TOKENS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
)  # fmt: skip
_LATENCY = (
    0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
)  # fmt: skip
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


def one_two_five(highest: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, 50 … up to `highest`."""
    edges: list[int] = []
    decade = 1
    while True:
        for factor in (1, 2, 5):
            if factor * decade > highest:
                return tuple(edges) or (1,)
            edges.append(factor * decade)
        decade *= 10


class _BeatCounters(Collector):
    """Counters kept by the core; added up over cores, since each begins at zero."""

    def __init__(self, labels: dict[str, str]) -> None:
        self._labels = labels
        self._before = [0, 0, 0]
        self._now = [0, 0, 0]
        self._epoch = 0

    def note(self, beat: Beat) -> None:
        if beat.epoch != self._epoch:
            self._before = [old + new for old, new in zip(self._before, self._now, strict=True)]
            self._epoch = beat.epoch
        self._now = [beat.preemptions, beat.prefix_queries, beat.prefix_hits]

    def collect(self) -> Iterable[Metric]:
        names = (
            ("vllm:num_preemptions", "Sequences preempted."),
            ("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache."),
            ("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache."),
        )
        for (name, text), old, new in zip(names, self._before, self._now, strict=True):
            family = CounterMetricFamily(name, text, labels=list(LABELS))
            family.add_metric([self._labels[label] for label in LABELS], old + new)
            yield family


class Metrics:
    """All metrics of one API process, and the ledger: both observe the same events (Observer of a Generation)."""

    def __init__(self, model_name: str, engine: str, max_model_len: int, ledger: Ledger) -> None:
        disable_created_metrics()
        self._ledger = ledger
        self.registry = CollectorRegistry()
        self._labels = {"model_name": model_name, "engine": engine}
        self._beat_counters = _BeatCounters(self._labels)
        self.registry.register(self._beat_counters)
        ProcessCollector(registry=self.registry)
        self._running = self._gauge("vllm:num_requests_running", "Sequences in the running batch.")
        self._waiting = self._gauge("vllm:num_requests_waiting", "Sequences that wait.")
        self._usage = self._gauge("vllm:kv_cache_usage_perc", "Share of the cache in use, 0 … 1.")
        self._restarts = self._gauge("dsctl_core_restarts", "Cores that ended since this process began.")
        self._epoch = self._gauge("dsctl_core_epoch", "Number of the present core.")
        self._prompt_tokens = self._counter("vllm:prompt_tokens", "Prompt tokens computed.")
        self._generation_tokens = self._counter("vllm:generation_tokens", "Tokens generated.")
        self._success = self._counter("vllm:request_success", "Sequences ended.", "finished_reason")
        self._rejections = self._counter("vllm:admission_rejections", "Requests refused.", "reason")
        self._ttft = self._histogram("vllm:time_to_first_token_seconds", _FIRST_TOKEN)
        self._itl = self._histogram("vllm:inter_token_latency_seconds", _BETWEEN_TOKENS)
        self._tpot = self._histogram("vllm:request_time_per_output_token_seconds", _BETWEEN_TOKENS)
        self._e2e = self._histogram("vllm:e2e_request_latency_seconds", _LATENCY)
        self._queue = self._histogram("vllm:request_queue_time_seconds", _LATENCY)
        self._prefill = self._histogram("vllm:request_prefill_time_seconds", _LATENCY)
        self._decode = self._histogram("vllm:request_decode_time_seconds", _LATENCY)
        self._inference = self._histogram("vllm:request_inference_time_seconds", _LATENCY)
        lengths = one_two_five(max_model_len)
        self._request_prompt = self._histogram("vllm:request_prompt_tokens", lengths)
        self._request_generation = self._histogram("vllm:request_generation_tokens", lengths)
        self._max_tokens = self._histogram("vllm:request_params_max_tokens", lengths)
        self._n = self._histogram("vllm:request_params_n", (1, 2, 5, 10, 20))
        self._step_tokens = self._histogram("vllm:iteration_tokens_total", _STEP_TOKENS)
        self._step_time = self._histogram("dsctl_step_seconds", _BETWEEN_TOKENS)
        self._step_expected = self._histogram("dsctl_step_expected_seconds", _BETWEEN_TOKENS)
        self._chunk = self._histogram("dsctl_prompt_chunk_tokens", _STEP_TOKENS)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)

    def on_ready(self, ready: Ready, config: EngineConfig) -> None:
        """Publish the shape of the cache, once."""
        if "vllm:cache_config_info" in {metric.name for metric in self.registry.collect()}:
            return
        info = {
            "block_size": ready.block_size,
            "num_gpu_blocks": ready.kv_total_tokens // ready.block_size,
            "enable_prefix_caching": config.enable_prefix_cache,
            "cache_dtype": config.dtype,
        }
        labels = self._labels | {name: str(value) for name, value in info.items()}
        Gauge("vllm:cache_config_info", "Shape of the cache.", list(labels), registry=self.registry).labels(
            **labels
        ).set(1)

    def on_beat(self, beat: Beat, total_tokens: int, restarts: int) -> None:
        """The core's own figures."""
        self._beat_counters.note(beat)
        self._running.set(beat.running)
        self._waiting.set(beat.waiting)
        self._usage.set(1.0 - beat.free_tokens / total_tokens if total_tokens else 0.0)
        self._restarts.set(restarts)
        self._epoch.set(beat.epoch)

    def on_step(self, step: Step) -> None:
        """One step of the core."""
        self._prompt_tokens.inc(step.prompt_tokens)
        self._step_tokens.observe(step.prompt_tokens + step.output_tokens)
        self._step_time.observe(step.seconds)
        if step.expected_s:
            self._step_expected.observe(step.expected_s)
        if step.prompt_tokens:
            self._chunk.observe(step.prompt_tokens)

    def on_rejection(self, reason: str) -> None:
        """A request was refused at the door."""
        self._rejections.labels(**self._labels, reason=reason).inc()

    def on_request(self, generation: Generation) -> None:
        """A request was admitted."""
        self._n.observe(generation.query.n)
        for choice in generation.choices:
            self._max_tokens.observe(choice.sequence.submit.sampling.max_tokens)

    def on_tokens(self, generation: Generation, choice: Choice, count: int) -> None:
        """Observer."""
        now = time.monotonic()
        if choice.first_at is None:
            choice.first_at = now
            self._ttft.observe(now - generation.arrived_at)
        elif choice.last_at is not None:
            self._itl.observe(now - choice.last_at)
        choice.last_at = now
        self._generation_tokens.inc(count)

    def on_choice_end(self, generation: Generation, choice: Choice) -> None:
        """Observer."""
        now = time.monotonic()
        tokens = choice.text.count
        self._success.labels(**self._labels, finished_reason=choice.finished or "abort").inc()
        self._e2e.observe(now - generation.arrived_at)
        self._request_prompt.observe(len(choice.prompt.ids))
        self._request_generation.observe(tokens)
        if choice.first_at is not None:
            queue_s = choice.queue_s or 0.0
            waited = choice.first_at - generation.arrived_at
            self._queue.observe(queue_s)
            self._prefill.observe(max(0.0, waited - queue_s))
            self._decode.observe(now - choice.first_at)
            self._inference.observe(max(0.0, now - generation.arrived_at - queue_s))
            if tokens > 1:
                self._tpot.observe((now - choice.first_at) / (tokens - 1))
        self._write_ledger(generation, choice)

    def _write_ledger(self, generation: Generation, choice: Choice) -> None:
        if self._ledger.is_on:
            ids = choice.sequence.ids[: choice.text.count]
            line = LedgerLine(
                id=generation.ticket.id,
                choice=choice.index,
                attempt=generation.ticket.attempt,
                ids_sha256=hash_ids(ids),
                tokens=len(ids),
                finished=choice.finished or "abort",
                epoch=choice.sequence.epoch,
            )
            self._ledger.write(line)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, LABELS, registry=self.registry).labels(**self._labels)

    def _counter(self, name: str, text: str, *extra: str) -> Counter:
        counter = Counter(name, text, (*LABELS, *extra), registry=self.registry)
        return counter if extra else counter.labels(**self._labels)

    def _histogram(self, name: str, edges: tuple[float, ...]) -> Histogram:
        text = name.removeprefix("vllm:").removeprefix("dsctl_").replace("_", " ") + "."
        return Histogram(name, text, LABELS, buckets=edges, registry=self.registry).labels(**self._labels)
