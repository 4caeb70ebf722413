"""Who is sent to a core and when: everybody at once as a rule, one by one when somebody seems to kill it."""

from __future__ import annotations

from collections import deque

from engine.server.sequences import Sequence

SUSPICIOUS_DEATHS = 2  # cores in a row that died before a sequence got one more id
MOST_BLAMED_DEATHS = 5  # of these, with nothing else that could be the cause: it is given up


class ReplayTable:
    """All live sequences. Methods that return sequences name those to send now, in order."""

    def __init__(self) -> None:
        self._live: dict[int, Sequence] = {}
        self._trial: Sequence | None = None  # the one suspect in the core
        self._suspects: deque[Sequence] = deque()  # sent one by one, each when the one before has got an id
        self._held: list[Sequence] = []  # newcomers during a trial, which must not blur the blame

    def __len__(self) -> int:
        return len(self._live)

    @property
    def unstarted(self) -> int:
        """Sequences that have no id yet."""
        return sum(1 for sequence in self._live.values() if not sequence.ids)

    @property
    def rows_ahead(self) -> int:
        """Tokens that the core may still have to go through before the next id of each sequence it was sent."""
        return sum(
            len(sequence.submit.prompt_ids) + len(sequence.ids)
            for sequence in self._live.values()
            if sequence.awaits_first
        )

    def get(self, number: int) -> Sequence | None:
        """The live sequence of this number."""
        return self._live.get(number)

    def all(self) -> list[Sequence]:
        """Every live sequence, oldest first."""
        return list(self._live.values())

    def add(self, sequence: Sequence) -> list[Sequence]:
        """A newcomer."""
        self._live[sequence.number] = sequence
        if self._trial is not None:
            self._held.append(sequence)
            return []
        return [sequence]

    def remove(self, sequence: Sequence) -> list[Sequence]:
        """It ended, whichever way."""
        if self._live.pop(sequence.number, None) is None:
            return []
        return self.cleared(sequence)

    def cleared(self, sequence: Sequence) -> list[Sequence]:
        """It got an id or ended, so it did not kill the core: the next suspect's turn."""
        if sequence is not self._trial:
            return []
        self._trial = self._next_suspect()
        if self._trial is not None:
            return [self._trial]
        held, self._held = self._held, []
        return [other for other in held if other.number in self._live]

    def after_death(self, epoch: int) -> list[Sequence]:
        """The core of `epoch` died while ready: spread the blame. Returns, and removes, the sequences to give up."""
        inside = [sequence for sequence in self._live.values() if sequence.epoch == epoch]
        accused = [self._trial] if self._trial is not None and self._trial.epoch == epoch else inside
        for sequence in accused:
            sequence.fruitless_deaths += 1
            sequence.blamed_deaths += len(accused) == 1
        self._trial = None
        hopeless = [sequence for sequence in accused if sequence.blamed_deaths >= MOST_BLAMED_DEATHS]
        for sequence in hopeless:
            del self._live[sequence.number]
        return hopeless

    def begin(self) -> list[Sequence]:
        """For a core that has just become ready."""
        self._held = []
        self._suspects = deque(
            sorted(
                (s for s in self._live.values() if s.fruitless_deaths >= SUSPICIOUS_DEATHS),
                key=lambda s: (s.blamed_deaths, s.number),
            )
        )
        trusted = [s for s in self._live.values() if s.fruitless_deaths < SUSPICIOUS_DEATHS]
        self._trial = self._next_suspect()
        return [*trusted, self._trial] if self._trial is not None else trusted

    def _next_suspect(self) -> Sequence | None:
        while self._suspects:
            suspect = self._suspects.popleft()
            if suspect.number in self._live:
                return suspect
        return None
