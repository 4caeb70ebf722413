"""The bundled model, served by the product itself, answers the questions it was never trained on."""

from __future__ import annotations

import json
import math
import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer

from training.facts import keys

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "dsctl-tiny"
HELD_OUT = ROOT / "training" / "heldout"
START_SECONDS = 120.0
MAX_TOKENS = 64
STREAMS = 16
LIMIT_BYTES = 16_000_000
WINDOW = 256
PERPLEXITY = 88.0  # 85.6 in fp32, plus 3 %


def rows(name: str) -> list[dict[str, Any]]:
    """The held-out questions of one file."""
    return [json.loads(line) for line in (HELD_OUT / name).read_text(encoding="utf-8").splitlines()]


def _ready_url(process: subprocess.Popen[str], log: Path) -> str:
    """The address of the line `ready http://H:P model=ID`; fails with the log when the process ends or is too slow."""
    assert process.stdout is not None
    deadline = time.monotonic() + START_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0 and selector.select(left):
            line = process.stdout.readline()
            if found := re.match(r"ready (http://\S+)", line):
                return found[1]
            if not line:
                break
    process.kill()
    pytest.fail(f"dsctl serve did not become ready:\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="module")
def served_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of `dsctl serve models/dsctl-tiny`, a replica of its own for this module."""
    home = tmp_path_factory.mktemp("home")
    env = {**os.environ, "DSCTL_HOME": str(home), "OMP_WAIT_POLICY": "PASSIVE"}
    log = home / "serve.log"
    command = [sys.executable, "-m", "dsctl", "serve", str(MODEL), "--port", "0"]
    with log.open("w") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        yield _ready_url(process, log)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(60)
        assert process.stdout is not None
        process.stdout.close()


def ask(client: httpx.Client, question: str) -> tuple[str, bool]:
    """The answer without its reasoning, and whether the model ended it itself."""
    body = {
        "model": MODEL.name,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
    }
    choice = client.post("/v1/chat/completions", json=body).raise_for_status().json()["choices"][0]
    return (choice["message"]["content"] or "").strip(), choice["finish_reason"] == "stop"


def answers(url: str, questions: list[str]) -> list[tuple[str, bool]]:
    """Answers to all questions, STREAMS at a time, in order."""
    with httpx.Client(base_url=url, timeout=120) as client, ThreadPoolExecutor(STREAMS) as pool:
        return list(pool.map(lambda question: ask(client, question), questions))


def check_additions(url: str, cases: list[dict[str, Any]]) -> None:
    """At least 98 % of the sums are exactly right."""
    got = answers(url, [case["question"] for case in cases])
    wrong = [
        (case["question"], text)
        for case, (text, ended) in zip(cases, got, strict=True)
        if text != case["answer"] or not ended
    ]
    assert len(wrong) <= 0.02 * len(cases), f"{len(cases) - len(wrong)}/{len(cases)} right; wrong: {wrong[:5]}"


def check_phrasings(url: str, cases: list[dict[str, Any]]) -> None:
    """At least 90 % of the answers name exactly the commands, flags and codes that they should."""
    got = answers(url, [case["question"] for case in cases])
    wrong = [
        (case["question"], text)
        for case, (text, ended) in zip(cases, got, strict=True)
        if sorted(keys(text)) != case["keys"] or not ended
    ]
    assert len(wrong) <= 0.10 * len(cases), f"{len(cases) - len(wrong)}/{len(cases)} right; wrong: {wrong[:5]}"


def prompt_logprobs(client: httpx.Client, ids: list[int]) -> list[float]:
    """The log-probability of every token of ids but the first."""
    body = {"model": MODEL.name, "prompt": ids, "echo": True, "logprobs": 0, "max_tokens": 1, "temperature": 0}
    choice = client.post("/v1/completions", json=body).raise_for_status().json()["choices"][0]
    return choice["logprobs"]["token_logprobs"][1 : len(ids)]


def perplexity(url: str, texts: list[str]) -> float:
    """Per token, over windows that start with BOS, as the training code measures it."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    windows: list[list[int]] = []
    for text in texts:
        ids = tokenizer.encode(text).ids
        windows += [[0, *ids[at : at + WINDOW - 1]] for at in range(0, len(ids), WINDOW - 1)]
    with httpx.Client(base_url=url, timeout=120) as client, ThreadPoolExecutor(STREAMS) as pool:
        found = [value for values in pool.map(lambda ids: prompt_logprobs(client, ids), windows) for value in values]
    return math.exp(-sum(found) / len(found))


def test_the_model_is_small_enough() -> None:
    """All files of the bundled model together stay under 16 MB."""
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= LIMIT_BYTES


def test_pairs_never_trained_are_added(served_model: str) -> None:
    """A sample of two-digit sums of pairs outside the training set is right in at least 98 % of the cases."""
    check_additions(served_model, rows("additions.jsonl")[:120])


def test_wordings_never_trained_are_answered(served_model: str) -> None:
    """Questions about dsctl in unseen wordings get the right command in at least 90 % of the cases."""
    check_phrasings(served_model, rows("phrasings.jsonl"))


def test_held_out_text_is_as_likely_as_stated(served_model: str) -> None:
    """The perplexity on text outside the training set is no worse than the README of the training says."""
    assert perplexity(served_model, [row["text"] for row in rows("text.jsonl")]) <= PERPLEXITY


@pytest.mark.long
@pytest.mark.timeout(600)
def test_all_pairs_never_trained_are_added(served_model: str) -> None:
    """Every two-digit sum of a pair outside the training set, at least 98 % right."""
    check_additions(served_model, rows("additions.jsonl"))


@pytest.mark.long
def test_development_wordings_are_answered(served_model: str) -> None:
    """The wordings that were looked at while writing the patterns reach 90 % as well."""
    check_phrasings(served_model, rows("phrasings_dev.jsonl"))
