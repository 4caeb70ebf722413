"""The schema of dsctl.yaml, read from reference.yml: values are defaults, remarks are rules, comments are the text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from dsctl.base.errors import ConfigError

Scalar = str | int | float | bool
LINE = re.compile(r"^(?P<indent> *)(?P<key>[a-z_]+):(?: (?P<value>[^#]*?))?(?:  # (?P<rule>.*))?$")
BOUNDS = re.compile(r"^(?P<kind>integer|number) (?P<low>-?[\d.]+?)?\.\.(?P<high>-?[\d.]+)?$")


@dataclass(frozen=True, slots=True)
class Rule:
    """What a value may be. `kind` is one of text, name, integer, number, yes/no, choice."""

    kind: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of dsctl.yaml: its dotted path, default, rule, other name and explanation."""

    path: str
    default: Scalar
    rule: Rule
    also: str
    text: str

    def check(self, value: object, where: str) -> Scalar:
        """`value` as this setting's type; ConfigError with `where`, the rule and an example otherwise."""
        rule = self.rule
        if rule.kind == "yes/no" and isinstance(value, bool):
            return value
        if rule.kind in ("integer", "number") and isinstance(value, int | float) and not isinstance(value, bool):
            return self._bounded(value, where)
        if rule.kind == "choice" and isinstance(value, str) and value in rule.choices:
            return value
        if rule.kind == "text" and isinstance(value, str):
            return value
        if rule.kind == "name" and isinstance(value, str) and re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", value):
            return value
        raise ConfigError(f"{where}: {value!r} is not {self.wanted()}", hint=f"{self.path}: {_shown(self.default)}")

    def _bounded(self, value: float, where: str) -> Scalar:
        rule = self.rule
        if rule.kind == "integer" and value != int(value):
            raise ConfigError(f"{where}: {value!r} is not {self.wanted()}", hint=f"{self.path}: {int(value)}")
        too_low = rule.low is not None and value < rule.low
        too_high = rule.high is not None and value > rule.high
        if not too_low and not too_high and value == value:  # noqa: PLR0124 - a NaN is not equal to itself
            return int(value) if rule.kind == "integer" else float(value)
        raise ConfigError(f"{where}: {value} is not {self.wanted()}", hint=f"{self.path}: {_shown(self.default)}")

    def wanted(self) -> str:
        """The rule as the end of a sentence."""
        rule = self.rule
        if rule.kind == "choice":
            return "one of " + ", ".join(rule.choices)
        if rule.kind == "name":
            return "a name of lower-case letters, digits and dashes (at most 40)"
        if rule.kind in ("integer", "number"):
            low = "" if rule.low is None else f" from {rule.low:g}"
            high = "" if rule.high is None else f" up to {rule.high:g}"
            return ("an integer" if rule.kind == "integer" else "a number") + low + high
        return {"yes/no": "true or false", "text": "a text"}[rule.kind]


@dataclass(frozen=True, slots=True)
class Schema:
    """All settings by dotted path, their sections, and the other names under which some are accepted."""

    settings: dict[str, Setting]
    sections: dict[str, str] = field(default_factory=lambda: dict[str, str]())  # name → explanation

    def alias(self, section: str, key: str) -> str | None:
        """The path a customary name stands for, at the top or in its own section."""
        for setting in self.settings.values():
            if setting.also == key and section in ("", setting.path.rpartition(".")[0]):
                return setting.path
        if section == "":
            inner = [path for path in self.settings if path.partition(".")[2] == key and path.startswith("engine.")]
            return inner[0] if inner else None
        return None

    def names(self, section: str) -> list[str]:
        """Every key that may stand in a section ("" is the top)."""
        here = [p.rpartition(".")[2] for p in self.settings if p.rpartition(".")[0] == section]
        also = [s.also for s in self.settings.values() if s.also and section in ("", s.path.rpartition(".")[0])]
        inner = [p.partition(".")[2] for p in self.settings if section == "" and p.startswith("engine.")]
        return here + also + inner + (list(self.sections) if section == "" else [])


def reference_text() -> str:
    """reference.yml as it ships."""
    return (files("dsctl.config") / "reference.yml").read_text(encoding="utf-8")


@cache
def schema() -> Schema:
    """The schema, read from reference.yml once."""
    return parse(reference_text())


def parse(text: str) -> Schema:
    """Reads a reference file; ValueError names a line that breaks its own rules (that is a defect of the file)."""
    settings: dict[str, Setting] = {}
    sections: dict[str, str] = {}
    comment: list[str] = []
    section = ""
    for line in text.splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            comment = [*comment, stripped.lstrip("# ")] if stripped else []
            continue
        found = LINE.match(line)
        if found is None:
            raise ValueError(f"reference.yml: cannot read {line!r}")
        key, value, explained = found["key"], (found["value"] or "").strip(), " ".join(comment)
        comment = []
        section = section if found["indent"] else ""
        if not value:
            section, sections[key] = key, explained
            continue
        path = f"{section}.{key}" if section else key
        rule, _, also = (found["rule"] or "text").partition("; also ")
        settings[path] = Setting(path, _scalar(value), _rule(rule), also, explained)
    return Schema(settings, sections)


def _rule(text: str) -> Rule:
    if text.startswith("one of "):
        return Rule("choice", choices=tuple(text.removeprefix("one of ").split(" | ")))
    if bounds := BOUNDS.match(text):
        low, high = bounds["low"], bounds["high"]
        return Rule(bounds["kind"], float(low) if low else None, float(high) if high else None)
    if text in ("text", "name", "integer", "number", "yes/no"):
        return Rule(text)
    raise ValueError(f"reference.yml: unknown rule {text!r}")


def _scalar(text: str) -> Scalar:
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if re.fullmatch(r"-?\d+\.\d+", text):
        return float(text)
    return text.strip('"')


def _shown(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if value != "" else '""'


def json_schema() -> dict[str, object]:
    """The same rules as JSON Schema (draft 2020-12), for editors; customary names included."""
    reference = schema()
    top: dict[str, object] = {}
    inner: dict[str, dict[str, object]] = {name: {} for name in reference.sections}
    for path, setting in reference.settings.items():
        section, _, key = path.rpartition(".")
        (inner[section] if section else top)[key] = _property(setting)
        for other in ([setting.also] if setting.also else []) + ([key] if section == "engine" else []):
            top[other] = _property(setting)
            if section and other != key:
                inner[section][other] = _property(setting)
    for name, properties in inner.items():
        top[name] = {
            "type": "object", "description": reference.sections[name],
            "properties": properties, "additionalProperties": False,
        }  # fmt: skip
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dsctl.yaml", "type": "object", "properties": top, "additionalProperties": False,
    }  # fmt: skip


def _property(setting: Setting) -> dict[str, object]:
    rule = setting.rule
    shape: dict[str, object] = {"description": setting.text, "default": setting.default}
    if rule.kind == "choice":
        return {**shape, "enum": list(rule.choices)}
    shape["type"] = {"yes/no": "boolean", "text": "string", "name": "string"}.get(rule.kind, rule.kind)
    if rule.low is not None:
        shape["minimum"] = rule.low
    if rule.high is not None:
        shape["maximum"] = rule.high
    return shape
