"""State lies where the user says, and long paths still get a socket."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dsctl.base.errors import ConfigError, PreflightError
from dsctl.base.places import SOCKET_LIMIT, Places, data_root, default_home, private_dir


def test_home_follows_the_environment() -> None:
    """$DSCTL_HOME wins over the XDG state directory, which wins over ~/.local/state."""
    assert default_home({"DSCTL_HOME": "/a", "XDG_STATE_HOME": "/b"}) == Path("/a")
    assert default_home({"XDG_STATE_HOME": "/b"}) == Path("/b/dsctl")
    assert default_home({}) == (Path.home() / ".local/state/dsctl").resolve()


def test_a_home_has_one_spelling(tmp_path: Path) -> None:
    """Dots and links lead to the same home, so that its socket and its processes are found again."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for spelling in ("real", "link", "link/../real", "real/"):
        assert default_home({"DSCTL_HOME": f"{tmp_path}/{spelling}"}) == tmp_path / "real"


@pytest.mark.parametrize("length", [10, 80, 300])
def test_the_socket_path_always_fits(length: int) -> None:
    """However deep the home, the socket's path is within what a unix socket can hold."""
    places = Places(Path("/") / ("d" * (length // 2)) / ("e" * (length // 2)), "p")
    assert len(os.fsencode(places.socket)) <= SOCKET_LIMIT


def test_two_homes_have_two_sockets() -> None:
    """Homes that differ only far to the right do not share a socket."""
    deep = Path("/") / ("d" * 200)
    assert Places(deep / "a", "p").socket != Places(deep / "b", "p").socket
    assert Places(deep / "a", "p").socket != Places(deep / "a", "q").socket


def test_paths_supervisor_cannot_hold_are_refused() -> None:
    """A home with a quote or a glob character is refused by name instead of failing later."""
    Places(Path("/with a space/é"), "p").check()
    for bad in ('/a"b', "/a[b", "/a ;b", "/a*b", "/100%"):
        with pytest.raises(ConfigError, match="supervisor"):
            Places(Path(bad), "p").check()


def test_private_dir_is_private_and_not_a_link(tmp_path: Path) -> None:
    """A directory is made 0700, an open one is closed, and a link in its place is refused."""
    assert private_dir(tmp_path / "x" / "y").stat().st_mode & 0o777 == 0o700
    (tmp_path / "open").mkdir(mode=0o755)
    assert private_dir(tmp_path / "open").stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(tmp_path / "open")
    with pytest.raises(PreflightError):
        private_dir(tmp_path / "link")


def test_data_is_found_in_the_checkout() -> None:
    """Templates and playbooks are found without installation."""
    assert (data_root() / "templates" / "supervisor" / "program.conf.j2").is_file()
    assert (data_root() / "playbooks" / "limits.yml").is_file()
