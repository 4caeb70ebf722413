"""How fast does each card copy its own memory? `python -m engine.kernels.bandwidth` prints one JSON object."""

from __future__ import annotations

import json
import sys
import time

import torch

BYTES = 256 << 20  # of the block that is copied; twice that is held
ROUNDS = 10


def rate(device: torch.device) -> float:
    """Bytes a second that a card reads and writes together while it copies a block; the best of some rounds."""
    source = torch.zeros(BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(ROUNDS):
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * BYTES / best


def main() -> int:
    """0 with {"rates": [bytes a second of each visible card]}; 3 where no card can be used."""
    if not torch.cuda.is_available():
        sys.stdout.write("torch sees no CUDA card here\n")
        return 3
    rates = [rate(torch.device("cuda", index)) for index in range(torch.cuda.device_count())]
    sys.stdout.write(json.dumps({"rates": rates}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
