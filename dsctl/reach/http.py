"""HTTP to replicas and gateway, for looking and for the gate (never on a client's request path)."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dsctl.base.errors import DsctlError
from dsctl.base.missing import Missing
from dsctl.base.secret import Secret
from dsctl.reach.door import Reply

if TYPE_CHECKING:
    from httpx import Client, Response

LOOK_S = 5.0  # a question to a program of ours, on a machine that may be busy


def token(path: Path) -> Secret:
    """The secret in a token file; empty when there is none."""
    try:
        return Secret(path.read_text(encoding="utf-8").strip())
    except OSError:
        return Secret("")


def bearer(secret: Secret) -> dict[str, str]:
    """The header that shows a token."""
    return {"authorization": f"Bearer {secret.reveal()}"} if secret else {}


@cache
def _client() -> Client:
    """One client for all looks; it speaks to this machine's loopback only, so it loads no certificates."""
    import httpx

    return httpx.Client(trust_env=False, verify=False)  # noqa: S501 - plain http on loopback


def get(url: str, secret: Secret | None = None, timeout_s: float = LOOK_S) -> Reply | Missing:
    """GET; Missing when nothing answers in time."""
    import httpx

    try:
        answer = _client().get(url, headers=bearer(secret or Secret("")), timeout=timeout_s)
    except httpx.HTTPError as error:
        return Missing(f"{url}: {error or type(error).__name__}")
    return Reply(answer.status_code, answer.text)


def post(url: str, body: Mapping[str, object], headers: Mapping[str, str], timeout_s: float) -> Reply | Missing:
    """POST of a JSON body; Missing when nothing answers in time."""
    import httpx

    try:
        answer = _client().post(url, json=body, headers=dict(headers), timeout=timeout_s)
    except httpx.HTTPError as error:
        return Missing(f"{url}: {error or type(error).__name__}")
    return Reply(answer.status_code, answer.text)


@contextmanager
def stream(url: str, body: Mapping[str, object], secret: Secret) -> Generator[Iterator[dict[str, Any]], None, None]:
    """POST whose answer is read as server-sent events, each a JSON object; DsctlError for an error answer."""
    import httpx

    timeout = httpx.Timeout(10.0, read=120.0)
    try:
        with httpx.stream("POST", url, json=body, headers=bearer(secret), timeout=timeout, trust_env=False) as answer:
            yield _events(answer)
    except httpx.HTTPError as error:
        raise DsctlError(
            f"{url} does not answer", why=str(error) or type(error).__name__, hint="dsctl status shows what runs"
        ) from error


def _events(answer: Response) -> Iterator[dict[str, Any]]:
    if answer.status_code != 200:
        answer.read()
        raise DsctlError(f"{answer.request.url} answers {answer.status_code}", why=message(answer.text))
    for line in answer.iter_lines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            continue
        event = cast("dict[str, Any]", json.loads(data))
        if "error" in event:
            raise DsctlError(f"{answer.request.url} broke off", why=message(data))
        yield event


def first_model(front: str, secret: Secret) -> str:
    """The first model a server lists; DsctlError when it lists none."""
    import httpx

    try:
        answer = httpx.get(f"{front}/v1/models", headers=bearer(secret), timeout=LOOK_S, trust_env=False)
    except httpx.HTTPError as error:
        raise DsctlError(f"{front} does not answer", why=str(error)) from error
    try:
        return str(cast("dict[str, Any]", answer.json())["data"][0]["id"])
    except (ValueError, LookupError, TypeError) as error:
        raise DsctlError(f"{front} lists no model ({answer.status_code})", why=message(answer.text)) from error


def message(text: str) -> str:
    """The message inside an OpenAI-shaped error, else the text itself, shortened."""
    try:
        told = cast("dict[str, Any]", json.loads(text))["error"]
        return f"{told.get('code') or told.get('type')}: {told['message']}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return text[:500]
