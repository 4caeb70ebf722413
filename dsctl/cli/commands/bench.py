"""`dsctl bench`: load tests whose numbers can be trusted, compared and used as a gate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from dsctl.cli import verdicts
from dsctl.cli.options import Config, Json, Quiet


class RunByDefault(TyperGroup):
    """Lets `dsctl bench --rate 5` mean `dsctl bench run --rate 5`, and `--html` of a report stand alone."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Puts `run` where no verb is."""
        if not args or (args[0].startswith("-") and args[0] not in ("--help", "-h")):
            args = ["run", *args]
        if args[0] == "report":
            args = verdicts.without_bare_html(args)
        return super().parse_args(ctx, args)  # pyright: ignore[reportArgumentType]


group = typer.Typer(
    name="bench", cls=RunByDefault, rich_markup_mode=None,
    help="Measure a service under load.\n\nWithout a verb: `run`, 60 s of 8 users on what is deployed here.",
)  # fmt: skip

Url = Annotated[str | None, typer.Option(metavar="URL", help="The server; default: what is deployed as this project.")]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="Default: the first the server lists.")]
Endpoint = Annotated[str, typer.Option(metavar="chat|completions", help="What is asked.")]
Mock = Annotated[bool, typer.Option("--mock", help="Measure a stand-in server with a known schedule (100 ms, 20 ms).")]
Load = Annotated[
    str | None, typer.Option(metavar="KIND", help="closed, constant, poisson, gamma:SHAPE, burst:SIZE or trace:FILE.")
]
Users = Annotated[int | None, typer.Option("--concurrency", metavar="N", help="Closed: users at a time; default 8.")]
Rate = Annotated[float | None, typer.Option(metavar="R", help="Open: requests per second.")]
Stages = Annotated[str | None, typer.Option(metavar="N@TIME,…", help="Stages of users or rate, or a file.")]
Duration = Annotated[str | None, typer.Option(metavar="TIME", help="How long is measured; default 60s.")]
Requests = Annotated[int | None, typer.Option(metavar="N", help="Measure so many requests instead of a time.")]
Warmup = Annotated[str | None, typer.Option(metavar="TIME", help="Load before the measurement; default 5s.")]
Drain = Annotated[str | None, typer.Option(metavar="TIME", help="Wait so long for the last answers; default 60s.")]
Isl = Annotated[str, typer.Option("--isl", metavar="LENGTH", help="Prompt tokens: 512, 512:normal:64, file:PATH …")]
Osl = Annotated[str, typer.Option("--osl", metavar="LENGTH", help="Answer tokens, written the same way.")]
Prefix = Annotated[
    str | None, typer.Option("--shared-prefix", metavar="N[:M]", help="M beginnings of N tokens, shared.")
]
Turns = Annotated[int, typer.Option(metavar="N", help="Turns of each conversation.")]
Dataset = Annotated[Path | None, typer.Option(metavar="FILE", help="JSONL with prompt or messages, and max_tokens.")]
Priority = Annotated[str | None, typer.Option(metavar="CLASSES", help="Classes, as interactive=0:0.8,batch=10:0.2.")]
Leave = Annotated[float, typer.Option("--disconnect", metavar="SHARE", help="Part of the clients that leave early.")]
Eos = Annotated[bool, typer.Option("--ignore-eos/--no-ignore-eos", help="Answers as long as asked, where accepted.")]
Seed = Annotated[int, typer.Option(metavar="N", help="The same seed asks the same again.")]
Slo = Annotated[str | None, typer.Option("--slo", metavar="LIMITS", help="ttft=500ms,tpot=50ms …; exit 1 when missed.")]
Preset = Annotated[str | None, typer.Option("--slo-preset", metavar="NAME", help="Known limits instead of --slo.")]
Attainment = Annotated[float | None, typer.Option(metavar="SHARE", help="Part of the requests that must meet them.")]
Workers = Annotated[str, typer.Option(metavar="N", help="Processes that make load; auto: as many as are needed.")]
Timeout = Annotated[str, typer.Option("--timeout", metavar="TIME", help="A request that takes longer has failed.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Default: dsctl-bench/<time>.")]
KeyEnv = Annotated[str | None, typer.Option(metavar="NAME", help="The variable that holds the key; $DSCTL_API_KEY.")]
Cacert = Annotated[Path | None, typer.Option(metavar="FILE", help="Trust these certificates.")]
Port = Annotated[int, typer.Option("--port", metavar="PORT", min=1, max=65535, help="Of the page, on 127.0.0.1 only.")]
Repeat = Annotated[int, typer.Option("--repeat", metavar="N", min=1, help="So many runs, into DIR/run-1 and on.")]
Scrape = Annotated[bool, typer.Option("--scrape-metrics", help="Keep the server's /metrics beside the run.")]


@group.command()
def run(
    config: Config = None, url: Url = None, model: Model = None, endpoint: Endpoint = "chat", mock: Mock = False,
    load: Load = None, concurrency: Users = None, rate: Rate = None, stages: Stages = None, duration: Duration = None,
    requests: Requests = None, warmup: Warmup = None, drain: Drain = None, isl: Isl = "128", osl: Osl = "64",
    shared_prefix: Prefix = None, turns: Turns = 1, dataset: Dataset = None, priority: Priority = None,
    disconnect: Leave = 0.0, ignore_eos: Eos = True, seed: Seed = 1, slo: Slo = None, slo_preset: Preset = None,
    attainment: Attainment = None, workers: Workers = "auto", timeout: Timeout = "600s", out: Out = None,
    api_key_env: KeyEnv = None, cacert: Cacert = None, scrape_metrics: Scrape = False, repeat: Repeat = 1,
    json: Json = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Measure a service under load.

    Exit 0: as it should be; 1: an objective was missed; 9: the measurement is invalid; 6: the server does not serve.
    """
    from dsctl.cli import benchmark
    from dsctl.flows.bench import Goal

    wish = benchmark.wish(
        load=load, concurrency=concurrency, rate=rate, stages=stages, duration=duration, requests=requests,
        warmup=warmup, drain=drain, isl=isl, osl=osl, shared_prefix=shared_prefix, turns=turns, dataset=dataset,
        priority=priority, disconnect=disconnect, ignore_eos=ignore_eos, seed=seed, workers=workers, endpoint=endpoint,
        model=model, url=url, api_key_env=api_key_env, cacert=cacert, timeout=timeout, scrape_metrics=scrape_metrics,
    )  # fmt: skip
    how = benchmark.How(mock, json, quiet, repeat)
    raise typer.Exit(benchmark.run(config, wish, Goal(slo, slo_preset, attainment), out, how))


@group.command()
def ui(
    config: Config = None, url: Url = None, model: Model = None, endpoint: Endpoint = "chat", concurrency: Users = None,
    isl: Isl = "128", osl: Osl = "64", shared_prefix: Prefix = None, turns: Turns = 1, dataset: Dataset = None,
    priority: Priority = None, disconnect: Leave = 0.0, ignore_eos: Eos = True, seed: Seed = 1,
    timeout: Timeout = "600s", out: Out = None, api_key_env: KeyEnv = None, cacert: Cacert = None, port: Port = 8089,
) -> None:  # fmt: skip
    """Load by hand from locust's web page on http://127.0.0.1:PORT, with the same users and the same exact rows."""
    from dsctl.cli import benchmark

    wish = benchmark.wish(
        concurrency=concurrency, isl=isl, osl=osl, shared_prefix=shared_prefix, turns=turns, dataset=dataset,
        priority=priority, disconnect=disconnect, ignore_eos=ignore_eos, seed=seed, endpoint=endpoint, model=model,
        url=url, api_key_env=api_key_env, cacert=cacert, timeout=timeout,
    )  # fmt: skip
    benchmark.ui(config, wish, out, port)


Lowest = Annotated[float, typer.Option("--min", metavar="N", help="The first level.")]
Highest = Annotated[float, typer.Option("--max", metavar="N", help="The last level.")]
Over = Annotated[str, typer.Option("--over", metavar="concurrency|rate", help="What is raised.")]
Precision = Annotated[float, typer.Option("--precision", metavar="SHARE", help="How narrow the bracket is to be.")]


@group.command()
def search(
    config: Config = None, url: Url = None, model: Model = None, endpoint: Endpoint = "chat", mock: Mock = False,
    over: Over = "concurrency", low: Lowest = 1, high: Highest = 512, precision: Precision = 0.05, load: Load = None,
    duration: Duration = None, warmup: Warmup = None, drain: Drain = None, isl: Isl = "128", osl: Osl = "64",
    shared_prefix: Prefix = None, turns: Turns = 1, dataset: Dataset = None, ignore_eos: Eos = True, seed: Seed = 1,
    slo: Slo = None, slo_preset: Preset = None, attainment: Attainment = None, workers: Workers = "auto",
    timeout: Timeout = "600s", out: Out = None, api_key_env: KeyEnv = None, cacert: Cacert = None, json: Json = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Find the load a service carries within --slo: the last level that passes and the first that fails.

    Exit 0: a level passes; 1: none does; 9: a level cannot be measured, or the client is too weak for it.
    """
    from dsctl.cli import benchmark
    from dsctl.flows.bench import Goal
    from dsctl.flows.searching import Quest

    wish = benchmark.wish(
        load=load or (None if over == "concurrency" else "poisson"), duration=duration, warmup=warmup, drain=drain,
        isl=isl, osl=osl, shared_prefix=shared_prefix, turns=turns, dataset=dataset, ignore_eos=ignore_eos, seed=seed,
        workers=workers, endpoint=endpoint, model=model, url=url, api_key_env=api_key_env, cacert=cacert,
        timeout=timeout,
    )  # fmt: skip
    quest = Quest(over, low, high, precision, mock)
    goal = Goal(slo, slo_preset, attainment)
    raise typer.Exit(benchmark.search(config, wish, goal, quest, out, json=json, quiet=quiet))


verdicts.add_to(group)
