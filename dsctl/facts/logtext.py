"""One line of a log without its wrapping: colours and prefixes off, and who said it (host, rank) and when."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import cast

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]{0,200}\x07|\r")
_MESSAGES = ("log", "MESSAGE", "message", "msg", "text", "line", "event")  # of Docker, journald, and structured loggers
_STACKS = ("exc_info", "exception", "stack_trace", "stacktrace", "traceback", "error")
_TIMES = ("time", "timestamp", "@timestamp", "ts", "asctime", "__REALTIME_TIMESTAMP")
_HOSTS = ("_HOSTNAME", "hostname", "host", "node", "host_name")
_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
MONTHS = {name: n for n, name in enumerate(_NAMES, 1)}

# Wrappings that programs put in front of a line, outermost first; a group `host` or `rank` says who speaks.
WRAPPINGS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(?:Z|[+-]\d\d:\d\d) (?:stdout|stderr) [FP] ",  # container runtime
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)? "
        r"(?P<host>[\w][\w.-]*) [\w./@-]+(?:\[\d+\])?: ",
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(?:Z|[+-]\d\d:\d\d) ",  # docker logs -t
        r"[A-Z][a-z]{2} {1,2}\d{1,2} \d\d:\d\d:\d\d (?P<host>[\w][\w.-]*) [\w./@-]+(?:\[\d+\])?: ",  # syslog
        r"\[pod/[\w.-]+/[\w.-]+\] ",
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:[.,]\d+)? \| (?:[A-Z]{4,8} +\| )?",  # loguru
        r"[\w.-]{1,60}?-\d+ {1,8}\| ",  # compose
        r"\[(?:default)(?P<local>\d{1,4})\]:\s?",
        r"\[rank(?P<rank>\d{1,5})\]:\s?",
        r"\[\d{1,3},(?P<mpirank>\d{1,5})\]<std(?:err|out)>:\s?",
        r"\((?:Vllm)?Worker(?:Wrapper|Proc)? rank=(?P<wrank>\d{1,5}) pid=\d+\) ",
        r"\((?:Vllm)?Worker_(?:DP\d+_)?(?:PP\d+_)?TP(?P<tprank>\d{1,5})[\w]* pid=\d+\) ",
        r"\((?:RayWorkerWrapper|RayWorkerProc|Ray\w*|[\w.]+) pid=\d+(?:, ip=(?P<ip>[\d.a-fA-F:]+))?\) ",
        r"\[ ?\d{1,9}\.\d{6}\] ",  # kernel, seconds since boot
        r"\[[A-Z][a-z]{2} [A-Z][a-z]{2} {1,2}\d{1,2} \d\d:\d\d:\d\d \d{4}\] ",  # dmesg -T
        r"kern {0,2}:\w+ {0,4}: ",
    )
)
SGLANG_RANK = re.compile(
    r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?: DP\d+)?(?: TP(?P<rank>\d{1,4}))?(?: EP\d+)?(?: PP\d+)?\]"
)
NCCL_PREFIX = re.compile(
    r"(?:\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] )?"
    r"(?P<host>[A-Za-z0-9][\w.-]{0,80}):(?P<pid>\d+):(?P<tid>\d+) \[(?P<dev>-?\d+)\] "
)
RANK_WORDS = re.compile(r"\[Rank (\d{1,5})\]|\[PG [^\]]{0,80}Rank (\d{1,5})\]|\[rank(\d{1,5})\]|^RANK (\d{1,5})\b")

_STAMPS = (
    re.compile(r"(?P<y>\d{4})[-/](?P<mo>\d\d)[-/](?P<d>\d\d)[T ](?P<h>\d\d):(?P<m>\d\d):(?P<s>\d\d(?:[.,]\d{1,6})?)"),
    re.compile(rf"(?P<mon>{'|'.join(_NAMES)})" r" {1,2}(?P<d>\d{1,2}) (?P<h>\d\d):(?P<m>\d\d):(?P<s>\d\d)"),
    re.compile(r"\b[EWIF](?P<mo>\d{1,2})(?P<d>\d\d) (?P<h>\d\d):(?P<m>\d\d):(?P<s>\d\d(?:\.\d{1,6})?)"),
    re.compile(r"\b(?:INFO|WARNING|ERROR|DEBUG|CRITICAL) (?P<mo>\d\d)-(?P<d>\d\d) (?P<h>\d\d):(?P<m>\d\d):(?P<s>\d\d)"),
)


@dataclass(frozen=True, slots=True)
class Spoken:
    """A line without its wrapping. `stamp` is in seconds since the start of a year (years are often not written)."""

    text: str
    shown: str  # the line as a person would quote it
    host: str = ""
    rank: int | None = None
    stamp: float | None = None
    local: int | None = None  # number of the process on its host, as torchrun puts it in front


def plain(raw: str) -> str:
    """`raw` without colours, carriage returns and the JSON envelope of Docker's log files."""
    text = ANSI.sub("", raw) if "\x1b" in raw or "\r" in raw else raw
    text = text.rstrip("\n")
    if text.startswith("{") and (envelope := _envelope(text)):
        words = [str(envelope[key]) for key in _MESSAGES if isinstance(envelope.get(key), str)][:1]
        words += [str(envelope[key]) for key in _STACKS if isinstance(envelope.get(key), str)][:1]
        return ANSI.sub("", "\n".join(words)).rstrip("\n") if words else text
    return text


def _envelope(text: str) -> dict[str, object]:
    """The object of a line of JSON; empty where it is none."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _speaker(raw: str) -> tuple[str, int | None, float | None]:
    """(host, rank, stamp) that a line of JSON names beside its message."""
    envelope = _envelope(raw.strip()) if raw.lstrip().startswith("{") else {}
    host = next((str(envelope[key]) for key in _HOSTS if isinstance(envelope.get(key), str)), "")
    rank = envelope.get("rank")
    known = rank if isinstance(rank, int) and not isinstance(rank, bool) and rank >= 0 else None
    when = next((envelope[key] for key in _TIMES if key in envelope), None)
    return host, known, _moment(when)


def _moment(value: object) -> float | None:
    """The stamp of a time as text, or as seconds, milliseconds or microseconds since 1970."""
    text = str(value)[:40]
    if not re.fullmatch(r"\d{10,16}(?:\.\d+)?", text):
        return stamp(text) if isinstance(value, str) else None
    seconds = float(text)
    while seconds > 1e11:
        seconds /= 1000
    then = time.gmtime(seconds)
    return ((then.tm_mon - 1) * 31 + then.tm_mday - 1) * 86400 + then.tm_hour * 3600 + then.tm_min * 60 + then.tm_sec


def read(raw: str) -> Spoken:
    """What one line says. Total: any text gives an answer."""
    shown = plain(raw)
    text = shown
    host, rank, outer = _speaker(raw)
    local: int | None = None
    for _ in range(6):
        for wrapping in WRAPPINGS:
            if found := wrapping.match(text):
                said = found.groupdict()
                host = said.get("host") or said.get("ip") or host
                number = next((said[k] for k in ("rank", "mpirank", "wrank", "tprank") if said.get(k)), None)
                rank = int(number) if number is not None else rank
                local = int(said["local"]) if said.get("local") else local
                text = text[found.end() :]
                break
        else:
            break
    if found := NCCL_PREFIX.match(text):
        host = found["host"] or host
    if rank is None:
        rank = _rank_in(text)
    when = stamp(shown[:400]) if outer is None else outer  # one clock for all lines of a log, not two time zones
    return Spoken(text, shown, host, rank, when, local)


def _rank_in(text: str) -> int | None:
    head = text[:240]
    if found := SGLANG_RANK.match(head):
        return int(found["rank"]) if found["rank"] else None
    if found := RANK_WORDS.search(head):
        return int(next(g for g in found.groups() if g))
    return None


def stamp(text: str) -> float | None:
    """Seconds since the start of the year in the first timestamp of `text`; None without one."""
    for pattern in _STAMPS:
        if found := pattern.search(text):
            said = found.groupdict()
            month = MONTHS[said["mon"]] if said.get("mon") else int(said["mo"])
            day, hour, minute = int(said["d"]), int(said["h"]), int(said["m"])
            if 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60:
                second = float(said["s"].replace(",", "."))
                return ((month - 1) * 31 + day - 1) * 86400 + hour * 3600 + minute * 60 + second
    return None
