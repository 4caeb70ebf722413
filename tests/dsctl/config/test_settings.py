"""dsctl.yaml: optional, strict, and explained by reference.yml."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dsctl.base.errors import ConfigError
from dsctl.config import schema as schemas
from dsctl.config.reading import parse, read
from dsctl.config.schema import json_schema, reference_text, schema
from dsctl.config.settings import NOT_FLAGS, load
from dsctl.flows.settings import first_file, init, resolved
from engine.spec.config import EngineConfig

CUSTOMARY = """
port: 8123
worker_num: 3
max_batch_size: 8
max_queue_delay_ms: 5
preferred_batch_size: 4
timeout: 30
dtype: mixed
tensor_parallel: 1
pipeline_parallel: 1
kv_cache_ratio: 0.5
max_seq_len: 1024
"""


def test_the_reference_is_the_defaults() -> None:
    """Reading reference.yml as a configuration gives exactly the built-in defaults."""
    assert parse(reference_text(), "r") == {path: s.default for path, s in schema().settings.items()}


def test_every_setting_is_explained() -> None:
    """No setting and no section without a sentence above it."""
    assert not [path for path, setting in schema().settings.items() if len(setting.text) < 10]
    assert not [name for name, text in schema().sections.items() if len(text) < 10]


def test_engine_settings_are_the_engines_fields() -> None:
    """The engine section has the fields of EngineConfig, with the same defaults, and nothing the engine lacks."""
    ours = {p.partition(".")[2]: s.default for p, s in schema().settings.items() if p.startswith("engine.")}
    theirs = {f.name: f.default for f in fields(EngineConfig) if f.name != "model"}
    assert {k: v for k, v in ours.items() if k not in NOT_FLAGS} == theirs


def test_no_file_is_needed(tmp_path: Path) -> None:
    """Without dsctl.yaml: the bundled model, two replicas, no flags."""
    settings = load(None, cwd=tmp_path)
    assert (settings.integer("replicas"), settings.model_name(), settings.engine_flags()) == (2, "dsctl-tiny", {})
    assert settings.model_dir().parts[-2:] == ("models", "dsctl-tiny")


def test_customary_names_are_accepted() -> None:
    """The names people know from other servers mean our settings."""
    assert parse(CUSTOMARY, "f") == {
        "gateway.port": 8123,
        "replicas": 3,
        "engine.max_num_seqs": 8,
        "engine.max_queue_delay_ms": 5,
        "engine.preferred_batch_size": 4,
        "engine.queue_timeout_s": 30.0,
        "engine.dtype": "mixed",
        "engine.tensor_parallel_size": 1,
        "engine.pipeline_parallel_size": 1,
        "engine.kv_cache_ratio": 0.5,
        "engine.max_model_len": 1024,
    }
    assert parse("batch_timeout_ms: 7", "f") == {"engine.max_queue_delay_ms": 7}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("replicaz: 3", r"f:1: replicaz: unknown setting; did you mean 'replicas'"),
        ("\nengine:\n  max_num_seq: 3", r"f:3: engine.max_num_seq: unknown setting; did you mean 'max_num_seqs'"),
        ("engine:\n  replicas: 3", r"f:2: engine.replicas: unknown setting"),
        ("tensor_parallel: 0", r"f:1: tensor_parallel: 0 is not an integer from 1 up to 8"),
        ("engine:\n  pipeline_parallel_size: 9", r"integer from 1 up to 8"),
        ("replicas: -1", r"integer from 0 up to 256"),
        ("replicas: 1.5", r"integer"),
        ("replicas: yes", r"integer"),
        ("replicas: '3'", r"integer"),
        ("replicas: [1]", r"one value"),
        ("replicas:", r"integer"),
        ("replicas: 1\nreplicas: 1", r"f:2: replicas is given twice"),
        ("max_seq_len: 1\nengine:\n  max_model_len: 2", r"f:3: engine.max_model_len.* is given twice"),
        ("gateway: 3", r"section"),
        ("project: A b", r"lower-case"),
        ("project: ../x", r"lower-case"),
        ("kv_cache_ratio: .nan", r"number"),
        ("dtype: float16", r"one of float32, bfloat16, mixed"),
        ("- 1", r"f:1: expected settings"),
        ("a: b: c", r"f: not YAML"),
        ("? [a]\n: 1", r"unknown setting"),
        ("model: !!python/object:os.system x", r"not a value"),
        ("[" * 500, r"not YAML"),
    ],
)
def test_mistakes_are_named(text: str, said: str) -> None:
    """A wrong file is refused with its place, the setting's path and what would work."""
    with pytest.raises(ConfigError, match=said):
        parse(text, "f")


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes the reader fail in another way than ConfigError."""
    with suppress(ConfigError):
        parse(text, "f")


def test_notes_of_the_users_own_are_left_alone() -> None:
    """Keys that start with x- are the user's."""
    assert parse("x-owner: {a: [1]}\nreplicas: 1", "f") == {"replicas": 1}


def test_overrides_win_and_are_checked(tmp_path: Path) -> None:
    """The command line wins over the file, under the same rules."""
    file = tmp_path / "dsctl.yaml"
    file.write_text("replicas: 3\n")
    assert load(file).integer("replicas") == 3
    assert load(None, {"replicas": 1}, cwd=tmp_path).integer("replicas") == 1
    with pytest.raises(ConfigError, match="--replicas"):
        load(file, {"replicas": 9999})


def test_only_changed_settings_become_flags(tmp_path: Path) -> None:
    """Engine settings equal to their defaults are not passed on; "mixed" is the engine's bfloat16."""
    file = tmp_path / "dsctl.yaml"
    file.write_text("dtype: mixed\nengine:\n  kind: oracle\n  max_num_seqs: 8\n  enable_prefix_cache: false\n")
    assert load(file).engine_flags() == {"max_num_seqs": 8, "enable_prefix_cache": False}


def test_a_model_may_be_a_directory(tmp_path: Path) -> None:
    """A path is relative to dsctl.yaml, not to where the command runs."""
    (tmp_path / "m").mkdir()
    file = tmp_path / "dsctl.yaml"
    file.write_text("model: ./m\n")
    assert load(file).model_dir() == tmp_path / "m"
    assert load(file).model_name() == "m"


def test_contradictions_are_refused(tmp_path: Path) -> None:
    """Settings that are fine alone but not together are refused with the way out."""
    file = tmp_path / "dsctl.yaml"
    file.write_text("preferred_batch_size: 100\n")
    with pytest.raises(ConfigError, match="max_num_seqs"):
        load(file)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    """A missing or binary file is a configuration error."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read(tmp_path / "b.yaml")


def test_a_first_file_changes_nothing(tmp_path: Path) -> None:
    """`init` writes a file that means the defaults, whose lines are valid once the marks are taken away."""
    assert parse(first_file(), "f") == {}
    path = init(tmp_path / "dsctl.yaml", is_forced=False)
    assert load(path).values == load(None, cwd=tmp_path / "..").values
    assert "# replicas: 2  # integer" in first_file()


def test_what_is_shown_can_be_read_back(tmp_path: Path) -> None:
    """`config show` prints a valid dsctl.yaml with the same meaning."""
    file = tmp_path / "dsctl.yaml"
    file.write_text(CUSTOMARY)
    assert parse(resolved(file).text, "f") == dict(load(file).values)


def test_the_json_schema_covers_every_name() -> None:
    """The exported schema knows every setting, section and customary name."""
    exported = json_schema()
    properties = exported["properties"]
    assert isinstance(properties, dict)
    assert set(yaml.safe_load(CUSTOMARY)) <= set(properties)
    assert set(schema().sections) <= set(properties)


def test_a_broken_reference_is_a_defect() -> None:
    """A reference line that follows no rule fails loudly instead of accepting everything."""
    with pytest.raises(ValueError, match="unknown rule"):
        schemas.parse("# text\nkey: 1  # integr 1..\n")


def test_a_policy_file_lies_beside_the_settings(tmp_path: Path) -> None:
    """engine.quantization may name a file relative to dsctl.yaml; an unknown word is refused with the known ones."""
    source = tmp_path / "dsctl.yaml"
    source.write_text("engine:\n  quantization: mine.json\n")
    assert load(source).engine_flags() == {"quantization": str(tmp_path / "mine.json")}
    source.write_text("engine:\n  quantization: int5\n")
    with pytest.raises(ConfigError, match="'int5'; it is one of auto, none, int8, int4"):
        load(source)
