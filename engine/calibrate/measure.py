"""Runs texts through models, every token given, and compares what they say about the next one, position by position."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from engine.layers.batch import Segment, StepBatch
from engine.modeling.loader import Loaded

BLOCK: Final = 16  # cache positions of a block
ROWS: Final = 1024  # most rows of a step
LOGITS: Final = 256 << 20  # most bytes of a step's logits
CLEAR: Final = 0.1  # nats between the best and the next token from which on a choice is no toss-up


@dataclass(frozen=True, slots=True)
class Sample:
    """Tokens, of which those from `start` on are predicted; before it they are given with the prompt's arithmetic.

    Where `generated`, tokens from `start` on have the arithmetic that they have when a model writes them.
    """

    ids: tuple[int, ...]
    start: int = 1
    generated: bool = False

    @property
    def targets(self) -> Tensor:
        """int64 [predicted]."""
        return torch.tensor(self.ids[self.start :])


def batches(samples: Iterable[Sample], vocab_size: int) -> Iterator[list[Sample]]:
    """Samples that fit into a step together, in order."""
    most = max(1, min(ROWS, LOGITS // (4 * vocab_size)))
    group: list[Sample] = []
    for sample in samples:
        if group and sum(len(one.ids) for one in group) + len(sample.ids) > most:
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


@torch.inference_mode()
def logits_of(model: Loaded, samples: Sequence[Sample]) -> Tensor:
    """Logits float32 [predicted tokens of all samples, vocab], in order, from one step with a cache of its own."""
    segments: list[Segment] = []
    slots: list[Tensor] = []
    rows: list[Tensor] = []
    first_block = row = 0
    for sample in samples:
        count = len(sample.ids) - 1  # nothing follows the last token
        blocks = -(-count // BLOCK)
        table = torch.arange(first_block, first_block + blocks)
        border = sample.start if sample.generated else count
        for begin, end in ((0, min(border, count)), (min(border, count), count)):
            if end > begin:
                segments.append(Segment(row + begin, end - begin, begin, begin == border, table))
        slots.append(torch.arange(count) + first_block * BLOCK)
        rows.append(torch.arange(row + sample.start - 1, row + count))
        first_block += blocks
        row += count
    ids = torch.tensor([token for sample in samples for token in sample.ids[:-1]])
    positions = torch.cat([torch.arange(len(sample.ids) - 1) for sample in samples])
    cache = model.new_cache(first_block, BLOCK)
    return model.forward(StepBatch(ids, positions, torch.cat(slots), tuple(segments), torch.cat(rows)), cache)


@dataclass(frozen=True, slots=True)
class Judged:
    """What one model says at each predicted position of some samples."""

    logprobs: Tensor  # float64 [positions, vocab]
    targets: Tensor  # int64 [positions]

    @classmethod
    def of(cls, logits: Tensor, samples: Sequence[Sample]) -> Judged:
        """From the logits of `logits_of`."""
        return cls(logits.double().log_softmax(-1), torch.cat([sample.targets for sample in samples]))

    @property
    def losses(self) -> Tensor:
        """Negative log-likelihood of what really came next, in nats, float64 [positions]."""
        return -self.logprobs.gather(-1, self.targets[:, None])[:, 0]

    @property
    def margins(self) -> Tensor:
        """Nats between the best token and the next, float64 [positions]."""
        best = self.logprobs.topk(2, dim=-1).values
        return best[:, 0] - best[:, 1]


class Comparison:
    """Collects how a changed model differs from the one it was made from."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, ...]] = []
        self._exact = [0, 0]
        self._answers = 0

    def add(self, base: Judged, changed: Judged, samples: Sequence[Sample]) -> None:
        """Take in one step's positions of both models."""
        kl = (base.logprobs.exp() * (base.logprobs - changed.logprobs)).sum(-1).clamp_min(0)
        best, other = base.logprobs.argmax(-1), changed.logprobs.argmax(-1)
        self._parts.append((kl, base.losses, changed.losses, best == other, base.margins > CLEAR))
        place = 0
        for sample in samples:
            span = slice(place, place + len(sample.ids) - sample.start)
            place = span.stop
            if sample.generated:  # an answer: right when greedy decoding would write it token by token
                self._answers += 1
                for index, choice in enumerate((best, other)):
                    self._exact[index] += bool(torch.equal(choice[span], base.targets[span]))

    def result(self) -> Difference:
        """All positions together."""
        kl, base, changed, agree, clear = (torch.cat(parts) for parts in zip(*self._parts, strict=True))
        count = kl.numel()
        gain = base - changed
        return Difference(
            tokens=count,
            loss=float(base.mean()),
            ratio=math.exp(float(gain.mean())),
            ratio_error=math.exp(float(gain.mean())) * _error(gain),
            kl=float(kl.mean()),
            kl_error=_error(kl),
            kl_99=float(kl.quantile(0.99)) if count < 1 << 24 else float(kl.sort().values[int(0.99 * count)]),
            top1=float(agree.double().mean()),
            top1_clear=float(agree[clear].double().mean()) if bool(clear.any()) else 1.0,
            answers=self._answers,
            exact_base=self._exact[0],
            exact_changed=self._exact[1],
        )


def _error(values: Tensor) -> float:
    """Standard error of the mean."""
    return float(values.std()) / math.sqrt(values.numel()) if values.numel() > 1 else math.inf


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a changed model is from its base; losses and divergences in nats, errors are standard errors."""

    tokens: int
    loss: float  # of the base
    ratio: float  # base perplexity / changed perplexity = exp(NLL base - NLL changed): below 1 is worse
    ratio_error: float
    kl: float  # mean KL(base ‖ changed)
    kl_error: float
    kl_99: float  # 99th percentile
    top1: float  # share of positions with the same best token
    top1_clear: float  # the same where the base's best is CLEAR nats ahead
    answers: int
    exact_base: int  # answers that greedy decoding gives word for word
    exact_changed: int

    @property
    def exact_ratio(self) -> float:
        """Exact answers of the changed model for one of the base; 1 when the base has none."""
        return self.exact_changed / self.exact_base if self.exact_base else 1.0

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"exact_ratio": self.exact_ratio}


def compare(base: Loaded, changed: dict[str, Loaded], samples: Iterable[Sample]) -> dict[str, Difference]:
    """Each changed model against the base, one step's logits at a time."""
    found = {name: Comparison() for name in changed}
    for group in batches(samples, base.spec.vocab_size):
        judged = Judged.of(logits_of(base, group), group)
        for name, model in changed.items():
            found[name].add(judged, Judged.of(logits_of(model, group), group), group)
    return {name: comparison.result() for name, comparison in found.items()}
