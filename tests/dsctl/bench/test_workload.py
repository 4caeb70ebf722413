"""What is asked: the same seed asks the same bytes, no prompt is another's beginning unless it is meant to be."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from dsctl.base.errors import UsageError
from dsctl.bench import datasets
from dsctl.bench.lengths import Length, parse_length
from dsctl.bench.loads import Level, Load
from dsctl.bench.plan import Plan, Target, Workload
from dsctl.bench.wish import Wish, address, load_of, parse_priorities, workload_of
from dsctl.bench.workload import Writer


def writer(endpoint: Any = "chat", **work: Any) -> Writer:
    """A writer of such a workload."""
    load = Load(kind="closed", levels=[Level(1, 1)], requests=50)
    return Writer(
        Plan(target=Target(url="http://h", model="m", endpoint=endpoint), load=load, workload=Workload(**work))
    )


def body(made: Writer, index: int) -> dict[str, Any]:
    """The body of request `index`."""
    return json.loads(made.body(made.request(index)))


def test_the_seed_decides_every_byte() -> None:
    """The same workload gives the same fingerprint, in any order of asking; another seed another one."""
    lengths = {"isl": Length("lognormal", 200, 0.5), "osl": Length("normal", 50, 10), "leave_share": 0.3}
    first, again = writer(seed=4, **lengths), writer(seed=4, **lengths)
    backwards = [again.body(again.request(i)) for i in reversed(range(50))][::-1]
    assert [first.body(first.request(i)) for i in range(50)] == backwards
    assert first.sha256() == again.sha256()
    assert first.sha256() != writer(seed=5, **lengths).sha256()


def test_no_prompt_begins_like_another() -> None:
    """Each prompt opens with its own number, so no prefix cache can answer for the model."""
    made = writer(isl=Length("fixed", 64))
    openings = {body(made, i)["messages"][0]["content"][:12] for i in range(200)}
    assert len(openings) == 200


def test_shared_prefixes_are_shared() -> None:
    """Of three shared beginnings all are used, each the same text every time, the rest differs."""
    made = writer(isl=Length("fixed", 64), prefix_tokens=100, prefixes=3)
    asked = [body(made, i)["messages"] for i in range(60)]
    assert {len(messages) for messages in asked} == {2}
    assert len({messages[0]["content"] for messages in asked}) == 3
    assert len({messages[1]["content"] for messages in asked}) == 60


def test_prompts_grow_by_the_servers_own_count() -> None:
    """Words follow from the tokens asked for and what a word costs."""
    made = writer(isl=Length("fixed", 500))
    words = body(made, 0)["messages"][0]["content"].split()
    assert len(words) == pytest.approx((500 - 8) / 1.3, abs=2)


def test_the_server_decides_what_is_sent() -> None:
    """Options that it refuses are left out; completions get a prompt."""
    shy = Target(url="http://h", model="m", takes_usage=False, takes_ignore_eos=False, takes_priority=False)
    load = Load(kind="closed", levels=[Level(1, 1)])
    work = Workload(priorities=parse_priorities("a=1:1"))
    bare = json.loads(Writer(Plan(target=shy, load=load, workload=work)).body(writer().request(0)))
    assert bare.keys() == {"model", "messages", "max_tokens", "temperature", "stream"}
    full = body(writer("completions", priorities=parse_priorities("a=1:1")), 0)
    assert {"prompt", "stream_options", "ignore_eos", "priority"} <= full.keys()


def test_classes_have_their_shares() -> None:
    """Priority classes come as often as they should, with their number; as many clients leave as should."""
    made = writer(priorities=parse_priorities("fast=0:0.75,slow=10:0.25"), leave_share=0.2, osl=Length("fixed", 40))
    asked = [made.request(i) for i in range(2000)]
    assert sum(one.priority == "slow" for one in asked) / 2000 == pytest.approx(0.25, abs=0.04)
    assert {one.priority_value for one in asked} == {0, 10}
    leavers = [one.leave_after for one in asked if one.leave_after is not None]
    assert len(leavers) / 2000 == pytest.approx(0.2, abs=0.04)
    assert min(leavers) >= 1
    assert max(leavers) <= 39


def test_lengths_follow_their_distribution(tmp_path: Path) -> None:
    """Means are what is written; nothing is below 1; a file's numbers are its own."""
    rng = random.Random(1)
    for text in ("300", "300:normal:30", "300:lognormal:0.5", "300:uniform:100"):
        drawn = [parse_length(text, "--isl").draw(rng) for _ in range(4000)]
        assert sum(drawn) / 4000 == pytest.approx(300, rel=0.04)
    assert min(parse_length("2:normal:50", "--isl").draw(rng) for _ in range(500)) == 1
    (tmp_path / "lengths").write_text("5\n7\n")
    assert {parse_length(f"file:{tmp_path}/lengths", "--osl").draw(rng) for _ in range(50)} == {5, 7}
    for wrong in ("0", "x", "5:melt:3", "5:normal", "5:normal:-1", f"file:{tmp_path}/none"):
        with pytest.raises(UsageError):
            parse_length(wrong, "--isl")


def test_datasets_and_traces_are_read(tmp_path: Path) -> None:
    """Rows keep their prompts and lengths, traces their times; equal block ids are equal text."""
    data, trace = tmp_path / "d.jsonl", tmp_path / "t.jsonl"
    data.write_text('{"prompt": "Why?", "max_tokens": 5}\n\n{"messages": [{"role": "user", "content": "Who?"}]}\n')
    made = writer(rows=datasets.read_dataset(data))
    assert [body(made, i)["messages"][0]["content"] for i in range(3)] == ["Why?", "Who?", "Why?"]
    assert [body(made, i)["max_tokens"] for i in range(2)] == [5, 64]
    rows = [{"timestamp": 3000, "input_length": 600, "output_length": 7, "hash_ids": [1, 2]}]
    rows += [{"timestamp": 1000, "input_length": 700, "output_length": 8, "hash_ids": [1, 3]}]
    trace.write_text("\n".join(json.dumps(row) for row in rows))
    read = datasets.read_trace(trace)
    assert [(row.at, row.n_out) for row in read] == [(0.0, 8), (2.0, 7)]
    texts = [body(writer(rows=read), i)["messages"][0]["content"] for i in range(2)]
    shared = len([1 for a, b in zip(*texts, strict=False) if a == b])
    assert shared > len(texts[0]) / 2
    assert texts[0] != texts[1]
    data.write_text('{"question": "?"}\n')
    with pytest.raises(UsageError, match=":1"):
        datasets.read_dataset(data)


def test_wishes_become_loads(tmp_path: Path) -> None:
    """Defaults are a closed load of 60 s; a rate means Poisson; a trace lasts as long as it is."""
    load, _ = load_of(Wish())
    assert (load.kind, load.levels, load.warmup) == ("closed", [Level(8, 60)], 5.0)
    assert load_of(Wish(rate=3.0))[0].kind == "poisson"
    assert load_of(Wish(load="closed", stages="2@5s,4@5s"))[0].end == 15.0
    trace = tmp_path / "t.jsonl"
    trace.write_text("".join(f'{{"t": {t}, "input_length": 5, "output_length": 5}}\n' for t in range(10)))
    load, rows = load_of(Wish(load=f"trace:{trace}"))
    assert (load.end, load.levels[0].target, len(rows)) == (10.0, 1.0, 10)
    for wrong in (
        Wish(load="closed", rate=1.0), Wish(load="poisson"), Wish(load="poisson", rate=1.0, concurrency=3),
        Wish(stages="2@5s", duration="5s"), Wish(requests=0), Wish(concurrency=0),
    ):  # fmt: skip
        with pytest.raises(UsageError):
            load_of(wrong)
    with pytest.raises(UsageError):
        workload_of(Wish(disconnect=1.0), [])


def test_addresses_hold_no_password() -> None:
    """A URL is cut to the server; one with a password in it is refused, since it would be kept with the run."""
    assert address("h:80/v1/") == "http://h:80"
    for wrong in ("ftp://h", "http://", "http://h:x"):
        with pytest.raises(UsageError):
            address(wrong)
    with pytest.raises(UsageError) as caught:
        address("http://u:secret@h")
    assert "secret" not in " ".join(caught.value.lines())
