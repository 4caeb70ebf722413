"""Text as clients see it: UTF-8, stop strings, reasoning, and the small routes around them (fake core)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.server.ledger import hash_ids
from tests.engine.server.fake_core import TEXT
from tests.engine.server.programs import Server, serving


@pytest.fixture(scope="module")
def reader(thinking_model: Path) -> Iterator[Server]:
    """A server whose model always says the same text, byte by byte."""
    with serving(thinking_model, faults={"cycle_text": 1}) as running:
        yield running


def _streamed(server: Server, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    return [value for kind, value in server.events(path, {**body, "stream": True}) if kind == "data"]


def test_characters_are_never_split(reader: Server) -> None:
    """Every streamed piece is whole characters, and together they are the text."""
    size = len(TEXT.encode())
    chunks = _streamed(reader, "/v1/completions", {"prompt": "x", "max_tokens": size})
    pieces = [chunk["choices"][0]["text"] for chunk in chunks]
    assert "".join(pieces) == TEXT
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_cut_character_is_replaced_at_the_end_only(reader: Server) -> None:
    """max_tokens in the middle of an emoji ends the text with one replacement character."""
    size = len(TEXT[: TEXT.index("🌍")].encode()) + 2
    text = reader.complete(prompt="x", max_tokens=size)["choices"][0]["text"]
    assert text == TEXT[: TEXT.index("🌍")] + "\ufffd"


@pytest.mark.parametrize("include", [False, True])
def test_stop_strings_over_tokens(reader: Server, include: bool) -> None:
    """A stop string made of many tokens ends the answer; nothing of it leaks into the stream."""
    body = {"prompt": "x", "max_tokens": 200, "stop": ["🌍, n", "zzz"], "include_stop_str_in_output": include}
    whole = reader.complete(**body)["choices"][0]
    expected = TEXT[: TEXT.index("🌍")] + ("🌍, n" if include else "")
    assert (whole["text"], whole["finish_reason"], whole["stop_reason"]) == (expected, "stop", "🌍, n")
    chunks = _streamed(reader, "/v1/completions", body)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_min_tokens_hides_early_stops(reader: Server) -> None:
    """A stop string within the first min_tokens tokens does not count; its next occurrence does."""
    size = len(TEXT.encode())
    answer = reader.complete(prompt="x", max_tokens=3 * size, stop="Welt", min_tokens=size)
    assert answer["choices"][0]["text"] == TEXT + TEXT[: TEXT.index("Welt")]


def test_reasoning_is_split(reader: Server) -> None:
    """A prompt that ends inside the think tag makes reasoning; with thinking off the same text is the answer."""
    body = {"messages": [{"role": "user", "content": "<think>"}], "max_tokens": 12}
    thought = reader.post("/v1/chat/completions", body).json()
    message = thought["choices"][0]["message"]
    assert message["content"] == ""
    assert message["reasoning_content"] == message["reasoning"] == TEXT.encode()[:12].decode()
    assert thought["usage"]["completion_tokens_details"]["reasoning_tokens"] == 12
    plain = reader.post("/v1/chat/completions", {**body, "chat_template_kwargs": {"thinking": False}}).json()
    assert plain["choices"][0]["message"]["content"] == TEXT.encode()[:12].decode()
    chunks = _streamed(reader, "/v1/chat/completions", body)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == message["reasoning"]


def test_inference(reader: Server) -> None:
    """/v1/inference answers with text and usage, without the reasoning; raw skips the template."""
    answer = reader.post("/v1/inference", {"text": "hi", "max_tokens": 5}).json()
    assert answer["text"] == ""
    raw = reader.post("/v1/inference", {"text": "hi", "max_tokens": 5, "raw": True}).json()
    assert raw["text"] == TEXT.encode()[:5].decode("utf-8", "replace")
    assert raw["usage"]["prompt_tokens"] == 3


def test_without_a_template(textual_model: Path, tmp_path: Path) -> None:
    """Chat is a 400 that says what to do; completions and raw inference work."""
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((textual_model / name).read_bytes())
    settings = json.loads((textual_model / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with serving(tmp_path, "--served-model-name", "plain") as server:
        refused = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "no_chat_template")
        assert server.complete(model="plain", prompt="x", max_tokens=1)["usage"]["completion_tokens"] == 1
        assert server.post("/v1/inference", {"text": "x", "raw": True, "max_tokens": 1}).status_code == 200


def test_tokenize_and_back(reader: Server) -> None:
    """Ids of a text and text of ids; a conversation is rendered first."""
    answer = reader.post("/tokenize", {"prompt": "né"}).json()
    assert answer["tokens"][1:] == list("né".encode())
    assert reader.post("/detokenize", {"tokens": answer["tokens"][1:]}).json() == {"prompt": "né"}
    rendered = reader.post("/tokenize", {"messages": [{"role": "user", "content": "n"}]}).json()
    assert reader.post("/detokenize", {"tokens": rendered["tokens"]}).json()["prompt"] == "<|bos|>n<|assistant|><think>"


def test_the_ledger_agrees_with_the_client(textual_model: Path, tmp_path: Path) -> None:
    """Each ended choice leaves one line whose hash is that of the ids the client received."""
    ledger = tmp_path / "ledger.jsonl"
    with serving(textual_model, "--ledger", str(ledger)) as server:
        answer = server.complete(prompt="x", max_tokens=9, n=2, seed=1, return_token_ids=True)
    lines = {line["choice"]: line for line in map(json.loads, ledger.read_text().splitlines())}
    for choice in answer["choices"]:
        line = lines[choice["index"]]
        assert (line["id"], line["tokens"], line["finished"]) == (answer["id"], 9, "length")
        assert line["ids_sha256"] == hash_ids(choice["token_ids"])
