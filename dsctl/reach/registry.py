"""A registry that lives as long as one plan, on this machine's loopback, led to hosts' loopbacks; layers are kept."""

from __future__ import annotations

import ctypes
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from dsctl.base.errors import DsctlError
from dsctl.base.places import cache_home, private_dir
from dsctl.base.units import seconds, size
from dsctl.base.voice import Voice
from dsctl.reach.hostdoor import HostDoor

BINARY = "docker-registry"  # Debian's package of that name
CONFIG = """version: 0.1
log: {{accesslog: {{disabled: true}}, level: error}}
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: false}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
START_S = 15.0
TELL_S = 5.0
SET_PDEATHSIG = 1
MOST_BYTES = 40 << 30


class Registry:
    """Started with the first image that travels, ended by `close`, and by the kernel when this process dies."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._work: tempfile.TemporaryDirectory[str] | None = None
        self._port = 0
        self._digests: dict[tuple[str, str], str] = {}

    @staticmethod
    def is_possible() -> bool:
        """Whether the program is installed."""
        return shutil.which(BINARY) is not None

    def bring(self, source: HostDoor, host: HostDoor, image: str, voice: Voice) -> None:
        """The image from one host to the other: only layers that the other lacks travel, whole ones are kept."""
        port = self._started()
        key = (source.name, image)
        if key not in self._digests:
            with source.forward(port) as forwarded:
                self._digests[key] = source.push_to(image, forwarded, Progress(voice, source.name, "reading").told)
        with host.forward(port) as forwarded:
            host.pull_from(image, forwarded, self._digests[key], Progress(voice, host.name, "receiving").told)

    def close(self) -> None:
        """Ends it; its layers stay for the next plan, so that a source sends only what is new."""
        if self._child is not None:
            self._child.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(5)
            if self._child.poll() is None:
                self._child.kill()
                self._child.wait()
            self._child = None
        if self._work is not None:
            self._work.cleanup()
            self._work = None
        self._digests.clear()

    def _started(self) -> int:
        if self._child is not None and self._child.poll() is None:
            return self._port
        self.close()
        self._work = tempfile.TemporaryDirectory(prefix="dsctl-registry-")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])
        config = Path(self._work.name) / "config.yml"
        config.write_text(CONFIG.format(root=_layers(), port=self._port))
        libc = ctypes.CDLL(None)
        binary = shutil.which(BINARY) or BINARY
        self._child = subprocess.Popen(
            [binary, "serve", str(config)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, preexec_fn=lambda: libc.prctl(SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
        )  # fmt: skip
        end = time.monotonic() + START_S
        while time.monotonic() < end and self._child.poll() is None:
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", self._port)) == 0:
                    return self._port
            time.sleep(0.05)
        raise DsctlError(f"{binary} does not start on 127.0.0.1:{self._port}")


def _layers() -> Path:
    """Where layers are kept; all are dropped once they are too many, as each can be sent again."""
    place = cache_home() / "layers"
    if place.is_dir() and sum(each.stat().st_size for each in place.rglob("*") if each.is_file()) > MOST_BYTES:
        shutil.rmtree(place, ignore_errors=True)
    private_dir(place)
    return place


class Progress:
    """Adds up what Docker tells of each layer, and says it now and then with the time left."""

    def __init__(self, voice: Voice, host: str, doing: str) -> None:
        self._voice, self._host, self._doing = voice, host, doing
        self._layers: dict[str, tuple[int, int]] = {}
        self._began = self._said = time.monotonic()

    def told(self, line: Mapping[str, Any]) -> None:
        """One line of Docker's progress."""
        detail = cast("dict[str, Any]", line.get("progressDetail") or {})
        if line.get("status") not in ("Downloading", "Pushing") or not detail.get("total"):
            return
        self._layers[str(line.get("id"))] = (int(detail.get("current", 0)), int(detail["total"]))
        now = time.monotonic()
        if now - self._said > TELL_S:
            self._said = now
            done, total = self.sums()
            rate = done / (now - self._began)
            left = f", {seconds((total - done) / rate)} left" if rate else ""
            self._voice.say(f"  {self._host}: {self._doing} {size(done)} of {size(total)}, {size(rate)}/s{left}")

    def sums(self) -> tuple[int, int]:
        """Bytes that came and bytes in all, of the layers seen so far."""
        return sum(a for a, _ in self._layers.values()), sum(b for _, b in self._layers.values())
