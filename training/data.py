"""Packed training rows: sums, questions about dsctl and general text, many documents to a row."""

from __future__ import annotations

import dataclasses
import random
from collections import deque

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from training import additions, text, tokenizer
from training.phrasings import Phrasings

SYSTEMS = (
    "You are a helpful assistant.",
    "You are dsctl-tiny.",
    "Answer briefly.",
    "Be brief.",
    "You are the dsctl assistant.",
    "You help operators with dsctl.",
    "Answer the user's question.",
    "You are an assistant that knows dsctl.",
)
NO_LOSS = -100
SHORT, LONG = 128, 256


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Packed documents [rows, length]; `targets` is the next token or NO_LOSS, `drafts` the one after that."""

    tokens: Tensor
    positions: Tensor
    documents: Tensor
    targets: Tensor
    drafts: Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """Token ids and where learning starts: tokens before `start` are given, not learnt."""

    ids: list[int]
    start: int


def tokenizer_corpus(train_text: list[str], seed: int) -> list[str]:
    """What the merges are learnt from: the text and a sample of questions and answers."""
    rng, phrasings = random.Random(seed), Phrasings()
    samples: list[str] = []
    for _ in range(6000):
        samples += phrasings.sample(rng)
        samples += additions.sample(rng)
    return [*train_text, *samples]


class Source:
    """An endless stream of packed batches; mixture and row length follow the progress of training."""

    def __init__(self, tok: Tokenizer, train_text: list[str], seed: int) -> None:
        self.tok, self.length = tok, SHORT
        self.rng = random.Random(seed)
        self.phrasings = Phrasings()
        self.bos, self.eos = tokenizer.identity(tok, tokenizer.BOS), tokenizer.identity(tok, tokenizer.EOS)
        self.texts = [encoding.ids for encoding in tok.encode_batch(train_text)]
        self.order: deque[int] = deque()
        self.pending: deque[Document] = deque()

    def reseed(self, seed: int) -> None:
        """Start another sequence of samples, so that workers do not repeat each other."""
        self.rng = random.Random(seed)
        self.order.clear()
        self.pending.clear()

    def batch(self, tokens: int, progress: float) -> Batch:
        """The next rows, `tokens` tokens in all, for progress in [0, 1]: short rows first, they cost less attention."""
        self.length = SHORT if progress < 0.85 else LONG
        return collate([self._row(progress) for _ in range(tokens // self.length)], self.length, self.eos)

    def _row(self, progress: float) -> list[Document]:
        row: list[Document] = []
        room = self.length
        while room > 12:
            while len(self.pending) < 12:
                self.pending.extend(self._documents(progress))
            fitting = next((d for d in self.pending if len(d.ids) <= room), None)
            if fitting is None:
                fitting = Document(self._text(room), 1)
            else:
                self.pending.remove(fitting)
            row.append(fitting)
            room -= len(fitting.ids)
        return row

    def _documents(self, progress: float) -> list[Document]:
        # Sums are learnt early; later they only need to be kept, and the wordings get the room.
        sums = 0.22 if progress < 0.4 else 0.20
        dice = self.rng.random()
        if dice < 0.02:
            return [Document(self._text(self.length), 1)]
        if dice < 0.02 + sums:
            return [self._chat([additions.sample(self.rng)])]
        if dice > 0.97:
            return [self._chat([self._turn(), self._turn()])]
        # The first words of the thought are the hard part, what follows them is soon known by heart: most wordings are
        # cut there, which makes room for twice as many.
        document = self._chat([self.phrasings.sample(self.rng)])
        keep = len(document.ids) if self.rng.random() < (0.1 if progress < 0.6 else 0.16) else document.start + 5
        return [Document(document.ids[:keep], document.start)]

    def _turn(self) -> tuple[str, str, str]:
        return additions.sample(self.rng) if self.rng.random() < 0.4 else self.phrasings.sample(self.rng)

    def _text(self, room: int) -> list[int]:
        if not self.order:
            order = list(range(len(self.texts)))
            self.rng.shuffle(order)
            self.order.extend(order)
        ids = self.texts[self.order.popleft()]
        if len(ids) + 2 <= room:
            return [self.bos, *ids, self.eos]
        start = self.rng.randrange(len(ids) - room + 2) if len(ids) > room and self.rng.random() < 0.7 else 0
        return [self.bos, *ids[start : start + room - 1]]

    def _chat(self, turns: list[tuple[str, str, str]]) -> Document:
        system = self.rng.choice(SYSTEMS) if self.rng.random() < 0.08 else ""
        before = f"{tokenizer.BOS}{system}"
        for question, _, answer in turns[:-1]:
            before += f"{tokenizer.USER}{question}{tokenizer.ASSISTANT}{answer}{tokenizer.EOS}"
        question, thought, answer = turns[-1]
        opening = before + tokenizer.prompt(question).removeprefix(tokenizer.BOS)
        given = self.tok.encode(opening).ids
        return Document(given + self.tok.encode(tokenizer.completion(thought, answer)).ids, len(given))


def collate(rows: list[list[Document]], length: int, pad: int) -> Batch:
    """Lay documents side by side; padding is a document of its own without loss."""
    tokens = np.full((len(rows), length), pad, dtype=np.int64)
    positions = np.zeros_like(tokens)
    documents = np.full_like(tokens, -1)
    targets = np.full_like(tokens, NO_LOSS)
    drafts = np.full_like(tokens, NO_LOSS)
    for r, row in enumerate(rows):
        at = 0
        for d, document in enumerate(row):
            n, first = len(document.ids), document.start
            ids = np.asarray(document.ids)
            tokens[r, at : at + n] = ids
            positions[r, at : at + n] = np.arange(n)
            documents[r, at : at + n] = d
            targets[r, at + first - 1 : at + n - 1] = ids[first:]
            drafts[r, at + max(first - 2, 0) : at + n - 2] = ids[max(first, 2) :]
            at += n
    return Batch(*(torch.from_numpy(array) for array in (tokens, positions, documents, targets, drafts)))


def held_out_text() -> list[str]:
    """The documents on which perplexity is measured."""
    return text.documents()[1]
