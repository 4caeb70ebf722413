"""`python -m dsctl` and the `dsctl` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs one verb and ends the process with its exit code."""
    from dsctl.cli.app import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
