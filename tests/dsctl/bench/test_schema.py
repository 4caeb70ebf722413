"""run.json is what its schema says, and its percentiles are those of the rows beside it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from dsctl.bench import judge, records, schema, slo
from dsctl.bench.records import Stage
from tests.dsctl.bench import examples

SOURCES = Path(judge.__file__).parent


def documents() -> list[dict[str, Any]]:
    """Runs with and without failures, objectives, answers and validity, as they stand in a file."""
    rows = examples.lognormal(np.random.default_rng(1), 1200)
    broken = [examples.failure(i, i * 0.5) for i in range(100)]
    stages = [Stage(0, 10.0, 0.0, 30.0), Stage(1, 20.0, 30.0, 60.0)]
    wished = slo.parse("ttft=300ms,tpot=30ms,ttft_p99=1s,error_rate=1%,goodput=5")
    made = [
        judge.document(examples.facts(stages=stages), rows, wished),
        judge.document(examples.facts(mode="closed"), [*rows, *broken]),
        judge.document(examples.facts(valid=False, reasons=["busy"]), broken, wished),
    ]
    return [json.loads(msgspec.json.encode(told)) for told in made]


@pytest.mark.parametrize("number", range(3))
def test_a_run_is_what_its_schema_says(number: int) -> None:
    """Every key is known and of its kind; one that is missing, unknown or of another kind is refused by name."""
    told = documents()[number]
    assert schema.check(told).verdict == told["verdict"]
    for change in ({"mood": 1}, {"verdict": "fine"}, {"counts": {"ok": "many"}}):
        with pytest.raises(msgspec.ValidationError, match=r"verdict|counts|mood"):
            schema.check(told | change)
    with pytest.raises(msgspec.ValidationError, match="headline"):
        schema.check({name: value for name, value in told.items() if name != "headline"})


def test_the_schema_is_json_schema() -> None:
    """It names the document, and every key that a run has."""
    told = schema.json_schema()
    assert told["$ref"] == "#/$defs/Document"
    assert set(documents()[0]) == set(told["$defs"]["Document"]["properties"])


def test_percentiles_are_numpys_on_the_rows(tmp_path: Path) -> None:
    """Each percentile that run.json shows equals, to the bit, numpy's on the rows of the file beside it."""
    rows = examples.lognormal(np.random.default_rng(3), 1500, tokens=5)
    folder = examples.write(tmp_path / "run", rows)
    told = json.loads((folder / records.RUN).read_text())
    with gzip.open(folder / records.ROWS, "rt") as file:
        read = [json.loads(line) for line in file]
    ours = {
        "ttft": [row["t_first"] - row["t_send"] for row in read],
        "ttft_sched": [row["t_first"] - row["t_intended"] for row in read],
        "tpot": [(row["t_last"] - row["t_first"]) / (row["n_out"] - 1) for row in read],
        "e2e": [row["t_last"] - row["t_send"] for row in read],
        "icl": [gap for row in read for gap in row["gaps"]],
    }
    for name, values in ours.items():
        for p in ("p50", "p90", "p95", "p99"):
            assert told["metrics"][name][p] == np.percentile(values, float(p[1:]), method="inverted_cdf")
        assert told["metrics"][name]["p999"] is None
    assert told["metrics"]["ttft"]["n"] == len(read)


def test_locusts_statistics_are_never_read() -> None:
    """No module of the load test names them: they hold rounded values."""
    words = ("locust.stats", ".stats.", "stats_history", "get_response_time_percentile")
    found = [path.name for path in SOURCES.rglob("*.py") if any(word in path.read_text("utf-8") for word in words)]
    assert not found
