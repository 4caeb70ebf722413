"""Ends a text at the first stop string, and never shows a character that may turn out to be part of one."""

from __future__ import annotations


class StopStrings:
    """Looks for stop strings in a growing text, independent of how the text is cut into pieces.

    The match that *ends* first wins, the longest of those that end together, so feeding characters one by one or all
    at once gives the same text.
    """

    def __init__(self, stops: tuple[str, ...], *, include: bool = False) -> None:
        self._stops = stops
        self._include = include
        self._longest = max((len(stop) for stop in stops), default=0)
        self._held = ""
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """The text that may be shown now; after a match `matched` is set and the rest of the text is dropped."""
        if not self._stops:
            return text
        if self.matched is not None:
            return ""
        window = self._held + text
        match = self._first_match(window)
        if match is not None:
            self.matched, end = match
            self._held = ""
            return window[:end] if self._include else window[: end - len(self.matched)]
        keep = self._suspicious_suffix(window)
        self._held = window[len(window) - keep :]
        return window[: len(window) - keep]

    def skip(self, text: str) -> str:
        """Text in which no stop string counts (min_tokens): shown as it is, and nothing before it can match."""
        held, self._held = self._held, ""
        return held + text

    def finish(self) -> str:
        """The held-back text, when the sequence ended for another reason."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, window: str) -> tuple[str, int] | None:
        best: tuple[int, int, str] | None = None
        for stop in self._stops:
            start = window.find(stop)
            if start >= 0:
                candidate = (start + len(stop), -len(stop), stop)
                best = candidate if best is None or candidate < best else best
        return (best[2], best[0]) if best else None

    def _suspicious_suffix(self, window: str) -> int:
        """Length of the longest suffix that begins some stop string."""
        for length in range(min(self._longest - 1, len(window)), 0, -1):
            suffix = window[len(window) - length :]
            if any(stop.startswith(suffix) for stop in self._stops):
                return length
        return 0
