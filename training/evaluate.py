"""Measure a checkpoint with the training code: `python -m training.evaluate DIR [--split dev] [--show]`.

Decoding is greedy. Where the model's best token agrees with the reference answer at every position, greedy decoding
gives exactly that answer, which one pass shows; only the other questions are decoded token by token.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from training import additions, facts, tokenizer
from training.data import Batch, Document, collate
from training.export import load
from training.heldout import FOLDER
from training.model import Transformer

MAX_TOKENS = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A question with the completion that training would have given it."""

    question: str
    thought: str
    answer: str


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """What the model wrote: the answer without the thought, and whether it ended by itself within MAX_TOKENS."""

    text: str
    finished: bool


class Judge:
    """A loaded model and its tokenizer."""

    def __init__(self, model: Transformer, tok: Tokenizer) -> None:
        self.model, self.tok = model, tok
        self.eos = tokenizer.identity(tok, tokenizer.EOS)

    def _documents(self, cases: list[Case]) -> list[Document]:
        made: list[Document] = []
        for case in cases:
            given = self.tok.encode(tokenizer.prompt(case.question)).ids
            wanted = self.tok.encode(tokenizer.completion(case.thought, case.answer)).ids
            made.append(Document(given + wanted, len(given)))
        return made

    def _states(self, batch: Batch) -> torch.Tensor:
        return self.model(batch.tokens, self.model.layout(batch.positions, batch.documents))

    @torch.no_grad()
    def replies(self, cases: list[Case], size: int = 48) -> list[Reply]:
        """Greedy replies to the cases, in order."""
        documents, found = self._documents(cases), []
        for at in range(0, len(cases), size):
            found += self._some_replies(documents[at : at + size])
        return found

    def _some_replies(self, documents: list[Document]) -> list[Reply]:
        batch = collate([[d] for d in documents], max(len(d.ids) for d in documents), self.eos)
        best = self.model.lm_head(self._states(batch)).argmax(-1)
        wrong = (best != batch.targets) & (batch.targets >= 0)
        written: list[list[int]] = []
        for row, document in enumerate(documents):
            # What agrees with the reference is what greedy decoding writes; at the first difference it parts.
            first = int(wrong[row].int().argmax()) if bool(wrong[row].any()) else len(document.ids) - 2
            written.append([*document.ids[document.start : first + 1], int(best[row, first])])
        self._continue([d.ids[: d.start] for d in documents], written)
        return [self._reply(ids) for ids in written]

    @torch.no_grad()
    def agreeing(self, cases: list[Case]) -> int:
        """In how many cases the best token agrees with the reference everywhere: quick, and never too many."""
        documents = self._documents(cases)
        batch = collate([[d] for d in documents], max(len(d.ids) for d in documents), self.eos)
        best = self.model.lm_head(self._states(batch)).argmax(-1)
        return int(((best == batch.targets) | (batch.targets < 0)).all(dim=1).sum())

    def _continue(self, prompts: list[list[int]], written: list[list[int]]) -> None:
        """Extend `written` in place until every row has ended or is MAX_TOKENS long."""
        while True:
            going = [i for i, ids in enumerate(written) if ids[-1] != self.eos and len(ids) < MAX_TOKENS]
            if not going:
                return
            rows = [Document(prompts[i] + written[i], 1) for i in going]
            ends = torch.tensor([len(row.ids) - 1 for row in rows])
            states = self._states(collate([[row] for row in rows], int(ends.max()) + 1, self.eos))
            tokens = self.model.lm_head(states[torch.arange(len(rows)), ends]).argmax(-1).tolist()
            for i, token in zip(going, tokens, strict=True):
                written[i].append(token)

    def _reply(self, ids: list[int]) -> Reply:
        text = self.tok.decode(ids, skip_special_tokens=True)
        return Reply(text.split(tokenizer.END_THINK)[-1].strip(), ids[-1] == self.eos)

    @torch.no_grad()
    def perplexity(self, texts: list[str], length: int = 256) -> tuple[float, int]:
        """exp(mean negative log-likelihood per token) over windows of `length` that start with BOS, and the tokens."""
        bos = tokenizer.identity(self.tok, tokenizer.BOS)
        windows: list[list[Document]] = []
        for encoding in self.tok.encode_batch(texts):
            ids, step = encoding.ids, length - 1
            windows += [[Document([bos, *ids[at : at + step]], 1)] for at in range(0, len(ids), step)]
        total, count = 0.0, 0
        for at in range(0, len(windows), 16):
            batch = collate(windows[at : at + 16], length, self.eos)
            logits = self.model.lm_head(self._states(batch)).flatten(0, 1)
            total += float(F.cross_entropy(logits, batch.targets.flatten(), ignore_index=-100, reduction="sum"))
            count += int((batch.targets >= 0).sum())
        return math.exp(total / count), count

    @torch.no_grad()
    def draft_acceptance(self, cases: list[Case]) -> float:
        """Share of positions of the reference completions at which the draft layer agrees with the main model."""
        documents = self._documents(cases)
        batch = collate([[d] for d in documents], max(len(d.ids) for d in documents), self.eos)
        layout = self.model.layout(batch.positions, batch.documents)
        states = self.model(batch.tokens, layout)
        main = self.model.lm_head(states).argmax(-1)
        draft = self.model.lm_head(self.model.draft(states, batch.tokens, batch.positions, layout)).argmax(-1)
        counted = (batch.drafts >= 0)[:, :-1]
        return float((draft[:, :-1] == main[:, 1:])[counted].float().mean())


def rows(name: str) -> list[dict[str, str]]:
    """The held-out rows of one file."""
    return [json.loads(line) for line in (FOLDER / name).read_text().splitlines()]


def addition_cases() -> list[Case]:
    """The held-out sums."""
    cases: list[Case] = []
    for row in rows("additions.jsonl"):
        a, b = (int(n) for n in "".join(c if c.isdigit() else " " for c in row["question"]).split())
        cases.append(Case(row["question"], additions.think(a, b), row["answer"]))
    return cases


def phrasing_cases(split: str) -> list[Case]:
    """The held-out wordings of a split."""
    known = {fact.name: fact for fact in facts.load()}
    cases: list[Case] = []
    for row in rows("phrasings.jsonl" if split == "test" else "phrasings_dev.jsonl"):
        n = "".join(c if c.isdigit() else " " for c in row["question"]).split() or [""]
        cases.append(Case(row["question"], known[row["fact"]].think.replace("{n}", n[0]), row["answer"]))
    return cases


def main() -> None:
    """Print the table of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--show", action="store_true", help="print the questions answered wrongly")
    parser.add_argument("--quick", action="store_true", help="count only answers equal to the reference; for a look")
    parser.add_argument("--limit", type=int, default=100_000)
    args = parser.parse_args()
    judge = Judge(load(args.folder), Tokenizer.from_file(str(args.folder / "tokenizer.json")))
    sums = addition_cases()[: args.limit]
    if args.quick:
        questions = phrasing_cases("dev")
        print(f"sums {judge.agreeing(sums[:60])}/60, dev {judge.agreeing(questions)}/{len(questions)} at least")
        return
    right = [r.finished and r.text == c.answer for c, r in zip(sums, judge.replies(sums), strict=True)]
    print(f"additions, pairs never trained: {sum(right)}/{len(right)}")
    questions = phrasing_cases(args.split)[: args.limit]
    replies = judge.replies(questions)
    good = [r.finished and facts.keys(r.text) == facts.keys(c.answer) for c, r in zip(questions, replies, strict=True)]
    print(f"phrasings, {args.split}: {sum(good)}/{len(good)}")
    if args.show:
        for case, reply, ok in zip(questions, replies, good, strict=True):
            if not ok:
                print(f"  {case.question!r}\n    want {case.answer!r}\n    got  {reply.text!r}")
    perplexity, count = judge.perplexity([row["text"] for row in rows("text.jsonl")])
    print(f"perplexity on held-out text: {perplexity:.2f} over {count} tokens")
    print(f"draft agreement on the phrasings: {judge.draft_acceptance(questions):.3f}")


if __name__ == "__main__":
    main()
