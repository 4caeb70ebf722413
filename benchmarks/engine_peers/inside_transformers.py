"""Steps of transformers, run by the interpreter of its own environment: `python inside_transformers.py JSON`."""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main() -> None:
    """Measure decode with a growing cache and whole prompts; print one RESULT line."""
    import torch
    from transformers import AutoModelForCausalLM

    wish = json.loads(sys.argv[1])
    torch.set_num_threads(wish["threads"])
    start = time.perf_counter()
    settings = {"experts_implementation": wish["experts"]} if wish.get("experts") else {}
    model = AutoModelForCausalLM.from_pretrained(wish["model"], dtype=torch.bfloat16, **settings)
    model.eval()
    load_s = time.perf_counter() - start
    generator = torch.Generator().manual_seed(0)

    def ids(rows: int, length: int) -> Any:
        return torch.randint(6, 32000, (rows, length), generator=generator)

    def decode(rows: int) -> float:
        out = model(input_ids=ids(rows, 128), use_cache=True, logits_to_keep=1)
        began = time.perf_counter()
        for _ in range(64):
            out = model(input_ids=ids(rows, 1), past_key_values=out.past_key_values, use_cache=True)
        return 64 * rows / (time.perf_counter() - began)

    def prefill(rows: int, length: int) -> float:
        began = time.perf_counter()
        model(input_ids=ids(rows, length), use_cache=True, logits_to_keep=1)
        return rows * length / (time.perf_counter() - began)

    with torch.inference_mode():
        prefill(1, 128)
        rounds = wish["rounds"]
        decoded = {rows: [decode(rows) for _ in range(rounds if rows < 32 else 1)] for rows in wish["batches"]}
        filled = {f"{n}×{m}": [prefill(n, m) for _ in range(rounds)] for n, m in wish["prefills"]}
    result = {
        "load_s": load_s,
        "decode": decoded,
        "prefill": filled,
        "notes": [f"experts {wish.get('experts') or 'default'}"],
    }
    print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
