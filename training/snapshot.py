"""Export the last checkpoint of a running training: `python -m training.snapshot DIR OUT`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file

from training.export import export
from training.model import ModelConfig, Transformer


def main() -> None:
    """Read DIR/state.safetensors, write a checkpoint with its tokenizer to OUT."""
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    model = Transformer(ModelConfig())
    tensors = load_file(source / "state.safetensors")
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    export(model, out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, out / name)
    print(f"exported to {out}")


if __name__ == "__main__":
    main()
