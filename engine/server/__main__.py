"""`python -m engine.server`: one API process with its core."""

from __future__ import annotations

import sys

from engine.server.options import parse_options
from engine.spec.errors import EngineError


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM; returns the exit code of docs/EXIT-CODES.md."""
    try:
        options = parse_options(sys.argv[1:] if arguments is None else arguments)
        from engine.server.process import run  # keeps --help and usage errors instant

        return run(options)
    except EngineError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
