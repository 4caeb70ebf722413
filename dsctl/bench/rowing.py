"""Makes a request's row of what happened to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from dsctl.bench.records import Record

if TYPE_CHECKING:
    from dsctl.bench.exchange import Exchange


def record_of(sketch: Record, done: Exchange, start: float) -> Record:
    """`sketch` (who and what was asked) with what happened; `start` turns clock times into seconds of the run."""

    def since(t: float | None) -> float | None:
        return None if t is None else round(t - start, 6)

    answer = done.answer
    usage = answer.usage
    prompt = usage.prompt_tokens_details if usage else None
    completion = usage.completion_tokens_details if usage else None
    is_counted = bool(answer.counts) and len(answer.counts) == answer.chunks
    return msgspec.structs.replace(
        sketch,
        status=done.status,
        http=done.http,
        error=done.error,
        finish=answer.finish,
        t_send=since(done.sent),
        t_connect=None if done.connected_in is None else round(done.connected_in, 6),
        resent=done.resent,
        t_headers=since(done.headers),
        t_first=since(answer.first),
        t_content=since(answer.content),
        t_last=since(answer.last),
        t_close=since(done.closed),
        n_in=usage.prompt_tokens if usage else None,
        n_out=usage.completion_tokens if usage else None,
        n_cached=prompt.cached_tokens if prompt else None,
        n_reasoning=completion.reasoning_tokens if completion else None,
        n_first=answer.counts[0] if is_counted else 1,
        chunks=answer.chunks,
        gaps=[round(gap, 6) for gap in answer.gaps],
        counts=list(answer.counts) if is_counted else None,
    )
