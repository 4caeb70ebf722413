"""Open-loop load on the request path: mixed requests, each answer read token by token and kept for the checker."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from dsctl.oracle.ledger import ClientRecord, Expected
from dsctl.oracle.stream import prompt_tokens
from dsctl.oracle.tokens import expected_ids, text_of

PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions", "inference": "/v1/inference"}
REQUEST_S = 120.0


@dataclass(frozen=True, slots=True)
class Plan:
    """One request to send. `leave_after` events the client closes the connection (0: it stays)."""

    request_id: str
    route: str
    body: dict[str, Any]
    leave_after: int = 0

    @property
    def streams(self) -> bool:
        """The client reads SSE."""
        return bool(self.body.get("stream"))


@dataclass(slots=True)
class Seen:
    """What one client saw, while it sees it."""

    text: dict[int, str] = field(default_factory=lambda: dict[int, str]())
    ids: dict[int, list[int]] = field(default_factory=lambda: dict[int, list[int]]())
    finished: dict[int, str | None] = field(default_factory=lambda: dict[int, str | None]())
    usage: tuple[int, int] | None = None
    is_done: bool = False
    error: str = ""
    began: float = 0.0
    last: float = 0.0
    gaps: list[tuple[float, float]] = field(default_factory=lambda: list[tuple[float, float]]())  # (end, length)

    def token(self, now: float) -> None:
        """A token event came."""
        if now - self.last > 0.1:
            self.gaps.append((now, now - self.last))
        self.last = now

    def take(self, chunk: dict[str, Any]) -> None:
        """One chunk or whole object."""
        if "error" in chunk:
            self.error = str(chunk["error"].get("code"))
        usage = chunk.get("usage")
        if usage:
            self.usage = (usage["prompt_tokens"], usage["completion_tokens"])
        choices = chunk.get("choices")
        if choices is None and "text" in chunk:
            choices = [{**chunk, "index": 0}]
        for choice in choices or []:
            self._choice(choice)

    def _choice(self, choice: dict[str, Any]) -> None:
        index = choice["index"]
        part = choice.get("delta") or choice.get("message") or choice
        text = (part.get("reasoning_content") or "") + (part.get("content") or part.get("text") or "")
        self.text[index] = self.text.get(index, "") + text
        self.ids.setdefault(index, []).extend(choice.get("token_ids") or [])
        self.finished[index] = choice.get("finish_reason") or self.finished.get(index)

    def record(self, plan: Plan, outcome: str, detail: str = "") -> ClientRecord:
        """As the checker wants it."""
        order = sorted(self.text)
        ids = [self.ids[index] for index in order] if any(self.ids.values()) else []
        return ClientRecord(
            request_id=plan.request_id,
            outcome=outcome,
            ids=ids,
            text=[self.text[index] for index in order],
            finished=[self.finished[index] for index in order],
            usage=self.usage,
            detail=detail or self.error,
        )


async def send(session: aiohttp.ClientSession, url: str, plan: Plan) -> tuple[ClientRecord, Seen]:
    """Send one request and read its answer to the end."""
    seen = Seen()
    seen.began = seen.last = time.monotonic()
    headers = {"x-request-id": plan.request_id}
    try:
        async with session.post(url + PATHS[plan.route], json=plan.body, headers=headers) as answer:
            if answer.status != 200:
                return seen.record(plan, "refused", f"{answer.status} {(await answer.text())[:200]}"), seen
            if not plan.streams:
                seen.take(json.loads(await answer.read()))
                return seen.record(plan, "done"), seen
            left = await _read(answer, plan, seen)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return seen.record(plan, "broken", f"{type(error).__name__}: {error}"), seen
    if left:
        return seen.record(plan, "aborted"), seen
    if seen.error:
        return seen.record(plan, "failed"), seen
    return seen.record(plan, "done" if seen.is_done else "broken", "" if seen.is_done else "EOF without [DONE]"), seen


async def _read(answer: aiohttp.ClientResponse, plan: Plan, seen: Seen) -> bool:
    """Read events; True when the client left on purpose."""
    events = 0
    async for line in answer.content:
        if not line.startswith(b"data: "):
            continue
        payload = line[6:].strip()
        if payload == b"[DONE]":
            seen.is_done = True
            continue
        seen.take(json.loads(payload))
        seen.token(time.monotonic())
        events += 1
        if plan.leave_after and events >= plan.leave_after:
            answer.close()
            return True
    return False


def oracle_plan(rng: random.Random, number: int, *, leave: bool = True) -> tuple[Plan, Expected]:
    """A random request to an oracle, and the answer it must get."""
    kind = rng.random()
    route = "chat" if kind < 0.7 else "completions" if kind < 0.9 else "inference"
    count = rng.randint(1, 40)
    choices = rng.choice((1, 1, 1, 2, 3)) if route != "inference" else 1
    seed = rng.getrandbits(40)
    body: dict[str, Any] = {"seed": seed, "max_tokens": count, "stream": rng.random() < 0.85}
    prompt = f"request {number} " + "x" * rng.randint(0, 400)
    if route == "chat":
        body["messages"] = [{"role": "user", "content": prompt}]
        body["chat_template_kwargs"] = {"thinking": rng.random() < 0.3}
    else:
        body["prompt" if route == "completions" else "text"] = prompt
    if route != "inference":
        body |= {"n": choices, "return_token_ids": True}
        if rng.random() < 0.3:
            body["logprobs"] = True if route == "chat" else 1
    if body["stream"]:
        body["stream_options"] = {"include_usage": True}
    leave_after = rng.randint(1, 5) if leave and body["stream"] and rng.random() < 0.05 else 0
    runs = [expected_ids(seed, choice, count) for choice in range(choices)]
    expected = Expected(
        ids=[ids for ids, _ in runs],
        text=[text_of(ids) for ids, _ in runs],
        finished=[finish for _, finish in runs],
        prompt_tokens=prompt_tokens(body),
    )
    return Plan(f"load-{number}", route, body, leave_after), expected


@dataclass(slots=True)
class Result:
    """What a load run brought back."""

    records: list[ClientRecord] = field(default_factory=lambda: list[ClientRecord]())
    seen: list[Seen] = field(default_factory=lambda: list[Seen]())


async def open_loop(url: str, plans: list[Plan], rate: float, stop: Callable[[], bool] = lambda: False) -> Result:
    """Send the plans at `rate` per second whatever comes back, and wait for all answers."""
    result = Result()
    timeout = aiohttp.ClientTimeout(total=REQUEST_S)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:

        async def one(plan: Plan) -> None:
            record, seen = await send(session, url, plan)
            result.records.append(record)
            result.seen.append(seen)

        began = time.monotonic()
        tasks: list[asyncio.Task[None]] = []
        for number, plan in enumerate(plans):
            if stop():
                break
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            tasks.append(asyncio.create_task(one(plan)))
        await asyncio.gather(*tasks)
    return result
