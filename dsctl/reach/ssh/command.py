"""Commands for another host: argument lists quoted by us, and the line that proves how they ended."""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from dsctl.base.errors import DsctlError


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended: its exit code, and what it wrote."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.out.decode("utf-8", "replace")


class LostError(DsctlError):
    """The connection broke while a command ran: whether it had its effect must be looked up, never assumed."""


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A command line for the remote shell that tells its process group first and its exit code last."""

    line: str
    mark: str

    def group(self, err: str) -> int | None:
        """The process group, once the first line has come."""
        found = re.search(rf"^{self.mark}:group:(\d+)$", err, re.MULTILINE)
        return int(found[1]) if found else None

    def result(self, out: bytes, err: str) -> Result | None:
        """The result; None when the proof of the end is missing."""
        found = re.search(rf"^{self.mark}:end:(\d+)$", err, re.MULTILINE)
        if found is None:
            return None
        return Result(int(found[1]), out, self.clean(err))

    def clean(self, err: str) -> str:
        """Error output without our two lines."""
        return re.sub(rf"\n?^{self.mark}:(?:group|end):\d+\n?", "", err, flags=re.MULTILINE)


def wrap(argv: Sequence[str]) -> Wrapped:
    """`argv` as one line for any login shell; every word reaches the program as it is."""
    mark = f"dsctl-{secrets.token_hex(8)}"
    script = (
        f"read -r _ _ _ _ g _ </proc/$$/stat; echo {mark}:group:$g >&2; "
        f'"$@"; c=$?; printf "\\n%s:end:%d\\n" {mark} $c >&2; exit $c'
    )
    return Wrapped(shlex.join(["sh", "-c", script, "sh", *argv]), mark)
