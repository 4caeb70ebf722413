"""Building the kernels: once, whole, for a machine that can run them, or not at all and said so."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.kernels.cpu import __main__ as ahead
from engine.kernels.cpu import build as building
from engine.kernels.cpu import isa as instruction_sets
from engine.kernels.cpu import library
from engine.kernels.cpu.build import BuildError, build, cache_directories, compiler
from engine.kernels.cpu.isa import ISAS, usable
from engine.spec.errors import ConfigError

PORTABLE = ISAS[-1]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One function instead of all kernels, and an empty cache; returns the source."""
    if not any(
        Path(folder, name).exists() for folder in ("/usr/bin", "/usr/local/bin") for name in ("g++", "c++", "clang++")
    ):
        pytest.skip("no C++ compiler")
    sources = tmp_path / "csrc"
    sources.mkdir()
    source = sources / "one.cpp"
    source.write_text('extern "C" int one() { return 1; }\n')
    monkeypatch.setattr(building, "_SOURCES", sources)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DSCTL_HOME", raising=False)
    return source


def test_a_second_build_is_the_first(small: Path) -> None:
    """Nothing is compiled twice; a changed source is another library."""
    first = build(PORTABLE)
    stamp = first.stat().st_mtime_ns
    assert build(PORTABLE) == first
    assert first.stat().st_mtime_ns == stamp
    small.write_text('extern "C" int one() { return 2; }\n')
    assert build(PORTABLE) != first


def test_a_damaged_library_is_rebuilt(small: Path) -> None:
    """A truncated file in the cache is not loaded."""
    made = build(PORTABLE)
    whole = made.read_bytes()
    made.write_bytes(whole[:100])
    assert build(PORTABLE) == made
    assert len(made.read_bytes()) == len(whole)


def test_builders_do_not_collide(small: Path) -> None:
    """Several at once leave one library and no scraps."""
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(build(PORTABLE))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4
    assert len(set(found)) == 1
    assert {path.suffix for path in cache_directories()[0].iterdir()} == {".so", ".sha256", ".lock"}


def test_a_source_that_does_not_compile_says_why(small: Path) -> None:
    """The compiler's own words, first error only."""
    small.write_text("int one( { }\n")
    with pytest.raises(BuildError, match="error"):
        build(PORTABLE)
    assert not [path for path in cache_directories()[0].iterdir() if path.suffix == ".so"]


def test_a_cache_that_others_can_write_is_refused(small: Path) -> None:
    """Code is never loaded from a directory that someone else could fill."""
    cache_directories()[0].mkdir(parents=True)
    cache_directories()[0].chmod(0o777)
    with pytest.raises(BuildError, match="written by others"):
        build(PORTABLE)


def test_a_project_home_is_the_second_choice(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the user's cache cannot be used, the project's home can."""
    (tmp_path / "cache").write_text("not a directory")
    with pytest.raises(BuildError, match="cannot be used"):
        build(PORTABLE)
    monkeypatch.setenv("DSCTL_HOME", str(tmp_path / "home"))
    assert build(PORTABLE).is_relative_to(tmp_path / "home")


def test_ahead_of_time(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Installers can compile before the first use, and learn whether it worked."""
    monkeypatch.setattr(ahead, "load", lambda: None)
    assert ahead.main() == 1
    monkeypatch.setattr(ahead, "load", lambda: SimpleNamespace(name="cpu-x-1"))
    with caplog.at_level(logging.INFO):
        assert ahead.main() == 0
    assert "kernels ready: cpu-x-1" in caplog.text


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Without a compiler there is no library; one warning says what to install."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match="no-such-compiler"):
        compiler()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    with caplog.at_level(logging.WARNING):
        assert library.load.__wrapped__(None) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "apt install g++" in caplog.text


@pytest.mark.parametrize(
    ("missing", "best"),
    [("", "avx512"), ("avx512_vnni", "avx2"), ("fma", "portable")],
)
def test_the_best_that_runs_is_tried_first(missing: str, best: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the processor lacks rules builds out; the portable one always remains."""
    monkeypatch.delenv("DSCTL_KERNEL_ISA", raising=False)
    every = frozenset().union(*(isa.features for isa in ISAS))
    monkeypatch.setattr(instruction_sets, "features", lambda: every - {missing})
    assert usable()[0].name == best
    assert usable()[-1] is PORTABLE


def test_an_instruction_set_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """By argument or environment; a wrong name lists the right ones."""
    assert usable("portable") == [PORTABLE]
    monkeypatch.setenv("DSCTL_KERNEL_ISA", "portable")
    assert usable() == [PORTABLE]
    monkeypatch.setenv("DSCTL_KERNEL_ISA", "altivec")
    with pytest.raises(ConfigError, match=r"'altivec'.*portable"):
        usable()
