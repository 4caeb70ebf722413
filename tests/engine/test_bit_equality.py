"""A sequence has the same logits, to the bit, whoever is computed beside it and however often it is interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.modeling import loader
from engine.modeling.loader import Loaded
from engine.spec import memory
from engine.spec.config import EngineConfig
from tests.engine.checkpoints import make_checkpoint
from tests.engine.compiled import library
from tests.engine.drive import Engine, Told, prompt_of, submit

PROMPT, OUTPUT, SIZE = 45, 20, 16
NUMBERS = ["float32", "bfloat16", "bfloat16-narrow"]  # narrow: bfloat16 weights, float16 latents, as large models get
COMPILED = ["float32-cpu", "bfloat16-cpu", "bfloat16-int8", "bfloat16-int4"]  # on the compiled kernels
VARIANTS = ["v3", "v2-yarn", "v2-group", "v3-fp8", "v3-tied"]
CASES = [
    pytest.param((variant, numbers), marks=[pytest.mark.long][:is_long], id=f"{variant}-{numbers}")
    for variant in VARIANTS
    for numbers in NUMBERS + COMPILED
    for is_long in [variant != "v3" or numbers in COMPILED]
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this module's checkpoints lie."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module", params=CASES)
def model(request: pytest.FixtureRequest, directory: Path) -> Loaded:
    """A tiny model of each variant and kind of number."""
    variant, numbers = request.param
    path = directory / variant
    if not path.exists():
        make_checkpoint(path, variant)
    dtype, _, kind = numbers.partition("-")
    with pytest.MonkeyPatch.context() as patch:
        if numbers == "bfloat16-narrow":
            patch.setattr(memory, "FLOAT32_WEIGHTS_LIMIT", 0)
            patch.setattr(memory, "FLOAT32_CACHE_LIMIT", 0)
        if numbers in COMPILED:
            compiled = library(request.config, None)
            patch.setattr(loader, "load_library", lambda: compiled)
        quantization = kind if kind.startswith("int") else "none"
        kernels = "cpu" if numbers in COMPILED else "reference"
        config = EngineConfig(str(path), dtype, kernels=kernels, quantization=quantization)  # type: ignore[arg-type]
        loaded = loader.load(config)
    assert (loaded.cache_dtype == torch.float16) == (numbers == "bfloat16-narrow")
    return loaded


@pytest.fixture(scope="module")
def prompt(model: Loaded) -> list[int]:
    """The prompt of the sequence everything is about."""
    return prompt_of(3, PROMPT, model.spec.vocab_size)


@pytest.fixture(scope="module")
def alone(model: Loaded, prompt: list[int]) -> Told:
    """The sequence by itself: prompt in one piece, then token by token, on an empty cache."""
    (told,) = Engine(model).run(submit(0, prompt, OUTPUT))
    assert len(told.logits) == PROMPT + OUTPUT - 1
    assert len(set(told.ids)) > OUTPUT // 3
    return told


def same(told: Told, expected: Told, *, given: int = 0) -> None:
    """Equal ids after the `given` ones, and equal bits at every position computed."""
    assert told.ids == expected.ids[given:]
    assert told.logits
    different = [i for i, logits in told.logits.items() if not torch.equal(logits, expected.logits[i])]
    assert not different, f"positions {different} differ"


def test_a_target_cuts_prompts_and_changes_no_bit(model: Loaded, prompt: list[int], alone: Told) -> None:
    """Beside streams with a target prompts come in pieces whose sizes follow the times of steps; bits do not."""
    sizes: dict[float, set[int]] = {}
    vocab = model.spec.vocab_size
    for target_ms in (0.0, 20.0):
        engine = Engine(model, target_itl_ms=target_ms)
        engine.time = lambda plan: 0.003 + 0.001 * plan.tokens
        engine.add(submit(1, prompt_of(8, 5, vocab), 40), submit(2, prompt_of(9, 30, vocab), 40))
        for _ in range(4):
            engine.step()
        engine.add(submit(3, prompt_of(7, 60, vocab), 2), submit(0, prompt, OUTPUT))
        counts: list[int] = []
        while not engine.scheduler.is_idle:
            counts += [work.count for work in engine.step().works if work.start < work.sequence.prompt_len]
        sizes[target_ms] = set(counts)
        same(engine.told[0], alone)
    assert {PROMPT, 60} <= sizes[0.0]
    assert max(sizes[20.0]) < PROMPT


@pytest.mark.parametrize("budget", [512, 100])
def test_among_others(model: Loaded, prompt: list[int], alone: Told, budget: int) -> None:
    """Thirty-one companions of all lengths, arriving before, with and after it, change nothing."""
    engine = Engine(model, blocks=512, max_num_batched_tokens=budget)
    vocab = model.spec.vocab_size
    crowd = [submit(i, prompt_of(100 + i, 1 + 7 * i % 83, vocab), 1 + i * 5 % 40) for i in range(1, 32)]
    engine.add(*crowd[:16])
    engine.step()
    engine.add(submit(0, prompt, OUTPUT), *crowd[16:24])
    engine.step()
    engine.add(*crowd[24:])
    engine.drain()
    same(engine.told[0], alone)
    lonely = Engine(model)
    for other in crowd[::5]:
        (told,) = lonely.run(other)
        assert told.ids == engine.told[other.seq].ids


@pytest.mark.parametrize("chunk", [1, 7, 64, 512])
def test_in_chunks(model: Loaded, prompt: list[int], alone: Told, chunk: int) -> None:
    """However the prompt is cut, its logits are the same."""
    (told,) = Engine(model, max_num_batched_tokens=chunk).run(submit(0, prompt, OUTPUT))
    same(told, alone)


ONE_BY_ONE = pytest.mark.parametrize(
    "together", [True, pytest.param(False, marks=pytest.mark.long)], ids=["together", "one-by-one"]
)


@ONE_BY_ONE
@pytest.mark.parametrize("budget", [33, 512])
def test_replayed_at_every_output_index(
    model: Loaded, prompt: list[int], alone: Told, budget: int, together: bool
) -> None:
    """A new core that gets the prompt and any beginning of the output goes on with the same tokens."""
    replays = [submit(i, prompt, OUTPUT, output_ids=alone.ids[:i], resumed=True) for i in range(OUTPUT)]
    for group in [replays] if together else [[one] for one in replays]:
        engine = Engine(model, max_num_batched_tokens=budget, enable_prefix_cache=False)
        for given, told in zip([one.seq for one in group], engine.run(*group), strict=True):
            same(told, alone, given=given)
            assert len(told.logits) == PROMPT + OUTPUT - 1


@ONE_BY_ONE
@pytest.mark.parametrize("caching", [True, False])
def test_preempted_at_every_output_index(
    model: Loaded, prompt: list[int], alone: Told, caching: bool, together: bool
) -> None:
    """Losing its blocks after any token costs time only, with its own blocks found again or all computed anew."""
    victims = [submit(i, prompt, OUTPUT) for i in range(1, OUTPUT)]
    for group in [victims] if together else [[one] for one in victims]:
        engine = Engine(model, enable_prefix_cache=caching)
        engine.add(*group)
        while not engine.scheduler.is_idle:
            engine.step()
            for sequence in list(engine.scheduler.running):
                if len(engine.told[sequence.submit.seq].ids) == sequence.submit.seq:
                    engine.scheduler._preempt(sequence)
        assert engine.scheduler.counters.preemptions >= len(group)
        for one in group:
            same(engine.told[one.seq], alone)


def test_preempted_for_want_of_blocks(model: Loaded, prompt: list[int], alone: Told) -> None:
    """Four sequences that do not fit together take turns and say what each says alone."""
    others = [submit(i, prompt_of(50 + i, 20, model.spec.vocab_size), 40) for i in range(1, 4)]
    engine = Engine(model, blocks=11)
    engine.run(others[0], others[1], submit(0, prompt, OUTPUT), others[2])
    assert engine.scheduler.counters.preemptions > 0
    same(engine.told[0], alone)
    for other in others:
        (told,) = Engine(model).run(other)
        same(engine.told[other.seq], told)


def test_warm_cache(model: Loaded, prompt: list[int], alone: Told) -> None:
    """The second and third run find the first one's blocks and say the same."""
    engine = Engine(model)
    engine.run(submit(1, prompt, OUTPUT), submit(2, prompt, OUTPUT, seed=8))
    (again,) = engine.run(submit(0, prompt, OUTPUT))
    assert again.deltas[0].cached_tokens == 32
    assert min(again.logits) == 32
    same(again, alone)


def test_prefix_hit_at_every_offset_in_a_block(model: Loaded, prompt: list[int], alone: Told) -> None:
    """A prompt that leaves a cached one after any number of common tokens, or ends there, has its usual logits."""
    vocab = model.spec.vocab_size
    engine = Engine(model, blocks=1024)
    engine.run(submit(0, prompt, 1))
    for common in range(SIZE, 2 * SIZE + 2):
        other = [*prompt[:common], *((token + 1) % vocab for token in prompt[common:])]
        left, cut = engine.run(submit(2 * common, other, 2), submit(2 * common + 1, prompt[:common], 2))
        assert left.deltas[0].cached_tokens == common // SIZE * SIZE
        assert cut.deltas[0].cached_tokens == (common - 1) // SIZE * SIZE
        cold = Engine(model, enable_prefix_cache=False).run(submit(0, other, 2), submit(1, prompt[:common], 2))
        same(left, cold[0])
        same(cut, cold[1])
        assert all(torch.equal(cut.logits[i], alone.logits[i]) for i in cut.logits if i < common)


def test_a_replay_finds_decode_blocks(model: Loaded, prompt: list[int], alone: Told) -> None:
    """A resumed sequence on a warm core reuses what was generated, and goes on the same."""
    engine = Engine(model)
    engine.run(submit(1, prompt, OUTPUT))
    (told,) = engine.run(submit(0, prompt, OUTPUT, output_ids=alone.ids[:19], resumed=True))
    assert min(told.logits) == 48
    same(told, alone, given=19)


def test_whatever_was_in_the_cache(model: Loaded, prompt: list[int], alone: Told) -> None:
    """Slots that hold NaN from something long gone do not shine through."""
    engine = Engine(model, garbage=True)
    (told, _) = engine.run(submit(0, prompt, OUTPUT), submit(1, prompt[:5], OUTPUT))
    same(told, alone)


def test_threads(model: Loaded, prompt: list[int], alone: Told) -> None:
    """The number of threads is no part of the arithmetic."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        (told,) = Engine(model).run(submit(0, prompt, OUTPUT))
    finally:
        torch.set_num_threads(threads)
    same(told, alone)


def test_choices_and_seeds(model: Loaded, prompt: list[int], alone: Told) -> None:
    """Choices of one request differ from each other, and each is the same alone, together, and replayed."""
    addresses = [(seed, choice) for seed in (7, 8) for choice in range(3)]
    wanted = [submit(i, prompt, OUTPUT, seed=seed, choice=choice) for i, (seed, choice) in enumerate(addresses)]
    together = Engine(model).run(*wanted)
    assert together[0].ids == alone.ids
    assert len({tuple(told.ids) for told in together}) == len(addresses)
    for i in (1, 5):
        seed, choice = addresses[i]
        given = together[i].ids[:9]
        (told,) = Engine(model).run(submit(i, prompt, OUTPUT, seed=seed, choice=choice, output_ids=given, resumed=True))
        same(told, together[i], given=9)


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0.0},
        {"temperature": 0.7, "top_p": 0.9, "frequency_penalty": 0.8, "logprobs": 3},
        {"top_k": 20, "min_p": 0.01, "presence_penalty": 0.5, "repetition_penalty": 1.3, "logit_bias": {5: 3.0}},
    ],
    ids=["greedy", "nucleus", "penalties"],
)
def test_every_way_to_sample_survives_a_replay(model: Loaded, prompt: list[int], sampling: dict) -> None:
    """Penalties count the replayed output as output; logprobs go on with the bits they would have had."""
    (whole,) = Engine(model).run(submit(0, prompt, OUTPUT, **sampling))
    for given in (1, 10, 19):
        engine = Engine(model)
        (told,) = engine.run(submit(0, prompt, OUTPUT, output_ids=whole.ids[:given], resumed=True, **sampling))
        same(told, whole, given=given)
        assert [delta.tops for delta in told.deltas] == [delta.tops for delta in whole.deltas[given:]]


def test_prompt_logprobs_do_not_depend_on_chunks_or_cache(model: Loaded, prompt: list[int]) -> None:
    """Prompt logprobs are the same cold, in chunks and on a warm cache."""
    tops = []
    for chunk in (512, 7):
        engine = Engine(model, max_num_batched_tokens=chunk)
        for seq in (1, 2):
            (told,) = engine.run(submit(seq, prompt, 1, prompt_logprobs=2))
            tops.append(told.deltas[0].prompt_tops)
    assert tops[0][0] is None
    assert all(top is not None and len(top.ids) == 2 for top in tops[0][1:])
    assert all(other == tops[0] for other in tops)
