"""What a rank beside the first does with each order."""

from __future__ import annotations

import datetime
import logging
import os
import socket
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from engine.layers.cache import LatentCache
from engine.modeling import loader
from engine.modeling.deepseek import Model
from engine.modeling.parted import batch_of
from engine.parallel.collectives import links
from engine.parallel.mesh import place_of
from engine.spec.errors import EngineError
from engine.wire.frames import Channel
from engine.wire.orders import Forward, Join, Loaded, LoadPart, NewCache, Order, Pulse

log = logging.getLogger(__name__)


class Rank:
    """One part of a model, and who tells it what to compute."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._channel: Channel[Order] = Channel(sock, Order)
        self._rank = 0
        self._step = 0
        self._model: Model | None = None
        self._short: Model | None = None
        self._caches: dict[int, LatentCache] = {}

    def pulse(self) -> None:
        """Say that this process lives; without rank 0 there is nothing to live for."""
        try:
            self._channel.send(Pulse(self._step))
        except OSError:
            os._exit(0)

    def obey(self) -> None:
        """Carry out orders until rank 0 closes the socket."""
        while orders := self._channel.receive():
            for order in orders:
                self._carry_out(order)

    def _carry_out(self, order: Order) -> None:
        if isinstance(order, Join):
            self._rank = order.rank
            torch.set_num_threads(order.threads)
            join(order)
        elif isinstance(order, LoadPart):
            self._load(order)
        elif isinstance(order, NewCache):
            model = self._model_for(is_short=order.number == 0)
            self._caches[order.number] = model.new_cache(order.num_blocks, order.block_size)
        else:
            self._forward(order)

    def _load(self, order: LoadPart) -> None:
        self._step = 0
        self._caches.clear()
        try:
            self._model = loader.load_part(order.config, links(place_of(self._rank, order.config)))
            self._short = self._model.shortened()
        except EngineError as error:
            self._channel.send(Loaded(str(error), type(error).__name__, error.exit_code))
        except MemoryError:
            self._channel.send(Loaded(f"rank {self._rank}: no memory left while loading", "CapacityError", 6))
        else:
            self._channel.send(Loaded())

    def _model_for(self, *, is_short: bool) -> Model:
        model = self._short if is_short else self._model
        if model is None:
            raise RuntimeError("an order to compute came before one to load")
        return model

    def _forward(self, order: Forward) -> None:
        if order.crc != order.checksum() or order.step != self._step + 1:
            raise RuntimeError(
                f"step {order.step} came damaged or out of turn (expected {self._step + 1}); ranks would compute "
                "different things"
            )
        self._model_for(is_short=order.is_short).forward(batch_of(order), self._caches[order.cache])
        self._step = order.step


def join(order: Join, store: Any = None) -> None:
    """Meet the other ranks, and see that all can talk to all before anything depends on it."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    timeout = datetime.timedelta(seconds=order.timeout_s)
    if store is None:
        store = TCPStore(order.host, order.port, order.world, is_master=False, timeout=timeout)
    dist.init_process_group("gloo", store=store, rank=order.rank, world_size=order.world, timeout=timeout)
    total = torch.tensor([order.rank])
    dist.all_reduce(total)
    if int(total) != order.world * (order.world - 1) // 2:
        raise RuntimeError(f"the ranks' first collective gave {int(total)}: they do not hear each other rightly")
    log.info("rank %d of %d joined", order.rank, order.world)
