"""`dsctl serve`, seen from outside: its output, its exit codes, and its log-probabilities against transformers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.checkpoints import make_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PROMPT = [256, 72, 101, 108, 108, 111, 44, 32, 119, 111, 114, 108, 100]


def _serve(*args: str) -> subprocess.Popen[str]:
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    return subprocess.Popen(
        [sys.executable, "-m", "dsctl", "serve", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        cwd=ROOT,
    )


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("contract") / "tiny-v3"
    make_checkpoint(path, "v3", tokenizer=True)
    return path


@pytest.fixture(scope="module")
def server(model_dir: Path) -> Iterator[str]:
    process = _serve(str(model_dir), "--port", "0", "--dtype", "float32")
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line.startswith("ready http://127.0.0.1:"):
        process.kill()
        raise AssertionError(f"no ready line but {line!r}: {process.communicate()[1][-2000:]}")
    assert line.endswith(f" model={model_dir.name}")
    yield line.split()[1]
    process.terminate()
    out, _ = process.communicate(timeout=30)
    assert out == ""  # stdout carries the ready line and nothing else


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_logprobs_match_transformers(server: str, model_dir: Path) -> None:
    """Greedy ids are the argmax of transformers' logits; log-probabilities are their log-softmax."""
    from transformers import AutoModelForCausalLM

    body = {"model": model_dir.name, "prompt": PROMPT, "max_tokens": 24, "temperature": 0, "logprobs": 5}
    choice = _post(f"{server}/v1/completions", body | {"return_token_ids": True, "ignore_eos": True})["choices"][0]
    ids = choice["token_ids"]
    reference = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    with torch.no_grad():
        logits = reference(torch.tensor([PROMPT + ids])).logits[0, len(PROMPT) - 1 : -1].float()
    expected = logits.log_softmax(-1)
    assert choice["prompt_token_ids"] == PROMPT
    assert ids == logits.argmax(-1).tolist()
    got = torch.tensor(choice["logprobs"]["token_logprobs"])
    assert len(choice["logprobs"]["tokens"]) == len(ids) == len(choice["logprobs"]["text_offset"])
    assert (got - expected.gather(1, torch.tensor(ids)[:, None])[:, 0]).abs().max() <= 1e-4 * logits.std()
    best = [max(top.values()) for top in choice["logprobs"]["top_logprobs"]]
    assert torch.allclose(torch.tensor(best), expected.max(-1).values, atol=1e-4 * float(logits.std()))


def test_models_and_health(server: str, model_dir: Path) -> None:
    """The model is named after its directory; readiness and liveness answer 200."""
    with urllib.request.urlopen(f"{server}/v1/models", timeout=20) as answer:
        assert json.load(answer)["data"][0]["id"] == model_dir.name
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{server}/v1/models/acme/other", timeout=20)
    assert (caught.value.code, json.load(caught.value)["error"]["code"]) == (404, "model_not_found")
    for path in ("/ready", "/health", f"/v1/models/{model_dir.name}"):
        with urllib.request.urlopen(server + path, timeout=20) as answer:
            assert answer.status == 200


def test_unsupported_field_is_refused(server: str, model_dir: Path) -> None:
    """A field that is not served yet is a 400 that names it, never ignored."""
    body = {"model": model_dir.name, "prompt": "x", "max_tokens": 1, "suffix": "y"}
    with pytest.raises(urllib.error.HTTPError) as caught:
        _post(f"{server}/v1/completions", body)
    error = json.load(caught.value)["error"]
    assert (caught.value.code, error["code"], error["param"]) == (400, "unsupported_parameter", "suffix")


def test_taken_port_exits_6(model_dir: Path) -> None:
    """A port in use is said clearly and ends with exit code 6."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = _serve(str(model_dir), "--port", str(port))
        _, err = process.communicate(timeout=60)
    assert process.returncode == 6
    assert str(port) in err


def test_truncated_checkpoint_exits_2(tmp_path: Path) -> None:
    """A cut-off weights file ends with exit code 2 and names the file."""
    make_checkpoint(tmp_path / "cut", "v3", tokenizer=True)
    weights = next((tmp_path / "cut").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    process = _serve(str(tmp_path / "cut"), "--port", "0")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert weights.name in err


def test_missing_directory_exits_2(tmp_path: Path) -> None:
    """A model directory that does not exist ends with exit code 2 and is named."""
    process = _serve(str(tmp_path / "nowhere"), "--port", "0")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "nowhere" in err


def test_checkpoint_without_tokenizer_serves_ids(tmp_path: Path) -> None:
    """Token ids in, token ids out when there is no tokenizer.json; text and chat are refused with the reason."""
    make_checkpoint(tmp_path / "bare", "v2-greedy")
    process = _serve(str(tmp_path / "bare"), "--dtype", "float32")
    assert process.stdout is not None
    try:
        url = process.stdout.readline().split()[1]
        body = {"model": "bare", "max_tokens": 4, "temperature": 0, "logprobs": 2, "return_token_ids": True}
        choice = _post(f"{url}/v1/completions", body | {"prompt": PROMPT, "ignore_eos": True})["choices"][0]
        assert len(choice["token_ids"]) == 4
        assert choice["logprobs"]["tokens"] == [f"token_id:{token}" for token in choice["token_ids"]]
        with pytest.raises(urllib.error.HTTPError) as caught:
            _post(f"{url}/v1/completions", body | {"prompt": "text"})
        assert (caught.value.code, json.load(caught.value)["error"]["code"]) == (400, "no_tokenizer")
        with pytest.raises(urllib.error.HTTPError) as caught:
            _post(f"{url}/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]})
        assert (caught.value.code, json.load(caught.value)["error"]["code"]) == (400, "no_chat_template")
    finally:
        process.terminate()
        process.communicate(timeout=30)
