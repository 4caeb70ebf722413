"""Quantising a model from the command line: what is written is served, limits hold, mistakes are named."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.calibrate import sensitivity
from engine.calibrate.__main__ import main
from engine.modeling import loader
from engine.spec.config import EngineConfig
from engine.spec.memory import plan_memory
from engine.spec.model import read_spec
from engine.spec.policy import resolve
from tests.engine.arrangements import alone
from tests.engine.checkpoints import make_checkpoint, write_tokenizer
from tests.engine.compiled import library

IDS = torch.randint(250, (40,), generator=torch.Generator().manual_seed(5))


@pytest.fixture(autouse=True)
def _kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels built once and kept; one thread."""
    chosen = library(request.config, None)
    monkeypatch.setattr(loader, "load_library", lambda: chosen)


def checkpoint(folder: Path, variant: str = "v3", **changes: Any) -> Path:
    """A small model with a tokenizer, whose experts have widths that int4 takes."""
    sizes = {"hidden_size": 64, "moe_intermediate_size": 64, "num_hidden_layers": 2}
    path = make_checkpoint(folder, variant, **{**sizes, **changes})
    write_tokenizer(path)
    return path


def quantise(*words: object) -> int:
    """The command, with few tokens."""
    return main([*map(str, words), "--tokens", "600", "--threads", "1"])


def report(out: Path) -> dict[str, Any]:
    """What report.json holds."""
    return json.loads((out / "report.json").read_text())


@pytest.mark.parametrize("variant", ["v3", "v2-greedy", "v3-mtp", "v3-tied", "v3-fp8"])
@pytest.mark.parametrize("bits", [8, 4])
def test_what_is_written_is_the_model_under_the_policy(
    tmp_path: Path, variant: str, bits: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Served from the new checkpoint: the very bits of the old one under the same policy, on kernels and reference."""
    path, out = make_checkpoint(tmp_path / "m", variant), tmp_path / "out"
    write_tokenizer(path)
    assert quantise(path, "--bits", bits, "--method", "symmetric", "--out", out) == 0
    assert "dsctl serve" in capsys.readouterr().out
    policy = resolve("auto", out, read_spec(out))
    for kernels in ("cpu", "reference"):
        old = loader.load(EngineConfig(str(path), kernels=kernels, quantization=str(out / "policy.json")))  # type: ignore[arg-type]
        new = loader.load(EngineConfig(str(out), kernels=kernels))  # type: ignore[arg-type]
        assert torch.equal(alone(new, IDS, 30), alone(old, IDS, 30))
        assert policy.name in new.numerics
    (out / "policy.json").unlink()  # the quantization_config says the same, but for a head that is the embedding
    assert resolve("auto", out, read_spec(out)) == replace(policy, head="none" if variant == "v3-tied" else policy.head)
    sizes = [sum(f.stat().st_size for f in folder.glob("*.safetensors")) for folder in (out, path)]
    assert sizes[0] < sizes[1] or (variant, bits) == ("v3-fp8", 8)


def test_memory_is_kept(tmp_path: Path) -> None:
    """The memory plan of what is written fits the wish; more memory, less loss; the page shows it without a network."""
    sizes = {"hidden_size": 128, "moe_intermediate_size": 256}
    path = checkpoint(tmp_path / "m", **sizes)
    found = re.search(r"(\d+)MiB would fit", refused(path, "--target-memory", "1MiB", "--out", tmp_path / "no"))
    assert found is not None
    losses: list[float] = []
    for more in (0, 2, 900):
        limit, out = int(found[1]) + more, tmp_path / f"out{more}"
        assert quantise(path, "--target-memory", f"{limit}MiB", "--out", out) == 0
        spec = read_spec(out)
        config = EngineConfig(str(out), kv_cache_tokens=spec.max_positions)
        assert plan_memory(spec, config, limit << 20, resolve("auto", out, spec), packed=True).total <= limit << 20
        losses.append(report(out)["difference"]["kl"])
    assert losses[0] > losses[1] > losses[2] == 0.0
    page = (tmp_path / "out2" / "report.html").read_text()
    assert page.count("<svg") == 2
    assert not re.findall(r"(?:src|href)=", page)


def refused(*words: object) -> str:
    """What a refused command says on stderr."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = quantise(*words)
    assert code in (2, 6), said.getvalue()
    return said.getvalue()


def test_loss_is_kept(tmp_path: Path) -> None:
    """Measured, not only summed: below the bound; a bound that no part keeps is refused with what the least costs."""
    path = checkpoint(tmp_path / "m")
    assert quantise(path, "--max-kl", "0.02", "--out", tmp_path / "a") == 0
    found = report(tmp_path / "a")
    assert 0 < found["difference"]["kl"] <= 0.02
    assert found["bytes_after"] < found["bytes_before"]
    said = refused(path, "--max-kl", "1e-12", "--out", tmp_path / "b")
    assert "leaves nothing to quantise" in said


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials that were written down are not measured again; the result is that of an undisturbed run."""
    path, out = checkpoint(tmp_path / "m"), tmp_path / "out"
    right = tmp_path / "right"
    assert quantise(path, "--max-kl", "0.02", "--out", right) == 0
    measured: list[int] = []
    against = sensitivity.Base.against

    def cut(limit: int) -> Callable[..., Any]:
        def counted(self: sensitivity.Base, model: Any) -> Any:
            if len(measured) == limit:
                raise KeyboardInterrupt
            measured.append(1)
            return against(self, model)

        return counted

    monkeypatch.setattr(sensitivity.Base, "against", cut(3))
    assert quantise(path, "--max-kl", "0.02", "--out", out) == 130
    monkeypatch.setattr(sensitivity.Base, "against", cut(-1))
    assert quantise(path, "--max-kl", "0.02", "--out", out) == 0
    whole = len(report(right)["sensitivity"])
    assert len(measured) == whole
    assert report(out)["policy"] == report(right)["policy"]
    assert report(out)["sensitivity"] == report(right)["sensitivity"]
    assert not (out / ".work").exists()


def test_mistakes_are_named(tmp_path: Path) -> None:
    """No model, no tokenizer, no wish, two wishes, a full directory, the model itself: exit 2 and what to do."""
    path = checkpoint(tmp_path / "m")
    bare = make_checkpoint(tmp_path / "bare")
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").write_text("")
    out = tmp_path / "out"
    cases = (
        ((tmp_path / "nowhere", "--bits", 8, "--out", out), "config.json does not exist"),
        ((bare, "--bits", 8, "--out", out / "1"), "no tokenizer.json"),
        ((path, "--out", out), "give one of --target-memory, --max-kl, --policy and --bits"),
        ((path, "--bits", 8, "--max-kl", 1, "--out", out), "give one of"),
        ((path, "--bits", 8, "--out", full), "holds something else"),
        ((path, "--bits", 8, "--out", path), "is the model itself"),
        ((path, "--max-kl", 0, "--out", out), "must be above 0"),
        ((path, "--bits", 8, "--text", tmp_path / "no.txt", "--out", out / "2"), "cannot be read"),
        ((path, "--target-memory", "1KiB", "--out", out), "MiB would fit"),
    )
    for words, message in cases:
        assert message in refused(*words)
