"""`python -m engine.core --fd N`: the process that computes; its API process holds the other end of socket N."""

from __future__ import annotations

import argparse
import logging
import os
import sys


def main() -> None:
    """Parse, tie our life to the parent's, import the heavy parts, serve."""
    parser = argparse.ArgumentParser(prog="python -m engine.core", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="file descriptor of a connected stream socket")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads on shared cores cost 30-fold
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="core %(process)d %(levelname)s %(message)s")
    from engine.core import parent

    parent.die_with_it()
    from engine.core.process import serve

    try:
        code = serve(arguments.fd)
    except BaseException:
        logging.exception("the core fails")  # noqa: LOG015 - the process has one log
        code = 1
    logging.shutdown()
    os._exit(code)  # threads that beat and read never end; nothing of theirs is worth waiting for


if __name__ == "__main__":
    main()
