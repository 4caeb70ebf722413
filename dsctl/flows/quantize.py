"""quantize: become the program that chooses number formats for a model's parts and writes the quantised checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from dsctl.flows.foreground import become, checkpoint, need


def quantize(model: Path, options: Mapping[str, object]) -> NoReturn:
    """`options` by name as engine.calibrate has them; None means not given, True a flag."""
    need("engine", "quantize")
    arguments = [str(checkpoint(model, "dsctl quantize MODEL_DIR --max-kl 0.01 --out DIR"))]
    for name, value in options.items():
        if value is not None and value is not False:
            arguments += (
                [f"--{name.replace('_', '-')}"] if value is True else [f"--{name.replace('_', '-')}", str(value)]
            )
    become("engine.calibrate", arguments)
