"""Weights from a mirror in the layout of Hugging Face's `resolve`: ranges that go on where they stopped."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from dsctl.base.errors import DsctlError, PreflightError
from dsctl.facts.manifest import Manifest, WeightFile, is_safe
from dsctl.reach.weights import index
from dsctl.reach.weights.ground import Ground
from dsctl.reach.weights.jobs import Pull, Telling
from dsctl.reach.weights.pace import Cap

if TYPE_CHECKING:
    import httpx

NEEDED = ("config.json",)
CUSTOMARY = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model",
    "chat_template.jinja", "policy.json", "configuration_deepseek.py", "README.md", "LICENSE",
)  # fmt: skip
INDEX = "model.safetensors.index.json"
TRIES = 6
CONNECT_S, READ_S = 15.0, 60.0


class MirrorError(DsctlError):
    """The mirror does not have it, or does not answer."""


class Mirror:
    """One repository at one revision."""

    def __init__(self, url: str, token: str = "", proxy: str = "", *, tries: int = TRIES) -> None:
        """`url` ends with resolve/REVISION. Without `proxy` the environment's proxies count."""
        import httpx

        self._url, self._tries = url.rstrip("/"), tries
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers["Accept-Encoding"] = "identity"
        self._client = httpx.Client(
            headers=headers, follow_redirects=True, timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
            proxy=proxy or None,
        )  # fmt: skip

    def close(self) -> None:
        """Ends its connections."""
        self._client.close()

    def text(self, name: str) -> bytes | None:
        """A small file; None when there is none."""
        answer = self._once("GET", name)
        return None if answer is None else answer.content

    def sizes(self) -> dict[str, tuple[int, str]]:
        """Every file of the checkpoint: bytes, and its SHA-256 where the mirror tells it (else empty)."""
        shards = self.text(INDEX)
        names: list[str] = list(NEEDED)
        if shards is not None:
            told = cast("Mapping[str, Any]", json.loads(shards))
            names += [INDEX, *sorted(set(cast("Mapping[str, str]", told["weight_map"]).values()))]
        else:
            names.append("model.safetensors")
        needed = set(names)
        found: dict[str, tuple[int, str]] = {}
        for name in [*names, *CUSTOMARY]:
            if not is_safe(name):
                raise MirrorError(f"{self._url} names the file {name!r}")
            answer = self._once("HEAD", name)
            if answer is not None:
                found[name] = _told(answer.headers)
            elif name in needed:
                raise MirrorError(
                    f"{self._url} has no {name}", hint="is the revision right, and does the token see it?"
                )
        return found

    def stream(self, name: str, first: int) -> Iterator[bytes]:
        """A file from an offset on."""
        headers = {"Range": f"bytes={first}-"} if first else {}
        with self._client.stream("GET", f"{self._url}/{quote(name)}", headers=headers) as answer:
            if first and answer.status_code != 206:
                raise MirrorError(f"{self._url} gives no ranges ({answer.status_code})")
            if answer.status_code // 100 != 2:
                raise MirrorError(f"{self._url}/{name}: {answer.status_code}")
            yield from answer.iter_raw()  # as it comes: what a break would lose of a larger block comes again

    def _once(self, method: str, name: str) -> httpx.Response | None:
        import httpx

        for tried in range(self._tries):
            try:
                answer = self._client.request(method, f"{self._url}/{quote(name)}")
            except httpx.HTTPError as error:
                if tried == self._tries - 1:
                    raise MirrorError(f"{self._url} cannot be reached", why=str(error),
                                      hint="weights.proxy, or HTTPS_PROXY") from error  # fmt: skip
                time.sleep(min(8.0, 0.25 * 2**tried))
                continue
            if answer.status_code == 404:
                return None
            if answer.status_code in (429, 500, 502, 503, 504) and tried < self._tries - 1:
                time.sleep(min(8.0, 0.25 * 2**tried))
                continue
            if answer.status_code // 100 != 2:
                raise MirrorError(f"{self._url}/{name}: {answer.status_code}", hint="weights.token_file")
            return answer
        return None


def pull(job: Pull, telling: Telling) -> Manifest:
    """Brings the directory to what the mirror serves: whole files are kept, a half one goes on, all are hashed.

    SpaceError before the first byte when it cannot fit; MirrorError otherwise.
    """
    mirror = Mirror(job.url, job.token, job.proxy)
    directory = Path(job.directory)
    cap, end = Cap(job.rate), time.monotonic() + job.deadline_s
    try:
        sizes = mirror.sizes()
        telling.tell(total=sum(size for size, _ in sizes.values()))
        ground = Ground(
            directory, Manifest(1 << 20, tuple(WeightFile(n, s, ()) for n, (s, _) in sorted(sizes.items())))
        )
        _check_room(ground, sizes)
        for name, (size, digest) in sizes.items():
            _file(mirror, ground, (name, size, digest), (cap, telling, end))
    finally:
        mirror.close()
    manifest = index.build(directory)
    wanted = tuple(each for each in manifest.files if each.name in sizes)
    sealed = Manifest(manifest.chunk, wanted)
    Ground(directory, sealed).seal()
    telling.tell(root=sealed.root())
    return sealed


def _check_room(ground: Ground, sizes: Mapping[str, tuple[int, str]]) -> None:
    from dsctl.base.units import size as shown
    from dsctl.reach.weights.ground import SpaceError

    ground.notes.mkdir(parents=True, exist_ok=True)
    (ground.notes / "root").unlink(missing_ok=True)
    need = sum(size for name, (size, _) in sizes.items() if not ground.final(name).exists())
    need -= sum(ground.part(name).stat().st_size for name in sizes if ground.part(name).exists())
    told = os.statvfs(ground.directory)
    if need > told.f_bavail * told.f_frsize:
        raise SpaceError(f"{shown(need)} more are needed, {shown(told.f_bavail * told.f_frsize)} are free")


def _file(
    mirror: Mirror, ground: Ground, wanted: tuple[str, int, str], means: tuple[Cap, Telling, float]
) -> None:  # fmt: skip
    """One file, whole and (where the mirror tells its hash) right under its name."""
    name, size, digest = wanted
    _, telling, _ = means
    final, part = ground.final(name), ground.part(name)
    if final.is_file() and final.stat().st_size == size and (not digest or _hash(final) == digest):
        telling.add(present=size)
        return
    part.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        final.unlink()
    for tried in range(TRIES):
        _grow(mirror, ground, wanted, means)
        if not digest or _hash(part) == digest:
            final.parent.mkdir(parents=True, exist_ok=True)
            part.replace(final)
            return
        telling.add(again=1)
        part.unlink()
        if tried == 1:
            break
    raise MirrorError(f"{name}: what the mirror sends does not have the hash it tells", why=f"SHA-256 {digest}")


def _grow(mirror: Mirror, ground: Ground, wanted: tuple[str, int, str], means: tuple[Cap, Telling, float]) -> None:
    """Appends to the growing file until it has its size; a break goes on from there."""
    import httpx

    name, size, _ = wanted
    cap, telling, end = means
    part = ground.part(name)
    misses = 0
    while True:
        first = part.stat().st_size if part.exists() else 0
        if first > size:
            part.unlink()
            continue
        if first == size and part.exists():
            return
        try:
            with part.open("ab") as out:
                for data in mirror.stream(name, first):
                    cap.take(len(data))
                    out.write(data)
                    telling.add(moved=len(data))
                    misses = 0
                    if time.monotonic() > end:
                        raise PreflightError(f"{name}: the time for this transfer is over")
        except httpx.HTTPError as error:
            misses += 1
            if misses >= TRIES:
                raise MirrorError(f"{name}: the mirror breaks off again and again", why=str(error)) from error
            time.sleep(min(8.0, 0.25 * 2**misses))
        except OSError as error:
            ground.refuse(error, name)


def _hash(path: Path) -> str:
    told = sha256()
    with path.open("rb", buffering=0) as file:
        while data := file.read(1 << 20):
            told.update(data)
    return told.hexdigest()


def _told(headers: Mapping[str, str]) -> tuple[int, str]:
    """Bytes and hash: of a large file its headers tell both, of a small one only the length."""
    size = int(headers.get("x-linked-size") or headers.get("content-length") or 0)
    etag = (headers.get("x-linked-etag") or "").strip('"').removeprefix("W/").strip('"')
    return size, etag if len(etag) == 64 and all(each in "0123456789abcdef" for each in etag) else ""
