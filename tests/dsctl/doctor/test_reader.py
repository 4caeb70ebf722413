"""The log reader: wrappings, timestamps, blocks, bounded memory, and whatever bytes come along."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsctl.doctor import judge, oom
from dsctl.doctor.rules import catalogue
from dsctl.facts.logscan import Scanner, scan
from dsctl.facts.logtext import read, stamp
from dsctl.flows.diagnose import Wish, diagnose
from tests.dsctl.doctor.casebook import all_cases

FRAG = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 764.00 MiB. GPU 0 has a total capacity of 47.37 GiB"
    " of which 442.88 MiB is free. Including non-PyTorch memory, this process has 46.93 GiB memory in use."
    " Of the allocated memory 42.40 GiB is allocated by PyTorch, and 3.24 GiB is reserved by PyTorch but unallocated."
)
LITERALS = judge.literals()


@pytest.mark.parametrize(
    ("raw", "text", "host", "rank"),
    [
        ("Nov 25 09:00:00 gpu-a1 kernel: [12.000001] NVRM: x", "NVRM: x", "gpu-a1", None),
        ("2026-11-25T09:00:00.123456789Z stderr F hello", "hello", "", None),
        ("[default3]:hello", "hello", "", None),
        ("[rank7]: hello", "hello", "", 7),
        ("(Worker_TP3 pid=12) hello", "hello", "", 3),
        ("(VllmWorker rank=2 pid=12) hello", "hello", "", 2),
        ("(RayWorkerWrapper pid=9, ip=10.0.0.3) hello", "hello", "10.0.0.3", None),
        ("\x1b[36m(EngineCore_0 pid=9)\x1b[0m hello", "hello", "", None),
        ('{"log":"hello\\n","stream":"stderr","time":"2026-11-25T09:00:00Z"}', "hello", "", None),
        ("vllm-1  | hello", "hello", "", None),
        ("[1,3]<stderr>: hello", "hello", "", 3),
        ("gpu-b2:11:12 [0] NCCL INFO x", "gpu-b2:11:12 [0] NCCL INFO x", "gpu-b2", None),
    ],
)
def test_wrappings(raw: str, text: str, host: str, rank: int | None) -> None:
    """What programs put around a line is taken off; host and rank are kept."""
    said = read(raw)
    assert (said.text, said.host, said.rank) == (text, host, rank)


def test_stamps_of_all_kinds_agree() -> None:
    """The same moment in five notations is the same number."""
    times = (
        "2026-11-25 08:11:22,000",
        "2026-11-25T08:11:22Z",
        "Nov 25 08:11:22 h k: x",
        "[E1125 08:11:22.0 a.cpp:1]",
        "INFO 11-25 08:11:22 x",
    )
    assert len({stamp(text) for text in times}) == 1


@pytest.mark.parametrize("block", [7, 64, 1000, 1 << 20])
def test_blocks_do_not_matter(block: int) -> None:
    """The same hits with the same line numbers whatever the size of the blocks."""
    lines = [f"INFO line {n}" for n in range(3000)]
    lines[17] = lines[1500] = lines[2999] = FRAG
    data = ("\n".join(lines) + "\n").encode()
    found = scan("x", (data[at : at + block] for at in range(0, len(data), block)), Scanner(LITERALS))
    assert [hit.number for hit in found.hits] == [18, 1501, 3000]
    assert found.lines == 3000
    assert found.hits[1].after[0] == "INFO line 1501"
    assert found.hits[1].before[-1] == "INFO line 1499"


@pytest.mark.parametrize(
    "prefix", ["", "(EngineCore_0 pid=3) ERROR 11-25 09:00:00 [core.py:1] ", "\x1b[31m", "[rank3]: "]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_classification_survives_wrapping(prefix: str, end: str, tmp_path: Path) -> None:
    """Colours, prefixes and line ends do not change the cause."""
    (tmp_path / "a.log").write_text(prefix + FRAG + end, newline="")
    assert [f.rule.id for f in diagnose(Wish(logs=(str(tmp_path / "a.log"),))).findings] == ["OOM-FRAG"]


def test_a_message_broken_over_lines_is_read(tmp_path: Path) -> None:
    """A message wrapped at 80 columns by a terminal still gives its numbers."""
    import textwrap

    (tmp_path / "a.log").write_text("\n".join(textwrap.wrap(FRAG, 80)) + "\n")
    assert [f.rule.id for f in diagnose(Wish(logs=(str(tmp_path / "a.log"),))).findings] == ["OOM-FRAG"]


def test_a_flood_stays_bounded(tmp_path: Path) -> None:
    """A log that is nothing but errors is counted, not kept."""
    (tmp_path / "a.log").write_text((FRAG + "\n") * 20000)
    scans = scan("x", [(tmp_path / "a.log").read_bytes()], Scanner(LITERALS))
    assert len(scans.hits) <= 12000
    assert sum(1 for hit in scans.hits if hit.before) <= 1000
    assert scans.lines == 20000
    assert scans.skipped > 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=30), st.integers(1, 400))
def test_any_bytes_are_read(parts: list[bytes], block: int) -> None:
    """Whatever the bytes, the reader and the rules end without an error."""
    data = b"\n".join(parts)
    found = scan("x", [data[at : at + block] for at in range(0, len(data), block)], Scanner(LITERALS))
    assert found.lines >= data.count(b"\n")


def test_fuzzed_cases_never_crash(tmp_path: Path) -> None:
    """The lines of all cases, cut, mixed and damaged 1500 times: always a diagnosis."""
    rng = random.Random(6)
    lines = [line for case in all_cases() for text in case.files.values() for line in text.splitlines()]
    for round_ in range(15):
        damaged: list[str] = []
        for _ in range(100):
            line = rng.choice(lines)
            cut = rng.randrange(len(line) + 1)
            damaged.append(
                rng.choice(
                    [
                        line[:cut],
                        line[cut:],
                        line[:cut] + rng.choice(lines)[cut:],
                        line.replace("1", "9" * 30),
                        line.swapcase(),
                    ]
                )
            )
        path = tmp_path / f"{round_}.log"
        path.write_text("\n".join(damaged))
        diagnose(Wish(logs=(str(path),)))


def test_patterns_are_linear_enough() -> None:
    """No pattern takes long on a long line of its own literals (no catastrophic backtracking)."""
    import time

    start = time.process_time()
    for rule in catalogue().values():
        for word in rule.literals:
            rule.regex.search((word + " ") * (4000 // max(1, len(word))))
    assert time.process_time() - start < 60


@given(st.floats(0.1, 70), st.floats(0.1, 20), st.floats(0, 10))
@settings(max_examples=100, deadline=None)
def test_more_free_memory_is_never_worse(allocated: float, requested: float, more: float) -> None:
    """More free memory never turns a lack of capacity into an impossible request or a neighbour."""
    base = oom.Oom(0, int(requested * 2**30), 80 << 30, 0, int(allocated * 2**30), 0, 0, (80 << 30), None, ())
    freer = oom.Oom(
        0, base.requested, base.total, int(more * 2**30), base.allocated, 0, 0, base.total - int(more * 2**30), None, ()
    )
    if oom.classify(base) == "OOM-CAPACITY":
        assert oom.classify(freer) == "OOM-CAPACITY"


@pytest.mark.parametrize(
    "line",
    [
        '{"log":"2026-10-05 09:00:00 ERROR x\\n","stream":"stderr","time":"2026-10-05T07:00:00.5Z"}',
        '{"_HOSTNAME":"murg-5","__REALTIME_TIMESTAMP":"1791183600500000","MESSAGE":"x"}',
        '{"ts":1791183600.5,"msg":"x 2026-10-05 09:00:00"}',
        '{"@timestamp":"2026-10-05T07:00:00","message":"x","host":"murg-5"}',
    ],
)
def test_one_clock_for_a_log_of_json(line: str) -> None:
    """A line of JSON has the time of its envelope, not one that the message writes in another time zone."""
    expected = stamp("2026-10-05T07:00:00")
    found = read(line).stamp
    assert found is not None
    assert expected is not None
    assert abs(found - expected) < 1


@pytest.mark.parametrize("value", ['"yesterday"', "99999999999999999999", "-5", "null", "[1]", "1e400"])
def test_odd_times_are_no_time(value: str) -> None:
    """A time that is none leaves the line without one, and nothing fails."""
    assert read(f'{{"time":{value},"message":"x"}}').stamp is None
