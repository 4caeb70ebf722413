"""Answers of replicas, gateway and supervisord are read, or are missing with a reason; nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsctl.base.missing import Missing
from dsctl.base.step import Row
from dsctl.facts.checkpoint import digest
from dsctl.facts.programs import Label, Program, Supervised, parse_label, parse_supervised
from dsctl.facts.serving import ServerInfo, Table, parse_front, parse_server_info, parse_table

PARSERS = (parse_server_info, parse_table, parse_front, parse_supervised, parse_label)


def test_server_info() -> None:
    """The fields of /server_info."""
    told = {"state": "ready", "api_pid": 1, "core_pids": [2], "restarts": 3, "numerics_id": "n", "model": "m"}
    assert parse_server_info(json.dumps(told)) == ServerInfo("ready", 1, (2,), 3, "n")


def test_a_replica_table() -> None:
    """The rows of replicas.json, by name."""
    rows = (Row("r1", "http://127.0.0.1:1", "abc", "active"), Row("r2", "http://127.0.0.1:2", "abc", "gated", 2))
    table = Table(7, rows)
    assert parse_table(json.dumps({"generation": 7, "replicas": [asdict(row) for row in rows]})) == table
    assert table.row("r2") == table.rows[1]
    assert isinstance(table.row("r3"), Missing)


def test_a_front_counts_what_is_in_flight() -> None:
    """The gateway's status by replica."""
    told = {"generation": 3, "replicas": [{"name": "r1", "inflight": 2, "health": "healthy"}, {"name": "r2"}]}
    front = parse_front(json.dumps(told))
    assert not isinstance(front, Missing)
    assert (front.generation, front.inflight) == (3, {"r1": 2, "r2": 0})


def test_supervised_programs() -> None:
    """supervisord's list; what runs or will run is up."""
    info = {"name": "r1", "statename": "BACKOFF", "pid": 0, "exitstatus": 2, "spawnerr": "Exited too quickly"}
    told = parse_supervised(json.dumps({"pid": 5, "programs": [info]}))
    assert told == Supervised(5, {"r1": Program("r1", "BACKOFF", 0, 2, "Exited too quickly")})
    assert told.programs["r1"].is_up


def test_a_label_survives_being_written() -> None:
    """What heads a program's file reads back, whatever follows."""
    label = Label("r1", "replica", "127.0.0.1", 20001, "abc", 'a "model" 100%')
    assert parse_label(f"; {label.line()}\n[program:r1]\n") == label
    assert isinstance(parse_label("[program:r1]"), Missing)
    assert Label("gateway", "gateway", "0.0.0.0", 8000, "", "").url == "http://127.0.0.1:8000"


def test_a_checkpoint_is_told_by_its_files() -> None:
    """The digest changes with any file, and needs a config.json."""
    first = digest('[["config.json", 2, "a"], ["model.safetensors", 9, 1]]')
    assert first != digest('[["config.json", 2, "a"], ["model.safetensors", 9, 2]]')
    assert isinstance(digest('[["model.safetensors", 9, 1]]'), Missing)


KEYS = st.sampled_from(["replicas", "generation", "pid", "programs", "name", "state"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(KEYS, x, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("parse", PARSERS, ids=lambda p: p.__name__)
@given(st.text(max_size=40) | JSON.map(json.dumps) | JSON.map(lambda x: "; dsctl " + json.dumps(x)))
def test_nonsense_is_missing(parse: Callable[[str], object], text: str) -> None:
    """Whatever a program answers, reading it never raises."""
    parse(text)
