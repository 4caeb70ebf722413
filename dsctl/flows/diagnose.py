"""`dsctl doctor`: read what there is, judge every rule, tell one story per incident."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from dsctl.base.errors import UsageError
from dsctl.base.missing import Missing
from dsctl.doctor import bundle, clocks, context, judge, lastwords, live, ranks, recent, serving, stories
from dsctl.doctor.markdown import as_markdown
from dsctl.doctor.model import SEVERITIES, Case, Finding, Rule, Severity, at_least
from dsctl.doctor.redact import redacted
from dsctl.doctor.report import Diagnosis
from dsctl.doctor.rules import catalogue
from dsctl.facts.logscan import Scan, scan
from dsctl.flows import checkup, fleetlook, hostcheck, logreading
from dsctl.flows.hostcheck import Fleet
from dsctl.flows.logreading import Told
from dsctl.reach import bundles, logfiles, vitals

DEEP = (
    "deep.memory", "deep.disk", "deep.front", "deep.gpu", "deep.gloo", "deep.nccl", "deep.kernels", "deep.network",
)  # fmt: skip
NOT_DEEP = "this is an active test (--deep)"


@dataclass(frozen=True, slots=True)
class Wish:
    """What to look at. Without logs this machine is looked at."""

    logs: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    live: bool = False
    since: str = ""  # 1h, 30m, 2d: only what the logs say in their last hours
    bundle: str = ""  # a file made with --out, judged instead of logs and machine
    hosts: str = ""  # hosts or groups of the inventory to look at over SSH
    sample_s: float = 0.0  # seconds between two looks at counters; 0: one look


def severity(text: str, option: str) -> Severity:
    """A severity by name; UsageError with the names otherwise."""
    if text not in SEVERITIES:
        raise UsageError(f"{option} {text}: choose {', '.join(SEVERITIES)}", hint=f"{option} critical")
    return text


def selected(only: tuple[str, ...]) -> dict[str, Rule]:
    """The rules to judge; UsageError with the nearest name for one that does not exist."""
    rules = catalogue()
    wanted = [name.strip().upper() for text in only for name in text.split(",") if name.strip()]
    for name in wanted:
        rule_named(name)
    return {key: rules[key] for key in rules if not wanted or key in wanted}


def rule_named(name: str) -> Rule:
    """A rule by its id, in any case of letters."""
    rules = catalogue()
    if found := rules.get(name.upper()):
        return found
    near = get_close_matches(name.upper(), rules, n=3, cutoff=0.5)
    hint = f"dsctl doctor explain {near[0]}" if near else "dsctl doctor rules"
    raise UsageError(f"there is no rule {name}", hint=hint)


def diagnose(wish: Wish, told: Told | None = None) -> Diagnosis:
    """Reads, judges and tells. UsageError for a log or a configuration that cannot be read."""
    return judged(gathered(wish, told), wish)


@dataclass(slots=True)
class Gathered:
    """The evidence of one diagnosis and what was looked at for it."""

    case: Case
    host: str
    looked: list[str]
    passed: list[tuple[str, str]]
    unanswered: list[tuple[str, str]]
    fleet: Fleet = field(default_factory=Fleet)
    measured: list[str] = field(default_factory=lambda: list[str]())


def gathered(wish: Wish, told: Told | None = None) -> Gathered:
    """Reads everything that is to be looked at. UsageError for a log, bundle or configuration that cannot be read."""
    rules = selected(wish.only)
    since_s = _since(wish.since)
    if wish.bundle:
        return _unpacked(wish)
    scans, passed, unanswered, flights = logreading.read(wish.logs, told)
    case = context.build(scans)
    if flights:
        case.facts["flight"] = flights
    case.missing |= dict.fromkeys(DEEP, NOT_DEEP)
    _configure(case, wish.config)
    looked = [f"{s.file} ({s.lines} lines)" for s in scans] + [f"{f.file} (flight recorder)" for f in flights]
    if not wish.logs:
        case.missing |= dict.fromkeys(context.KINDS, "no log was given (--logs FILE)")
    fleet = fleetlook.look(wish.hosts, since_s) if wish.hosts else Fleet()
    if is_about_here(wish):
        looked += _look_live(case, scans, since_s, wish.sample_s)
    else:
        _not_live(case, rules)
    if since_s is not None and wish.logs:
        dropped = recent.keep(case, since_s)
        passed.append(
            (f"{dropped} lines that may matter", f"older than {wish.since} before the logs' newest line (--since)")
        )
    looked += [f"host {name}" for name in fleet.cases]
    unanswered += [(f"host {name}", why) for name, why in fleet.silent.items()]
    for one in fleet.cases.values():
        case.hits += one.hits
        case.sources |= one.sources
        one.missing = dict.fromkeys(DEEP, NOT_DEEP) | one.missing
    _add(case, hostcheck.together(fleet))
    return Gathered(case, vitals.host(), looked, passed, unanswered, fleet)


def _add(case: Case, facts: Mapping[str, object]) -> None:
    """Facts that are there are no longer missing."""
    case.facts |= facts
    for name in facts:
        case.missing.pop(name, None)


def judged(seen: Gathered, wish: Wish) -> Diagnosis:
    """What the evidence says."""
    rules = selected(wish.only)
    found = _judge(seen, rules)
    fired = {f.rule.id for root in found for f in _flat(root)}
    verdicts = fleetlook.verdicts(
        seen.case, seen.fleet.cases, fired, rules.values(), is_local=wish.live or not wish.hosts
    )
    return Diagnosis(found, verdicts, seen.looked, seen.passed, seen.unanswered, seen.measured)


def save(seen: Gathered, diagnosis: Diagnosis, path: str) -> None:
    """Everything that was looked at as one file without secrets (`--out`), for `--from` elsewhere."""
    value = bundle.to_json(seen.case, seen.host)
    value["hosts"] = {name: bundle.to_json(one, name) for name, one in seen.fleet.cases.items()}
    value |= {
        "looked_at": seen.looked,
        "passed_over": seen.passed,
        "unanswered": seen.unanswered,
        "measured": seen.measured,
    }
    bundles.write(Path(path), cast("dict[str, Any]", redacted(value)), as_markdown(diagnosis, "info"))


def _unpacked(wish: Wish) -> Gathered:
    if wish.logs or wish.live or wish.hosts:
        raise UsageError(
            "--from stands alone: the bundle holds what was looked at", hint=f"dsctl doctor --from {wish.bundle}"
        )
    value = bundles.read(Path(wish.bundle))
    try:
        case, host = bundle.from_json(value)
        remote = cast("dict[str, dict[str, Any]]", value.get("hosts") or {})
        fleet = Fleet({name: bundle.from_json(one)[0] for name, one in sorted(remote.items())})
        told = [
            [(str(a), str(b)) for a, b in cast("list[list[str]]", value.get(key) or [])]
            for key in ("passed_over", "unanswered")
        ]
        looked = [str(name) for name in cast("list[object]", value.get("looked_at") or [])]
        measured = [str(line) for line in cast("list[object]", value.get("measured") or [])]
    except (ValueError, TypeError) as problem:
        raise UsageError(
            f"--from {wish.bundle}: {problem}", hint="make it again with the same version of dsctl"
        ) from problem
    _configure(case, wish.config)
    return Gathered(case, host, [f"bundle {wish.bundle}", *looked], told[0], told[1], fleet, measured)


def is_about_here(wish: Wish) -> bool:
    """True when this machine is looked at."""
    return wish.live or not (wish.logs or wish.hosts or wish.bundle)


def require_machines(wish: Wish, option: str) -> None:
    """UsageError where no machine was looked at: nothing is tested or repaired for somebody else's log."""
    if wish.bundle or not (wish.hosts or is_about_here(wish)):
        raise UsageError(
            f"{option} is about machines, and only logs were to be looked at",
            hint=f"dsctl doctor {option}, or add --live or --hosts",
        )


def duration(text: str, option: str) -> float:
    """Seconds of `10s`, `15m`, `1h`, `2d`; 0 for nothing. UsageError for anything else."""
    if not text:
        return 0.0
    seconds = recent.span(text)
    if seconds is None:
        raise UsageError(f"{option} {text}: a number with s, m, h or d is expected", hint=f"{option} 1h")
    return seconds


def _since(text: str) -> float | None:
    return duration(text, "--since") if text else None


def _flat(finding: Finding) -> list[Finding]:
    return [finding, *(f for child in finding.children for f in _flat(child))]


def _judge(seen: Gathered, rules: dict[str, Rule]) -> list[Finding]:
    """All rules are judged, so that causes are known; then what was not asked for is left out."""
    case = seen.case
    found = judge.findings(case, judge.matches(case, catalogue().values()))
    found += live.findings(case, seen.host)
    for name, one in seen.fleet.cases.items():
        found += live.findings(one, name, f"host {name}")
    guilty = ranks.analyse(case)
    for finding in found:
        if finding.rule.id == "NCCL-TIMEOUT" and not guilty:
            finding.cause += ranks.lonely(case)
    found += guilty
    found += lastwords.find(case, found)
    ahead = clocks.align(case, found)
    told = stories.tell(found)
    clocks.note(told, ahead)
    if len(rules) == len(catalogue()):
        return told
    return [f for root in told for f in _flat(root) if f.rule.id in rules]


def exit_is_failure(diagnosis: Diagnosis, fail_on: Severity) -> bool:
    """True when a finding is at or above `fail_on`."""
    worst = diagnosis.worst()
    return worst is not None and at_least(worst, fail_on)


def total_bytes(wish: Wish) -> int | None:
    """The size of the logs, for a progress bar; None where it shows only while they are read (pipes, packed files)."""
    files = logfiles.expand(list(wish.logs))[0] if not wish.bundle else []
    if not all(logfiles.is_sized(file) for file in files):
        return None
    return sum(file.size for file in files)


def _configure(case: Case, configs: tuple[str, ...]) -> None:
    """The configuration goes before what the logs say about it."""
    for text in configs:
        found, shape = _one_config(text)
        case.settings = {**case.settings, **found}
        case.shape = shape or case.shape
        case.origin = "--config"
    model = Path(case.settings.get("model", "")) / "config.json"
    if not case.shape and case.settings.get("model") and model.is_file():
        case.shape = _one_config(str(model))[1]


def _one_config(text: str) -> tuple[dict[str, str], dict[str, object]]:
    """(serving options, the model's config.json) from a file or from options given in the command line."""
    path = Path(text)
    try:
        is_file = len(text) < 4096 and path.is_file()
    except (OSError, ValueError):
        is_file = False
    if not is_file:
        if "-" not in text and "=" not in text:
            raise UsageError(
                f"--config {text}: there is no such file, and it is not a list of engine options",
                hint="--config dsctl.yaml, or --config '--max-model-len 8192'",
            )
        return serving.from_command(text), {}
    content = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix in (".yaml", ".yml", ".json"):
        return _structured(content, text)
    found = serving.from_command(content)
    return found or serving.from_repr(content), {}


def _structured(content: str, name: str) -> tuple[dict[str, str], dict[str, object]]:
    import yaml

    try:
        loaded: object = yaml.safe_load(content)
    except yaml.YAMLError as problem:
        raise UsageError(f"--config {name}: not valid YAML or JSON", why=str(problem)) from problem
    if not isinstance(loaded, dict):
        raise UsageError(f"--config {name}: a mapping is expected", hint="see `dsctl config schema`")
    table = cast("dict[str, object]", loaded)
    if "num_hidden_layers" in table or "model_type" in table:
        return {}, table
    return serving.canonical(dict(_leaves(table))), {}


def _leaves(value: dict[str, object]) -> Iterator[tuple[str, object]]:
    """Every setting at any depth; lists (a container's `command`) are read as command lines."""
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _leaves(cast("dict[str, object]", inner))
        elif isinstance(inner, list):
            yield from serving.from_command(" ".join(str(word) for word in cast("list[object]", inner))).items()
        else:
            yield str(key), inner


def _look_live(case: Case, scans: list[Scan], since_s: float | None, sample_s: float) -> list[str]:
    """This machine's facts, and its kernel's log of the last day."""
    looked = checkup.look(case, sample_s)
    kernel = checkup.kernel_log(since_s)
    if isinstance(kernel, Missing):
        case.missing["kernel log"] = kernel.reason
        return looked
    found = scan("/dev/kmsg", [kernel.encode()], logreading.scanner())
    scans.append(found)
    case.hits += found.hits
    case.sources["/dev/kmsg"] = replace(context.source(found), kinds=frozenset({"kernel log"}), host=vitals.host())
    return [*looked, "/dev/kmsg of the last day" if since_s is None else "/dev/kmsg since then"]


def _not_live(case: Case, rules: dict[str, Rule]) -> None:
    for rule in rules.values():
        for need in rule.needs:
            if not need.endswith(" log"):
                case.missing.setdefault(need, "this machine was not looked at (--live)")
