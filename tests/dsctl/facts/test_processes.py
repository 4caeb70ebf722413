"""Which processes belong to a project, and which of them lost their supervisor."""

from __future__ import annotations

from dsctl.facts.processes import Process, orphans, parse_process

MARKS = b"PATH=/bin\0DSCTL_HOME=/h\0DSCTL_PROJECT=p\0DSCTL_PROGRAM=r1\0"


def _stat(state: str = "S", parent: int = 7, name: str = "python") -> str:
    return f"42 ({name}) {state} {parent} " + " ".join(["0"] * 17) + " 12345 0 0"


def test_a_marked_process_is_read() -> None:
    """pid, parent, start time and program; a name with brackets and spaces does not confuse it."""
    assert parse_process(42, _stat(), MARKS, "/h", "p") == Process(42, 7, "12345", "r1")
    assert parse_process(42, _stat(name="a) b (c"), MARKS, "/h", "p") == Process(42, 7, "12345", "r1")


def test_strangers_and_the_dead_are_not_ours() -> None:
    """Another home or project, no mark, a zombie: none of ours."""
    assert parse_process(42, _stat(), MARKS, "/other", "p") is None
    assert parse_process(42, _stat(), MARKS, "/h", "q") is None
    assert parse_process(42, _stat(), b"PATH=/bin\0", "/h", "p") is None
    assert parse_process(42, _stat("Z"), MARKS, "/h", "p") is None
    assert parse_process(42, "42 (x", MARKS, "/h", "p") is None


def test_orphans_are_the_topmost_without_supervisord() -> None:
    """A child of supervisord is none, a core below its API process is none, the rest are."""
    found = [
        Process(10, 1, "a", "supervisord"),
        Process(11, 10, "b", "r1"),
        Process(12, 11, "c", "r1"),
        Process(20, 1, "d", "r2"),
        Process(21, 20, "e", "r2"),
    ]
    assert [p.pid for p in orphans(found, 10)] == [20]
    assert [p.pid for p in orphans(found, 0)] == [11, 20]
