"""Carrying out fleet steps: every action looks first and does only what is missing, so any cut can be run again."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from dsctl.base.container import SCHEMA_VERSION
from dsctl.base.errors import DsctlError, GateError, PreflightError
from dsctl.base.fleetstep import (
    AwaitReady,
    BuildImage,
    Canary,
    Compare,
    Drain,
    DropImage,
    DropRelease,
    DropWeights,
    EditTable,
    EndContainer,
    FetchImage,
    FleetStep,
    ForgetProject,
    Gate,
    MakeHome,
    Mark,
    PullImage,
    PullWeights,
    PutFile,
    PutSecret,
    Record,
    ReloadFront,
    RunContainer,
    ShareSecrets,
    Soak,
    SpreadWeights,
)
from dsctl.base.missing import Missing
from dsctl.base.units import size
from dsctl.base.voice import Voice
from dsctl.reach import fleetcanary, fleetwaits
from dsctl.reach.fleettable import edit
from dsctl.reach.hostdoor import HostDoor

if TYPE_CHECKING:
    from dsctl.reach.registry import Registry
    from dsctl.reach.weights.carrying import Carrier

SECRET = 0o400
WHOSE = {"replica.token": ("replica", "front"), "admin.token": ("front",)}  # which containers get to see which token
Hand = Callable[[HostDoor, FleetStep, Any, Voice], None]
Context = Callable[[str, str], bytes]  # kind, base → the build context of an image


class FleetDoor:
    """All hosts of one project. `context` makes the build context of an image where one has to be built."""

    def __init__(
        self, hosts: Mapping[str, HostDoor], context: Context | None = None, pause_s: float = 0.5,
        registry: Registry | None = None,
    ) -> None:  # fmt: skip
        self.hosts, self._registry = hosts, registry
        self._context, self._pause_s = context, pause_s
        self._carries: Carrier | None = None
        self._started: dict[tuple[str, str], float] = {}
        self._hands: dict[type[Any], Hand] = {
            MakeHome: self._make_home, ShareSecrets: self._share_secrets, PutSecret: self._put_secret,
            PutFile: self._put_file, FetchImage: self._fetch_image, PullImage: self._pull_image,
            BuildImage: self._build_image, RunContainer: self._run_container, EndContainer: self._end_container,
            EditTable: self._edit_table, AwaitReady: self._await_ready, Gate: self._gate, Soak: self._soak,
            Compare: self._compare, Canary: self._canary,
            Drain: self._drain, ReloadFront: self._reload_front, Record: self._record, Mark: self._mark,
            DropRelease: self._drop_release, DropImage: self._drop_image, ForgetProject: self._forget,
            SpreadWeights: self._spread_weights, PullWeights: self._pull_weights, DropWeights: self._drop_weights,
        }  # fmt: skip

    @contextmanager
    def held(self, verb: str) -> Generator[None]:
        """The lock of every host, taken in the order of their names; all are given back at the end."""
        taken: list[HostDoor] = []
        try:
            for name in sorted(self.hosts):
                self.hosts[name].claim(verb)
                taken.append(self.hosts[name])
            yield
        finally:
            if self._registry is not None:
                self._registry.close()
            for host in reversed(taken):
                with suppress(DsctlError):
                    host.release()

    def act(self, step: FleetStep, voice: Voice) -> None:
        """Carries one step out; an error names the host."""
        host = self.hosts.get(step.host)
        if host is None:
            raise PreflightError(f"{step.host} is not reached by this run", hint="run the same command again")
        self._hands[type(step.action)](host, step, step.action, voice)

    # homes, secrets, files

    def _make_home(self, host: HostDoor, step: FleetStep, action: MakeHome, voice: Voice) -> None:
        _ = step, action, voice
        host.write("schema", f"{SCHEMA_VERSION}\n")
        host.write("gateway/.made", "")

    def _share_secrets(self, host: HostDoor, step: FleetStep, action: ShareSecrets, voice: Voice) -> None:
        _ = host, step, voice
        doors = [self.hosts[name] for name in action.hosts]
        values: dict[str, str] = {}
        for name in action.names:
            path = f"secrets/{WHOSE[name][-1]}/{name}"
            found = (text for door in doors if not isinstance(text := door.read(path), Missing) and text.strip())
            values[name] = next(found, "") or secrets.token_urlsafe(32)
        mark = hashlib.sha256("\n".join(values[name] for name in sorted(values)).encode()).hexdigest()[:12]
        for door in doors:
            for name, value in values.items():
                for part in WHOSE[name]:
                    if door.read(f"secrets/{part}/{name}") != value:
                        door.write(f"secrets/{part}/{name}", value, SECRET)
            door.write("secrets.id", mark)

    def _put_secret(self, host: HostDoor, step: FleetStep, action: PutSecret, voice: Voice) -> None:
        _ = step, voice
        try:
            text = action.source.read_text(encoding="utf-8")
        except OSError as error:
            raise PreflightError(f"{action.source} cannot be read: {error.strerror}") from error
        host.write(f"secrets/nginx/{action.name}", text, SECRET)
        host.write(f"secrets.{action.name}.id", action.mark)
        host.remove("nginx/loaded")  # nginx has the old one in memory until it reads again

    def _put_file(self, host: HostDoor, step: FleetStep, action: PutFile, voice: Voice) -> None:
        _ = step, voice
        before = host.read(action.path)
        if before == action.text:
            return
        if not isinstance(before, Missing):
            host.write(f"{action.path}.before", before)
        host.write(action.path, action.text)

    def _record(self, host: HostDoor, step: FleetStep, action: Record, voice: Voice) -> None:
        _ = host, step, voice
        for name in action.hosts:
            self.hosts[name].write(f"releases/{action.number}.json", action.text)

    def _drop_release(self, host: HostDoor, step: FleetStep, action: DropRelease, voice: Voice) -> None:
        _ = step, voice
        host.remove(f"releases/{action.number}.json")

    def _mark(self, host: HostDoor, step: FleetStep, action: Mark, voice: Voice) -> None:
        _ = step, voice
        if action.text is None:
            host.remove(action.name)
        else:
            host.write(action.name, action.text)

    def _forget(self, host: HostDoor, step: FleetStep, action: ForgetProject, voice: Voice) -> None:
        _ = step, action, voice
        host.remove("")

    # images

    def _fetch_image(self, host: HostDoor, step: FleetStep, action: FetchImage, voice: Voice) -> None:
        source = self.hosts[action.source]
        wanted = action.id or source.image_id(action.image)
        if wanted and host.image_id(action.image) == wanted:
            return
        began = time.monotonic()
        if not self._by_layers(source, host, action.image, wanted, voice):
            _as_archive(source, host, action.image, voice)
        found = host.image_id(action.image)
        if wanted and found != wanted:
            raise DsctlError(
                f"{step.host}: {action.image} arrived as {found or 'nothing'}, not {wanted}",
                hint=f"look at the disk of {step.host}; run the same command again",
            )
        _remember(host, "fetch", "", time.monotonic() - began)

    def _by_layers(self, source: HostDoor, host: HostDoor, image: str, wanted: str, voice: Voice) -> bool:
        """Only the layers the host lacks, by a registry of ours; False where that does not work."""
        if self._registry is None:
            return False
        try:
            self._registry.bring(source, host, image, voice)
        except DsctlError as error:
            voice.say(f"  {host.name}: not by layers ({error.message}); as an archive")
            return False
        return not wanted or host.image_id(image) == wanted

    def _pull_image(self, host: HostDoor, step: FleetStep, action: PullImage, voice: Voice) -> None:
        _ = step, voice
        if not host.image_id(action.image):
            host.pull(action.image)

    def _build_image(self, host: HostDoor, step: FleetStep, action: BuildImage, voice: Voice) -> None:
        if host.image_id(action.image):
            return
        if self._context is None:
            raise PreflightError(f"{action.image} is on no host, and nothing can be built here",
                                 hint="image.name: an image the hosts have or can pull")  # fmt: skip
        context = self._context(action.kind, action.base)
        voice.say(f"  {step.host}: building from a context of {size(len(context))}")
        host.build(action.image, context)

    def _drop_image(self, host: HostDoor, step: FleetStep, action: DropImage, voice: Voice) -> None:
        _ = step, voice
        host.drop_image(action.image)

    # weights

    def _carrier(self) -> Carrier:
        """One for the whole plan: it remembers the root that the source told."""
        from dsctl.reach.weights.carrying import Carrier

        if self._carries is None:
            self._carries = Carrier(self.hosts, self._pause_s)
        return self._carries

    def _spread_weights(self, host: HostDoor, step: FleetStep, action: SpreadWeights, voice: Voice) -> None:
        _ = step
        rate = self._carrier().spread(action, voice)
        if rate > 1e6:  # of next to nothing nothing is learnt
            _remember(host, "weights", "", 1e9 / rate)

    def _pull_weights(self, host: HostDoor, step: FleetStep, action: PullWeights, voice: Voice) -> None:
        _ = step
        self._carrier().pull(host, action, voice)

    def _drop_weights(self, host: HostDoor, step: FleetStep, action: DropWeights, voice: Voice) -> None:
        _ = step, voice
        self._carrier().drop(host, action)

    # containers

    def _run_container(self, host: HostDoor, step: FleetStep, action: RunContainer, voice: Voice) -> None:
        spec = action.spec
        everything = host.containers()
        there = next((each for each in everything if each.name == spec.name), None)
        if there is not None and dict(there.labels) == dict(spec.labels):
            if not there.is_running:
                host.start(there.id)
            return
        if there is not None:
            voice.note(f"  {step.host}: {spec.name} of another specification gives way")
            host.stop(there.id, spec.stop_s)
            host.delete(there.id)
        cards = set(spec.gpus)
        for other in everything:
            if other.name == spec.name:
                continue
            if shared := cards & set(other.label("gpus").split(",")):
                raise PreflightError(f"{step.host}: {', '.join(sorted(shared))} went to {other.name} meanwhile",
                                     hint="run the same command again; it plans anew")  # fmt: skip
            if spec.label("port") and other.label("port") == spec.label("port"):
                raise PreflightError(f"{step.host}: port {spec.label('port')} went to {other.name} meanwhile",
                                     hint="run the same command again; it plans anew")  # fmt: skip
        self._started[(step.host, spec.name)] = time.monotonic()
        host.start(host.create(spec))

    def _end_container(self, host: HostDoor, step: FleetStep, action: EndContainer, voice: Voice) -> None:
        _ = step, voice
        there = next((each for each in host.containers() if each.name == action.name), None)
        if there is None or (action.id and there.id != action.id):
            return
        host.stop(there.id, action.grace_s)
        if not action.is_kept:
            host.delete(there.id)

    def _reload_front(self, host: HostDoor, step: FleetStep, action: ReloadFront, voice: Voice) -> None:
        _ = voice
        tested = host.run_in(action.container, ["nginx", "-t", "-q", "-c", "/etc/dsctl/nginx.conf"])
        if isinstance(tested, Missing):
            return  # it does not run; when it starts it reads the file
        if tested.code:
            before = host.read("nginx/nginx.conf.before")
            if not isinstance(before, Missing):
                host.write("nginx/nginx.conf", before)
            raise GateError(f"{step.host}: nginx refuses the new configuration; the old one is back",
                            why=tested.text.strip())  # fmt: skip
        done = host.run_in(action.container, ["nginx", "-s", "reload", "-c", "/etc/dsctl/nginx.conf"])
        if not isinstance(done, Missing) and done.code:
            raise DsctlError(f"{step.host}: nginx did not reload", why=done.text.strip())

    # the table and what waits

    def _edit_table(self, host: HostDoor, step: FleetStep, action: EditTable, voice: Voice) -> None:
        _ = host, step
        edit([self.hosts[name] for name in action.fronts], action, voice, self._pause_s)

    def _await_ready(self, host: HostDoor, step: FleetStep, action: AwaitReady, voice: Voice) -> None:
        fleetwaits.until_ready(host, action, voice, self._pause_s)
        began = self._started.get((step.host, action.container))
        if action.model and began is not None:
            _remember(host, "load", action.model, time.monotonic() - began)

    def _gate(self, host: HostDoor, step: FleetStep, action: Gate, voice: Voice) -> None:
        _ = step
        fleetwaits.through_gate(host, action, voice, self._pause_s)

    def _soak(self, host: HostDoor, step: FleetStep, action: Soak, voice: Voice) -> None:
        _ = step
        fleetwaits.soak(host, action, voice, self._pause_s)

    def _compare(self, host: HostDoor, step: FleetStep, action: Compare, voice: Voice) -> None:
        _ = step
        fleetcanary.same_tokens(host, action, voice, self._pause_s)

    def _canary(self, host: HostDoor, step: FleetStep, action: Canary, voice: Voice) -> None:
        _ = host, step
        fleetcanary.watch([self.hosts[name] for name in action.fronts], action, voice, self._pause_s)

    def _drain(self, host: HostDoor, step: FleetStep, action: Drain, voice: Voice) -> None:
        _ = step
        began = time.monotonic()
        fleetwaits.until_drained([self.hosts[name] for name in action.fronts], action, voice, self._pause_s)
        _remember(host, "drain", "", time.monotonic() - began)


def _as_archive(source: HostDoor, host: HostDoor, image: str, voice: Voice) -> None:
    """The whole image, streamed through this machine."""
    moved, began, told = 0, time.monotonic(), time.monotonic()

    def counted() -> Iterator[bytes]:
        nonlocal moved, told
        for chunk in source.save(image):
            moved += len(chunk)
            if time.monotonic() - told > 5:
                told = time.monotonic()
                voice.say(f"  {host.name}: {size(moved)} of {image}, {size(moved / (told - began))}/s")
            yield chunk

    host.load(counted())


def _remember(host: HostDoor, what: str, model: str, took_s: float) -> None:
    """One line of loads.jsonl, which the next plan's estimate reads."""
    with suppress(DsctlError):
        host.append("loads.jsonl", json.dumps({"what": what, "model": model, "s": round(took_s, 3)}))
