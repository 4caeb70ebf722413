"""Matrix kernels against their slow references, on shapes that fit no block, and a row's bits in every company."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from engine.kernels.cpu.library import Library
from engine.kernels.cpu.matrix import Matrix, Mlps, plain, stacked
from engine.quant import int4, int8
from engine.quant.policy import Stored, convert
from tests.engine.compiled import BUILDS, library

FORMATS: list[Stored] = ["float32", "bfloat16", "int8", "int4"]
SHAPES = [(64, 64), (70, 36), (33, 96), (1, 32), (130, 704), (192, 1024), (65, 129)]


@pytest.fixture(scope="module", params=BUILDS)
def kernels(request: pytest.FixtureRequest) -> Library:
    """Each build in turn."""
    return library(request.config, request.param)


def values(*shape: int, seed: int = 0) -> Tensor:
    """Normal random numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def expected(x: Tensor, w: Tensor, wanted: Stored) -> Tensor:
    """The reference product."""
    if wanted == "float32":
        return (x.double() @ w.double().t()).float()
    if wanted == "bfloat16":
        return (x.double() @ w.bfloat16().double().t()).float()
    if wanted == "int4" and int4.group_of(w.shape[1]):
        return int4.linear(x, int4.quantise(w))
    return int8.linear(x, int8.quantise(w))


@pytest.mark.parametrize("wanted", FORMATS)
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_linear_is_the_reference(kernels: Library, wanted: Stored, outputs: int, inputs: int) -> None:
    """One to 33 rows times odd matrices: equal to rounding, and eight-bit products to the bit."""
    w = values(outputs, inputs, seed=1)
    matrix = convert(w, wanted)
    for rows in (1, 2, 3, 4, 5, 17, 33):
        x = values(rows, inputs, seed=rows)
        found, right = kernels.linear(matrix, x, 2), expected(x, w, wanted)
        if wanted == "int8":
            assert torch.equal(found, right)
        torch.testing.assert_close(found, right, rtol=1e-5, atol=2e-6 * inputs**0.5)


@pytest.mark.parametrize("wanted", FORMATS)
def test_every_number_of_rows(kernels: Library, wanted: Stored) -> None:
    """1 to 33 rows, so that tiles of every size are cut: each row as if it were alone, to the bit."""
    matrix = convert(values(96, 96, seed=14), wanted)
    x = values(33, 96, seed=15)
    alone = torch.cat([kernels.linear(matrix, row, 1) for row in x.split(1)])
    torch.testing.assert_close(alone, expected(x, values(96, 96, seed=14), wanted), rtol=1e-5, atol=2e-5)
    for rows in range(1, 34):
        assert torch.equal(kernels.linear(matrix, x[:rows], 2), alone[:rows])


@pytest.mark.parametrize("group", [32, 64, 128])
def test_every_group_size(kernels: Library, group: int) -> None:
    """Four-bit weights with 32, 64 and 128 values to a scale."""
    w = int4.quantise(values(96, 384), group)
    x = values(6, 384, seed=2)
    torch.testing.assert_close(kernels.linear(int4.pack(w), x, 1), int4.linear(x, w), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("wanted", FORMATS)
def test_a_row_has_one_result(kernels: Library, wanted: Stored) -> None:
    """The bits of a row do not depend on how many rows there are, on its place, or on the number of threads."""
    matrix = convert(values(130, 288, seed=3), wanted)
    x = values(150, 288, seed=4)
    whole = kernels.linear(matrix, x, 1)
    for threads, (first, last) in itertools.product(
        (1, 2, 3), [(0, 150), (0, 33), (7, 8), (60, 70), (63, 66), (145, 150)]
    ):
        assert torch.equal(kernels.linear(matrix, x[first:last], threads), whole[first:last])


def test_callers_at_the_same_time(kernels: Library) -> None:
    """Python threads that compute at once wait for each other's helpers, not for each other's results."""
    matrix, x = convert(values(640, 512, seed=12), "int8"), values(3, 40, 512, seed=13)
    expected = [kernels.linear(matrix, rows, 1) for rows in x]
    with ThreadPoolExecutor(3) as pool:
        for _ in range(20):
            found = list(pool.map(lambda rows: kernels.linear(matrix, rows, 3), x))
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_rows_of_a_wider_tensor(kernels: Library) -> None:
    """Rows may lie apart, and a stack multiplies each part of a row with its own matrix."""
    w = values(3, 40, 24, seed=5)
    x = values(5, 3, 24, seed=6)
    right = torch.einsum("tek,enk->ten", x, w)
    torch.testing.assert_close(kernels.linear(plain(w), x, 2), right, rtol=1e-5, atol=1e-5)
    wide = values(5, 80, seed=7)
    torch.testing.assert_close(
        kernels.linear(plain(w[0]), wide[:, 8:32], 1), wide[:, 8:32] @ w[0].t(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("wanted", FORMATS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_so_and_stays_put(kernels: Library, wanted: Stored, bad: float) -> None:
    """A row with NaN or infinity gives no finite number; its neighbours keep their bits."""
    matrix = convert(values(70, 96, seed=8).abs() + 0.1, wanted)
    x = values(6, 96, seed=9).abs()
    clean = kernels.linear(matrix, x, 1)
    x[2, 17] = bad
    found = kernels.linear(matrix, x, 1)
    assert not torch.isfinite(found[2]).any()
    others = [0, 1, 3, 4, 5]
    assert torch.equal(found[others], clean[others])


@pytest.mark.parametrize("wanted", FORMATS)
def test_zeros_give_zeros(kernels: Library, wanted: Stored) -> None:
    """A row of zeros, a column of zeros and numbers too small to scale give zero, not NaN."""
    w = values(8, 64, seed=10)
    w[3] = 0
    found = kernels.linear(
        convert(w, wanted), torch.stack([torch.zeros(64), torch.ones(64), torch.full((64,), 1e-38)]), 1
    )
    assert torch.equal(found[0], torch.zeros(8))
    assert found[1, 3] == 0
    assert torch.isfinite(found).all()


def mlps(experts: int, hidden: int, inner: int, wanted: Stored) -> tuple[Mlps, list[tuple[Tensor, ...]]]:
    """A stack of MLPs, and the values that its matrices stand for."""
    raw = [
        [values(experts, *shape, seed=20 + i) / 8][0]
        for i, shape in enumerate([(inner, hidden)] * 2 + [(hidden, inner)])
    ]
    stack = Mlps(*(stacked([convert(w, wanted) for w in part]) for part in raw))
    return stack, [tuple(part[e] for part in raw) for e in range(experts)]


def slow_moe(
    kernels: Library, x: Tensor, chosen: tuple[Tensor, Tensor], parts: list[tuple[Tensor, ...]], wanted: Stored
) -> Tensor:
    """Token by token, choice by choice, from the linear kernel and torch."""
    out = torch.zeros_like(x)
    for t, (ids, weights) in enumerate(zip(*chosen, strict=True)):
        for e, weight in zip(ids.tolist(), weights, strict=True):
            gate, up, down = (convert(w, wanted) for w in parts[e])
            row = x[t : t + 1]
            acted = torch.nn.functional.silu(kernels.linear(gate, row, 1)) * kernels.linear(up, row, 1)
            out[t] += weight * kernels.linear(down, acted, 1)[0]
    return out


def choices(tokens: int, experts: int, k: int) -> tuple[Tensor, Tensor]:
    """Distinct experts for each token, with weights."""
    ids = torch.stack([torch.randperm(experts, generator=torch.Generator().manual_seed(t))[:k] for t in range(tokens)])
    return ids, values(tokens, k, seed=30).abs()


@pytest.mark.parametrize("wanted", FORMATS)
@pytest.mark.parametrize(("hidden", "inner"), [(64, 96), (96, 40), (128, 160)])
def test_experts_are_the_reference(kernels: Library, wanted: Stored, hidden: int, inner: int) -> None:
    """The fused layer equals its parts; where an eight-bit rounding falls the other way, by one step of it."""
    stack, parts = mlps(5, hidden, inner, wanted)
    loose = wanted in ("int8", "int4")
    for tokens in (1, 3, 33):
        x, chosen = values(tokens, hidden, seed=tokens), choices(tokens, 5, 3)
        right = slow_moe(kernels, x, chosen, parts, wanted)
        found = kernels.moe(x, chosen, stack, 2)
        scale = right.abs().max().item()
        assert (found - right).abs().max().item() < scale * (0.02 if loose else 1e-5)


@pytest.mark.parametrize("wanted", FORMATS)
def test_a_token_has_one_result(kernels: Library, wanted: Stored) -> None:
    """Companions, place and threads change no bit of a token's experts; the addend is added last."""
    stack, _ = mlps(6, 96, 72, wanted)
    x, (ids, weights) = values(70, 96, seed=40), choices(70, 6, 2)
    whole = kernels.moe(x, (ids, weights), stack, 1)
    for threads, (first, last) in itertools.product((1, 2, 4), [(0, 70), (3, 4), (10, 27), (64, 70)]):
        part = slice(first, last)
        assert torch.equal(kernels.moe(x[part], (ids[part], weights[part]), stack, threads), whole[part])
    added = values(70, 96, seed=41)
    assert torch.equal(kernels.moe(x, (ids, weights), stack, 2, added), whole + added)


@pytest.mark.parametrize("wanted", FORMATS)
def test_a_bad_token_spoils_itself_only(kernels: Library, wanted: Stored) -> None:
    """A token with NaN gives nothing finite, although it shares its experts' tiles; the others keep their bits."""
    stack, _ = mlps(4, 64, 96, wanted)
    x, chosen = values(20, 64, seed=42), choices(20, 4, 2)
    clean = kernels.moe(x, chosen, stack, 2)
    x[7, 3] = float("nan")
    found = kernels.moe(x, chosen, stack, 2)
    assert not torch.isfinite(found[7]).any()
    others = [t for t in range(20) if t != 7]
    assert torch.equal(found[others], clean[others])


def test_experts_elsewhere_add_nothing(kernels: Library) -> None:
    """An id outside the stack is another rank's business."""
    stack, _ = mlps(4, 64, 32, "int8")
    x = values(5, 64, seed=50)
    ids, weights = choices(5, 4, 2)
    away = torch.cat((ids, torch.full((5, 1), -1), torch.full((5, 1), 4)), 1)
    padded = torch.cat((weights, torch.ones(5, 2)), 1)
    assert torch.equal(kernels.moe(x, (away, padded), stack, 1), kernels.moe(x, (ids, weights), stack, 1))
    nowhere = torch.full((5, 2), -1)
    assert torch.equal(kernels.moe(x, (nowhere, weights), stack, 1), torch.zeros(5, 64))


def test_mixed_formats(kernels: Library) -> None:
    """Four-bit gate and up with an eight-bit down: what a layer gets whose inner size no group divides."""
    stack, parts = mlps(3, 64, 40, "int4")
    assert (stack.gate.kind, stack.down.kind) == (3, 2)
    x, chosen = values(4, 64, seed=60), choices(4, 3, 2)
    right = slow_moe(kernels, x, chosen, parts, "int4")
    assert (kernels.moe(x, chosen, stack, 1) - right).abs().max() < 0.02 * right.abs().max()


def test_wrong_rows_are_refused(kernels: Library) -> None:
    """Types, widths and unknown formats are errors before any memory is touched."""
    matrix = plain(values(8, 16))
    for x in (values(2, 15), values(2, 16).double(), values(16, 2).t()):
        with pytest.raises(ValueError, match="rows must be float32"):
            kernels.linear(matrix, x, 1)
    with pytest.raises(ValueError, match="no code for this combination"):
        kernels.linear(Matrix(7, (1, 8, 16), matrix.tensors), values(2, 16), 1)


def test_eight_bit_bits_are_the_same_everywhere(kernels: Library, request: pytest.FixtureRequest) -> None:
    """Whole-number sums have one result, whatever the instruction set."""
    portable = library(request.config, "portable")
    matrix, x = convert(values(96, 160, seed=70), "int8"), values(9, 160, seed=71)
    assert torch.equal(kernels.linear(matrix, x, 1), portable.linear(matrix, x, 1))
