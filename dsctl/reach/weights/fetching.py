"""The receiving end: chunks from one peer over several connections, each verified before it is written."""

from __future__ import annotations

import http.client
import secrets
import ssl
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from dsctl.base.errors import DsctlError
from dsctl.base.missing import Missing
from dsctl.facts.manifest import Manifest, Piece, WeightFile, parse
from dsctl.reach.weights.ground import Ground
from dsctl.reach.weights.jobs import Receive, Telling
from dsctl.reach.weights.serving import SESSION

TRIES = 4  # of one chunk that comes wrong, until its peer is not asked any more
LARGEST_MANIFEST = 256 << 20


class PeerError(DsctlError):
    """The peer cannot be reached, has gone, or sends what it should not; another one may do."""


class Peer:
    """One connection to the sender, made anew when it breaks; only the certificate given is believed."""

    def __init__(self, job: Receive, session: str) -> None:
        self._job, self._session = job, session
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.check_hostname = False  # the certificate itself is pinned; it names no host
        self._context.load_verify_locations(job.certificate)
        self._line: http.client.HTTPSConnection | None = None

    def ask(self, method: str, path: str, extra: dict[str, str], most: int) -> bytes:
        """The body of a 2xx answer of at most `most` bytes; OSError when the connection breaks, PeerError otherwise."""
        line = self._line or http.client.HTTPSConnection(
            self._job.address, self._job.port, timeout=self._job.patience_s, context=self._context
        )
        self._line = line
        try:
            headers = {"Authorization": f"Bearer {self._job.token}", SESSION: self._session, **extra}
            line.request(method, path, headers=headers)
            answer = line.getresponse()
            body = answer.read(most + 1)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if isinstance(error, ssl.SSLCertVerificationError):
                raise PeerError("the peer does not have the key of this plan", why=str(error)) from error
            raise ConnectionError(str(error) or type(error).__name__) from error
        if answer.status // 100 != 2 or len(body) > most:
            self.close()
            raise PeerError(f"the peer answers {path.partition('?')[0]} with {answer.status}")
        return body

    def close(self) -> None:
        """Ends the connection."""
        if self._line is not None:
            self._line.close()
            self._line = None


def receive(job: Receive, telling: Telling) -> Manifest:
    """Brings the directory to what `job.root` stands for. SpaceError, PeerError, or OSError of the disk."""
    session = secrets.token_hex(8)
    end = time.monotonic() + job.deadline_s
    peer = Peer(job, session)
    try:
        manifest = _manifest(job, peer, end)
        telling.tell(root=job.root, total=manifest.size)
        ground = Ground(Path(job.directory), manifest)
        wanted = ground.missing(lambda count: telling.add(present=count))
        ground.check_room(wanted)
        _Lanes(job, session, ground, telling, end).run(wanted)
        ground.seal()
        with suppress(OSError, PeerError):  # it ends by itself too
            peer.ask("POST", "/done", {}, 0)
        return manifest
    finally:
        peer.close()


def _manifest(job: Receive, peer: Peer, end: float) -> Manifest:
    """The peer's manifest, if it has the root that the plan was given by the source."""
    until = min(end, time.monotonic() + job.patience_s)
    while True:
        try:
            text = peer.ask("GET", "/manifest", {}, LARGEST_MANIFEST)
            break
        except ConnectionError as error:
            if time.monotonic() > until:
                raise PeerError(f"{job.address}:{job.port} does not answer", why=str(error)) from error
            time.sleep(0.2)
    found = parse(text.decode("utf-8", "replace"))
    if isinstance(found, Missing):
        raise PeerError(f"the peer's manifest cannot be used: {found.reason}")
    if found.root() != job.root:
        raise PeerError(f"the peer has {found.root()[:16]}…, the source {job.root[:16]}…: it is not believed")
    return found


class _Growing:
    """A file that is being received: its handle and how many chunks are still to come."""

    def __init__(self, file: WeightFile, count: int) -> None:
        self.file, self.left = file, count
        self.handle = -1


class _Lanes:
    """Several connections take chunks from one queue, in order of files, so that few files grow at a time."""

    def __init__(self, job: Receive, session: str, ground: Ground, telling: Telling, end: float) -> None:
        self._job, self._session, self._ground, self._telling, self._end = job, session, ground, telling, end
        self._lock = threading.Lock()
        self._queue: deque[Piece] = deque()
        self._growing: dict[str, _Growing] = {}
        self._failure: BaseException | None = None
        self._heard_at = time.monotonic()

    def run(self, wanted: Sequence[Piece]) -> None:
        """All of them, or the first failure."""
        if not wanted:
            return
        self._queue.extend(wanted)
        for each in wanted:
            if each.file not in self._growing:
                file = self._ground.manifest.file(each.file)
                assert file is not None
                self._growing[each.file] = _Growing(file, sum(one.file == each.file for one in wanted))
        threads = [threading.Thread(target=self._lane) for _ in range(min(self._job.lanes, len(wanted)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for growing in self._growing.values():
            if growing.handle >= 0:
                self._close(growing)
        if self._failure is not None:
            raise self._failure

    def _lane(self) -> None:
        peer = Peer(self._job, self._session)
        try:
            while (piece := self._next()) is not None:
                self._place(piece, self._fetch(peer, piece))
        except Exception as error:  # noqa: BLE001 - carried to the thread that waits
            with self._lock:
                self._failure = self._failure or error
        finally:
            peer.close()

    def _next(self) -> Piece | None:
        with self._lock:
            if self._failure is not None or not self._queue:
                return None
            piece = self._queue.popleft()
            growing = self._growing[piece.file]
            if growing.handle < 0:
                growing.handle = self._ground.begin(growing.file)
            return piece

    def _fetch(self, peer: Peer, piece: Piece) -> bytes:
        """The chunk's bytes, whose hash is right; one that comes wrong is asked for again, alone."""
        tries = 0
        path = f"/file?name={quote(piece.file, safe='')}"
        extra = {"Range": f"bytes={piece.offset}-{piece.offset + piece.size - 1}"}
        while True:
            try:
                data = peer.ask("GET", path, extra, piece.size)
            except ConnectionError as error:
                self._bear(error)
                continue
            if len(data) == piece.size and sha256(data).hexdigest() == piece.digest:
                return data
            tries += 1
            self._telling.add(again=1)
            if tries >= TRIES:
                raise PeerError(
                    f"{piece.file}: chunk {piece.number} came wrong {tries} times", why="its disk or memory"
                )

    def _bear(self, error: ConnectionError) -> None:
        """A broken connection is made anew until nothing came for the whole patience."""
        with self._lock:
            failure, silent_s = self._failure, time.monotonic() - self._heard_at
        if failure is not None:
            raise failure
        if silent_s > self._job.patience_s or time.monotonic() > self._end:
            raise PeerError(f"{self._job.address}:{self._job.port} has gone", why=str(error)) from error
        time.sleep(0.2)

    def _place(self, piece: Piece, data: bytes) -> None:
        """Writes a verified chunk; the last one of a file makes it whole."""
        import os

        growing = self._growing[piece.file]
        try:
            os.pwrite(growing.handle, data, piece.offset)
        except OSError as error:
            self._ground.refuse(error, piece.file)
        with self._lock:
            self._heard_at = time.monotonic()
            growing.left -= 1
            is_last = growing.left == 0
        self._telling.add(moved=piece.size)
        if is_last:
            handle, growing.handle = growing.handle, -1
            self._ground.end(growing.file, handle)

    def _close(self, growing: _Growing) -> None:
        import os

        with suppress(OSError):
            os.close(growing.handle)
        growing.handle = -1
