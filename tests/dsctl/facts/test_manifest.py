"""Manifests of weights: one root for one content, and nothing a stranger may not name."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsctl.base.missing import Missing
from dsctl.facts.manifest import Manifest, WeightFile, is_safe, parse, pieces


def made(files: dict[str, bytes], chunk: int = 4) -> Manifest:
    """The manifest of these files."""
    return Manifest(chunk, tuple(
        WeightFile(name, len(data), tuple(sha256(data[n:n + chunk]).hexdigest() for n in range(0, len(data), chunk)))
        for name, data in sorted(files.items())
    ))  # fmt: skip


@given(st.dictionaries(st.sampled_from(["a", "b", "c/d"]), st.binary(max_size=20), min_size=1),
       st.dictionaries(st.sampled_from(["a", "b", "c/d"]), st.binary(max_size=20), min_size=1))  # fmt: skip
def test_the_root_stands_for_names_sizes_and_bytes(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    """Two directories have the same root exactly when they hold the same files."""
    assert (made(one).root() == made(other).root()) == (one == other)


def test_chunks_cannot_move_between_files_or_pass_for_nodes() -> None:
    """The same bytes cut elsewhere, or in another file, have another root; so has another size of chunks."""
    roots = {
        made({"a": b"12345678", "b": b""}).root(), made({"a": b"1234", "b": b"5678"}).root(),
        made({"a": b"", "b": b"12345678"}).root(), made({"a": b"12345678", "b": b""}, chunk=8).root(),
    }  # fmt: skip
    assert len(roots) == 4


def test_a_manifest_is_read_as_it_was_written() -> None:
    """Text and back is the same value, and its pieces cover every byte once."""
    manifest = made({"config.json": b"{}", "x/model.safetensors": b"0123456789"})
    assert parse(manifest.text()) == manifest
    assert [(p.offset, p.size) for p in pieces(manifest.files[1], 4)] == [(0, 4), (4, 4), (8, 2)]
    assert sum(each.size for each in manifest.pieces()) == manifest.size == 12


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../b", "", ".", "a//b", ".dsctl/root", "a\nb", "a\\b"])
def test_a_name_never_leads_out(name: str) -> None:
    """Names that leave the directory, or reach our own notes, are refused wherever a manifest comes from."""
    assert not is_safe(name)
    assert isinstance(parse(Manifest(4, (WeightFile(name, 0, ()),)).text()), Missing)


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2, "chunk": 4, "files": []}',
                                  '{"version": 1, "chunk": 0, "files": []}',
                                  '{"version": 1, "chunk": 4, "files": [["a", 9, ["00"]]]}',
                                  '{"version": 1, "chunk": 4, "files": [["b", 0, []], ["a", 0, []]]}'])  # fmt: skip
def test_what_is_no_manifest_is_said_to_be_none(text: str) -> None:
    """Other versions, impossible sizes and disorder are Missing with a reason."""
    assert isinstance(parse(text), Missing)
