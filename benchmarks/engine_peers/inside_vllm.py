"""Steps of vLLM without its server, run by the interpreter of vLLM's own environment: `python inside_vllm.py JSON`.

Decode is timed as the difference between answers of ANSWER + 1 tokens and answers of one token to other prompts of the
same lengths; both run with every sequence present from the start.
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

START = time.perf_counter()


def prompts(rows: int, length: int, seed: int, vocab: int) -> list[dict[str, list[int]]]:
    """Random ids, another prompt for every row and seed."""
    rng = random.Random(seed * 7919 + rows)
    return [{"prompt_token_ids": [rng.randrange(6, vocab) for _ in range(length)]} for _ in range(rows)]


def main() -> None:
    """Measure and print one RESULT line."""
    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]

    wish = json.loads(sys.argv[1])
    engine = LLM(
        model=wish["model"],
        dtype="bfloat16",
        max_model_len=1024,
        max_num_seqs=max(wish["batches"]),
        max_num_batched_tokens=4096,
        enforce_eager=wish["eager"],
        seed=0,
    )
    load_s = time.perf_counter() - START
    seed = 0

    def took(rows: int, length: int, tokens: int) -> float:
        nonlocal seed
        seed += 1
        sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        asked = prompts(rows, length, seed, 32000)
        start = time.perf_counter()
        engine.generate(asked, sampling, use_tqdm=False)
        return time.perf_counter() - start

    took(1, 128, 8)
    decode: dict[int, list[float]] = {}
    for rows in wish["batches"]:
        rounds = wish["rounds"] if rows < 32 else 1
        alone = min(took(rows, 128, 1) for _ in range(rounds))
        decode[rows] = [64 * rows / (took(rows, 128, 65) - alone) for _ in range(rounds)]
    prefill: dict[str, list[float]] = {}
    for count, length in wish["prefills"]:
        prefill[f"{count}×{length}"] = [count * length / took(count, length, 1) for _ in range(wish["rounds"])]
    result: dict[str, Any] = {
        "load_s": load_s,
        "decode": decode,
        "prefill": prefill,
        "notes": [f"eager {wish['eager']}"],
    }
    print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
