"""The life of one API process: listen, bring the model up, serve, drain on SIGTERM, end with the right code."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import time

import uvloop

from engine.server.app import App
from engine.server.checkpoint import load_text_side
from engine.server.ledger import Ledger
from engine.server.listener import address, bind, make_server
from engine.server.metrics import Metrics
from engine.server.options import Options, read_token
from engine.server.service import Service
from engine.server.supervision.supervisor import Collapse, Supervisor
from engine.spec.errors import ConfigError
from engine.wire.messages import Beat, Ready

log = logging.getLogger("engine.server")

DRAIN_S = 15.0  # open requests may finish
FAREWELL_S = 1.0  # error frames go out


def run(options: Options) -> int:
    """Serve until told to end; returns the exit code."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    token = read_token(options.token_file) if options.token_file else None
    side = load_text_side(options.engine)
    try:
        ledger = Ledger(options.ledger)
    except OSError as error:
        raise ConfigError(f"the ledger {options.ledger} cannot be opened: {error}") from error
    listener = bind(options.host, options.port)
    metrics = Metrics(options.model_name, options.name, side.max_model_len, ledger)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        async def main() -> int:
            supervisor = Supervisor(
                options.engine,
                core_module=options.core_module,
                spare_cores=options.spare_cores,
                faults=options.faults,
            )
            service = Service(options, side, supervisor, metrics)
            return await Process(service, listener, token).run()

        return runner.run(main())


class Process:
    """Ties the service to signals and to the listener."""

    def __init__(self, service: Service, listener: socket.socket, token: str | None) -> None:
        self._service = service
        self._supervisor = service.supervisor
        self._listener = listener
        self._server = make_server(App(service, token))
        self._told_to_end = asyncio.Event()
        self._hurry = asyncio.Event()
        self._announced = False

    async def run(self) -> int:
        """Until SIGTERM, SIGINT, or a collapse of the core."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        self._supervisor.on_ready = self._on_ready
        self._supervisor.on_beat = self._on_beat
        self._supervisor.on_step = self._service.metrics.on_step
        serving = loop.create_task(self._server.serve(sockets=[self._listener]))
        living = loop.create_task(self._supervisor.run())
        sparing = loop.create_task(self._supervisor.keep_spare())
        told = loop.create_task(self._told_to_end.wait())
        await asyncio.wait([living, told, serving], return_when=asyncio.FIRST_COMPLETED)
        code = 0
        if living.done():
            code = self._report(living.result())
        else:
            await self._drain()
        self._service.end_all()
        await asyncio.sleep(0.05)
        self._server.should_exit = True
        for task in (living, told, sparing):
            task.cancel()
        await asyncio.gather(living, told, sparing, return_exceptions=True)
        await asyncio.gather(self._supervisor.close(), self._end_server(serving))
        return code

    async def _end_server(self, serving: asyncio.Task[None]) -> None:
        """Give error frames a moment to go out, then stop listening to anybody."""
        await asyncio.wait([serving], timeout=FAREWELL_S)
        self._server.force_exit = True
        await asyncio.wait([serving], timeout=FAREWELL_S)

    async def _drain(self) -> None:
        self._supervisor.is_draining = True
        log.info("draining: %d requests are open", len(self._service.open))
        deadline = time.monotonic() + DRAIN_S
        while self._service.open and time.monotonic() < deadline and not self._hurry.is_set():
            await asyncio.sleep(0.05)

    def _on_signal(self) -> None:
        if self._told_to_end.is_set():
            self._hurry.set()
        self._told_to_end.set()

    def _report(self, collapse: Collapse) -> int:
        sys.stderr.write(f"error: {collapse.message}\n")
        return collapse.exit_code

    def _on_ready(self, ready: Ready) -> None:
        options = self._service.options
        self._service.metrics.on_ready(ready, options.engine)
        log.info(
            "core %d ready in %.1f s: numerics %s, context %d, cache %d tokens",
            ready.epoch, ready.load_s, ready.numerics_id, ready.max_model_len, ready.kv_total_tokens,
        )  # fmt: skip
        if not self._announced:
            self._announced = True
            if self._service.side.tokenizer.is_absent:
                log.warning("no tokenizer.json in %s: prompts must be token ids, answers are ids", options.engine.model)
            sys.stdout.write(f"ready {address(self._listener)} model={options.model_name}\n")
            sys.stdout.flush()

    def _on_beat(self, beat: Beat) -> None:
        ready = self._supervisor.ready
        total = ready.kv_total_tokens if ready is not None else 0
        self._service.metrics.on_beat(beat, total, self._supervisor.restarts)
