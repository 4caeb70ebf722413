"""Compiles the kernels ahead of their first use: `python -m engine.kernels.cpu`, for installers."""

from __future__ import annotations

import logging
import sys

from engine.kernels.cpu.library import load


def main() -> int:
    """0 when compiled or already there, 1 when this machine has to do without."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    library = load()
    if library is not None:
        logging.getLogger(__name__).info("kernels ready: %s", library.name)
    return 0 if library is not None else 1


if __name__ == "__main__":
    sys.exit(main())
