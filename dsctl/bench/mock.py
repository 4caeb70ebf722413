"""`--mock`: the stand-in server with a known schedule, run beside the load for as long as it is needed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import msgspec

from dsctl.base.errors import DsctlError

TTFT_MS, ITL_MS = 100.0, 20.0


class Lateness(msgspec.Struct):
    """How late the stand-in sent its tokens, seconds."""

    count: int = 0
    p50: float = 0.0
    p99: float = 0.0


class Mock:
    """A running stand-in at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def reset(self) -> None:
        """Count lateness anew."""
        import httpx

        httpx.post(f"{self.url}/-/lateness", trust_env=False)

    def lateness(self) -> Lateness:
        """Since the last reset."""
        import httpx

        return msgspec.json.decode(httpx.get(f"{self.url}/-/lateness", trust_env=False).content, type=Lateness)


@contextmanager
def serving(
    ttft_ms: float | Sequence[float] = TTFT_MS, itl_ms: float = ITL_MS, more: tuple[str, ...] = ()
) -> Generator[Mock]:
    """Start it on a free port of the loopback, and end it. Of several `ttft_ms` a request's max_tokens picks one."""
    firsts = ",".join(map(str, [ttft_ms] if isinstance(ttft_ms, float | int) else ttft_ms))
    arguments = ["-m", "dsctl.oracle", "--exact", "--ttft-ms", firsts, "--itl-ms", str(itl_ms), *more]
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        assert process.stdout is not None
        words = process.stdout.readline().decode().split()
        if len(words) < 2 or words[0] != "ready":
            raise DsctlError("the stand-in server does not start", hint="python -m dsctl.oracle shows why")
        yield Mock(words[1])
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
