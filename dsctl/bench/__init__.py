"""Load tests whose numbers can be trusted: a seeded schedule, an exact stream reader, raw records, statistics."""

from __future__ import annotations

from pathlib import Path


def locustfile_path() -> Path:
    """The load as a plain locustfile."""
    return Path(__file__).with_name("page") / "locustfile.py"
