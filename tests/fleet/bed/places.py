"""Where the bed keeps its files, and the names and addresses that follow from that place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class Place:
    """One bed's directory; two beds in different directories share neither names nor addresses."""

    root: Path

    @property
    def tag(self) -> str:
        """Four hex digits that stand for the directory."""
        return sha256(os.fsencode(self.root)).hexdigest()[:4]

    @property
    def subnet(self) -> str:
        """The first three numbers of the bed's addresses, out of 10.64.0.0/10."""
        number = int(self.tag, 16)
        return f"10.{64 + number % 64}.{number // 64 % 256}"

    @property
    def bridge(self) -> str:
        """The bridge all hosts hang on."""
        return f"dsbed{self.tag}"

    @property
    def data(self) -> Path:
        """Docker's images and layers, kept between runs."""
        return self.root / "docker"

    @property
    def run(self) -> Path:
        """What exists only while the bed is up."""
        return self.root / "run"

    @property
    def socket(self) -> Path:
        """The socket of the bed's own Docker Engine."""
        return self.run / "docker.sock"

    @property
    def pidfile(self) -> Path:
        """The Engine's pid."""
        return self.run / "docker.pid"

    @property
    def log(self) -> Path:
        """The Engine's log."""
        return self.root / "dockerd.log"

    @property
    def keys(self) -> Path:
        """The operator's key, the hosts' keys, known_hosts."""
        return self.root / "keys"

    @property
    def base(self) -> Path:
        """The Debian tree every image starts from, as a tar file."""
        return self.root / "base.tar"

    @property
    def contexts(self) -> Path:
        """Build contexts, written anew for each build."""
        return self.root / "build"

    @property
    def wheels(self) -> Path:
        """The wheels of dsctl's requirements."""
        return self.root / "wheels"

    @property
    def archive(self) -> Path:
        """The product's image as an archive: what an operator has in hand where there is no registry."""
        return self.root / "app.tar"

    @property
    def summary(self) -> Path:
        """What is up, as JSON."""
        return self.run / "bed.json"


def default_place() -> Place:
    """$XDG_CACHE_HOME/dsctl/bed, else ~/.cache/dsctl/bed."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return Place((Path(cache) if cache else Path.home() / ".cache") / "dsctl" / "bed")
