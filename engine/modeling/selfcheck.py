"""Start-up proof that on this machine a row's bits depend on nothing but its sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from engine.layers.batch import Segment, StepBatch
from engine.spec.model import ModelSpec

_BLOCK = 16
_PROMPT = 37  # crosses a row tile
_OUTPUT = 9  # more than one tile of generated rows
_OTHERS = 5
_LARGE = 256 << 20  # bytes of one layer of each kind; above, fewer outputs and companions bound the time


class Checkable(Protocol):
    """What the check asks of a model, whole or in parts."""

    @property
    def spec(self) -> ModelSpec:
        """Its dimensions."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Bytes of its matrices."""
        ...

    def shortened(self) -> Self:
        """The same with one layer of each kind."""
        ...

    def new_cache(self, num_blocks: int, block_size: int) -> Any:
        """An empty cache."""
        ...

    def forward(self, batch: StepBatch, cache: Any) -> Tensor:
        """Logits of the batch's wanted rows."""
        ...


def check(model: Checkable) -> str:
    """Empty when logits are bit-equal in every arrangement tried, else the first that differs."""
    short = model.shortened()
    prompt = min(_PROMPT, model.spec.max_positions // 2)
    is_large = short.weight_bytes > _LARGE
    output = min(2 if is_large else _OUTPUT, model.spec.max_positions - prompt)
    generator = torch.Generator().manual_seed(prompt)
    tokens = torch.randint(
        model.spec.vocab_size, (1 + (2 if is_large else _OTHERS), prompt + output), generator=generator
    )
    run = _Arrangements(short, tokens, prompt)
    threads = torch.get_num_threads()
    try:
        expected = run.apart()
        trials = {
            "chunks": run.apart(chunk=7),
            "replay": run.apart(replay=True),
            "companions": run.together(),
        }
        torch.set_num_threads(1 if threads > 1 else 2)
        trials["threads"] = run.apart()
    finally:
        torch.set_num_threads(threads)
    for name, found in trials.items():
        if not torch.equal(found, expected):
            rows = int((found != expected).any(-1).sum())
            return f"{name} change the logits' bits on this machine ({rows} of {expected.shape[0]} rows)"
    return ""


class _Arrangements:
    """Ways to compute the logits of one sequence: prompt, then generated tokens; they must not differ."""

    def __init__(self, model: Checkable, tokens: Tensor, prompt: int) -> None:
        self._model = model
        self._tokens = tokens
        self._prompt = prompt
        self._blocks = -(-tokens.shape[1] // _BLOCK)

    def apart(self, chunk: int = 0, *, replay: bool = False) -> Tensor:
        """Logits of every row of the first sequence, alone."""
        cache = self._cache()
        length = self._tokens.shape[1]
        chunk = chunk or self._prompt
        spans = [(at, min(at + chunk, self._prompt)) for at in range(0, self._prompt, chunk)]
        spans += [(self._prompt, length)] if replay else [(at, at + 1) for at in range(self._prompt, length)]
        return torch.cat([self._step(cache, [(0, *span)]) for span in spans])

    def together(self) -> Tensor:
        """The same rows among other sequences, in odd places and with other lengths."""
        cache = self._cache()
        others = range(1, self._tokens.shape[0])
        first = [(i, 0, max(1, self._prompt - i)) for i in others]
        kept = [self._step(cache, [*first[:2], (0, 0, self._prompt), *first[2:]], of=2)]
        for at in range(self._prompt, self._tokens.shape[1]):
            crowd = [(i, at - i, at - i + 1) for i in others if at - i >= self._prompt]
            kept.append(self._step(cache, [*crowd, (0, at, at + 1)], of=len(crowd)))
        return torch.cat(kept)

    def _cache(self) -> Any:
        return self._model.new_cache(self._tokens.shape[0] * self._blocks, _BLOCK)

    def _step(self, cache: Any, spans: Sequence[tuple[int, int, int]], of: int = 0) -> Tensor:
        """One step over (sequence, first, end) spans; logits of all rows of span number `of`."""
        batch, starts = step_batch(self._tokens, spans, self._prompt, self._blocks)
        _, first, end = spans[of]
        rows = torch.arange(starts[of], starts[of] + end - first)
        return self._model.forward(StepBatch(*batch, rows), cache)


def step_batch(
    tokens: Tensor, spans: Sequence[tuple[int, int, int]], prompt: int, blocks: int
) -> tuple[tuple[Tensor, Tensor, Tensor, tuple[Segment, ...]], list[int]]:
    """Fields of a StepBatch over spans that do not cross `prompt`; sequence i owns blocks from i × `blocks` on."""
    segments: list[Segment] = []
    starts: list[int] = []
    ids: list[Tensor] = []
    places: list[Tensor] = []
    slots: list[Tensor] = []
    row = 0
    for sequence, first, end in spans:
        table = torch.arange(blocks).flip(0) + sequence * blocks
        positions = torch.arange(first, end)
        segments.append(Segment(row, end - first, first, first >= prompt, table))
        starts.append(row)
        ids.append(tokens[sequence, first:end])
        places.append(positions)
        slots.append(table[positions // _BLOCK] * _BLOCK + positions % _BLOCK)
        row += end - first
    return (torch.cat(ids), torch.cat(places), torch.cat(slots), tuple(segments)), starts
