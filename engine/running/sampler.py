"""Chooses the next token from one row of logits; nothing but the row, the request and the position has a say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.running import noise
from engine.running.kept import Row, kept, ranked
from engine.wire.messages import Sampling, Top

Logits = NDArray[np.float32]  # one row [vocab]


def choose(logits: Logits, sampling: Sampling, prompt: Sequence[int], output: Sequence[int]) -> int:
    """The id at output position len(output): argmax(logits / T + Gumbel noise) over the kept ids, ties to the lowest.

    Temperature 0 is the argmax of the logits after penalties and bias.
    """
    row = adjusted(logits, sampling, prompt, output)
    if sampling.temperature == 0.0:
        return int(np.argmax(row))
    scaled = row.astype(np.float64) / sampling.temperature
    address = (sampling.seed, sampling.choice, len(output))
    ids = kept(scaled, sampling.top_k, sampling.top_p, sampling.min_p)
    if ids is None:
        ids = _contenders(scaled, address)
    return int(ids[np.argmax(scaled[ids] + noise.gumbel(*address, ids, scaled.size))])


def _contenders(scaled: Row, address: tuple[int, int, int]) -> noise.Ids:
    """Ids that could win with the largest noise there is, when the most likely one has its own; spares the rest."""
    lead = np.argmax(scaled, keepdims=True)
    mark = float(scaled[lead[0]] + noise.gumbel(*address, lead, scaled.size)[0])
    return np.flatnonzero(scaled >= mark - noise.LARGEST - 1e-9 * (1.0 + abs(mark)))


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
