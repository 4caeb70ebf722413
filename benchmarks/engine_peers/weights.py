"""Makes the measured checkpoint: random weights, a byte-level tokenizer that fills the vocabulary, and its GGUF forms.

`python -m benchmarks.engine_peers.weights DIR` writes DIR/bf16. It needs torch, so the harness runs it as a child.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import string
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from benchmarks.engine_peers.shape import CONFIG, SPECIALS
from engine.modeling.tensors import expected_shapes
from engine.spec.model import read_spec

_SPECIALS = tuple(f"<|s{index}|>" for index in range(SPECIALS))  # 0 begins a sequence, 1 ends it


def random_tensor(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Weights whose outputs have unit size; logits get a deviation of 2, and tokens spread over the experts."""
    if name.endswith("norm.weight"):
        return torch.ones(shape, dtype=torch.bfloat16)
    if name.endswith("correction_bias"):
        return torch.randn(shape, generator=generator) * 0.05
    gain = 2.0 if name == "lm_head.weight" else 1.0
    width = 1 if name == "model.embed_tokens.weight" else shape[-1]
    return (torch.randn(shape, generator=generator) * (gain / math.sqrt(width))).to(torch.bfloat16)


def vocabulary(size: int = CONFIG["vocab_size"]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Ids and merges: specials, bytes, then two, three and four letters, each merged from shorter ones."""
    pieces = [*_SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges: list[tuple[str, str]] = []
    letters = string.ascii_lowercase
    pairs = ["".join(pair) for pair in itertools.product(letters, repeat=2)]
    joined = [
        *((a, b) for a in letters for b in letters),
        *((pair, c) for pair in pairs for c in letters),
        *((one, two) for one in pairs for two in pairs),
    ]
    for left, right in joined[: size - len(pieces)]:
        pieces.append(left + right)
        merges.append((left, right))
    return {piece: index for index, piece in enumerate(pieces)}, merges


def write_tokenizer(path: Path, size: int = CONFIG["vocab_size"]) -> None:
    """tokenizer.json and tokenizer_config.json: every id has a text of its own, so a stream shows each token."""
    vocab, merges = vocabulary(size)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in _SPECIALS])
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": _SPECIALS[0],
        "eos_token": _SPECIALS[1],
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))


def write_checkpoint(path: Path) -> None:
    """config.json, weights and tokenizer at `path`, which appears only when it is whole."""
    scratch = path.with_name(path.name + ".part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    (scratch / "config.json").write_text(json.dumps(CONFIG, indent=1))
    generator = torch.Generator().manual_seed(904)
    shapes = expected_shapes(read_spec(str(scratch)))
    tensors = {name: random_tensor(name, tuple(shape), generator) for name, shape in shapes.items()}
    save_file(tensors, scratch / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(scratch)
    scratch.rename(path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_checkpoint(Path(sys.argv[1]) / "bf16")
