"""Writes the answer of a running request: as one JSON object, as a client's stream, or as an attempt's stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from engine.server.choice import Piece
from engine.server.errors import as_request_error, failure_body
from engine.server.events import Done, Event, Opening
from engine.server.exchange import ClientGoneError, Exchange
from engine.server.generation import Generation
from engine.server.shapes import Shape
from engine.spec.attempt import HEARTBEAT, Failure, Lost, Usage

encode = msgspec.json.encode

CLIENT_PATIENCE_S = 10.0  # before the first event, then heartbeats keep idle timers of proxies quiet
CLIENT_HEARTBEAT_S = 10.0
ATTEMPT_HEARTBEAT_S = 0.15
_DONE = b"data: [DONE]\n\n"


@asynccontextmanager
async def watched(exchange: Exchange, generation: Generation) -> AsyncGenerator[None]:
    """While the answer is written: when the client leaves, the request is aborted at once."""

    async def watch(task: asyncio.Task[object]) -> None:
        await exchange.disconnected()
        if not exchange.is_complete:
            generation.close()
            task.cancel()

    task = asyncio.current_task()
    assert task is not None
    watcher = asyncio.create_task(watch(task))
    try:
        yield
    except asyncio.CancelledError:
        if watcher.done():
            task.uncancel()
            raise ClientGoneError from None
        raise
    finally:
        watcher.cancel()
        generation.close()


async def answer_whole(exchange: Exchange, generation: Generation, shape: Shape) -> None:
    """Wait for the end and answer with one object. Raises RequestError when the request failed."""
    while True:
        for event in await generation.events(CLIENT_HEARTBEAT_S):
            if isinstance(event, Failure):
                raise as_request_error(event, generation.refused_after_s)
            if isinstance(event, Done):
                await exchange.answer_json(200, shape.whole(event.usage))
                return
            if isinstance(event, Opening | Piece):
                shape.collect(event)


async def answer_stream(exchange: Exchange, generation: Generation, shape: Shape) -> None:
    """A client's stream; an error before the first byte is an ordinary refusal (RequestError)."""
    events = await _first_events(generation, CLIENT_PATIENCE_S)
    await exchange.start_stream()
    while True:
        data = b"".join(_for_client(event, generation, shape) for event in events)
        if data or not events:
            await exchange.write(data or HEARTBEAT)
        if events and isinstance(events[-1], Done | Failure):
            await exchange.end()
            return
        events = await generation.events(CLIENT_HEARTBEAT_S)


async def answer_attempt(exchange: Exchange, generation: Generation, shape: Shape) -> None:
    """The stream of docs/PROTOCOL.md §2."""
    events = await _first_events(generation, ATTEMPT_HEARTBEAT_S)
    await exchange.start_stream()
    while True:
        await exchange.write(b"".join(_for_gateway(event, generation, shape) for event in events) or HEARTBEAT)
        if events and isinstance(events[-1], Done | Failure):
            await exchange.end()
            return
        events = await generation.events(ATTEMPT_HEARTBEAT_S)


def _spent(generation: Generation) -> Usage | None:
    return generation.usage() if generation.query.continuous_usage else None


async def _first_events(generation: Generation, patience_s: float) -> list[Event]:
    """The first events that matter; a Failure among them is raised as RequestError."""
    events = await generation.events(patience_s)
    if events and all(isinstance(event, Lost) for event in events):
        events += await generation.events(patience_s)
    for event in events:
        if isinstance(event, Failure):
            raise as_request_error(event, generation.refused_after_s)
    return events


def _data(value: Any) -> bytes:
    return b"data: " + encode(value) + b"\n\n"


def _for_client(event: Event, generation: Generation, shape: Shape) -> bytes:
    if isinstance(event, Piece):
        chunk = shape.chunk(event, _spent(generation))
        return _data(chunk) if chunk is not None else b""
    if isinstance(event, Opening):
        chunk = shape.opening(event)
        return _data(chunk) if chunk is not None else b""
    if isinstance(event, Done):
        usage = _data(shape.usage_chunk(event.usage)) if generation.query.include_usage else b""
        return usage + _DONE
    return b"" if isinstance(event, Lost) else _data(failure_body(event))


def _for_gateway(event: Event, generation: Generation, shape: Shape) -> bytes:
    meta: dict[str, Any]
    if isinstance(event, Piece):
        meta = {"c": event.choice, "t": event.ids}
        if event.finished is not None:
            meta["f"] = event.finished
        if event.cached is not None:
            meta["cached"] = event.cached
        return _meta(meta, shape.chunk(event, _spent(generation)))
    if isinstance(event, Opening):
        chunk = shape.opening(event)
        return b"" if chunk is None else _meta({"c": event.choice, "t": []}, chunk)
    if isinstance(event, Done):
        usage = _meta({"t": []}, shape.usage_chunk(event.usage)) if generation.query.include_usage else b""
        return usage + b":" + encode({"end": event.usage}) + b"\n" + _DONE
    if isinstance(event, Lost):
        return _meta({"lost": event}, None)
    return _meta({"error": event}, failure_body(event))


def _meta(meta: dict[str, Any], chunk: dict[str, Any] | None) -> bytes:
    head = b":" + encode(meta) + b"\n"
    return head + (b"data: " + encode(chunk) + b"\n\n" if chunk is not None else b"\n")
