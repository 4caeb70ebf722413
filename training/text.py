"""General English for the model: docstrings of the Python standard library, and the part of them kept for testing."""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

_LEAVE_OUT = frozenset(
    ("test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "turtledemo", "ensurepip")
)


def held_out(module: str) -> bool:
    """True for the twentieth of the modules whose text is never trained on."""
    return zlib.crc32(module.encode()) % 20 == 0


def _modules() -> Iterator[tuple[str, Path]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if not _LEAVE_OUT.intersection(parts):
            yield "/".join(parts), path


def _strings(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    if path.parent.name == "pydoc_data":  # the language reference, kept as one dictionary of strings
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > 300:
                yield inspect.cleandoc(node.value)
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found = ast.get_docstring(node)
            if found and len(found) > 60:
                yield found


def documents() -> tuple[list[str], list[str]]:
    """Training documents and held-out documents, without duplicates and with plain spacing."""
    train: list[str] = []
    test: list[str] = []
    seen: set[str] = set()
    for module, path in _modules():
        for raw in _strings(path):
            text = re.sub(r"[ \t]+", " ", re.sub(r"\n{3,}", "\n\n", raw)).strip()
            letters = sum(c.isalpha() or c == " " for c in text)
            if text in seen or letters < 0.75 * len(text) or not text.isascii():
                continue
            seen.add(text)
            (test if held_out(module) else train).append(text)
    return train, test
