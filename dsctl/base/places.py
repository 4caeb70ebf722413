"""Where things lie: the state of a project, its runtime socket, and the data that ships with dsctl."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from dsctl.base.errors import ConfigError, PreflightError

SOCKET_LIMIT = 103  # bytes of a unix socket path that every system accepts (107 on Linux), less supervisor's own suffix
FORBIDDEN = ('"', "\n", "%", "[", "]", "*", "?", "'", "\\")  # supervisor's configuration cannot hold these in a path


def default_home(environ: Mapping[str, str]) -> Path:
    """$DSCTL_HOME, else the XDG state directory, else ~/.local/state/dsctl; one spelling for one directory."""
    if named := environ.get("DSCTL_HOME"):
        return Path(named).expanduser().resolve()
    if state := environ.get("XDG_STATE_HOME"):
        return (Path(state).expanduser() / "dsctl").resolve()
    return (Path.home() / ".local" / "state" / "dsctl").resolve()


def cache_home() -> Path:
    """$XDG_CACHE_HOME/dsctl, else ~/.cache/dsctl: what can be made again at any time."""
    named = os.environ.get("XDG_CACHE_HOME")
    return (Path(named).expanduser() if named else Path.home() / ".cache") / "dsctl"


@dataclass(frozen=True, slots=True)
class Places:
    """All paths of one project under one home."""

    home: Path
    project: str

    @property
    def root(self) -> Path:
        """Everything of this project; removing it forgets the project."""
        return self.home / self.project

    @property
    def lock(self) -> Path:
        """flock is held on this file by the verb that changes the project."""
        return self.root / "lock"

    @property
    def release(self) -> Path:
        """What was deployed last, written after it passed its gate."""
        return self.root / "release.json"

    @property
    def ports(self) -> Path:
        """The ports chosen once, so that a restart keeps its addresses."""
        return self.root / "ports.json"

    @property
    def gateway(self) -> Path:
        """The gateway's state directory: replica table, tokens, keys."""
        return self.root / "gateway"

    @property
    def table(self) -> Path:
        """The replica table the gateway reads."""
        return self.gateway / "replicas.json"

    @property
    def replica_token(self) -> Path:
        """Bearer token that replicas ask for."""
        return self.gateway / "replica.token"

    @property
    def admin_token(self) -> Path:
        """Bearer token of the gateway's admin routes and of gate requests."""
        return self.gateway / "admin.token"

    @property
    def keys(self) -> Path:
        """Hashes of the keys clients may use."""
        return self.gateway / "keys.json"

    @property
    def logs(self) -> Path:
        """One log file a program."""
        return self.root / "logs"

    @property
    def supervisor(self) -> Path:
        """supervisord's configuration, pid file and log."""
        return self.root / "supervisor"

    @property
    def supervisor_conf(self) -> Path:
        """The configuration supervisord is started with."""
        return self.supervisor / "supervisord.conf"

    @property
    def programs(self) -> Path:
        """One file a supervised program; its first line is the program's label."""
        return self.supervisor / "conf.d"

    def program_conf(self, name: str) -> Path:
        """The file of one supervised program."""
        return self.programs / f"{name}.conf"

    def log(self, name: str) -> Path:
        """The log of one program."""
        return self.logs / f"{name}.log"

    @property
    def socket(self) -> Path:
        """supervisord's socket: beside its configuration, or in a short private directory when that is too long."""
        near = self.supervisor / "s.sock"
        if len(os.fsencode(near)) <= SOCKET_LIMIT:
            return near
        tag = sha256(os.fsencode(self.root)).hexdigest()[:16]
        return Path("/tmp", f"dsctl-{os.getuid()}-{tag}", "s.sock")  # noqa: S108 - private_dir() checks owner and mode

    def check(self) -> None:
        """Raises ConfigError when supervisor could not be configured with these paths."""
        text = str(self.root)
        bad = [mark for mark in FORBIDDEN if mark in text]
        if bad or " ;" in text or " #" in text:
            shown = " ".join(repr(mark) for mark in bad) or "' ;' or ' #'"
            raise ConfigError(
                f"the state directory {text!r} contains {shown}, which supervisor cannot handle",
                hint="set DSCTL_HOME to a directory without these characters",
            )


def private_dir(path: Path) -> Path:
    """Makes `path` a directory only its owner can enter; refuses (PreflightError) one that belongs to somebody else."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PreflightError(
            f"{path} is not a directory of yours", hint=f"remove {path}, or choose another DSCTL_HOME and run again"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        path.chmod(0o700)
    return path


def data_root() -> Path:
    """The directory that holds templates/, playbooks/ and models/: the checkout's root, or dsctl/_data of a wheel."""
    from importlib.resources import files

    package = Path(str(files("dsctl"))).resolve()
    packed = package / "_data"
    return packed if packed.is_dir() else package.parent
