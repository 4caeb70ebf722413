"""Absurd requests get an answer below 500, and the server serves on (fake core)."""

from __future__ import annotations

from tests.engine.server.fuzz import shots
from tests.engine.server.programs import Server


def test_absurd_requests_are_the_clients_fault(server: Server) -> None:
    """A few hundred seeded absurd requests: 2xx or 4xx with an error object, no restart, no 5xx."""
    restarts = server.info()["restarts"]
    for index, shot in enumerate(shots(seed=1, count=400)):
        answer = server.http.post(server.url + shot.path, content=shot.data, headers={"x-dsctl-deadline-ms": "20000"})
        assert answer.status_code < 500, (index, shot, answer.text)
        if answer.status_code >= 400:
            assert answer.json()["error"]["message"], (index, shot)
    assert server.info()["restarts"] == restarts
    assert server.complete(prompt="x", max_tokens=2)["usage"]["completion_tokens"] == 2
