"""The page of a run: whole without a network, escaped, readable by machines that read to people; and its summaries."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsctl.bench import charts, judge, report, runs, slo, summary, timeline
from dsctl.bench.records import Stage
from tests.dsctl.bench import examples

HOSTILE = '<script>alert("x")</script><img src=http://evil/x.png>|`[a](http://evil)'
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Reader(HTMLParser):
    """Collects tags, and fails on those that are closed out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember it."""
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """It has to be the last one opened."""
        if not (self.get_starttag_text() or "").endswith("/>") or self.open[-1:] == [tag]:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag that is complete."""
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Text as people see it."""
        self.text.append(data)


def _run(tmp_path: Path, **more: Any) -> runs.Run:
    rows = examples.lognormal(np.random.default_rng(1), 1200)
    rows += [examples.failure(1200 + i, 30 + i * 0.5, stage=1) for i in range(8)]
    stages = [Stage(0, 10.0, 0.0, 30.0), Stage(1, 30.0, 30.0, 60.0)]
    scraped = [{"t": t * 2.0, "running": t % 7, "same": 1} for t in range(30)]
    facts = examples.facts(**({"stages": stages, "server_metrics": scraped} | more))
    return runs.load(examples.write(tmp_path / "run", rows, facts, slo.parse("ttft=300ms,tpot=30ms", 0.9)))


def _read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


def test_the_page_is_whole_and_asks_for_nothing(tmp_path: Path) -> None:
    """Every tag is closed in turn; nothing is loaded from anywhere, no script runs, and the policy forbids both."""
    run = _run(tmp_path)
    page = report.page(run, run.told)
    reader = _read(page)
    assert reader.open == []
    tags = {tag for tag, _ in reader.seen}
    assert not tags & {"script", "link", "img", "iframe", "object", "image", "use", "a"}
    assert not [attrs for _, attrs in reader.seen if attrs.keys() & {"src", "href", "xlink:href", "onclick", "onload"}]
    assert not re.findall(r"url\(|@import", page)
    assert "default-src 'none'" in page


def test_the_page_can_be_read_aloud(tmp_path: Path) -> None:
    """A language, one h1, each chart with title and description it points to, each table with heads and a caption."""
    run = _run(tmp_path)
    reader = _read(report.page(run, run.told))
    assert dict(reader.seen)["html"] == {"lang": "en"}
    assert [tag for tag, _ in reader.seen].count("h1") == 1
    ids = [attrs["id"] for _, attrs in reader.seen if "id" in attrs]
    assert len(ids) == len(set(ids))
    drawn = [attrs for tag, attrs in reader.seen if tag == "svg" and attrs.get("role") == "img"]
    assert len(drawn) == 4 + 4 + 2 + 1
    for attrs in drawn:
        assert set((attrs["aria-labelledby"] or "").split()) <= set(ids)
    tables = sum(tag == "table" for tag, _ in reader.seen)
    assert sum(tag == "caption" for tag, _ in reader.seen) == tables
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in reader.seen if tag == "th")


def test_the_page_is_made_for_light_and_dark(tmp_path: Path) -> None:
    """Colours are named once for each, and no element has one of its own."""
    run = _run(tmp_path)
    page = report.page(run, run.told)
    assert "prefers-color-scheme: dark" in page
    assert not re.findall(r'(?:style|fill|stroke)="', page)


def test_what_the_data_holds_is_shown_and_never_obeyed(tmp_path: Path) -> None:
    """Tags in a model's name, a note, a metric's name or a reason are text on the page and in the Markdown."""
    config = examples.facts().config | {"model": HOSTILE, "note": HOSTILE}
    scraped = [{"t": float(t), HOSTILE: t} for t in range(5)]
    run = _run(tmp_path, config=config, server_metrics=scraped, notes=[HOSTILE], valid=False, reasons=[HOSTILE])
    reader = _read(report.page(run, run.told))
    assert not {"script", "img"} & {tag for tag, _ in reader.seen}
    assert HOSTILE in "".join(reader.text)
    told = summary.markdown(run.told)
    assert "<script>" not in told
    assert "](http" not in told


def test_every_figure_of_the_table_is_that_of_run_json(tmp_path: Path) -> None:
    """The page's latency table and the terminal's show the same cells."""
    run = _run(tmp_path)
    text = " ".join("".join(_read(report.page(run, run.told)).text).split())
    screen = summary.screen(run.told)
    for row in summary.rows(run.told):
        assert " ".join(row) in " ".join(screen.split())
        assert all(cell in text for cell in row)
    for name, formula in summary.formulas(run.told):
        assert f"{name} = {formula}" in screen
        assert formula in text


def test_the_verdict_comes_first(tmp_path: Path) -> None:
    """The screen opens with the verdict; an invalid run says why, and that its figures prove nothing."""
    run = _run(tmp_path, valid=False, reasons=["loop lag p99 9 ms"])
    screen = summary.screen(run.told)
    assert screen.startswith("INVALID")
    assert "loop lag p99 9 ms" in screen.splitlines()[1]
    assert "prove nothing" in screen
    assert max(map(len, screen.splitlines()[4:16])) <= 100


def test_closed_loops_say_what_they_cannot_show() -> None:
    """The screen of a closed loop warns that its latencies are flattered under overload."""
    rows = [examples.record(i, i * 0.1) for i in range(100)]
    told = judge.document(examples.facts(mode="closed"), rows)
    assert summary.CLOSED_WARNING in summary.screen(told)
    assert "ttft_sched" not in summary.screen(told)


def test_a_run_of_failures_still_has_a_page(tmp_path: Path) -> None:
    """With no answer at all there are no curves, but the page and the screen say what happened."""
    rows = [examples.failure(i, i * 0.5) for i in range(100)]
    run = runs.load(examples.write(tmp_path / "run", rows, objectives=slo.parse("ttft=1s")))
    assert "100 http_error" in "".join(_read(report.page(run, run.told)).text)
    assert summary.screen(run.told).startswith("FAIL")


def test_a_distribution_by_hand() -> None:
    """Four answers and one failure: 20, 40, 60 and 80 %, and never 100."""
    points = timeline.cumulative(np.asarray([0.4, 0.1, 0.3, 0.2]), lost=1)
    assert [share for _, share in points] == [20.0, 40.0, 60.0, 80.0]
    assert [value for value, _ in points] == pytest.approx([100.0, 200.0, 300.0, 400.0])


def test_a_long_distribution_keeps_its_ends() -> None:
    """Of many values at most 200 places are drawn, the least and the greatest among them."""
    points = timeline.cumulative(np.arange(1, 10_001) / 1000)
    assert len(points) <= 201
    assert points[0] == (1.0, 0.01)
    assert points[-1] == (10_000.0, 100.0)


def test_requests_in_flight_by_hand() -> None:
    """Sent at 0.01 and 1.01, ended 0.26 later: one, none, one."""
    rows = [examples.record(0, 0.0), examples.record(1, 1.0)]
    assert timeline.in_flight(rows, [0.1, 0.9, 1.1]) == [(0.1, 1.0), (0.9, 0.0), (1.1, 1.0)]


@pytest.mark.parametrize("span", [(0.0, 1.0), (0.0, 7.3), (12.0, 9000.0), (0.001, 0.0017), (-3.0, 3.0)])
def test_ticks_are_round_and_within(span: tuple[float, float]) -> None:
    """Between 3 and 10 ticks, all inside the axis."""
    found = charts.ticks(*span)
    assert 3 <= len(found) <= 10
    assert all(span[0] - 1e-9 <= value <= span[1] + 1e-9 for value in found)
    if span[0] > 0:
        low, high = span
        logs = charts.log_ticks(low, high)
        assert len(logs) >= 2
        assert all(low * 0.999 <= value <= high * 1.001 for value in logs)
