"""The operator's side of a transfer: starts the short-lived containers at both ends, follows them, leaves nothing."""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import msgspec

from dsctl.base.container import SCHEMA_VERSION, ContainerSpec, Health, Mount, container_name
from dsctl.base.errors import DeadlineError, DsctlError, PreflightError
from dsctl.base.fleetstep import Cargo, DropWeights, PullWeights, SpreadWeights, Transfer
from dsctl.base.missing import Missing
from dsctl.base.places import cache_home
from dsctl.base.units import seconds, size
from dsctl.base.voice import Voice
from dsctl.facts.host import LABEL
from dsctl.facts.manifest import Manifest
from dsctl.reach.hostdoor import HostDoor
from dsctl.reach.weights import identity, index
from dsctl.reach.weights.jobs import Check, Job, Pull, Receive, Serve, Status, read_status
from dsctl.reach.weights.serving import Sender

TELL_S = 5.0
LOOK_S = 2.0  # between looks whether the sender still runs
SILENT_S = 60.0  # a status that stands still for so long has lost its writer
LONGEST_S = 86400.0
SECRET = 0o400
GONE = "a container of the transfer has gone"

PREPARE = """set -e
dest=$1 part=$1.partial owner=$2
mkdir -p -- "$(dirname -- "$dest")"
if [ -d "$dest" ] && [ ! -e "$part" ]; then mv -T -- "$dest" "$part"; fi
mkdir -p -- "$part"
chown -R -- "$owner" "$part"
"""
PUBLISH = """set -e
dest=$1 part=$1.partial
[ -s "$part/.dsctl/root" ] || { echo "$part is not whole" >&2; exit 1; }
printf '%s\\n' "$2" >"$part/.dsctl/origin"
rm -rf -- "$dest.old"
if [ -e "$dest" ]; then mv -T -- "$dest" "$dest.old"; fi
mv -T -- "$part" "$dest"
rm -rf -- "$dest.old"
"""
DESK = 'set -e; rm -rf -- "$1"; mkdir -p -- "$1/out"; chown -- "$2" "$1" "$1/out"'
DROP = 'rm -rf -- "$1" "$1.partial" "$1.old"'


@dataclass(slots=True)
class _Desk:
    """One job on one host: its container and its files, gone when the block ends."""

    host: HostDoor
    path: str  # below the project's home
    name: str

    def status(self) -> Status:
        """What the job says."""
        text = self.host.read(f"{self.path}/out/status")
        return Status() if isinstance(text, Missing) else read_status(text)

    def runs(self) -> bool:
        """Whether its container exists still."""
        return any(each.name == self.name and each.is_running for each in self.host.containers())


class Carrier:
    """Carries weights for one plan; it remembers the root that the source told."""

    def __init__(self, hosts: Mapping[str, HostDoor], pause_s: float = 0.5) -> None:
        self._hosts, self._pause_s = hosts, pause_s
        self._roots: dict[str, str] = {}
        self._here: dict[str, Manifest] = {}
        self._lock = threading.Lock()
        self._progress: dict[str, Status] = {}

    def spread(self, action: SpreadWeights, voice: Voice) -> float:
        """All transfers of one round; every one is tried to its end before the first failure is raised. Bytes/s."""
        self._progress = {}
        began, told = time.monotonic(), time.monotonic()
        for each in action.transfers:
            if not each.sender:
                self._index_here(each.directory, voice)
        with ThreadPoolExecutor(len(action.transfers)) as pool:
            pending = [pool.submit(self._transfer, action, each) for each in action.transfers]
            while not all(each.done() for each in pending):
                time.sleep(min(0.1, self._pause_s))
                if time.monotonic() - told > TELL_S:
                    told = time.monotonic()
                    self._tell(voice, began)
        failures = [each.exception() for each in pending if each.exception() is not None]
        if failures:
            raise failures[0] or DsctlError("a transfer failed")
        moved = sum(each.moved for each in self._progress.values())
        voice.note(f"  {size(moved)} moved")
        return moved / max(0.001, time.monotonic() - began) / len(action.transfers)

    def pull(self, host: HostDoor, action: PullWeights, voice: Voice) -> None:
        """The mirror's files on that host."""
        cargo = action.cargo
        token = _token(action.token_file)
        job = Pull("/weights", "/out/status", cargo.origin, token, action.proxy, cargo.rate, LONGEST_S)
        self._prepare(host, cargo)
        mounts = (Mount(f"{cargo.directory}.partial", "/weights", is_read_only=False),)
        self._progress = {}
        with self._desk(host, cargo, "receive", job, mounts) as desk:
            status = self._follow(desk, voice)
        if status.state != "done":
            raise self._failure(host, status)
        self._learn(cargo, status.root)
        self._publish(host, cargo)

    def check(self, host: HostDoor, cargo: Cargo, voice: Voice) -> Status:
        """Hashes everything on the host."""
        mounts = (Mount(cargo.directory, "/weights", is_read_only=False),)
        with self._desk(host, cargo, "check", Check("/weights", "/out/status"), mounts) as desk:
            return self._follow(desk, voice)

    def drop(self, host: HostDoor, action: DropWeights) -> None:
        """The directory with all that grew beside it."""
        host.arrange(DROP, action.directory)

    # one transfer

    def _transfer(self, action: SpreadWeights, transfer: Transfer) -> None:
        """From its sender; when that one goes away, from another holder."""
        receiver = self._hosts[transfer.receiver]
        self._prepare(receiver, action.cargo)
        senders = [transfer, *(replace(each, receiver=transfer.receiver) for each in action.spares), transfer]
        problem: DsctlError | None = None
        for each in senders:
            try:
                status = self._attempt(action.cargo, each, receiver)
            except DsctlError as error:
                if isinstance(error, PreflightError | DeadlineError):
                    raise
                problem = error
                continue
            if status.state == "done":
                return self._publish(receiver, action.cargo)
            problem = self._failure(receiver, status)
            if status.kind not in ("peer", GONE):
                raise problem
        raise problem or DsctlError(f"{transfer.receiver}: nobody has the weights")

    def _attempt(self, cargo: Cargo, transfer: Transfer, receiver: HostDoor) -> Status:
        made = identity.make()
        with self._sender(cargo, transfer, made, receiver) as (address, port, root, sender):
            self._learn(cargo, root)
            job = Receive("/weights", "/out/status", address, port, "/run/dsctl/certificate", made.token, root,
                          deadline_s=LONGEST_S)  # fmt: skip
            mounts = (Mount(f"{cargo.directory}.partial", "/weights", is_read_only=False),)
            with self._desk(receiver, cargo, "receive", job, mounts, {"certificate": made.certificate}) as desk:
                return self._await(desk, _has_ended, None, sender)

    @contextmanager
    def _sender(
        self, cargo: Cargo, transfer: Transfer, made: identity.Identity, receiver: HostDoor
    ) -> Generator[tuple[str, int, str, _Desk | None]]:
        """(address, port, root, its job) of a sender that runs while the block does."""
        if not transfer.sender:
            with (
                self._sender_here(cargo, transfer.directory, made) as (port, root),
                receiver.forward(port) as forwarded,
            ):
                yield "127.0.0.1", forwarded, root, None
            return
        host = self._hosts[transfer.sender]
        job = Serve("/weights", "/out/status", transfer.address, "/run/dsctl/certificate", "/run/dsctl/key", made.token,
                    cargo.rate, deadline_s=LONGEST_S, memory="/out/hashes.json")  # fmt: skip
        files = {"certificate": made.certificate, "key": made.key}
        mounts = (Mount(transfer.directory, "/weights"),)
        with self._desk(host, cargo, "send", job, mounts, files) as desk:
            status = self._await(desk, lambda told: told.state != "running", None)
            if status.state != "ready":
                raise DsctlError(f"{host.name}: the sender did not start", why=status.error or status.kind)
            yield transfer.address, status.port, status.root, desk

    @contextmanager
    def _sender_here(
        self, cargo: Cargo, directory: str, made: identity.Identity
    ) -> Generator[tuple[int, str]]:  # fmt: skip
        manifest = self._here[directory]
        with tempfile.TemporaryDirectory(prefix="dsctl-weights-") as work:
            paths = (Path(work) / "certificate", Path(work) / "key")
            for path, text in zip(paths, (made.certificate, made.key), strict=True):
                path.touch(mode=0o600)
                path.write_text(text)
            sender = Sender(Path(directory), manifest, (str(paths[0]), str(paths[1])), made.token, rate=cargo.rate)
            thread = threading.Thread(target=sender.serve, args=(LONGEST_S, LONGEST_S), daemon=True)
            thread.start()
            try:
                yield sender.port, manifest.root()
            finally:
                sender.stop()
                thread.join()

    def _index_here(self, directory: str, voice: Voice) -> None:
        """Hashes the source on this machine, once; what did not change since the last time is not read."""
        if directory in self._here:
            return
        count, began = 0, time.monotonic()

        def told(more: int) -> None:
            nonlocal count
            count += more
            voice.waiting(f"hashing {directory}: {size(count)}", time.monotonic() - began, 0)

        self._here[directory] = index.build(Path(directory), memory=memory_of(directory), told=told)

    def _learn(self, cargo: Cargo, root: str) -> None:
        """The first root comes from the source; whoever has another one is not asked."""
        with self._lock:
            known = cargo.root or self._roots.setdefault(cargo.directory, root)
        if root != known:
            raise DsctlError(f"other weights than the source's are there: {root[:16]}…, not {known[:16]}…",
                             hint="dsctl weights verify; then push again")  # fmt: skip

    # containers

    def _prepare(self, host: HostDoor, cargo: Cargo) -> None:
        host.arrange(PREPARE, cargo.directory, dict(cargo.owners)[host.name])

    def _publish(self, host: HostDoor, cargo: Cargo) -> None:
        """The whole directory gets its name in one rename."""
        host.arrange(PUBLISH, cargo.directory, cargo.origin)

    @contextmanager
    def _desk(
        self, host: HostDoor, cargo: Cargo, part: str, job: Job, mounts: Sequence[Mount],
        files: Mapping[str, str] | None = None,
    ) -> Generator[_Desk]:  # fmt: skip
        """A container that does `job`, with its files; what an earlier run left under its name goes first."""
        owner = dict(cargo.owners)[host.name]
        desk = _Desk(host, f"weights/{part}", container_name(host.project, f"weights-{part}"))
        _remove(desk)
        host.arrange(DESK, f"{host.home}/{desk.path}", owner)
        try:
            for name, text in {**(files or {}), "job.json": msgspec.json.encode(job).decode()}.items():
                host.write(f"{desk.path}/{name}", text, SECRET)
            at = f"{host.home}/{desk.path}"
            container = host.create(_spec(desk, cargo.image, owner, (
                *mounts, Mount(at, "/run/dsctl"), Mount(f"{at}/out", "/out", is_read_only=False),
            )))  # fmt: skip
            host.start(container)
            yield desk
        finally:
            with suppress(DsctlError):
                _remove(desk)
            with suppress(DsctlError):
                host.remove(desk.path)

    def _follow(self, desk: _Desk, voice: Voice | None) -> Status:
        return self._await(desk, _has_ended, voice)

    def _await(
        self, desk: _Desk, told: Callable[[Status], bool], voice: Voice | None, sender: _Desk | None = None
    ) -> Status:  # fmt: skip
        """Polls until the status is as wanted, or its writer (or the sender it depends on) has gone."""
        began = heard = shown = asked = time.monotonic()
        beat = -1.0
        while True:
            status = desk.status()
            if desk.path.endswith("receive"):
                self._progress[desk.host.name] = status
            if told(status):
                return status
            now = time.monotonic()
            if status.beat != beat:
                beat, heard = status.beat, now
            elif now - heard > 3.0 and not desk.runs():
                last = desk.status()
                return last if told(last) else msgspec.structs.replace(last, state="failed", kind=GONE, error=GONE)
            elif now - heard > SILENT_S:
                raise DsctlError(f"{desk.host.name}: nothing was heard of {desk.name} for {seconds(SILENT_S)}")
            if sender and now - asked > LOOK_S:
                asked = now
                if not sender.runs() and not told(status := desk.status()):
                    return msgspec.structs.replace(status, state="failed", kind=GONE, error=GONE)
            if voice and now - shown > TELL_S:
                shown = now
                self._progress[desk.host.name] = status
                self._tell(voice, began)
            time.sleep(self._pause_s)

    def _failure(self, host: HostDoor, status: Status) -> DsctlError:
        told = (
            f"{host.name}: the weights did not arrive: {status.error.splitlines()[0] if status.error else 'no reason'}"
        )
        why = "\n".join(status.error.splitlines()[1:])
        if status.kind == "space":
            return PreflightError(told, why=why, hint="dsctl weights gc, or free some space; whole files are kept")
        return DsctlError(told, why=why, hint="run the same command again; what has arrived is kept")

    def _tell(self, voice: Voice, began: float) -> None:
        """One line a receiver: how much, how fast, how long still."""
        for name, each in sorted(self._progress.items()):
            rate = each.moved / max(0.001, time.monotonic() - began)
            left = each.total - each.present - each.moved
            eta = f", {seconds(left / rate)} left" if rate and each.total else ""
            again = f", {each.again} chunks again" if each.again else ""
            there = each.present + each.moved
            voice.say(f"  {name}: {size(there)} of {size(each.total)}, {size(rate)}/s{eta}{again}")


def _has_ended(status: Status) -> bool:
    return status.state in ("done", "failed")


def memory_of(directory: str) -> Path:
    """Where hashes of a directory on this machine are remembered."""
    return cache_home() / "manifests" / f"{sha256(str(Path(directory).resolve()).encode()).hexdigest()[:24]}.json"


def _spec(desk: _Desk, image: str, owner: str, mounts: tuple[Mount, ...]) -> ContainerSpec:
    labels = {
        "schema": str(SCHEMA_VERSION),
        "project": desk.host.project,
        "role": "weights",
        "job": secrets.token_hex(4),
    }
    return ContainerSpec(
        name=desk.name, image=image, command=("python", "-m", "dsctl.reach.weights", "/run/dsctl/job.json"),
        labels={LABEL + key: value for key, value in labels.items()},
        environment={"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}, mounts=mounts, user=owner,
        health=Health(()), stop_s=5,
    )  # fmt: skip


def _remove(desk: _Desk) -> None:
    """No container of that name; it removes itself when it ends, so others may be faster."""
    end = time.monotonic() + 30
    while there := [each for each in desk.host.containers() if each.name == desk.name]:
        if time.monotonic() > end:
            raise DsctlError(f"{desk.host.name}: {desk.name} does not go away")
        for each in there:
            desk.host.stop(each.id, 5)
            with suppress(DsctlError):
                desk.host.delete(each.id)
        time.sleep(0.05)


def _token(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise PreflightError(f"weights.token_file: {path} cannot be read: {error.strerror}") from error
