"""Secrets of the environment and of logs are in no output: text, JSON, Markdown, bundle, self-tests, repairs."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from dsctl.base.missing import Missing
from dsctl.cli.app import run
from dsctl.doctor.redact import is_secret_name, redact, redacted
from dsctl.reach import vitals

# Variable → value; none of the values has a shape that gives it away.
ENVIRONMENT = {
    "NVIDIA_API_KEY": "plainvalue1xyz", "NCCL_AUTH_TOKEN": "plainvalue2xyz", "CUDA_REGISTRY_PASSWORD": "plainvalue3xyz",
    "HF_TOKEN": "plainvalue4xyz", "DSCTL_API_KEY": "plainvalue5xyz", "AWS_SECRET_ACCESS_KEY": "plainvalue6xyz",
    "NCCL_P2P_DISABLE": "1",
}  # fmt: skip
LOG = """\
INFO non-default args: {'model': '/m', 'api_key': ['plainvalue7xyz'], 'max_model_len': 4096}
vllm serve /m --api-key plainvalue8xyz --tensor-parallel-size 2
HF_TOKEN=plainvalue9xyz
{"level": "info", "password": "plainvalue10xyz", "message": "login"}
curl -H 'Authorization: Bearer plainvalue11xyz' https://u:plainvalue12xyz@registry.example/v2/
OSError: [Errno 28] No space left on device: '/x' token=plainvalue13xyz
client_secret: plainvalue14xyz
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log full of secrets in a machine whose environment is full of them."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DSCTL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vitals, "kernel_log", lambda *_: Missing("not here"))
    (tmp_path / "serve.log").write_text(LOG)
    return tmp_path


@pytest.mark.parametrize("form", ["text", "json", "markdown"])
@pytest.mark.parametrize("arguments", [["--logs", "serve.log"], ["--logs", "serve.log", "--live"], []])
def test_no_form_shows_a_secret(
    arguments: list[str], form: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is looked at and in whatever form: no value of a secret, on either stream; the finding is there."""
    run(["doctor", *arguments, "--format", form, "--threshold", "info"])
    said = "".join(capsys.readouterr())
    assert ("No space left" in said) == bool(arguments)
    assert ("NCCL_P2P_DISABLE=1" in said) == (arguments != ["--logs", "serve.log"])
    assert "plainvalue" not in said


def test_a_bundle_holds_no_secret(place: Path) -> None:
    """Members of the bundle, and what is said from it elsewhere, hold none either; harmless variables are there."""
    run(["doctor", "--logs", "serve.log", "--live", "--out", "b.tgz"])
    with tarfile.open(place / "b.tgz") as archive:
        texts = [stream.read().decode() for entry in archive if (stream := archive.extractfile(entry))]
    assert [text for text in texts if "plainvalue" in text] == []
    assert any("NCCL_P2P_DISABLE" in text for text in texts)


def test_an_error_quotes_no_secret(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A refused --config does not repeat the secrets in it."""
    run(["doctor", "--config", "--api-key plainvalue8xyz --max-model-len 10", "--json"])
    assert "plainvalue" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("HF_TOKEN", True), ("api_key", True),
        ("AWS_SECRET_ACCESS_KEY", True), ("password", True), ("webhook_url", True),
        ("max_tokens", False), ("tokenizer", False), ("NCCL_DEBUG", False), ("max_model_len", False),
    ],
)  # fmt: skip
def test_names_of_secrets(name: str, is_one: bool) -> None:
    """A value is taken out for its name alone; names that only sound alike keep theirs."""
    assert is_secret_name(name) == is_one
    shown = redacted({"a": [{name: "abc"}]})
    assert ("abc" in str(shown)) != is_one


def test_options_that_only_sound_like_secrets_keep_their_values() -> None:
    """`--tokenizer` and its relatives are what a reader needs; `--hf-token` is not."""
    shown = redact("serve --tokenizer /models/r1 --tokenizer-mode auto --hf-token plainvalue7 --api-key plainvalue8")
    assert "--tokenizer /models/r1 --tokenizer-mode auto" in shown
    assert "plainvalue" not in shown
