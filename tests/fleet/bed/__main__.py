"""`python -m tests.fleet.bed prepare|up|down|status [--name NAME]`: a bed for people; the tests use the same."""

from __future__ import annotations

import argparse
import fcntl
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fleet.bed import engine, hosts, images
from tests.fleet.bed.engine import BedError, LackError
from tests.fleet.bed.hosts import Bed
from tests.fleet.bed.places import Place, place_of

HOSTS = 4
LACKING = 6  # this machine can have no bed
BEGUN = time.monotonic()


def prepare(place: Place) -> str:
    """What needs no installed dsctl: packages, the Engine, the host's image; the name of that. Kept if it is there."""
    with _held(place.root):
        _say("packages")
        if engine.missing_packages():
            with _held(place.shared):
                engine.install_packages()
        engine.start(place)
        with _held(place.shared):  # made once for all beds of this machine
            _say("base image")
            images.base(place)
            _say("host image")
            return images.host(place)


def build_and_start(place: Place, count: int = HOSTS) -> Bed:
    """Everything from the packages to the last host; what is there already is kept."""
    host = prepare(place)
    with _held(place.root):
        _say("product image")
        with _held(place.shared):
            images.wheels(place)
            images.torch(place)
        app = images.app(place)
        _say(f"{count} hosts")
        bed = hosts.up(place, count, (host, app))
        images.prune(place)
        _say("up")
    return bed


def _say(what: str) -> None:
    sys.stderr.write(f"bed: [{time.monotonic() - BEGUN:4.0f}s] {what}\n")


@contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Nobody else builds in that directory meanwhile."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _status(place: Place) -> int:
    bed = hosts.read(place)
    if bed is None:
        sys.stdout.write("down\n")
        return 1
    for host in bed.hosts:
        sys.stdout.write(f"{host.name} {host.address}{'' if host.streamlocal else ' (no streamlocal)'}\n")
    sys.stdout.write(f"ssh -i {bed.key} -o UserKnownHostsFile={bed.known_hosts} root@{bed.hosts[0].address}\n")
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet.bed", description=__doc__)
    parser.add_argument("verb", choices=("prepare", "up", "down", "status"))
    parser.add_argument("--name", default="", help="whose bed; default: $DSCTL_BED, else this checkout's own")
    parser.add_argument("--hosts", type=int, default=HOSTS)
    parser.add_argument("--purge", action="store_true", help="with down: remove its images, too")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it runs ends, too
    try:
        place = place_of(given.name)
    except ValueError as error:
        parser.error(str(error))
    try:
        if given.verb == "status":
            return _status(place)
        if given.verb == "down":
            hosts.down(place, is_purged=given.purge)
            return 0
        if given.verb == "prepare":
            prepare(place)
            return 0
        build_and_start(place, given.hosts)
        return _status(place)
    except LackError as error:
        sys.stderr.write(f"bed: {error}\n")
        return LACKING
    except BedError as error:
        sys.stderr.write(f"bed: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
