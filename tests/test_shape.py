"""The tree keeps its shape: file and function sizes, light imports, no forbidden words or blobs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("dsctl", "engine")
WALL = 500  # lines of a file; 300 is the aim
FUNCTION_WALL = 60  # lines of a function with its docstring; 40 is the aim for the body


def _sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def test_files_stay_below_the_wall() -> None:
    """No source file is longer than the wall."""
    long = {str(p.relative_to(ROOT)): n for p in _sources() if (n := len(p.read_text().splitlines())) > WALL}
    assert not long


def test_functions_fit_a_screen() -> None:
    """No function is longer than a screen."""
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name} {node.end_lineno - node.lineno + 1}"
        for path in _sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_WALL
    ]
    assert not long


def test_no_catch_all_modules() -> None:
    """A module is one noun or verb of the domain, never a drawer."""
    drawers = {"utils", "util", "common", "misc", "helpers", "manager"}
    assert not [str(p) for p in _sources() if p.stem in drawers or p.parent.name in drawers]


def test_every_module_says_what_it_is() -> None:
    """Every source file with code opens with a docstring."""
    silent = [
        str(p.relative_to(ROOT))
        for p in _sources()
        if p.read_text().strip() and ast.get_docstring(ast.parse(p.read_text())) is None
    ]
    assert not silent


LIGHT = {
    "dsctl.flows.bench": ("locust", "gevent", "geventhttpclient", "rich", "httpx", "numpy"),
    "dsctl.cli.app": ("torch", "rich", "httpx", "jinja2", "pydantic", "asyncio", "yaml", "aiohttp", "numpy"),
    "engine.scheduling.scheduler": ("torch",),
    "engine.caching": ("torch",),
    "engine.wire.messages": ("torch",),
    "engine.text": ("torch",),
    "engine.spec.model": ("torch", "numpy", "msgspec"),
    "engine.server.__main__": ("torch",),
    "dsctl.gateway": ("torch",),
    "dsctl.oracle": ("torch",),
    "dsctl.planning": ("torch", "httpx", "paramiko"),
}


@pytest.mark.parametrize("module", LIGHT)
def test_imports_stay_light(module: str) -> None:
    """Importing a module loads none of what it must not (also through an `__init__` or a dynamic import)."""
    banned = LIGHT[module]
    code = f"import sys, {module}; print([m for m in {banned!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_repository_stays_small() -> None:
    """No tracked file but the bundled model's weights is larger than 1 MiB."""
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    large = [str(f.relative_to(ROOT)) for f in files if f.is_file() and f.stat().st_size > 1 << 20]
    assert [name for name in large if not name.endswith(".safetensors")] == []
    assert sum((ROOT / name).stat().st_size for name in large) <= 16 << 20
