"""The arithmetic, parsing and reporting of the comparison with other engines."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from aiohttp import web

from benchmarks.engine_peers import chart, client, engines, install, llama, probing, processes, report, results
from benchmarks.engine_peers.results import Measured, Probe, Report, Spread
from benchmarks.engine_peers.shape import CONFIG, Rates, limit, shape_of, step_bytes

SHAPE = shape_of(CONFIG)
PROBE = Probe(read=80e9, int8=2e12, bf16=1e12)


def measured(name: str, weights: str, run: str, speed: float) -> Measured:
    """One engine with one decode and one prefill figure."""
    once = Spread((speed,))
    return Measured(name, weights, run, PROBE, PROBE, decode={1: once}, prefill={"1×512": once})


def test_the_shape_has_the_stated_numbers_of_parameters() -> None:
    """904 M in all, 205 M for each token."""
    assert round(SHAPE.total / 1e6) == 904
    assert round(SHAPE.active / 1e6) == 205


def test_limits_follow_bytes_and_operations() -> None:
    """One token reads the active parameters once; overlapped, the slower of reading and computing decides."""
    slow_memory = limit(SHAPE, "int8", Rates(read=81e9, operations=1.9e12), 1, 4)
    assert slow_memory.overlapped == pytest.approx(81e9 / SHAPE.active)
    seconds = SHAPE.active / 81e9 + 2 * SHAPE.active / 1.9e12
    assert slow_memory.in_turn == pytest.approx(1 / seconds)
    slow_products = limit(SHAPE, "bf16", Rates(read=1e15, operations=1e12), 64, 32)
    assert slow_products.overlapped == pytest.approx(1e12 / (2 * SHAPE.active))


def test_prompts_ask_for_one_row_of_logits() -> None:
    """The head is computed once for a prompt, not for its every token, and its products leave the limit."""
    rates = Rates(read=1e15, operations=1e12)
    body = 2 * (SHAPE.active - SHAPE.embedding) * 512 / 1e12
    found = limit(SHAPE, "int8", rates, 512, SHAPE.experts, heads=1)
    assert found.overlapped == pytest.approx(512 / (body + 2 * SHAPE.embedding / 1e12))
    assert found.overlapped > limit(SHAPE, "int8", rates, 512, SHAPE.experts).overlapped


def test_only_routed_experts_shrink_with_four_bits() -> None:
    """int4 halves the experts' bytes (and adds scales) and leaves everything else at a byte."""
    experts = 10 * SHAPE.moe_layers * SHAPE.expert
    assert step_bytes(SHAPE, "int8", 10) == SHAPE.always + experts
    assert step_bytes(SHAPE, "int4", 10) == pytest.approx(SHAPE.always + experts * (0.5 + 2 / 128))


def test_expected_distinct_experts() -> None:
    """One token visits top_k; very many visit all."""
    assert SHAPE.expected_distinct(1) == pytest.approx(4)
    assert 20 < SHAPE.expected_distinct(8) < 22
    assert SHAPE.expected_distinct(1000) == pytest.approx(32)


def test_llama_bench_json_is_found_behind_other_output() -> None:
    """Log lines before the results do not matter; no results is an error."""
    tests = [{"n_prompt": 512, "n_gen": 0, "avg_ts": 640.5}, {"n_prompt": 0, "n_gen": 64, "avg_ts": 150}]
    found = llama.parse_bench("warning: something\n" + json.dumps(tests))
    assert found == [llama.Line(512, 0, 640.5), llama.Line(0, 64, 150.0)]
    with pytest.raises(ValueError, match="no results"):
        llama.parse_bench("error: cannot open model")


def test_batched_bench_lines_are_collected_by_number_of_sequences() -> None:
    """Repeated sizes become several samples; other lines are skipped."""
    lines = [json.dumps({"pl": rows, "speed_tg": rows * 10.0, "speed_pp": 600.0}) for rows in (1, 1, 8)]
    decode, prefill = llama.parse_batched("\n".join(["main: n_kv_max = 512", *lines, ""]))
    assert decode == {1: [10.0, 10.0], 8: [80.0]}
    assert prefill == {1: [600.0, 600.0], 8: [600.0]}


def test_the_sweep_takes_the_best_of_every_knob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each knob is decided by its own speed, keeps the earlier ones, and the result is remembered."""

    def speed(self: llama.Llama, what: str, settings: llama.Settings) -> float:
        points = 10.0 * settings.threads + (5 if settings.flash == "off" else 0)
        return points + (3 if not settings.repack else 0) + (1 if settings.micro_batch == 128 else 0)

    monkeypatch.setattr(llama.Llama, "_speed", speed)
    subject = llama.Llama(tmp_path, tmp_path / "m.gguf")
    best, tried = subject.best()
    assert (best.threads, best.flash, best.repack, best.micro_batch) == (llama.CORES, "off", False, 128)
    assert len(tried) == len(sorted({1, max(1, llama.CORES // 2), llama.CORES})) + 2 + 2 + 3
    monkeypatch.setattr(llama.Llama, "_speed", None)
    assert subject.best() == (best, tried)
    assert "--no-repack" in best.common()


def test_percentiles_are_samples() -> None:
    """The smallest sample that the share of all do not exceed."""
    values = [float(n) for n in range(100, 0, -1)]
    assert results.percentile(values, 0.5) == 50
    assert results.percentile(values, 0.99) == 99
    assert results.percentile([7.0], 0.99) == 7


def test_requirements_without_extras_and_media() -> None:
    """Extras, torch and its picture and sound packages are left out; markers and versions stay."""
    lines = ["regex", "torch==2.13.0+cpu; platform_machine == 'x86_64'", "torchvision", 'datasets; extra == "bench"']
    lines += ["fastapi[standard]<0.137.0", "torch_c_dlpack_ext", "xgrammar==0.2.8; platform_machine == 'x86_64'"]
    assert install.wanted(lines) == [lines[0], *lines[4:]]


def test_probe_output() -> None:
    """Three rates by name."""
    assert probing.parse("read 8.1e+10\nint8 1.9e12\nbf16 8.6e11\n") == Probe(8.1e10, 1.9e12, 8.6e11)


def test_results_survive_a_file_and_a_merge(tmp_path: Path) -> None:
    """What is written is read back; merged results keep their own probes; two machines do not mix."""
    one = Report({"cpu": "a"}, {1: (4.0,)}, (measured("dsctl-int8", "int8", "r1", 300),))
    two = Report({"cpu": "a"}, {8: (20.0,)}, (measured("llama-q8_0", "Q8_0", "r2", 150),))
    results.write(tmp_path / "one.json", one)
    assert results.read(tmp_path / "one.json") == one
    merged = results.merge([one, two])
    assert [engine.name for engine in merged.engines] == ["dsctl-int8", "llama-q8_0"]
    assert merged.distinct == {1: (4.0,), 8: (20.0,)}
    with pytest.raises(ValueError, match="one table"):
        results.merge([one, Report({"cpu": "b"}, {}, ())])


def test_ratios_only_within_a_run() -> None:
    """Two figures are divided when the same run measured both, never across runs."""
    ours, theirs = measured("dsctl-int8", "int8", "r1", 300), measured("llama-q8_0", "Q8_0", "r1", 150)
    (line,) = report.ratios(Report({}, {}, (ours, theirs)))
    assert "bs 1 2.00×" in line
    assert "prefill 1×512 2.00×" in line
    assert report.ratios(Report({}, {}, (ours, measured("llama-q8_0", "Q8_0", "r2", 150)))) == []


def test_the_table_shows_rate_bytes_and_share_of_the_limit() -> None:
    """195 tokens/s of int8 at batch 1 are half of what 80 GB/s allow."""
    half = 80e9 / SHAPE.active / 2
    text = report.render(Report({"cpu": "x"}, {1: (4.0,)}, (measured("dsctl-int8", "int8", "r", half),)))
    assert "**195** 40 GB/s, 50% of 391" in text
    assert "distinct experts, bs 1: mean 4.00 of 32" in text


def test_the_chart_is_one_bar_and_one_limit_for_each_engine() -> None:
    """Names are escaped and every measured engine appears."""
    drawn = chart.draw(Report({}, {}, (measured("dsctl-int8", "int8", "r", 300), measured("a<b", "Q8_0", "r", 150))))
    assert drawn.startswith("<svg ")
    assert "a&lt;b" in drawn
    assert drawn.count("<rect") == 1 + 2 * 2


def test_unknown_engines_are_named() -> None:
    """A wrong name is refused with the right ones."""
    assert [engine.name for engine in engines.chosen("vllm, dsctl-int8")] == ["vllm", "dsctl-int8"]
    with pytest.raises(ValueError, match=r"'ollama'.*dsctl-int8"):
        engines.chosen("ollama")


def test_prompts_are_random_and_repeatable() -> None:
    """Two seeds, two prompts; one seed, one prompt; no special ids."""
    assert client.random_prompt(1) == client.random_prompt(1)
    assert client.random_prompt(1) != client.random_prompt(2)
    assert min(client.random_prompt(3, 5000)) >= 6


async def _stream(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    if body["prompt"][0] == 99:
        return web.json_response({"error": "busy"}, status=503)
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for number in range(body["max_tokens"]):
        event = json.dumps({"choices": [{"index": 0, "text": f"t{number % 2}"}]})
        await response.write(f"data: {event}\n\n".encode())
    usage = json.dumps({"choices": [], "usage": {"completion_tokens": body["max_tokens"]}})
    await response.write(f"data: {usage}\n\ndata: [DONE]\n\n".encode())
    return response


def test_the_client_counts_tokens_gaps_and_failures() -> None:
    """Tokens come from the usage, times from the events; a refusal is a failed answer, not an exception."""

    async def scenario() -> list[client.Answer]:
        application = web.Application()
        application.router.add_post("/v1/completions", _stream)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            async with client.aiohttp.ClientSession() as session:
                return [await client.ask(session, url, "m", [first], 5) for first in (7, 99)]
        finally:
            await runner.cleanup()

    good, refused = asyncio.run(scenario())
    assert (good.tokens, len(good.texts), len(good.gaps), good.error) == (5, 5, 4, "")
    assert refused.error.startswith("503")
    figures = client.summary(2, [good, refused], [123.0])
    assert (figures.failed, figures.tokens_per_s.median, figures.different) == (1, 123.0, 0.4)


def test_disturbed_results_say_so() -> None:
    """A result during which others computed is marked in the table and in its ratios."""
    ours, theirs = measured("dsctl-int8", "int8", "r1", 300), measured("llama-q8_0", "Q8_0", "r1", 150)
    theirs = results.msgspec.structs.replace(theirs, others=0.3)
    text = report.render(Report({}, {}, (ours, theirs)))
    assert "DISTURBED llama-q8_0: other processes took 30%" in text
    assert "same run (DISTURBED)" in text


def test_our_own_children_are_not_others() -> None:
    """Processor time of a child that has ended counts as ours, so the share of others stays below all there was."""
    others = processes.Others()
    code = "import time\nwhile time.process_time() < 0.3: pass"
    processes.output([sys.executable, "-c", code])
    assert 0.0 <= others.share() <= 1.0
    assert others.share(running_s=1e9) == 0.0
    assert processes.cpu_s(os.getpid()) > 0.0
