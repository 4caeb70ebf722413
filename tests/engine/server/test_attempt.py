"""The stream between replica and gateway: Meta lines, resuming at any token, and errors (fake core)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.server.fake_core import TEXT
from tests.engine.server.programs import Server, serving

TOKEN = "token-of-the-project"


@pytest.fixture(scope="module")
def replica(textual_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A replica with a token whose model always says the same text."""
    path = tmp_path_factory.mktemp("replica") / "token"
    path.write_text(TOKEN)
    with serving(textual_model, "--token-file", str(path), faults={"cycle_text": 1, "step_s": 0.001}) as running:
        running.headers["authorization"] = f"Bearer {TOKEN}"
        yield running


class Received:
    """What a gateway gets of one attempt."""

    def __init__(self, server: Server, body: dict[str, Any], resume: dict[str, Any] | None = None) -> None:
        route = "chat" if "messages" in body else "completions"
        attempt = {"route": route, "id": "cmpl-x", "created": 5, "seed": 9, "attempt": 1, "body": body}
        self.ids: dict[int, list[int]] = {}
        self.texts: dict[int, list[str]] = {}
        self.finished: dict[int, str] = {}
        self.chunks: list[dict[str, Any]] = []
        self.end: dict[str, Any] | None = None
        self.cached: int | None = None
        kinds = []
        for kind, value in server.events("/internal/v1/generate", attempt | {"resume": resume}):
            kinds.append(kind)
            if kind == "meta":
                self._meta(value)
            elif kind == "data":
                self._chunk(value)
        assert kinds[-2:] == ["meta", "done"]

    def _meta(self, meta: dict[str, Any]) -> None:
        self.end = meta.get("end", self.end)
        self.cached = meta.get("cached", self.cached)
        self.ids.setdefault(meta.get("c", -1), []).extend(meta.get("t", []))
        if "f" in meta:
            self.finished[meta["c"]] = meta["f"]

    def _chunk(self, chunk: dict[str, Any]) -> None:
        assert (chunk["id"], chunk["created"]) == ("cmpl-x", 5)
        self.chunks.append(chunk)
        for choice in chunk["choices"]:
            text = choice["text"] if "text" in choice else choice["delta"].get("content", "")
            self.texts.setdefault(choice["index"], []).append(text)

    def text(self, choice: int = 0) -> str:
        """The text of a choice."""
        return "".join(self.texts.get(choice, []))


def _resume(ids: dict[int, list[int]], finished: dict[int, str] | None = None) -> dict[str, Any]:
    choices = [{"index": index, "ids": had, "finished": (finished or {}).get(index)} for index, had in ids.items()]
    return {"choices": choices, "cached_tokens": 0, "prompt_sent": True, "role_sent": True}


def test_ids_and_text_agree(replica: Server) -> None:
    """Meta lines carry every id, data lines exactly the client's text; usage ends the stream."""
    size = len(TEXT.encode())
    got = Received(replica, {"prompt": "x", "max_tokens": size, "stream": True})
    assert bytes(got.ids[0]).decode() == got.text() == TEXT
    assert got.finished == {0: "length"}
    assert got.end == {"prompt_tokens": 2, "completion_tokens": size, "cached_tokens": 0, "reasoning_tokens": 0}
    assert got.cached == 0


def test_the_stream_is_the_same_for_a_client_that_does_not_stream(replica: Server) -> None:
    """`stream` of the client's body does not matter, but a usage chunk comes only when asked for."""
    plain = Received(replica, {"prompt": "x", "max_tokens": 4})
    asked = Received(
        replica, {"prompt": "x", "max_tokens": 4, "stream": True, "stream_options": {"include_usage": True}}
    )
    assert plain.ids == asked.ids
    assert [chunk["choices"] for chunk in asked.chunks[-1:]] == [[]]
    assert all(chunk["choices"] for chunk in plain.chunks)


@pytest.mark.parametrize("stop", [None, "🌍, n", "zz"])
def test_resuming_at_every_token(replica: Server, stop: str | None) -> None:
    """Cut after any token and resumed: the texts joined are the undisturbed text, also inside an emoji or a stop."""
    body = {"prompt": "x", "max_tokens": 40, "stop": stop, "stream": True}
    whole = Received(replica, body)
    for cut in range(1, len(whole.ids[0]), 2):
        had = whole.ids[0][:cut]
        rest = Received(replica, body, _resume({0: had}))
        assert rest.ids[0] == whole.ids[0][cut:]
        assert whole.text().endswith(rest.text())
        assert rest.end == whole.end
        assert rest.finished == whole.finished


def test_a_resumed_attempt_sends_the_missing_text_only(replica: Server) -> None:
    """What was shown for the first ids plus what the resumed attempt shows is the whole text, for every cut."""
    body = {"prompt": "x", "max_tokens": 36, "stop": ["🌍, x"], "stream": True, "return_token_ids": True}
    whole = Received(replica, body)
    shown = 0
    ids = 0
    for chunk in whole.chunks[1:]:
        choice = chunk["choices"][0]
        ids += len(choice["token_ids"])
        shown += len(choice["text"])
        if not choice["finish_reason"]:
            rest = Received(replica, body, _resume({0: whole.ids[0][:ids]}))
            assert whole.text()[:shown] + rest.text() == whole.text()


def test_roles_prompts_and_finished_choices_come_once(replica: Server) -> None:
    """The role chunk opens each choice once; a finished choice is not computed again, usage counts it."""
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 6, "n": 2, "stream": True}
    whole = Received(replica, body)
    roles = [c["index"] for chunk in whole.chunks for c in chunk["choices"] if c["delta"].get("role")]
    assert sorted(roles) == [0, 1]
    rest = Received(replica, body, _resume({0: whole.ids[0], 1: whole.ids[1][:2]}, {0: "length"}))
    assert 0 not in rest.ids
    assert rest.ids[1] == whole.ids[1][2:]
    assert not any(c["delta"].get("role") for chunk in rest.chunks for c in chunk["choices"])
    assert rest.end == whole.end


def test_all_is_said_already(replica: Server) -> None:
    """A resume whose ids are already the whole answer ends at once with the right reason."""
    whole = Received(replica, {"prompt": "x", "max_tokens": 5})
    rest = Received(replica, {"prompt": "x", "max_tokens": 5}, _resume({0: whole.ids[0]}))
    assert rest.finished == {0: "length"}
    assert rest.end == whole.end


def test_refusals_before_the_first_byte(replica: Server) -> None:
    """A bad client body is the client's 4xx; an attempt that is none is a 400; a wrong resume too."""
    attempt = {"route": "completions", "id": "a", "created": 1, "seed": 1, "attempt": 1, "body": {"prompt": "x"}}
    for change, status in (
        ({"body": {"prompt": "x", "n": 99}}, 400),
        ({"body": {"prompt": "x", "model": "other"}}, 404),
        ({"route": "nonsense"}, 400),
        ({"resume": _resume({3: [1]})}, 400),
        ({"resume": _resume({0: [99999]})}, 400),
    ):
        answer = replica.post("/internal/v1/generate", attempt | change)
        assert answer.status_code == status
        assert answer.json()["error"]["message"]


def test_heartbeats_while_nothing_is_sent(replica: Server) -> None:
    """A stop string that may still come holds the text back; heartbeats or Meta lines keep coming."""
    lines = []
    attempt = {"route": "completions", "id": "a", "created": 1, "seed": 1, "attempt": 1}
    body = {"prompt": "x", "max_tokens": 8, "stop": TEXT[:20]}
    with replica.http.stream(
        "POST", replica.url + "/internal/v1/generate", json=attempt | {"body": body}, headers=replica.headers
    ) as answer:
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-accel-buffering"] == "no"
        lines = [line for line in answer.iter_lines() if line]
    metas = [json.loads(line[1:]) for line in lines if line.startswith(":{")]
    data = [line for line in lines if line.startswith("data: {")]
    assert sum(len(meta.get("t", [])) for meta in metas) == 8
    assert len(data) == 1
    assert json.loads(data[0][6:])["choices"][0]["text"] == TEXT.encode()[:8].decode()


def test_progress(replica: Server) -> None:
    """The progress stream shows a ready core whose heartbeats go up."""
    seen: list[dict[str, Any]] = []
    with replica.http.stream("GET", replica.url + "/internal/v1/progress", headers=replica.headers) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line[6:]))
                if seen[-1]["beat"] > seen[0]["beat"]:
                    break
    assert {entry["state"] for entry in seen} == {"ready"}
    assert seen[0]["numerics_id"] == "fake-1"
