"""Compares the model's logits with transformers' on the same random weights: the numbers of the parity table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor

import engine.spec.memory
from engine.modeling.deepseek import Model
from engine.modeling.loader import load
from engine.quant.fp8 import dequantise
from engine.spec.config import EngineConfig
from tests.engine.arrangements import Span, Tokens, step
from tests.engine.checkpoints import Config, make_checkpoint, make_config, make_tensors, store_dtypes, write_tensors

Mode = Literal["float32", "bfloat16", "narrow"]  # narrow: bfloat16 weights and a float16 cache, as large models have

BOUND = {"float32": 1e-4, "bfloat16": 2e-2, "narrow": 2e-2}  # of σ, the standard deviation of the logits
ROUTER_MARGIN = 1e-2  # positions whose choice of experts is closer than this are left out in bfloat16
TOP1_MARGIN = 4e-2  # of σ: where the two best logits lie further apart, the best must be the same


@dataclass(frozen=True, slots=True)
class Parity:
    """One line of the table; errors are in units of σ."""

    variant: str
    mode: Mode
    form: str  # "prompt" (expanded) or "generated" (absorbed)
    sigma: float
    positions: int
    excluded: int
    worst: float  # over the positions that count
    within: float  # share of those positions whose largest error is within the bound
    top1_wrong: int  # positions with a clear best logit where ours is another

    @property
    def holds(self) -> bool:
        """Whether the promise is kept."""
        enough = self.within == 1.0 if self.mode == "float32" else self.within >= 0.99
        return self.sigma >= 1.0 and enough and self.top1_wrong == 0 and self.excluded < self.positions

    def __str__(self) -> str:
        return (
            f"{self.variant:16s} {self.mode:9s} {self.form:10s} σ {self.sigma:5.2f}  max |Δ| {self.worst:8.1e} σ  "
            f"within bound {self.within:7.2%} of {self.positions - self.excluded:4d}  excluded {self.excluded:3d}  "
            f"top-1 wrong {self.top1_wrong}"
        )


class Case:
    """One variant: a checkpoint on disk, transformers' logits for it, and the router margins there."""

    def __init__(self, path: Path, variant: str, length: int, *, rounded: bool, **overrides: Any) -> None:
        self.variant = variant
        self.path = make_checkpoint(path / "ours", variant, **overrides)
        config = make_config(variant, **overrides)
        tensors = _plain_tensors(config)
        if rounded:
            tensors = {n: t if "correction_bias" in n else t.bfloat16().float() for n, t in tensors.items()}
        self.ids = torch.randint(config["vocab_size"], (length,), generator=torch.Generator().manual_seed(9))
        self.expected, self.margins = _oracle(path / "theirs", config, tensors, self.ids)

    def compare(self, mode: Mode, form: str) -> Parity:
        """Our logits against theirs."""
        found = _logits(_load(self.path, mode), self.ids, 3 if form == "generated" else self.ids.numel())
        sigma = float(self.expected.std())
        counted = torch.ones(self.ids.numel(), dtype=torch.bool) if mode == "float32" else self.margins >= ROUTER_MARGIN
        errors = (found - self.expected).abs().amax(-1)[counted] / sigma
        best = self.expected[counted].topk(2, dim=-1).values
        clear = best[:, 0] - best[:, 1] > TOP1_MARGIN * sigma
        wrong = (found.argmax(-1) != self.expected.argmax(-1))[counted] & clear
        return Parity(
            self.variant,
            mode,
            form,
            sigma,
            positions=self.ids.numel(),
            excluded=int((~counted).sum()),
            worst=float(errors.max()) if errors.numel() else float("nan"),
            within=float((errors <= BOUND[mode]).float().mean()),
            top1_wrong=int(wrong.sum()),
        )


@contextmanager
def limits(mode: Mode) -> Iterator[None]:
    """Makes a small model compute as a large one does in mode "narrow"."""
    if mode != "narrow":
        yield
        return
    memory = engine.spec.memory
    with patch.object(memory, "FLOAT32_WEIGHTS_LIMIT", 0), patch.object(memory, "FLOAT32_CACHE_LIMIT", 0):
        yield


def _load(path: Path, mode: Mode) -> Model:
    with limits(mode):
        return load(
            EngineConfig(
                str(path),
                kernels="reference",
                dtype="float32" if mode == "float32" else "bfloat16",
                quantization="none",
            )
        )


def _logits(model: Model, ids: Tensor, prompt: int) -> Tensor:
    blocks = torch.arange(-(-ids.numel() // 16))
    cache = model.new_cache(blocks.numel(), 16)
    return step(model, cache, [Span(Tokens(ids, prompt, blocks), 0, ids.numel())])[0]


def _plain_tensors(config: Config) -> dict[str, Tensor]:
    """What the checkpoint's numbers mean: FP8 blocks dequantised."""
    stored = store_dtypes(config, make_tensors(config), torch.float32)
    scales = {name.removesuffix("_scale_inv"): t for name, t in stored.items() if name.endswith("_scale_inv")}
    return {
        name: dequantise(tensor, scales[name], (128, 128)) if name in scales else tensor
        for name, tensor in stored.items()
        if not name.endswith("_scale_inv")
    }


def _oracle(path: Path, config: Config, tensors: dict[str, Tensor], ids: Tensor) -> tuple[Tensor, Tensor]:
    """transformers' float32 logits [T, vocab] and the smallest router margin of each position [T]."""
    from transformers import AutoModelForCausalLM  # slow to import: only where it is needed
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    path.mkdir()
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    (path / "config.json").write_text(json.dumps({**plain, "num_nextn_predict_layers": 0}))
    last = config["num_hidden_layers"]
    write_tensors(path, {n: t.contiguous() for n, t in tensors.items() if not n.startswith(f"model.layers.{last}.")})
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    margins: list[Tensor] = []
    for name, module in model.named_modules():
        if name.endswith("mlp.gate"):
            module.register_forward_hook(_margin_hook(config, margins))
    with torch.no_grad():
        logits = model(ids[None]).logits[0]
    return logits.float(), torch.stack(margins).amin(0)


def _margin_hook(config: Config, margins: list[Tensor]) -> Callable[..., None]:
    """How far the chosen groups and experts of each token lie ahead of the best one left out."""

    def hook(module: Any, inputs: tuple[Tensor, ...], _: object) -> None:
        logits = inputs[0].reshape(-1, config["hidden_size"]).float() @ module.weight.float().t()
        is_v3 = config["topk_method"] == "noaux_tc"
        scores = logits.sigmoid() + module.e_score_correction_bias if is_v3 else logits.softmax(-1)
        margin = torch.full((scores.shape[0],), float("inf"))
        if config["topk_method"] != "greedy":
            grouped = scores.view(scores.shape[0], config["n_group"], -1)
            best = grouped.topk(2, dim=-1).values.sum(-1) if is_v3 else grouped.amax(-1)
            margin, kept = _gap(best, config["topk_group"])
            out = torch.ones_like(best, dtype=torch.bool).scatter(1, kept, value=False)
            scores = grouped.masked_fill(out[:, :, None], float("-inf")).flatten(1)
        margins.append(torch.minimum(margin, _gap(scores, config["num_experts_per_tok"])[0]))

    return hook


def _gap(scores: Tensor, chosen: int) -> tuple[Tensor, Tensor]:
    """Distance between the last chosen and the first left out, and the ids of the chosen."""
    if chosen >= scores.shape[1]:
        return torch.full((scores.shape[0],), float("inf")), scores.topk(chosen, dim=-1).indices
    top = scores.topk(chosen + 1, dim=-1)
    return top.values[:, chosen - 1] - top.values[:, chosen], top.indices[:, :chosen]
