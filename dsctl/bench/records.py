"""What a run leaves behind: one row a request (requests.jsonl.gz), and the facts of the run (run.json).

All times are seconds since the run's start (`run.json` `started_at`), taken with the one monotonic clock that all
workers of a machine share; None means that it never happened or was not told. Nothing is dropped: a request that was
not sent, timed out or was cut by the end of the run has its row and says so in `status`.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from dsctl.base.errors import DsctlError, UsageError

SCHEMA_VERSION = 1
ROWS = "requests.jsonl.gz"
RUN = "run.json"

Status = Literal[
    "ok",  # HTTP 200, at least one token, a finish_reason or [DONE], and nothing wrong in between
    "http_error",  # the server answered with another status; `http` holds it
    "stream_error",  # HTTP 200, then {"error": …} in the stream
    "cut",  # the stream ended before [DONE] (or before its finish_reason, for servers that send no [DONE])
    "empty",  # the stream ended as it should, but without a token
    "malformed",  # a frame that is no JSON, or no SSE at all
    "connect_error",  # no connection, or it broke before the answer's head
    "timeout",  # longer than --timeout since it was sent
    "unsent",  # its time came, but the run ended (or its turn's predecessor failed) before it could be sent
    "censored",  # sent, and still running when the drain's time was over: it took at least t_close − t_send
    "left",  # the workload's client disconnected on purpose after `leave_after` token events
]
FAILED: frozenset[str] = frozenset(
    {"http_error", "stream_error", "cut", "empty", "malformed", "connect_error", "timeout"}
)
UNFINISHED: frozenset[str] = frozenset({"unsent", "censored"})


class Record(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One request. A row of requests.jsonl.gz is this as a JSON object; fields at their default are left out."""

    id: int  # place in the schedule over all workers; rows are sorted by it
    worker: int
    stage: int = 0  # index into run.json `stages`
    warmup: bool = False  # scheduled before the window: excluded from every metric, and counted
    conversation: int | None = None  # multi-turn: requests of one conversation share this, `turn` counts from 0
    turn: int = 0
    priority: str | None = None  # the workload's priority class
    want_in: int | None = None  # tokens the workload aimed at (the server's own count is n_in)
    want_out: int | None = None
    leave_after: int | None = None  # the client leaves after this many token events

    status: Status
    http: int | None = None  # HTTP status
    error: str = ""  # what went wrong, shortened; never a secret
    finish: str | None = None  # finish_reason

    t_intended: float  # when the schedule wanted it sent (closed loop: when its user became free)
    t_send: float | None = None  # sending began (where no connection was open, making one comes after this)
    t_connect: float | None = None  # seconds that making a new connection took; None: an open one was used
    resent: bool = False  # sent twice: the server closed its first, idle connection at that moment
    t_headers: float | None = None  # the answer's head was there
    t_first: float | None = None  # first token event: content, reasoning, tool arguments, or usage that counts tokens
    t_content: float | None = None  # first event with visible content (later than t_first when the model reasons)
    t_last: float | None = None  # last token event
    t_close: float | None = None  # the stream's end, or the moment of giving up

    n_in: int | None = None  # prompt tokens by the server's usage; None: n/a, never guessed
    n_out: int | None = None  # completion tokens by the server's usage; None: n/a, never the number of chunks
    n_cached: int | None = None
    n_reasoning: int | None = None
    n_first: int = 1  # tokens in the first token event (more only where every chunk carries usage)
    chunks: int = 0  # token events
    gaps: list[float] = []  # seconds between one token event and the next: chunks − 1 numbers
    counts: list[int] | None = None  # tokens of each token event, where every chunk carried usage (chunks numbers)

    def arrivals(self) -> list[float]:
        """The time of every token event: t_first, t_first + gaps[0], …; empty when there was none."""
        if self.t_first is None:
            return []
        times = [self.t_first]
        for gap in self.gaps:
            times.append(times[-1] + gap)
        return times


class Window(msgspec.Struct, frozen=True):
    """What is measured: requests with start ≤ t_intended < end; throughput counts token events in the same span.

    `start` is the end of warm-up, `end` the end of arrivals; the drain after `end` only finishes what was begun.
    """

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return max(0.0, self.end - self.start)


class Stage(msgspec.Struct, frozen=True):
    """One stage of the load, cut to the window."""

    index: int
    target: float  # users (closed) or requests per second (open)
    start: float
    end: float


class SelfCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What the run measured about itself; run.json `self_check`. Times in seconds, the worst worker counts."""

    loop_lag_p99: float  # how late a 10 ms sleeper woke up
    loop_lag_max: float
    cpu: float  # busiest worker, fraction of one core over the window
    send_lag_p99: float  # t_send − t_intended, open loop (closed: 0)
    send_lag_limit: float  # max(10 ms, 2 % of the median TTFT)
    target_rate: float | None  # requests per second, open loop
    achieved_rate: float | None
    samples: int  # requests measured (in the window, ended by themselves)
    server_restarts: int
    workers_lost: int


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The run's own part of run.json: what was asked, where, what was sent, and whether it is to be believed.

    The judging side adds `definitions_version`, `counts`, `metrics`, `goodput`, `slo`, `verdict` and each stage's
    `metrics` beside these keys; readers of run.json ignore keys they do not know.
    """

    schema_version: int = SCHEMA_VERSION
    dsctl_version: str = ""
    started_at: str  # ISO 8601, UTC
    is_partial: bool = False  # interrupted: what was there is kept
    mode: Literal["open", "closed"]
    config: dict[str, Any]  # every option as it took effect: url, model, endpoint, load, isl, osl, seed, slo, …
    request_set_sha256: str  # over all prompts, lengths and options in order: same seed, same hash
    schedule_sha256: str  # over all intended times, stages and warm-up flags (closed loop: over the stages)
    env: dict[str, Any]  # client cpu, cores, versions; server /version and model; proxies seen
    window: Window
    stages: list[Stage]
    self_check: SelfCheck
    valid: bool
    reasons: list[str]  # why it is not valid; each a sentence with its figure
    notes: list[str] = []  # what a reader should know though the run is valid (usage refused, lengths missed, …)
    server_metrics: list[dict[str, Any]] = []  # samples of the server's /metrics beside the run: {"t": s, name: value}


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)


def encode(record: Record) -> bytes:
    """One row with its newline."""
    return _encoder.encode(record) + b"\n"


def decode(line: bytes) -> Record:
    """One row; raises msgspec.DecodeError or ValidationError for anything else."""
    return _decoder.decode(line)


def write(path: Path, records: Iterable[Record]) -> None:
    """All rows, compressed, sorted by id; the same records give the same bytes."""
    staged = path.with_name(path.name + ".new")
    with staged.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
        for record in sorted(records, key=lambda record: record.id):
            file.write(encode(record))
    staged.replace(path)


def read(path: Path) -> Iterator[Record]:
    """The rows of a requests.jsonl.gz, or of a directory that holds one; UsageError when there is none."""
    file = path / ROWS if path.is_dir() else path
    number = 1
    try:
        with gzip.open(file, "rb") as rows:
            for row in rows:
                yield decode(row)
                number += 1
    except FileNotFoundError as error:
        raise UsageError(f"{file} does not exist", hint="dsctl bench run --out DIR makes one") from error
    except (msgspec.MsgspecError, OSError, EOFError) as error:
        raise DsctlError(f"{file}: row {number} cannot be read", why=str(error)) from error


def read_run(path: Path) -> dict[str, Any]:
    """run.json of a directory as it is; UsageError when it is missing, DsctlError when a newer dsctl wrote it."""
    file = path / RUN if path.is_dir() else path
    try:
        told = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except FileNotFoundError as error:
        raise UsageError(f"{file} does not exist", hint="dsctl bench run --out DIR makes one") from error
    except msgspec.MsgspecError as error:
        raise DsctlError(f"{file} cannot be read", why=str(error)) from error
    if int(told.get("schema_version", 0)) > SCHEMA_VERSION:
        raise UsageError(f"{file} was written by a newer dsctl", hint="upgrade this dsctl")
    return told


def write_run(path: Path, told: dict[str, Any]) -> None:
    """run.json in the directory `path`, whole or not at all."""
    staged = path / f"{RUN}.new"
    staged.write_bytes(msgspec.json.format(msgspec.json.encode(told, order="sorted"), indent=1) + b"\n")
    staged.replace(path / RUN)


def facts(told: dict[str, Any]) -> RunFacts:
    """The run's own part of a run.json; DsctlError naming the field that is wrong."""
    try:
        return msgspec.convert(told, RunFacts)
    except msgspec.ValidationError as error:
        raise DsctlError("run.json does not hold what a run writes", why=str(error)) from error
