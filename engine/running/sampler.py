"""Chooses the next token from a row of logits; nothing but the row, the request and the position has a say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.running import noise
from engine.running.kept import Row, kept, ranked
from engine.wire.messages import Sampling, Top

Logits = NDArray[np.float32]  # one row [vocab]


@dataclass(frozen=True, slots=True)
class Question:
    """Which token comes after `prompt` and `output`? The position in the noise is len(output)."""

    logits: Logits
    sampling: Sampling
    prompt: Sequence[int]
    output: Sequence[int]

    @property
    def address(self) -> noise.Address:
        """Where this token's noise lies."""
        return (self.sampling.seed, self.sampling.choice, len(self.output))


def choose(questions: Sequence[Question]) -> list[int]:
    """For each question argmax(logits / T + Gumbel noise) over the kept ids, ties to the lowest id.

    Temperature 0 is the argmax of the logits after penalties and bias. Questions are answered together for speed;
    no answer depends on another question.
    """
    answers = [0] * len(questions)
    open_: list[int] = []
    rows: list[Row] = []
    for i, question in enumerate(questions):
        row = adjusted(question.logits, question.sampling, question.prompt, question.output)
        if question.sampling.temperature == 0.0:
            answers[i] = int(np.argmax(row))
        else:
            open_.append(i)
            rows.append(row.astype(np.float64) / question.sampling.temperature)
    ids = _candidates([questions[i] for i in open_], rows)
    noises = noise.gumbel([questions[i].address for i in open_], ids, rows[0].size if rows else 1)
    for i, row, those, values in zip(open_, rows, ids, noises, strict=True):
        answers[i] = int(those[np.argmax(row[those] + values)])
    return answers


def _candidates(questions: Sequence[Question], rows: Sequence[Row]) -> list[noise.Ids]:
    """The ids, rising, that may win: those kept, or, where all are kept, those that the largest noise could lift.

    The most likely id with its own noise sets the mark that any other must reach.
    """
    leads = [np.argmax(row, keepdims=True) for row in rows]
    own = noise.gumbel([question.address for question in questions], leads, rows[0].size if rows else 1)
    found: list[noise.Ids] = []
    for question, row, lead, value in zip(questions, rows, leads, own, strict=True):
        sampling = question.sampling
        ids = kept(row, sampling.top_k, sampling.top_p, sampling.min_p)
        if ids is None:
            mark = float(row[lead[0]] + value[0])
            ids = np.flatnonzero(row >= mark - noise.LARGEST - 1e-9 * (1.0 + abs(mark)))
        found.append(ids)
    return found


def adjusted(
    logits: Logits, sampling: Sampling, prompt: Sequence[int], output: Sequence[int]
) -> NDArray[np.float32] | Row:
    """Logits after repetition, frequency and presence penalty, bias, and the ban on stopping before min_tokens.

    Repetition looks at prompt and output, frequency and presence at the output only.
    """
    is_banned = len(output) < sampling.min_tokens and bool(sampling.stop_token_ids)
    has_counts = sampling.frequency_penalty != 0.0 or sampling.presence_penalty != 0.0
    if not (is_banned or has_counts or sampling.logit_bias or sampling.repetition_penalty != 1.0):
        return logits
    row = logits.astype(np.float64)
    if sampling.repetition_penalty != 1.0:
        seen = np.unique(np.array([*prompt, *output], dtype=np.int64))
        row[seen] *= np.where(row[seen] > 0, 1.0 / sampling.repetition_penalty, sampling.repetition_penalty)
    if has_counts and output:
        ids, counts = np.unique(np.array(output, dtype=np.int64), return_counts=True)
        row[ids] -= counts * sampling.frequency_penalty + sampling.presence_penalty
    for token, bias in sampling.logit_bias.items():
        row[token] += bias
    if is_banned:
        row[[token for token in sampling.stop_token_ids if 0 <= token < row.size]] = -np.inf
    return row


def top_of(logits: Logits, token: int, count: int) -> Top:
    """Log-probability and rank of `token` and the `count` most likely ids: of the raw logits, natural log."""
    row = logits.astype(np.float64)
    shifted = row - row.max()
    row = shifted - np.log(np.exp(shifted).sum())
    ids = ranked(row, count) if count else np.empty(0, dtype=np.int64)
    rank = 1 + int(np.count_nonzero(row > row[token]))
    return Top(float(row[token]), rank, ids.tolist(), row[ids].tolist())
