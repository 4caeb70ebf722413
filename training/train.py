"""Train dsctl-tiny: `python -m training.train --minutes 56 --threads 2 --seed 1 --out DIR`; resumes a state.

Each thread is a worker process with its own half of the batch: they meet twice a step, not at every operation, which
keeps both cores busy even when other programs run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from training import text, tokenizer
from training.data import Batch, Source, tokenizer_corpus
from training.export import export
from training.model import Layout, ModelConfig, Transformer
from training.optim import Optimizer, schedule

TOKENS, DRAFT_SHARE, DRAFT_WEIGHT = 4096, 8, 0.2
BIAS_STEP = 0.01  # large, as there are few steps; it shrinks with the learning rate
_PATIENCE = 900.0  # seconds a worker waits for another before it gives up


@dataclasses.dataclass(frozen=True, slots=True)
class Shared:
    """What the workers share: the weights, the optimizer, expert loads, losses, and the seconds trained so far."""

    model: Transformer
    optimizer: Optimizer
    loads: Tensor
    losses: Tensor
    seconds: Tensor
    barrier: Barrier


def loss(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of the next token, and of the draft on a part of the rows."""
    layout = model.layout(batch.positions, batch.documents)
    state = model(batch.tokens, layout)
    main = _cross_entropy(model, state, batch.targets)
    part = slice(0, max(1, batch.tokens.shape[0] // DRAFT_SHARE))
    small = Layout((layout.rope[0][part], layout.rope[1][part]), layout.visible[part])
    draft = model.draft(state[part], batch.tokens[part], batch.positions[part], small)
    return main, _cross_entropy(model, draft, batch.drafts[part])


def _cross_entropy(model: Transformer, state: Tensor, targets: Tensor) -> Tensor:
    chosen = (targets.flatten() >= 0).nonzero().squeeze(1)  # the head is costly: only where there is something to learn
    logits = model.lm_head(state.flatten(0, 1).index_select(0, chosen))
    return F.cross_entropy(logits, targets.flatten().index_select(0, chosen))


@torch.no_grad()
def balance(shared: Shared, step: float) -> float:
    """Move each bias against its expert's load (no auxiliary loss is needed); returns the worst load over the mean."""
    loads = shared.loads.sum(0)
    for moe, load in zip(shared.model.moe_layers(), loads, strict=True):
        moe.bias += step * torch.sign(load.mean() - load)
    return float((loads.max(-1).values / loads.mean(-1)).max())


def save_state(path: Path, shared: Shared, progress: dict[str, float]) -> None:
    """Everything needed to go on, written beside and renamed."""
    tensors = {f"model.{name}": tensor for name, tensor in shared.model.state_dict().items()}
    temporary = path.with_suffix(".new")
    save_file({**tensors, **shared.optimizer.state()}, temporary)
    temporary.replace(path)
    path.with_suffix(".json").write_text(json.dumps(progress))


def load_state(path: Path, shared: Shared) -> dict[str, float]:
    """Undo `save_state`; returns the progress."""
    tensors = load_file(path)
    progress = json.loads(path.with_suffix(".json").read_text())
    shared.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    shared.optimizer.load(tensors, int(progress["steps"]))
    return progress


def barrier(workers: int) -> Barrier:
    """Where the workers meet; one that waits in vain gets BrokenBarrierError."""
    return multiprocessing.get_context("fork").Barrier(workers, timeout=_PATIENCE)


def prepare(args: argparse.Namespace) -> tuple[Shared, Source, dict[str, float]]:
    """Tokenizer, weights and data, new or from the state in the folder."""
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    train_text, _ = text.documents()
    if not (out / "tokenizer.json").exists():
        tokenizer.save(tokenizer.train(tokenizer_corpus(train_text, args.seed)), out)
    tok = Tokenizer.from_file(str(out / "tokenizer.json"))
    model = Transformer(ModelConfig()).share_memory()
    shared = Shared(
        model=model,
        optimizer=Optimizer(model, args.threads, muon_lr=args.muon_lr, adam_lr=args.adam_lr),
        loads=torch.zeros(args.threads, len(model.moe_layers()), model.c.n_routed_experts).share_memory_(),
        losses=torch.zeros(args.threads, 2).share_memory_(),
        seconds=torch.zeros(1, dtype=torch.float64).share_memory_(),
        barrier=barrier(args.threads),
    )
    state = out / "state.safetensors"
    done = load_state(state, shared) if state.exists() else {"seconds": 0.0, "steps": 0, "tokens": 0}
    shared.seconds.fill_(done["seconds"])
    size = sum(p.numel() for p in model.parameters())
    print(f"{size:,} parameters, {len(train_text):,} texts, from {done}", flush=True)
    return shared, Source(tok, train_text, args.seed), done


def work(worker: int, args: argparse.Namespace, shared: Shared, source: Source, done: dict[str, float]) -> None:
    """One worker's loop; worker 0 also keeps the time, reports and saves."""
    source.reseed(args.seed * 1_000_003 + int(done["steps"]) * 101 + worker)
    budget, tokens = args.minutes * 60, TOKENS // args.threads
    report = Report(args, done) if worker == 0 else None
    while (progress := float(shared.seconds) / budget) < 1:
        main, draft = loss(shared.model, source.batch(tokens, progress))
        (main + DRAFT_WEIGHT * draft).backward()
        shared.optimizer.publish(worker)
        shared.losses[worker] = torch.stack((main.detach(), draft.detach()))
        shared.loads[worker] = torch.stack([moe.load for moe in shared.model.moe_layers()])
        shared.barrier.wait()
        factor = schedule(progress)
        shared.optimizer.step(worker, factor)
        if report:
            report.after_step(shared, balance(shared, BIAS_STEP * factor), TOKENS)
        shared.barrier.wait()
        if report:
            report.maybe_save(shared)
    if report:
        report.maybe_save(shared, now=True)


class Report:
    """Worker 0's clock, progress lines and checkpoints."""

    def __init__(self, args: argparse.Namespace, done: dict[str, float]) -> None:
        self.minutes, self.every, self.done = args.minutes, args.save_every, done
        self.path = Path(args.out) / "state.safetensors"
        self.start = time.monotonic() - done["seconds"]
        self.shown = self.saved = time.monotonic()
        self.recent: list[Tensor] = []
        self.worst = 0.0

    def after_step(self, shared: Shared, worst: float, tokens: int) -> None:
        """Count the step, advance the shared clock, and print a line every 15 s."""
        now = time.monotonic()
        self.done["seconds"] = now - self.start
        self.done["steps"] += 1
        self.done["tokens"] += tokens
        shared.seconds.fill_(self.done["seconds"])
        self.recent.append(shared.losses.mean(0))
        self.worst = max(self.worst, worst)
        if now - self.shown < 15:
            return
        main, draft = torch.stack(self.recent).mean(0).tolist()
        left = self.minutes - self.done["seconds"] / 60
        done = self.done
        print(
            f"{done['seconds'] / 60:5.1f}/{self.minutes:g} min, ETA {left:.1f} min, step {done['steps']:.0f}, "
            f"{done['tokens'] / 1e6:.2f} M tokens ({done['tokens'] / done['seconds']:.0f}/s), "
            f"loss {main:.4f}, draft {draft:.4f}, worst load {self.worst:.2f}",
            flush=True,
        )
        self.shown, self.recent, self.worst = now, [], 0.0

    def maybe_save(self, shared: Shared, *, now: bool = False) -> None:
        """Save when it is time to, or at once."""
        if now or time.monotonic() - self.saved > self.every:
            save_state(self.path, shared, self.done)
            self.saved = time.monotonic()


def run(args: argparse.Namespace) -> None:
    """Train until the minutes are spent, then export."""
    shared, source, done = prepare(args)
    others = [
        multiprocessing.get_context("fork").Process(target=work, args=(i, args, shared, source, done), daemon=True)
        for i in range(1, args.threads)
    ]
    for other in others:
        other.start()
    work(0, args, shared, source, done)
    for other in others:
        other.join(60)
    export(shared.model, Path(args.out))
    print(f"exported to {args.out}", flush=True)


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line, by default that of this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=56)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", required=True)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--save-every", type=float, default=120, help="seconds between checkpoints")
    return parser.parse_args(words)


def main() -> None:
    """Read the arguments and train."""
    args = arguments()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not survive the fork
    torch.set_num_threads(1)
    try:
        run(args)
    except KeyboardInterrupt:
        sys.exit(f"interrupted: the same command goes on from the last checkpoint in {args.out}")


if __name__ == "__main__":
    main()
