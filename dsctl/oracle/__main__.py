"""`python -m dsctl.oracle`: serve the oracle engine on one address until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

from dsctl.base.urgency import be_prompt
from dsctl.oracle.engine import Pace
from dsctl.oracle.faults import KINDS, parse_fault
from dsctl.oracle.server import OracleServer, OracleSettings


def _times(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dsctl.oracle", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--name", default="oracle")
    parser.add_argument("--model", default="oracle", help="the id shown by /v1/models")
    parser.add_argument("--token-file", type=Path)
    parser.add_argument("--numerics-id", default="oracle-1")
    parser.add_argument("--inexact", action="store_true", help="say exact: false")
    parser.add_argument(
        "--ttft-ms", type=_times, default=(50.0,), help="with --exact several: max_tokens mod their number says which"
    )
    parser.add_argument("--itl-ms", type=float, default=20.0, help="0: all tokens at once")
    parser.add_argument("--max-num-seqs", type=int, default=4096, help="a step takes the oldest so many sequences")
    parser.add_argument(
        "--exact", action="store_true", help="every sequence has a schedule of its own, no shared steps"
    )
    parser.add_argument("--refuse-fields", default="", help="fields of a body that are answered 400, with commas")
    parser.add_argument("--ledger", help="append one line per attempt's start and end")
    parser.add_argument(
        "--fault", action="append", default=os.environ.get("DSCTL_ORACLE_FAULT", "").split(),
        help=f"kind:after=N:times=N:value=X of {', '.join(KINDS)}; also in $DSCTL_ORACLE_FAULT",
    )  # fmt: skip
    return parser.parse_args()


async def _serve(options: argparse.Namespace) -> int:
    if options.exact:
        be_prompt()  # its schedule is a measure
    firsts: tuple[float, ...] = options.ttft_ms
    settings = OracleSettings(
        name=options.name,
        model=options.model,
        numerics_id=options.numerics_id,
        exact=not options.inexact,
        token=options.token_file.read_text().strip() if options.token_file else None,
        ledger=options.ledger,
        pace=Pace(firsts[0], options.itl_ms, options.max_num_seqs, is_exact=options.exact, firsts_ms=firsts),
        refuses=frozenset(options.refuse_fields.split(",")) - {""},
    )
    server = OracleServer(settings, [parse_fault(text) for text in options.fault])
    loop = asyncio.get_running_loop()
    try:
        listener = await loop.create_server(server.protocol, options.host, options.port, backlog=1024)
    except OSError as error:
        sys.stderr.write(f"oracle: cannot listen on {options.host}:{options.port}: {error}; choose another --port\n")
        return 6
    host, port = listener.sockets[0].getsockname()[:2]
    sys.stdout.write(f"ready http://{host}:{port} model={options.model}\n")
    sys.stdout.flush()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    beating = asyncio.create_task(server.beat())
    await stop.wait()
    listener.close()
    beating.cancel()
    return 0


def main() -> int:
    """Run until SIGTERM; exit 2 for a wrong switch, 6 for a taken port."""
    options = _arguments()
    try:
        for text in options.fault:
            parse_fault(text)
    except ValueError as error:
        sys.stderr.write(f"oracle: {error}\n")
        return 2
    try:
        import uvloop
    except ImportError:
        return asyncio.run(_serve(options))
    return uvloop.run(_serve(options))


if __name__ == "__main__":
    sys.exit(main())
