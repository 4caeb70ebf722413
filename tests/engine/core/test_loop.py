"""The loop without its process: messages in, events out, failures contained."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import pytest

from engine.core import faults, machine
from engine.core.boot import boot, numerics_id
from engine.core.loop import Loop
from engine.modeling import loader
from engine.spec.config import EngineConfig
from engine.spec.errors import CapacityError, ConfigError
from engine.wire.messages import Abort, Quit, Refused, Sampling, Start, Step, Submit


class Hand:
    """Stands for the inbox: messages put in are taken at the next look."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def take(self, timeout_s: float | None) -> list[Any]:
        taken, self.messages = self.messages, []
        if not taken and timeout_s is None:
            raise queue.Empty  # the loop would sleep for ever: the test has seen enough
        return taken


class Bench:
    """A booted core whose socket is a list."""

    def __init__(self, checkpoint: Path, ills: dict[str, float] | None = None, **settings: Any) -> None:
        config = EngineConfig(**{"model": str(checkpoint), "dtype": "float32", "threads": 1, **settings})
        booted = boot(Start(config, 1, ills or {}))
        self.ready = booted.ready
        self.hand, self.said = Hand(), []
        self.loop = Loop(booted.scheduler, booted.runner, self.hand, self.said.append)  # type: ignore[arg-type]

    def run(self, *messages: Any) -> None:
        """Until idle or quit."""
        self.hand.messages += messages
        with pytest.raises(queue.Empty):
            self.loop.run()

    def of(self, seq: int) -> list[Any]:
        return [delta for step in self.said if isinstance(step, Step) for delta in step.deltas if delta.seq == seq]

    def ids(self, seq: int) -> list[int]:
        return [token for delta in self.of(seq) for token in delta.ids]


def _submit(seq: int, max_tokens: int = 5) -> Submit:
    return Submit(seq, [seq, *range(20)], Sampling(seed=seq, max_tokens=max_tokens))


@pytest.fixture(scope="module")
def undisturbed(checkpoint: Path) -> Bench:
    """Three sequences on a core without faults."""
    bench = Bench(checkpoint)
    bench.run(*map(_submit, (1, 2, 3)))
    return bench


def test_steps_are_counted_and_told(undisturbed: Bench) -> None:
    """Each step is one message with what it computed; the numbers rise by one."""
    steps = [message for message in undisturbed.said if isinstance(message, Step)]
    assert [step.step for step in steps] == [1, 2, 3, 4, 5]
    assert [step.prompt_tokens for step in steps] == [63, 0, 0, 0, 0]
    assert [step.output_tokens for step in steps] == [3] * 5
    assert undisturbed.loop.beat(1, 9, 0).step == 5


def test_quit_ends_and_abort_is_told_at_once(checkpoint: Path) -> None:
    """An abort ends the sequence in the next round without another token; Quit ends the loop."""
    bench = Bench(checkpoint)
    bench.hand.messages += [_submit(1, 50)]
    bench.loop._take_messages()
    bench.loop.step()
    bench.hand.messages += [Abort([1, 99])]
    bench.loop._take_messages()
    assert bench.loop.scheduler.pool.used == 0
    bench.loop.step()
    assert [delta.finished for delta in bench.of(1)] == [None, "abort"]
    bench.hand.messages += [Quit()]
    bench.loop.run()


def test_a_step_without_memory_loses_nobody(checkpoint: Path, undisturbed: Bench) -> None:
    """An allocation failure makes the step smaller; every sequence says what it would have said."""
    for ills in ({"oom_at_step": 2.0}, {"fail_at_step": 2.0}):
        bench = Bench(checkpoint, ills)
        bench.run(*map(_submit, (1, 2, 3)))
        for seq in (1, 2, 3):
            assert bench.ids(seq) == undisturbed.ids(seq)
            assert bench.of(seq)[-1].finished == "length"


def test_nan_ends_one_sequence_with_a_reason(checkpoint: Path, undisturbed: Bench) -> None:
    """The sequence with NaN logits ends with finished=error; the others say what they would have said."""
    bench = Bench(checkpoint, {"nan_at_step": 3.0})
    bench.run(*map(_submit, (1, 2, 3)))
    ended = {seq: bench.of(seq)[-1] for seq in (1, 2, 3)}
    guilty = [seq for seq, delta in ended.items() if delta.finished == "error"]
    assert len(guilty) == 1
    assert "finite" in ended[guilty[0]].error
    assert all(bench.ids(seq) == undisturbed.ids(seq) for seq in {1, 2, 3} - set(guilty))


def test_a_core_that_fails_whatever_it_gets_gives_up(checkpoint: Path) -> None:
    """When every one of several sequences fails in three steps in a row, the process must go."""
    bench = Bench(checkpoint)
    bench.loop._runner._model = None  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="every sequence failed"):
        for round_ in range(5):
            bench.hand.messages += [_submit(2 * round_), _submit(2 * round_ + 1)]
            bench.loop._take_messages()
            bench.loop.step()
    assert [bench.of(seq)[-1].finished for seq in range(6)] == ["error"] * 6


def test_refusals_are_messages(checkpoint: Path) -> None:
    """What cannot be served is one Refused with the numbers."""
    bench = Bench(checkpoint, max_model_len=64)
    bench.run(_submit(1, 44))
    (refused,) = bench.said
    assert isinstance(refused, Refused)
    assert "65" in refused.message
    assert "64" in refused.message


def test_what_decides_a_token_is_in_the_numerics_id(checkpoint: Path, undisturbed: Bench) -> None:
    """Equal for an equal core whatever its cache; another dtype is another id; relaxed reuse is not exact."""
    assert Bench(checkpoint, kv_cache_tokens=320, block_size=8).ready.numerics_id == undisturbed.ready.numerics_id
    other = loader.load(EngineConfig(str(checkpoint), "bfloat16"))
    assert numerics_id(other) != undisturbed.ready.numerics_id
    relaxed = Bench(checkpoint, reuse_output_blocks=True).ready
    assert not relaxed.exact
    assert "reuse_output_blocks" in relaxed.reason


def test_a_plan_that_does_not_fit_says_what_would(checkpoint: Path) -> None:
    """Too large a cache is a CapacityError with a number; a wrong setting or fault is a ConfigError that helps."""
    with pytest.raises(CapacityError, match="would fit"):
        Bench(checkpoint, kv_cache_tokens=1 << 40)
    with pytest.raises(ConfigError, match="512"):
        Bench(checkpoint, max_model_len=100000)
    with pytest.raises(ConfigError, match="die_at_step"):
        Bench(checkpoint, {"dye_at_step": 1.0})


def test_memory_that_is_gone_is_a_capacity_error(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An allocation that fails while loading says what to do; any other failure is passed on as it is."""
    for words, kind in (("can't allocate memory: you tried 99 bytes", CapacityError), ("a bug", RuntimeError)):

        def fail(_: EngineConfig, words: str = words) -> None:
            raise RuntimeError(words)

        monkeypatch.setattr(loader, "load", fail)
        with pytest.raises(kind, match=words[:10]):
            Bench(checkpoint)


def test_faults_of_earlier_epochs_are_over() -> None:
    """`epochs` limits faults to the first cores."""
    assert faults.wanted({"slow": 2.0, "epochs": 1.0}, 1)
    assert not faults.wanted({"slow": 2.0, "epochs": 1.0}, 2)
    assert faults.wanted({"slow": 2.0}, 9)


@pytest.mark.parametrize(
    ("files", "cores"),
    [({}, None), ({"cpu.max": "max 100000"}, None), ({"cpu.max": "50000 100000"}, 1), ({"cpu.max": "1 100000"}, 1),
     ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
     ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1)],
)  # fmt: skip
def test_cores_are_limited_by_the_quota(tmp_path: Path, files: dict[str, str], cores: int | None) -> None:
    """Both generations of control groups; no quota means all cores of the affinity."""
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    everything = machine.usable_cores(tmp_path / "none")
    assert machine.usable_cores(tmp_path) == (cores or everything)


def test_free_memory_is_limited_by_the_group(tmp_path: Path) -> None:
    """The machine's available memory, or what the group has left counting files that can be dropped."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert machine.free_bytes(meminfo, tmp_path) == 4000 << 10
    (tmp_path / "memory.max").write_text("3000000")
    (tmp_path / "memory.current").write_text("2500000")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 100000\n")
    assert machine.free_bytes(meminfo, tmp_path) == 600000
    (tmp_path / "memory.max").write_text("max")
    assert machine.free_bytes(meminfo, tmp_path) == 4000 << 10
    assert machine.resident_bytes() > 1 << 20
