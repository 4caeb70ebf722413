"""Names the exception that ended a program when no rule of the catalogue knows it: who raised it, where, and what to try."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from dsctl.doctor.hints import hint
from dsctl.doctor.model import Case, Evidence, Finding, LogSource, at_least
from dsctl.doctor.rules import catalogue
from dsctl.facts.logtext import Spoken, read

LAST = 5  # depth of rules that are only the last words of a program
BACK_LINES = 400  # how far before the last words the exception may stand
TAIL_LINES = 40  # an exception that ends a log stands in its last lines
SAME_CRASH_S = 300.0

_LEVEL = re.compile(
    r"^(?:\[[^\]\n]{8,40}\] )?(?:(?:ERROR|CRITICAL|WARNING|INFO):? +)?(?:\d\d-\d\d \d\d:\d\d:\d\d(?:[.,]\d+)? )?"
    r"(?:\[[\w./]+:\d+\]|[\w./]+:\d+\]) ?"
)
_EXCEPTION = re.compile(r"^(?P<type>(?:\w+\.)*[A-Z]\w*(?:Error|Exception|Exit|Failure|Timeout))(?:: ?(?P<words>.*))?$")
_FRAME = re.compile(r'File "(?P<path>[^"\n]+)", line (?P<line>\d+), in (?P<name>[\w<>.]+)')
_INNER = re.compile(r"[Ww]orker failed with error '(?P<words>.{3,400}?)'(?:,|$)")
_CLIENTS = re.compile(
    r"maximum context length is|longer than the (?:maximum model|model.s context) length|Bad Request|Invalid HTTP request"
)  # a refused request ends no program
_WRAPPER = re.compile(
    r"EngineDeadError|AsyncEngineDeadError|EngineCore encountered|[Ee]ngine core initialization failed|WorkerProc initialization failed"
    r"|ChildFailedError|SystemExit|KeyboardInterrupt|CancelledError|RayTaskError|RPC call to|RayActorError|ActorDiedError|BrokenPipeError|EOFError: *$"
)
_OTHERS = tuple(  # what programs that are not Python say when they end
    (type_, re.compile(pattern))
    for type_, pattern in (
        ("C++ exception", r"^\s*what\(\): +(?P<words>.{3,400})$"),
        ("panic", r"^(?:panic: |thread '[^']{1,60}' panicked at )(?P<words>.{3,400})$"),
        ("Docker's error", r"Error response from daemon: (?P<words>.{3,400})$"),
        ("Kubernetes event", r"^\s*Warning\s+(?:Failed\w*|InspectFailed|NetworkNotReady)\s.*?(?:kubelet|scheduler|controller)\S*,?\s+(?P<words>.{3,300})$"),
        ("command line error", r"^(?:[\w./-]{1,60}(?: serve| bench| run)?): error: (?P<words>.{3,400})$"),
        ("refused configuration", r"^\s*Value error, (?P<words>.{3,400}?)(?: \[type=\w+.*)?$"),
        ("fatal error", r"^(?:[\w./-]{1,60}: )?(?:FATAL|[Ff]atal(?: error)?):? +(?P<words>(?!Python).{3,300})$"),
    )
)  # fmt: skip
_LOGGED = re.compile(r"\b(?:ERROR|CRITICAL)\b")
_LOG_LINE = re.compile(r"\b(?:INFO|DEBUG)\b")
_OTHER = "Search for the message in the engine's issues for exactly this version; update to its newest patch release; leave out the option or feature that the traceback passes through."
_ASKS = re.compile(
    r"(?:[Pp]lease|[Tt]ry|Consider|To fix this|[Mm]ake sure|[Yy]ou (?:can|should|need)|[Ss]et the)\b[^.\n]{8,200}"
)
_DIVIDES = re.compile(
    r"(?:self\.|\b)(?P<a>[\w.]+) ?% ?(?:self\.)?(?P<b>[\w.]+)(?:\(\))? == 0|(?P<a2>\w+) (?:must|should) be divisible by (?P<b2>\w+)"
)
_ADVICE: tuple[tuple[str, str], ...] = (
    (r"Docker's error", "The quoted words are Docker's own: check the image, path, device, port or runtime they name on that host (`docker info`, `journalctl -u docker -n 50`), then start the container again."),
    (r"Kubernetes event", "`kubectl describe pod` and `kubectl get events` on that pod: correct what the quoted words name (image, secret, volume, node), then delete the pod so that it is made anew."),
    (r"C\+\+ exception|panic|fatal error", "Native code stopped here: install engine, torch and extensions as one matching set (the engine's image), then search for the quoted words in its issues for this version."),
    (r"AttributeError|TypeError|ImportError|ModuleNotFoundError", "Packages of different generations meet here: install the versions that the engine pins (`pip check`; transformers, tokenizers and torch first), in a clean environment or the engine's own image."),
    (r"command line error|refused configuration", "Correct the option that the message names (`--help` of the installed version lists names and values), and start again."),
    (r"ValueError|ValidationError|AssertionError|NotImplementedError|ConfigError|ArgumentError", "The program refuses a setting, a file or a card: change the option or file that the message names (`--help` of the installed version lists what is allowed); if it is about the model, use an engine release that lists it."),
    (r"KeyError|IndexError", "What is looked up is missing in the data or configuration: compare the file that the traceback reads with what the program expects (names of columns, keys, layers)."),
    (r"FileNotFoundError|NotADirectoryError|IsADirectoryError|PermissionError|OSError", "`ls -lL` the path that the message names, as the user of the process and inside the container."),
    (r"Connection\w*Error|Timeout\w*|ConnectError|RemoteDisconnected|HTTP\w*Error", "Check that the other side runs and is reachable from this host and container (`curl -v`, `nc -vz HOST PORT`); look at its own log at this time."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Crash:
    """An exception in a log: its line, its words, and the frame that raised it."""

    number: int
    said: Spoken
    type: str
    words: str
    frame: str = ""
    package: str = ""


def find(case: Case, found: list[Finding]) -> list[Finding]:
    """The exception that ended the program, where nothing known explains it. Empty where a known cause was found."""
    if any(f.rule.depth < LAST and at_least(f.severity, "critical") for f in found):
        return []
    crashes: list[Finding] = []
    for source in case.sources.values():
        ends = [f for f in found if f.rule.depth >= LAST and source.name in f.files]
        crash = _before(source, ends) if ends else _at_end(source)
        if crash is not None and not _is_told(crash, found):
            crashes.append(_finding(source, crash, "The program ended on" if ends else "The log ends on"))
    return sorted(crashes, key=lambda f: (f.first or 0.0, f.evidence[0].line))[:1]


def _is_told(crash: Crash, found: list[Finding]) -> bool:
    """True when a rule has judged that very line already."""
    rules = {f.rule.id: f.rule for f in found if f.rule.depth < LAST and f.rule.literals}
    text = crash.said.text
    low = text.lower()
    known = any(any(word in low for word in rule.literals) and rule.regex.search(text) for rule in rules.values())
    return known or any(
        e.text == crash.said.shown.strip()[:600] for f in found for e in f.evidence if f.rule.id in rules
    )


def _lines(source: LogSource) -> tuple[int, list[Spoken]]:
    """(number of the first kept line, the last lines of a log without wrapping)."""
    raw = source.tail.splitlines()[-(BACK_LINES * 8) :]
    return source.lines - len(raw) + 1, [read(line[:4000]) for line in raw]


def _before(source: LogSource, ends: list[Finding]) -> Crash | None:
    """The first exception of the crash whose last words are `ends`."""
    first, lines = _lines(source)
    last = max(e.line for f in ends for e in f.evidence if e.file == source.name)
    start = min(e.line for f in ends for e in f.evidence if e.file == source.name)
    stamp = next((f.first for f in ends if f.first is not None), None)
    for crash in _crashes(first, lines):
        if crash.number < start - BACK_LINES or crash.number > last + TAIL_LINES:
            continue
        if stamp is not None and crash.said.stamp is not None and abs(crash.said.stamp - stamp) > SAME_CRASH_S:
            continue
        return crash
    return None


def _at_end(source: LogSource) -> Crash | None:
    """An error after which the log says nothing more of normal work."""
    first, lines = _lines(source)
    for crash in reversed(list(_crashes(first, lines))):
        rest = lines[crash.number - first + 1 :]
        if len(rest) <= TAIL_LINES and not any(_LOG_LINE.search(said.text[:80]) for said in rest):
            return crash
        break
    return None


def _crashes(first: int, lines: list[Spoken]) -> Iterator[Crash]:
    """Every uncaught-looking exception: a line `Type: words` under a traceback, wrappers left out."""
    trace = -1_000
    frame = package = ""
    for at, said in enumerate(lines):
        text = _LEVEL.sub("", said.text, count=1)
        if "Traceback (most recent call last)" in text:
            trace = at
        elif crash := _other(first + at, said, text):
            yield crash
        elif frames := _FRAME.search(text):
            trace, frame, package = (
                at,
                f"{frames['name']} ({frames['path']}:{frames['line']})",
                _package(frames["path"]),
            )
        elif (match := _EXCEPTION.match(text)) and (
            at - trace <= 40
            or _INNER.search(text)
            or (match["words"] and at >= len(lines) - 8 and text == said.text)
            or (match["words"] and text != said.text and _LOGGED.search(said.text[:80]))
        ):
            inner = _INNER.search(text)
            if inner is None and (_WRAPPER.search(text) or _CLIENTS.search(text)):
                continue
            words = inner["words"] if inner else match["words"] or _asserted(lines[max(0, at - 3) : at])
            if re.search(r"validation errors? for \w+$", words):  # the field and what is wrong with it stand below
                words = " ".join([words, *(line.text.strip() for line in lines[at + 1 : at + 3])])
            if not words.strip() or words.rstrip().endswith(("ModelConfig", "EngineArgs", "Config", "ServerArgs")):
                words = f"{words} {lines[at + 1].text.strip() if at + 1 < len(lines) else ''}".strip()
            yield Crash(first + at, said, match["type"].rsplit(".", 1)[-1], words[:400], frame, package)


def _asserted(lines: list[Spoken]) -> str:
    """The source line of an exception that says nothing itself: what was asserted or raised."""
    for said in reversed(lines):
        text = _LEVEL.sub("", said.text, count=1).strip()
        if text and not set(text) <= set("^~ ") and not _FRAME.search(text):
            return text
    return ""


def _other(number: int, said: Spoken, text: str) -> Crash | None:
    for type_, pattern in _OTHERS:
        if found := pattern.search(text):
            return Crash(number, said, type_, found["words"].strip())
    return None


def _package(path: str) -> str:
    """The installed package of a source file; its last part where it is not installed."""
    found = re.search(r"(?:site|dist)-packages/(?P<name>\w+)", path)
    return found["name"] if found else path.rsplit("/", 1)[-1]


def advice(type_: str, words: str = "") -> str:
    """What to try for an exception of that type with these words."""
    if found := _DIVIDES.search(words):
        return (
            f"{found['a'] or found['a2']} must be a whole multiple of {found['b'] or found['b2']}: choose the sizes so that they divide each other. tp_size: --tp / --tensor-parallel-size; "
            "dp_size: --dp / --data-parallel-size (SGLang with --enable-dp-attention: it divides --tp); ep_size or experts: --ep / --enable-expert-parallel (256 routed "
            "experts of V3/R1 and 64 of V2-Lite divide by powers of two; redundant experts count); page_size and chunked prefill: powers of two."
        )
    if way := hint(words):
        return way
    told = _ASKS.search(words)
    own = f"The message itself names the way: «{told[0].strip()}». " if told else ""
    return own + next((text for pattern, text in _ADVICE if re.fullmatch(pattern, type_)), _OTHER)


def _finding(source: LogSource, crash: Crash, how: str) -> Finding:
    rule = catalogue()["EXCEPTION"]
    where = f", raised by {crash.frame}" if crash.frame else ""
    said = crash.said
    rank = next((r for r in (said.rank, source.rank) if r is not None), None)
    finding = Finding(
        rule, f"{how} {crash.type}: {crash.words[:120]}", f"{crash.type}: «{crash.words}»{where}. It is the first error of the crash; what follows are its effects.",
        advice(crash.type, crash.words), rule.verify, rule.severity, said.host or source.host, ranks=(rank,) if rank is not None else (),
        evidence=[Evidence(source.name, crash.number, said.shown.strip()[:600])],
    )  # fmt: skip
    finding.first = finding.last = said.stamp
    finding.files = {source.name}
    return finding
