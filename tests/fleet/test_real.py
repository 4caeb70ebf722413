"""The real engine on a host: the bundled model in a container of the product's image, behind the front."""

from __future__ import annotations

import http.client
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.bed import images
from tests.fleet.bed.hosts import MODELS_THERE, Bed
from tests.fleet.bed.places import Place
from tests.fleet.operator import Operator, ask

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(900)]
HOST = "gpu03"


@pytest.fixture
def operator(loaded: Bed, place: Place, tmp_path: Path, project: str) -> Iterator[Operator]:
    """A project on one host that has the image with the real engine."""
    image = images.with_engine(place, loaded.host(HOST).container, loaded.image)
    made = Operator(tmp_path / "op", loaded, project, random.randrange(8100, 9900), place, {HOST: "root"})
    made.settings["engine"] = {"kind": "dsctl"}
    made.save(model=f"{MODELS_THERE}/dsctl-tiny", replicas=1, image={"name": image, "front": loaded.image})
    yield made
    made.end()


def chat(operator: Operator, question: str) -> str:
    """The whole answer to one question, asked at the front."""
    asked = {"model": "m", "messages": [{"role": "user", "content": question}], "max_tokens": 40, "temperature": 0}
    connection = http.client.HTTPConnection(operator.hosts[0].address, operator.port, timeout=120)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(asked), {"content-type": "application/json"})
        answer = connection.getresponse()
        told = json.loads(answer.read())
    finally:
        connection.close()
    assert answer.status == 200, told
    return str(told["choices"][0]["message"]["content"])


def test_the_real_engine_serves_behind_the_front(operator: Operator) -> None:
    """Deployed through its gates, it answers as trained; a dead core costs no request and no repair."""
    operator.run("deploy")
    assert operator.status()["replicas"][0]["state"] == "ready"
    assert "42" in chat(operator, "What is 17 + 25?")
    before = ask(operator.hosts[0].address, operator.port)
    assert before
    kill = "kill -9 $(pgrep -f '[e]ngine.core' | head -n 1)"
    operator.shell(0, "sh", "-c", kill)
    assert ask(operator.hosts[0].address, operator.port) == before
    operator.run("plan")
