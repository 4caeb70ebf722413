"""Who is sent to a core after a death, how hangs are told from long steps, and what the ledger says (no processes)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from engine.server.ledger import Ledger, LedgerLine, hash_ids
from engine.server.sequences import Sequence
from engine.server.supervision.core_process import describe_exit, is_stopped
from engine.server.supervision.replay import MOST_BLAMED_DEATHS, ReplayTable
from engine.server.supervision.stepclock import SHORTEST_LIMIT_S, UNKNOWN_LIMIT_S, StepClock
from engine.wire.messages import Delta, Refused, Sampling, Submit


class _Owner:
    def on_delta(self, sequence: Sequence, delta: Delta) -> None: ...
    def on_refused(self, sequence: Sequence, refused: Refused) -> None: ...
    def on_lost(self, epoch: int, cause: str) -> None: ...


def _sequence(number: int) -> Sequence:
    return Sequence(Submit(number, [1], Sampling(seed=0, max_tokens=9)), _Owner())


def _send(sequences: list[Sequence], epoch: int) -> list[int]:
    for sequence in sequences:
        sequence.epoch = epoch
    return [sequence.number for sequence in sequences]


def test_a_replay_carries_the_ids() -> None:
    """The next core gets the prompt and the ids apart, marked as resumed, without asking for the prompt's logprobs."""
    sequence = _sequence(1)
    assert not sequence.to_submit().resumed
    sequence.epoch = 1
    sequence.note(Delta(1, [5, 6], prompt_tops=[None]))
    again = sequence.to_submit()
    assert (again.prompt_ids, again.output_ids, again.resumed, again.want_prompt_logprobs) == ([1], [5, 6], True, False)


def test_everybody_is_sent_at_once_after_a_first_death() -> None:
    """One death accuses nobody."""
    table = ReplayTable()
    sequences = [_sequence(number) for number in (1, 2, 3)]
    for sequence in sequences:
        assert _send(table.add(sequence), 1) == [sequence.number]
    assert table.after_death(1) == []
    assert _send(table.begin(), 2) == [1, 2, 3]


def test_suspects_are_tried_one_by_one() -> None:
    """After two fruitless deaths suspects go one by one; newcomers wait until the last one is cleared."""
    table = ReplayTable()
    sequences = [_sequence(number) for number in (1, 2)]
    for sequence in sequences:
        _send(table.add(sequence), 1)
    table.after_death(1)
    _send(table.begin(), 2)
    table.after_death(2)
    assert _send(table.begin(), 3) == [1]
    late = _sequence(3)
    assert table.add(late) == []
    sequences[0].note(Delta(1, [4]))
    assert _send(table.cleared(sequences[0]), 3) == [2]
    assert _send(table.remove(sequences[1]), 3) == [3]


def test_only_the_culprit_is_given_up() -> None:
    """A sequence that kills every core is given up after its share of deaths; the other one is cleared."""
    table = ReplayTable()
    good, bad = _sequence(1), _sequence(2)
    _send(table.add(good), 1)
    _send(table.add(bad), 1)
    given_up: list[Sequence] = []
    epoch = 1
    while not given_up and epoch < 50:
        given_up = table.after_death(epoch)
        epoch += 1
        sent = table.begin()
        while good in sent and bad not in sent:
            _send(sent, epoch)
            good.note(Delta(1, [7]))
            sent = table.cleared(good)
        _send(sent, epoch)
    assert given_up == [bad]
    assert epoch <= 3 + MOST_BLAMED_DEATHS
    assert table.all() == [good]


def test_progress_is_forgiven() -> None:
    """A sequence that gets an id between deaths is never a suspect, however many cores die."""
    table = ReplayTable()
    sequence = _sequence(1)
    table.add(sequence)
    for epoch in range(1, 20):
        _send([sequence], epoch)
        sequence.note(Delta(1, [epoch]))
        assert table.after_death(epoch) == []
        assert table.begin() == [sequence]


def test_step_limits() -> None:
    """Unknown sizes get patience; known ones 10 × the longest, scaled up for larger steps, never below the shortest."""
    clock = StepClock()
    assert clock.limit_s(64) == UNKNOWN_LIMIT_S
    clock.note(8, 0.01)
    assert clock.limit_s(8) == SHORTEST_LIMIT_S
    clock.note(8, 1.0)
    assert clock.limit_s(8) == 10.0
    assert clock.limit_s(16) == 20.0


def test_causes_have_words(tmp_path: Path) -> None:
    """Exit statuses are said in words; a process that does not exist is not stopped."""
    assert describe_exit(-9) == "core killed by signal 9"
    assert describe_exit(3) == "core exited with code 3"
    assert not is_stopped(2**22 + 1)
    ledger = Ledger(str(tmp_path / "ledger"))
    ledger.write(LedgerLine("a", 0, 1, hash_ids([1, 2]), 2, "stop", 1))
    line = json.loads((tmp_path / "ledger").read_text())
    assert line["ids_sha256"] == hashlib.sha256(b"1,2").hexdigest()
