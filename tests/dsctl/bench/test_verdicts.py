"""`dsctl bench compare|gate|report` from outside: exit codes, what is named, and what is written where."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dsctl.base.exits import Exit
from dsctl.bench import records, run, runs, slo
from dsctl.bench.wish import Wish
from dsctl.cli import app
from tests.dsctl.bench import examples

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """Repeated runs `a`, and `b` with 10 % more tpot, of the same requests."""
    for name, factor in (("a", 1.0), ("b", 1.1)):
        rng = np.random.default_rng(1)
        for i in range(3):
            rows = examples.lognormal(rng, 400, factor=factor, tokens=4)
            examples.write(tmp_path / name / f"run-{i + 1}", rows, objectives=slo.parse("ttft=500ms"))
    return tmp_path


def test_a_regression_fails_and_is_named(bench: Path, capsys: Captured) -> None:
    """Exit 1 with the metric's name on the last line; the same runs against themselves exit 0."""
    limits = ["--max-regression", "tpot_p50=3%"]
    assert app.run(["bench", "compare", str(bench / "a"), str(bench / "b"), *limits]) == Exit.FAILED
    assert capsys.readouterr().out.splitlines()[-1] == "WORSE: tpot_p50"
    assert app.run(["bench", "compare", str(bench / "a"), str(bench / "a"), *limits]) == Exit.OK
    assert "PASS" in capsys.readouterr().out
    assert app.run(["bench", "compare", str(bench / "a"), str(bench / "b")]) == Exit.OK


def test_repeated_runs_are_what_compare_reads(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bench run --repeat 3` makes three runs of the same requests; the worst code is the exit code."""
    valid = [True, True, True]

    def measured(wish: Wish, site: run.Site, folder: Path, watcher: object) -> run.Ran:
        rows = examples.lognormal(np.random.default_rng(len(str(folder))), 100)
        records.write(folder / records.ROWS, rows)
        return run.Ran(examples.facts(valid=valid[int(folder.name[-1]) - 1], reasons=["busy"]), rows)

    monkeypatch.setattr(run, "measure", measured)
    command = ["bench", "--url", "http://127.0.0.1:1", "--repeat", "3", "--quiet"]
    assert app.run([*command, "--out", str(tmp_path / "a")]) == Exit.OK
    assert [one.path.name for one in runs.load_all(tmp_path / "a")] == ["run-1", "run-2", "run-3"]
    assert (tmp_path / "a" / "run-3" / "report.html").exists()
    assert app.run(["bench", "compare", str(tmp_path / "a"), str(tmp_path / "a")]) == Exit.OK
    assert app.run([*command, "--out", str(tmp_path / "b"), "--slo", "ttft=1ms"]) == Exit.FAILED
    valid[1] = False
    capsys.readouterr()
    assert app.run([*command, "--out", str(tmp_path / "c"), "--slo", "ttft=1ms", "--json"]) == Exit.INVALID
    assert [one["verdict"] for one in json.loads(capsys.readouterr().out)["runs"]] == ["fail", "invalid", "fail"]


def test_a_comparison_as_json_and_markdown(bench: Path, capsys: Captured) -> None:
    """JSON carries its schema version and the regressions; Markdown is a table."""
    command = ["bench", "compare", str(bench / "a"), str(bench / "b"), "--max-regression", "tpot_p50=3%"]
    assert app.run([*command, "--json"]) == Exit.FAILED
    told = json.loads(capsys.readouterr().out)
    assert told["schema_version"] == 1
    assert told["regressions"] == ["tpot_p50"]
    assert told["metrics"][0]["change"] == pytest.approx(0.1, abs=0.05)
    assert app.run([*command, "--markdown"]) == Exit.FAILED
    assert "| metric | A | B |" in capsys.readouterr().out


def test_different_runs_are_not_comparable(bench: Path, capsys: Captured) -> None:
    """Exit 10 naming what differs and how to say that it is meant to; with that, they are compared."""
    config = examples.facts().config | {"model": "other"}
    other = examples.write(
        bench / "other", examples.lognormal(np.random.default_rng(2), 400), examples.facts(config=config)
    )
    assert app.run(["bench", "compare", str(bench / "a"), str(other)]) == Exit.INCOMPARABLE
    assert "--across model" in capsys.readouterr().err
    assert app.run(["bench", "compare", str(bench / "a"), str(other), "--across", "model"]) == Exit.OK


def test_undecided_is_a_failure_only_when_strict(bench: Path, capsys: Captured) -> None:
    """Too few requests to tell 0.5 %: exit 0, said to be inconclusive, and 1 with --strict."""
    command = ["bench", "compare", str(bench / "a"), str(bench / "a"), "--max-regression", "ttft_p50=0.5%"]
    assert app.run(command) == Exit.OK
    assert "INCONCLUSIVE: ttft_p50" in capsys.readouterr().out
    assert app.run([*command, "--strict"]) == Exit.FAILED


def test_the_gate_names_the_objective_that_was_missed(bench: Path, capsys: Captured) -> None:
    """Exit 0 for what the run was measured with, 1 with the name for a harder one, 9 where it cannot tell."""
    run = str(bench / "a" / "run-1")
    assert app.run(["bench", "gate", run]) == Exit.OK
    assert capsys.readouterr().out.startswith("PASS")
    assert app.run(["bench", "gate", run, "--slo", "ttft=1s,tpot=10ms"]) == Exit.FAILED
    assert capsys.readouterr().out.splitlines()[0].endswith(": tpot, all limits")
    assert app.run(["bench", "gate", run, "--slo", "ttft_p99=1s"]) == Exit.INVALID
    assert "needs 1000" in capsys.readouterr().err


def test_an_invalid_run_ends_with_nine(bench: Path, capsys: Captured) -> None:
    """Gate and compare refuse a run that does not believe itself, with its reason."""
    rows = examples.lognormal(np.random.default_rng(2), 400)
    bad = examples.write(bench / "bad", rows, examples.facts(valid=False, reasons=["a worker used 99 % of a core"]))
    assert app.run(["bench", "gate", str(bad), "--slo", "ttft=1s"]) == Exit.INVALID
    assert "a worker used 99 %" in capsys.readouterr().err
    assert app.run(["bench", "compare", str(bench / "a"), str(bad)]) == Exit.INVALID


def test_a_report_is_a_screen_and_a_page(bench: Path, capsys: Captured) -> None:
    """The screen goes to stdout with the formulas, the page beside the run; --html puts it elsewhere."""
    run = bench / "a" / "run-1"
    assert app.run(["bench", "report", str(run)]) == Exit.OK
    out = capsys.readouterr().out
    assert out.startswith("PASS")
    assert "tpot = (t_last − t_first) / (n_out − n_first)" in out
    assert (run / "report.html").read_text().startswith("<!doctype html>")
    assert app.run(["bench", "report", str(run), "--html", str(bench / "page.html"), "--markdown"]) == Exit.OK
    assert "### ✅ bench: pass" in capsys.readouterr().out
    assert (bench / "page.html").exists()
    assert app.run(["bench", "report", str(bench / "a"), "--html", str(bench / "page.html")]) == Exit.USAGE


def test_html_may_stand_alone(bench: Path, capsys: Captured) -> None:
    """`report DIR --html` writes the page where it goes without being told."""
    assert app.run(["bench", "report", str(bench / "a" / "run-1"), "--html"]) == Exit.OK
    assert app.run(["bench", "report", "--html", "--json", str(bench / "a" / "run-1")]) == Exit.OK
    assert (bench / "a" / "run-1" / "report.html").exists()
    capsys.readouterr()


@pytest.mark.parametrize("wrong", ["none", "0", "-1"])
def test_workers_are_a_number_or_auto(wrong: str, capsys: Captured) -> None:
    """Another word is a usage error that names both."""
    assert app.run(["bench", "--mock", f"--workers={wrong}"]) == Exit.USAGE
    assert "auto" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["gate", "report"])
def test_damaged_runs_end_with_two_and_the_file(bench: Path, capsys: Captured, verb: str) -> None:
    """A truncated row file is a usage error that names it."""
    rows = bench / "a" / "run-1" / "requests.jsonl.gz"
    rows.write_bytes(rows.read_bytes()[:100])
    assert app.run(["bench", verb, str(rows.parent)]) == Exit.USAGE
    assert str(rows) in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_a_usage_error(bench: Path, capsys: Captured) -> None:
    """A --html in a directory that is not there says so."""
    assert (
        app.run(["bench", "report", str(bench / "a" / "run-1"), "--html", str(bench / "no" / "x.html")]) == Exit.USAGE
    )
    assert "cannot be written" in capsys.readouterr().err
