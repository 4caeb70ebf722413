"""`python -m tests.fleet.bed up|down|status`: the bed for people; the tests use the same functions."""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import time

from tests.fleet.bed import engine, hosts, images
from tests.fleet.bed.engine import BedError
from tests.fleet.bed.hosts import Bed
from tests.fleet.bed.places import Place, default_place

HOSTS = 4


def build_and_start(place: Place, count: int = HOSTS) -> Bed:
    """Everything from the packages to the last host; what is there already is kept."""
    if os.getuid() != 0:
        raise BedError("the bed needs root: it installs packages and starts a Docker Engine")
    place.root.mkdir(parents=True, exist_ok=True)
    with (place.root / "lock").open("w") as lock:  # two checkouts may share one bed
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _build_and_start(place, count)


def _build_and_start(place: Place, count: int) -> Bed:
    begun = time.monotonic()

    def say(what: str) -> None:
        sys.stderr.write(f"bed: [{time.monotonic() - begun:4.0f}s] {what}\n")

    say("packages")
    engine.install_packages()
    engine.start(place)
    say("base image")
    images.base(place)
    say("host image")
    host = images.host(place)
    say("product image")
    app = images.app(place)
    say(f"{count} hosts")
    bed = hosts.up(place, count, (host, app))
    images.prune(place)
    say("up")
    return bed


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
    parser.add_argument("--hosts", type=int, default=HOSTS)
    given = parser.parse_args()
    place = default_place()
    try:
        if given.verb == "status":
            return _status(place)
        if given.verb == "down":
            hosts.down(place)
            return 0
        build_and_start(place, given.hosts)
        return _status(place)
    except BedError as error:
        sys.stderr.write(f"bed: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
