"""--events: every step begins and ends, a failure says why, and the file can be read while it grows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsctl.base.errors import GateError, UsageError
from dsctl.flows import fleetverbs as verbs
from dsctl.flows.fleetevents import events
from tests.dsctl.flows.machines import Recorder
from tests.dsctl.flows.test_fleet import fleet, machines


def read(path: Path) -> list[dict[str, Any]]:
    """All events."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_step_begins_and_ends(tmp_path: Path) -> None:
    """The events of a deploy are those of its plan, between one beginning and one end."""
    path = tmp_path / "events.jsonl"
    with events(path, Recorder(), "deploy", "prod") as voice:
        done = verbs.deploy(fleet(machines()), voice)
    told = read(path)
    assert {each["schema_version"] for each in told} == {1}
    assert (told[0]["event"], told[0]["verb"], told[0]["project"]) == ("begin", "deploy", "prod")
    assert (told[-1]["event"], told[-1]["outcome"], told[-1]["exit_code"]) == ("end", "done", 0)
    steps = [each for each in told if each["event"] == "step"]
    titles = [step.title for step in done.steps]
    assert [each["title"] for each in steps if each["phase"] == "begin"] == titles
    assert [each["title"] for each in steps if each["phase"] == "end"] == titles
    assert [each["number"] for each in steps if each["phase"] == "end"] == list(range(1, len(titles) + 1))


def test_a_failure_is_told(tmp_path: Path) -> None:
    """The failed step, the way back and the exit code are in the file; a second run appends."""
    path = tmp_path / "events.jsonl"
    fake = machines()
    fake.refusing = {"r1"}
    for _ in range(2):
        with pytest.raises(GateError), events(path, Recorder(), "deploy", "prod") as voice:
            verbs.deploy(fleet(fake), voice)
    told = read(path)
    assert [each["exit_code"] for each in told if each["event"] == "end"] == [7, 7]
    assert [each["action"] for each in told if each.get("phase") == "failed"] == ["AwaitReady", "AwaitReady"]
    assert any(each["event"] == "said" and each["text"].startswith("going back") for each in told)


def test_a_file_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    """Nothing is touched when the events could not be kept; without a file the voice is the same."""
    with pytest.raises(UsageError, match="cannot be written"), events(tmp_path / "no" / "x", Recorder(), "deploy", "p"):
        raise AssertionError("it was entered")
    voice = Recorder()
    with events(None, voice, "deploy", "prod") as heard:
        assert heard is voice
