"""dsctl.yaml → dotted settings: every key known, given once, of the right kind; errors carry file, line and path."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, cast

from dsctl.base.errors import ConfigError
from dsctl.config.schema import Scalar, Schema, schema

if TYPE_CHECKING:
    from yaml import MappingNode, Node

SIZE_LIMIT = 1 << 20  # bytes; a larger file is not a configuration


def read(path: Path) -> dict[str, Scalar]:
    """The settings a file gives, by dotted path; defaults are not filled in."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", hint="dsctl init writes a first one") from error
    if len(raw) > SIZE_LIMIT:
        raise ConfigError(f"{path}: {len(raw)} bytes is more than a configuration can be (1 MiB)")
    try:
        return parse(raw.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error


def parse(text: str, source: str) -> dict[str, Scalar]:
    """Like `read`, from text; `source` is what errors call it."""
    import yaml

    try:
        top: Node | None = yaml.compose(text, Loader=yaml.SafeLoader)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{source}: not YAML", why=str(error)) from error
    if top is None:
        return {}
    if not isinstance(top, yaml.MappingNode):
        raise ConfigError(f"{source}:1: expected settings such as `replicas: 2`")
    settings: dict[str, Scalar] = {}
    given: dict[str, str] = {}
    for path, value, where in _walk(top, "", source, schema()):
        checked = schema().settings[path].check(value, where)
        if path in given and settings[path] != checked:
            raise ConfigError(f"{where}: {path} is given twice: {given[path]} says {settings[path]!r}")
        settings[path], given[path] = checked, where
    return settings


def _walk(node: MappingNode, section: str, source: str, known: Schema) -> Iterator[tuple[str, object, str]]:
    """Yields (dotted path, value, place) for every setting below `node`."""
    import yaml

    seen: set[str] = set()
    for key_node, value_node in node.value:
        key = _text(key_node)
        line = key_node.start_mark.line + 1
        path = f"{section}.{key}" if section else key
        where = f"{source}:{line}: {path}"
        if key in seen:
            raise ConfigError(f"{where} is given twice")
        seen.add(key)
        if not section and key.startswith("x-"):
            continue  # the user's own notes and anchors
        if not section and key in known.sections and isinstance(value_node, yaml.MappingNode):
            yield from _walk(value_node, key, source, known)
            continue
        if not section and key == "engine":
            yield "engine.kind", _value(value_node, where), where
            continue
        yield _resolve(path, section, key, where, known), _value(value_node, where), where


def _resolve(path: str, section: str, key: str, where: str, known: Schema) -> str:
    if path in known.settings:
        return path
    if (meant := known.alias(section, key)) is not None:
        return meant
    if not section and key in known.sections:
        raise ConfigError(f"{where} is a section; write its settings below it, indented")
    near = get_close_matches(key, known.names(section), n=1, cutoff=0.6)
    inside = [p for p in known.settings if p.rpartition(".")[2] == (near[0] if near else key)]
    hint = near[0] if near and (section or near[0] in known.names("")) else (inside[0] if inside else "")
    tail = f"; did you mean {hint!r}?" if hint else ""
    raise ConfigError(f"{where}: unknown setting{tail}", hint="dsctl config schema lists every setting")


def _text(node: Node) -> str:
    return str(node.value) if isinstance(node.value, str) else "?"


def _value(node: Node, where: str) -> object:
    """The Python value of a scalar node; collections are refused, as no setting is one."""
    import yaml

    if not isinstance(node, yaml.ScalarNode):
        raise ConfigError(f"{where}: expected one value, found a list or a mapping")
    loader = yaml.SafeLoader("")
    try:
        return cast("object", loader.construct_object(node))  # pyright: ignore[reportUnknownMemberType]
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where}: {node.value!r} is not a value") from error
    finally:
        loader.dispose()  # pyright: ignore[reportUnknownMemberType]
