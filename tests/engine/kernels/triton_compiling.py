"""`python -m tests.engine.kernels.triton_compiling 90`: compile every kernel for a GPU of that capability."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from engine.kernels.triton import attention, experts, fp8, latent, norm, route, sample

Case = tuple[str, Any, dict[str, str], dict[str, Any]]  # name, kernel, types of arguments, compile-time values
_SHARED = {80: 163, 90: 227, 100: 227}  # KiB of shared memory that a block may have


def _cases(has_fp8: bool) -> Iterator[Case]:
    yield from _products(has_fp8)
    yield from _rows()
    ids = {"ids_ptr": "*i32", "counts_ptr": "*i32"}
    yield "count", route._count, ids | {"total": "i32"}, {"STEP": 1024}
    yield (
        "place", route._place, ids | {"pairs_ptr": "*i32", "experts_ptr": "*i32", "total": "i32", "experts": "i32"},
        {"BLOCK": 64, "STEP": 1024, "E": 256},
    )  # fmt: skip
    choose = {"logits_ptr": "*fp32", "bias_ptr": "*fp32", "ids_ptr": "*i32", "weights_ptr": "*fp32"}
    choose |= {"experts": "i32", "size": "i32", "scale": "fp32"}
    v3 = {"GROUPS": 8, "TOP_GROUPS": 4, "TOP_K": 8, "SIGMOID": True, "HAS_BIAS": True, "TWO_BEST": True}
    yield "choose V3", route._choose, choose, v3 | {"NORMALISE": True, "G": 8, "S": 32, "K": 8}
    lite = {"GROUPS": 1, "TOP_GROUPS": 1, "TOP_K": 6, "SIGMOID": False, "HAS_BIAS": False, "TWO_BEST": False}
    yield "choose V2-Lite", route._choose, choose, lite | {"NORMALISE": False, "G": 1, "S": 64, "K": 8}
    if has_fp8:
        types = {"x_ptr": "*bf16", "values_ptr": "*fp8e4nv", "scale_ptr": "*fp32", "width": "i32"}
        yield "round", fp8._round, types, {"BLOCK": 128, "POWERS": True}


def _products(has_fp8: bool) -> Iterator[Case]:
    values = {"plain": "*bf16", "int8": "*i8", "int4": "*u8"} | ({"fp8": "*fp8e4nv"} if has_fp8 else {})
    group = {"plain": 1, "int8": 1, "int4": 64, "fp8": 128}
    for name, held in values.items():
        for rows in (16, 64):
            for gated in (True, False):
                for is_eight in (False, True)[: 2 if name == "fp8" and rows == 64 else 1]:
                    types = dict.fromkeys(("total", "top_k", "outputs", "inputs", "w_stride", "scale_stride"), "i32")
                    types |= {"x_ptr": "*fp8e4nv" if is_eight else "*bf16", "x_scale_ptr": "*fp32", "w_ptr": held}
                    types |= {"scale_ptr": "*bf16" if name == "plain" else "*fp32", "pairs_ptr": "*i32"}
                    types |= {"owners_ptr": "*i32", "y_ptr": "*bf16" if gated else "*fp32"}
                    shape = {"FORMAT": name, "GROUP": group[name], "ROWS": rows, "COLUMNS": 32 if rows == 16 else 64}
                    shape |= {"DEPTH": 128 if name == "fp8" else 64, "EIGHT": is_eight, "GATED": gated}
                    said = f"{'gate and up' if gated else 'down'} {name} {rows}{' rounded' if is_eight else ''}"
                    yield said, experts._product, types, shape
    types = {"pairs_ptr": "*fp32", "ids_ptr": "*i32", "weights_ptr": "*fp32", "y_ptr": "*bf16"}
    yield "sum", experts._sum, types | {"experts": "i32", "hidden": "i32"}, {"TOP_K": 8, "COLUMNS": 1024}


def _rows() -> Iterator[Case]:
    pointers = {"q_ptr": "*bf16", "cache_ptr": "*bf16", "tables_ptr": "*i32", "lengths_ptr": "*i32"}
    pointers |= {"parts_ptr": "*fp32", "marks_ptr": "*fp32"}
    numbers = dict.fromkeys(("heads", "rank", "rope", "table_stride", "block_size"), "i32")
    yield "attend", attention._attend, pointers | numbers, {"HEADS": 16, "TILE": 32, "RANK": 512, "ROPE": 64}
    joined = {"parts_ptr": "*fp32", "marks_ptr": "*fp32", "y_ptr": "*bf16", "splits": "i32", "rank": "i32"}
    yield "join", attention._join, joined, {"RANK": 512}
    rows = {"x_ptr": "*fp32", "added_ptr": "*bf16", "weight_ptr": "*fp32", "y_ptr": "*bf16"}
    rows |= {"width": "i32", "stride": "i32", "eps": "fp32"}
    yield "norm", norm._norm, rows, {"ADDS": True, "WIDTH": 8192}
    kept = {"kv_ptr": "*bf16", "weight_ptr": "*fp32", "cos_ptr": "*fp32", "sin_ptr": "*fp32", "slots_ptr": "*i64"}
    kept |= {"cache_ptr": "*bf16", "stride": "i32", "eps": "fp32", "rank": "i32", "rope": "i32"}
    yield "remember", latent._remember, kept, {"RANK": 512, "ROPE": 64}
    turned = {"q_ptr": "*bf16", "cos_ptr": "*fp32", "sin_ptr": "*fp32", "y_ptr": "*bf16"}
    turned |= dict.fromkeys(("stride", "head_stride", "y_stride", "y_head_stride", "rope"), "i32")
    yield "turn queries", latent._turn_queries, turned, {"ROPE": 64}
    drawn = {"logits_ptr": "*fp32", "temperature_ptr": "*fp64", "address_ptr": "*i64", "scores_ptr": "*fp64"}
    yield "best", sample._best, drawn | {"ids_ptr": "*i32", "vocab": "i32"}, {"BLOCK": 1024}
    won = {"scores_ptr": "*fp64", "ids_ptr": "*i32", "tokens_ptr": "*i64", "parts": "i32"}
    yield "winner", sample._winner, won, {"PARTS": 128}


def main(capability: int) -> int:
    """Exit 1 where a kernel wants more shared memory than a block may have."""
    too_much = 0
    for name, kernel, types, values in _cases(has_fp8=capability >= 89):
        order = [argument for argument in kernel.arg_names if argument in types]
        source = ASTSource(kernel, {a: types[a] for a in order} | dict.fromkeys(values, "constexpr"), values)
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
        shared = made.metadata.shared / 1024
        too_much += shared > _SHARED[capability]
        sys.stdout.write(f"{name}: {made.metadata.num_warps} warps, {shared:.1f} KiB shared\n")
    return 1 if too_much else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
