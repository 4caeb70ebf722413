"""The closed loop and the table of the comparison with a naive server."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

from benchmarks.naive.__main__ import Figures, Load, closed_loop, show


async def _serve(request: web.Request) -> web.Response:
    body = await request.json()
    events = [{"choices": [{"index": 0, "text": "a"}]}] * 3
    events += [{"choices": [], "usage": {"completion_tokens": body["max_tokens"]}}]
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return web.Response(text=text + "data: [DONE]\n\n", content_type="text/event-stream")


def test_a_closed_loop_counts_every_client() -> None:
    """Every client asks at least once however short the load, and tokens are those of the usage."""

    async def scenario() -> Load:
        application = web.Application()
        application.router.add_post("/v1/completions", _serve)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            return await closed_loop(f"http://127.0.0.1:{runner.addresses[0][1]}", "m", 3, 0.0)
        finally:
            await runner.cleanup()

    load = asyncio.run(scenario())
    assert load.failed == 0
    assert load.answers == 3
    assert load.tokens_per_s > 0


def test_the_comparison_states_the_promised_ratios() -> None:
    """Memory, first token and throughput relative to the naive server, load by load."""
    theirs = Figures("naive", 9.0, [Load(1, 100.0, 120.0, 20.0, 5, 0)], 4 << 30, {"server": 9.5})
    ours = Figures("dsctl", 2.0, [Load(1, 25.0, 30.0, 100.0, 25, 0)], 2 << 30, {"core": 0.5, "server": 2.5})
    lines = show([theirs, ours])
    assert "memory -50%" in lines
    assert "1 clients: time to first token -75%, throughput 5.0×" in lines
    assert any("core 0.50, server 2.50" in line for line in lines)
