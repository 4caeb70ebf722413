"""Bundles, --since and the Markdown form: nothing secret leaves, nothing is unpacked, the same is found elsewhere."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from dsctl.cli.app import run
from dsctl.doctor import bundle, live
from dsctl.doctor.model import Case
from dsctl.flows import checkup, diagnose
from dsctl.reach import vitals
from tests.dsctl.doctor.casebook import LogCase, all_cases, run_case
from tests.dsctl.doctor.fake_nvml import driver

STORIES = [case for case in all_cases() if case.kind == "story"]
FULL = "2026-10-08 01:00:00 OSError: [Errno 28] No space left on device: '/x'\n"


def _findings(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    run(["doctor", *arguments, "--json", "--threshold", "info"])
    return json.loads(capsys.readouterr().out)["findings"]


@pytest.mark.parametrize("case", STORIES[::6], ids=lambda c: c.label)
def test_a_bundle_tells_the_same_story(case: LogCase, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What --from says of a bundle is what the logs said, evidence and fix included."""
    logs = tmp_path / "logs"
    logs.mkdir()
    direct = run_case(case, logs)["findings"]
    config = [word for text in case.wanted.get("config", []) for word in ("--config", text)]
    run(["doctor", "--logs", str(logs), *config, "--out", str(tmp_path / "b.tgz")])
    capsys.readouterr()
    assert _findings(["--from", str(tmp_path / "b.tgz")], capsys) == direct


def test_equal_logs_give_equal_bytes(tmp_path: Path) -> None:
    """The bundle has no time, owner or order of its own."""
    (tmp_path / "a.log").write_text(FULL)
    for name in ("1.tgz", "2.tgz"):
        run(["doctor", "--logs", str(tmp_path / "a.log"), "--out", str(tmp_path / name)])
    assert (tmp_path / "1.tgz").read_bytes() == (tmp_path / "2.tgz").read_bytes()
    assert (tmp_path / "1.tgz").stat().st_mode & 0o077 == 0


def test_a_bundle_holds_no_secret(tmp_path: Path) -> None:
    """Tokens and keys of a log, on the line of a finding or beside it, are in no member of the bundle."""
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIEabcdefghijklmnop\nQRSTUVWXYZsecretpart\n-----END RSA PRIVATE KEY-----\n"
    words = ["hf_abcdefghijklmnopqrstuvwxyz012345", "hunter2pass", "QRSTUVWXYZsecretpart"]
    (tmp_path / "a.log").write_text(f"HF_TOKEN={words[0]}\n{key}https://bob:{words[1]}@reg.example/v2/\n{FULL}{key}")
    run(["doctor", "--logs", str(tmp_path / "a.log"), "--out", str(tmp_path / "b.tgz")])
    with tarfile.open(tmp_path / "b.tgz") as archive:
        texts = [stream.read().decode() for entry in archive if (stream := archive.extractfile(entry))]
    assert len(texts) == 2
    assert [word for word in words for text in texts if word in text] == []


def test_facts_of_cards_survive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Live facts, cards and processes included, are judged the same after a bundle."""
    monkeypatch.setattr(vitals, "pci_cards", lambda: ["0000:01:00.0"])
    case = Case()
    with driver([{"ecc": 3, "rows": (0, 0, 1, 0), "clocks": 0x40, "fields": {230: 1}}]):
        checkup.look(case)
    again, host = bundle.from_json(json.loads(json.dumps(bundle.to_json(case, "gpu-t1"))))
    assert host == "gpu-t1"
    told = [[(f.rule.id, f.cause) for f in live.findings(c, "gpu-t1")] for c in (case, again)]
    assert told[0] == told[1]
    assert "ECC-DBE" in {rule for rule, _ in told[0]}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("../case.json", tarfile.REGTYPE), ("/etc/case.json", tarfile.REGTYPE), ("case.json", tarfile.SYMTYPE)],
)
def test_a_hostile_bundle_writes_nothing(name: str, kind: bytes, tmp_path: Path) -> None:
    """Members that climb out or link elsewhere are not touched: exit 2, and no file appears."""
    inner = tmp_path / "inner"
    inner.mkdir()
    with tarfile.open(inner / "evil.tgz", "w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.size = kind, "/etc/passwd", 2 if kind == tarfile.REGTYPE else 0
        archive.addfile(entry, io.BytesIO(b"{}"))
    assert run(["doctor", "--from", str(inner / "evil.tgz")]) == 2
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["evil.tgz", "inner"]


@pytest.mark.parametrize(
    "content", [b"", b"no archive", b"\x1f\x8b\x08\x00 broken", None], ids=["empty", "text", "cut", "old schema"]
)
def test_what_is_no_bundle_is_refused(content: bytes | None, tmp_path: Path) -> None:
    """Damaged or foreign files give exit 2, never a traceback."""
    path = tmp_path / "b.tgz"
    if content is None:
        data = b'{"schema_version": 99}'
        with tarfile.open(path, "w:gz") as archive:
            entry = tarfile.TarInfo("case.json")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    else:
        path.write_bytes(content)
    assert run(["doctor", "--from", str(path)]) == 2


def test_since_keeps_the_last_hours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines older than --since before the newest line are left out, and that is said."""
    log = tmp_path / "a.log"
    log.write_text(FULL + "2026-10-08 04:30:00 INFO all is well again\n")
    assert [f["rule"] for f in _findings(["--logs", str(log)], capsys)] == ["DISK-FULL"]
    assert [f["rule"] for f in _findings(["--logs", str(log), "--since", "4h"], capsys)] == ["DISK-FULL"]
    run(["doctor", "--logs", str(log), "--since", "1h"])
    said = capsys.readouterr().out
    assert "No finding" in said
    assert "--since" in said
    assert run(["doctor", "--logs", str(log), "--since", "yesterday"]) == 2


def test_since_over_new_year(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A log that goes over New Year keeps its last hours, though its stamps start again."""
    log = tmp_path / "a.log"
    log.write_text(
        "2026-12-31 23:50:00 OSError: [Errno 28] No space left on device\n"
        "2026-12-31 03:00:00 OSError: [Errno 24] Too many open files\n"
        "2027-01-01 00:10:00 INFO on\n"
    )
    assert [f["rule"] for f in _findings(["--logs", str(log), "--since", "1h"], capsys)] == ["DISK-FULL"]


def test_markdown_is_for_a_ticket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Headings, fenced evidence with file:line, the fix, and what was not looked at; secrets are out."""
    log = tmp_path / "a.log"
    log.write_text(FULL.replace("\n", " HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyz012345\n"))
    assert run(["doctor", "--logs", str(log), "--format", "markdown"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("# Diagnosis: 1 finding\n")
    assert f"```text\n{log}:1: " in said
    assert "**Fix:**" in said
    assert "not checked" in said
    assert "hf_abc" not in said
    assert run(["doctor", "--logs", str(log), "--format", "html"]) == 2


def test_from_stands_alone(tmp_path: Path) -> None:
    """--from with --logs is a usage error."""
    with pytest.raises(diagnose.UsageError):
        diagnose.gathered(diagnose.Wish(logs=("x",), bundle=str(tmp_path / "b.tgz")))
