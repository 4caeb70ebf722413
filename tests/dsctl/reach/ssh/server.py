"""A real sshd on loopback for one test run: keys in a directory of its own, logins of the user who runs the tests."""

from __future__ import annotations

import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SEARCHED = "/usr/local/sbin:/usr/sbin:/sbin:" + os.environ.get("PATH", "")
CONFIG = """
ListenAddress 127.0.0.1
Port {port}
HostKey {directory}/host
PidFile none
AuthorizedKeysFile {directory}/client.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
{more}
"""


@dataclass(frozen=True, slots=True)
class Sshd:
    """A running server."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def user(self) -> str:
        """Who logs in."""
        return getpass.getuser()

    @property
    def key(self) -> Path:
        """The private key it accepts."""
        return self.directory / "client"

    @property
    def known_hosts(self) -> Path:
        """A file in which its key is known."""
        return self.directory / "known_hosts"

    def cut(self) -> None:
        """Kills every connection's process, as a broken network would; the listener lives on."""
        for pid in _below(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """Ends everything."""
        self.cut()
        self.process.kill()
        self.process.wait()


def _below(pid: int) -> list[int]:
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [each for child in children for each in (child, *_below(child))]  # connections before their commands


def program() -> str | None:
    """The path of sshd, when it is installed."""
    return shutil.which("sshd", path=SEARCHED)


def start(directory: Path, more: str = "") -> Sshd:
    """Starts one on a free port that no outgoing connection takes."""
    sshd = program()
    assert sshd is not None
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where the system's own would have made it
    for name in ("host", "client"):
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)]
        subprocess.run(keygen, check=True, timeout=60)
    for _ in range(20):
        port = random.randint(20000, 31999)
        (directory / "config").write_text(CONFIG.format(port=port, directory=directory, more=more))
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen([sshd, "-D", "-e", "-f", str(directory / "config")], stderr=log)
        if _answers(process, port):
            key = (directory / "host.pub").read_text().split()[:2]
            (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(key)}\n")
            return Sshd(directory, port, process)
    raise AssertionError((directory / "log").read_text())


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    for _ in range(600):
        if process.poll() is not None:
            return False  # the port was taken
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
            continue
        return process.poll() is None
    return False
