"""Prints the parity table of every variant against transformers, and the bit-equality table of every arrangement."""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

from engine.modeling.loader import load
from engine.spec.config import EngineConfig
from tests.engine.arrangements import Span, Tokens, alone, step
from tests.engine.checkpoints import VARIANTS, make_checkpoint
from tests.engine.parity import BOUND, Case, Mode, limits

LENGTH = 400
PROMPT, OUTPUT, BLOCK = 150, 50, 16
MODES: tuple[Mode, ...] = ("float32", "bfloat16", "narrow")


def parity_table() -> bool:
    """One line per variant, mode and form; True when every line holds."""
    print(f"against transformers {version('transformers')}, {LENGTH} positions, bounds {BOUND}")
    holds = True
    for variant in VARIANTS:
        for mode in MODES:
            with tempfile.TemporaryDirectory() as scratch:
                case = Case(Path(scratch), variant, LENGTH, rounded=mode != "float32")
                for form in ("prompt", "generated"):
                    parity = case.compare(mode, form)
                    holds &= parity.holds
                    print(parity, "" if parity.holds else "FAILS")
    return holds


def bits_of(variant: str, mode: Mode) -> dict[str, bool]:
    """Whether each arrangement gives the bits of the sequence computed alone, its prompt whole."""
    with tempfile.TemporaryDirectory() as scratch, limits(mode):
        path = make_checkpoint(Path(scratch), variant)
        model = load(
            EngineConfig(
                str(path),
                kernels="reference",
                dtype="float32" if mode == "float32" else "bfloat16",
                quantization="none",
            )
        )
    generator = torch.Generator().manual_seed(3)
    ids, *others = torch.randint(model.spec.vocab_size, (32, PROMPT + OUTPUT), generator=generator).unbind()
    blocks = -(-ids.numel() // BLOCK)
    expected = alone(model, ids, PROMPT)
    found = {f"chunks of {n}": torch.equal(alone(model, ids, PROMPT, chunk=n), expected) for n in (1, 7, 64)}
    cache = model.new_cache(32 * blocks, BLOCK)
    crowd = [Tokens(o, 1 + 4 * i, torch.arange(blocks) + i * blocks) for i, o in enumerate(others)]
    own = Tokens(ids, PROMPT, torch.arange(blocks) + 31 * blocks)
    rows = [step(model, cache, [*(Span(o, 0, o.prompt) for o in crowd), Span(own, 0, PROMPT)])[-1]]
    for n in range(OUTPUT):
        spans = [Span(o, o.prompt + n, o.prompt + n + 1) for o in crowd]
        spans.insert(n % 32, Span(own, PROMPT + n, PROMPT + n + 1))
        rows.append(step(model, cache, spans)[n % 32])
    found["among 31 others"] = torch.equal(torch.cat(rows), expected)
    found["replay at every output"] = all(
        torch.equal(step(model, model.new_cache(32 * blocks, BLOCK), [Span(own, 0, n)])[0], expected[:n])
        for n in range(PROMPT, PROMPT + OUTPUT + 1)
    )
    torch.set_num_threads(2)
    found["2 threads"] = torch.equal(alone(model, ids, PROMPT), expected)
    torch.set_num_threads(1)
    return found


def main() -> None:
    """Print both tables; exit 1 when anything does not hold."""
    torch.set_num_threads(1)
    holds = parity_table()
    for variant in VARIANTS:
        for mode in MODES:
            found = bits_of(variant, mode)
            holds &= all(found.values())
            cells = "  ".join(f"{name}: {'equal' if equal else 'DIFFERS'}" for name, equal in found.items())
            print(f"{variant:16s} {mode:9s} {cells}")
    raise SystemExit(0 if holds else 1)


if __name__ == "__main__":
    main()
