"""How long prompts and answers are: a fixed number of tokens, a distribution, or numbers from a file."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Literal, cast

import msgspec

from dsctl.base.errors import UsageError

FORMS = "512, 512:normal:64, 512:lognormal:0.5, 512:uniform:128 or file:PATH"


class Length(msgspec.Struct, frozen=True):
    """A distribution of token counts, never below 1.

    normal: `spread` is the standard deviation in tokens; lognormal: that of the logarithm (`mean` stays the mean);
    uniform: mean ± spread; file: the `values`, each as likely as the other.
    """

    kind: Literal["fixed", "normal", "lognormal", "uniform", "file"] = "fixed"
    mean: float = 1.0
    spread: float = 0.0
    values: list[int] = []

    def draw(self, rng: random.Random) -> int:
        """One length."""
        if self.kind == "fixed":
            return max(1, round(self.mean))
        if self.kind == "file":
            return rng.choice(self.values)
        if self.kind == "normal":
            value = rng.gauss(self.mean, self.spread)
        elif self.kind == "lognormal":
            value = rng.lognormvariate(math.log(self.mean) - self.spread**2 / 2, self.spread)
        else:
            value = rng.uniform(self.mean - self.spread, self.mean + self.spread)
        return max(1, round(value))


def parse_length(text: str, option: str) -> Length:
    """A length as it is written after --isl or --osl; UsageError for anything else."""
    if text.startswith("file:"):
        return _from_file(Path(text.removeprefix("file:")), option)
    mean, *rest = text.split(":")
    kind = rest[0] if rest else "fixed"
    try:
        length = Length(cast("Literal['fixed']", kind), float(mean), float(rest[1]) if rest else 0.0)
        is_right = len(rest) in (0, 2) and kind in ("fixed", "normal", "lognormal", "uniform")
    except (ValueError, IndexError):
        is_right, length = False, Length()
    if not is_right or length.mean < 1 or length.spread < 0:
        raise UsageError(f"{option} cannot be {text!r}", hint=f"{option} {FORMS}")
    return length


def _from_file(path: Path, option: str) -> Length:
    try:
        values = [int(word) for word in path.read_text(encoding="utf-8").split()]
    except (OSError, ValueError) as error:
        raise UsageError(f"{option}: {path} cannot be read as one number a line", why=str(error)) from error
    if not values or min(values) < 1:
        raise UsageError(f"{option}: {path} needs numbers of 1 or more")
    return Length("file", sum(values) / len(values), 0.0, values)
