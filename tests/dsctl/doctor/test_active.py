"""Active tests: which cards are left alone, what was measured is judged, what was skipped is never clear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from dsctl.base.cards import Cards
from dsctl.base.missing import Missing
from dsctl.base.ports import Port
from dsctl.cli.show import Terminal
from dsctl.doctor import idle, judge, live
from dsctl.doctor.activerules import JUDGES
from dsctl.doctor.model import Case
from dsctl.doctor.rules import catalogue
from dsctl.flows import deepcheck
from dsctl.reach import cards, probes, vitals
from tests.dsctl.doctor.fake_nvml import driver

GIB = 1 << 30
IDLE: dict[str, Any] = {"utilisation": 0, "free": 70 * GIB}


def _look(found: list[dict[str, Any]]) -> Cards:
    with driver(found):
        shown = cards.look(30.0)
    assert isinstance(shown, Cards)
    return shown


@pytest.mark.parametrize(
    ("card", "inflight", "words"),
    [
        (IDLE, 0, ""),
        (IDLE | {"utilisation": 5}, 0, ""),
        (IDLE | {"utilisation": 6}, 0, "6 % busy"),
        (IDLE | {"free": 2 * GIB}, 0, ""),
        (IDLE | {"free": 2 * GIB - 1}, 0, "GiB are free"),
        (IDLE, 1, "1 request in flight"),
        (IDLE, 2, "2 requests in flight"),
        ({"free": 70 * GIB}, 0, "does not tell"),
        ({"utilisation": 0}, 0, "does not tell"),
    ],
)
def test_a_card_in_use_is_left_alone(card: dict[str, Any], inflight: int, words: str) -> None:
    """Requests, load, little room or silence of the driver: not tested, with the reason and the option."""
    choice = idle.choose(_look([card]), inflight)
    assert choice.tested == (() if words else (0,))
    assert words in choice.why
    assert ("--disruptive" in choice.why) == bool(words)
    assert idle.choose(_look([card]), inflight, disruptive=True).tested == (0,)


@pytest.mark.parametrize(
    ("found", "disruptive", "copied", "joined"),
    [
        ([IDLE, IDLE], False, [(0, 1)], [(0, 1)]),
        ([IDLE, IDLE | {"utilisation": 90}], False, [(0,)], []),
        ([IDLE | {"free": GIB}, IDLE | {"utilisation": 90}], False, [], []),
        ([IDLE | {"free": GIB}, IDLE | {"utilisation": 90}], True, [(0, 1)], [(0, 1)]),
        ([IDLE, IDLE | {"utilisation": 90}, IDLE], False, [(0, 2)], [(0, 2)]),
    ],
)
def test_only_idle_cards_are_tested(
    found: list[dict[str, Any]], disruptive: bool, copied: list[Any], joined: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies and collectives run on the idle cards and on no other; what was left alone is not clear."""
    ran: dict[str, list[tuple[int, ...]]] = {"copies": [], "joined": []}

    def copies(which: Sequence[int]) -> list[float]:
        ran["copies"].append(tuple(which))
        return [3e12 for _ in which]

    def collectives(_ranks: int, which: Sequence[int] = ()) -> tuple[int, str]:
        ran["joined"] += [tuple(which)] if which else []
        return 0, "they agree"

    _quiet(monkeypatch)
    monkeypatch.setattr(probes, "card_copies", copies)
    monkeypatch.setattr(probes, "collectives", collectives)
    monkeypatch.setattr(vitals, "pci_cards", lambda: [f"0000:0{n}:00.0" for n in range(len(found))])
    case = Case()
    with driver([card | {"name": "NVIDIA H100 80GB HBM3"} for card in found]):
        _, mute = deepcheck.run(case, Terminal(is_quiet=True), disruptive=disruptive)
    assert (ran["copies"], ran["joined"], mute) == (copied, joined, [])
    verdict = judge.verdicts(case, set(), [catalogue()["DEEP-GPU-MEMORY"]])[0]
    is_whole = bool(copied) and len(copied[0]) == len(found)
    assert verdict.outcome == ("clear" if is_whole else "not checked")
    assert is_whole or "--disruptive" in verdict.why


def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "memory_copy", lambda: 9e9)
    monkeypatch.setattr(deepcheck, "_disk", lambda: [9e8, "/x"])
    monkeypatch.setattr(deepcheck, "_front", lambda: "nothing is deployed here")
    monkeypatch.setattr(deepcheck, "_inflight", lambda: 0)
    monkeypatch.setattr(probes, "kernels", lambda: (0, "agrees"))


def test_a_hung_driver_gives_no_clear_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards on the bus and a driver that does not answer: the tests are named as without answer."""
    _quiet(monkeypatch)
    monkeypatch.setattr(probes, "collectives", lambda *_: (0, "they agree"))
    monkeypatch.setattr(vitals, "pci_cards", lambda: ["0000:01:00.0"])
    monkeypatch.setattr(cards, "look", lambda: Cards(problem="hung", words="no answer in 1.5 s"))
    case = Case()
    _, mute = deepcheck.run(case, Terminal(is_quiet=True))
    assert [what for what, _ in mute] == ["the cards' memory bandwidth", "a collective between cards"]
    rules = [catalogue()[name] for name in ("DEEP-GPU-MEMORY", "DEEP-NCCL")]
    assert [v.outcome for v in judge.verdicts(case, set(), rules)] == ["not checked", "not checked"]


ETH = Port("ethernet", "eth0", "up", 25.0, 0, "full", (("rx_crc_errors", 3),))
IB = Port("infiniband", "mlx5_0/1", "ACTIVE", 400.0, 4, "", (("symbol_error", 5), ("link_downed", 2)))
FINE: dict[str, Any] = {
    "deep.memory": [9e9], "deep.disk": [9e8, "/x"], "deep.kernels": [True, ""], "deep.front": [True, ""],
    "deep.gloo": [True, ""], "deep.nccl": [True, ""],
    "deep.network": [("a1", "a2", 1.1e9, ""), ("a2", "a1", 1.2e9, "")],
    "deep.gpu": [[0, "NVIDIA H100 80GB HBM3", 2.9e12], [1, "NVIDIA H100 80GB HBM3", 2.8e12]], "links": [ETH, IB],
    "links of hosts": {"a1": [ETH, IB], "a2": [ETH, IB], "a3": [ETH, IB]},
    "certificates": [("127.0.0.1:443", 60 * 86400.0, "CN=x")],
}  # fmt: skip


def port(base: Port, **changed: Any) -> Port:
    return Port(**{name: getattr(base, name) for name in Port.__slots__} | changed)


@pytest.mark.parametrize(
    ("fact", "value", "told"),
    [
        ("deep.gpu", [[0, "NVIDIA H100 80GB HBM3", 1.2e12]], ("DEEP-GPU-MEMORY", "warning")),
        ("deep.gpu", [[0, "Card X", 1.0e12], [1, "Card X", 0.6e12]], ("DEEP-GPU-MEMORY", "warning")),
        ("deep.gloo", [False, "over Gloo: rank 1 did not get further"], ("DEEP-GLOO", "critical")),
        ("deep.nccl", [False, "over NCCL: rank 1 ended with 1"], ("DEEP-NCCL", "critical")),
        ("deep.network", [("a1", "a2", 60e6, "")], ("DEEP-NETWORK", "warning")),
        ("deep.network", [("a1", "a2", 0.0, "Connection refused")], ("DEEP-NETWORK", "critical")),
        ("links", [port(IB, state="INIT")], ("LINK-STATE", "critical")),
        ("links", [port(IB, width=1, rate=25.0)], ("LINK-STATE", "warning")),
        ("links", [port(ETH, duplex="half")], ("LINK-STATE", "warning")),
        ("links", [port(IB, errors=(("symbol_error", 40000),))], ("LINK-ERRORS", "warning")),
        ("links", [port(ETH, errors=(("rx_crc_errors", 40000),))], ("LINK-ERRORS", "warning")),
        ("links of hosts", {"a1": [IB], "a2": [port(IB, state="DOWN")], "a3": [IB]}, ("LINK-DIFFERS", "critical")),
        ("links of hosts", {"a1": [IB], "a2": [port(IB, rate=200.0)], "a3": [IB]}, ("LINK-DIFFERS", "warning")),
        ("certificates", [("h:443", -3600.0, "CN=x")], ("TLS-EXPIRY", "critical")),
        ("certificates", [("h:443", 86400.0, "CN=x")], ("TLS-EXPIRY", "critical")),
        ("certificates", [("h:443", 14 * 86400.0, "CN=x")], ("TLS-EXPIRY", "warning")),
        ("links", [port(IB, state="DOWN", rate=0.0)], None),
        ("links", [port(IB, width=2, rate=200.0), port(ETH, rate=0.0, duplex="")], None),
        ("links", [port(IB, errors=(("link_downed", 9),))], None),
        ("links of hosts", {"a1": [port(IB, state="DOWN")], "a2": [port(IB, state="DOWN")], "a3": [IB]}, None),
        ("links of hosts", {"a1": [IB], "a2": []}, None),
        ("certificates", [("h:443", 22 * 86400.0, "CN=x")], None),
        ("deep.network", [("a1", "a2", 117e6, "")], None),
        ("deep.gpu", [[0, "Card X", 1.0e12], [1, "Card X", 0.71e12], [2, "NVIDIA H100 PCIe", 1.01e12]], None),
    ],
)
def test_measurements_are_judged(fact: str, value: Any, told: tuple[str, str] | None) -> None:
    """Each bad measurement fires its rule and only that; near misses are silent; without it the rule is not checked."""
    case = Case(facts=dict(FINE))
    assert live.findings(case, "h") == []
    case.facts[fact] = value
    assert [(f.rule.id, f.severity) for f in live.findings(case, "h")] == ([told] if told else [])
    del case.facts[fact]
    rules = [catalogue()[name] for name in JUDGES if catalogue()[name].needs[0] == fact]
    assert {v.outcome for v in judge.verdicts(case, set(), rules)} == {"not checked"}


def test_the_odd_host_is_named() -> None:
    """A port that is down on one host of three is a finding of that host."""
    case = Case(facts={"links of hosts": {"a1": [IB], "a2": [port(IB, state="DOWN")], "a3": [IB]}})
    assert [f.host for f in live.findings(case, "here")] == ["a2"]


def test_a_program_that_cannot_start_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the engine the collective is not a finding: nothing was found out."""
    monkeypatch.setattr(probes, "collectives", lambda *_: Missing("the engine is not installed here"))
    assert isinstance(deepcheck._gloo(), Missing)
