"""`python -m dsctl.reach.weights JOB`: what the short-lived container runs; JOB is a file only it can read."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from dsctl.base.errors import DsctlError
from dsctl.base.missing import Missing
from dsctl.facts import manifest as facts
from dsctl.reach.weights import index
from dsctl.reach.weights.fetching import PeerError, receive
from dsctl.reach.weights.ground import SpaceError
from dsctl.reach.weights.jobs import Check, Job, Pull, Receive, Serve, Status, Telling, read_job
from dsctl.reach.weights.mirror import MirrorError, pull

KINDS = ((SpaceError, "space"), (PeerError, "peer"), (MirrorError, "source"))


def main(arguments: list[str]) -> int:
    """0: done; 1: failed, and the status file says how."""
    os.umask(0o022)
    job = read_job(Path(arguments[0]).read_bytes())
    _end_in_any_case(job.deadline_s)
    telling = Telling(job.status, Status())
    try:
        _work(job, telling)
    except (DsctlError, OSError) as error:
        told = "\n".join(error.lines()) if isinstance(error, DsctlError) else str(error)
        kind = next((name for kind, name in KINDS if isinstance(error, kind)), "failed")
        telling.end(state="failed", kind=kind, error=told)
        return 1
    telling.end(state="done")
    return 0


def _end_in_any_case(deadline_s: float) -> None:
    """Whatever hangs, this process is over a little after its deadline; and SIGTERM ends it at once.

    Process 1 of a container ignores signals that it has no handler for.
    """
    timer = threading.Timer(deadline_s + 30, os._exit, (124,))
    timer.daemon = True
    timer.start()
    signal.signal(signal.SIGTERM, _end)


def _end(_number: int, _frame: object) -> None:
    os._exit(143)


def _work(job: Job, telling: Telling) -> None:
    match job:
        case Serve():
            _serve(job, telling)
        case Receive():
            receive(job, telling)
        case Pull():
            pull(job, telling)
        case Check():
            _check(job, telling)


def _serve(job: Serve, telling: Telling) -> None:
    from dsctl.reach.weights.serving import Sender

    directory = Path(job.directory)
    telling.tell(total=index.size(directory))
    manifest = recorded(directory)
    if isinstance(manifest, Missing):
        memory = Path(job.memory) if job.memory else None
        count = telling.add
        manifest = index.build(directory, chunk=job.chunk, memory=memory, told=lambda n: count(present=n))
    files = (job.certificate, job.key)
    sender = Sender(directory, manifest, files, job.token, bind=(job.address, job.port), rate=job.rate)
    telling.tell(state="ready", root=manifest.root(), port=sender.port, total=manifest.size)
    telling.flush()
    sender.serve(job.idle_s, job.deadline_s)


def recorded(directory: Path) -> facts.Manifest | Missing:
    """The manifest that was sealed here, if every file still has the size and time it had then."""
    notes = directory / facts.NOTES
    try:
        found = facts.parse((notes / "manifest.json").read_text())
        root = (notes / "root").read_text().strip()
    except OSError as error:
        return Missing(str(error))
    if isinstance(found, Missing):
        return found
    known = index.recall(notes / "hashes.json", found.chunk)
    for each in found.files:
        path = directory / each.name
        if not path.is_file() or each.name not in known or known[each.name][0] != index.stamp(path):
            return Missing(f"{each.name} was changed")
    return found if found.root() == root else Missing("manifest and root differ")


def _check(job: Check, telling: Telling) -> None:
    """Everything hashed anew; where something is wrong the directory is not called whole any more."""
    directory = Path(job.directory)
    notes = directory / facts.NOTES
    try:
        wanted = facts.parse((notes / "manifest.json").read_text())
    except OSError as error:
        raise DsctlError(f"there is no manifest: {error}", hint="dsctl weights push") from error
    if isinstance(wanted, Missing):
        raise DsctlError(f"the manifest cannot be used: {wanted.reason}", hint="dsctl weights push")
    telling.tell(root=wanted.root(), total=wanted.size)
    bad: list[str] = []
    for each in wanted.files:
        path = directory / each.name
        if not path.is_file():
            bad.append(f"{each.name}: missing")
            continue
        for piece in facts.pieces(each, wanted.chunk):
            if index.digest(path, piece.offset, piece.size) != piece.digest:
                bad.append(f"{each.name}: chunk {piece.number} is wrong")
            telling.add(present=piece.size)
        if path.stat().st_size != each.size:
            bad.append(f"{each.name}: {path.stat().st_size} bytes, not {each.size}")
    if bad:
        for name in ("root", "hashes.json"):
            (notes / name).unlink(missing_ok=True)
    telling.tell(bad=bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
