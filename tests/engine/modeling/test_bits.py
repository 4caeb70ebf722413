"""The promise: the bits of a row's logits depend on its sequence's tokens and their roles, and on nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import engine.spec.memory
from engine.modeling.deepseek import Model
from engine.modeling.loader import load
from engine.modeling.selfcheck import check
from engine.spec.config import EngineConfig
from tests.engine.arrangements import Span, Tokens, alone, step
from tests.engine.checkpoints import make_checkpoint

PROMPT, OUTPUT = 70, 22  # the prompt crosses a tile of the cache, the output three row tiles
LENGTH = PROMPT + OUTPUT
BLOCK = 16
BLOCKS = -(-LENGTH // BLOCK)

# "narrow" is bfloat16 as a large model has it: weights held in bfloat16 and a float16 cache
CASES = [
    ("v2-greedy", "float32"),
    ("v2-group", "bfloat16"),
    ("v3-yarn", "float32"),
    ("v3-yarn", "bfloat16"),
    ("v3-fp8", "float32"),
    ("v3", "narrow"),
    ("v2-greedy", "narrow"),
]


class Case:
    """A model, one sequence, and that sequence's logits computed alone."""

    def __init__(self, model: Model) -> None:
        self.model = model
        generator = torch.Generator().manual_seed(5)
        self.ids = torch.randint(model.spec.vocab_size, (LENGTH,), generator=generator)
        self.others = torch.randint(model.spec.vocab_size, (31, LENGTH), generator=generator)
        self.expected = alone(model, self.ids, PROMPT)

    def tokens(self, blocks: Tensor) -> Tokens:
        """The sequence in these blocks."""
        return Tokens(self.ids, PROMPT, blocks)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    variant, dtype = request.param
    path = make_checkpoint(tmp_path_factory.mktemp(variant), variant)
    with pytest.MonkeyPatch.context() as patch:
        if dtype == "narrow":
            patch.setattr(engine.spec.memory, "FLOAT32_WEIGHTS_LIMIT", 0)
            patch.setattr(engine.spec.memory, "FLOAT32_CACHE_LIMIT", 0)
        model = load(
            EngineConfig(str(path), kernels="reference", dtype="float32" if dtype == "float32" else "bfloat16")
        )
    assert model.head.dtype == (torch.bfloat16 if dtype == "narrow" else torch.float32)
    assert model.cache_dtype == (torch.float16 if dtype == "narrow" else torch.float32)
    yield Case(model)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks(case: Case, chunk: int) -> None:
    """A prompt in chunks of 1, 7 or 64 has the bits of the whole prompt, and so has what follows."""
    assert torch.equal(alone(case.model, case.ids, PROMPT, chunk=chunk), case.expected)


@pytest.mark.parametrize("block_size", [1, 7, 128])
def test_block_size(case: Case, block_size: int) -> None:
    """The cache's block size changes no bit."""
    assert torch.equal(alone(case.model, case.ids, PROMPT, block_size=block_size), case.expected)


def test_threads(case: Case) -> None:
    """Two threads give the bits of one, or the self-check of a model large enough to use both says that they do not."""
    torch.set_num_threads(2)
    same = torch.equal(alone(case.model, case.ids, PROMPT), case.expected)
    assert torch.get_num_threads() == 2
    assert same or (not case.model.serial and check(case.model))


def test_among_31_others(case: Case) -> None:
    """A row has the same bits among 31 other sequences of other lengths, at any place, in scattered blocks."""
    order = torch.randperm(32 * BLOCKS, generator=torch.Generator().manual_seed(1)).view(32, BLOCKS)
    cache = case.model.new_cache(32 * BLOCKS, BLOCK)
    others = [Tokens(ids, 1 + (7 * i) % PROMPT, order[i]) for i, ids in enumerate(case.others)]
    own = case.tokens(order[31])
    prompts = [Span(other, 0, other.prompt) for other in others]
    found = [step(case.model, cache, [*prompts[:13], Span(own, 0, PROMPT), *prompts[13:]])[13]]
    for row in range(OUTPUT):
        place = (row * 5) % 32
        spans = [Span(o, o.prompt + row, o.prompt + row + 1) for o in others if o.prompt + row < LENGTH]
        place = min(place, len(spans))
        spans.insert(place, Span(own, PROMPT + row, PROMPT + row + 1))
        found.append(step(case.model, cache, spans)[place])
    assert torch.equal(torch.cat(found), case.expected)


def test_replay_at_every_output(case: Case) -> None:
    """Preempted or replayed after any number of outputs: all rows in one step, prompt and outputs together."""
    for done in range(OUTPUT):
        cache = case.model.new_cache(BLOCKS, BLOCK)
        own = case.tokens(torch.arange(BLOCKS).roll(done))
        end = PROMPT + done
        (found,) = step(case.model, cache, [Span(own, 0, end)])
        assert torch.equal(found, case.expected[:end])
        (following,) = step(case.model, cache, [Span(own, end, end + 1)])
        assert torch.equal(following, case.expected[end : end + 1])


def test_replay_in_pieces_among_others(case: Case) -> None:
    """A replay cut by the token budget, beside other sequences' prompts and outputs."""
    cache = case.model.new_cache(3 * BLOCKS, BLOCK)
    own = case.tokens(torch.arange(BLOCKS))
    prompt = Tokens(case.others[0], LENGTH, torch.arange(BLOCKS, 2 * BLOCKS))
    writer = Tokens(case.others[1], 5, torch.arange(2 * BLOCKS, 3 * BLOCKS))
    step(case.model, cache, [Span(writer, 0, 6)])
    cuts = [0, 33, 69, 75, 88, LENGTH]
    found: list[Tensor] = []
    for i, (first, end) in enumerate(itertools.pairwise(cuts)):
        beside = [Span(writer, 6 + i, 7 + i), Span(prompt, 9 * i, 9 * i + 9)]
        found.append(step(case.model, cache, [beside[0], Span(own, first, end), beside[1]])[1])
    assert torch.equal(torch.cat(found), case.expected)


@pytest.mark.parametrize("shared", [16, 64])
def test_warm_cache(case: Case, shared: int) -> None:
    """A prompt whose beginning another sequence left in the cache has the bits of a cold one."""
    cache = case.model.new_cache(2 * BLOCKS, BLOCK)
    first = Tokens(case.ids[:shared].clone(), shared, torch.arange(BLOCKS))
    step(case.model, cache, [Span(first, 0, shared)])
    reused = shared // BLOCK
    own = case.tokens(torch.cat((torch.arange(reused), torch.arange(BLOCKS, 2 * BLOCKS - reused))))
    (found,) = step(case.model, cache, [Span(own, shared, LENGTH)])
    assert torch.equal(found, case.expected[shared:])


def test_dirty_cache(case: Case) -> None:
    """What earlier sequences left behind in reused blocks, even NaN, is never seen."""
    cache = case.model.new_cache(BLOCKS, BLOCK)
    for layer in cache.layers:
        layer[:-1] = float("nan")
    own = case.tokens(torch.arange(BLOCKS))
    found = [step(case.model, cache, [Span(own, a, b)])[0] for a, b in ((0, 33), (33, 80), (80, 81), (81, LENGTH))]
    assert torch.equal(torch.cat(found), case.expected)
