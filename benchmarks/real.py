"""Requests to the real engine, whose undisturbed answers are taken first to compare a fault run with."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from benchmarks.load import Plan, open_loop
from benchmarks.rig import Rig, until
from dsctl.oracle.ledger import Expected

KINDS = 24  # distinct requests; the fault run draws from them
QUESTIONS = ("What is 17 + 25?", "What is 40 + 2?", "How do I deploy?", "How do I scale to three replicas?", "Hello")


def _body(rng: random.Random, number: int) -> tuple[str, dict[str, Any]]:
    question = QUESTIONS[number % len(QUESTIONS)]
    route = ("chat", "completions", "chat", "inference")[number % 4]
    body: dict[str, Any] = {"max_tokens": rng.choice((8, 48, 256)), "stream": number % 6 != 0}
    if route == "chat":
        body["messages"] = [{"role": "user", "content": question}]
    else:
        body["prompt" if route == "completions" else "text"] = question
    body |= {"temperature": rng.choice((0.0, 0.8)), "seed": rng.getrandbits(31)}
    if route != "inference":
        body |= {"ignore_eos": number % 2 == 0, "n": rng.choice((1, 1, 2)), "return_token_ids": True}
    else:
        body["stream"] = False
    if body["stream"]:
        body["stream_options"] = {"include_usage": True}
    return route, body


def real_plans(rig: Rig, rng: random.Random, count: int) -> list[tuple[Plan, Expected]]:
    """`count` requests and what an undisturbed run of each gives. Starts the rig; it goes on running."""
    kinds = [_body(rng, number) for number in range(KINDS)]
    rig.__enter__()
    calm = [Plan(f"calm-{number}", route, body) for number, (route, body) in enumerate(kinds)]
    result = asyncio.run(open_loop(rig.url, calm, rate=4.0))
    ledger = rig.folder / "gateway.jsonl"
    until("the calm requests are written down", lambda: ledger.read_bytes().count(b"\n") == KINDS)
    ledger.write_bytes(b"")
    wanted: dict[str, Expected] = {}
    for record in result.records:
        if record.outcome != "done":
            rig.close()
            raise RuntimeError(f"the undisturbed run of {record.request_id} ended {record.outcome}: {record.detail}")
        finished = [reason or "" for reason in record.finished]
        wanted[record.request_id] = Expected(record.ids, record.text, finished)
    plans: list[tuple[Plan, Expected]] = []
    for number in range(count):
        pick = rng.randrange(KINDS)
        route, body = kinds[pick]
        plans.append((Plan(f"load-{number}", route, body), wanted[f"calm-{pick}"]))
    return plans
