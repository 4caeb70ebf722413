"""`python -m benchmarks.engine_peers`: install the peers, make the model, measure every engine, print the table."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.engine_peers import chart, engines, report, results
from benchmarks.engine_peers.engines import Engine, Steps
from benchmarks.engine_peers.install import Peers, UnfairError, default_folder
from benchmarks.engine_peers.llama import Llama
from benchmarks.engine_peers.probing import build, load_average, machine, measure
from benchmarks.engine_peers.processes import FailedError, Others, end_children_on_sigterm
from benchmarks.engine_peers.results import Measured, Probe, Report, Spread
from benchmarks.engine_peers.servers import Served, serve
from benchmarks.engine_peers.shape import BATCHES


@dataclass(frozen=True, slots=True)
class Plan:
    """What one call measures."""

    peers: Peers
    engines: list[Engine]
    rounds: int
    with_steps: bool
    with_http: bool

    def run(self, probe: Callable[[], Probe], keep: Callable[[Measured], None]) -> None:
        """Every engine in turn, a probe between any two; each result is kept as soon as it is there."""
        run, before = secrets.token_hex(4), probe()
        for engine in self.engines:
            _say(f"{engine.name}: load average {load_average():.2f}, reads {before.read / 1e9:.1f} GB/s")
            others = Others()
            try:
                steps = engines.steps(engine, self.peers, self.rounds) if self.with_steps else Steps({}, {}, [])
                share = others.share()
                wants_http = self.with_http and engine.has_server
                served = serve(engines.server(engine, self.peers), BATCHES) if wants_http else None
            except FailedError as error:
                _say(f"{engine.name} fails: {error}")
                before = probe()
                continue
            after = probe()
            measured = _measured(engine, run, (before, after), steps, served)
            keep(msgspec.structs.replace(measured, others=max(share, served.others if served else 0.0)))
            before = after


def _measured(engine: Engine, run: str, probes: tuple[Probe, Probe], steps: Steps, served: Served | None) -> Measured:
    return Measured(
        name=engine.name,
        weights=engine.weights,
        run=run,
        before=probes[0],
        after=probes[1],
        decode={rows: Spread(tuple(speeds)) for rows, speeds in steps.decode.items()},
        prefill={name: Spread(tuple(speeds)) for name, speeds in steps.prefill.items()},
        http=served.http if served else (),
        load_s=served.load_s if served else None,
        pss=served.pss if served else None,
        notes=tuple(steps.notes),
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    names = ", ".join(engine.name for engine in engines.ENGINES)
    made = argparse.ArgumentParser(prog="python -m benchmarks.engine_peers", description=__doc__)
    made.add_argument("--only", default="", metavar="A,B", help=f"engines, of {names} (default: all)")
    made.add_argument("--venvs", type=Path, default=default_folder(), metavar="DIR", help="where peers and models lie")
    made.add_argument("--install", action="store_true", help="install and make the models, measure nothing")
    made.add_argument(
        "--sweep", action="store_true", help="search llama.cpp's best settings again, measure nothing else"
    )
    made.add_argument("--rounds", type=int, default=3, help="samples of a figure (default %(default)s)")
    made.add_argument("--no-http", action="store_true", help="steps only")
    made.add_argument("--no-steps", action="store_true", help="servers only")
    made.add_argument("--json", type=Path, metavar="FILE", help="write results (default: DIR/results/TIME.json)")
    made.add_argument("--chart", type=Path, metavar="FILE", help="write the decode figures as SVG")
    made.add_argument("--merge", type=Path, nargs="+", metavar="FILE", help="show files of earlier runs as one table")
    return made


def _sweep(peers: Peers, wanted: list[Engine]) -> None:
    for engine in wanted:
        if engine.kind == "llama":
            _, tried = Llama(peers.llama_programs, peers.gguf(engine.weights)).best(again=True)
            print("\n".join(f"{engine.name}: {line}" for line in tried))


def _measure(args: argparse.Namespace, peers: Peers, wanted: list[Engine]) -> Report:
    program = build(peers.folder)
    made = Report(machine(), engines.distinct(peers), ())
    path = args.json or peers.folder / "results" / time.strftime("%Y%m%dT%H%M%S.json", time.gmtime())
    done: list[Measured] = []

    def keep(measured: Measured) -> None:
        done.append(measured)
        results.write(path, Report(made.machine, made.distinct, tuple(done)))

    plan = Plan(peers, wanted, args.rounds, with_steps=not args.no_steps, with_http=not args.no_http)
    plan.run(lambda: measure(program), keep)
    _say(f"results are in {path}")
    return Report(made.machine, made.distinct, tuple(done))


def main() -> int:
    """Returns 0, or 1 when an engine or a request failed, 2 for a wrong name, 6 where a comparison would be unfair."""
    args = parser().parse_args()
    end_children_on_sigterm()
    peers = Peers(args.venvs.resolve())
    try:
        wanted = engines.chosen(args.only)
        if args.merge:
            made = results.merge([results.read(path) for path in args.merge])
        else:
            peers.install([engine.kind for engine in wanted])
            if args.install or args.sweep:
                _sweep(peers, wanted if args.sweep else [])
                return 0
            made = _measure(args, peers, wanted)
    except (ValueError, UnfairError) as error:
        _say(f"error: {error}")
        return 6 if isinstance(error, UnfairError) else 2
    print(report.render(made))
    if args.chart:
        args.chart.write_text(chart.draw(made))
    complete = bool(args.merge) or len(made.engines) == len(wanted)
    return 0 if complete and not report.failures(made.engines) else 1


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
