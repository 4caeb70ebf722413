"""`python -m dsctl.gateway.ask URL`: one HTTP request from inside a container; secrets are read there, never passed in.

Prints the status on the first line and the body after it. Exit 0 for 2xx, 1 for another status, 2 for no answer.
"""

from __future__ import annotations

import argparse
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dsctl.gateway.ask", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--token-file", type=Path, help="sent as Authorization: Bearer")
    parser.add_argument("--header", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--header-file", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--post", action="store_true", help="POST what stdin holds, as JSON")
    parser.add_argument("--insecure", action="store_true", help="any certificate will do: the server is this host")
    parser.add_argument("--timeout-s", type=float, default=5.0)
    parser.add_argument("--times", type=int, default=1, metavar="N", help="one after the other; the last is printed")
    return parser.parse_args()


def _request(options: argparse.Namespace) -> urllib.request.Request:
    headers = dict(pair.split("=", 1) for pair in options.header)
    headers |= {k: Path(v).read_text().strip() for k, v in (pair.split("=", 1) for pair in options.header_file)}
    if options.token_file:
        headers["Authorization"] = f"Bearer {options.token_file.read_text().strip()}"
    data = None
    if options.post:
        data = sys.stdin.buffer.read()
        headers["Content-Type"] = "application/json"
    return urllib.request.Request(options.url, data, headers)  # noqa: S310 - checked in main


def _send(
    opener: urllib.request.OpenerDirector, request: urllib.request.Request, timeout_s: float
) -> tuple[int, bytes]:
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def main() -> int:
    """Asks."""
    options = _arguments()
    if not options.url.startswith(("http://", "https://")):
        sys.stderr.write(f"ask: {options.url!r} is no http:// or https:// address\n")
        return 2
    context = ssl.create_default_context() if options.url.startswith("https://") else None
    if context is not None and options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    opener = urllib.request.build_opener(*handlers)
    try:
        request = _request(options)
        for _ in range(options.times - 1):
            _send(opener, request, options.timeout_s)
        status, body = _send(opener, request, options.timeout_s)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"ask: {options.url}: {error}\n")
        return 2
    sys.stdout.buffer.write(str(status).encode() + b"\n" + body)
    sys.stdout.flush()
    return 0 if 200 <= status < 300 else 1


if __name__ == "__main__":
    sys.exit(main())
