"""A core without a model: token i of a choice is a hash of (prompt, seed, choice, i); speaks engine.wire, has faults.

`python -m tests.engine.server.fake_core --fd N`. Faults come in Start.faults:
step_s              seconds a step takes (default 0.002)
load_s              seconds loading takes
die_in_epoch        exit 1 before ready in this epoch and all before it
die_after_step      in epoch 1: SIGKILL itself after this many steps
hang_at_step        in epoch 1: this step never ends (heartbeats go on)
poison_id           a prompt with this id kills the core when it is computed
nan_id              a prompt with this id ends with finished="error"
bad_checkpoint      Fatal with exit code 2
hold_at_step        from this step on, wait while the file `hold` exists in the model's directory
cycle_text          emit the UTF-8 bytes of a fixed text over and over instead of hashes
"""

from __future__ import annotations

import hashlib
import os
import select
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from engine.wire.frames import Channel
from engine.wire.messages import (
    Abort,
    Beat,
    Delta,
    Fatal,
    Finish,
    Quit,
    Ready,
    Refused,
    Start,
    Step,
    Submit,
    ToCore,
    Top,
)

TEXT = "Gruß an die Welt 🌍, naïve café! "


def token(submit: Submit, position: int, cycle: bool) -> int:
    """The id at an output position: a byte, so that the test tokenizer gives it text."""
    if cycle:
        data = TEXT.encode()
        return data[position % len(data)]
    sampling = submit.sampling
    seed = 0 if sampling.temperature == 0 else sampling.seed
    choice = 0 if sampling.temperature == 0 else sampling.choice
    key = f"{submit.prompt_ids[-8:]}:{seed}:{choice}:{position}".encode()
    return 32 + hashlib.sha256(key).digest()[0] % 95


def top(token_id: int, count: int) -> Top:
    """Log-probabilities that depend on the id alone."""
    ids = [(token_id + k) % 256 for k in range(count)]
    return Top(-0.25 - token_id / 1000, 1, ids, [-0.25 - token_id / 1000 - k for k in range(count)])


@dataclass
class Running:
    """One sequence."""

    submit: Submit
    ids: list[int] = field(default_factory=list)
    told_prompt: bool = False

    def advance(self, cycle: bool) -> Delta:
        """One more id."""
        submit = self.submit
        sampling = submit.sampling
        new = token(submit, len(self.ids), cycle)
        self.ids.append(new)
        finished: Finish | None = None
        stop_id = None
        if new in sampling.stop_token_ids and len(self.ids) > sampling.min_tokens:
            finished, stop_id = "stop", new
        elif len(self.ids) >= sampling.max_tokens:
            finished = "length"
        first = not self.told_prompt
        self.told_prompt = True
        prompt_tops = None
        if first and sampling.prompt_logprobs is not None and submit.want_prompt_logprobs:
            prompt_tops = [None, *(top(i, sampling.prompt_logprobs) for i in submit.prompt_ids[1:])]
        return Delta(
            seq=submit.seq,
            ids=[new],
            finished=finished,
            stop_id=stop_id,
            tops=[top(new, sampling.logprobs)] if sampling.logprobs is not None else None,
            prompt_tops=prompt_tops,
            cached_tokens=0 if first else None,
            queue_s=0.0 if first else None,
        )


class FakeCore:
    """The loop: read messages, make one step over all running sequences, send it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.channel: Channel[ToCore] = Channel(sock, ToCore)
        self.start: Start | None = None
        self.running: dict[int, Running] = {}
        self.waiting: list[Running] = []
        self.step = 0
        self.step_began = 0.0
        self.beats = 0

    def fault(self, name: str, default: float = 0.0) -> float:
        """The value of a fault switch."""
        return self.start.faults.get(name, default) if self.start else default

    def run(self) -> None:
        """Until the socket closes."""
        threading.Thread(target=self.heartbeat, daemon=True).start()
        while True:
            busy = bool(self.running or self.waiting)
            if self.start is None or not busy or select.select([self.sock], [], [], 0)[0]:
                messages = self.channel.receive()
                if not messages:
                    return
                for message in messages:
                    if isinstance(message, Quit):
                        return
                    self.take(message)
            else:
                self.one_step()

    def heartbeat(self) -> None:
        """Beat every 50 ms."""
        while True:
            time.sleep(0.05)
            self.beats += 1
            beat = Beat(
                epoch=self.start.epoch if self.start else 0,
                beat=self.beats,
                step=self.step,
                in_step_s=time.monotonic() - self.step_began if self.step_began else 0.0,
                running=len(self.running),
                waiting=len(self.waiting),
                free_tokens=4096 - 16 * len(self.running),
                cached_tokens=0,
                preemptions=0,
                prefix_queries=0,
                prefix_hits=0,
            )
            try:
                self.channel.send(beat)
            except OSError:
                os._exit(0)

    def take(self, message: ToCore) -> None:
        """One message."""
        if isinstance(message, Start):
            self.load(message)
        elif isinstance(message, Submit):
            assert self.start is not None
            if not message.resumed and len(self.waiting) >= self.start.config.queue_limit + self.room():
                self.channel.send(Refused(message.seq, 503, "queue_full", "the queue is full", 1.0))
                return
            self.waiting.append(Running(message, list(message.output_ids)))
        elif isinstance(message, Abort):
            for number in message.seqs:
                self.running.pop(number, None)
            self.waiting = [one for one in self.waiting if one.submit.seq not in message.seqs]

    def room(self) -> int:
        """Sequences that the next step takes from the queue."""
        assert self.start is not None
        return self.start.config.max_num_seqs - len(self.running)

    def load(self, start: Start) -> None:
        """Pretend to load."""
        self.start = start
        time.sleep(self.fault("load_s"))
        if self.fault("bad_checkpoint"):
            self.channel.send(Fatal(2, "CheckpointError", "model.safetensors: model.norm.weight is truncated"))
            sys.exit(2)
        if start.epoch <= self.fault("die_in_epoch"):
            sys.stderr.write("fake core gives up while loading\n")
            sys.exit(1)
        length = start.config.max_model_len or 512
        self.channel.send(Ready(start.epoch, "fake-1", True, "", length, 4096, 16, 0.0, {"weights": 1, "cache": 2}))

    def one_step(self) -> None:
        """Admit, compute, send."""
        assert self.start is not None
        self.step_began = time.monotonic()
        while self.waiting and len(self.running) < self.start.config.max_num_seqs:
            one = self.waiting.pop(0)
            self.running[one.submit.seq] = one
        if self.start.epoch == 1 and self.fault("hang_at_step") and self.step + 1 >= self.fault("hang_at_step"):
            while True:
                time.sleep(1)
        hold = self.fault("hold_at_step")
        while hold and self.step + 1 >= hold and (Path(self.start.config.model) / "hold").exists():
            time.sleep(0.005)
        poison = self.fault("poison_id")
        if poison and any(poison in one.submit.prompt_ids for one in self.running.values()):
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(self.fault("step_s", 0.002))
        deltas: list[Delta] = []
        for number, one in list(self.running.items()):
            if self.fault("nan_id") and self.fault("nan_id") in one.submit.prompt_ids:
                delta = Delta(number, [], finished="error", error="the logits are not finite")
            else:
                delta = one.advance(bool(self.fault("cycle_text")))
            deltas.append(delta)
            if delta.finished is not None:
                del self.running[number]
        self.step += 1
        self.channel.send(Step(self.step, deltas, time.monotonic() - self.step_began, 0, len(deltas)))
        self.step_began = 0.0
        if self.start.epoch == 1 and self.step == self.fault("die_after_step", -1):
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Entry."""
    fd = int(sys.argv[sys.argv.index("--fd") + 1])
    FakeCore(socket.socket(fileno=fd)).run()


if __name__ == "__main__":
    main()
