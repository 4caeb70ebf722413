"""The bed's images: a Debian base, the host (sshd and Docker in it), and the product's own image as an archive."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from tests.fleet.bed.engine import BedError, docker, run
from tests.fleet.bed.places import ROOT, Place

HERE = Path(__file__).resolve().parent
BASE_PACKAGES = "python3,python3-venv,ca-certificates,nginx-light,procps,iproute2"
PYTHON = "3.11"  # of Debian 12, whatever runs the tests
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
APP, ENGINE_APP = "dsctl-app", "dsctl-engine-app"
UNUSED = ("torch/include/", "torch/test/", "torch/share/")  # a third of torch


def _digest(*paths: Path) -> str:
    told = sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".so":
                told.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return told.hexdigest()[:12]


def _has(place: Place, image: str) -> bool:
    return bool(docker(place, "images", "-q", image).strip())


def base(place: Place) -> None:
    """bed-base: Debian 12 with Python and nginx, made once."""
    if _has(place, "bed-base"):
        return
    if not place.base.exists():
        partial = place.base.with_suffix(".partial.tar")
        slim = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
        run(["mmdebstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", *slim, "bookworm", str(partial)])
        partial.rename(place.base)
    path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    docker(place, "import", "-c", path, str(place.base), "bed-base")


def host(place: Place) -> str:
    """The image of a host, tagged by what it is made of; built when that changed, by one bed for all."""
    parts = [HERE / name for name in ("Dockerfile.host", "sshd_config", "start.sh", "cards.sh")]
    image = f"bed-host:{_digest(*parts)}"
    if _has(place, image):
        return image
    archive = place.shared / f"{image.replace(':', '-')}.tar"
    if archive.exists():
        docker(place, "load", "-q", "-i", str(archive))
        return image
    context = place.contexts / "host"
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir(parents=True)
    for part in parts:
        shutil.copy(part, context / part.name)
    build = ["build", "-q", "--network", "host", "-f", str(context / "Dockerfile.host"), "-t", image, str(context)]
    docker(place, *build)
    for old in place.shared.glob("bed-host-*.tar"):
        old.unlink()
    partial = archive.with_suffix(".partial")
    docker(place, "save", "-o", str(partial), image)
    partial.rename(archive)
    return image


def app(place: Place) -> str:
    """The product's image (gateway and stand-in engine, no torch), and its archive at `place.archive`."""
    image = f"{APP}:{_code_digest()}"
    if not _has(place, image):
        context = _context(place)
        file = str(context / "Dockerfile.app")
        docker(place, "build", "-q", "--network", "none", "-f", file, "-t", image, str(context))
        place.archive.unlink(missing_ok=True)
    if not place.archive.exists():
        partial = place.archive.with_suffix(".partial.tar")
        docker(place, "save", "-o", str(partial), image)
        partial.rename(place.archive)
    return image


def with_engine(place: Place, container: str, base: str) -> str:
    """The product's image `base` with torch in it, made on a host; what runs these tests says which torch."""
    image = base.replace(APP, ENGINE_APP)
    inner = ["exec", container, "docker"]
    if docker(place, *inner, "images", "-q", image).strip():
        return image
    docker(place, "exec", container, "sh", "-c", "docker rm -f with-engine 2>/dev/null || :")
    docker(place, "cp", f"{torch(place)}/.", f"{container}:/opt/torch")
    copy = f"cp -r /from/. /opt/dsctl/lib/python{PYTHON}/site-packages/"
    docker(place, *inner, "run", "--name", "with-engine", "--network", "none", "-u", "0", "-v", "/opt/torch:/from:ro",
           base, "sh", "-c", copy)  # fmt: skip
    docker(place, *inner, "commit", "-c", "USER 10001", "-c", "ENV HOME=/tmp", "with-engine", image)
    docker(place, *inner, "rm", "with-engine")
    docker(place, "exec", container, "rm", "-rf", "/opt/torch")
    return image


def _code_digest() -> str:
    sources = [ROOT / name for name in ("dsctl", "engine", "templates", "playbooks")]
    return _digest(ROOT / "pyproject.toml", HERE / "Dockerfile.app", *sources)


def _context(place: Place) -> Path:
    """The build context of the product's image."""
    context = place.contexts / "app"
    shutil.rmtree(context, ignore_errors=True)
    (context / "code").mkdir(parents=True)
    shutil.copy(HERE / "Dockerfile.app", context)
    shutil.copytree(place.wheels, context / "wheels")
    _wheel(context / "code")
    return context


def torch(place: Place) -> Path:
    """A directory with torch's CPU build and what else the engine asks for, as site-packages."""
    kept = version("torch").split("+")[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    others = [each for each in project["optional-dependencies"]["engine"] if not each.startswith("torch")]
    wanted = [f"torch=={kept}+cpu", *others]
    target, unpacked = place.shared / "torch", place.shared / "torch-site"
    if not _is_downloaded(target, wanted) or not unpacked.exists():
        shutil.rmtree(unpacked, ignore_errors=True)
        try:
            _download(target, wanted)
        except BedError:
            _download(target, wanted, "--extra-index-url", "https://download.pytorch.org/whl/cpu")
        partial = unpacked.with_suffix(".partial")
        for wheel in target.glob("*.whl"):
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(partial, [name for name in packed.namelist() if not name.startswith(UNUSED)])
            wheel.unlink()
        partial.rename(unpacked)
    return unpacked


def _requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["gateway"]]


def wheels(place: Place) -> None:
    """The requirements as wheels for the image's Python; only again when they changed."""
    wanted = _requirements()
    if not _is_downloaded(place.wheels, wanted):
        _download(place.wheels, wanted)


def _is_downloaded(target: Path, wanted: list[str]) -> bool:
    stamp = target / "requirements.txt"
    return stamp.exists() and stamp.read_text().splitlines() == wanted


def _download(target: Path, wanted: list[str], *options: str) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    pip = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "--python-version", PYTHON]
    run([*pip, *platforms, *options, "-d", str(target), *wanted])
    (target / "requirements.txt").write_text("\n".join(wanted) + "\n")


def _wheel(target: Path) -> None:
    """dsctl itself as a wheel, built from this checkout without the network."""
    options = ["-q", "--no-deps", "--no-build-isolation", "-w", str(target)]
    run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)])


def stale(place: Place) -> Iterator[str]:
    """Images of the bed that no run will use again."""
    current = {host(place), app(place)}
    for line in docker(place, "images", "--format", "{{.Repository}}:{{.Tag}}").splitlines():
        if line not in current and line.split(":")[0] in ("bed-host", APP):
            yield line


def prune(place: Place) -> None:
    """Removes them."""
    for image in list(stale(place)):
        try:
            docker(place, "rmi", image)
        except (BedError, subprocess.SubprocessError):
            continue  # a host still runs from it
