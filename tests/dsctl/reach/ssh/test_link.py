"""Commands over a real sshd: nothing is lost, guessed or left behind."""

from __future__ import annotations

import os
import shlex
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dsctl.base.errors import DeadlineError, DsctlError, PreflightError
from dsctl.base.missing import Missing
from dsctl.reach.ssh import ways
from dsctl.reach.ssh.command import LostError
from dsctl.reach.ssh.host import Host
from dsctl.reach.ssh.login import UnreachableError
from tests.dsctl.reach.ssh.server import Sshd

NASTY = ["a b", "it's", "$HOME", "`id`", "x;y", "", "*", "-n", "line\nbreak", '"quoted"', "\\", "!!", "é"]


def until(condition: Callable[[], bool], limit_s: float = 30.0) -> bool:
    """Polls until it holds; False after the limit."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_words_arrive_as_they_are(host: Host) -> None:
    """Whatever stands in an argument reaches the program unchanged; output and error output stay apart."""
    done = host.run(["sh", "-c", 'printf "%s\\0" "$@"; echo oops >&2; exit 3', "sh", *NASTY])
    assert done.out.split(b"\0")[:-1] == [word.encode() for word in NASTY]
    assert (done.code, done.err) == (3, "oops\n")


def test_floods_in_all_directions(host: Host) -> None:
    """Megabytes on stdin, stdout and stderr at once neither block nor lose a byte."""
    data = os.urandom(5 << 20)
    done = host.run(["sh", "-c", "tee /dev/stderr"], stdin=data)
    assert done.out == data
    assert len(done.err) >= (5 << 20) // 4
    assert host.run(["true"], stdin=data).code == 0  # a program that does not read is no error


def test_255_is_an_answer_and_a_broken_connection_is_none(host: Host, sshd: Sshd, tmp_path: Path) -> None:
    """A command that ends with 255 has ended; one whose connection broke is LostError, and only a look is repeated."""
    assert host.run(["sh", "-c", "exit 255"]).code == 255
    mark = tmp_path / "begun"
    script = f"echo once >>{shlex.quote(str(mark))}; [ $(wc -l <{shlex.quote(str(mark))}) = 2 ] || sleep 60"

    def cut() -> None:
        assert until(mark.exists)
        sshd.cut()

    for again in (False, True):
        cutter = threading.Thread(target=cut)
        cutter.start()
        if again:
            assert host.run(["sh", "-c", script], again=True).code == 0
        else:
            with pytest.raises(LostError, match="near: the connection was lost"):
                host.run(["sh", "-c", script])
        cutter.join()
        mark.unlink()
    assert host.run(["echo", "back"]).text == "back\n"


def test_a_late_command_is_ended(host: Host) -> None:
    """After its deadline a command is DeadlineError, and its processes on the host are told to end."""
    begun = host.run(["sh", "-c", "echo $$"]).text
    assert begun.strip().isdigit()
    with pytest.raises(DeadlineError, match="`sh` did not end within"):
        host.run(["sh", "-c", "echo why >&2; sleep 987654; true"], deadline_s=1.0)
    assert until(lambda: "sleep\0987654" not in _command_lines())


def _command_lines() -> str:
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)


def test_files_come_whole_or_not_at_all(host: Host, tmp_path: Path) -> None:
    """A file is written with its mode and replaced in one move; what cannot be read or written says why."""
    path = tmp_path / "a dir" / "secret"
    data = os.urandom(100_000)
    host.write(str(path), data, mode=0o400, make_dirs=True)
    host.write(str(path), data, mode=0o400)
    assert host.read(str(path)) == data
    assert path.stat().st_mode & 0o777 == 0o400
    assert [each.name for each in path.parent.iterdir()] == ["secret"]
    assert isinstance(host.read(str(tmp_path / "none")), Missing)
    with pytest.raises(DsctlError, match="cannot be written"):
        host.write(str(tmp_path / "none" / "file"), b"x")


def test_many_logins_at_once(opened: Callable[..., Host]) -> None:
    """Thirty connections started together all succeed, although sshd turns some away at first."""
    hosts = [opened() for _ in range(30)]
    answers = ways.everywhere(hosts, lambda each: each.run(["echo", "hi"]).text)
    assert answers == ["hi\n"] * 30


def test_more_commands_than_sessions(host: Host) -> None:
    """Forty commands at once on one connection all run, though sshd allows ten."""
    answers = ways.everywhere(list(range(40)), lambda number: host.run(["echo", str(number)]).text, at_once=40)
    assert answers == [f"{number}\n" for number in range(40)]


def test_through_a_jump_host(opened: Callable[..., Host]) -> None:
    """A host behind another one is reached through it, and its own key is verified."""
    gate = opened()
    behind = opened(gate.link)
    assert behind.run(["echo", "there"]).text == "there\n"
    with pytest.raises(PreflightError, match="is not known"):
        opened(gate.link, known_as="elsewhere").run(["true"])


def test_only_a_known_key_is_trusted(opened: Callable[..., Host], sshd: Sshd, tmp_path: Path) -> None:
    """An unknown host key is refused with the line that trusts it, a changed or revoked one with its place."""
    with pytest.raises(PreflightError, match="is not known: SHA256:") as unknown:
        opened(known_hosts=()).run(["true"])
    assert unknown.value.hint.startswith("dsctl hosts trust near --fingerprint SHA256:")
    other = tmp_path / "others"
    key = (tmp_path / "client.pub").read_text().split()[1]
    other.write_text(f"# mine\n[127.0.0.1]:{sshd.port} ssh-ed25519 {key}\n")
    with pytest.raises(PreflightError, match=r"is not the one in .*others:2"):
        opened(known_hosts=(other, sshd.known_hosts.with_name("none"))).run(["true"])
    revoked = sshd.known_hosts.read_text()
    other.write_text(f"@revoked {revoked}{revoked}")
    with pytest.raises(PreflightError, match=r"revoked in .*others:1"):
        opened(known_hosts=(other,)).run(["true"])
    assert "Accepted publickey" not in (tmp_path / "log").read_text()


def test_who_is_not_let_in_learns_why(opened: Callable[..., Host], tmp_path: Path) -> None:
    """A login that fails names every key that was tried, and what was wrong with those that could not be."""
    import subprocess

    for name, phrase in (("other", ""), ("locked", "secret words")):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", phrase, "-f", str(tmp_path / name)]
        subprocess.run(argv, check=True, timeout=60)
    with pytest.raises(UnreachableError, match="does not let us in") as refused:
        opened(identities=(tmp_path / "other", tmp_path / "locked")).run(["true"])
    assert str(tmp_path / "other") in refused.value.why
    assert f"ssh-add {tmp_path / 'locked'}" in refused.value.why
    with pytest.raises(UnreachableError, match="no answer from"):
        opened(port=1).run(["true"])


def test_a_unix_socket_through_the_connection(host: Host, tmp_path: Path) -> None:
    """A unix socket on the host is reached over the same connection, in both directions."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        channel = host.link.unix_socket(str(tmp_path / "s"))
        near, _ = listener.accept()
        with near:
            channel.sendall(b"ping")
            assert near.recv(4) == b"ping"
            near.sendall(b"pong")
            assert channel.recv(4) == b"pong"
        channel.close()


def test_a_port_leads_back(host: Host) -> None:
    """A loopback port on the host leads to an address here while the block runs, and nowhere afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with host.forward(listener.getsockname()) as port:
            far = socket.create_connection(("127.0.0.1", port), timeout=30)
            near, _ = listener.accept()
            far.sendall(b"ping")
            assert near.recv(4) == b"ping"
            near.close()
            assert far.recv(1) == b""
            far.close()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
