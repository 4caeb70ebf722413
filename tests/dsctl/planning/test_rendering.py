"""What supervisor is given: whole files as golden files, odd paths and values survive supervisor's own parser."""

from __future__ import annotations

import configparser
import shlex
from collections.abc import Callable
from pathlib import Path

import jinja2
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from supervisor.datatypes import dict_of_key_value_pairs  # type: ignore[import-untyped]

from dsctl.base.errors import ConfigError
from dsctl.base.places import Places
from dsctl.base.step import StartProgram, WriteFile
from dsctl.config.reading import parse
from dsctl.config.schema import schema
from dsctl.config.settings import Settings
from dsctl.facts.programs import parse_label
from dsctl.flows.rendered import supervisor, write
from dsctl.planning import rendering
from dsctl.planning.wish import ProgramSpec, Wish, engine_arguments, environment, gateway_spec, replica_spec, wish
from tests.dsctl.flows.machines import project, settings

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
PLACES = Places(Path("/var/lib/dsctl home"), "dsctl")


@pytest.mark.parametrize("case", ["defaults", "all_flags", "oracle"])
def test_rendered_files_are_the_golden_ones(case: str, golden: Callable[[str, str], None]) -> None:
    """For each dsctl.yaml in tests/golden/<case>/ the files are exactly those beside it."""
    written = parse((GOLDEN / case / "dsctl.yaml").read_text(), case)
    values = {key: setting.default for key, setting in schema().settings.items()} | written
    values["model"] = values["model"] if "/" in str(values["model"]) else "/srv/models/v3"
    wished = wish(Settings(values, frozenset(written), None), replicas=2, checkpoint="abc", cores=4)
    golden(f"{case}/supervisord.conf", rendering.supervisord_conf(PLACES, 65536))
    front = gateway_spec(wished, wished.gateway_port or 8000, PLACES, "/usr/bin/python3")
    replica = replica_spec(wished, "r1", 20001, PLACES, "/usr/bin/python3")
    golden(f"{case}/gateway.conf", rendering.program_conf(front, PLACES).replace(front.label.spec_hash, "SPEC"))
    text = rendering.program_conf(replica, PLACES)
    golden(f"{case}/r1.conf", text.replace(wished.spec_hash, "SPEC"))  # the hash knows dsctl's version


WORD = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters='"\\\n'), max_size=12)


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.lists(WORD, min_size=1, max_size=4), WORD)
def test_words_survive_supervisors_parser(words: list[str], value: str) -> None:
    """Whatever the words of a command and an environment hold, supervisor reads them back, or they are refused."""
    label = replica_spec(_a_wish(), "r1", 20001, PLACES, "python").label
    spec = ProgramSpec(label, tuple(words), {"KEY": value}, 5)
    try:
        text = rendering.program_conf(spec, PLACES)
    except ConfigError:
        assert "'" in value or any(" ;" in word or " #" in word for word in (*words, value))
        return
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"))
    parser.read_string(text)
    section = parser["program:r1"]
    assert shlex.split(section["command"] % {}) == words
    assert dict_of_key_value_pairs(section["environment"] % {}) == {"KEY": value}


def _a_wish() -> Wish:
    return wish(settings(model="/m"), replicas=2, checkpoint="abc", cores=4)


def test_the_first_line_is_the_label() -> None:
    """A program's file says what it is, in its first line."""
    spec = replica_spec(_a_wish(), "r1", 20001, PLACES, "python")
    assert parse_label(rendering.program_conf(spec, PLACES)) == spec.label


def test_an_undefined_value_is_an_error() -> None:
    """A template never renders a hole."""
    with pytest.raises(jinja2.UndefinedError):
        rendering.render("supervisor/program.conf.j2", {})


def test_engine_settings_become_flags() -> None:
    """Values follow their flag; yes and no are two flags."""
    flags = {"max_num_seqs": 8, "enable_prefix_cache": False, "reuse_output_blocks": True, "dtype": "float32"}
    assert engine_arguments(flags) == [
        "--max-num-seqs", "8", "--no-enable-prefix-cache", "--reuse-output-blocks", "--dtype", "float32",
    ]  # fmt: skip


def test_the_hash_changes_with_what_a_replica_computes() -> None:
    """Engine settings, model and checkpoint change it; the number of replicas, ports and patience do not."""
    base = wish(settings(), replicas=2, checkpoint="a", cores=4)
    assert wish(settings(), replicas=3, checkpoint="a", cores=4).spec_hash == base.spec_hash
    patient = settings(gateway__port=1, rollout__drain_timeout_s=1.0)
    assert wish(patient, replicas=2, checkpoint="a", cores=8).spec_hash == base.spec_hash
    assert wish(settings(), replicas=2, checkpoint="b", cores=4).spec_hash != base.spec_hash
    assert wish(settings(engine__block_size=32), replicas=2, checkpoint="a", cores=4).spec_hash != base.spec_hash


@pytest.mark.parametrize(("cores", "replicas", "threads"), [(8, 2, 4), (2, 2, 1), (2, 5, 1), (8, 3, 2), (4, 0, 4)])
def test_cores_are_shared(cores: int, replicas: int, threads: int) -> None:
    """Each replica gets its part of the usable cores, at least one."""
    assert wish(settings(), replicas=replicas, checkpoint="a", cores=cores).threads == threads


def test_children_know_whose_they_are() -> None:
    """Home, project and name are in every program's environment."""
    told = environment(PLACES, "r1")
    assert (told["DSCTL_HOME"], told["DSCTL_PROJECT"], told["DSCTL_PROGRAM"]) == (str(PLACES.home), "dsctl", "r1")


def test_render_shows_what_deploy_writes(tmp_path: Path) -> None:
    """The rendered gateway and replicas are those of a deploy, but for ports and the checkpoint's digest."""
    from dsctl.flows.deploy import plan_deploy

    here, _ = project(tmp_path, model="/m")
    shown = supervisor(here)
    assert set(shown) == {"supervisord.conf", "conf.d/gateway.conf", "conf.d/r1.conf", "conf.d/r2.conf"}
    steps = plan_deploy(here).steps
    files = {s.action.name: s.action.text for s in steps if isinstance(s.action, StartProgram)}
    conf = next(s.action.text for s in steps if isinstance(s.action, WriteFile))
    assert conf == shown["supervisord.conf"]
    assert files["gateway"] == shown["conf.d/gateway.conf"]
    assert files["r1"].splitlines()[5:] == shown["conf.d/r1.conf"].splitlines()[5:]
    assert [path.relative_to(tmp_path / "o").as_posix() for path in write(shown, tmp_path / "o")] == list(shown)
