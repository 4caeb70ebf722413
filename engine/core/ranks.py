"""The other ranks of a core: started with it, told what to compute, watched, and ended with it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from engine.core.obey import join
from engine.modeling import loader
from engine.modeling.parted import PartedModel
from engine.parallel.collectives import links
from engine.parallel.mesh import check_divides, place_of
from engine.spec.config import EngineConfig
from engine.spec.errors import CapacityError, CheckpointError, ConfigError, EngineError
from engine.spec.model import read_spec
from engine.wire.frames import Channel, encode
from engine.wire.orders import Answer, Join, Loaded, LoadPart, Order, Pulse

log = logging.getLogger(__name__)
SILENCE_S = 1.5  # of a rank, in time in which this process itself ran
TICK_S = 0.05
COLLECTIVE_S = 600.0  # the watch is faster; this bounds what it cannot see
EXIT_RANK_LOST = 70
_ERRORS = {error.__name__: error for error in (CapacityError, CheckpointError, ConfigError)}


class Ranks:
    """Ranks 1 … world − 1 as processes of this machine; this process is rank 0.

    `on_lost` runs, in a thread, when a rank is gone: the group is broken then, and this process ends with it.
    """

    def __init__(self, world: int, threads: int, on_lost: Callable[[], None] | None = None) -> None:
        self._world = world
        self._on_lost = on_lost or (lambda: os._exit(EXIT_RANK_LOST))
        self._loss = threading.Event()
        self._threads = threads
        self._processes: list[subprocess.Popen[bytes]] = []
        self._sockets: list[socket.socket] = []
        self._answers: list[list[Loaded]] = []
        self._heard: list[float] = []
        self._steps: list[int] = []
        self._own_s = 0.0  # time in which this process itself ran
        self._is_closing = False
        self._news = threading.Condition()

    def __enter__(self) -> Self:
        """Start them; they end at the end of the block."""
        return self.start()

    def start(self) -> Self:
        """Start the processes and meet; without `close` they end with this process."""
        for rank in range(1, self._world):
            self._spawn(rank)
        store = TCPStore("127.0.0.1", 0, self._world, is_master=True, wait_for_workers=False)
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()
        for rank, sock in enumerate(self._sockets, 1):
            sock.sendall(encode(self._join(rank, store.port)))
        join(self._join(0, store.port), store)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _join(self, rank: int, port: int) -> Join:
        return Join(rank, self._world, "127.0.0.1", port, COLLECTIVE_S, self._threads)

    @property
    def pids(self) -> list[int]:
        """Of ranks 1 and up."""
        return [process.pid for process in self._processes]

    def _spawn(self, rank: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "engine.core.rank", "--fd", str(theirs.fileno())]
            self._processes.append(
                subprocess.Popen(command, pass_fds=[theirs.fileno()], env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
            )
        self._sockets.append(ours)
        self._answers.append([])
        self._heard.append(0.0)
        self._steps.append(0)
        threading.Thread(target=self._listen, args=(rank,), name=f"rank-{rank}", daemon=True).start()

    def load(self, config: EngineConfig) -> PartedModel:
        """Every rank loads its part. Raises what the first rank to fail raised."""
        check_divides(read_spec(config.model), config)
        self.tell(LoadPart(config))
        torch.set_num_threads(self._threads)
        try:
            part = loader.load_part(config, links(place_of(0, config)))
        finally:
            answers = self._take_answers()
        for rank, answer in enumerate(answers, 1):
            if answer.error:
                raise _ERRORS.get(answer.kind, EngineError)(f"rank {rank}: {answer.error}")
        return PartedModel(part, self.tell, self._await_loss)

    def _take_answers(self) -> list[Loaded]:
        """One of every other rank."""
        with self._news:
            self._news.wait_for(lambda: all(self._answers), COLLECTIVE_S)
            return [waiting.pop(0) for waiting in self._answers if waiting]

    def _await_loss(self) -> None:
        """A step broke: give the watch the time to say which rank is to blame."""
        self._loss.wait(2 * SILENCE_S)

    def tell(self, order: Order) -> None:
        """Send one order to all other ranks; one that cannot be reached is lost."""
        data = encode(order)
        for rank, sock in enumerate(self._sockets, 1):
            try:
                sock.sendall(data)
            except OSError as error:
                self._lost(rank, f"does not take orders ({error.strerror})")

    def close(self) -> None:
        """End the other ranks: they stop when their socket closes."""
        self._is_closing = True
        for sock in self._sockets:
            with contextlib.suppress(OSError):  # its rank is gone already
                sock.shutdown(socket.SHUT_RDWR)
        for process in self._processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for sock in self._sockets:
            sock.close()
        if dist.is_initialized():
            dist.destroy_process_group()

    def _listen(self, rank: int) -> None:
        """Hear one rank until its socket ends."""
        channel: Channel[Answer] = Channel(self._sockets[rank - 1], Answer)
        try:
            while messages := channel.receive():
                self._heard[rank - 1] = self._own_s
                for message in messages:
                    self._note(rank, message)
        except OSError as error:
            log.info("rank %d: %s", rank, error)
        if not self._is_closing:
            self._lost(rank, self._ending(rank))

    def _note(self, rank: int, message: Answer) -> None:
        if isinstance(message, Pulse):
            self._steps[rank - 1] = message.step
            return
        with self._news:
            self._answers[rank - 1].append(message)
            self._news.notify_all()

    def _ending(self, rank: int) -> str:
        """How its process ended."""
        try:
            code = self._processes[rank - 1].wait(1)
        except subprocess.TimeoutExpired:
            return "closed its socket"
        return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}; its reason is above"

    def _watch(self) -> None:
        """A rank that is stopped says nothing; a machine that stalls stops us both, and accuses nobody."""
        before = time.monotonic()
        while not self._is_closing:
            time.sleep(TICK_S)
            now = time.monotonic()
            self._own_s += min(now - before, 2 * TICK_S)
            before = now
            for rank, heard in enumerate(self._heard, 1):
                is_heard = heard > 0.0  # its imports may hold the interpreter before the first pulse
                if is_heard and self._own_s - heard > SILENCE_S and not self._is_closing:
                    self._lost(rank, f"said nothing for {self._own_s - heard:.1f} s")

    def _lost(self, rank: int, what: str) -> None:
        """The group is broken: end this process, and with it all ranks; the API process starts a new group."""
        self._is_closing = True  # one loss is reported, not those that follow from it
        log.critical(
            "rank %d (pid %d on %s) %s; the last step it computed is %d: the group ends and starts again",
            rank, self._processes[rank - 1].pid, socket.gethostname(), what, self._steps[rank - 1],
        )  # fmt: skip
        self._loss.set()
        self._on_lost()
