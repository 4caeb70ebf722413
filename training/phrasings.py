"""Questions about dsctl in very many wordings: facts × frames × noise, never one of the held-out wordings."""

from __future__ import annotations

import random
import re
from pathlib import Path

from training.facts import Fact, load, options

_DOUBLE = frozenset(
    ("stop", "get", "put", "run", "set", "shut", "cut", "begin", "skip", "drop", "quit", "spot", "win", "scan", "let")
)
_SMALL = frozenset(
    ("the", "a", "an", "my", "our", "do", "i", "to", "is", "of", "for", "me", "we", "which", "what", "can")
)
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def frames(path: Path = Path(__file__).parent / "frames.txt") -> dict[str, list[str]]:
    """The sections of frames.txt; quotes around a line keep its outer spaces."""
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in path.read_text().splitlines():
        if line.startswith("["):
            current = sections.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            current.append(line.strip('"'))
    return sections


def normal(question: str) -> str:
    """A question without case and punctuation, its words sorted: two wordings with equal words count as the same."""
    return " ".join(sorted(re.findall(r"[a-z0-9]+", question.lower())))


def expand(pattern: str, rng: random.Random) -> str:
    """Choose every alternative of a pattern at random, innermost first."""
    while found := options(pattern):
        start, end, choices = found[0]
        pattern = pattern[:start] + rng.choice(choices) + pattern[end:]
    return re.sub(r" {2,}", " ", pattern).replace(" ,", ",").replace(" ?", "?").replace(" .", ".").strip()


def gerund(goal: str) -> str:
    """'stop the service' → 'stopping the service'; the second verb of 'stop and delete' stays as it is."""
    verb, _, rest = goal.partition(" ")
    if verb in _DOUBLE:
        verb += verb[-1]
    elif verb.endswith("ie"):
        verb = verb[:-2] + "y"
    elif verb.endswith("e") and not verb.endswith(("ee", "oe")):
        verb = verb[:-1]
    return f"{verb}ing {rest}".strip()


def misspell(text: str, rng: random.Random) -> str:
    """Swap, drop, double or replace one letter in one longer word."""
    words = text.split(" ")
    places = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if not places:
        return text
    at = rng.choice(places)
    word = words[at]
    i = rng.randrange(1, len(word) - 1)
    words[at] = rng.choice((
        word[:i] + word[i + 1] + word[i] + word[i + 2 :],
        word[:i] + word[i + 1 :],
        word[:i] + word[i] + word[i:],
        word[:i] + rng.choice(_LETTERS) + word[i + 1 :],
    ))  # fmt: skip
    return " ".join(words)


def surround(text: str, frames: dict[str, list[str]], rng: random.Random) -> str:
    """A greeting before or thanks after, sometimes."""
    if rng.random() < 0.16:
        text = rng.choice(frames["before"]) + (text if text.startswith("I ") else text[:1].lower() + text[1:])
    if rng.random() < 0.14:
        text = text.rstrip("?.") + rng.choice(frames["after"])
    return text


def disturb(text: str, rng: random.Random) -> str:
    """What people do to sentences: lower case, lost words, another order, lost punctuation, slips of the finger."""
    if rng.random() < 0.10:
        text = " ".join(w for w in text.split(" ") if w.lower() not in _SMALL or rng.random() < 0.5)
    if rng.random() < 0.05:
        words = text.rstrip("?.").split(" ")
        cut = rng.randrange(len(words))
        text = " ".join(words[cut:] + words[:cut])
    for _ in range(2):
        if rng.random() < 0.07:
            text = misspell(text, rng)
    if rng.random() < 0.25:
        text = text.lower()
    if rng.random() < 0.15:
        text = text.rstrip("?.! ")
    return text


class Phrasings:
    """A stream of (question, thought, answer) about dsctl; `facts` are all facts, equally likely."""

    def __init__(self) -> None:
        self.facts = load()
        self.frames = frames()
        self.held_out = {
            normal(text.replace("{n}", str(n)))
            for fact in self.facts
            for text in (*fact.dev, *fact.test)
            for n in range(1, 41 if "{n}" in text else 2)
        }

    def sample(self, rng: random.Random) -> tuple[str, str, str]:
        """One question in a wording that is not held out, with the thought and the answer to learn."""
        fact = rng.choice(self.facts)
        while True:
            n = str(rng.choice((rng.randint(1, 12), rng.randint(1, 40))))
            question = disturb(surround(self._ask(fact, rng).replace("{n}", n), self.frames, rng), rng)
            if question and normal(question) not in self.held_out:
                return question, fact.think.replace("{n}", n), fact.answer.replace("{n}", n)

    def _ask(self, fact: Fact, rng: random.Random) -> str:
        if fact.when and rng.random() < 0.4:
            return _capital(expand(rng.choice(self.frames["when"]).replace("{w}", fact.when[0]), rng))
        if fact.code and rng.random() < 0.6:
            return _capital(expand(rng.choice(self.frames["code"]), rng).replace("{c}", fact.code))
        if fact.verb and rng.random() < 0.12:
            return _capital(expand(rng.choice(self.frames["verb"]), rng).replace("{v}", fact.verb))
        patterns = len(fact.do) + len(fact.ask)
        at = rng.randrange(patterns)
        if at >= len(fact.do):
            text = expand(fact.ask[at - len(fact.do)], rng)
            return _capital(text if text.endswith((".", "?")) else text + rng.choice("??."))
        goal = expand(fact.do[at], rng)
        if rng.random() < 0.22:
            return _capital(expand(rng.choice(self.frames["gerund"]), rng).replace("{i}", gerund(goal)))
        return _capital(expand(rng.choice(self.frames["goal"]), rng).replace("{g}", goal))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
