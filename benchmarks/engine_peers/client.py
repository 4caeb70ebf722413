"""The load that every server gets: N streamed completions at once, each of random token ids of its own."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field

import aiohttp

from benchmarks.engine_peers.results import Http, Spread, percentile
from benchmarks.engine_peers.shape import ANSWER, CONFIG, PROMPT, SPECIALS


@dataclass(slots=True)
class Answer:
    """One streamed answer as the client saw it."""

    began: float
    arrivals: list[float] = field(default_factory=list[float])  # one for each event with text
    texts: list[str] = field(default_factory=list[str])
    tokens: int = 0
    error: str = ""

    @property
    def ttft(self) -> float:
        """Seconds to the first text."""
        return self.arrivals[0] - self.began

    @property
    def gaps(self) -> list[float]:
        """Seconds between events."""
        return [b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False)]

    def take(self, line: str, now: float) -> None:
        """One data line of the stream."""
        event = json.loads(line)
        if "error" in event:
            self.error = str(event["error"])
        for choice in event.get("choices") or []:
            if choice.get("text"):
                self.arrivals.append(now)
                self.texts.append(choice["text"])
        usage = event.get("usage")
        if usage:
            self.tokens = usage["completion_tokens"]


def random_prompt(seed: int, length: int = PROMPT) -> list[int]:
    """Ids without specials; another seed is another prompt."""
    chosen = random.Random(seed)
    return [chosen.randrange(SPECIALS, CONFIG["vocab_size"]) for _ in range(length)]


async def ask(session: aiohttp.ClientSession, url: str, model: str, prompt: list[int], tokens: int) -> Answer:
    """One greedy completion of exactly `tokens` tokens, read event by event. Never raises for a server's failure."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    answer = Answer(time.perf_counter())
    try:
        async with session.post(f"{url}/v1/completions", json=body) as response:
            if response.status != 200:
                answer.error = f"{response.status}: {(await response.text())[:300]}"
                return answer
            async for raw in response.content:
                line = raw.decode().strip()
                if line.startswith("data:") and not line.endswith("[DONE]"):
                    answer.take(line[5:], time.perf_counter())
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        answer.error = answer.error or repr(error)
    if not answer.error and answer.tokens != tokens:
        answer.error = f"{answer.tokens} tokens instead of {tokens}"
    return answer


async def at_once(url: str, model: str, clients: int, seed: int) -> tuple[list[Answer], float]:
    """Answers of `clients` requests sent together, and the seconds from sending to the last answer's end."""
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        start = time.perf_counter()
        prompts = [random_prompt(seed * 1000 + index) for index in range(clients)]
        answers = await asyncio.gather(*(ask(session, url, model, prompt, ANSWER) for prompt in prompts))
        return answers, time.perf_counter() - start


def load(url: str, model: str, clients: int, rounds: int) -> Http:
    """Several rounds of `clients` at once."""
    answers: list[Answer] = []
    speeds: list[float] = []
    for number in range(rounds):
        got, took = asyncio.run(at_once(url, model, clients, clients * 100 + number))
        answers += got
        speeds.append(sum(answer.tokens for answer in got if not answer.error) / took)
    return summary(clients, answers, speeds)


def summary(clients: int, answers: list[Answer], speeds: list[float]) -> Http:
    """The figures of a load; failed answers count as failed and in nothing else."""
    good = [answer for answer in answers if not answer.error and answer.arrivals]
    gaps = [1e3 * gap for answer in good for gap in answer.gaps]
    firsts = [1e3 * answer.ttft for answer in good]
    texts = [text for answer in good for text in answer.texts]
    return Http(
        clients=clients,
        tokens_per_s=Spread(tuple(speeds)),
        ttft_p50_ms=percentile(firsts, 0.5),
        ttft_p99_ms=percentile(firsts, 0.99),
        itl_p50_ms=percentile(gaps, 0.5),
        itl_p99_ms=percentile(gaps, 0.99),
        failed=len(answers) - len(good),
        different=len(set(texts)) / len(texts) if texts else 0.0,
    )
