"""What people point the doctor at, and how it answers: odd files, pipes, terminals, widths, the JSON's schema."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dsctl.cli import diagnosis, drawing
from dsctl.cli.app import run
from dsctl.cli.show import Terminal
from dsctl.doctor import report, reportschema
from dsctl.flows.diagnose import Wish, diagnose
from dsctl.reach import logfiles
from tests.dsctl.doctor.casebook import all_cases, run_case

FULL = "2026-10-08 01:00:00 OSError: [Errno 28] No space left on device: '/x'\n"


def _rules(path: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str], dict[str, Any]]:
    code = run(["doctor", "--logs", path, "--json"])
    said = json.loads(capsys.readouterr().out)
    return code, [f["rule"] for f in said["findings"]], said


@pytest.mark.parametrize(
    "pack",
    [
        str.encode, lambda text: gzip.compress(text.encode()), lambda text: lzma.compress(text.encode()),
        lambda text: bz2.compress(text.encode()), lambda text: text.encode("utf-16"),
        lambda text: b"\xfe\xff" + text.encode("utf-16-be"), lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: b"caf\xe9 \xff\xfe\n" + text.encode(), lambda text: b"\0" * 9000 + text.encode(),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
    ],
    ids=["text", "gzip", "xz", "bzip2", "utf-16", "utf-16-be", "crlf", "latin-1", "zeros", "bom"],
)  # fmt: skip
def test_every_wrapping_of_a_file_is_read(
    pack: Callable[[str], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Packed (whatever the name says), UTF-16, CRLF, foreign bytes, zeros of a power cut: the same finding."""
    path = tmp_path / "serve.log"
    path.write_bytes(pack(f"INFO start\n{FULL}INFO end\n"))
    assert _rules(str(path), capsys)[:2] == (1, ["DISK-FULL"])


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.log", b"", "it is empty"),
        ("a.log", bytes(range(256)) * 40, "it is not text"),
        ("a.bin", FULL.encode(), "a .bin file is not a log"),
    ],
)
def test_what_is_no_log_is_not_clear(
    name: str, content: bytes, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Empty and binary files are named, no rule is clear because of them, and nothing else means exit 4."""
    (tmp_path / name).write_bytes(content)
    code, found, said = _rules(str(tmp_path), capsys)
    assert (code, found, said["summary"]["clear"]) == (4, [], 0)
    assert said["passed_over"] == [{"what": str(tmp_path / name), "why": why}]
    assert run(["doctor", "--logs", str(tmp_path), "--allow-incomplete"]) == 0
    assert "Nothing could be looked at." in capsys.readouterr().out


def test_a_foreign_packing_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """zstd is not unpacked here; the way to do it is told."""
    (tmp_path / "a.log.zst").write_bytes(b"\x28\xb5\x2f\xfd rest")
    code, _, said = _rules(str(tmp_path), capsys)
    assert code == 4
    assert "zstd -dc" in said["unanswered"][0]["why"]


def test_an_empty_directory_is_incomplete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory without files is no clean bill of health."""
    assert _rules(str(tmp_path), capsys)[0] == 4


def test_a_directory_that_may_not_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What may not be opened is named with the reason; the rest is read."""
    (tmp_path / "a.log").write_text(FULL)

    def walk(_top: Path, onerror: Callable[[OSError], None]) -> Iterator[tuple[str, list[str], list[str]]]:
        onerror(PermissionError(13, "Permission denied", "/var/log/private"))
        yield str(tmp_path), [], ["a.log"]

    monkeypatch.setattr(os, "walk", walk)
    code, found, said = _rules(str(tmp_path), capsys)
    assert (code, found) == (1, ["DISK-FULL"])
    assert said["unanswered"] == [{"probe": "/var/log/private", "why": "could not be read: Permission denied"}]


def test_a_pipe_is_read_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--logs <(command)`: a pipe is opened once, read to its end, and packed ones too."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for content in (FULL.encode(), gzip.compress(FULL.encode())):
        feeding = threading.Thread(target=pipe.write_bytes, args=(content,))
        feeding.start()
        assert _rules(str(pipe), capsys)[:2] == (1, ["DISK-FULL"])
        feeding.join(30)


def test_stdin_is_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`--logs -` reads standard input, packed or not, and quotes it as stdin."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(gzip.compress(FULL.encode())))))  # type: ignore[arg-type]
    code, found, said = _rules("-", capsys)
    assert (code, found, said["findings"][0]["evidence"][0]["file"]) == (1, ["DISK-FULL"], "stdin")


def test_a_terminal_is_asked_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is typed ends with the first Ctrl-D, with a word about it and without a bar."""

    class Typed(io.BytesIO):
        ends = 0

        def read(self, size: int | None = -1) -> bytes:
            found = super().read(size)
            self.ends += len(found) < (size or 0)
            return found

        def peek(self, _size: int = 0) -> bytes:
            return self.getvalue()[:8]

    class Terminal:
        buffer = Typed(FULL.encode())

        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    assert run(["doctor", "--logs", "-"]) == 1
    said = capsys.readouterr()
    assert "Ctrl-D ends it" in said.err
    assert "DISK-FULL" in said.out
    assert Terminal.buffer.ends == 1


def test_size_is_known_only_where_it_can_be(tmp_path: Path) -> None:
    """A bar has an end for plain files only."""
    plain, packed = tmp_path / "a.log", tmp_path / "b.log"
    plain.write_text(FULL)
    packed.write_bytes(gzip.compress(FULL.encode()))
    sized = [logfiles.is_sized(logfiles.LogFile(str(p), p)) for p in (plain, packed)]
    assert [*sized, logfiles.is_sized(logfiles.LogFile("stdin", None))] == [True, False, False]


def test_a_slow_reading_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal a line tells how far it is and how long it will go on."""
    now = [100.0]
    monkeypatch.setattr(diagnosis.time, "monotonic", lambda: now[0])
    told = diagnosis._heartbeat(10_000_000, Terminal())
    told(1_000_000)
    now[0] += 30
    told(4_000_000)
    assert "read 5 MB of 10, about 30 s left" in capsys.readouterr().err


ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def test_colours_change_no_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """On a terminal the same words are coloured; NO_COLOR and pipes get none; control codes of a log are not obeyed."""
    (tmp_path / "a.log").write_text(FULL.replace("/x", "/x\x07\x1b]0;owned\x07 \x9b31m"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    run(["doctor", "--logs", str(tmp_path)])
    plain = capfd.readouterr().out
    assert "\x1b" not in plain
    monkeypatch.setenv("FORCE_COLOR", "1")
    run(["doctor", "--logs", str(tmp_path)])
    coloured = capfd.readouterr().out
    assert "\x1b[1;31mCRITICAL" in coloured
    bare = ESCAPES.sub("", coloured)
    assert not [char for char in bare if (char < " " and char != "\n") or "\x7f" <= char < "\xa0"]
    assert [line.split() for line in bare.splitlines()[:4]] == [line.split() for line in plain.splitlines()[:4]]
    monkeypatch.setenv("NO_COLOR", "1")
    run(["doctor", "--logs", str(tmp_path)])
    assert capfd.readouterr().out == plain


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_sentences_fit_the_terminal(columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentences are broken at the terminal's width; quoted lines, commands and names are not broken."""
    (tmp_path / "a.log").write_text(FULL)
    monkeypatch.setenv("COLUMNS", str(columns))
    text = report.as_text(diagnose(Wish(logs=(str(tmp_path),))), "info", drawing.width())
    sentences = [
        line for line in text.splitlines() if line.startswith(("   why:", "   fix:", "   check:", "          "))
    ]
    assert sentences
    assert max(map(len, sentences)) <= columns


def test_every_report_has_the_schema(tmp_path: Path) -> None:
    """The JSON of every tenth case is exactly what `dsctl doctor schema` describes."""
    for number, case in enumerate(all_cases()[::10]):
        (tmp_path / str(number)).mkdir()
        msgspec.convert(
            {"schema_version": 1, **run_case(case, tmp_path / str(number))}, reportschema.Report, strict=True
        )


def test_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """`dsctl doctor schema` is a JSON Schema that names the agreed fields."""
    assert run(["doctor", "schema"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["$ref"].endswith("Report")
    assert {"rule", "severity", "evidence", "children"} <= set(said["$defs"]["Found"]["properties"])


def test_threshold_only_filters_the_display(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--threshold changes what is shown, never the exit code; what is hidden is counted."""
    (tmp_path / "a.log").write_text("INFO x: Using default MoE config. Performance might be sub-optimal!\n" + FULL)
    codes = [
        run(["doctor", "--logs", str(tmp_path), "--threshold", level]) for level in ("info", "warning", "critical")
    ]
    assert codes == [1, 1, 1]
    shown = capsys.readouterr().out
    (tmp_path / "a.log").write_text(FULL.replace("[Errno 28] No space left on device", "fine"))
    assert run(["doctor", "--logs", str(tmp_path), "--threshold", "critical"]) == 0
    assert "CRITICAL" in shown


def test_nothing_here_takes_no_time_and_says_what_was_not_looked_at(tmp_path: Path) -> None:
    """In a process of its own, without card and service: it ends, and names what was not looked at."""
    environ = {**os.environ, "DSCTL_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-m", "dsctl", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environ, check=False)
    assert done.returncode in (0, 1)
    assert "Looked at: this machine" in done.stdout
    assert "not checked: no log was given (--logs FILE)" in done.stdout
