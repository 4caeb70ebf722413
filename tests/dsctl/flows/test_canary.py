"""Canaries on real gateways and replicas: a good one goes through, six bad ones go back, and no client notices."""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dsctl.base.errors import GateError, PreflightError, UsageError
from dsctl.config.inventory import Entry, Inventory
from dsctl.config.schema import Scalar
from dsctl.flows import fleetverbs as verbs
from dsctl.flows.fleet import Fleet, observe
from dsctl.flows.fleetplan import plan_deploy
from dsctl.flows.fleetstatus import status
from dsctl.oracle.tokens import expected_ids, text_of
from tests.dsctl.flows.machines import Recorder, settings
from tests.dsctl.flows.processhost import ProcessFleet
from tests.dsctl.planning import fleets

pytestmark = pytest.mark.timeout(600)
TOKENS = 6
BASE: dict[str, Scalar] = {
    "project": "prod", "engine__kind": "oracle", "engine__device": "cpu", "image__front": fleets.IMAGE,
    "placement__hosts": "all", "placement__max_per_host": 3, "rollout__soak_s": 0.0, "gateway__no_auth": True,
    "replicas": 3, "front__gateway_port": 20080, "rollout__drain_timeout_s": 20.0,
    "rollout__canary_s": 2.0, "rollout__canary_requests": 15, "rollout__canary_ttft": 1.2,
}  # fmt: skip


@dataclass
class Clients:
    """Streams at both fronts without pause; every answer that is not the expected one is remembered."""

    fleet: ProcessFleet
    asked: int = 0
    wrong: list[str] = field(default_factory=list)
    shares: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)  # front, copy → offered, taken
    acts: dict[str, Callable[[str], None]] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Clients:
        for number in range(10):
            self._threads.append(threading.Thread(target=self._ask_on, args=(number,)))
        self._threads.append(threading.Thread(target=self._look_on))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask_on(self, number: int) -> None:
        address = self.fleet.addresses["ab"[number % 2]]
        while not self._stop.is_set():
            seed = 1000 * number + self.asked
            try:
                text = ask(address, seed)
                expected = text_of(expected_ids(seed, 0, TOKENS)[0])
                if text != expected:
                    self.wrong.append(f"altered: {text!r} for {expected!r}")
            except (OSError, AssertionError, ValueError, http.client.HTTPException) as error:
                self.wrong.append(f"{type(error).__name__}: {error}")
            self.asked += 1

    def _look_on(self) -> None:
        """What the gateways say of canaries, while they stand; and what the test does when one does."""
        while not self._stop.is_set():
            for name in "ab":
                for row in gateway_rows(self.fleet, name):
                    if row["share"]:
                        self.shares[name, row["name"]] = (row["offered"], row["taken"])
                        act = self.acts.pop("standing", None)
                        if act is not None:
                            act(row["url"])
            time.sleep(0.1)

    def share(self) -> tuple[int, float]:
        """Requests that a canary could have had, and the part of them it got, over both fronts."""
        offered = sum(each[0] for each in self.shares.values())
        return offered, sum(each[1] for each in self.shares.values()) / max(1, offered)


def ask(address: str, seed: int) -> str:
    """One stream read to its end; AssertionError when it is not whole."""
    body = {"messages": [{"role": "user", "content": "hi"}], "seed": seed, "max_tokens": TOKENS, "stream": True}
    connection = http.client.HTTPConnection(address, 20080, timeout=120)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    assert answer.status == 200, f"{answer.status} {text[:300]}"
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]", text[-400:]
    choices = [choice for event in events[:-1] for choice in json.loads(event).get("choices", [])]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def gateway_rows(fleet: ProcessFleet, host: str) -> list[dict[str, Any]]:
    """The replicas as that host's gateway tells them; none while it does not answer."""
    token = fleet.fake.machines[host].files.get("prod/secrets/front/admin.token", "")
    headers = {"authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"http://{fleet.addresses[host]}:20080/-/status", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return list(json.loads(answer.read())["replicas"])
    except OSError:
        return []


def switch(fleet: ProcessFleet, fault: str) -> Callable[[str], None]:
    """What turns a fault of the oracle at that address on."""

    def turn(url: str) -> None:
        token = fleet.fake.machines["a"].files["prod/secrets/replica/replica.token"]
        headers = {"authorization": f"Bearer {token}"}
        asked = urllib.request.Request(f"{url}/-/fault", fault.encode(), headers)
        urllib.request.urlopen(asked, timeout=60).close()

    return turn


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[ProcessFleet]:
    """Three hosts without anything on them yet."""
    made = ProcessFleet(tmp_path)
    for machine in made.fake.machines.values():
        machine.images["bad:1"] = "sha256:bad"
    yield made
    made.close()


def project(processes: ProcessFleet, **changes: Scalar) -> Fleet:
    """The project on these hosts."""
    chosen = settings(**{**BASE, "image__name": fleets.IMAGE, **changes})
    inventory = Inventory({name: Entry(name) for name in processes.names}, {}, Path("hosts.yaml"))
    return Fleet(chosen, inventory, processes.names, processes.names[:2], lambda entry: processes.door(entry.name), {},
                 None, pause_s=0.2)  # fmt: skip


def specs(fleet: Fleet) -> set[str]:
    """The specifications of all copies."""
    return {each.spec_hash for each in observe(fleet).copies.values()}


BAD: dict[str, tuple[str, str, str]] = {  # what its image does, what is switched on while it stands, what is said
    "never starts": ("exit", "", "ended with code"),
    "completions hang": ("hang", "", "did not complete a request"),
    "completions hang later": ("", "hang", "worse than the old release|stopped serving"),
    "30 % errors": ("", "error:value=0.3", "worse than the old release: .* errors in"),
    "first token three times later": ("late:value=3", "", "first token takes"),
    "wrong tokens": ("wrong", "", "answers a golden prompt otherwise"),
    "dies in soak": ("", "crash:after=1", "stopped serving|worse than the old release"),
}
QUICK = ("30 % errors", "wrong tokens")


@pytest.mark.parametrize("kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.long) for k in BAD])
def test_a_bad_canary_goes_back_and_no_client_notices(processes: ProcessFleet, kind: str) -> None:
    """It is found out, rolled back once to the old specification, kept to its share, and every stream is exact."""
    in_image, later, said = BAD[kind]
    old = project(processes)
    verbs.deploy(old, Recorder())
    before = specs(old)
    processes.faults["bad:1"] = in_image
    bad = project(processes, image__name="bad:1", rollout__canary=10.0, rollout__gate_timeout_s=5.0)
    voice = Recorder()
    with Clients(processes) as clients:
        if later:
            clients.acts["standing"] = switch(processes, later)
        with pytest.raises(GateError, match=said) as caught:
            verbs.deploy(bad, voice)
        settled = clients.asked
        while clients.asked < settled + 20:
            time.sleep(0.05)
    assert clients.wrong == []
    assert "rolled back to what release 1 was, with 3 copies" in caught.value.why
    assert len([line for line in voice.said if line.startswith("rolling back")]) == 1
    assert specs(old) == before
    assert [each.outcome for each in observe(old).releases].count("bad") == 1
    assert len(observe(old).copies) == 3
    assert plan_deploy(old).steps == ()
    offered, share = clients.share()
    if offered >= 100:
        assert 0.08 <= share <= 0.12, (offered, share)


def test_a_good_canary_goes_through_and_can_be_held(processes: ProcessFleet) -> None:
    """Held, it stands at its share and other changes are refused; aborted it goes, promoted the rest follows."""
    old = project(processes)
    verbs.deploy(old, Recorder())
    before = specs(old)
    calm: dict[str, Scalar] = {"rollout__canary_ttft": 50.0, "rollout__canary": 10.0, "engine__max_num_seqs": 8}
    held = project(processes, rollout__canary_hold=True, **calm)
    with pytest.raises(UsageError, match="no canary"):
        verbs.decide_canary(old, Recorder(), is_promoted=True)
    with Clients(processes) as clients:
        verbs.deploy(held, Recorder())
        asked = clients.asked
        while clients.asked < asked + 250:
            time.sleep(0.05)
        told = status(held)
        assert [each.share for each in told.copies] == [0.0, 0.0, 0.0, 0.1]
        assert any("dsctl canary promote" in line for line in told.troubles)
        with pytest.raises(PreflightError, match="is a canary"):
            verbs.scale(held, 4, Recorder())
        offered, share = clients.share()
        assert offered >= 200
        assert 0.08 <= share <= 0.12, (offered, share)
        verbs.decide_canary(old, Recorder(), is_promoted=False)
        assert specs(old) == before
        assert plan_deploy(old).steps == ()
        verbs.deploy(held, Recorder())
        verbs.decide_canary(held, Recorder(), is_promoted=True)
        assert len(specs(old)) == 1
        assert specs(old) != before
        assert plan_deploy(project(processes, engine__max_num_seqs=8)).steps == ()
    assert clients.wrong == []
