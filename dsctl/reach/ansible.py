"""Ansible on our hosts: an inventory from our routes, strict host keys, a private directory gone afterwards."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from dsctl.base.errors import DsctlError
from dsctl.reach.ssh.route import Route

CONFIG = """[defaults]
host_key_checking = True
retry_files_enabled = False
interpreter_python = auto_silent
forks = 30
timeout = 30
gathering = explicit
nocows = True
localhost_warning = False
deprecation_warnings = False

[ssh_connection]
pipelining = True
ssh_args = -o StrictHostKeyChecking=yes -o ControlMaster=auto -o ControlPersist=10s
control_path_dir = {place}/cp
"""


@dataclass(slots=True)
class Tally:
    """What became of one host."""

    ok: int = 0
    changed: list[str] = field(default_factory=lambda: list[str]())  # tasks
    diffs: list[str] = field(default_factory=lambda: list[str]())
    failed: str = ""
    unreachable: str = ""


def inventory(routes: Sequence[Route]) -> dict[str, Any]:
    """The inventory as Ansible reads it; keys of hosts must be known, and only those files are believed."""
    hosts: dict[str, Any] = {}
    for route in routes:
        known = " ".join(str(path) for path in route.known_hosts)
        options = ["-o", f"UserKnownHostsFile={known}", "-o", "GlobalKnownHostsFile=/dev/null",
                   "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"]  # fmt: skip
        if route.known_as != route.address and not route.known_as.startswith("["):
            options += ["-o", f"HostKeyAlias={route.known_as}"]
        if route.only_identities:
            options += ["-o", "IdentitiesOnly=yes"]
        for key in route.identities:
            if key.exists():
                options += ["-i", str(key)]
        if route.jump is not None:
            options += ["-o", f"ProxyJump={_jumps(route.jump)}"]
        hosts[route.name] = {
            "ansible_host": route.address, "ansible_port": route.port, "ansible_user": route.user,
            "ansible_ssh_common_args": shlex.join(options),
        }  # fmt: skip
    return {"all": {"hosts": hosts}}


def _jumps(route: Route) -> str:
    here = f"{route.user}@{route.address}:{route.port}"
    return f"{_jumps(route.jump)},{here}" if route.jump else here


def play(
    playbooks: Sequence[Path], routes: Sequence[Route], variables: Mapping[str, Any], *, is_check: bool,
    password_file: str, told: Callable[[str, str], None],
) -> dict[str, Tally]:  # fmt: skip
    """Runs playbooks one after the other; `told` hears (host, what) of every change. What became of each host."""
    tallies = {route.name: Tally() for route in routes}
    with tempfile.TemporaryDirectory(prefix="dsctl-provision-") as work:
        place = Path(work)
        (place / "ansible.cfg").write_text(CONFIG.format(place=place))  # a connection of another run would skip keys
        for playbook in playbooks:
            lost = {name for name, each in tallies.items() if each.failed or each.unreachable}
            going = [route for route in routes if route.name not in lost]
            if going:
                _run(place, playbook, (inventory(going), variables, is_check, password_file), _hearing(tallies, told))
    return tallies


def _run(
    place: Path, playbook: Path, given: tuple[Any, Mapping[str, Any], bool, str], heard: Callable[[Any], bool]
) -> None:  # fmt: skip
    import ansible_runner  # pyright: ignore[reportMissingTypeStubs]

    runner: Any = ansible_runner
    hosts, variables, is_check, password_file = given
    words = [*(["--check", "--diff"] if is_check else [])]
    words += ["--become-password-file", password_file] if password_file else []
    environment = {
        "ANSIBLE_HOST_KEY_CHECKING": "True",  # ansible-runner turns it off where nobody says so
        "ANSIBLE_CONFIG": str(place / "ansible.cfg"), "ANSIBLE_HOME": str(place / "home"), "ANSIBLE_NOCOLOR": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}", "LC_ALL": "C.UTF-8",
    }  # fmt: skip
    ran = runner.run(
        private_data_dir=str(place), playbook=str(playbook), inventory=hosts, extravars=dict(variables), quiet=True,
        cmdline=shlex.join(words) or None, envvars=environment, event_handler=heard, suppress_env_files=True,
        settings={"suppress_ansible_output": True},
    )  # fmt: skip
    if ran.status not in ("successful", "failed"):
        raise DsctlError(f"{playbook.name}: Ansible ended as {ran.status}")
    if ran.rc not in (0, 2, 4) and not ran.stats:
        said = Path(ran.config.artifact_dir) / "stdout"
        raise DsctlError(f"{playbook.name} cannot be run", why=said.read_text()[-2000:] if said.exists() else "")


def _hearing(tallies: Mapping[str, Tally], told: Callable[[str, str], None]) -> Callable[[Any], bool]:
    def heard(event: Any) -> bool:
        kind, data = str(event.get("event", "")), cast("dict[str, Any]", event.get("event_data") or {})
        tally = tallies.get(str(data.get("host", "")))
        if tally is None:
            return True
        host, task = str(data["host"]), str(data.get("task", ""))
        result = cast("dict[str, Any]", data.get("res") or {})
        if kind == "runner_on_unreachable":
            tally.unreachable = str(result.get("msg", "")).strip()
        elif kind == "runner_on_failed" and not data.get("ignore_errors"):
            tally.failed = f"{task}: {result.get('msg', '')} {result.get('stderr', '')}".strip()[-2000:]
        elif kind == "runner_on_ok":
            tally.ok += 1
            if result.get("changed"):
                tally.changed.append(task)
                tally.diffs += [text for each in _diffs(result) if (text := _shown(each))]
                told(host, task)
        return True

    return heard


def _diffs(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: Any = result.get("diff") or []
    listed = cast("list[Any]", found if isinstance(found, list) else [found])
    return [cast("dict[str, Any]", each) for each in listed if isinstance(each, dict)]


def _shown(diff: Mapping[str, Any]) -> str:
    """A diff as text: prepared by apt, or before and after of a file."""
    import difflib

    if diff.get("prepared"):
        return str(diff["prepared"]).strip()
    before, after = diff.get("before"), diff.get("after")
    if not isinstance(before, str) or not isinstance(after, str):
        return ""
    name = str(diff.get("after_header") or diff.get("before_header") or "")
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), name, name, lineterm="", n=1)
    return "\n".join(lines)
