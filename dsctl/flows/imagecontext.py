"""The build context of an image: its Dockerfile, dsctl's own wheel, and the wheels it needs where there is no index."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from dsctl.base.errors import DsctlError, PreflightError
from dsctl.base.places import data_root
from dsctl.config.settings import Settings
from dsctl.planning.rendering import render

EXTRAS = {
    "engine": "engine,gateway",
    "front": "gateway",
}  # the engine image also runs the oracle and asks by the gateway


def dockerfile(kind: str, base: str, settings: Settings) -> str:
    """The Dockerfile of the engine or front image."""
    values = {
        "base": base, "is_cuda": kind == "engine" and base == settings.text("image.cuda_base"),
        "is_offline": bool(settings.text("image.wheelhouse")), "extras": EXTRAS[kind],
    }  # fmt: skip
    return render(f"docker/{kind}.Dockerfile.j2", values)


def build_context(kind: str, base: str, settings: Settings) -> bytes:
    """A tar whose files have no dates and no owners, so that equal content is an equal context."""
    with tempfile.TemporaryDirectory(prefix="dsctl-context-") as work:
        wheels = {wheel.name: wheel.read_bytes() for wheel in [_own_wheel(Path(work)), *_wheelhouse(settings)]}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        _add(tar, "Dockerfile", dockerfile(kind, base, settings).encode())
        for name in sorted(wheels):
            _add(tar, f"wheels/{name}", wheels[name])
    return packed.getvalue()


def _own_wheel(work: Path) -> Path:
    """dsctl's wheel, built from the checkout this runs from."""
    root = data_root()
    if not (root / "pyproject.toml").is_file():
        raise PreflightError(
            "this dsctl was installed without its source, so no image can be built from it",
            hint="image.name: an image the hosts have or can pull; or run dsctl from a checkout",
        )
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(work)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=600)
    found = sorted(work.glob("dsctl-*.whl"))
    if done.returncode or not found:
        raise DsctlError("dsctl's own wheel was not built", why=done.stderr[-2000:], hint="pip install hatchling")
    return found[-1]


def _wheelhouse(settings: Settings) -> list[Path]:
    named = settings.text("image.wheelhouse")
    if not named:
        return []
    base = settings.source.parent if settings.source else Path.cwd()
    found = sorted((base / Path(named).expanduser()).glob("*.whl"))
    if not found:
        raise PreflightError(f"image.wheelhouse: no wheels in {base / named}", hint="pip download -d DIR 'dsctl[all]'")
    return [wheel for wheel in found if not wheel.name.startswith("dsctl-")]


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    tar.addfile(entry, io.BytesIO(data))
