"""Prints how long the real engine takes to refuse absurd bodies of megabytes: `python -m benchmarks.refusals`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx

MODEL = Path(__file__).resolve().parent.parent / "models" / "dsctl-tiny"
REPEATS = 7
CHAT = '{"model":"dsctl-tiny","messages":[{"role":"user","content":%s}]%s}'

BODIES: dict[str, bytes] = {
    "4 MB of words in one message": (CHAT % ('"' + "word " * 800_000 + '"', "")).encode(),
    "4 MB without a space": (CHAT % ('"' + "a" * 4_000_000 + '"', "")).encode(),
    "1 MB of four-byte characters": (CHAT % ('"' + "😀" * 262_144 + '"', "")).encode(),
    "300 000 entries of logit_bias": (
        CHAT % ('"hi"', ',"logit_bias":{' + ",".join(f'"{n}":1' for n in range(300_000)) + "}")
    ).encode(),
    "1 000 000 prompt ids": b'{"model":"dsctl-tiny","prompt":[' + b"1," * 999_999 + b"1]}",
    "100 000 messages": (
        '{"model":"dsctl-tiny","messages":[' + ",".join(['{"role":"user","content":"a"}'] * 100_000) + "]}"
    ).encode(),
    "100 000 nested arrays": b'{"model":"dsctl-tiny","prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "7 MB of broken JSON": b'{"model":' + b"x" * 7_000_000,
    "60 MB, above the size cap": b" " * 60_000_000,
}


def main() -> None:
    """Start one replica of the bundled model, refuse every body several times, print median and longest."""
    command = [sys.executable, "-m", "dsctl", "serve", str(MODEL), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = str(process.stdout.readline()).split()[1] if process.stdout is not None else ""
            with httpx.Client(base_url=url, timeout=60) as client:
                for name, body in BODIES.items():
                    print(row(client, name, body), flush=True)
        finally:
            process.terminate()


def row(client: httpx.Client, name: str, body: bytes) -> str:
    """One line of the table: wall time from the first byte sent to the answer read."""
    path = "/v1/completions" if b'"prompt"' in body[:40] else "/v1/chat/completions"
    took: list[float] = []
    statuses: set[int] = set()
    for _ in range(REPEATS):
        began = time.perf_counter()
        statuses.add(client.post(path, content=body, headers={"Content-Type": "application/json"}).status_code)
        took.append(1000 * (time.perf_counter() - began))
    size = len(body) / 1e6
    median = statistics.median(took)
    return f"{name:34} {size:6.1f} MB  {sorted(statuses)}  median {median:6.1f} ms  longest {max(took):6.1f} ms"


if __name__ == "__main__":
    main()
