"""The door to one host of a fleet for one project: what HostDoor promises, through SSH and Docker's API."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, cast

import docker.errors
import docker.types
import paramiko
import requests

from dsctl.base.container import ContainerSpec, Health
from dsctl.base.errors import DeadlineError, DsctlError, GateError, PreflightError
from dsctl.base.missing import Missing
from dsctl.facts.host import Container, HostFacts
from dsctl.reach.hostdoor import FencedError, Ran, Told
from dsctl.reach.ssh import gather, lease
from dsctl.reach.ssh.command import Result
from dsctl.reach.ssh.host import STALE, Host, unwritten, writing

LONG_S = 3600.0  # images are large
OPEN_FILES = "for p in $(pidof dockerd podman); do awk '/^Max open files/ { print $5 }' /proc/$p/limits; done"
# The most memory a container may lock, where the engine may not raise limits itself (bit 24 is CAP_SYS_RESOURCE).
LOCKED = """for p in $(pidof dockerd podman); do
    bits=$(sed -n 's/^CapEff:[^0-9a-f]*//p' /proc/$p/status)
    [ $((0x$bits >> 24 & 1)) -eq 1 ] || awk '/^Max locked memory/ { print $5 }' /proc/$p/limits
done"""
NANO = 1_000_000_000
CONTAINERS = "10001:10001"  # who runs in containers, where this login can give files away


class SshDoor:
    """Implements HostDoor. `who` is what others read about the holder of the lock."""

    def __init__(
        self, host: Host, project: str, state_dir: str, who: Mapping[str, Any], *,
        directories: Sequence[str] = (), fabric: str = "",
    ) -> None:  # fmt: skip
        self.host = host
        self._project, self._state_dir, self._who = project, state_dir, who
        self._directories, self._fabric = directories, fabric
        self._lease: lease.Lease | None = None

    @property
    def name(self) -> str:
        """As the inventory calls it."""
        return self.host.name

    @property
    def project(self) -> str:
        """Whose door it is."""
        return self._project

    @property
    def home(self) -> str:
        """The project's directory."""
        return f"{self._state_dir}/{self._project}"

    def facts(self) -> HostFacts | Missing:
        """Everything the host says; Missing when it cannot be reached."""
        return gather.facts(self.host, state_dir=self._state_dir, directories=self._directories, fabric=self._fabric)

    # the lock

    def claim(self, verb: str) -> None:
        """Takes the lock; from now on a broken connection is not made anew, as it carried the lock."""
        if self._lease is None:
            who = {**self._who, "verb": verb}
            self._lease = lease.take(self.host, self.home, who, beat_s=lease.BEAT_S, silence_s=lease.SILENCE_S)
            self.host.link.is_pinned = True

    def release(self) -> None:
        """Gives it back."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None
            self.host.link.is_pinned = False

    def _mine(self) -> None:
        """FencedError unless the lock is ours still."""
        if self._lease is None:
            raise FencedError(f"{self.name}: nothing may be changed without the lock")
        self._lease.check()

    def _change(self, argv: Sequence[str], stdin: bytes = b"") -> Result:
        """A changing command that the host itself refuses once another holder has been there."""
        self._mine()
        assert self._lease is not None
        fenced = self.host.fenced(self._lease.fence, self._lease.epoch, argv)
        done = self.host.run(fenced, stdin=stdin, deadline_s=120, root=True)
        if done.code == STALE:
            raise FencedError(f"{self.name}: another operator took the lock of {self._project}",
                              hint="dsctl status, then run this again")  # fmt: skip
        return done

    # files

    def _path(self, path: str) -> str:
        if path.startswith("/") or ".." in path.split("/"):
            raise PreflightError(f"{path!r} is not a path below {self.home}")
        return posixpath.join(self.home, path) if path else self.home

    def read(self, path: str) -> str | Missing:
        """A file's text."""
        found = self.host.read(self._path(path))
        return found if isinstance(found, Missing) else found.decode("utf-8", "replace")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file with this text, owned by the containers' user."""
        data, whole = text.encode(), self._path(path)
        owner = CONTAINERS if self.host.power != "none" else ""
        done = self._change(writing(whole, data, mode, owner, make_dirs=True), data)
        if done.code:
            raise unwritten(self.name, whole, done)

    def append(self, path: str, line: str) -> None:
        """One more line of a file."""
        whole = self._path(path)
        done = self._change(["sh", "-c", 'cat >>"$1"', "sh", whole], f"{line}\n".encode())
        if done.code:
            raise unwritten(self.name, whole, done)

    def remove(self, path: str) -> None:
        """No file or directory there; an empty path is the project's home itself."""
        done = self._change(["rm", "-rf", "--", self._path(path)])
        if done.code:
            raise DsctlError(f"{self.name}: {self._path(path)} cannot be removed", why=done.err.strip())

    # beyond the project's directory

    def look(self, script: str, *arguments: str) -> str | Missing:
        """What a shell script that only looks writes; Missing when it fails."""
        done = self.host.script(script, *arguments, deadline_s=120, root=True, again=True)
        return Missing(f"{self.name}: {done.err.strip()}") if done.code else done.text

    def arrange(self, script: str, *arguments: str) -> None:
        """A shell script that changes something, under the lock."""
        done = self._change(["sh", "-c", script, "sh", *arguments])
        if done.code:
            raise DsctlError(f"{self.name}: {' '.join(arguments[:1])} cannot be prepared", why=done.err.strip(),
                             hint=f"dsctl hosts check --hosts {self.name}")  # fmt: skip

    def forward(self, port: int) -> AbstractContextManager[int]:
        """A loopback port on the host that leads to `port` here."""
        return self.host.forward(("127.0.0.1", port))

    # containers

    @contextmanager
    def _asking(self, what: str, deadline_s: float = 60.0) -> Generator[Any, None, None]:
        """Docker's API; what it refuses is a DsctlError that says what was wanted."""
        try:
            yield self.host.docker(deadline_s)
        except docker.errors.APIError as error:
            raise DsctlError(f"{self.name}: Docker cannot {what}", why=str(error.explanation or error)) from error
        except (docker.errors.DockerException, requests.RequestException, paramiko.SSHException, OSError) as error:
            told = f"{self.name}: the way to Docker broke while it was to {what}"
            raise DsctlError(told, why=str(error), hint="run the same command again; it goes on") from error

    def containers(self) -> Sequence[Container]:
        """Every container with our labels, of any project."""
        with self._asking("list containers") as api:
            return gather.containers(api)

    def create(self, spec: ContainerSpec) -> str:
        """A new container, not started; its id."""
        self._mine()
        with self._asking(f"create {spec.name}") as api:
            made = api.create_container(
                spec.image, command=list(spec.command), name=spec.name, labels=dict(spec.labels),
                environment=dict(spec.environment), user=spec.user,
                host_config=_limits(api, spec, self._open_files(), self._locked() if spec.memory_lock else -1),
                healthcheck=_health(spec.health), volumes=[mount.target for mount in spec.mounts],
            )  # fmt: skip
            self._claim_ground(api, str(made["Id"]), spec)
            return str(made["Id"])

    def _claim_ground(self, api: Any, container: str, spec: ContainerSpec) -> None:
        """Two projects may create at the same moment: of two containers on one port or card, the later gives way."""
        port, cards = spec.label("port"), set(spec.gpus)
        listed = [each for each in gather.containers(api) if each.name != spec.name]
        rivals = [e for e in listed if (port and e.label("port") == port) or cards & set(e.label("gpus").split(","))]
        born = api.inspect_container(container)["Created"]
        for rival in rivals:
            if (api.inspect_container(rival.id)["Created"], rival.id) < (born, container):
                api.remove_container(container)
                raise PreflightError(
                    f"{self.name}: port {port} or a card of {spec.name} went to {rival.name} meanwhile",
                    hint="run the same command again; it plans anew",
                )

    def _open_files(self) -> int:
        """Most file descriptors the engine itself has: where it may not raise limits, more would be refused."""
        told = self.host.run(["sh", "-c", OPEN_FILES], again=True).text.split()
        return min((int(word) for word in told if word.isdigit()), default=1 << 30)

    def _locked(self) -> int:
        """Bytes a container may lock: no limit (-1), or the engine's own where it may not lift that."""
        told = self.host.run(["sh", "-c", LOCKED], again=True).text.split()
        return min((int(word) for word in told if word.isdigit()), default=-1)

    def start(self, container: str) -> None:
        """Starts it; nothing when it runs."""
        self._mine()
        try:
            with self._asking(f"start {container[:12]}", 120) as api:
                api.start(container)
        except DsctlError as error:
            if isinstance(error.__cause__, docker.errors.APIError):  # its command or image does not run at all
                raise GateError(error.message, why=error.why, hint=error.hint) from error
            raise

    def stop(self, container: str, grace_s: int) -> None:
        """SIGTERM, SIGKILL after `grace_s`; nothing when it does not run."""
        self._mine()
        with self._asking(f"stop {container[:12]}", grace_s + 60) as api, suppress(docker.errors.NotFound):
            api.stop(container, timeout=grace_s)

    def delete(self, container: str) -> None:
        """Removes a stopped container; nothing when there is none."""
        self._mine()
        with self._asking(f"remove {container[:12]}") as api, suppress(docker.errors.NotFound):
            api.remove_container(container, v=True)

    def run_in(self, container: str, argv: Sequence[str], stdin: bytes = b"", timeout_s: float = 60.0) -> Ran | Missing:
        """A command in a running container, by the docker program; Missing when the container does not run."""
        way = self.host.docker_way()
        if isinstance(way, Missing):
            return way
        line = ["docker", "-H", f"unix://{way.socket}", "exec", "-i", container, *argv]
        try:
            done = self.host.run(line, stdin=stdin, deadline_s=timeout_s, root=way.kind == "sudo")
        except DeadlineError as error:
            return Ran(124, error.message)
        if done.code == 1 and ("is not running" in done.err or "No such container" in done.err):
            return Missing(done.err.strip())
        return Ran(done.code, done.text + done.err)

    def logs(self, container: str, lines: int, *, follow: bool = False) -> Iterator[str]:
        """The last lines a container wrote, and with `follow` the new ones."""
        with self._asking(f"show the log of {container[:12]}", LONG_S * 24 if follow else 60.0) as api:
            if not follow:
                yield from api.logs(container, tail=lines).decode("utf-8", "replace").splitlines()
                return
            rest = ""
            for chunk in api.logs(container, tail=lines, stream=True, follow=True):
                *whole, rest = (rest + chunk.decode("utf-8", "replace")).split("\n")
                yield from whole

    # images

    def image_id(self, image: str) -> str:
        """The id of an image (sha256:…); empty when the host does not have it."""
        with self._asking(f"look for {image}") as api:
            try:
                return str(api.inspect_image(image)["Id"])
            except docker.errors.NotFound:
                return ""

    def save(self, image: str) -> Iterator[bytes]:
        """The image as an archive."""
        with self._asking(f"save {image}", LONG_S) as api:
            yield from api.get_image(image)

    def load(self, archive: Iterable[bytes]) -> None:
        """Takes an archive in."""
        self._mine()
        with self._asking("load an image", LONG_S) as api:
            self._follow(api.load_image(archive), "load the image")

    def push_to(self, image: str, port: int, told: Told) -> str:
        """The image's layers to the registry behind the loopback port; the digest it got there."""
        self._mine()
        name, digest = _travelling(image, port), ""
        with self._asking(f"read {image}", LONG_S) as api:
            api.tag(image, name, "now")
            try:
                for line in self._lines(api.push(name, tag="now", stream=True, decode=True), f"read {image}", told):
                    digest = str(cast("dict[str, Any]", line.get("aux") or {}).get("Digest") or digest)
            finally:
                api.remove_image(f"{name}:now", noprune=True)
        if not digest.startswith("sha256:"):
            raise DsctlError(f"{self.name}: Docker tells no digest of {image}")
        return digest

    def pull_from(self, image: str, port: int, digest: str, told: Told) -> None:
        """The image of that digest, under its own name."""
        self._mine()
        name = _travelling(image, port)
        repository, _, tag = image.rpartition(":") if ":" in image.rpartition("/")[2] else (image, "", "latest")
        with self._asking(f"receive {image}", LONG_S) as api:
            for _line in self._lines(api.pull(name, tag=digest, stream=True, decode=True), f"receive {image}", told):
                pass
            api.tag(f"{name}@{digest}", repository, tag)
            with suppress(docker.errors.APIError):
                api.remove_image(f"{name}@{digest}", noprune=True)

    def pull(self, image: str) -> None:
        """From its registry."""
        self._mine()
        with self._asking(f"pull {image}", LONG_S) as api:
            self._follow(api.pull(image, stream=True, decode=True), f"pull {image}")

    def build(self, image: str, context: bytes) -> None:
        """From a context (tar) with a Dockerfile."""
        self._mine()
        with self._asking(f"build {image}", LONG_S) as api:
            built = api.build(
                fileobj=io.BytesIO(context), custom_context=True, tag=image, rm=True, forcerm=True, decode=True,
                network_mode="host",
            )  # fmt: skip
            self._follow(built, f"build {image}")

    def drop_image(self, image: str) -> None:
        """Removes an image; nothing when it is not there."""
        self._mine()
        with self._asking(f"remove {image}") as api, suppress(docker.errors.NotFound):
            api.remove_image(image)

    def _follow(self, progress: Iterable[Any], what: str) -> None:
        """Reads a progress stream to its end."""
        for _line in self._lines(progress, what):
            pass

    def _lines(self, progress: Iterable[Any], what: str, hear: Told | None = None) -> Iterator[dict[str, Any]]:
        """The lines of a progress stream; an error in it is a DsctlError with the last lines before."""
        last: list[str] = []
        for told in progress:
            line = cast("dict[str, Any]", told) if isinstance(told, dict) else {}
            if hear is not None:
                hear(line)
            if error := line.get("error"):
                raise DsctlError(f"{self.name}: Docker cannot {what}", why="\n".join([*last[-20:], str(error).strip()]))
            if text := str(line.get("stream") or line.get("status") or "").strip():
                last = [*last[-40:], text]
            yield line


def _travelling(image: str, port: int) -> str:
    """The name under which an image is known to the registry; Docker believes loopback without TLS."""
    return f"127.0.0.1:{port}/dsctl/{image.rpartition('/')[2].partition(':')[0].lower()}"


def _limits(api: Any, spec: ContainerSpec, open_files: int, locked: int) -> Any:
    """What the container may do: as little as it needs, whatever the image asks for."""
    files = min(spec.open_files, open_files)
    ulimits = [docker.types.Ulimit(name="nofile", soft=files, hard=files)]
    if spec.memory_lock:
        ulimits.append(docker.types.Ulimit(name="memlock", soft=locked, hard=locked))
    cards = [docker.types.DeviceRequest(device_ids=list(spec.gpus), capabilities=[["gpu"]])] if spec.gpus else None
    log = {"max-size": str(spec.log_bytes), "max-file": "3"}
    return api.create_host_config(
        binds=[f"{mount.source}:{mount.target}:{'ro' if mount.is_read_only else 'rw'}" for mount in spec.mounts],
        network_mode="host", read_only=True, cap_drop=["ALL"], cap_add=list(spec.capabilities),
        security_opt=["no-new-privileges"], restart_policy={"Name": "no" if spec.is_job else "unless-stopped"},
        auto_remove=spec.is_job, ulimits=ulimits,
        tmpfs={path: options for path, _, options in (each.partition(":") for each in spec.tmpfs)},
        pids_limit=spec.processes, shm_size=spec.shm_bytes, device_requests=cards,
        log_config=docker.types.LogConfig(type="json-file", config=log),
    )  # fmt: skip


def _health(health: Health) -> dict[str, Any]:
    if not health.command:
        return {"test": ["NONE"]}
    return {
        "test": ["CMD", *health.command], "interval": health.interval_s * NANO, "timeout": health.timeout_s * NANO,
        "retries": health.retries, "start_period": health.start_s * NANO,
    }  # fmt: skip
