"""A load client of a hundred lines that shares nothing with `dsctl bench`: one thread a stream, blocking sockets.

    python -m benchmarks.bench_raw URL MODEL PROMPTS STREAMS REQUESTS OUT

It exists to be compared with (benchmarks/bench_agreement.py), so it does nothing as the other clients do it.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

END_S = 600.0


def ask(address: tuple[str, int], body: dict[str, Any]) -> dict[str, Any]:
    """One streamed completion on a connection of its own; times in seconds after the request was sent."""
    payload = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(address, END_S) as connection, connection.makefile("rb") as answer:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        connection.sendall(f"{head}Connection: close\r\nContent-Length: {len(payload)}\r\n\r\n".encode() + payload)
        times, tokens = list[float](), 0
        # Chunk sizes stand on lines of their own: whatever is not a line of SSE is not looked at.
        for line in answer:
            if line.startswith(b"data: [DONE]"):
                break
            if not line.startswith(b"data: {"):
                continue
            now = time.perf_counter() - began
            event = json.loads(line[6:])
            if any(choice.get("text") for choice in event.get("choices") or ()):
                times.append(now)
            tokens = (event.get("usage") or {}).get("completion_tokens") or tokens
    return {"times": times, "tokens": tokens}


def main() -> None:
    """Every stream takes the next prompt until all are asked; one line of JSON a request goes to OUT."""
    url, model, prompts, streams, requests, out = sys.argv[1:]
    parts = urlsplit(url)
    address = (parts.hostname or "127.0.0.1", parts.port or 80)
    rows = [json.loads(line) for line in Path(prompts).read_text().splitlines()]
    numbers, lock, found = iter(range(int(requests))), threading.Lock(), list[dict[str, Any]]()

    def stream() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            row = rows[number % len(rows)]
            body = {"model": model, "prompt": row["prompt"], "max_tokens": row["output_tokens"], "stream": True}
            body |= {"temperature": 0, "ignore_eos": True, "stream_options": {"include_usage": True}}
            found.append(ask(address, body))

    threads = [threading.Thread(target=stream) for _ in range(int(streams))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    Path(out).write_text("\n".join(json.dumps(one) for one in found))


if __name__ == "__main__":
    main()
