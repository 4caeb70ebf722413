"""The fault switches of the oracle, written `kind:key=value:…`, for example `truncate:after=5:times=1`."""

from __future__ import annotations

from dataclasses import dataclass, replace

KINDS = {
    "hang": "steps stop, HTTP lives on",
    "slow": "steps take `value` times longer",
    "late": "the first token of a stream takes `value` times longer",
    "wrong": "tokens are others than they should be",
    "error": "attempts are answered 500; a `value` below 1: that part of them, evenly spaced",
    "refuse": "attempts are answered 503 with Retry-After",
    "truncate": "a stream is cut in the middle of an event",
    "malformed": "a stream carries a Meta line that is not JSON",
    "eof": "a stream ends without its terminal event",
    "bigline": "a stream carries a line of `value` bytes without an end",
    "mute": "a stream falls silent, heartbeats too",
    "lost": "the core is announced lost; the replay begins after `value` ms",
    "crash": "the process kills itself",
    "stop": "the process stops itself (SIGSTOP)",
    "reject": "attempts are answered 400",
    "empty": "a client's stream ends without a token (without a gateway)",
    "inerror": "a client's stream ends with an error object (without a gateway)",
}
STREAM_KINDS = frozenset({"truncate", "malformed", "eof", "bigline", "mute", "lost", "crash", "stop"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One switch: `after` tokens of a stream (-1: before the first byte), `times` streams (-1: all of them)."""

    kind: str
    after: int = 0
    times: int = -1
    value: float = 0.0


def parse_fault(text: str) -> Fault:
    """Read one switch; raises ValueError naming what is wrong."""
    kind, *pairs = text.strip().split(":")
    if kind not in KINDS:
        raise ValueError(f"fault {kind!r} does not exist; choose one of {', '.join(KINDS)}")
    fault = Fault(kind)
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key in ("after", "times"):
            fault = replace(fault, **{key: int(value)})
        elif key == "value":
            fault = replace(fault, value=float(value))
        else:
            raise ValueError(f"fault option {key!r} does not exist; choose after, times or value")
    return fault


class Switches:
    """The faults that are on now."""

    def __init__(self, faults: list[Fault]) -> None:
        self._faults = list(faults)
        self._owed = 0.0

    def set(self, faults: list[Fault]) -> None:
        """Replace all switches."""
        self._faults = list(faults)

    def find(self, kind: str) -> Fault | None:
        """The switch of that kind, if it is on; does not use it up."""
        return next((fault for fault in self._faults if fault.kind == kind), None)

    def take(self, kinds: frozenset[str], at: int) -> Fault | None:
        """The first switch among `kinds` that applies at `at` tokens; it is used up by one."""
        for place, fault in enumerate(self._faults):
            if fault.kind in kinds and fault.after == at and self._is_due(fault):
                if fault.times > 0:
                    self._use(place, fault)
                return fault
        return None

    def _is_due(self, fault: Fault) -> bool:
        """Whether it is one of those attempts that an error befalls."""
        if fault.kind != "error" or not 0 < fault.value < 1:
            return True
        self._owed += fault.value
        if self._owed < 1:
            return False
        self._owed -= 1
        return True

    def _use(self, place: int, fault: Fault) -> None:
        if fault.times == 1:
            del self._faults[place]
        else:
            self._faults[place] = replace(fault, times=fault.times - 1)
