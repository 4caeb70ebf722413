"""Everything a worker needs to know, in one file without secrets: the target, the load, the workload, the timeline."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from dsctl.bench.lengths import Length
from dsctl.bench.loads import Load
from dsctl.bench.records import Window

Endpoint = Literal["chat", "completions"]
PATHS: dict[Endpoint, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The server, and what it turned out to accept."""

    url: str  # without path
    model: str
    endpoint: Endpoint = "chat"
    api_key_env: str | None = None  # the environment variable that holds the key; the key itself is nowhere
    cacert: str | None = None
    timeout: float = 600.0  # seconds a request may take
    takes_usage: bool = True  # stream_options.include_usage
    takes_ignore_eos: bool = True
    takes_priority: bool = True
    sends_done: bool = True  # its streams end with [DONE]
    tokens_per_word: float = 1.3  # of our synthetic text, measured by the server's own usage
    tokens_around: float = 8.0  # of the chat template and the request's number
    version: str = ""


class Priority(msgspec.Struct, frozen=True):
    """One class of requests: its name, the `priority` it sends, and its share of all."""

    name: str
    value: int
    share: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a dataset or a trace."""

    at: float = 0.0  # trace: seconds after its first row
    n_in: int | None = None
    n_out: int | None = None
    prompt: str | None = None
    messages: list[dict[str, str]] | None = None
    blocks: list[int] | None = None  # trace: ids of prompt pieces; equal ids stand for equal text


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked; request i is a pure function of this and i."""

    seed: int = 1
    isl: Length = Length("fixed", 128)
    osl: Length = Length("fixed", 64)
    prefix_tokens: int = 0  # shared beginnings: this long …
    prefixes: int = 0  # … and so many different ones
    turns: int = 1
    ignore_eos: bool = True  # where the server takes it
    priorities: list[Priority] = []
    leave_share: float = 0.0  # part of the clients that disconnect before the end
    rows: list[Row] = []  # dataset or trace; used in order, again from the start when they are used up
    source: str = ""  # where the rows come from


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    target: Target
    load: Load
    workload: Workload

    @property
    def window(self) -> Window:
        """What is measured, as far as it is known before the run."""
        return Window(self.load.warmup, self.load.end)

    @property
    def trace(self) -> list[float]:
        """The times of a trace's rows."""
        return [row.at for row in self.workload.rows] if self.load.kind == "trace" else []


def save(plan: Plan, path: Path) -> None:
    """Write the plan for the workers."""
    path.write_bytes(msgspec.json.encode(plan))


def load(path: Path) -> Plan:
    """Read what `save` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Plan)
