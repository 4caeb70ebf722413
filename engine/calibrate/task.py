"""From a wish (so much memory, so much loss, or a policy) to a policy, to a checkpoint, and to a report."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from engine.calibrate.knapsack import Choice, solve
from engine.calibrate.measure import Difference, Sample, compare
from engine.calibrate.report import Report
from engine.calibrate.sensitivity import Base, Journal, Trial, Unit, analyse, by_unit, few, unit_bytes
from engine.calibrate.text import samples
from engine.calibrate.write import write_checkpoint
from engine.modeling.fused import FusedModel
from engine.modeling.workbench import Workbench, workbench
from engine.spec.config import EngineConfig
from engine.spec.errors import CapacityError, ConfigError
from engine.spec.memory import GIB, holds_float32, latent_bytes_per_token, weight_formats, workspace_bytes
from engine.spec.model import ModelSpec, read_spec
from engine.spec.policy import Format, Policy, of_units

Say = Callable[[str], None]

WORK: Final = ".work"  # inside the output, until it is whole
TRIES: Final = 6  # policies measured until one keeps max_kl
CONTEXT: Final = 4096  # tokens of cache that target_memory leaves room for


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asks for: a policy, or target_memory, or max_kl, or both of these."""

    model: Path
    out: Path
    policy: Policy | None
    target_memory: int | None  # bytes of weights, workspace and cache
    max_kl: float | None  # nats, mean
    text: Path | None
    tokens: int
    config: EngineConfig


def run(wish: Wish, say: Say) -> Report:
    """Choose, write, measure, report. Raises EngineErrors; run again after an interruption it goes on."""
    spec = read_spec(wish.model)
    check_out(wish)
    first, second = samples(wish.model, spec, wish.text, wish.tokens)
    say(f"loading {wish.model} in 16 bits")
    with workbench(replace(wish.config, quantization="none")) as bench:
        if wish.policy is not None:
            policy, trials, frontier = wish.policy, [], []
        else:
            policy, trials, frontier = _choose(wish, spec, bench, (first, second), say)
        say(f"policy: {policy.name}")
        difference = compare(bench.base, {"it": bench.under(policy)}, second)["it"]
        if wish.max_kl is not None and difference.kl > wish.max_kl:
            raise ConfigError(
                f"the policy has a mean KL of {difference.kl:.2e}, more than --max-kl {wish.max_kl}; "
                f"--max-kl {difference.kl * 1.01:.1e} would do, or more --target-memory"
            )
        kernels = bench.base.library.name if isinstance(bench.base, FusedModel) else bench.base.ops.name
    size = write_checkpoint(wish.model, spec, policy, wish.out, say)
    dtype = wish.config.dtype
    formats = weight_formats(spec, dtype, policy, packed=True)
    before = sum(weight_formats(spec, dtype, Policy(), packed=True).values())
    report = Report(
        wish.model.name, policy, difference, before, sum(formats.values()), size, formats, trials, frontier, kernels
    )
    (wish.out / "report.html").write_text(report.page(), encoding="utf-8")
    (wish.out / "report.json").write_text(json.dumps(report.document(), indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(wish.out / WORK, ignore_errors=True)
    return report


def check_out(wish: Wish) -> None:
    """Refuse to mix the result with anything else; what an interrupted run of the same wish left is its own."""
    out, mark = wish.out, wish.out / WORK / "wish"
    words = [
        str(wish.model.resolve()),
        str(wish.policy and wish.policy.name),
        str(wish.target_memory),
        str(wish.max_kl),
    ]
    key = hashlib.sha256("|".join([*words, str(wish.text), str(wish.tokens)]).encode()).hexdigest()
    if out.resolve() == wish.model.resolve():
        raise ConfigError(f"--out {out} is the model itself; name another directory")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; name a directory")
    if out.is_dir() and any(out.iterdir()) and not (mark.is_file() and mark.read_text() == key):
        raise ConfigError(f"--out {out} holds something else; name a new directory, or remove it")
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(key)


def _choose(
    wish: Wish, spec: ModelSpec, bench: Workbench, parts: tuple[list[Sample], list[Sample]], say: Say
) -> tuple[Policy, list[Trial], list[tuple[int, float]]]:
    width = 4 if holds_float32(spec, wish.config.dtype) else 2
    sizes = unit_bytes(spec, width)
    fixed = _fixed(spec, wish.config)
    if wish.target_memory is not None:
        check_target(wish.target_memory, spec, wish.config)
    chosen = few(parts[0], spec.vocab_size)
    key = hashlib.sha256(f"{bench.base.numerics}|{[s.ids for s in chosen]}".encode()).hexdigest()
    say(f"judging by {sum(len(s.ids) - 1 for s in chosen)} tokens")
    journal = Journal(wish.out / WORK / "trials.jsonl", key)
    trials = analyse(bench, Base(bench.base, chosen), journal, width, say)
    choices = by_unit(trials, sizes)
    frontier = _frontier(choices, fixed)
    if wish.target_memory is not None:
        policy = _within_bytes(choices, wish.target_memory - fixed)
    else:
        policy = _within_loss(wish, bench, choices, parts[1], say)
    return policy, trials, frontier


def _fixed(spec: ModelSpec, config: EngineConfig) -> int:
    """Bytes that no policy changes: what is never quantised, the workspace, and a cache of CONTEXT tokens."""
    width = 4 if holds_float32(spec, config.dtype) else 2
    quantisable = sum(size for (_, wanted), size in unit_bytes(spec, width).items() if wanted == "none")
    rest = sum(weight_formats(spec, config.dtype, Policy(), packed=True).values()) - quantisable
    cache = latent_bytes_per_token(spec, config.dtype) * min(CONTEXT, spec.max_positions)
    return rest + workspace_bytes(spec, config) + cache


def check_target(target: int, spec: ModelSpec, config: EngineConfig) -> None:
    """Raises CapacityError with the least that would fit."""
    sizes = unit_bytes(spec, 4 if holds_float32(spec, config.dtype) else 2)
    units = {unit for unit, _ in sizes}
    smallest = sum(min(size for (unit, _), size in sizes.items() if unit == one) for one in units)
    least = smallest + _fixed(spec, config)
    if target < least:
        raise CapacityError(
            f"--target-memory {target / GIB:.2f} GiB cannot be met: with everything in the fewest bits, weights need "
            f"{smallest / GIB:.2f} GiB and the rest (embedding, workspace, a cache of {CONTEXT} tokens) "
            f"{_fixed(spec, config) / GIB:.2f} GiB; {rounded_up(least)} would fit"
        )


def rounded_up(size: int) -> str:
    """A size rounded up, as --target-memory takes it."""
    return f"{-(-size // (1 << 20))}MiB"


def _within_bytes(choices: dict[Unit, list[Trial]], limit: float) -> Policy:
    found = solve([[Choice(t.nbytes, t.kl) for t in trials] for trials in choices.values()], limit)
    assert found is not None, "check_target lets pass only what fits"
    return _policy(choices, found)


def _policy(choices: dict[Unit, list[Trial]], indices: list[int]) -> Policy:
    formats: dict[Unit, Format] = {
        unit: trials[index].wanted for (unit, trials), index in zip(choices.items(), indices, strict=True)
    }
    return of_units(formats)


def _within_loss(
    wish: Wish, bench: Workbench, choices: dict[Unit, list[Trial]], judged: list[Sample], say: Say
) -> Policy:
    """Fewest bytes whose measured KL keeps max_kl; the bound is corrected where single losses do not add up."""
    assert wish.max_kl is not None
    bound = wish.max_kl
    for number in range(1, TRIES + 1):
        found = solve([[Choice(t.kl, t.nbytes) for t in trials] for trials in choices.values()], bound)
        policy = Policy() if found is None else _policy(choices, found)
        if not policy.is_quantised:
            break
        measured: Difference = compare(bench.base, {"it": bench.under(policy)}, judged)["it"]
        say(f"policy {number}: KL {measured.kl:.2e} for a bound of {wish.max_kl}")
        if measured.kl <= wish.max_kl:
            return policy
        bound *= min(0.9, 0.9 * wish.max_kl / measured.kl)
    least = min(t.kl for trials in choices.values() for t in trials[1:])
    raise ConfigError(f"--max-kl {wish.max_kl} leaves nothing to quantise; the least sensitive part costs {least:.1e}")


def _frontier(choices: dict[Unit, list[Trial]], fixed: int) -> list[tuple[int, float]]:
    """Bytes and summed KL of the best policies at a dozen limits from the smallest to the unquantised size."""
    small = sum(min(t.nbytes for t in trials) for trials in choices.values())
    large = sum(trials[0].nbytes for trials in choices.values())
    points: list[tuple[int, float]] = []
    for step in range(13):
        found = solve(
            [[Choice(t.nbytes, t.kl) for t in trials] for trials in choices.values()],
            small + (large - small) * step / 12,
        )
        if found is not None:
            picked = [trials[index] for trials, index in zip(choices.values(), found, strict=True)]
            points.append((sum(t.nbytes for t in picked), sum(t.kl for t in picked)))
    return points
