"""The small collective: real processes agree over Gloo; one that hangs or dies is named, and nothing outlives it."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from engine.parallel import preflight
from engine.parallel.preflight import Said, gather, main, own_command, verdict


def test_real_ranks_agree(capsys: pytest.CaptureFixture[str]) -> None:
    """Two processes do what the engine does between ranks, and all comes out right."""
    assert main(["--ranks", "2", "--deadline", "300"]) == 0
    assert "2 ranks agree over Gloo" in capsys.readouterr().out


def test_a_dead_rank_is_named(tmp_path: Path) -> None:
    """A rank that ends at once is the one that is told, with its last words; the one that waits for it is ended."""
    own = own_command(2, "cpu", str(tmp_path))
    dies = [sys.executable, "-c", "import sys; sys.exit('no card')"]
    said = gather(2, lambda rank: dies if rank else own(rank), str(tmp_path), 300.0)
    assert verdict(said, "cpu") == (False, "over Gloo: rank 1 ended with 1 before it joined (no card)")
    assert [p for p in psutil.Process().children() if "engine.parallel.preflight" in " ".join(p.cmdline())] == []


def test_a_rank_that_never_comes_is_named(tmp_path: Path) -> None:
    """Nobody waits longer than the deadline."""
    waits = [sys.executable, "-c", "import time; time.sleep(600)"]
    joins = [sys.executable, "-c", 'print(\'{"stage": "joined"}\', flush=True); import time; time.sleep(600)']
    said = gather(2, lambda rank: waits if rank else joins, str(tmp_path), 2.0)
    is_right, words = verdict(said, "cpu")
    assert not is_right
    assert "rank 1 did not get further in time before it joined" in words


@pytest.mark.parametrize(
    ("stages", "named"),
    [(("gather", "sum"), "rank 1"), (("sum", "sum"), "rank 0"), (("done", "exchange"), "rank 1")],
)
def test_the_furthest_behind_is_named(stages: tuple[str, str], named: str) -> None:
    """Of ranks that hang, those that came least far are told; all of them where they are equal."""
    said = [Said(rank, stage, None, "") for rank, stage in enumerate(stages)]
    assert named in verdict(said, "cpu")[1]
    assert ("rank 0" in verdict(said, "cpu")[1]) == (stages[0] == stages[1])


def test_one_rank_is_not_applicable(capsys: pytest.CaptureFixture[str]) -> None:
    """A single rank has nobody to talk to: code 3."""
    assert main(["--ranks", "1"]) == 3
    assert "nobody" in capsys.readouterr().out
    assert preflight.STAGES[-1] == "done"
