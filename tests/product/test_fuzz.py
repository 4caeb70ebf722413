"""Thousands of absurd requests against the real engine: no 5xx, no dead process."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.engine.checkpoints import make_checkpoint
from tests.engine.server.fuzz import Shot, shots
from tests.engine.server.programs import serving

COUNT = 5000
SEED = 20


@pytest.mark.long
@pytest.mark.timeout(900)
def test_five_thousand_absurd_requests(tmp_path: Path) -> None:
    """Every answer is below 500, or 503 with Retry-After; the processes at the end are those of the start."""
    model = make_checkpoint(tmp_path / "tiny", "v3", tokenizer=True)
    with serving(model, core=None) as server:
        before = server.info()

        def fire(shot: Shot) -> tuple[int, str, Shot]:
            answer = server.http.post(
                server.url + shot.path, content=shot.data, headers={"x-dsctl-deadline-ms": "60000"}
            )
            return answer.status_code, answer.headers.get("retry-after", ""), shot

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(fire, shots(SEED, COUNT)))
        bad = [answer for answer in answers if answer[0] >= 500 and not (answer[0] == 503 and answer[1])]
        codes = Counter(code for code, _, _ in answers)
        assert not bad, f"seed {SEED}: {len(bad)} of {COUNT} failed, codes {dict(codes)}, first {bad[0]}"
        after = server.info()
        assert (after["api_pid"], after["core_pids"]) == (before["api_pid"], before["core_pids"])
        assert server.complete(prompt="x", max_tokens=2)["usage"]["completion_tokens"] == 2
