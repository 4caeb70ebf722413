"""The bed's own Docker Engine: installed from the distribution, started with its own directories, ended by its pid."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fleet.bed.places import Place

PACKAGES = {
    "dockerd": "docker.io", "sshd": "openssh-server", "mmdebstrap": "mmdebstrap", "arch-test": "arch-test",
    "ssh": "openssh-client", "docker-registry": "docker-registry", "docker-compose": "docker-compose",
}  # fmt: skip
SEARCHED = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_started: list[subprocess.Popen[bytes]] = []  # kept, since one that is collected while its program runs is a warning


class BedError(Exception):
    """The bed cannot be built or started; the message says why."""


class LackError(BedError):
    """This machine can have no bed: no root, no Docker Engine and none to install, or none that starts."""


def run(argv: Sequence[str], **options: Any) -> str:
    """A command's standard output; BedError with the end of its error output when it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise BedError(f"{' '.join(argv[:6])} … ended with {done.returncode}:\n{(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def missing_packages() -> list[str]:
    """The distribution's packages the bed needs and does not find. LackError where it can have none at all."""
    if sys.platform != "linux":
        raise LackError(f"the bed needs Linux, not {sys.platform}")
    missing = sorted({package for name, package in PACKAGES.items() if not shutil.which(name, path=SEARCHED)})
    if os.getuid() != 0:
        more = f"; it would install {', '.join(missing)}" if missing else ""
        raise LackError(f"the bed starts a Docker Engine, which needs root{more}")
    if missing and not shutil.which("apt-get", path=SEARCHED):
        raise LackError(f"the bed needs {', '.join(missing)}, and there is no apt-get to install them with")
    return missing


def install_packages() -> None:
    """Docker Engine, sshd and mmdebstrap from the distribution's packages, where they are not there yet."""
    missing = missing_packages()
    if not missing:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    wait = ["-o", "DPkg::Lock::Timeout=300"]
    run(["apt-get", *wait, "update", "-q"], env=environment)
    run(["apt-get", *wait, "install", "-y", "-q", "--no-install-recommends", *missing], env=environment)


def docker(place: Place, *arguments: str, **options: Any) -> str:
    """`docker …` against the bed's Engine; the classic builder, as BuildKit needs a plugin Debian does not ship."""
    return run([*_program(place), *arguments], env=_environment(), **options)


def _program(place: Place) -> list[str]:
    binary = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"
    return [binary, "-H", f"unix://{place.socket}"]


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "DOCKER_HOST"} | {"DOCKER_BUILDKIT": "0"}


def pid(place: Place) -> int | None:
    """The running Engine's pid; None when it does not run."""
    try:
        number = int(place.pidfile.read_text())
        command = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return number if os.fsencode(place.socket) in b" ".join(command) else None


def start(place: Place) -> None:
    """Starts the Engine unless it runs already."""
    if pid(place):
        return
    place.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    place.pidfile.unlink(missing_ok=True)
    argv = ["dockerd", "--data-root", str(place.data), "--exec-root", str(place.run / "exec")]
    argv += ["--pidfile", str(place.pidfile), "-H", f"unix://{place.socket}", "--bridge", "none", "--iptables=false"]
    argv += ["--ip-forward=false", "--log-level", "warn"]
    argv += ["--containerd-namespace", f"bed-{place.tag}", "--containerd-plugins-namespace", f"bed-{place.tag}-plugins"]
    with place.log.open("ab") as log:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "PATH": SEARCHED},
        )  # fmt: skip
    _started.append(child)
    for _ in range(600):
        if child.poll() is not None:
            raise LackError(f"dockerd ended with {child.returncode}:\n{place.log.read_text()[-2000:]}")
        if place.socket.exists() and _answers(place):
            return
        time.sleep(0.1)
    raise BedError(f"dockerd does not answer within 60 s:\n{place.log.read_text()[-2000:]}")


def _answers(place: Place) -> bool:
    try:
        docker(place, "version")
    except BedError:
        return False
    return True


def stop(place: Place) -> None:
    """Ends the Engine and waits for it; its directories stay."""
    number = pid(place)
    if number is None:
        return
    os.kill(number, signal.SIGTERM)
    for turn in range(600):
        if pid(place) is None:
            return
        if turn == 300:
            os.kill(number, signal.SIGKILL)
        time.sleep(0.1)
    raise BedError(f"dockerd (pid {number}) does not end")
