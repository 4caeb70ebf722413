"""The server's own metrics beside a run: a few gauges and counters every few seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any

EVERY_S = 2.0
WANTED = (
    "num_requests_running", "num_requests_waiting", "kv_cache_usage", "gpu_cache_usage", "prompt_tokens_total",
    "generation_tokens_total", "num_preemptions", "inflight", "requests_processing", "requests_deferred",
)  # fmt: skip


class Scraper:
    """Reads /metrics in a thread of its own while it is entered; what fails is left out, a gap is a gap."""

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._samples: list[dict[str, Any]] = []

    def __enter__(self) -> Scraper:
        self._over.clear()
        self._samples.clear()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(10)

    def since(self, start: float) -> list[dict[str, Any]]:
        """What was read, with times in seconds after `start` (on the monotonic clock)."""
        return [{**sample, "t": round(sample["t"] - start, 3)} for sample in self._samples]

    def _work(self) -> None:
        while not self._over.wait(EVERY_S):
            if found := chosen(self._read()):
                self._samples.append({"t": perf_counter(), **found})


def chosen(text: str) -> dict[str, float]:
    """The families worth plotting, each summed over its labels, from the text format of Prometheus."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if line.startswith("#") or not any(word in name for word in WANTED) or name.endswith(("_bucket", "_created")):
            continue
        try:
            value = float(line.rpartition("}")[2].split()[0] if "}" in line else line.split()[1])
        except (ValueError, IndexError):
            continue
        found[name] = found.get(name, 0.0) + value
    return found
