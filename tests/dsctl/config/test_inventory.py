"""Inventories: ours and Ansible's, patterns, and mistakes named with their place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsctl.base.errors import ConfigError, UsageError
from dsctl.config.inventory import Entry, Inventory, expand
from dsctl.config.inventoryfile import load, parse
from dsctl.config.settings import load as read_settings
from dsctl.flows.settings import init

OURS = """
groups:
  a100-nodes: gpu0[1-4]
  rack1: [gpu01, gpu02]
  front:
    hosts: lb1
    user: ops
    port: 2222
  everybody:
    children: [a100-nodes, front]
hosts:
  gpu03: {address: 10.0.0.3, fabric: 192.168.7.3}
"""
INI = """
; comment
lonely ansible_host=10.9.9.9
[a100-nodes]
gpu[01:03] ansible_user=root
gpu04 ansible_host=10.0.0.4 ansible_port=2222 ansible_ssh_common_args="-o ProxyJump=jump@bastion"
[a100-nodes:vars]
ansible_ssh_private_key_file=~/.ssh/fleet
some_role_var=7
[fleet:children]
a100-nodes
"""
YAML = """
all:
  vars: {ansible_user: ops}
  children:
    a100-nodes:
      hosts:
        gpu0[1:2]: {ansible_port: 22022}
        gpu03: {ansible_host: 10.0.0.3, role_variable: x}
"""


def names(entries: tuple[Entry, ...]) -> list[str]:
    """Their names."""
    return [entry.name for entry in entries]


def test_groups_of_ranges() -> None:
    """A group may be a range, a list or a mapping with values; a host's own values win."""
    found = parse(OURS, Path("hosts.yaml"))
    assert names(found.select("a100-nodes")) == ["gpu01", "gpu02", "gpu03", "gpu04"]
    assert found.hosts["gpu03"] == Entry("gpu03", address="10.0.0.3", fabric="192.168.7.3")
    assert found.hosts["lb1"] == Entry("lb1", user="ops", port=2222)
    assert len(found.select("everybody")) == 5


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("gpu02,gpu01", ["gpu02", "gpu01"]),
        ("gpu0[3-4]", ["gpu03", "gpu04"]),
        ("gpu*", ["gpu01", "gpu02", "gpu03", "gpu04"]),
        ("a100-nodes:&rack1", ["gpu01", "gpu02"]),
        ("a100-nodes,!rack1", ["gpu03", "gpu04"]),
        ("gpu0[1:2]:!gpu01", ["gpu02"]),
        ("all", ["gpu01", "gpu02", "gpu03", "gpu04", "lb1"]),
    ],
)
def test_patterns(pattern: str, wanted: list[str]) -> None:
    """Names, groups, ranges, globs, exclusions and intersections."""
    assert names(parse(OURS, Path("hosts.yaml")).select(pattern)) == wanted


def test_a_pattern_from_a_file(tmp_path: Path) -> None:
    """@file holds one pattern a line."""
    (tmp_path / "some").write_text("# first\ngpu02\ngpu0[3-4]\n")
    assert names(parse(OURS, Path("hosts.yaml")).select("@some", base=tmp_path)) == ["gpu02", "gpu03", "gpu04"]


@pytest.mark.parametrize("pattern", ["a100-node", "gpu05", "gp", "x*", "gpu01,!gpu01", "", "-oProxyCommand=x", "a;b"])
def test_no_host_is_never_a_success(pattern: str) -> None:
    """A pattern that names nothing, or cannot be a name, is a usage error."""
    with pytest.raises(UsageError, match="--hosts"):
        parse(OURS, Path("hosts.yaml")).select(pattern)


def test_the_nearest_name_is_offered() -> None:
    """A slip in a group's name is answered with the name that was meant."""
    with pytest.raises(UsageError, match="did you mean 'a100-nodes'"):
        parse(OURS, Path("hosts.yaml")).select("a100-node")


def test_without_a_file_names_are_taken_as_they_are(tmp_path: Path) -> None:
    """Hosts that only ~/.ssh/config knows may be named when there is no inventory."""
    assert names(load(None, tmp_path).select("gpu0[1-2]")) == ["gpu01", "gpu02"]


def test_ansible_ini() -> None:
    """Groups, ranges, children, variables of hosts and groups, and a jump host."""
    found = parse(INI, Path("inventory.ini"))
    assert names(found.select("fleet")) == ["gpu01", "gpu02", "gpu03", "gpu04"]
    assert found.hosts["gpu02"] == Entry("gpu02", user="root", identity="~/.ssh/fleet")
    fourth = Entry("gpu04", address="10.0.0.4", port=2222, identity="~/.ssh/fleet", jump="jump@bastion")
    assert found.hosts["gpu04"] == fourth
    assert found.hosts["lonely"].address == "10.9.9.9"
    assert "ungrouped" not in found.groups


def test_ansible_yaml() -> None:
    """all, children, vars; a nearer value wins; other roles' variables are nobody's business."""
    found = parse(YAML, Path("inventory.yml"))
    assert found.hosts["gpu01"] == Entry("gpu01", port=22022, user="ops")
    assert found.hosts["gpu03"] == Entry("gpu03", address="10.0.0.3", user="ops")
    assert names(found.select("a100-nodes")) == ["gpu01", "gpu02", "gpu03"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("groups:\n  a: {host: gpu1}", r"groups.a.host: unknown key; did you mean 'hosts'"),
        ("hosts:\n  g1: {adress: x}", r"hosts.g1.adress: unknown key; did you mean 'address'"),
        ("grups: {}\nhosts: {}", r"grups: unknown key; did you mean 'groups'"),
        ("groups: {a: {children: [bb]}, b: g1}", r"'bb' that is no group; did you mean 'b'"),
        ("groups: {a: {children: [b]}, b: {children: [a]}}", r"contains itself: a → b → a"),
        ("groups: {a: 'gpu[4-1]'}", r"range goes from 4 to 1"),
        ("groups: {a: 'gpu[1-99999]'}", r"range"),
        ("hosts: {g1: {port: many}}", r"port 'many' is not a number"),
        ("hosts: {g1: {user: -oX}}", r"starts with a dash"),
        ("groups: [a]", r"groups: expected"),
        ("a: b: c", r"not YAML"),
        ("all: {host: {}}", r"all.host: unknown key; did you mean 'hosts'"),
    ],
)
def test_mistakes_are_named(text: str, said: str) -> None:
    """A wrong file is refused with its place and what was probably meant."""
    with pytest.raises(ConfigError, match=said):
        parse(text, Path("hosts.yaml"))


def test_wrong_ini_is_named_by_line() -> None:
    """A section of an unknown kind or an open quote carries the line."""
    with pytest.raises(ConfigError, match=r"inv:2: \[g:childs\]: unknown key; did you mean 'children'"):
        parse("g1\n[g:childs]\n", Path("inv"))
    with pytest.raises(ConfigError, match="inv:1"):
        parse('g1 ansible_host="x\n', Path("inv"))


@given(st.integers(0, 40), st.integers(0, 40))
def test_a_range_counts(low: int, more: int) -> None:
    """A range has as many names as numbers, none twice, all of the pattern."""
    found = expand(f"h[{low:02d}-{low + more:02d}]", "t")
    assert found == [f"h{number:02d}" for number in range(low, low + more + 1)]


def test_an_empty_inventory_is_said() -> None:
    """Selecting from nothing tells what to do."""
    with pytest.raises(UsageError, match="no host or group 'x'"):
        Inventory(source=Path("hosts.yaml")).select("x")


def test_init_with_hosts_names_them(tmp_path: Path) -> None:
    """`init --hosts` leaves a dsctl.yaml and a hosts.yaml that mean these hosts; wrong names leave nothing."""
    with pytest.raises(ConfigError):
        init(tmp_path / "dsctl.yaml", is_forced=False, hosts="gpu0[4-1]")
    path = init(tmp_path / "dsctl.yaml", is_forced=True, hosts="gpu0[1-3],lb1")
    settings = read_settings(path)
    assert set(settings.given) == {"placement.hosts"}
    found = load(None, tmp_path).select(settings.text("placement.hosts"))
    assert names(found) == ["gpu01", "gpu02", "gpu03", "lb1"]
    with pytest.raises(UsageError, match="exists already"):
        init(path, is_forced=False, hosts="a")
