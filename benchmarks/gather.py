"""What looking at many hosts costs the operator's machine: `python -m benchmarks.gather --hosts 50`.

Every host is this machine behind an sshd on loopback, reached by a connection of its own, as 50 hosts would be. Printed
are the wall time and the CPU time of this process; what the hosts themselves spend is not in it.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from dsctl.base.missing import Missing
from dsctl.reach.ssh import gather
from dsctl.reach.ssh.host import Host
from dsctl.reach.ssh.link import Link
from dsctl.reach.ssh.route import Route
from dsctl.reach.ssh.ways import everywhere
from tests.dsctl.reach.ssh import server


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=50)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        sshd = server.start(Path(directory), "MaxStartups 200\n")
        try:
            known = f"[127.0.0.1]:{sshd.port}"
            route = Route("near", "127.0.0.1", sshd.port, sshd.user, known, (sshd.key,), True, "", (sshd.known_hosts,))
            hosts = [Host(Link(route)) for _ in range(given.hosts)]
            began, spent = time.monotonic(), _cpu()
            found = everywhere(hosts, lambda host: gather.facts(host, state_dir="/var/lib/dsctl"))
            wall, cpu = time.monotonic() - began, _cpu() - spent
            for host in hosts:
                host.close()
        finally:
            sshd.stop()
    lost = sum(isinstance(each, Missing | Exception) for each in found)
    cost = f"{wall:.2f} s wall, {cpu / given.hosts * 1e3:.1f} ms CPU a host"
    print(f"{given.hosts} hosts, {lost} of them not gathered: {cost}")


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
