"""Chooses the next token from a row of logits; nothing but the row, the request and the position has a say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.kernels.cpu.library import Draw
from engine.running import noise
from engine.running.kept import Row, kept, ranked
from engine.wire.messages import Sampling, Top

Logits = NDArray[np.float32]  # one row [vocab]
# For each draw the ids, rising, of which one wins, or None: a compiled search that changes no answer.
Contenders = Callable[[Sequence[Draw]], Sequence[noise.Ids | None]]


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


def choose(questions: Sequence[Question], contenders: Contenders | None = None) -> list[int]:
    """For each question argmax(logits / T + Gumbel noise) over the kept ids, ties to the lowest id.

    Temperature 0 is the argmax of the logits after penalties and bias. Questions are answered together for speed;
    no answer depends on another question, nor on who looks for contenders.
    """
    answers = [0] * len(questions)
    open_: list[int] = []
    rows: list[NDArray[np.float32] | Row] = []
    for i, question in enumerate(questions):
        row = adjusted(question.logits, question.sampling, question.prompt, question.output)
        if question.sampling.temperature == 0.0:
            answers[i] = int(np.argmax(row))
        else:
            open_.append(i)
            rows.append(row)
    asked = [questions[i] for i in open_]
    candidates = _candidates(asked, rows, contenders)
    vocab = rows[0].size if rows else 1
    noises = noise.gumbel([question.address for question in asked], [ids for ids, _ in candidates], vocab)
    for i, (ids, values), lifts in zip(open_, candidates, noises, strict=True):
        answers[i] = int(ids[np.argmax(values + lifts)])
    return answers


def _candidates(
    questions: Sequence[Question], rows: Sequence[NDArray[np.float32] | Row], search: Contenders | None
) -> list[tuple[noise.Ids, Row]]:
    """The ids, rising, that may win each question, and their logits divided by the temperature."""
    found = _contenders(questions, rows, search)
    scaled = {
        n: rows[n].astype(np.float64) / questions[n].sampling.temperature for n, ids in enumerate(found) if ids is None
    }
    kept_ids = dict(zip(scaled, _kept([questions[n] for n in scaled], list(scaled.values())), strict=True))
    return [
        (kept_ids[n], scaled[n][kept_ids[n]])
        if ids is None
        else (ids, rows[n][ids].astype(np.float64) / questions[n].sampling.temperature)
        for n, ids in enumerate(found)
    ]


def _contenders(
    questions: Sequence[Question], rows: Sequence[NDArray[np.float32] | Row], search: Contenders | None
) -> list[noise.Ids | None]:
    """What the search says of questions that leave the model's logits as they are and keep every id."""
    found: list[noise.Ids | None] = [None] * len(questions)
    if search is None:
        return found
    plain = [
        n
        for n, (question, row) in enumerate(zip(questions, rows, strict=True))
        if row is question.logits and row.flags.c_contiguous and not _is_filtered(question.sampling)
    ]
    draws = [Draw(questions[n].logits, questions[n].sampling.temperature, questions[n].address) for n in plain]
    for n, ids in zip(plain, search(draws) if draws else (), strict=True):
        found[n] = ids
    return found


def _is_filtered(sampling: Sampling) -> bool:
    return sampling.top_p < 1.0 or sampling.min_p > 0.0 or sampling.top_k > 0


def _kept(questions: Sequence[Question], rows: Sequence[Row]) -> list[noise.Ids]:
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
