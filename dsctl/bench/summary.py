"""A run in words: one screen for a terminal, Markdown for a pull request; the verdict first, then its figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dsctl.base.units import seconds
from dsctl.bench import metrics
from dsctl.bench.compare import Comparison, Effect

COLUMNS = ("n", "mean", "p50", "p90", "p95", "p99", "p999", "max")
HEADINGS = {"p999": "p99.9"}
HEADLINE = " ◀"
OPEN_ROWS = ("ttft_sched", "ttft", "tpot", "itl", "icl", "e2e_sched", "e2e")
CLOSED_ROWS = ("ttft", "tpot", "itl", "icl", "e2e")
CLOSED_WARNING = (
    "closed loop: users wait for answers, so latency under overload is flattered; use an open load for that"
)
MARKS = {"pass": "✅", "fail": "❌", "invalid": "⚠️", "unknown": "❔", "measured": "📏"}


def screen(told: dict[str, Any]) -> str:
    """One screen for a terminal, about run.json as it is."""
    lines = [f"{told['verdict'].upper()}  {title(told)}", *(f"  {reason}" for reason in told["reasons"]), ""]
    if told["verdict"] == "invalid":
        lines[-1:] = ["", "the figures below prove nothing:"]
    table = _columns([("milliseconds", *(HEADINGS.get(name, name) for name in COLUMNS)), *rows(told)])
    lines += [*table, "", *(f"{name:<12}{words}" for name, words in facts(told)), ""]
    lines += [f"{name} = {formula}" for name, formula in formulas(told)]
    return "\n".join(line.rstrip() for line in lines)


def title(told: dict[str, Any]) -> str:
    """What was measured, in one line."""
    config = told["config"]
    where = f"{config.get('model') or 'model'} at {config.get('url') or 'the service'}"
    length = told["window"]["end"] - told["window"]["start"]
    partial = ", interrupted" if told.get("is_partial") else ""
    return f"{where}, {load(told)}, {seconds(length)} measured{partial}"


def load(told: dict[str, Any]) -> str:
    """The load in words."""
    config = told["config"]
    targets = [stage["target"] for stage in told["stages"]]
    what = "users" if told["mode"] == "closed" else "requests/s"
    levels = " → ".join(f"{target:g}" for target in targets[:6]) + (" …" if len(targets) > 6 else "")
    kind = config.get("load", "")
    return f"{told['mode']} loop ({kind}) {levels} {what}".replace(" () ", " ")


def rows(told: dict[str, Any]) -> list[tuple[str, ...]]:
    """Latencies as cells: the plain form, and the one with failures as +∞ where requests failed."""
    shown = OPEN_ROWS if told["mode"] == "open" else CLOSED_ROWS
    found: list[tuple[str, ...]] = []
    for name in shown:
        for form in (name, f"{name}_all"):
            summary = told["metrics"].get(form)
            if summary is None or (form != name and summary["n"] == (told["metrics"].get(name) or {"n": 0})["n"]):
                continue
            mark = HEADLINE if form == told["headline"] else ""
            found.append((form + mark, str(summary["n"]), *(milliseconds(summary[column]) for column in COLUMNS[1:])))
    return found


def milliseconds(value: float | str | None) -> str:
    """Seconds as milliseconds with four digits; n/a where there are too few samples, ∞ where requests failed."""
    if value is None:
        return "n/a"
    if isinstance(value, str):
        return "∞"
    scaled = value * 1000
    return f"{scaled:.0f}" if abs(scaled) >= 1000 else f"{scaled:.4g}"


def facts(told: dict[str, Any]) -> list[tuple[str, str]]:
    """What else a reader has to know: throughput, goodput, how requests ended, how the client fared."""
    found = [("throughput", _throughput(told["throughput"]))]
    if told["goodput"]:
        found.append(("goodput", _goodput(told["goodput"])))
    found += [("slo", f"{one['outcome']}: {one['words']}") for one in told["slo"]]
    found += [("requests", _requests(told["counts"])), ("client", _client(told["self_check"]))]
    found += [("note", note) for note in notes(told)]
    return found


def notes(told: dict[str, Any]) -> list[str]:
    """What limits the figures."""
    found = list(told.get("notes", ()))
    if told["mode"] == "closed":
        found.append(CLOSED_WARNING)
    lacking = sorted({p for name in metrics.BY_NAME for p in ("p50", "p99") if _lacks(told, name, p)})
    if lacking:
        found.append(f"n/a: a percentile needs n ≥ 10/(1 − p); too few requests for {', '.join(lacking)}")
    return found


def _lacks(told: dict[str, Any], name: str, p: str) -> bool:
    summary = told["metrics"].get(name)
    return summary is not None and name != "connect" and summary[p] is None


def formulas(told: dict[str, Any]) -> list[tuple[str, str]]:
    """The formula of each metric that is shown."""
    known: dict[str, str] = told["definitions"]
    shown = [row[0].removesuffix(HEADLINE) for row in rows(told)]
    found = [(name, known[name]) for name in shown if name in known]
    return found + ([("*_all", known["*_all"])] if any(name.endswith("_all") for name in shown) else [])


def _throughput(told: dict[str, Any]) -> str:
    found = ", ".join(f"{rate(told[f'{name}_per_s'])} {name.replace('_', ' ')}/s" for name in _RATES)
    lost = told["tokens_unknown_events"]
    return found + (f" (and {lost} token events of unknown size, in no token rate)" if lost else "")


_RATES = ("requests", "output_tokens", "input_tokens")


def rate(value: float | None) -> str:
    """A rate with four digits, or n/a."""
    return "n/a" if value is None else f"{value:.4g}"


def _goodput(told: dict[str, Any]) -> str:
    limits = ", ".join(f"{name} ≤ {milliseconds(limit)} ms" for name, limit in told["limits"].items())
    if told["attainment"] is None or told["per_second"] is None:
        return f"n/a: no request was measured ({limits})"
    low, high = told["wilson95"]
    share = f"{told['attainment']:.2%} of {told['attempted']} (95 % interval {low:.2%} – {high:.2%})"
    return f"{told['per_second']:.4g} requests/s met {limits}: {share}"


def _requests(told: dict[str, int]) -> str:
    names = [name for name in told if name not in ("measured", "warmup", "tpot_undefined", "usage_missing")]
    shown = [f"{told[name]} {name}" for name in names if told[name] or name == "ok"]
    aside = [f"{told[name]} {words}" for name, words in _ASIDE.items() if told[name]]
    return ", ".join(shown) + (f"; {', '.join(aside)}" if aside else "")


_ASIDE = {
    "warmup": "warm-up (not measured)",
    "tpot_undefined": "without a tpot",
    "usage_missing": "without the server's count",
}


def _client(told: dict[str, Any]) -> str:
    found = [f"loop lag p99 {milliseconds(told['loop_lag_p99'])} ms", f"CPU {told['cpu']:.0%} of a core"]
    if told["target_rate"] is not None:
        lag, limit = milliseconds(told["send_lag_p99"]), milliseconds(told["send_lag_limit"])
        found.append(f"send lag p99 {lag} ms (limit {limit})")
        found.append(f"{told['achieved_rate'] or 0:.4g} of {told['target_rate']:.4g} requests/s")
    for name, words in (("server_restarts", "server restarts"), ("workers_lost", "workers lost")):
        if told[name]:
            found.append(f"{told[name]} {words}")
    return ", ".join(found)


def _columns(table: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns: names to the left, figures to the right."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in table]
    return ["  ".join([row[0].ljust(widths[0]), *line[1:]]) for row, line in zip(table, lines, strict=True)]


def markdown(told: dict[str, Any]) -> str:
    """The same as Markdown, for a CI summary."""
    lines = [f"### {MARKS.get(told['verdict'], '')} bench: {told['verdict']}", "", _plain(title(told)), ""]
    lines += [f"- {_plain(reason)}" for reason in told["reasons"]]
    lines += ["", *_table([("ms", *(HEADINGS.get(name, name) for name in COLUMNS)), *rows(told)]), ""]
    lines += [f"- **{name}**: {_plain(words)}" for name, words in facts(told)]
    lines += ["", "<details><summary>formulas</summary>", ""]
    lines += [f"- `{name}` = {_plain(formula)}" for name, formula in formulas(told)]
    return "\n".join([*lines, "", "</details>", ""])


def comparison(told: Comparison, a: str, b: str) -> str:
    """A comparison for a terminal: a line a metric, and what it means together."""
    table = [
        ("metric", "A", "B", "change", "interval", "detectable", "verdict"),
        *(_cells(one) for one in told.effects),
    ]
    lines = [f"A = {a}", f"B = {b}", "", *_columns([tuple(row) for row in table]), ""]
    lines += [f"{one.word}: {one.words}" for one in told.effects if one.is_gated or one.word in ("worse", "improved")]
    lines += [f"note: {note}" for note in told.notes]
    return "\n".join(line.rstrip() for line in [*lines, conclusion(told)])


def conclusion(told: Comparison) -> str:
    """The last line of a comparison."""
    gates = sum(one.is_gated for one in told.effects)
    if told.regressions:
        return f"WORSE: {', '.join(one.name for one in told.regressions)}"
    if told.undecided:
        return f"INCONCLUSIVE: {', '.join(one.name for one in told.undecided)}"
    words = {word: [one.name for one in told.effects if one.word == word] for word in ("worse", "improved")}
    if gates:
        return f"PASS: none of {gates} metrics is worse by more than allowed (alpha {told.alpha:g})"
    said = [f"{word}: {', '.join(names)}" for word, names in words.items() if names]
    return "; ".join(said) or f"no difference was found (alpha {told.alpha:g})"


def comparison_markdown(told: Comparison, a: str, b: str) -> str:
    """A comparison as Markdown."""
    table = [
        ("metric", "A", "B", "change", "interval", "detectable", "verdict"),
        *(_cells(one) for one in told.effects),
    ]
    lines = [
        f"### bench compare: {conclusion(told)}",
        "",
        f"A = `{_plain(a)}`, B = `{_plain(b)}`",
        "",
        *_table(table),
        "",
    ]
    return "\n".join([*lines, *(f"> {_plain(note)}" for note in told.notes), ""])


def _cells(effect: Effect) -> tuple[str, ...]:
    in_seconds = effect.name.rpartition("_")[2].startswith("p")
    one, other = (_value(value, in_seconds, effect.name) for value in (effect.a, effect.b))
    span = "n/a" if effect.low is None or effect.high is None else f"{effect.low:+.1%} … {effect.high:+.1%}"
    change, least = (_percent(value) for value in (effect.change, effect.detectable))
    name = f"{effect.name} ≤ {effect.threshold:.1%}" if effect.is_gated else effect.name
    return name, one, other, change, span, least.lstrip("+"), effect.word


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value:+.1%}"


def _value(value: float | None, in_seconds: bool, name: str) -> str:
    if value is None:
        return "n/a"
    if name == "error_rate":
        return f"{value:.2%}"
    return f"{milliseconds(metrics.number(value))} ms" if in_seconds else f"{value:.4g}/s"


def _table(table: Iterable[Sequence[str]]) -> list[str]:
    heading, *body = ([_plain(cell) for cell in row] for row in table)
    rule = [":--", *["--:"] * (len(heading) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (heading, rule, *body)]


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: a model's or file's name cannot open a table, a tag or a link."""
    for mark in "\\`*_[]|<>":
        text = text.replace(mark, f"&#{ord(mark)};")
    return text.replace("\n", " ")


def bracket(told: dict[str, Any]) -> str:
    """The result of a search for a terminal: the bracket first, then every level."""
    unit = told["unit"]
    passed, failed = told["last_pass"], told["first_fail"]
    if passed is None:
        head = f"NOTHING PASSED: {failed:g} {unit} already miss the objectives"
    elif failed is None:
        head = f"AT LEAST {passed:g} {unit} within the objectives"
    else:
        head = f"[{passed:g}, {failed:g}] {unit}: {passed:g} within the objectives, {failed:g} no longer"
    table = [(unit, "outcome", "met all limits", "of", "good/s"), *(_level(one) for one in told["levels"])]
    reasons = [f"{one['level']:g}: {one['reason']}" for one in told["levels"] if one["outcome"] == "fail"]
    notes = [f"note: {note}" for note in told["notes"]]
    return "\n".join([head, "", *_columns(table), "", *reasons, *notes, f"every run: {told['folder']}"])


def _level(told: dict[str, Any]) -> tuple[str, ...]:
    share, low, high = f"{told['attainment']:.2%}", *(f"{bound:.2%}" for bound in told["wilson95"])
    return (
        f"{told['level']:g}",
        told["outcome"],
        f"{share} ({low} – {high})",
        str(told["attempted"]),
        rate(told["goodput"]),
    )
