"""A fleet that exists in memory: every host has files, images and containers; faults are switched on by name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from dsctl.base.container import ContainerSpec
from dsctl.base.errors import DsctlError, LockHeldError
from dsctl.base.fleetstep import FleetStep
from dsctl.base.missing import Missing
from dsctl.base.voice import Silence
from dsctl.facts.host import Container, Docker, HostFacts, ProjectState
from dsctl.reach.fleetdoor import FleetDoor
from dsctl.reach.hostdoor import FencedError, Ran, Told


class CutError(BaseException):
    """The operator's program was killed between two changes; nothing catches it."""


class FakeFleet:
    """All machines. Tests read and change the fields of its machines freely."""

    def __init__(self, fleet: Mapping[str, HostFacts | Missing]) -> None:
        self.machines = {name: Machine(self, facts) for name, facts in fleet.items() if isinstance(facts, HostFacts)}
        self.lost = {name: facts for name, facts in fleet.items() if isinstance(facts, Missing)}
        self.cut_after = -1  # changes until CutError; -1: never
        self.changes = 0
        self.refusing: set[str] = set()  # replicas that never become ready
        self.serving: list[int] = []  # how many could serve after each change

    def doors(self, project: str) -> dict[str, FakeHost]:
        """A door to every machine."""
        return {name: FakeHost(machine, project) for name, machine in self.machines.items()}

    def carry_out(self, project: str, step: FleetStep) -> None:
        """One step, with nothing to wait for."""
        FleetDoor(self.doors(project), context=lambda kind, base: f"{kind} from {base}".encode(), pause_s=0.0).act(
            step, Silence()
        )

    def facts(self) -> dict[str, HostFacts]:
        """Every machine as it is now."""
        return {name: machine.facts() for name, machine in self.machines.items()}

    def change(self) -> None:
        """Something is about to change; this may be where the program was killed."""
        if self.changes == self.cut_after:
            raise CutError
        self.changes += 1

    def can_serve(self, project: str) -> set[str]:
        """Replicas that run and are active in the table of the first front that has one."""
        running = {
            each.label("replica")
            for machine in self.machines.values()
            for each in machine.containers.values()
            if each.label("role") == "replica" and each.label("project") == project and each.is_running
        }
        for machine in self.machines.values():
            text = machine.files.get(f"{project}/gateway/replicas.json")
            if text:
                return {r["name"] for r in json.loads(text)["replicas"] if r["state"] == "active"} & running
        return set()


class Machine:
    """One host in memory."""

    def __init__(self, fleet: FakeFleet, facts: HostFacts) -> None:
        self.fleet = fleet
        self.base = facts
        self.files: dict[str, str] = {}  # PROJECT/path → text
        self.holders: dict[str, object] = {}  # project → who holds its lock
        found = () if isinstance(facts.containers, Missing) else facts.containers
        self.containers = {each.name: each for each in found}
        self.images = dict(facts.docker.images) if isinstance(facts.docker, Docker) else {}
        states: Mapping[str, ProjectState] = {} if isinstance(facts.projects, Missing) else facts.projects
        for project, state in states.items():
            self.files |= {f"{project}/{path}": text for path, text in state.files.items()}
        self.told: dict[str, str] = {}  # what scripts that look write, by their first argument
        self.arranged: list[tuple[str, tuple[str, ...]]] = []  # scripts that changed something
        self._next = 0

    def facts(self) -> HostFacts:
        """What the collector would say now."""
        projects: dict[str, ProjectState] = {}
        for path, text in self.files.items():
            project, _, rest = path.partition("/")
            if not project:
                continue  # outside
            state = projects.setdefault(project, ProjectState({}))
            is_secret = rest.startswith("secrets/")
            files = state.files if is_secret else {**state.files, rest: text}
            loads = tuple(text.splitlines()) if rest == "loads.jsonl" else state.loads
            projects[project] = ProjectState(files, (), loads)
        docker = self.base.docker
        docker = replace(docker, images=dict(self.images)) if isinstance(docker, Docker) else docker
        if isinstance(self.base.containers, Missing):
            return replace(self.base, docker=docker, projects=projects)
        return replace(self.base, docker=docker, projects=projects, containers=tuple(self.containers.values()))

    def number(self) -> int:
        """A new number, for ids."""
        self._next += 1
        return self._next


class FakeHost:
    """The door to one machine in memory; implements HostDoor."""

    def __init__(self, machine: Machine, project: str) -> None:
        self._machine, self._project = machine, project
        self._has_lock = False
        self._is_purged = False

    @property
    def name(self) -> str:
        """The machine's."""
        return self._machine.base.name

    @property
    def project(self) -> str:
        """As given."""
        return self._project

    def facts(self) -> HostFacts | Missing:
        """The machine as it is."""
        return self._machine.facts()

    def claim(self, verb: str) -> None:
        """The lock, when nobody has it."""
        holder = self._machine.holders.get(self._project)
        if holder is not None and holder is not self:
            raise LockHeldError(f"{self.name}: somebody else is changing {self._project}", why=verb)
        self._machine.holders[self._project] = self
        self._has_lock = True

    def release(self) -> None:
        """Gives it back."""
        if self._machine.holders.get(self._project) is self:
            del self._machine.holders[self._project]
        self._has_lock = False

    def read(self, path: str) -> str | Missing:
        """A file."""
        return self._machine.files.get(f"{self._project}/{path}", Missing(f"{self.name} has no {path}"))

    def peek(self, path: str) -> str | Missing:
        """Files outside the project are kept under their absolute path."""
        return self._machine.files.get(path, Missing(f"{self.name}: {path}: No such file or directory"))

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file."""
        _ = mode
        self._change()
        self._machine.files[f"{self._project}/{path}"] = text
        self._note_serving()

    def append(self, path: str, line: str) -> None:
        """One more line; a host whose state was removed takes none, as its lock has gone with it."""
        if not any(each.startswith(f"{self._project}/") for each in self._machine.files) and self._is_purged:
            raise FencedError(f"{self.name}: the state has gone")
        before = self._machine.files.get(f"{self._project}/{path}", "")
        self._machine.files[f"{self._project}/{path}"] = f"{before}{line}\n"

    def remove(self, path: str) -> None:
        """A file, or all below an empty path."""
        self._change()
        whole = f"{self._project}/{path}"
        self._is_purged = not path
        gone = [each for each in self._machine.files if each == whole or (not path and each.startswith(whole))]
        for each in gone:
            del self._machine.files[each]

    @property
    def home(self) -> str:
        """As on a host."""
        return f"/var/lib/dsctl/{self._project}"

    def look(self, script: str, *arguments: str) -> str | Missing:
        """What was put there for this script's first argument."""
        _ = script
        return self._machine.told.get(arguments[0], Missing(f"{self.name}: nothing is known of {arguments[0]}"))

    def arrange(self, script: str, *arguments: str) -> None:
        """Noted, and counts as a change."""
        self._change()
        self._machine.arranged.append((script, arguments))

    def forward(self, port: int) -> AbstractContextManager[int]:
        """The same port."""
        return nullcontext(port)

    def containers(self) -> Sequence[Container]:
        """All of them."""
        return tuple(self._machine.containers.values())

    def create(self, spec: ContainerSpec) -> str:
        """Refuses what Docker would refuse: a taken name, an image that is not there."""
        self._change()
        if spec.name in self._machine.containers:
            raise DsctlError(f"{self.name}: the name {spec.name} is taken")
        if spec.image not in self._machine.images:
            raise DsctlError(f"{self.name}: no such image: {spec.image}")
        taken = {uuid for each in self._machine.containers.values() for uuid in each.label("gpus").split(",") if uuid}
        assert not taken & set(spec.gpus), "a card was given twice"
        made = f"{spec.name}@{self.name}#{self._machine.number()}-{len(self._machine.containers)}"
        image = self._machine.images[spec.image]
        self._machine.containers[spec.name] = Container(spec.name, made, image, "created", dict(spec.labels))
        return made

    def start(self, container: str) -> None:
        """It runs and is healthy at once, but for those that refuse."""
        self._change()
        found = self._by_id(container)
        if found is not None:
            is_refusing = found.label("replica") in self._machine.fleet.refusing
            state, health = ("exited", "") if is_refusing else ("running", "healthy")
            self._machine.containers[found.name] = replace(found, state=state, health=health)

    def stop(self, container: str, grace_s: int) -> None:
        """It has ended."""
        _ = grace_s
        self._change()
        found = self._by_id(container)
        if found is not None:
            self._machine.containers[found.name] = replace(found, state="exited", health="")
        self._note_serving()

    def delete(self, container: str) -> None:
        """It is gone."""
        self._change()
        found = self._by_id(container)
        if found is not None:
            del self._machine.containers[found.name]

    def run_in(self, container: str, argv: Sequence[str], stdin: bytes = b"", timeout_s: float = 60.0) -> Ran | Missing:
        """What the programs of a container would answer."""
        _ = stdin, timeout_s
        found = self._by_id(container) or self._machine.containers.get(container)
        if found is None or not found.is_running:
            return Missing(f"{container} does not run")
        if argv[0] == "nginx":
            return Ran(0, "")
        url = next(word for word in argv if word.startswith("http"))
        if url.endswith("/-/status"):
            return Ran(0, "200\n" + json.dumps(self._status()))
        if url.endswith("/v1/chat/completions"):
            gate = [word.partition("=")[2] for word in argv if word.startswith("x-dsctl-gate=")]
            ready = self._machine.fleet.can_serve(self._project)
            rows = {row["name"] for row in self._rows()}
            is_fine = bool(set(gate) & rows) if gate else bool(ready)
            return Ran(0, '200\n{"choices": []}') if is_fine else Ran(1, "503\n{}")
        return Ran(0, "200\nok") if found.health == "healthy" else Ran(1, "503\n")

    def logs(self, container: str, lines: int, *, follow: bool = False) -> Iterator[str]:
        """A line."""
        _ = lines, follow
        yield f"the last words of {container}"

    def image_id(self, image: str) -> str:
        """Of this machine."""
        return self._machine.images.get(image, "")

    def save(self, image: str) -> Iterator[bytes]:
        """The image's name and id."""
        yield json.dumps([image, self._machine.images[image]]).encode()

    def load(self, archive: Iterable[bytes]) -> None:
        """Takes it in."""
        name, found = json.loads(b"".join(archive))
        self._change()
        self._machine.images[name] = found

    def push_to(self, image: str, port: int, told: Told) -> str:
        """Machines in memory have no registry between them."""
        _ = image, port, told
        raise DsctlError(f"{self.name}: no registry")

    def pull_from(self, image: str, port: int, digest: str, told: Told) -> None:
        """The same."""
        _ = image, port, digest, told
        raise DsctlError(f"{self.name}: no registry")

    def pull(self, image: str) -> None:
        """A registry has everything."""
        self._change()
        self._machine.images[image] = f"sha256:pulled-{image}"

    def build(self, image: str, context: bytes) -> None:
        """The same context is the same image."""
        self._change()
        self._machine.images[image] = f"sha256:built-{context.decode()}"

    def drop_image(self, image: str) -> None:
        """It is gone."""
        self._change()
        self._machine.images.pop(image, None)

    # inside

    def _by_id(self, container: str) -> Container | None:
        return next((each for each in self._machine.containers.values() if each.id == container), None)

    def _change(self) -> None:
        holder = self._machine.holders.get(self._project)
        if holder is not None and holder is not self:
            raise FencedError(f"{self.name}: somebody else took the lock of {self._project}")
        self._machine.fleet.change()

    def _note_serving(self) -> None:
        self._machine.fleet.serving.append(len(self._machine.fleet.can_serve(self._project)))

    def _rows(self) -> list[dict[str, str]]:
        text = self._machine.files.get(f"{self._project}/gateway/replicas.json")
        return json.loads(text)["replicas"] if text else []

    def _status(self) -> dict[str, object]:
        text = self._machine.files.get(f"{self._project}/gateway/replicas.json")
        generation = json.loads(text)["generation"] if text else 0
        running = {
            each.label("replica")
            for machine in self._machine.fleet.machines.values()
            for each in machine.containers.values()
            if each.is_running
        }
        rows = [
            {"name": r["name"], "inflight": 0, "health": "healthy" if r["name"] in running else "dead"}
            for r in self._rows()
        ]
        return {"generation": generation, "replicas": rows}
