"""Ways to hosts: what ssh_config says is honoured, and what cannot be is refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dsctl.base.errors import ConfigError
from dsctl.config.inventory import Entry
from dsctl.reach.ssh.route import Resolver

BINARIES = [None, *([shutil.which("ssh")] if shutil.which("ssh") else [])]
SHARED = """
Host gpu01
    HostName 10.0.0.1
    User ann
    Port 2222
    IdentityFile {keys}/one
    IdentitiesOnly yes
    ProxyJump gate

Host gate
    HostName gate.example.com
    HostKeyAlias the-gate
    UserKnownHostsFile {keys}/known
"""


@pytest.fixture(params=BINARIES, ids=lambda binary: "ssh" if binary else "without ssh")
def resolver(request: pytest.FixtureRequest, tmp_path: Path) -> Resolver:
    """Resolves by the ssh program, and by reading the file."""
    (tmp_path / "config").write_text(SHARED.format(keys=tmp_path))
    return Resolver({"USER": "me"}, tmp_path / "mine", config=tmp_path / "config", binary=request.param)


def test_ssh_config_is_honoured(resolver: Resolver, tmp_path: Path) -> None:
    """Address, user, port, keys, jump host and the files of host keys come from ssh_config."""
    route = resolver.route(Entry("gpu01"))
    assert (route.address, route.user, route.port, route.known_as) == ("10.0.0.1", "ann", 2222, "[10.0.0.1]:2222")
    assert route.identities == (tmp_path / "one",)
    assert route.only_identities
    assert route.jump is not None
    assert (route.jump.address, route.jump.known_as) == ("gate.example.com", "the-gate")
    assert route.jump.known_hosts[:2] == (tmp_path / "mine", tmp_path / "known")
    assert str(route).startswith("ann@10.0.0.1:2222 through ")


def test_the_inventory_wins(resolver: Resolver) -> None:
    """What the inventory says of a host goes before ssh_config; `none` takes the jump away."""
    entry = Entry("gpu01", address="10.9.9.9", port=22, user="bob", identity="/keys/bob", jump="none")
    route = resolver.route(entry)
    assert (route.address, route.user, route.port, route.known_as) == ("10.9.9.9", "bob", 22, "10.9.9.9")
    assert route.identities[0] == Path("/keys/bob")
    assert route.jump is None


def test_several_jumps(resolver: Resolver) -> None:
    """Jump hosts follow one another, each with a user and port of its own; a circle is an error."""
    route = resolver.route(Entry("plain", jump="eve@first:2200,gate"))
    assert route.jump is not None
    assert route.jump.jump is not None
    assert (route.jump.name, route.jump.jump.name, route.jump.jump.user) == ("gate", "first", "eve")
    assert route.jump.jump.port == 2200
    with pytest.raises(ConfigError, match="in a circle"):
        resolver.route(Entry("gate", jump="gpu01"))


@pytest.mark.parametrize("name", ["-oProxyCommand=id", "a b", "a;b", "", "a\nb", "$(id)"])
def test_names_are_no_options(resolver: Resolver, name: str) -> None:
    """A name that another program could take for something else never gets there."""
    with pytest.raises(ConfigError, match="cannot be the name of a host"):
        resolver.route(Entry(name))
    with pytest.raises(ConfigError, match="cannot be the"):
        resolver.route(Entry("gpu01", user=f"-{name}"))
    with pytest.raises(ConfigError, match="cannot be the"):
        resolver.route(Entry("gpu01", address=f"-{name}", jump="none"))


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("ProxyCommand nc %h %p", "proxycommand"),
        ("HostbasedAuthentication yes", "hostbasedauthentication"),
        ("PKCS11Provider /usr/lib/p.so", "pkcs11provider"),
        ("PreferredAuthentications gssapi-with-mic", "gssapi-with-mic"),
    ],
)
def test_what_cannot_be_honoured_is_refused(resolver: Resolver, tmp_path: Path, line: str, named: str) -> None:
    """An option that would lead ssh another way than us is an error that names it."""
    (tmp_path / "config").write_text(f"Host odd\n    {line}\n")
    with pytest.raises(ConfigError, match=named):
        resolver.route(Entry("odd"))


def test_matches_that_only_ssh_can_judge(tmp_path: Path) -> None:
    """Without the ssh program, `Match final` and `Match exec` are refused, not guessed."""
    for words in ("final all", "host x exec true"):
        (tmp_path / "config").write_text(f"Match {words}\n    Port 1\n")
        with pytest.raises(ConfigError, match="needs the ssh program"):
            Resolver({}, config=tmp_path / "config", binary=None).route(Entry("odd"))
