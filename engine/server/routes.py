"""Every route of the API process, one function each, and the table that lists them."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version

import msgspec

from engine.server.answers import answer_attempt, answer_stream, answer_whole, watched
from engine.server.body import decode_body
from engine.server.events import Ticket
from engine.server.exchange import ClientGoneError, Exchange
from engine.server.fields import Body, flag, refuse, token_ids, unsupported
from engine.server.query import parse_query
from engine.server.service import Service, Wish
from engine.spec.attempt import GENERATE_PATH, PROGRESS_PATH, Attempt, Route
from engine.spec.errors import RequestError

Handler = Callable[[Service, Exchange], Awaitable[None]]
PROGRESS_PERIOD_S = 0.1
_LONGEST_DEADLINE_MS = 24 * 3600 * 1000
_MOST_IDS = 1 << 20


def _version() -> str:
    try:
        return version("dsctl")
    except PackageNotFoundError:
        return "0+source"  # runs from a checkout


async def _direct(service: Service, exchange: Exchange, route: Route) -> None:
    """A client's own request, on any of the three routes."""
    service.admit(1)
    body = decode_body(await exchange.body())
    wish = Wish(route, body, service.make_ticket(route, _deadline_ms(exchange)))
    generation, shape = await service.begin(wish)
    try:
        async with watched(exchange, generation):
            writer = answer_stream if generation.query.stream else answer_whole
            await writer(exchange, generation, shape)
    finally:
        service.end(generation)


def _deadline_ms(exchange: Exchange) -> int | None:
    values = exchange.headers(b"x-dsctl-deadline-ms")
    if not values:
        return None
    if len(values) > 1 or not values[0].isdigit() or len(values[0]) > 12:
        raise refuse("x-dsctl-deadline-ms", "one whole number of milliseconds was expected")
    return min(int(values[0]), _LONGEST_DEADLINE_MS)


async def chat(service: Service, exchange: Exchange) -> None:
    """POST /v1/chat/completions."""
    await _direct(service, exchange, "chat")


async def completions(service: Service, exchange: Exchange) -> None:
    """POST /v1/completions."""
    await _direct(service, exchange, "completions")


async def inference(service: Service, exchange: Exchange) -> None:
    """POST /v1/inference."""
    await _direct(service, exchange, "inference")


async def generate(service: Service, exchange: Exchange) -> None:
    """POST /internal/v1/generate: one attempt of a gateway."""
    service.admit(0)
    try:
        attempt = msgspec.json.decode(await exchange.body(), type=Attempt)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"the body is not valid JSON, or no attempt: {error}", code="invalid_json") from None
    ticket = Ticket(attempt.id, attempt.created, attempt.seed, attempt.attempt, attempt.deadline_ms)
    generation, shape = await service.begin(Wish(attempt.route, attempt.body, ticket, attempt.resume))
    try:
        async with watched(exchange, generation):
            await answer_attempt(exchange, generation, shape)
    finally:
        service.end(generation)


async def progress(service: Service, exchange: Exchange) -> None:
    """GET /internal/v1/progress: what health is judged by, ten times a second."""
    await exchange.body()
    watcher = asyncio.create_task(exchange.disconnected())
    try:
        await exchange.start_stream()
        while not watcher.done() and not service.is_over:
            await exchange.write(b"data: " + msgspec.json.encode(service.supervisor.progress()) + b"\n\n")
            await asyncio.wait([watcher], timeout=PROGRESS_PERIOD_S)
        if watcher.done():
            raise ClientGoneError
        await exchange.end()
    finally:
        watcher.cancel()


async def health(service: Service, exchange: Exchange) -> None:
    """GET /health: 200 while this process can still bring the model back."""
    state = service.supervisor.state
    await exchange.answer_json(503 if state == "failed" else 200, {"state": state})


async def ready(service: Service, exchange: Exchange) -> None:
    """GET /ready: 200 when a request sent now is computed now."""
    state = service.supervisor.progress().state
    await exchange.answer_json(200 if state == "ready" else 503, {"state": state})


async def models(service: Service, exchange: Exchange) -> None:
    """GET /v1/models."""
    await exchange.answer_json(200, {"object": "list", "data": [_entry(service)]})


async def model(service: Service, exchange: Exchange) -> None:
    """GET /v1/models/<id>."""
    entry = _entry(service)
    asked = exchange.path.removeprefix(MODEL_PREFIX)
    if asked != entry["id"]:
        message = f"the model {asked[:128]!r} is not served here; this server has {entry['id']!r}"
        raise RequestError(message, status=404, code="model_not_found", param="model")
    await exchange.answer_json(200, entry)


def _entry(service: Service) -> Body:
    return {
        "id": service.options.model_name,
        "object": "model",
        "created": service.started_at,
        "owned_by": "dsctl",
        "root": service.options.model_name,
        "max_model_len": service.max_model_len,
    }


async def metrics(service: Service, exchange: Exchange) -> None:
    """GET /metrics."""
    await exchange.answer_bytes(200, service.metrics.text(), b"text/plain; version=0.0.4; charset=utf-8")


async def show_version(service: Service, exchange: Exchange) -> None:
    """GET /version."""
    word = service.supervisor.ready
    shown = {
        "version": _version(),
        "model": service.options.model_name,
        "dtype": service.options.engine.dtype,
        "numerics_id": word.numerics_id if word else "",
        "exact": word.exact if word else False,
        "reason": word.reason if word else "the model is still loading",
    }
    await exchange.answer_json(200, shown)


async def server_info(service: Service, exchange: Exchange) -> None:
    """GET /server_info."""
    supervisor = service.supervisor
    now = supervisor.progress()
    shown = {
        "name": service.options.name,
        "state": now.state,
        "api_pid": os.getpid(),
        "core_pids": supervisor.core_pids,
        "restarts": now.restarts,
        "epoch": now.epoch,
        "numerics_id": now.numerics_id,
        "model": service.options.model_name,
        "config": dataclasses.asdict(service.options.engine) | {"max_model_len": service.max_model_len},
        "plan": supervisor.ready.plan if supervisor.ready else {},
        "load_s": supervisor.ready.load_s if supervisor.ready else None,
    }
    await exchange.answer_json(200, shown)


async def tokenize(service: Service, exchange: Exchange) -> None:
    """POST /tokenize: {"prompt": text} or {"messages": […]} → {"tokens", "count", "max_model_len"}."""
    body = decode_body(await exchange.body())
    _only(body, "model", "prompt", "messages", "add_special_tokens", "chat_template_kwargs")
    special = flag(body, "add_special_tokens", default=True)
    if body.get("messages") is not None:
        query = parse_query("chat", {**_part(body, "model", "messages", "chat_template_kwargs")}, service.limits())
        ids = (await service.prompts.make(query, service.max_model_len))[0].ids
    else:
        text = body.get("prompt")
        if not isinstance(text, str):
            raise refuse("prompt", "a string was expected")
        ids = await service.prompts.encode(text, 64 * service.max_model_len, special=special)
    await exchange.answer_json(200, {"tokens": ids, "count": len(ids), "max_model_len": service.max_model_len})


async def detokenize(service: Service, exchange: Exchange) -> None:
    """POST /detokenize: {"tokens": [ids]} → {"prompt": text}."""
    body = decode_body(await exchange.body())
    _only(body, "model", "tokens")
    ids = token_ids(body.get("tokens"), "tokens", service.side.vocab_size, _MOST_IDS)
    await exchange.answer_json(200, {"prompt": service.side.tokenizer.decode(ids, skip_special=False)})


def _only(body: Body, *names: str) -> None:
    for name, value in body.items():
        if name not in names and value is not None:
            raise unsupported(name[:64], f"the field {name[:64]!r} is not supported by this route")


def _part(body: Body, *names: str) -> Body:
    return {name: body[name] for name in names if name in body}


MODEL_PREFIX = "/v1/models/"  # followed by an id, which may hold slashes

ROUTES: dict[str, dict[str, Handler]] = {
    "/v1/chat/completions": {"POST": chat},
    "/v1/completions": {"POST": completions},
    "/v1/inference": {"POST": inference},
    "/v1/models": {"GET": models},
    "/health": {"GET": health},
    "/ready": {"GET": ready},
    "/metrics": {"GET": metrics},
    "/version": {"GET": show_version},
    "/server_info": {"GET": server_info},
    "/tokenize": {"POST": tokenize},
    "/detokenize": {"POST": detokenize},
    GENERATE_PATH: {"POST": generate},
    PROGRESS_PATH: {"GET": progress},
}
OPEN_PATHS = frozenset({"/health", "/ready"})  # answered without a token
INTERNAL_PATHS = frozenset({GENERATE_PATH, PROGRESS_PATH})  # exist only with a token
