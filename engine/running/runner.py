"""Computes a step: rows in, logits of the wanted rows out, a token or a reason for each work."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from engine.layers.batch import StepBatch
from engine.running.batch import build, wanted_rows
from engine.running.sampler import Contenders, Logits, Question, choose, top_of
from engine.scheduling.plan import Outcome, StepPlan, Work
from engine.wire.messages import Top

log = logging.getLogger(__name__)

NOT_FINITE = "the model's logits are not finite for this sequence"


class Computes(Protocol):
    """What a runner asks of a model."""

    def forward(self, batch: StepBatch, cache: Any) -> Tensor:
        """Logits float32 [S, vocab] of the batch's wanted rows."""
        ...


class Runner:
    """A model with its cache."""

    def __init__(self, model: Computes, cache: Any, block_size: int, contenders: Contenders | None = None) -> None:
        self._contenders = contenders  # how the sampler may be helped; changes no token
        self._model = model
        self._cache = cache
        self._block_size = block_size

    def run(self, plan: StepPlan) -> list[Outcome]:
        """One outcome per work. A step that fails is halved until the guilty work is alone; only that one fails.

        Halves are computed to the same bits as the whole, and a work computed twice writes the same latents.
        """
        return self._run(plan.works) if plan.works else []

    def _run(self, works: Sequence[Work]) -> list[Outcome]:
        try:
            return self._held(works)
        except Exception as error:  # noqa: BLE001 - whatever a step raises must cost one sequence, not all
            log.warning("a step of %d sequences failed: %s: %s", len(works), type(error).__name__, error)
            if len(works) == 1:
                return [Outcome(error=f"the step failed for this sequence alone: {type(error).__name__}: {error}")]
        half = len(works) // 2
        return [*self._run(works[:half]), *self._run(works[half:])]

    @torch.inference_mode()
    def _held(self, works: Sequence[Work]) -> list[Outcome]:
        batch = build(works, self._block_size)
        logits: Logits = self._model.forward(batch, self._cache).numpy()
        rows: list[Logits] = []
        first = 0
        for work in works:
            rows.append(logits[first : first + len(wanted_rows(work))])
            first += len(rows[-1])
        return self._outcomes(works, rows)

    def _outcomes(self, works: Sequence[Work], rows: Sequence[Logits]) -> list[Outcome]:
        """What the wanted rows [n, vocab] of each work say."""
        are_finite = [_is_finite(logits) for logits in rows]
        choosing = [i for i, work in enumerate(works) if work.chooses and are_finite[i]]
        questions = [_question(works[i], rows[i]) for i in choosing]
        tokens = dict(zip(choosing, choose(questions, self._contenders), strict=True))
        return [
            _outcome(work, logits, tokens.get(i)) if are_finite[i] else Outcome(error=NOT_FINITE)
            for i, (work, logits) in enumerate(zip(works, rows, strict=True))
        ]


def _is_finite(logits: Logits) -> bool:
    """Whether all values are: NaN and infinities show in the extremes, which are found faster than looked for."""
    return not logits.size or bool(np.isfinite(logits.min()) and np.isfinite(logits.max()))


def _question(work: Work, logits: Logits) -> Question:
    sequence = work.sequence
    tokens, border = sequence.tokens, sequence.prompt_len
    return Question(logits[-1], sequence.submit.sampling, tokens[:border], tokens[border:])


def _outcome(work: Work, logits: Logits, token: int | None) -> Outcome:
    """The chosen token, if any, with the log-probabilities that were asked for."""
    sequence, sampling = work.sequence, work.sequence.submit.sampling
    tops: list[Top] = []
    if sequence.prompt_tops is not None:
        known = sequence.tokens[work.start + 1 : sequence.prompt_len]
        tops = [top_of(row, one, sampling.prompt_logprobs or 0) for row, one in zip(logits, known, strict=False)]
    top = None if token is None or sampling.logprobs is None else top_of(logits[-1], token, sampling.logprobs)
    return Outcome(token, top, tops)
