"""What is asked: request i of a run, made from the seed alone, so that the same seed asks the same bytes again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from typing import Any

import msgspec

from dsctl.bench.plan import PATHS, Plan, Row

TEXT = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work night point home water room mother area money story "
    "fact month lot right study book eye job word business issue side kind head house service friend father power "
    "hour game line end member law car city name team minute idea body back parent face others level office door "
    "health person art war history party result change morning reason research girl guy moment air teacher force "
    "education"
)
WORDS = tuple(TEXT.split())
TRACE_BLOCK = 512  # tokens a block id of a trace stands for
CORPUS = 16_384  # words of synthetic text that prompts are cut from


@dataclass(frozen=True, slots=True)
class Request:
    """One request before its text is put together with what came before it."""

    index: int  # its conversation's number in the schedule
    turn: int
    messages: tuple[dict[str, str], ...]  # of this turn alone
    want_in: int | None
    want_out: int
    priority: str | None
    priority_value: int | None
    leave_after: int | None


class Writer:
    """Makes requests and their bodies. Every prompt begins with its own number, so that no cache answers for the model;
    only text that is meant to be shared (prefixes, blocks of a trace) comes before it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._target = plan.target
        self._work = plan.workload
        rng = random.Random(f"{self._work.seed}/text")
        self._corpus = [rng.choice(WORDS) for _ in range(CORPUS)]
        self._shares = list(accumulate(one.share for one in self._work.priorities))
        self.path = PATHS[plan.target.endpoint]

    def request(self, index: int, turn: int = 0) -> Request:
        """The request of conversation `index` at its `turn`."""
        work = self._work
        rng = random.Random(f"{work.seed}/{index}/{turn}")
        row = work.rows[index % len(work.rows)] if work.rows else None
        want_in = row.n_in if row is not None else work.isl.draw(rng)
        want_out = row.n_out if row is not None and row.n_out is not None else work.osl.draw(rng)
        if row is not None and (row.messages or row.prompt is not None):
            messages = tuple(row.messages or ({"role": "user", "content": row.prompt or ""},))
        else:
            messages = self._synthetic(rng, index, turn, want_in or 1, row)
        if work.prefixes and turn == 0:
            want_in = want_in and want_in + work.prefix_tokens
        priority = self._priority(index)
        leaves = work.leave_share > 0 and rng.random() < work.leave_share
        return Request(
            index=index,
            turn=turn,
            messages=messages,
            want_in=want_in,
            want_out=want_out,
            priority=priority.name if priority else None,
            priority_value=priority.value if priority else None,
            leave_after=rng.randint(1, max(1, want_out - 1)) if leaves else None,
        )

    def body(self, request: Request, history: Sequence[dict[str, str]] = ()) -> bytes:
        """The JSON of a request after the turns before it."""
        target, messages = self._target, [*history, *request.messages]
        told: dict[str, Any] = {"model": target.model}
        if target.endpoint == "chat":
            told["messages"] = messages
        else:
            told["prompt"] = "\n\n".join(message["content"] for message in messages)
        told |= {"max_tokens": request.want_out, "temperature": 0, "stream": True}
        if target.takes_usage:
            told["stream_options"] = {"include_usage": True}
        if self._work.ignore_eos and target.takes_ignore_eos:
            told["ignore_eos"] = True
        if request.priority_value is not None and target.takes_priority:
            told["priority"] = request.priority_value
        return msgspec.json.encode(told)

    def words(self, tokens: float, rng: random.Random) -> str:
        """Text of about so many tokens, by what the server counted for such text."""
        count = max(1, round(tokens / self._target.tokens_per_word))
        pieces: list[str] = []
        while count > 0:
            start = rng.randrange(CORPUS)
            pieces += self._corpus[start : start + count]
            count -= CORPUS - start if start + count > CORPUS else count
        return " ".join(pieces)

    def sha256(self, most: int = 1000) -> str:
        """A fingerprint of the first requests as they are sent."""
        digest = sha256()
        for index in range(most if self._plan.load.requests is None else min(most, self._plan.load.requests)):
            for turn in range(self._work.turns):
                digest.update(self.body(self.request(index, turn)))
        return digest.hexdigest()

    def _synthetic(
        self, rng: random.Random, index: int, turn: int, tokens: int, row: Row | None
    ) -> tuple[dict[str, str], ...]:
        work = self._work
        if row is not None and row.blocks:
            last = max(1, min(TRACE_BLOCK, tokens - TRACE_BLOCK * (len(row.blocks) - 1)))
            sizes = [*[TRACE_BLOCK] * (len(row.blocks) - 1), last]
            shared = [self._shared("block", one, size) for one, size in zip(row.blocks, sizes, strict=True)]
            return ({"role": "user", "content": " ".join(shared)},)
        own = f"{number(work.seed, index, turn)} {self.words(tokens - self._target.tokens_around, rng)}"
        message = {"role": "user", "content": own}
        if work.prefixes and turn == 0:
            which = rng.randrange(work.prefixes)
            return ({"role": "system", "content": self._shared("prefix", which, work.prefix_tokens)}, message)
        return (message,)

    def _shared(self, kind: str, which: int, tokens: int) -> str:
        return f"{kind} {which} {self.words(tokens, random.Random(f'{self._work.seed}/{kind}/{which}'))}"

    def _priority(self, index: int) -> Any:
        if not self._shares:
            return None
        point = random.Random(f"{self._work.seed}/priority/{index}").random() * self._shares[-1]
        return next(one for one, bound in zip(self._work.priorities, self._shares, strict=True) if point < bound)


def number(seed: int, index: int, turn: int) -> str:
    """What a prompt begins with: different for every request of every seed, and always as long."""
    return sha256(f"{seed}/{index}/{turn}".encode()).hexdigest()[:12]
