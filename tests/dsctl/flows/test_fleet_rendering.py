"""What is rendered for hosts: whole files as they shall be, accepted by the programs that read them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dsctl.config.schema import Scalar
from dsctl.flows import fleetrendered
from tests.dsctl.flows.machines import settings

ORACLE: dict[str, Scalar] = {"project": "prod", "engine__kind": "oracle", "served_model_name": "m"}
CASES: dict[str, dict[str, Scalar]] = {
    "fleet_plain": {**ORACLE, "gateway__no_auth": True},
    "fleet_cards": {
        "project": "prod", "model": "/data/models/v3", "engine__device": "cuda", "placement__gpus_per_replica": 4,
        "engine__max_num_seqs": 32, "front__port": 443, "front__tls_certificate": "c.pem", "front__tls_key": "k.pem",
        "front__server_names": "llm.example.org llm", "front__rate_limit": 20, "image__wheelhouse": "wheels",
    },
}  # fmt: skip


def rendered(case: str) -> dict[str, str]:
    """Every file of a case."""
    given = settings(**CASES[case])
    made = {**fleetrendered.docker(given), **fleetrendered.compose_file(given)}
    return {**made, **fleetrendered.nginx(given), **fleetrendered.systemd(given)}


@pytest.mark.parametrize("case", CASES)
def test_files_are_what_they_were(case: str, golden: Callable[[str, str], None]) -> None:
    """Every rendered file equals its golden copy, whole."""
    for name, text in rendered(case).items():
        golden(f"{case}/{name}", text)


@pytest.mark.parametrize("case", CASES)
def test_containers_may_do_as_little_as_they_need(case: str) -> None:
    """Non-root (but for nginx on a low port), read-only, no capabilities, bounded logs and processes, no secrets."""
    services = json.loads(rendered(case)["compose.json"])["services"]
    assert set(services) == {"gateway", "nginx", "r1", "r2"}
    for name, service in services.items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["logging"]["options"]["max-size"]
        assert service["pids_limit"] > 0
        assert all(volume["read_only"] for volume in service["volumes"])
        assert all(not key.endswith(("TOKEN", "KEY", "PASSWORD")) for key in service["environment"])
        is_low = name == "nginx" and case == "fleet_cards"
        assert service["user"] == ("0:0" if is_low else "10001:10001")
        assert bool(service.get("cap_add")) == is_low


def test_cards_are_given_by_uuid_and_once() -> None:
    """No two copies share a card, and pinned memory is not bounded."""
    services = json.loads(rendered("fleet_cards")["compose.json"])["services"]
    given = [services[name]["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for name in ("r1", "r2")]
    assert len({uuid for each in given for uuid in each}) == 8
    assert services["r1"]["ulimits"]["memlock"] == {"soft": -1, "hard": -1}


@pytest.mark.fleet
@pytest.mark.parametrize("case", CASES)
def test_nginx_accepts_its_configuration(case: str, tmp_path: Path) -> None:
    """`nginx -t` finds nothing wrong, with certificates in place of the mounted ones."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    text = rendered(case)["nginx.conf"].replace("/tmp/", f"{tmp_path}/").replace("/run/secrets", str(tmp_path))
    (tmp_path / "nginx.conf").write_text(text)
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x"]
    made += ["-keyout", str(tmp_path / "tls.key"), "-out", str(tmp_path / "tls.crt")]
    subprocess.run(made, check=True, capture_output=True, timeout=60)
    done = subprocess.run(
        ["nginx", "-t", "-c", str(tmp_path / "nginx.conf")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


@pytest.mark.fleet
def test_systemd_accepts_its_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds nothing wrong."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    for name, text in fleetrendered.systemd(settings()).items():
        (tmp_path / name).write_text(text)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert name not in done.stderr, done.stderr


@pytest.mark.fleet
@pytest.mark.parametrize("case", CASES)
def test_compose_accepts_its_file(case: str, tmp_path: Path) -> None:
    """docker-compose's own schema and reading find nothing wrong; its 1.29 does not know `name` at the top yet."""
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not installed")
    told = json.loads(rendered(case)["compose.json"])
    assert told.pop("name").startswith("dsctl-")
    (tmp_path / "compose.json").write_text(json.dumps(told))
    done = subprocess.run(
        ["docker-compose", "-p", "x", "-f", str(tmp_path / "compose.json"), "config", "-q"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
