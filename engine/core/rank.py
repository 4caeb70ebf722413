"""`python -m engine.core.rank --fd N`: a rank beside the first; it does what it is told until the socket closes."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import threading
import time

PULSE_S = 0.05


def main() -> None:
    """Tie our life to rank 0's, then obey."""
    parser = argparse.ArgumentParser(prog="python -m engine.core.rank", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="file descriptor of a connected stream socket")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="rank %(process)d %(levelname)s %(message)s")
    from engine.core import parent

    parent.die_with_it()
    from engine.core.obey import Rank

    rank = Rank(socket.socket(fileno=arguments.fd))

    def pulse() -> None:
        while True:
            rank.pulse()
            time.sleep(PULSE_S)

    threading.Thread(target=pulse, name="pulse", daemon=True).start()
    code = 0
    try:
        rank.obey()
    except BaseException:
        logging.exception("this rank fails")  # noqa: LOG015 - the process has one log
        code = 1
    os._exit(code)


if __name__ == "__main__":
    main()
