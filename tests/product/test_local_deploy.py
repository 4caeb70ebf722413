"""dsctl on this machine from outside: real supervisord, real gateway, real replicas, the command line."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from dsctl.reach.lock import held
from tests.engine.checkpoints import make_checkpoint
from tests.product.conftest import Make
from tests.product.deployment import Deployment, Load, wait_for

CONTRACT = {"name", "state", "url", "api_pid", "core_pids", "restarts", "numerics_id"}


def test_the_life_of_a_deployment(deployment: Deployment) -> None:
    """deploy, status, chat, logs, scale up and down, deploy again, down: as a new user does it."""
    missing = deployment.run("status", expect=1)
    assert "dsctl deploy" in missing.stderr
    done = deployment.run("deploy")
    url = done.stdout.split(" serves on ")[1].split()[0]
    assert f"curl {url}/v1/chat/completions" in done.stdout
    assert "start r1" in done.stderr
    _assert_no_secret_is_shown(deployment, done.stdout + done.stderr)
    told = deployment.status()
    assert set(told) == {"schema_version", "project", "url", "replicas"}
    assert [set(replica) for replica in told["replicas"]] == [CONTRACT, CONTRACT]
    assert (told["url"], [replica["state"] for replica in told["replicas"]]) == (url, ["ready", "ready"])
    assert deployment.run("chat", "hello", "--max-tokens", "4").stdout.strip()
    assert "r1" in deployment.run("logs", "-n", "5").stdout
    assert json.loads(deployment.run("plan", "--json").stdout) == {"schema_version": 1, "steps": []}
    again = deployment.run("deploy")
    assert "nothing to do" in again.stderr
    assert {r["api_pid"] for r in deployment.status()["replicas"]} == {r["api_pid"] for r in told["replicas"]}
    deployment.run("scale", "3")
    assert deployment.names() == ["r1", "r2", "r3"]
    deployment.run("scale", "1")
    assert deployment.names() == ["r1"]
    assert "--yes" in deployment.run("scale", "0", expect=8).stderr
    assert "--yes" in deployment.run("down", expect=8).stderr
    deployment.run("down", "--yes")
    deployment.run("status", expect=1)
    wait_for(lambda: not deployment.processes(), "all processes to end")


def test_a_change_rolls_without_a_failed_request(deployment: Deployment) -> None:
    """While every replica is replaced, and while some are drained, clients get nothing but answers."""
    deployment.run("deploy")
    before = deployment.status()
    with Load(before["url"]) as load:
        deployment.configure("engine: oracle\nmax_batch_size: 8\n")
        assert deployment.run("diff", expect=3).stdout
        deployment.run("deploy")
        deployment.run("scale", "1")
    assert set(load.statuses) == {200}
    old = {replica["api_pid"] for replica in before["replicas"]}
    assert not old & set(deployment.processes())


def test_a_deploy_that_fails_leaves_what_served(deployment: Deployment, tmp_path: Path) -> None:
    """A checkpoint that cannot be loaded: exit 7, the log's last words, and the old replicas answer on."""
    deployment.run("deploy")
    before = deployment.status()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    deployment.configure(f"model: {tmp_path / 'broken'}\n")
    with Load(before["url"], clients=1) as load:
        failed = deployment.run("deploy", expect=7)
    assert "r1, r2 still serve" in failed.stderr
    assert "config.json" in failed.stderr
    assert set(load.statuses) == {200}
    assert deployment.status() == before


def test_what_is_killed_comes_back(deployment: Deployment) -> None:
    """A killed replica is restarted by itself; after a killed supervisord status says so and deploy repairs."""
    deployment.run("deploy")
    os.kill(deployment.pid("r1"), signal.SIGKILL)
    wait_for(lambda: deployment.names() == ["r1", "r2"], "r1 to come back")
    os.kill(deployment.pid("supervisord"), signal.SIGKILL)
    wait_for(lambda: "supervisord" not in deployment.processes().values(), "supervisord to die")
    assert "supervisord is not running" in deployment.run("status", expect=4).stderr
    deployment.run("deploy")
    told = deployment.status()
    assert deployment.complete(told["url"]) == 200
    running = sorted(deployment.processes().values())
    assert running == sorted(["supervisord", "gateway", *(replica["name"] for replica in told["replicas"])])


def test_an_interrupted_deploy_goes_on(deployment: Deployment) -> None:
    """--timeout ends with 124, SIGTERM in the middle with 143, Ctrl-C with 130; the next deploy finishes the work."""
    assert "--timeout" in deployment.run("deploy", "--timeout", "0.01", expect=124).stderr
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = deployment.start("deploy")
        assert process.stderr is not None
        for line in process.stderr:
            if "start r2" in line or "wait until" in line:
                process.send_signal(number)
                break
        rest = process.communicate(timeout=60)[1]
        assert process.returncode == code, rest
        assert "goes on from here" in rest
    deployment.run("deploy")
    assert deployment.names() == ["r1", "r2"]


def test_one_operator_at_a_time(deployment: Deployment) -> None:
    """While one verb changes the project another is refused with the holder's pid and verb; looking is free."""
    with held(deployment.project / "lock", "rehearsal"):
        refused = deployment.run("deploy", expect=5)
        deployment.run("plan", expect=3)
        deployment.run("status", expect=1)
    assert f"pid {os.getpid()}" in refused.stderr
    assert "rehearsal" in refused.stderr


def test_two_homes_do_not_meet(make: Make) -> None:
    """Two homes, one of them with a path too long for a socket and with spaces, serve side by side and end alone."""
    first, second = make("home"), make("a long home/" + "x" * 90 + "/é of it")
    for each in (first, second):
        each.configure("engine: oracle\nreplicas: 1\n")
        each.run("deploy")
    urls = [first.status()["url"], second.status()["url"]]
    assert urls[0] != urls[1]
    assert [first.complete(url) for url in urls] == [200, 200]
    second.run("down", "--yes")
    assert first.complete(urls[0]) == 200


def test_a_taken_port_is_refused(deployment: Deployment) -> None:
    """A port the user chose and somebody has: exit 6 before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        deployment.configure(f"engine: oracle\nport: {taken.getsockname()[1]}\n")
        refused = deployment.run("deploy", expect=6)
    assert "cannot listen on" in refused.stderr
    assert not deployment.processes()


def test_keys_open_the_front(deployment: Deployment) -> None:
    """With a key issued the front refuses others; only the hash is on disk; a revoked key is refused again."""
    deployment.configure("engine: oracle\nreplicas: 1\n")
    key = deployment.run("keys", "issue", "test").stdout.strip()
    deployment.run("deploy")
    url = deployment.status()["url"]
    assert deployment.complete(url) == 401
    assert deployment.complete(url, key) == 200
    texts = [path.read_bytes() for path in deployment.home.rglob("*") if path.is_file()]
    assert not [text for text in texts if key.encode() in text]
    key_id = json.loads(deployment.run("keys", "ls", "--json").stdout)["keys"][0]["id"]
    deployment.run("keys", "revoke", key_id)
    wait_for(lambda: deployment.complete(url, key) == 401, "the key to be refused")
    assert deployment.complete(url) == 401
    assert "no key is left" in deployment.run("keys", "ls").stderr


def _assert_no_secret_is_shown(deployment: Deployment, shown: str) -> None:
    """Tokens are in files of their owner only: in no command line, no environment, no log, no output."""
    tokens = [(deployment.project / "gateway" / f"{name}.token").read_text().strip() for name in ("admin", "replica")]
    shown += deployment.logs()
    for pid in deployment.processes():
        shown += Path(f"/proc/{pid}/cmdline").read_text() + Path(f"/proc/{pid}/environ").read_text()
    assert not [token for token in tokens if token in shown]
    open_ones = [p for p in deployment.project.rglob("*") if not p.is_socket() and p.stat().st_mode & 0o077]
    assert not open_ones


def test_the_bundled_model_answers(deployment: Deployment) -> None:
    """The bundled model on the real engine: it answers, survives its core's death, and leaves no process behind."""
    deployment.configure("replicas: 1\n")
    deployment.run("deploy")
    told = deployment.status()
    assert deployment.run("chat", "What is 17 + 25?", "--temperature", "0").stdout == "42\n"
    assert told["replicas"][0]["core_pids"]
    os.kill(told["replicas"][0]["core_pids"][0], signal.SIGKILL)
    assert deployment.complete(told["url"]) == 200
    deployment.run("down", "--yes")
    wait_for(lambda: not deployment.processes(), "the cores to end")


@pytest.mark.long
def test_the_engine_rolls_under_load(deployment: Deployment, tmp_path: Path) -> None:
    """With the real engine a change of the configuration loses no request either."""
    make_checkpoint(tmp_path / "dsctl-tiny", tokenizer=True)
    deployment.configure(f"model: {tmp_path / 'dsctl-tiny'}\n")
    deployment.run("deploy")
    with Load(deployment.status()["url"], clients=2) as load:
        deployment.configure(f"model: {tmp_path / 'dsctl-tiny'}\nmax_batch_size: 8\n")
        deployment.run("deploy")
    assert set(load.statuses) == {200}
