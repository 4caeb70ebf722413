"""What a user asked of `dsctl bench run`, and the load and workload that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from dsctl.base.errors import UsageError
from dsctl.bench import datasets, loads
from dsctl.bench.lengths import parse_length
from dsctl.bench.loads import ENDLESS, Level, Load, parse_seconds
from dsctl.bench.plan import Endpoint, Priority, Row, Workload

CONCURRENCY = 8
DURATION_S = 60.0
WARMUP_S = 5.0
DRAIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Wish:
    """The options of a run as they were written; None: not given."""

    load: str | None = None
    concurrency: int | None = None
    rate: float | None = None
    stages: str | None = None
    duration: str | None = None
    requests: int | None = None
    warmup: str | None = None
    drain: str | None = None
    isl: str = "128"
    osl: str = "64"
    shared_prefix: str | None = None
    turns: int = 1
    dataset: Path | None = None
    priority: str | None = None
    disconnect: float = 0.0
    ignore_eos: bool = True
    seed: int = 1
    workers: int | None = None  # None: as many as are needed
    endpoint: Endpoint = "chat"
    model: str | None = None
    url: str | None = None
    api_key_env: str | None = None
    cacert: Path | None = None
    timeout: str = "600s"
    scrape_metrics: bool = False


def load_of(wish: Wish) -> tuple[Load, list[Row]]:
    """The load, with a trace's rows where it is one; UsageError for what cannot be."""
    kind, shape, file = loads.parse_kind(wish.load or ("closed" if wish.rate is None else "poisson"))
    if kind == "closed" and wish.rate is not None:
        raise UsageError("--rate is for open loads", hint="--load poisson --rate R, or --concurrency N")
    if kind != "closed" and wish.concurrency is not None:
        raise UsageError(f"--concurrency is for closed loads, --load {kind} is open", hint=f"--load {kind} --rate R")
    rows = datasets.read_trace(Path(file)) if file else []
    seconds = parse_seconds(wish.duration, "--duration") if wish.duration else None
    if wish.requests is not None and wish.requests < 1:
        raise UsageError("--requests needs at least 1")
    if wish.stages is not None:
        levels = _stages(wish)
    elif rows:
        levels = [_traced(rows, seconds)]
    else:
        length = seconds if seconds is not None else ENDLESS if wish.requests is not None else DURATION_S
        levels = [Level(_target(wish, kind), length)]
    load = Load(
        kind=kind,
        levels=levels,
        warmup=_warmup(wish, is_trace=bool(rows)),
        drain=parse_seconds(wish.drain, "--drain") if wish.drain else DRAIN_S,
        shape=shape,
        file=file,
        requests=wish.requests,
    )
    return load, rows


def _warmup(wish: Wish, *, is_trace: bool) -> float:
    if wish.warmup is not None:
        return parse_seconds(wish.warmup, "--warmup")
    return 0.0 if is_trace else WARMUP_S


def _stages(wish: Wish) -> list[Level]:
    if wish.duration or wish.requests:
        raise UsageError("--stages say how long they last; leave out --duration and --requests")
    if wish.load is not None and wish.load.startswith("trace"):
        raise UsageError("a trace has its own times; leave out --stages")
    return loads.parse_stages(wish.stages or "")


def _traced(rows: list[Row], seconds: float | None) -> Level:
    """A trace as one stage: as long as it is (its last request and its mean pause), or cut."""
    last = rows[-1].at
    own = last + (last / (len(rows) - 1) if len(rows) > 1 and last > 0 else 1.0)
    length = min(own, seconds) if seconds is not None else own
    return Level(sum(row.at < length for row in rows) / length, length)


def _target(wish: Wish, kind: loads.Kind) -> float:
    if kind == "closed":
        users = CONCURRENCY if wish.concurrency is None else wish.concurrency
        if users < 1:
            raise UsageError("--concurrency needs at least 1")
        return float(users)
    if wish.rate is None or wish.rate <= 0:
        raise UsageError(f"--load {kind} needs a rate", hint=f"--load {kind} --rate 5")
    return wish.rate


def workload_of(wish: Wish, rows: list[Row]) -> Workload:
    """What is asked; UsageError for what cannot be."""
    if wish.dataset is not None and rows:
        raise UsageError("a trace holds its own requests; leave out --dataset")
    if wish.turns < 1:
        raise UsageError("--turns needs at least 1")
    if not 0 <= wish.disconnect < 1:
        raise UsageError(f"--disconnect is a share from 0 to below 1, not {wish.disconnect}")
    tokens, prefixes = _prefix(wish.shared_prefix)
    return Workload(
        seed=wish.seed,
        isl=parse_length(wish.isl, "--isl"),
        osl=parse_length(wish.osl, "--osl"),
        prefix_tokens=tokens,
        prefixes=prefixes,
        turns=wish.turns,
        ignore_eos=wish.ignore_eos,
        priorities=parse_priorities(wish.priority) if wish.priority else [],
        leave_share=wish.disconnect,
        rows=rows or (datasets.read_dataset(wish.dataset) if wish.dataset else []),
        source=str(wish.dataset or (wish.load if rows else "synthetic")),
    )


def _prefix(text: str | None) -> tuple[int, int]:
    if text is None:
        return 0, 0
    tokens, _, count = text.partition(":")
    if not tokens.isdigit() or not (count or "1").isdigit() or int(tokens) < 1 or int(count or 1) < 1:
        raise UsageError(f"--shared-prefix cannot be {text!r}", hint="--shared-prefix TOKENS[:HOW_MANY], e.g. 1024:10")
    return int(tokens), int(count or 1)


def parse_priorities(text: str) -> list[Priority]:
    """`interactive=0:0.8,batch=10:0.2`: name, the number that is sent, the share."""
    found: list[Priority] = []
    for part in text.split(","):
        name, _, rest = part.partition("=")
        value, _, share = rest.partition(":")
        try:
            one = Priority(name.strip(), int(value), float(share or 1))
        except ValueError:
            one = Priority("", 0, 0)
        if not one.name or one.share <= 0:
            raise UsageError(f"--priority has {part!r}, which is no class", hint="interactive=0:0.8,batch=10:0.2")
        found.append(one)
    return found


def address(url: str) -> str:
    """A server's address without its path's /v1; UsageError for what is none."""
    full = (url if "://" in url else f"http://{url}").rstrip("/").removesuffix("/v1")
    parts = urlsplit(full)
    try:
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_right = False
    if not is_right:
        raise UsageError(f"--url cannot be {url!r}", hint="--url http://HOST:PORT")
    if parts.username or parts.password:
        raise UsageError(
            "--url must not hold a password", hint="--api-key-env NAME names a variable that holds the key"
        )
    return full
