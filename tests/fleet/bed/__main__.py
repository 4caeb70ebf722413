"""`python -m tests.fleet.bed up|down|status [--name NAME]`: a bed for people; the tests use the same functions."""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fleet.bed import engine, hosts, images
from tests.fleet.bed.engine import BedError
from tests.fleet.bed.hosts import Bed
from tests.fleet.bed.places import Place, place_of

HOSTS = 4


def build_and_start(place: Place, count: int = HOSTS) -> Bed:
    """Everything from the packages to the last host; what is there already is kept."""
    if os.getuid() != 0:
        raise BedError("the bed needs root: it installs packages and starts a Docker Engine")
    begun = time.monotonic()

    def say(what: str) -> None:
        sys.stderr.write(f"bed: [{time.monotonic() - begun:4.0f}s] {what}\n")

    with _held(place.root):
        say("packages")
        with _held(place.shared):
            engine.install_packages()
        engine.start(place)
        with _held(place.shared):  # made once for all beds of this machine
            say("base image")
            images.base(place)
            say("host image")
            host = images.host(place)
            images.wheels(place)
        say("product image")
        app = images.app(place)
        say(f"{count} hosts")
        bed = hosts.up(place, count, (host, app))
        images.prune(place)
        say("up")
    return bed


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
    parser.add_argument("verb", choices=("up", "down", "status"))
    parser.add_argument("--name", default="", help="whose bed; default: $DSCTL_BED, else this checkout's own")
    parser.add_argument("--hosts", type=int, default=HOSTS)
    parser.add_argument("--purge", action="store_true", help="with down: remove its images, too")
    given = parser.parse_args()
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
        build_and_start(place, given.hosts)
        return _status(place)
    except BedError as error:
        sys.stderr.write(f"bed: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
