"""Decode steps captured as CUDA graphs: one launch instead of a thousand, for batches rounded up to a few sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.kernels.triton.attention import Pages
from engine.layers.cache import LatentCache
from engine.layers.device import DeviceRows
from engine.modeling.device import DeviceModel
from engine.scheduling.plan import Work

_SINGLE = 4  # numbers of a row beside its block table: id, position, slot, visible length
_WARM_UP = 2  # steps before a capture, so that kernels are compiled and libraries have their workspaces


def sizes(most: int) -> list[int]:
    """Batch sizes that are captured, largest first: 1, 2, 4, then every 8 up to 64, then every 32."""
    steps = [1, 2, 4, *range(8, 65, 8), *range(96, most + 32, 32)]
    return sorted({min(size, most) for size in steps}, reverse=True)


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: Tensor  # int64 [rows × (4 + blocks)] on the device
    logits: Tensor  # float32 [rows, vocab]


class Graphs:
    """The captured sizes of one model and cache. Rows that stand for nothing write to the cache's spare slot."""

    def __init__(self, model: DeviceModel, cache: LatentCache, most: int, positions: int) -> None:
        """Capture, largest first so that smaller sizes fit in what it reserved. `positions`: longest sequence."""
        self._model, self._cache = model, cache
        self._blocks = -(-positions // cache.block_size)
        self._pool = torch.cuda.graph_pool_handle()
        before = torch.cuda.mem_get_info(model.device)[0]
        self._captured = {size: self._capture(size) for size in sizes(most)}
        self.nbytes = before - torch.cuda.mem_get_info(model.device)[0]

    def fits(self, works: Sequence[Work]) -> bool:
        """Whether a step is one generated row for each of few enough sequences."""
        return 0 < len(works) <= max(self._captured) and all(is_decode(work) for work in works)

    def logits(self, works: Sequence[Work]) -> Tensor:
        """Logits [works, vocab] on the device, valid until the next call."""
        size = min(size for size in self._captured if size >= len(works))
        one = self._captured[size]
        host = decode_inputs(works, size, self._blocks, self._cache).pin_memory()
        one.inputs.copy_(host, non_blocking=True)
        one.graph.replay()
        return one.logits[: len(works)]

    @torch.inference_mode()
    def _capture(self, size: int) -> _Captured:
        inputs = decode_inputs((), size, self._blocks, self._cache).to(self._model.device)
        stream = torch.cuda.Stream(self._model.device)
        stream.wait_stream(torch.cuda.current_stream(self._model.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self._model.compute(decode_rows(self._model, inputs, size, self._cache), self._cache)
        torch.cuda.current_stream(self._model.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits = self._model.compute(decode_rows(self._model, inputs, size, self._cache), self._cache)
        return _Captured(graph, inputs, logits)


def is_decode(work: Work) -> bool:
    """Whether a work is one generated row that chooses."""
    return work.count == 1 and work.start >= work.sequence.prompt_len and work.chooses


def decode_inputs(works: Sequence[Work], size: int, blocks: int, cache: LatentCache) -> Tensor:
    """int64 [size × (4 + blocks)] on the host: ids, positions, slots, lengths, then block tables."""
    single = np.zeros((_SINGLE, size), dtype=np.int64)
    single[2] = cache.nowhere
    tables = np.zeros((size, blocks), dtype=np.int64)
    for row, work in enumerate(works):
        held, at = work.sequence.blocks, work.start
        slot = held[at // cache.block_size] * cache.block_size + at % cache.block_size
        single[:, row] = (work.sequence.tokens[at], at, slot, at + 1)
        tables[row, : len(held)] = held
    return torch.from_numpy(np.concatenate((single.ravel(), tables.ravel())))


def decode_rows(model: DeviceModel, inputs: Tensor, size: int, cache: LatentCache) -> DeviceRows:
    """Views of `inputs` as a step of generated rows."""
    ids, positions, slots, lengths = inputs[: _SINGLE * size].view(_SINGLE, size)
    pages = Pages(inputs[_SINGLE * size :].view(size, -1), lengths, cache.block_size)
    wanted = torch.arange(size, device=inputs.device)
    return DeviceRows(ids, slots, model.rotary.at(positions), (), 0, pages, wanted)
