"""The door to TLS ports: which certificate does a server show, and for how long is it good."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable

from dsctl.base.missing import Missing

USUAL = (443, 8443)
DEADLINE_S = 3.0


def left(host: str, port: int, deadline_s: float = DEADLINE_S) -> tuple[float, str] | Missing | None:
    """(seconds until the certificate ends, whose it is); None for a port without TLS; Missing where none answers.

    Nothing is verified: what is wrong with a certificate is what is to be found out.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=deadline_s) as plain,
            context.wrap_socket(plain, server_hostname=host) as link,
        ):
            shown = link.getpeercert(binary_form=True)
    except ssl.SSLError:
        return None
    except OSError as problem:
        return Missing(f"{host}:{port}: {problem}")
    return _read(shown) if shown else None


def _read(shown: bytes) -> tuple[float, str] | None:
    from cryptography import x509

    try:
        found = x509.load_der_x509_certificate(shown)
        ends = found.not_valid_after_utc.timestamp()
        return ends - time.time(), found.subject.rfc4514_string()[:120] or "no name"
    except (ValueError, OverflowError):
        return None


def ask(host: str, ports: Iterable[int]) -> list[tuple[str, float, str]] | str | Missing:
    """(address, seconds left, name) of every port with TLS; a sentence where none has; Missing where one is mute."""
    found: list[tuple[str, float, str]] = []
    for port in sorted(set(ports)):
        answer = left(host, port)
        if isinstance(answer, Missing):
            return answer
        if answer is not None:
            found.append((f"{host}:{port}", *answer))
    return found or "no port of the front speaks TLS"
