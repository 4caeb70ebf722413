"""Objectives as they are written: units, presets, and errors that say what would work."""

from __future__ import annotations

import pytest

from dsctl.base.errors import UsageError
from dsctl.bench import slo


def test_objectives_are_read_with_their_units() -> None:
    """Limits on requests become seconds; percentiles, shares and rates become limits on the run."""
    found = slo.parse("ttft=500ms, tpot=50000us,e2e=1min,ttft_p99=2s,error_rate=1%,goodput=5/s", 0.95)
    assert found.requests == {"ttft": 0.5, "tpot": pytest.approx(0.05), "e2e": 60.0}
    assert found.attainment == 0.95
    assert [(b.name, b.limit, b.at_least) for b in found.bounds] == [
        ("ttft_p99", 2.0, False), ("error_rate", 0.01, False), ("goodput", 5.0, True),
    ]  # fmt: skip


@pytest.mark.parametrize("name", slo.PRESETS)
def test_presets_are_objectives(name: str) -> None:
    """Every preset can be read, and says that it is only like its model."""
    assert slo.preset(name).requests.keys() == {"ttft", "tpot"}
    assert "like" in name


def test_own_limits_go_before_a_presets() -> None:
    """--slo changes what --slo-preset set, one limit at a time."""
    found = slo.wished("tpot=1s", "mlperf-like-deepseek-r1")
    assert found is not None
    assert found.requests == {"ttft": 2.0, "tpot": 1.0}
    assert slo.wished(None, None) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tfft=1s", "tfft"), ("ttft", "no limit"), ("ttft=fast", "fast"), ("ttft=0s", "0s"), ("ttft=-1s", "-1s"),
        ("ttft=1s,ttft=2s", "twice"), ("", "names no objective"), ("error_rate=300%", "more than everything"),
        ("ttft_p98=1s", "ttft_p98"), ("attainment=0,ttft=1s", "share"), ("goodput=1e999", "no number"),
    ],
)  # fmt: skip
def test_bad_objectives_are_refused_by_name(text: str, words: str) -> None:
    """A wrong objective is a usage error that holds what was wrong, and a way on."""
    with pytest.raises(UsageError) as caught:
        slo.parse(text)
    assert words in caught.value.message
    assert caught.value.hint


def test_an_unknown_preset_names_the_nearest() -> None:
    """A misspelt preset is a usage error with the nearest name."""
    with pytest.raises(UsageError) as caught:
        slo.preset("deepseek-r1")
    assert "mlperf-like-deepseek-r1" in caught.value.hint
