"""`dsctl doctor` as it is typed: outputs, exit codes, usage errors, secrets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dsctl.cli.app import run
from dsctl.cli.commands.doctor import spread

OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 764.00 MiB. GPU 0 has a total capacity of 47.37 GiB"
    " of which 442.88 MiB is free. Including non-PyTorch memory, this process has 46.93 GiB memory in use."
    " Of the allocated memory 42.40 GiB is allocated by PyTorch, and 3.24 GiB is reserved by PyTorch but unallocated.\n"
)
FIELDS = {"rule", "severity", "host", "title", "cause", "fix", "verify", "evidence", "children"}


def test_json_has_the_agreed_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object with schema_version, findings of the agreed fields, and not_checked; exit 1 for a critical finding."""
    log = tmp_path / "serve.log"
    log.write_text("INFO start\n" + OOM)
    assert run(["doctor", "--logs", str(log), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["schema_version"] == 1
    assert set(said["findings"][0]) >= FIELDS
    assert said["findings"][0]["evidence"][0] == {"file": str(log), "line": 2, "text": OOM.strip()[:600]}
    assert {"rule", "why"} == set(said["not_checked"][0])


def test_text_quotes_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report for people names cause, fix and file:line."""
    log = tmp_path / "serve.log"
    log.write_text(OOM)
    assert run(["doctor", "--logs", str(log)]) == 1
    said = capsys.readouterr().out
    assert f"{log}:1:" in said
    assert "expandable_segments" in said


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--fail-on", "info", "--allow-incomplete"], 1),
        (["--only", "OOM-FRAG"], 1),
        (["--only", "XID-79"], 0),
        (["--only", "NO-SUCH"], 2),
        (["--fail-on", "bad"], 2),
        (["--deeper"], 2),
        (["--hosts", "all"], 2),
    ],
)
def test_exit_codes(arguments: list[str], code: int, tmp_path: Path) -> None:
    """Findings at or above --fail-on give 1, wrong or unknown options give 2, else 0."""
    log = tmp_path / "serve.log"
    log.write_text(OOM)
    assert run(["doctor", "--logs", str(log), *arguments]) == code


def test_missing_log_is_a_usage_error(tmp_path: Path) -> None:
    """A log that does not exist is refused before anything is read."""
    assert run(["doctor", "--logs", str(tmp_path / "none.log")]) == 2


def test_quiet_log_exits_0(tmp_path: Path) -> None:
    """A log without faults is no failure."""
    (tmp_path / "a.log").write_text("INFO all is well\n")
    assert run(["doctor", "--logs", str(tmp_path / "a.log")]) == 0


def test_damaged_archive_is_incomplete(tmp_path: Path) -> None:
    """A log that cannot be read gives 4, or 0 with --allow-incomplete."""
    (tmp_path / "a.log.gz").write_bytes(b"\x1f\x8b\x08\x00 broken")
    assert run(["doctor", "--logs", str(tmp_path)]) == 4
    assert run(["doctor", "--logs", str(tmp_path), "--allow-incomplete"]) == 0


def test_several_logs_after_one_option() -> None:
    """`--logs a b -` means three logs; other words end the list."""
    assert spread(["--logs", "a", "b", "-", "--json"]) == ["--logs", "a", "--logs", "b", "--logs", "-", "--json"]
    assert spread(["explain", "X"]) == ["explain", "X"]
    assert spread(["--config", "--tp 8", "--logs", "a"]) == ["--config", "--tp 8", "--logs", "a"]


def test_rules_and_explain(capsys: pytest.CaptureFixture[str]) -> None:
    """The catalogue can be listed and every entry explained; a wrong name gets the nearest one."""
    assert run(["doctor", "rules", "--json"]) == 0
    rules = json.loads(capsys.readouterr().out)["rules"]
    assert len(rules) >= 150
    assert run(["doctor", "explain", "oom-frag"]) == 0
    assert "expandable_segments" in capsys.readouterr().out
    assert run(["doctor", "explain", "OOM-FRAGG"]) == 2
    assert "OOM-FRAG" in capsys.readouterr().err


SECRETS = [
    "HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyz012345",
    "serve --api-key sk-proj-abcdefghijklmnop1234",
    "Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghijk",
    "https://bob:hunter2pass@registry.example/v2/",
    "AWS_SECRET_ACCESS_KEY: wJalrXUtnFEMI/K7MDENG",
    "password='correct-horse'",
    "api_key=['team-a-key-123456']",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("output", [[], ["--json"]])
def test_secrets_never_appear(
    secret: str, output: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a log line holds, tokens and passwords are not shown."""
    log = tmp_path / "serve.log"
    log.write_text(f"{secret} OSError: [Errno 28] No space left on device {secret}\n")
    assert run(["doctor", "--logs", str(log), *output]) == 1
    said = capsys.readouterr().out
    assert "DISK-FULL" in said
    words = ("hf_abc", "sk-proj", "eyJhbG", "hunter2", "wJalr", "correct-horse", "team-a-key")
    assert [w for w in words if w in said] == []
