"""The runner of a GPU: rows are computed and drawn there, and only token ids come back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.kernels.triton.sample import Draws, draw
from engine.layers.cache import LatentCache
from engine.modeling.device import DeviceModel
from engine.running.batch import build, wanted_rows
from engine.running.graphs import Graphs
from engine.running.runner import NOT_FINITE, Runner
from engine.scheduling.plan import Outcome, Work
from engine.wire.messages import Sampling

_NEVER = float("-inf")


class DeviceRunner(Runner):
    """A model on a device with its cache; decode steps are replayed from graphs where there are some."""

    def __init__(self, model: DeviceModel, cache: LatentCache, graphs: Graphs | None = None) -> None:
        super().__init__(model, cache, cache.block_size)
        self._device_model, self._device_cache, self._graphs = model, cache, graphs

    @torch.inference_mode()
    def _held(self, works: Sequence[Work]) -> list[Outcome]:
        if self._graphs is not None and self._graphs.fits(works):
            logits = self._graphs.logits(works)
        else:
            logits = self._device_model.forward(build(works, self._device_cache.block_size), self._device_cache)
        counts = [len(wanted_rows(work)) for work in works]
        rows = logits.split(counts)
        here = [i for i, work in enumerate(works) if is_drawn_here(work)]
        drawn = self._drawn([works[i] for i in here], [rows[i] for i in here])
        elsewhere = sorted(set(range(len(works))) - set(here))
        found = self._outcomes([works[i] for i in elsewhere], [rows[i].cpu().numpy() for i in elsewhere])
        answers = dict(zip(elsewhere, found, strict=True)) | dict(zip(here, drawn, strict=True))
        return [answers[i] for i in range(len(works))]

    def _drawn(self, works: Sequence[Work], rows: Sequence[Tensor]) -> list[Outcome]:
        """Draw for all works in one go, and bring the tokens back in one copy."""
        if not works:
            return []
        logits = torch.cat([part[-1:] for part in rows])
        samplings = [work.sequence.submit.sampling for work in works]
        addresses = [
            (_signed(one.seed), one.choice, len(work.sequence.tokens) - work.sequence.prompt_len)
            for one, work in zip(samplings, works, strict=True)
        ]
        temperature = torch.tensor([one.temperature for one in samplings], dtype=torch.float64)
        draws = Draws(temperature.to(logits.device), torch.tensor(addresses).to(logits.device))
        is_finite = torch.isfinite(logits).all(-1)
        tokens = draw(only_kept(logits, samplings), draws)
        known = torch.where(is_finite, tokens, -1).tolist()
        return [Outcome(token) if token >= 0 else Outcome(error=NOT_FINITE) for token in known]


def is_drawn_here(work: Work) -> bool:
    """Whether a work wants nothing but a token, by temperature, top-k, top-p and min-p."""
    sampling, output = work.sequence.submit.sampling, len(work.sequence.tokens) - work.sequence.prompt_len
    is_banned = output < sampling.min_tokens and bool(sampling.stop_token_ids)
    penalties = (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty)
    reports = sampling.logprobs is not None or work.sequence.prompt_tops is not None
    return work.chooses and not (is_banned or penalties != (0.0, 0.0, 1.0) or reports or sampling.logit_bias)


def only_kept(logits: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Logits [T, vocab] with −∞ for what top-k, top-p and min-p leave out; as `kept`, row by row, on the device."""
    filtered = [i for i, one in enumerate(samplings) if one.temperature > 0 and _is_filtered(one)]
    if not filtered:
        return logits
    wishes = [samplings[i] for i in filtered]
    numbers = torch.tensor(
        [(one.temperature, one.top_p, one.top_k or logits.shape[1], one.min_p) for one in wishes], dtype=torch.float64
    ).to(logits.device)
    temperature, top_p, top_k, min_p = numbers[:, :, None].unbind(1)
    at = torch.tensor(filtered, device=logits.device)
    rows = logits.index_select(0, at).double() / temperature
    ranked, ids = torch.sort(rows, dim=-1, descending=True, stable=True)
    weights = torch.exp(ranked - ranked[:, :1])
    weights = weights.masked_fill(torch.arange(rows.shape[1], device=rows.device) >= top_k, 0.0)
    reached = weights.cumsum(-1) - weights  # by those ranked before
    keep = (weights > 0) & ((top_p >= 1.0) | (reached < top_p * weights.sum(-1, keepdim=True)))
    keep &= (min_p <= 0) | (ranked >= ranked[:, :1] + torch.log(min_p.clamp_min(1e-300)))
    mask = torch.zeros_like(keep).scatter_(1, ids, keep)
    return logits.index_copy(0, at, logits.index_select(0, at).masked_fill(~mask, _NEVER))


def _is_filtered(sampling: Sampling) -> bool:
    return sampling.top_p < 1.0 or sampling.top_k > 0 or sampling.min_p > 0.0


def _signed(seed: int) -> int:
    """The same 64 bits as a signed number."""
    return seed - (1 << 64) if seed >= 1 << 63 else seed
