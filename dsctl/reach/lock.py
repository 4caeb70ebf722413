"""One operator at a time: flock on the project's lock file, with who holds it written inside."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from dsctl.base.errors import LockHeldError, PreflightError
from dsctl.base.places import private_dir
from dsctl.reach.machine import refusal


@contextmanager
def held(path: Path, verb: str) -> Generator[None, None, None]:
    """Holds the lock while the block runs; LockHeldError names who has it. The kernel frees it when a holder dies."""
    while True:
        descriptor = _open(path)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise _refusal(path) from error
            if not _is_same(descriptor, path):
                continue  # removed by `down --purge` between open and flock
            with suppress(OSError):  # a full disk must not keep `down` from ending things
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps({"pid": os.getpid(), "verb": verb, "since": time.time()}).encode())
            yield
            return
        finally:
            os.close(descriptor)


def _open(path: Path) -> int:
    try:
        private_dir(path.parent)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        told = refusal(error)
        raise PreflightError(told.message, hint=told.hint) from error


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _refusal(path: Path) -> LockHeldError:
    try:
        told = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
        since = time.strftime("%H:%M:%S", time.localtime(told["since"]))
        who = f"`dsctl {told['verb']}`, pid {told['pid']}, since {since}"
    except (OSError, ValueError, KeyError, TypeError):
        who = "a dsctl that has just begun"
    return LockHeldError(f"the lock {path} is held by {who}", hint="wait until it has ended, then run this again")
