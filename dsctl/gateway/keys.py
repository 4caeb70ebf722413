"""Who may ask: API keys (kept as SHA-256), the admin's token and the replicas' token, each from a file."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from pathlib import Path

import msgspec

from dsctl.gateway.table import WatchedFile

_log = logging.getLogger("dsctl.gateway")
ANYONE = "-"  # the identity of a caller where no keys are configured
ADMIN = "admin"


class Key(msgspec.Struct, frozen=True):
    """One line of keys.json: a name that may be shown, and the SHA-256 (hex) of the secret."""

    id: str
    sha256: str


class KeyList(msgspec.Struct, frozen=True):
    """keys.json."""

    keys: list[Key]


def read_keys(data: bytes) -> list[tuple[str, bytes]]:
    """Parse keys.json into (id, digest); raises ValueError."""
    try:
        listed = msgspec.json.decode(data, type=KeyList)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    keys = [(key.id, bytes.fromhex(key.sha256)) for key in listed.keys]
    if any(len(digest) != hashlib.sha256().digest_size for _, digest in keys):
        raise ValueError("a sha256 is not 64 hexadecimal digits")
    return keys


class Secrets:
    """The secrets in force; `poll` reads changed files again."""

    def __init__(self, state_dir: Path) -> None:
        self._keys_file = WatchedFile(state_dir / "keys.json")
        self._admin_file = WatchedFile(_named("DSCTL_ADMIN_TOKEN_FILE", state_dir / "admin.token"))
        self._replica_file = WatchedFile(_named("DSCTL_REPLICA_TOKEN_FILE", state_dir / "replica.token"))
        self._keys: list[tuple[str, bytes]] = []
        self._admin = b""
        self.wants_key = False  # once there were keys, their file going away opens nothing
        self.replica_token = ""

    def poll(self) -> None:
        """Read what changed; a file that cannot be read leaves what was in force."""
        data = self._keys_file.changed()
        if data is not None:
            self._load(data)
        data = self._admin_file.changed()
        if data is not None:
            self._admin = hashlib.sha256(data.strip()).digest() if data.strip() else b""
        data = self._replica_file.changed()
        if data is not None:
            self.replica_token = data.decode("latin-1").strip()

    def _load(self, data: bytes) -> None:
        self.wants_key = True
        if not data:
            self._keys = []
            _log.warning("keys.json has gone: every request is refused until it is back")
            return
        try:
            self._keys = read_keys(data)
        except ValueError as error:
            _log.error("keys.json is refused: %s; the keys read before stay in force", error)

    def key_of(self, presented: bytes) -> str | None:
        """The id of a presented secret, or None. Looks at every key, whichever matches."""
        digest = hashlib.sha256(presented).digest()
        found = None
        for name, known in self._keys:
            if hmac.compare_digest(digest, known):
                found = name
        return found

    def is_admin(self, presented: bytes) -> bool:
        """Whether this is the admin's token; never when there is none."""
        return bool(self._admin) and hmac.compare_digest(hashlib.sha256(presented).digest(), self._admin)


def _named(variable: str, otherwise: Path) -> Path:
    """The file a container's environment names for a secret, else the one in the state directory."""
    return Path(os.environ[variable]) if os.environ.get(variable) else otherwise


def bearer(value: bytes) -> bytes:
    """The secret in an Authorization header, or b""."""
    scheme, _, secret = value.partition(b" ")
    return secret.strip() if scheme.lower() == b"bearer" else b""
