"""The oracle: known tokens, resumable streams, fault switches, and a checker that catches what it should."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.rig import ROOT
from dsctl.oracle.faults import Fault, Switches, parse_fault
from dsctl.oracle.ledger import (
    ClientRecord,
    EngineLine,
    Expected,
    GatewayLine,
    check_answers,
    check_engines,
    check_gateway,
)
from dsctl.oracle.stream import AttemptBody, wish_of
from dsctl.oracle.tokens import VOCABULARY, expected_ids, text_of, token_at

WANT = Expected([[1, 2]], ["ab"], ["stop"], 5)
GOOD = ClientRecord("r", "done", [[1, 2]], ["ab"], ["stop"], (5, 2))
LINE = GatewayLine(
    "id", "r", "done", [[1, 2]], ["stop"], {"prompt_tokens": 5, "completion_tokens": 2}, [("r1", "done")]
)


def test_tokens_are_a_function_of_seed_choice_and_position() -> None:
    """The same place gives the same token, other places mostly others, all within the vocabulary."""
    ids, finish = expected_ids(7, 0, 50, ignore_eos=True)
    assert ids == [token_at(7, 0, position) for position in range(50)]
    assert finish == "length"
    assert ids != expected_ids(7, 1, 50, ignore_eos=True)[0]
    assert ids != expected_ids(8, 0, 50, ignore_eos=True)[0]
    assert all(0 <= token < VOCABULARY for token in ids)
    assert len(text_of(ids).split()) >= 49


def test_resume_goes_on_where_the_client_is() -> None:
    """A resumed attempt starts each choice after the ids it is told of, and keeps ended choices ended."""
    body = {"n": 2, "max_tokens": 9, "seed": 3}
    resume = {"choices": [{"index": 0, "ids": [1, 2], "finished": None}, {"index": 1, "ids": [], "finished": "stop"}]}
    wish = wish_of(AttemptBody("chat", "x", 1, 99, 2, body, None, resume))
    assert [(choice.count, choice.finished) for choice in wish.choices] == [(2, None), (0, "stop")]
    assert wish.seed == 3


def test_faults_are_read_and_used_up() -> None:
    """A switch applies at its place, as often as it says, and then no more."""
    assert parse_fault("truncate:after=5:times=1:value=2.5") == Fault("truncate", 5, 1, 2.5)
    switches = Switches([parse_fault("eof:after=2:times=2")])
    kinds = frozenset({"eof"})
    assert switches.take(kinds, 1) is None
    assert switches.take(kinds, 2) is not None
    assert switches.take(kinds, 2) is not None
    assert switches.take(kinds, 2) is None
    for wrong in ("melt", "hang:often=1", "hang:after=x"):
        with pytest.raises(ValueError):
            parse_fault(wrong)


def test_oracle_imports_neither_torch_nor_the_gateway() -> None:
    """The oracle starts in a moment because it imports little."""
    code = "import sys, dsctl.oracle.__main__; print([m for m in sys.modules if m in ('torch', 'uvicorn', 'aiohttp')])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_wrong_switch_exits_2() -> None:
    """An unknown fault is a usage error that names the known ones."""
    command = [sys.executable, "-m", "dsctl.oracle", "--fault", "melt"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)
    assert done.returncode == 2
    assert "truncate" in done.stderr


def test_checker_passes_one_story() -> None:
    """Three agreeing ledgers give no finding; a client that left early with a true beginning gives none either."""
    left = ClientRecord("r", "aborted", [], ["a"], [None])
    assert check_answers([GOOD], {"r": WANT}) == check_answers([left], {"r": WANT}) == []
    assert check_gateway([GOOD], [LINE], {"r": WANT}) == []
    lines = [EngineLine("id", 1, "start", 10), EngineLine("id", 1, "end", 10, outcome="done")]
    assert check_engines(lines, [LINE], {10}) == []


@pytest.mark.parametrize(
    "record",
    [
        ClientRecord("r", "done", [[1, 2]], ["aab"], ["stop"]),
        ClientRecord("r", "done", [[1, 3]], ["ab"], ["stop"]),
        ClientRecord("r", "done", [[1, 2]], ["ab"], ["length"]),
        ClientRecord("r", "done", [[1, 2]], ["ab"], ["stop"], (5, 3)),
        ClientRecord("r", "done", [[1, 2]], ["ab"], ["stop"], (7, 2)),
        ClientRecord("r", "broken", detail="EOF without [DONE]"),
        ClientRecord("r", "refused"),
        ClientRecord("r", "aborted", [], ["b"], [None]),
    ],
)
def test_checker_sees_altered_answers(record: ClientRecord) -> None:
    """Duplicates, other ids, other endings, wrong usage, silence and refusals are each one finding."""
    assert len(check_answers([record], {"r": WANT})) == 1


def test_checker_sees_double_and_missing_endings() -> None:
    """No terminal event, two of them, or one nobody asked for."""
    assert check_gateway([GOOD], [], {"r": WANT})
    assert check_gateway([GOOD], [LINE, LINE], {"r": WANT})
    assert check_gateway([], [LINE], {})


def test_checker_sees_orphans_and_second_owners() -> None:
    """Work that never ended on a living engine, an attempt started twice, one the gateway does not know."""
    start = EngineLine("id", 1, "start", 10)
    end = EngineLine("id", 1, "end", 10, outcome="done")
    assert check_engines([start], [LINE], {10})
    assert check_engines([start], [LINE], set()) == []
    assert check_engines([start, start, end], [LINE], {10})
    assert check_engines([EngineLine("id", 2, "start", 10)], [LINE], set())
    assert check_engines([start, end], [], {10})
    assert check_engines([EngineLine("id", 1, "start", 10, told=[3])], [LINE], set())
