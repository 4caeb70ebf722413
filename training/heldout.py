"""Writes `heldout/`: the questions and the text on which the model is judged, none of which training sees."""

from __future__ import annotations

import json
import random
from pathlib import Path

from training import additions, facts
from training.data import held_out_text

FOLDER = Path(__file__).parent / "heldout"
TEXT_BYTES = 100_000


def addition_rows() -> list[dict[str, str]]:
    """Every held-out pair once: half as 'What is a + b?', half in other wordings, some of them held out too."""
    rng = random.Random(7)
    rows: list[dict[str, str]] = []
    for a, b in additions.test_pairs():
        dice = rng.random()
        frames = additions.FRAMES[:1] if dice < 0.5 else additions.HELD_OUT_FRAMES if dice < 0.65 else additions.FRAMES
        rows.append({"question": rng.choice(frames).format(a=a, b=b), "answer": str(a + b)})
    rng.shuffle(rows)
    return rows


def phrasing_rows(split: str) -> list[dict[str, object]]:
    """The hand-written wordings of a split ("dev" or "test") with the keys an answer must have."""
    rng = random.Random(11)
    rows: list[dict[str, object]] = []
    for fact in facts.load():
        for question in fact.dev if split == "dev" else fact.test:
            n = str(rng.randint(3, 30))
            answer = fact.answer.replace("{n}", n)
            row = {"question": question.replace("{n}", n), "fact": fact.name, "answer": answer}
            rows.append({**row, "keys": sorted(facts.keys(answer))})
    return rows


def write(folder: Path = FOLDER) -> None:
    """Write additions.jsonl, phrasings.jsonl, phrasings_dev.jsonl and text.jsonl."""
    folder.mkdir(exist_ok=True)
    rng = random.Random(13)
    texts = held_out_text()
    rng.shuffle(texts)
    chosen: list[dict[str, str]] = []
    size = 0
    for text in texts:
        if size < TEXT_BYTES and len(text) > 200:
            chosen.append({"text": text[:3000]})
            size += len(chosen[-1]["text"])
    files = {
        "additions.jsonl": addition_rows(),
        "phrasings.jsonl": phrasing_rows("test"),
        "phrasings_dev.jsonl": phrasing_rows("dev"),
        "text.jsonl": chosen,
    }
    for name, rows in files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(f"{name}: {len(rows)} rows")


if __name__ == "__main__":
    write()
