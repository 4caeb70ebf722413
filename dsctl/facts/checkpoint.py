"""Which checkpoint lies in a directory: a digest that changes when the files do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256

from dsctl.base.missing import Missing


def digest(listing: str) -> str | Missing:
    """From a JSON list of [name, bytes, sha256 or modification time]; Missing when it is no checkpoint."""
    files: Sequence[tuple[str, int, str | int]] = json.loads(listing)
    names = [entry[0] for entry in files]
    if "config.json" not in names:
        return Missing("no config.json in it")
    return sha256(json.dumps(files).encode()).hexdigest()[:16]
