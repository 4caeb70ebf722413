"""Packed weights on disk: the same model from the file, rebuilt when damaged, done without when there is no room."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.kernels.cpu.matrix import Matrix
from engine.quant import packfile
from engine.quant.packfile import Packing, packed
from engine.quant.policy import convert

Made = tuple[Matrix, Matrix, torch.Tensor]


class Builder:
    """Makes two matrices and a vector, and counts how often."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, packing: Packing) -> Made:
        """What `packed` assembles."""
        weight = torch.randn(70, 96, generator=torch.Generator().manual_seed(1))
        eight = packing.matrix("eight", lambda: self._count(lambda: convert(weight, "int8")))
        four = packing.matrix("four", lambda: self._count(lambda: convert(weight, "int4")))
        return eight, four, packing.vector("norm", lambda: weight[0].bfloat16())

    def _count(self, make: Callable[[], Matrix]) -> Matrix:
        self.made += 1
        return make()


def same(one: Made, other: Made) -> bool:
    """Equal formats, shapes and values."""
    for a, b in zip(one[:2], other[:2], strict=True):
        assert (a.kind, a.group, a.experts, a.outputs, a.inputs) == (b.kind, b.group, b.experts, b.outputs, b.inputs)
        if not all(torch.equal(x, y) for x, y in zip(a.tensors, b.tensors, strict=True)):
            return False
    return torch.equal(one[2], other[2])


def test_the_second_time_nothing_is_made(tmp_path: Path) -> None:
    """A later load finds every value as it was."""
    first, second = Builder(), Builder()
    assert same(packed(tmp_path, "k", first), packed(tmp_path, "k", second))
    assert (first.made, second.made) == (2, 0)
    assert same(packed(tmp_path, "k", second), Builder()(packfile.Direct()))
    packed(tmp_path, "another", second)
    assert second.made == 2


@pytest.mark.parametrize("where", ["first", "middle", "index", "footer", "short", "empty"])
def test_damage_is_found_and_repaired(tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture) -> None:
    """One wrong byte anywhere, or a missing end, and the file is made anew."""
    right = packed(tmp_path, "k", Builder())
    (path,) = tmp_path.glob("*.pack")
    data = bytearray(path.read_bytes())
    place = {"first": 0, "middle": 9000, "index": len(data) - 60, "footer": len(data) - 3}.get(where)
    if place is not None:
        data[place] ^= 1
    path.unlink()  # `right` has the old file mapped
    path.write_bytes(data[: {"short": len(data) - 5000, "empty": 0}.get(where, len(data))])
    again = Builder()
    with caplog.at_level(logging.WARNING):
        assert same(packed(tmp_path, "k", again), right)
    assert again.made == 2
    assert "rebuilt" in caplog.text
    last = Builder()
    packed(tmp_path, "k", last)
    assert last.made == 0


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A disk that fills up, or a directory that cannot be, costs the cache and nothing else."""
    expected = Builder()(packfile.Direct())

    def full(self: packfile.PackWriter, tensor: torch.Tensor) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(packfile.PackWriter, "_write", full)
        assert same(packed(tmp_path, "k", Builder()), expected)
    assert "No space left" in caplog.text
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    (tmp_path / "file").write_text("")
    assert same(packed(tmp_path / "file" / "below", "k", Builder()), expected)


def test_what_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    """An error of the checkpoint passes through; no part of a file stays."""

    def broken(packing: Packing) -> None:
        packing.vector("x", lambda: torch.ones(3))
        raise ValueError("tensor y holds NaN")

    with pytest.raises(ValueError, match="tensor y"):
        packed(tmp_path, "k", broken)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_replicas_that_start_together_make_it_once(tmp_path: Path) -> None:
    """One writes, the others wait and map."""
    builder, found = Builder(), []
    threads = [threading.Thread(target=lambda: found.append(packed(tmp_path, "k", builder))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 3
    assert builder.made == 2
    assert same(found[0], found[1])
    assert same(found[1], found[2])


def test_old_files_go(tmp_path: Path) -> None:
    """The files used last are kept."""
    for index in range(packfile.KEPT + 2):
        packed(tmp_path, f"k{index}", Builder())
        (path,) = tmp_path.glob(f"k{index}-*.pack")
        os.utime(path, (1000 + index, 1000 + index))
    packed(tmp_path, "k2", Builder())
    left = {path.name.partition("-")[0] for path in tmp_path.glob("*.pack")}
    assert left == {"k2", "k3", "k4", "k5"}
