"""Servers shared by the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.checkpoints import make_checkpoint, make_config, write_tokenizer
from tests.engine.server.programs import Server, serving


@pytest.fixture(scope="session")
def textual_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without weights: enough for a fake core."""
    path = tmp_path_factory.mktemp("models") / "textual"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(make_config("v3")))
    write_tokenizer(path)
    return path


@pytest.fixture(scope="session")
def thinking_model(textual_model: Path) -> Path:
    """The same with a template that opens the reasoning."""
    path = textual_model.parent / "thinking"
    path.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (path / name).write_bytes((textual_model / name).read_bytes())
    source = (
        "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% if thinking is not defined or thinking %}<think>{% endif %}"
        "{% endif %}"
    )
    (path / "chat_template.jinja").write_text(source)
    return path


@pytest.fixture(scope="session")
def server(textual_model: Path) -> Iterator[Server]:
    """One server on a fake core; tests leave it as they found it."""
    with serving(textual_model) as running:
        yield running


@pytest.fixture(scope="session")
def real_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random DeepSeek-V3 with weights."""
    return make_checkpoint(tmp_path_factory.mktemp("models") / "tiny-v3", "v3", tokenizer=True)


@pytest.fixture(scope="session")
def real(real_model: Path) -> Iterator[Server]:
    """One server on the real core; its core may be killed, since it comes back."""
    with serving(real_model, "--dtype", "float32", core=None) as running:
        yield running
