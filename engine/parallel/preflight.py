"""Do processes of this machine hear each other? `python -m engine.parallel.preflight` finds out, by a deadline."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the parent of the ranks does without torch
    from torch import Tensor

    from engine.parallel.collectives import Group

MIB = 1 << 20
TIMED_BYTES = 8 * MIB
ROUNDS = 3
STAGES = ("joined", "sum", "gather", "exchange", "done")
PATIENCE_S = 5.0  # for the others, once one has failed: their own words may tell more
Command = Callable[[int], list[str]]


@dataclass(frozen=True, slots=True)
class Said:
    """What became of one rank: the last stage it reached, its exit code (None: ended by us), its last words."""

    rank: int
    stage: str
    code: int | None
    words: str
    rate: float = 0.0  # bytes a second it received in the timed gathers


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all ranks computed the right sums. 1: wrong or too late, in words. 3: there is nothing to test here."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--ranks", type=int, default=2)
    asked.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    asked.add_argument("--deadline", type=float, default=60.0)
    asked.add_argument("--rank", type=int)
    asked.add_argument("--store", default="")
    wish = asked.parse_args(arguments)
    if wish.rank is not None:
        _rank(wish.rank, wish.ranks, wish.device, wish.store)
        return 0
    if wish.ranks < 2:
        sys.stdout.write("fewer than two ranks have nobody to talk to\n")
        return 3
    with tempfile.TemporaryDirectory(prefix="dsctl-ranks-") as place:
        said = gather(wish.ranks, own_command(wish.ranks, wish.device, place), place, wish.deadline)
    is_right, words = verdict(said, wish.device)
    sys.stdout.write(words + "\n")
    return 0 if is_right else 1


def own_command(ranks: int, device: str, place: str) -> Command:
    """The command of each rank."""
    return lambda rank: [
        sys.executable, "-m", "engine.parallel.preflight", "--rank", str(rank), "--ranks", str(ranks),
        "--device", device, "--store", f"{place}/store",
    ]  # fmt: skip


def gather(ranks: int, command: Command, place: str, deadline_s: float) -> list[Said]:
    """Runs all ranks until they end or the deadline passes; none outlives it."""
    environ = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    ends = time.monotonic() + deadline_s
    running: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(ranks):
            with Path(place, f"{rank}.out").open("wb") as out, Path(place, f"{rank}.err").open("wb") as err:
                running.append(subprocess.Popen(command(rank), stdout=out, stderr=err, env=environ))
        while (now := time.monotonic()) < ends and any(one.poll() is None for one in running):
            if any(one.poll() for one in running):
                ends = min(ends, now + PATIENCE_S)
            time.sleep(0.05)
    finally:
        codes = [one.poll() for one in running]
        for one in running:
            one.kill()
            one.wait()
    return [_said(rank, code, Path(place)) for rank, code in enumerate(codes)]


def _said(rank: int, code: int | None, place: Path) -> Said:
    stage, rate = "", 0.0
    for line in (place / f"{rank}.out").read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            told = json.loads(line)
            stage, rate = str(told["stage"]), float(told.get("rate", 0.0))
        except (ValueError, KeyError, TypeError):
            continue
    words = (place / f"{rank}.err").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return Said(rank, stage, code, words[-1][:300] if words else "", rate)


def verdict(said: Sequence[Said], device: str) -> tuple[bool, str]:
    """(all is right, in words): the ranks that are furthest behind are the ones to look at."""
    how = "NCCL" if device == "cuda" else "Gloo"
    if all(one.stage == STAGES[-1] and one.code == 0 for one in said):
        rate = min(one.rate for one in said)
        return True, f"{len(said)} ranks agree over {how}: {rate / 1e6:.0f} MB/s gathered by the slowest"
    reached = {one.rank: STAGES.index(one.stage) if one.stage in STAGES else -1 for one in said}
    failed = [one for one in said if one.code not in (0, None)]
    least = min(reached.values())
    behind = failed or [one for one in said if reached[one.rank] == least]
    return False, f"over {how}: " + "; ".join(_words(one) for one in behind)


def _words(one: Said) -> str:
    where = f"after '{one.stage}'" if one.stage else "before it joined"
    how = "did not get further in time" if one.code is None else f"ended with {one.code}"
    return f"rank {one.rank} {how} {where}" + (f" ({one.words})" if one.words else "")


def _tell(stage: str, **more: float) -> None:
    sys.stdout.write(json.dumps({"stage": stage, **more}) + "\n")
    sys.stdout.flush()


def _rank(rank: int, ranks: int, device: str, store: str) -> None:
    """One rank: joins, then does what the engine does between ranks, and compares with what must come out."""
    import torch
    import torch.distributed as dist

    from engine.parallel.collectives import Group

    if device == "cuda":
        torch.cuda.set_device(rank)
    else:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=ranks)
    _tell("joined")
    group = Group(rank, ranks)

    def full(value: float, rows: int = 4) -> torch.Tensor:
        return torch.full((rows, 64), value, device=device)

    _require(group.sum(full(rank + 1.0)), full(ranks * (ranks + 1) / 2), "the sum")
    _tell("sum")
    for other, part in enumerate(group.gather(full(float(rank)))):
        _require(part, full(float(other)), f"what rank {other} sent")
    _tell("gather")
    counts = [other + 1 for other in range(ranks)]
    expected = torch.cat([full(float(other), count) for other, count in enumerate(counts)])
    _require(group.exchange(full(float(rank), rank + 1), counts), expected, "the exchanged rows")
    _tell("exchange")
    rate = _rate(group, torch.zeros(TIMED_BYTES // 4, device=device), ranks)
    dist.barrier()
    _tell("done", rate=rate)
    dist.destroy_process_group()


def _require(found: Tensor, expected: Tensor, what: str) -> None:
    if not bool((found == expected).all()):
        raise SystemExit(f"{what} arrived wrong")


def _rate(group: Group, block: Tensor, ranks: int) -> float:
    """Bytes a second that arrive while all ranks give their block to all; the best of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        parts = group.gather(block)
        float(parts[-1][-1])  # a card has computed it when it can be read
        best = min(best, time.perf_counter() - began)
    return TIMED_BYTES * (ranks - 1) / max(best, 1e-9)


if __name__ == "__main__":
    sys.exit(main())
