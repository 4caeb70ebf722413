"""`python -m dsctl.gateway`: serve one gateway until SIGTERM."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import sys
from pathlib import Path

from dsctl.gateway.settings import Settings

_SETTINGS = Settings(Path())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dsctl.gateway", description=__doc__)
    parser.add_argument("--state-dir", type=Path, required=True, help="holds replicas.json, *.token and keys.json")
    parser.add_argument("--host", default=_SETTINGS.host)
    parser.add_argument("--port", type=int, default=_SETTINGS.port, help="0: any free port")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a further Host it answers to"
    )
    parser.add_argument("--no-auth", action="store_true", help="listen beyond this machine without keys")
    parser.add_argument("--ledger", type=Path, help="append one line per request")
    parser.add_argument("--max-inflight", type=int, default=_SETTINGS.max_inflight)
    parser.add_argument("--max-held", type=int, default=_SETTINGS.max_held)
    parser.add_argument("--hold-s", type=float, default=_SETTINGS.hold_s, help="how long a request waits for a replica")
    parser.add_argument("--write-deadline-s", type=float, default=_SETTINGS.write_deadline_s)
    parser.add_argument("--shutdown-s", type=float, default=_SETTINGS.shutdown_s, help="how long streams may end")
    return parser.parse_args()


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        state_dir=options.state_dir,
        host=options.host,
        port=options.port,
        names=frozenset(name.lower() for name in options.allow_host),
        no_auth=options.no_auth,
        ledger=options.ledger,
        max_inflight=options.max_inflight,
        max_held=options.max_held,
        hold_s=options.hold_s,
        write_deadline_s=options.write_deadline_s,
        shutdown_s=options.shutdown_s,
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _refusal(settings: Settings) -> tuple[int, str] | None:
    """Why this gateway may not start: exit code and sentence."""
    if not settings.state_dir.is_dir():
        return 2, f"--state-dir {settings.state_dir} is not a directory; create it or name another"
    has_keys = (settings.state_dir / "keys.json").is_file()
    if not _is_loopback(settings.host) and not has_keys and not settings.no_auth:
        return 6, (
            f"refusing to listen on {settings.host} without keys: anybody who reaches it could use the model. "
            f"Put keys into {settings.state_dir / 'keys.json'} (dsctl keys), listen on 127.0.0.1, or pass --no-auth"
        )
    return None


def main() -> int:
    """Exit codes: 0 stopped on request, 2 usage, 6 refused (no keys, or the address is taken)."""
    settings = _settings(_arguments())
    refused = _refusal(settings)
    if refused is not None:
        sys.stderr.write(f"gateway: {refused[1]}\n")
        return refused[0]
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    from dsctl.gateway import listener

    try:
        listening = listener.bind(settings)
    except OSError as error:
        sys.stderr.write(
            f"gateway: cannot listen on {settings.host}:{settings.port}: {error.strerror}; choose another --port\n"
        )
        return 6
    host, port = listening.getsockname()[:2]

    def ready() -> None:
        sys.stdout.write(f"ready http://{f'[{host}]' if ':' in host else host}:{port}\n")
        sys.stdout.flush()

    import uvloop

    uvloop.run(listener.serve(settings, listening, ready))
    return 0


if __name__ == "__main__":
    sys.exit(main())
