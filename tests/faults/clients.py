"""Small clients: one request and what came of it, compared with what the oracle must say."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from benchmarks.load import PATHS
from benchmarks.rig import Rig, until
from dsctl.oracle.ledger import GatewayLine, read_lines
from dsctl.oracle.tokens import expected_ids, text_of


@dataclass(slots=True)
class Answer:
    """What came back."""

    status: int
    text: dict[int, str] = field(default_factory=dict)
    raw: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    is_done: bool = False
    usage: dict[str, Any] | None = None

    @property
    def ledger_name(self) -> str:
        """The request id."""
        return self.headers["x-request-id"]


def body_of(seed: int, *, tokens: int = 12, stream: bool = True, **more: Any) -> dict[str, Any]:
    """A chat request for the oracle."""
    return {
        "messages": [{"role": "user", "content": "hi"}],
        "seed": seed,
        "max_tokens": tokens,
        "stream": stream,
        **more,
    }


def ask(
    rig: Rig, body: dict[str, Any], route: str = "chat", headers: dict[str, str] | None = None, url: str = ""
) -> Answer:
    """Send one request and read all of the answer."""
    with rig.client.stream("POST", (url or rig.url) + PATHS[route], json=body, headers=headers or {}) as response:
        answer = Answer(response.status_code, headers=dict(response.headers))
        answer.raw = "".join(response.iter_text())
    if not answer.headers["content-type"].startswith("text/event-stream"):
        _take(answer, json.loads(answer.raw))
        return answer
    for line in answer.raw.splitlines():
        if line == "data: [DONE]":
            answer.is_done = True
        elif line.startswith("data: "):
            _take(answer, json.loads(line[6:]))
    return answer


def _take(answer: Answer, value: dict[str, Any]) -> None:
    answer.error = value.get("error", answer.error)
    answer.usage = value.get("usage", answer.usage)
    choices = value.get("choices", [{"index": 0, **value}] if "text" in value else [])
    for choice in choices:
        part = choice.get("delta") or choice.get("message") or choice
        text = (part.get("reasoning_content") or "") + (part.get("content") or part.get("text") or "")
        answer.text[choice["index"]] = answer.text.get(choice["index"], "") + text


def wanted(body: dict[str, Any]) -> dict[int, str]:
    """The text of each choice of an undisturbed run."""
    endless = bool(body.get("ignore_eos"))
    count = body.get("n", 1)
    runs = [expected_ids(body["seed"], choice, body["max_tokens"], ignore_eos=endless) for choice in range(count)]
    return {choice: text_of(ids) for choice, (ids, _) in enumerate(runs)}


def assert_exact(answer: Answer, body: dict[str, Any]) -> None:
    """The answer is whole and identical to an undisturbed run."""
    assert (answer.status, answer.error) == (200, None), answer.raw[-500:]
    assert answer.text == wanted(body)
    assert answer.is_done or not body["stream"]


def ask_all(rig: Rig, seeds: range, **more: Any) -> list[Answer]:
    """One request after another (they alternate between equal replicas); each must be exact."""
    answers: list[Answer] = []
    for seed in seeds:
        body = body_of(seed, **more)
        answer = ask(rig, body)
        assert_exact(answer, body)
        answers.append(answer)
    return answers


def ask_until_moved(rig: Rig, **more: Any) -> GatewayLine:
    """One request after another until one needed a second attempt; every one must be exact."""
    for seed in range(20):
        line = line_of(rig, ask_all(rig, range(seed, seed + 1), **more)[0].ledger_name)
        if len(line.attempts) > 1:
            return line
    raise AssertionError("no request met the faulty replica")


def line_of(rig: Rig, request_id: str) -> GatewayLine:
    """The gateway's ledger line of a request; waits for it."""

    def find() -> GatewayLine | None:
        lines: list[GatewayLine] = read_lines(rig.folder / "gateway.jsonl", GatewayLine)
        return next((line for line in lines if line.request_id == request_id), None)

    return until(f"a ledger line for {request_id}", find)
