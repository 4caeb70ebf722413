"""llama.cpp's benchmark programs: their command lines, what they print, and the search for its best settings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.engine_peers.processes import CORES, output
from benchmarks.engine_peers.shape import ANSWER, BATCHES, PROMPT

_FLASH = ("on", "off")
_MICRO_BATCHES = (128, 512, 2048)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user may turn to make llama.cpp faster on a processor."""

    threads: int = CORES
    flash: str = "on"
    micro_batch: int = 512
    repack: bool = True

    def bench(self) -> list[str]:
        """As llama-bench wants them."""
        return [
            *("-t", str(self.threads), "-fa", self.flash, "-ub", str(self.micro_batch)),
            *("--repack", str(int(self.repack)), "-b", "2048"),
        ]

    def common(self) -> list[str]:
        """As llama-batched-bench and llama-server want them."""
        words = ["-t", str(self.threads), "-tb", str(self.threads), "-fa", self.flash, "-ub", str(self.micro_batch)]
        return [*words, "-b", "2048", *([] if self.repack else ["--no-repack"])]


@dataclass(frozen=True, slots=True)
class Line:
    """One test of llama-bench."""

    prompt: int
    generated: int
    tokens_per_s: float


def parse_bench(text: str) -> list[Line]:
    """The JSON that llama-bench prints. Raises ValueError when there is none."""
    start = text.find("[")
    if start < 0:
        raise ValueError(f"llama-bench printed no results: {text[-500:]!r}")
    tests = json.loads(text[start:])
    return [Line(test["n_prompt"], test["n_gen"], float(test["avg_ts"])) for test in tests]


def parse_batched(text: str) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    """Decode and prefill tokens per second by number of sequences, from llama-batched-bench's JSON lines."""
    decode: dict[int, list[float]] = {}
    prefill: dict[int, list[float]] = {}
    for line in text.splitlines():
        if line.startswith("{"):
            test = json.loads(line)
            decode.setdefault(test["pl"], []).append(test["speed_tg"])
            prefill.setdefault(test["pl"], []).append(test["speed_pp"])
    if not decode:
        raise ValueError(f"llama-batched-bench printed no results: {text[-500:]!r}")
    return decode, prefill


def candidates(best: Settings) -> Iterable[tuple[str, list[Settings]]]:
    """One knob after the other, each with the best of those before: a bounded search."""
    yield "decode", [replace(best, threads=threads) for threads in sorted({1, max(1, CORES // 2), CORES})]
    yield "decode", [replace(best, flash=flash) for flash in _FLASH]
    yield "prefill", [replace(best, repack=repack) for repack in (True, False)]
    yield "prefill", [replace(best, micro_batch=size) for size in _MICRO_BATCHES]


@dataclass(frozen=True, slots=True)
class Llama:
    """One build of llama.cpp and one GGUF file."""

    programs: Path
    model: Path

    def sweep(self) -> tuple[Settings, list[str]]:
        """The best settings, and what was tried with its figures."""
        best, tried = Settings(), list[str]()
        for index in range(4):
            what, options = list(candidates(best))[index]
            speeds = [self._speed(what, option) for option in options]
            for option, speed in zip(options, speeds, strict=True):
                tried.append(f"{what} {speed:.1f} tok/s with {' '.join(option.bench())}")
            best = options[speeds.index(max(speeds))]
        return best, tried

    def best(self, *, again: bool = False) -> tuple[Settings, list[str]]:
        """The settings found by an earlier sweep of this file, or a new sweep."""
        remembered = self.model.with_suffix(".best.json")
        if remembered.exists() and not again:
            found = json.loads(remembered.read_text())
            return Settings(**found["settings"]), found["tried"]
        settings, tried = self.sweep()
        remembered.write_text(json.dumps({"settings": asdict(settings), "tried": tried}, indent=1))
        return settings, tried

    def _speed(self, what: str, settings: Settings) -> float:
        sizes = ("-p", "0", "-n", "48", "-d", str(PROMPT)) if what == "decode" else ("-p", "512", "-n", "0")
        return self._bench([*sizes, "-r", "2", *settings.bench()])[0].tokens_per_s

    def _bench(self, words: list[str]) -> list[Line]:
        return parse_bench(output([str(self.programs / "llama-bench"), "-m", str(self.model), "-o", "json", *words]))

    def one_prompt(self, settings: Settings, length: int, rounds: int) -> list[float]:
        """Prefill tokens per second of one prompt."""
        words = ["-p", str(length), "-n", "0", "-r", "1", *settings.bench()]
        return [self._bench(words)[0].tokens_per_s for _ in range(rounds)]

    def batches(self, settings: Settings, rounds: int) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
        """Decode and prefill by number of sequences, prompts of PROMPT tokens and ANSWER steps, random tokens."""
        counts = [rows for rows in BATCHES for _ in range(rounds if rows < 32 else max(1, rounds - 1))]
        words = ["-npp", str(PROMPT), "-ntg", str(ANSWER), "-npl", ",".join(map(str, counts))]
        words += ["-c", str(max(BATCHES) * 256), "--output-format", "jsonl", *settings.common()]
        return parse_batched(output([str(self.programs / "llama-batched-bench"), "-m", str(self.model), *words]))
