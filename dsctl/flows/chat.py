"""chat: one question to the front, the answer as it comes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Literal, cast

from dsctl.base.errors import PreflightError
from dsctl.base.missing import Missing
from dsctl.base.secret import Secret
from dsctl.facts.programs import Label
from dsctl.flows.observe import gateway_label
from dsctl.flows.project import Project, last_release
from dsctl.reach import http

Piece = tuple[Literal["answer", "reasoning"], str]


def chat(
    project: Project, question: str, *, url: str | None, max_tokens: int | None, temperature: float | None
) -> Iterator[Piece]:
    """Pieces of the answer and of the reasoning before it. The key, where one is needed, is $DSCTL_API_KEY."""
    front = address(url) if url else _front(project)
    body: dict[str, object] = {"messages": [{"role": "user", "content": question}], "stream": True}
    body["model"] = _model(project, front, is_ours=url is None)
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if temperature is not None:
        body["temperature"] = temperature
    with http.stream(f"{front}/v1/chat/completions", body, _key()) as events:
        for event in events:
            yield from _pieces(event)


def _pieces(event: dict[str, Any]) -> Iterator[Piece]:
    for choice in cast("list[dict[str, Any]]", event.get("choices") or []):
        delta = cast("dict[str, Any]", choice.get("delta") or {})
        if delta.get("reasoning_content"):
            yield "reasoning", str(delta["reasoning_content"])
        if delta.get("content"):
            yield "answer", str(delta["content"])


def address(url: str) -> str:
    """A server's address as people write it: HOST:PORT, with http:// before it, with / or /v1 behind it."""
    full = url if "://" in url else f"http://{url}"
    return full.rstrip("/").removesuffix("/v1")


def _key() -> Secret:
    return Secret(os.environ.get("DSCTL_API_KEY", ""))


def _front(project: Project) -> str:
    label = gateway_label(project)
    if isinstance(label, Label):
        return label.url
    raise PreflightError(f"nothing is deployed as {project.places.project}", hint="dsctl deploy, or --url http://…")


def _model(project: Project, front: str, *, is_ours: bool) -> str:
    """The model's id: the deployed one, or the first that another server lists."""
    release = last_release(project)
    if is_ours and not isinstance(release, Missing):
        return release.settings.model_name()
    return http.first_model(front, _key())
