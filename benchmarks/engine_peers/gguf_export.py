"""Runs llama.cpp's own converter on the measured checkpoint, inside a peer's environment.

`python gguf_export.py TREE CHECKPOINT OUT.gguf`. The converter knows tokenizers by a hash of what they do; ours is not
in its list, so it is told that ours splits text as GPT-2's does, which is true.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main() -> None:
    """Convert to bfloat16 GGUF."""
    tree, checkpoint, out = map(Path, sys.argv[1:4])
    sys.path[:0] = [str(tree), str(tree / "gguf-py")]
    from conversion.base import TextModel  # pyright: ignore[reportMissingImports]

    TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
    script = tree / "convert_hf_to_gguf.py"
    sys.argv = [str(script), str(checkpoint), "--outfile", str(out), "--outtype", "bf16"]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
