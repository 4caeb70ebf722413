"""Files of host keys are read as ssh reads them."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

import pytest

from dsctl.reach.ssh import knownhosts

KEY, OTHER = b"key", b"other"
ONE, TWO = (base64.b64encode(each).decode() for each in (KEY, OTHER))


@pytest.mark.parametrize(
    ("text", "name", "verdict"),
    [
        (f"gpu01 ssh-ed25519 {ONE}", "gpu01", "known"),
        (f"GPU01,10.0.0.1 ssh-ed25519 {ONE} a comment", "gpu01", "known"),
        (f"*.example.com ssh-ed25519 {ONE}", "a.example.com", "known"),
        (f"*.example.com,!b.example.com ssh-ed25519 {ONE}", "b.example.com", "unknown"),
        (f"[10.0.0.1]:2222 ssh-ed25519 {ONE}", "[10.0.0.1]:2222", "known"),
        (f"[10.0.0.1]:2222 ssh-ed25519 {ONE}", "10.0.0.1", "unknown"),
        (f"gpu01 ssh-ed25519 {TWO}", "gpu01", "changed"),
        (f"gpu01 ssh-rsa {TWO}", "gpu01", "changed"),
        (f"gpu01 ssh-ed25519 {TWO}\ngpu01 ssh-ed25519 {ONE}", "gpu01", "known"),
        (f"gpu01 ssh-ed25519 {ONE}\n@revoked * ssh-ed25519 {ONE}", "gpu01", "revoked"),
        (f"@cert-authority * ssh-ed25519 {TWO}", "gpu01", "unknown"),
        (f"# gpu01 ssh-ed25519 {ONE}\n\ngpu01\nnonsense here", "gpu01", "unknown"),
        (f"|1|broken|# ssh-ed25519 {ONE}", "gpu01", "unknown"),
        ("", "gpu01", "unknown"),
    ],
)
def test_verdicts(text: str, name: str, verdict: str) -> None:
    """Only the very key of the very host is known; another key for it is a change, and a revoked one never passes."""
    found = knownhosts.judge(knownhosts.parse(text, "f"), name, "ssh-ed25519", KEY)
    assert found.verdict == verdict
    assert found.has_authority == text.startswith("@cert")


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="openssh-client is not installed")
def test_as_ssh_keygen_writes_and_reads_them(tmp_path: Path) -> None:
    """Fingerprints are those of ssh-keygen, hashed names are recognised, and lines we add are found by it."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "k")], check=True, timeout=60)
    kind, text = (tmp_path / "k.pub").read_text().split()[:2]
    key = base64.b64decode(text)
    path = tmp_path / "dir" / "known_hosts"
    knownhosts.add(path, "[10.0.0.1]:2222", kind, key)
    with path.open("a") as more:
        more.write("unfinished ssh-ed25519 AAAA")
    knownhosts.add(path, "gpu02", kind, key)
    shown = subprocess.run(["ssh-keygen", "-lf", str(tmp_path / "k.pub")], capture_output=True, text=True, check=True)
    assert knownhosts.fingerprint(key) in shown.stdout
    argv = ["ssh-keygen", "-F", "[10.0.0.1]:2222", "-f", str(path)]
    assert text in subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(path)], check=True, capture_output=True, timeout=60)
    assert "gpu02" not in path.read_text()
    for name in ("gpu02", "[10.0.0.1]:2222"):
        assert knownhosts.judge(knownhosts.read([path]), name, kind, key).verdict == "known"
    assert knownhosts.kinds(knownhosts.read([path, tmp_path / "none"]), "gpu02") == [kind]
