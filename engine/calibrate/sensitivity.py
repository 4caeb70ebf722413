"""How much each class of each layer loses in each number format, one at a time; written down, so that it can go on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import Tensor

from engine.calibrate.measure import Comparison, Difference, Judged, Sample, batches, logits_of
from engine.modeling.loader import Loaded
from engine.modeling.workbench import Workbench
from engine.spec.matrices import group_of, matrices
from engine.spec.model import ModelSpec
from engine.spec.policy import Format, Kind, Policy, units

Unit = tuple[Kind, int]
Say = Callable[[str], None]

KEPT: Final = 1 << 29  # most bytes of the base's log-probabilities


@dataclass(frozen=True, slots=True)
class Trial:
    """One unit in one format: bytes, and how the model differs for it alone."""

    unit: Unit
    wanted: Format
    nbytes: int
    kl: float
    top1: float


def unit_bytes(spec: ModelSpec, width: int) -> dict[tuple[Unit, Format], int]:
    """Bytes of each unit in each format that makes a difference to it."""
    found: dict[tuple[Unit, Format], int] = {}
    fours = {(m.kind, m.layer) for m in matrices(spec) if group_of(m.inputs)}
    for unit in units(spec):
        held = [matrix for matrix in matrices(spec) if (matrix.kind, matrix.layer) == unit]
        formats: tuple[Format, ...] = ("none", "int8", "int4") if unit in fours else ("none", "int8")
        for wanted in formats:
            found[unit, wanted] = sum(matrix.nbytes(wanted, width) for matrix in held)
    return found


def few(samples: Sequence[Sample], vocab_size: int) -> list[Sample]:
    """As many samples as the base's log-probabilities may be kept for."""
    room = KEPT // (8 * vocab_size)
    kept: list[Sample] = []
    for sample in samples:
        room -= len(sample.ids) - sample.start
        if room < 0 and kept:
            break
        kept.append(sample)
    return kept


class Base:
    """What the unchanged model says about some samples, computed once."""

    def __init__(self, model: Loaded, samples: Sequence[Sample]) -> None:
        self._groups = list(batches(samples, model.spec.vocab_size))
        self._said = [Judged.of(logits_of(model, group), group) for group in self._groups]

    def against(self, model: Loaded) -> Difference:
        """How another model differs on the same samples."""
        comparison = Comparison()
        for group, said in zip(self._groups, self._said, strict=True):
            logits: Tensor = logits_of(model, group)
            comparison.add(said, Judged.of(logits, group), group)
        return comparison.result()


class Journal:
    """Trials done so far, one JSON line each; a journal of another task is begun anew."""

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self.done: dict[tuple[Unit, Format], Trial] = {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if lines and lines[0] == key:
            for line in lines[1:]:
                self._read(line)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([key, *(_line(trial) for trial in self.done.values())]) + "\n", encoding="utf-8")

    def _read(self, line: str) -> None:
        try:
            kind, layer, wanted, nbytes, kl, top1 = json.loads(line)
        except ValueError:
            return  # the last line of an interrupted run may be cut off
        self.done[(kind, layer), wanted] = Trial((kind, layer), wanted, nbytes, kl, top1)

    def add(self, trial: Trial) -> None:
        """Write down one more."""
        self.done[trial.unit, trial.wanted] = trial
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(trial) + "\n")


def _line(trial: Trial) -> str:
    return json.dumps([*trial.unit, trial.wanted, trial.nbytes, trial.kl, trial.top1])


def analyse(bench: Workbench, base: Base, journal: Journal, width: int, say: Say) -> list[Trial]:
    """Every unit in every quantised format, by itself; what the journal has is not measured again."""
    sizes = unit_bytes(bench.base.spec, width)
    todo = [pair for pair in sizes if pair[1] != "none" and pair not in journal.done]
    if journal.done:
        say(f"going on: {len(journal.done)} trials are done, {len(todo)} are left")
    began = time.monotonic()
    for number, (unit, wanted) in enumerate(todo, 1):
        kind, layer = unit
        found = base.against(bench.under(Policy().with_layer(layer, kind, wanted)))
        journal.add(Trial(unit, wanted, sizes[unit, wanted], found.kl, found.top1))
        left = (time.monotonic() - began) / number * (len(todo) - number)
        say(f"trial {number}/{len(todo)}: {label(unit)} {wanted}: KL {found.kl:.2e}; about {left:.0f} s left")
    return [journal.done[pair] for pair in sizes if pair in journal.done]


def label(unit: Unit) -> str:
    """A unit as people write it."""
    kind, layer = unit
    return kind if kind == "head" else f"{kind}.{layer}"


def by_unit(trials: Iterable[Trial], sizes: dict[tuple[Unit, Format], int]) -> dict[Unit, list[Trial]]:
    """All formats of each unit, the unquantised one first."""
    found: dict[Unit, list[Trial]] = {}
    for (unit, wanted), nbytes in sizes.items():
        if wanted == "none":
            found[unit] = [Trial(unit, "none", nbytes, 0.0, 1.0)]
    for trial in trials:
        found[trial.unit].append(trial)
    return found
