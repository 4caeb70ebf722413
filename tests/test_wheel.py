"""The wheel: built from the checkout, installed where no torch is, it still shows help and renders its templates."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("dsctl", "engine", "templates", "playbooks", "models", "pyproject.toml", "README.md", "LICENSE")
JUNK = shutil.ignore_patterns("__pycache__", "*.pyc", "*.so")


def _run(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    hidden = ("PYTHONPATH", "DSCTL_HOME", "VIRTUAL_ENV")
    environment = {k: v for k, v in os.environ.items() if k not in hidden} | {"DSCTL_HOME": str(cwd / "home")}
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.run(argv, cwd=cwd, env=environment, text=True, check=False, timeout=110, **quiet)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the checkout, so that nothing is built in the checkout itself."""
    source = tmp_path_factory.mktemp("source")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=JUNK)
        elif (ROOT / part).is_file():
            shutil.copy(ROOT / part, source / part)
    built = _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "out", cwd=source)
    assert built.returncode == 0, built.stdout + built.stderr
    [path] = (source / "out").glob("*.whl")
    return path


def test_it_carries_its_data(wheel: Path) -> None:
    """Templates, playbooks, the reference of settings and the bundled model are inside, caches are not."""
    names = zipfile.ZipFile(wheel).namelist()
    for path in ("templates/supervisor/program.conf.j2", "playbooks/limits.yml", "models/dsctl-tiny/config.json"):
        assert f"dsctl/_data/{path}" in names
    assert "dsctl/config/reference.yml" in names
    assert "engine/server/__main__.py" in names
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]


def test_it_works_without_torch(wheel: Path, tmp_path: Path) -> None:
    """In an empty environment with the light dependencies only: help, rendering, and a clear word from serve."""
    made = _run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    python, dsctl = str(tmp_path / "venv" / "bin" / "python"), str(tmp_path / "venv" / "bin" / "dsctl")
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--prefer-binary")
    installed = _run(*pip, str(wheel), cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    assert _run(python, "-c", "import torch", cwd=tmp_path).returncode == 1
    assert "Exit codes:" in _run(dsctl, "--help", cwd=tmp_path).stdout
    rendered = _run(dsctl, "render", "supervisor", cwd=tmp_path)
    assert rendered.returncode == 0, rendered.stderr
    assert "[program:r2]" in rendered.stdout
    served = _run(dsctl, "serve", "x", cwd=tmp_path)
    assert served.returncode == 2
    assert "dsctl[engine]" in served.stderr
