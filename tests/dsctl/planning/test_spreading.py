"""The tree by which weights spread: everybody served once, holders doubling, room and time told before."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dsctl.base.fleetstep import Cargo, SpreadWeights
from dsctl.facts.weights import Held, parse_held, parse_listed
from dsctl.planning.eta import eta
from dsctl.planning.spreading import HERE, lacking, ordered, rounds, spread_steps

GIB = 1 << 30
CARGO = Cargo("/data/m", "source", "", 10 * GIB, "image", (("a", "1:1"),))


@given(st.integers(1, 9), st.integers(0, 200))
def test_holders_double_every_round(holders: int, wanting: int) -> None:
    """Everybody gets them once, only from one who has them, and there are ⌈log2⌉ rounds."""
    have = {f"h{n}" for n in range(holders)}
    want = [f"w{n}" for n in range(wanting)]
    found = rounds(sorted(have), want)
    assert [b for pairs in found for _, b in pairs] == want
    for pairs in found:
        senders = [a for a, _ in pairs]
        assert set(senders) <= have
        assert len(set(senders)) == len(senders)
        have |= {b for _, b in pairs}
    assert len(found) == math.ceil(math.log2((holders + wanting) / holders))


def test_the_operators_machine_sends_once() -> None:
    """From a laptop the weights go to one host; from then on hosts do it."""
    found = rounds([HERE], ["a", "b", "c", "d"])
    assert found == [[(HERE, "a")], [("a", "b")], [("a", "c"), ("b", "d")]]


def test_a_step_is_a_round_with_addresses_and_spares() -> None:
    """Receivers become senders from where they have it; who has them and does not send is a spare."""
    steps = spread_steps(CARGO, {"s": ("/nfs/m", "10.0.0.9")}, ["a", "b", "c"], {h: f"10.0.0.{h}" for h in "abc"})
    actions = [step.action for step in steps]
    assert all(isinstance(each, SpreadWeights) for each in actions)
    told = [[(t.sender, t.receiver, t.directory, t.address) for t in a.transfers] for a in actions]  # type: ignore[union-attr]
    assert told == [
        [("s", "a", "/nfs/m", "10.0.0.9")],
        [("s", "b", "/nfs/m", "10.0.0.9"), ("a", "c", "/data/m", "10.0.0.a")],
    ]
    later = spread_steps(CARGO, {"s": ("/m", "1"), "t": ("/m", "2")}, ["a"], {"a": "3"})[0].action
    assert isinstance(later, SpreadWeights)
    assert [each.sender for each in later.spares] == ["t"]


def test_who_misses_least_comes_first() -> None:
    """A host with most of it sends soonest; one that is whole misses nothing."""
    held = {"a": Held(0), "b": Held(0, partial=9 * GIB), "c": Held(0, size=10 * GIB, root="x")}
    assert ordered(["a", "b", "c"], held, 10 * GIB) == ["c", "b", "a"]


def test_room_is_judged_by_what_is_missing() -> None:
    """A host without room is refused with the numbers; what has arrived there counts."""
    held = {"a": Held(GIB), "b": Held(GIB, partial=int(9.5 * GIB)), "c": Held(11 * GIB)}
    assert lacking(["a", "b", "c"], held, 10 * GIB) == {"a": "10.0 GiB more are needed, 1.0 GiB are free"}


def test_rounds_are_estimated_by_the_remembered_rate_and_the_cap() -> None:
    """Each round takes bytes over rate; a cap below it counts instead."""
    steps = spread_steps(replace(CARGO, size=10**9), {"s": ("/m", "1")}, ["a", "b", "c"], dict.fromkeys("abc", "2"))
    assert eta(steps, {"weights": [2.0]}) == 4.0
    capped = spread_steps(replace(CARGO, size=10**9, rate=1e8), {"s": ("/m", "1")}, ["a"], {"a": "2"})
    assert eta(capped, {"weights": [2.0]}) == 10.0


def test_what_hosts_say_is_read() -> None:
    """The answers of the two scripts; a root that is none is not taken for one."""
    root = "ab" * 32
    text = f"free 1000\nthere yes\nroot {root}\norigin gpu01:/m x\nbytes 4\npartial 8\n"
    assert parse_held(text) == Held(1000, True, root, "gpu01:/m x", 4096, 8192)
    assert parse_held("free x\nroot $(rm)\n") == Held(0)
    told = parse_listed(f"4 - plain name\n8 {root} whole\n12 - whole.partial\n")
    assert [(each.name, each.size, bool(each.root), each.is_partial) for each in told] == [
        ("plain name", 4096, False, False), ("whole", 8192, True, False), ("whole.partial", 12288, False, True),
    ]  # fmt: skip
