"""Compiles the kernels once per source, compiler and instruction set, into a cache that all processes share."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from engine.kernels.cpu.isa import Isa

_log = logging.getLogger(__name__)

_SOURCES = Path(__file__).parent / "csrc"
# No contraction: a product and a sum are fused where the source says so and nowhere else, on every compiler.
_OPTIONS = (
    *("-std=c++17", "-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic"),
    *("-ffp-contract=off", "-fno-math-errno", "-fPIC", "-pthread", "-w"),
)
_DEADLINE_S = 300


class BuildError(Exception):
    """The kernels could not be compiled here; the message says why and what to install."""


def user_cache() -> Path:
    """What all projects of a user share and may lose: XDG_CACHE_HOME/dsctl, or ~/.cache/dsctl."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "dsctl"


def cache_directories() -> list[Path]:
    """Where compiled kernels may live: the user's cache, else the project's home."""
    home = os.environ.get("DSCTL_HOME")
    shared = user_cache() / "kernels"
    return [shared, Path(home) / "cache" / "kernels"] if home else [shared]


def compiler() -> str:
    """Path of the C++ compiler: $CXX, else g++, c++ or clang++. Raises BuildError when there is none."""
    named = os.environ.get("CXX")
    for name in (named,) if named else ("g++", "c++", "clang++"):
        path = shutil.which(name)
        if path:
            return path
    missing = f"CXX names {named!r}, which is not there" if named else "no C++ compiler found"
    raise BuildError(f"{missing}; install g++ (Debian, Ubuntu: apt install g++) for the fast kernels")


def build(isa: Isa) -> Path:
    """The shared library for one instruction set, compiled now unless the cache has it. Raises BuildError."""
    cxx = compiler()
    directory = _writable(cache_directories())
    target = directory / f"kernels-{isa.name}-{_key(cxx, isa)}.so"
    if _is_whole(target):
        return target
    with _lock(target.with_suffix(".lock")):
        if not _is_whole(target):  # another process may have built it meanwhile
            _log.info("compiling the kernels for %s; this happens once and takes some seconds", isa.name)
            _make(cxx, isa, target)
    return target


def _key(cxx: str, isa: Isa) -> str:
    digest = hashlib.sha256()
    for path in sorted(_SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    version = subprocess.run([cxx, "--version"], capture_output=True, check=False, timeout=60).stdout
    digest.update(repr((cxx, version, _OPTIONS, isa.options)).encode())
    return digest.hexdigest()[:16]


def _writable(candidates: list[Path]) -> Path:
    """The first that can be used. Raises the first refusal when none can."""
    refusals: list[BuildError] = []
    for directory in candidates:
        try:
            return _private(directory)
        except BuildError as error:
            refusals.append(error)
    raise refusals[0]


def _private(directory: Path) -> Path:
    """The directory, ours alone: code that we load must not be writable by others. Raises BuildError."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = directory.stat()
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise BuildError(
            f"kernel cache {directory} cannot be used: {error}; set XDG_CACHE_HOME or DSCTL_HOME to a writable place"
        ) from error
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise BuildError(f"kernel cache {directory} can be written by others; chmod it 700")
    return directory


def _is_whole(target: Path) -> bool:
    """Whether the library exists and is what was written: a damaged file is rebuilt, never loaded."""
    try:
        return target.with_suffix(".sha256").read_text() == hashlib.sha256(target.read_bytes()).hexdigest()
    except OSError:
        return False


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(cxx: str, isa: Isa, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        scratch = Path(name)
        sources = sorted(_SOURCES.glob("*.cpp"))
        objects = [scratch / f"{source.stem}.o" for source in sources]
        commands = [
            [cxx, *_OPTIONS, *isa.options, "-c", str(source), "-o", str(made)]
            for source, made in zip(sources, objects, strict=True)
        ]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(_run, commands))
        made = scratch / target.name
        _run([cxx, "-shared", "-pthread", *map(str, objects), "-o", str(made)])
        noted = made.with_suffix(".sha256")
        noted.write_text(hashlib.sha256(made.read_bytes()).hexdigest())
        made.replace(target)
        noted.replace(target.with_suffix(".sha256"))


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_DEADLINE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"compiling the kernels failed: {error}") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        first = next((line for line in lines if "error" in line), lines[0] if lines else "no output")
        raise BuildError(f"compiling the kernels with {command[0]} failed: {first}")
