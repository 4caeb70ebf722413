"""The doctor's hands on hosts, through a real sshd: repairs with lock and journal, active tests, RAS and TLS ports."""

from __future__ import annotations

import datetime
import json
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from dsctl.base.missing import Missing
from dsctl.cli.app import run
from dsctl.doctor.model import Case
from dsctl.facts import survey
from dsctl.flows import fleetlook, remedy
from dsctl.flows.hostcheck import Fleet
from dsctl.reach import certificates, ras
from dsctl.reach.ssh import hostknobs, hostprobes, lease
from tests.dsctl.doctor import test_ras
from tests.dsctl.reach.ssh import server

THP = "sys/kernel/mm/transparent_hugepage/enabled"


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[server.Sshd]:
    """One server for all tests here."""
    if server.program() is None or shutil.which("ssh") is None:
        pytest.skip("openssh is not installed")
    running = server.start(tmp_path_factory.mktemp("sshd"))
    yield running
    running.stop()


@pytest.fixture
def root(tmp_path: Path, sshd: server.Sshd, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the hosts near-1 and near-2, both this machine, whose kernel settings are files below `root`."""
    entry = {
        "ansible_host": "127.0.0.1", "ansible_port": sshd.port, "ansible_user": sshd.user,
        "ansible_ssh_private_key_file": str(sshd.key),
    }  # fmt: skip
    inventory = {"all": {"hosts": {"near-1": entry, "near-2": entry, "gone-1": entry | {"ansible_port": 1}}}}
    (tmp_path / "hosts.yaml").write_text(json.dumps(inventory))
    (tmp_path / "known_hosts").write_text(sshd.known_hosts.read_text())
    (tmp_path / "dsctl.yaml").write_text(
        f"project: doctor-test\ninventory:\n  file: hosts.yaml\n  state_dir: {tmp_path}/state\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSCTL_HOME", str(tmp_path / "home"))
    setting = tmp_path / "root" / THP
    setting.parent.mkdir(parents=True)
    setting.write_text("always madvise [never]\n")
    monkeypatch.setattr(survey, "SCRIPT", survey.SCRIPT.replace(f"/{THP}", str(setting)))
    monkeypatch.setattr(remedy, "ROOT", str(tmp_path / "root"))
    return tmp_path / "root"


FIX = ["doctor", "--hosts", "near-1", "--only", "THP-NEVER", "--threshold", "info", "--fix"]


def test_a_host_is_repaired_once(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--fix over SSH: shown with its undo, agreed to, written down on the host before the change, done, once."""
    assert run(FIX) == 8
    assert run([*FIX, "--dry-run"]) == 3
    assert (root / THP).read_text() == "always madvise [never]\n"
    assert f"near-1: /{THP}: never → madvise   undo: echo 'never' | sudo tee" in capsys.readouterr().err
    assert run([*FIX, "--yes"]) == 0
    assert (root / THP).read_text() == "madvise\n"
    lines = [json.loads(line) for line in (tmp_path / "state/doctor/journal.jsonl").read_text().splitlines()]
    assert [(line["state"], line["old"], line["new"]) for line in lines] == [
        ("before", "never", "madvise"), ("done", "never", "madvise"),
    ]  # fmt: skip
    assert not (tmp_path / "home/doctor").exists()  # this machine was not touched
    capsys.readouterr()
    assert run([*FIX, "--yes"]) == 0
    assert "nothing of what was found" in capsys.readouterr().err


def test_one_host_at_a_time(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the first host fails, the second is not touched."""
    wrote: list[str] = []

    def write(knobs: hostknobs.HostKnobs, name: str, _value: str) -> None:
        wrote.append(f"{knobs.journal.partition(':')[0]} {name}")

    monkeypatch.setattr(hostknobs.HostKnobs, "write", write)  # the kernel takes it and changes nothing
    assert run([*FIX[:2], "near-1,near-2", *FIX[3:], "--yes"]) == 6
    assert wrote == [f"near-1 {THP}"]
    assert [json.loads(x)["state"] for x in (tmp_path / "state/doctor/journal.jsonl").read_text().splitlines()] == [
        "before"
    ]


def test_a_locked_host_is_left_alone(root: Path) -> None:
    """Somebody else's lock on the host: exit 5, and nothing changes."""
    from dsctl.config.settings import load
    from dsctl.flows import hosts

    settings = load(None)
    with hosts.ways(settings) as ways:
        host = ways.host(hosts.chosen(settings, "near-1")[0])
        with lease.hold(
            [host], f"{settings.text('inventory.state_dir')}/doctor", {"verb": "x", "actor": "y", "since": 1}
        ):
            assert run([*FIX, "--yes"]) == 5
    assert (root / THP).read_text() == "always madvise [never]\n"


def test_deep_over_hosts(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """--deep --hosts measures each disk and the network both ways; a host that is gone does not hide the others."""
    monkeypatch.setattr(hostprobes, "RUNS_S", 0.2)
    run(["doctor", "--hosts", "all", "--deep", "--sample", "1s", "--json", "--allow-incomplete"])
    said = json.loads(capsys.readouterr().out)
    looked = "\n".join(said["measured"])
    for words in ("disk of near-1: ", "disk of near-2: ", "network near-1 → near-2: ", "network near-2 → near-1: "):
        assert words in looked
    assert [probe["probe"] for probe in said["unanswered"]] == ["host gone-1"]
    unchecked = {v["rule"] for v in said["not_checked"]}
    assert {"DEEP-GLOO", "DEEP-KERNELS"} <= unchecked  # they are about this machine, which was not looked at
    assert not {"DEEP-NETWORK", "DEEP-DISK"} & unchecked


def test_a_shut_port_is_a_finding(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that cannot reach the other says so in its own words; no python3 is Missing, not a finding."""
    from dsctl.config.settings import load
    from dsctl.flows import hosts

    settings = load(None)
    with hosts.ways(settings) as ways:
        host = ways.host(hosts.chosen(settings, "near-1")[0])
        shut = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(*s.getsockname()); s.close()"
        monkeypatch.setattr(hostprobes, "GIVE", shut)
        found = hostprobes.network(host, host, "127.0.0.1")
        assert isinstance(found, str)
        assert "refused" in found
        monkeypatch.setattr(hostprobes, "GIVE", "import sys; sys.exit('no such address')")
        assert hostprobes.network(host, host, "x") == Missing("near-1: no such address")


def test_ras_through_ssh(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A RAS server that only the host can reach is asked through SSH; a job on two hosts is told once."""
    from dsctl.config.settings import load
    from dsctl.flows import hosts

    monkeypatch.setattr(fleetlook, "RAS_PAUSE_S", 0.0)
    settings = load(None)
    fleet = Fleet({name: Case() for name in ("near-1", "near-2")})
    with test_ras.server(lambda _: test_ras._status([7, 7, 6, 7])) as at, hosts.ways(settings) as ways:
        monkeypatch.setattr(ras, "PORT", at)
        opened = {e.name: ways.host(e) for e in hosts.chosen(settings, "near-1,near-2")}
        fleetlook._ras(fleet, opened)
    assert test_ras._words(fleet.cases["near-1"]) == [
        "NCCL's own status: rank 2 on n1 (pid 102) is behind the others, and nothing moves."
    ]
    assert fleet.cases["near-2"].facts["ras"] == "the same job as on another host"
    mute = Fleet({"near-1": Case(facts={"listening": frozenset({22})})})
    fleetlook._ras(mute, {"near-1": opened["near-1"]})
    assert str(mute.cases["near-1"].facts["ras"]).startswith("no NCCL job")


def _certificate(directory: Path, days: int) -> Path:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "front.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(7)
        .not_valid_before(now - datetime.timedelta(days=400))
        .not_valid_after(now + datetime.timedelta(days=days, hours=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = directory / f"{days}.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@contextmanager
def _listening(chain: Path | None) -> Iterator[int]:
    """A TLS server (or, without a chain, one that only says hello) on a free port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if chain:
        context.load_cert_chain(chain)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                link, _ = listener.accept()
                with link, suppress(OSError):
                    if chain:
                        context.wrap_socket(link, server_side=True).close()
                    else:
                        link.sendall(b"220 hello\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(30)


@pytest.mark.parametrize(("days", "rule"), [(-5, "TLS-EXPIRY"), (10, "TLS-EXPIRY"), (90, "")])
def test_certificates_of_hosts(
    days: int,
    rule: str,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What a host's TLS port shows is judged by its end, under the host's name, whatever else is wrong with it."""
    with _listening(_certificate(tmp_path, days)) as at:
        monkeypatch.setattr(certificates, "USUAL", (at,))
        run(["doctor", "--hosts", "near-1", "--json"])
    said = json.loads(capsys.readouterr().out)
    found: list[dict[str, Any]] = [f for f in said["findings"] if f["rule"] == "TLS-EXPIRY"]
    assert [(f["rule"], f["host"]) for f in found] == ([(rule, "near-1")] if rule else [])
    assert "TLS-EXPIRY" not in {v["rule"] for v in said["not_checked"]}


def test_a_port_without_tls() -> None:
    """A port that speaks something else has no certificate; one that is shut is Missing."""
    with _listening(None) as at:
        assert certificates.left("127.0.0.1", at) is None
    assert isinstance(certificates.left("127.0.0.1", at), Missing)
