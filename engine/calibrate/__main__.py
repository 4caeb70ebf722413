"""`python -m engine.calibrate MODEL --out DIR …`: choose a number format for each part of a model and write it down."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from engine.spec.config import EngineConfig
from engine.spec.errors import ConfigError, EngineError
from engine.spec.model import read_spec
from engine.spec.policy import DEFAULT, Policy, read_policy

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def size(text: str) -> int:
    """Bytes of 8GiB, 512MiB, 1.5G or a plain number; an argparse type."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write 8GiB, 512MiB or a number of bytes")
    return int(float(found[1]) * _UNITS[found[2]])


def make_parser() -> argparse.ArgumentParser:
    """The parser; cheap, so that --help is instant."""
    parser = argparse.ArgumentParser(
        prog="dsctl quantize",
        description="Choose a number format for each part of a model, and write a checkpoint that serve loads.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="directory of the checkpoint")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new directory for the result")
    parser.add_argument("--target-memory", type=size, metavar="SIZE", help="most memory of one replica, such as 8GiB")
    parser.add_argument("--max-kl", type=float, metavar="NATS", help="most mean KL divergence, such as 0.01")
    parser.add_argument("--policy", type=Path, metavar="FILE", help="a policy.json to apply as it is")
    parser.add_argument(
        "--bits", type=int, choices=(4, 8), help="one policy for all: attention stays, experts have these"
    )
    parser.add_argument("--method", choices=("symmetric",), default="symmetric", help="the only one there is")
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help=".txt or .jsonl to judge by; default: Python's manual"
    )
    parser.add_argument("--tokens", type=int, default=8192, help="tokens to choose by, and as many to judge by")
    parser.add_argument("--kernels", choices=("auto", "cpu", "reference"), default="auto", help="what computes")
    parser.add_argument("--threads", type=int, default=0, help="0: usable cores")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code of docs/EXIT-CODES.md."""
    args = make_parser().parse_args(arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - began:6.1f} s] {text}\n")
        sys.stderr.flush()

    try:
        return _run(args, say)
    except EngineError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again, it goes on from here\n")
        return 130


def _run(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    asked = [name for name in ("policy", "bits", "target_memory", "max_kl") if getattr(args, name) is not None]
    if not asked or (len(asked) > 1 and asked != ["target_memory", "max_kl"]):
        raise ConfigError("give one of --target-memory, --max-kl, --policy and --bits, or the first two together")
    if args.max_kl is not None and not args.max_kl > 0:
        raise ConfigError(f"--max-kl is {args.max_kl}; it must be above 0, such as 0.01")
    if args.tokens < 1:
        raise ConfigError(f"--tokens is {args.tokens}; it must be at least 1")
    spec = read_spec(args.model)
    policy: Policy | None = None
    if args.policy is not None:
        policy = read_policy(args.policy, spec)
    elif args.bits is not None:
        policy = replace(DEFAULT, routed="int4") if args.bits == 4 else DEFAULT
    config = EngineConfig(str(args.model), kernels=args.kernels, threads=args.threads, quantization="none")
    import torch

    from engine.calibrate.task import Wish, check_target, run

    if args.target_memory is not None:
        check_target(args.target_memory, spec, config)  # before anything is loaded
    torch.set_num_threads(args.threads or len(os.sched_getaffinity(0)))
    wish = Wish(args.model, args.out, policy, args.target_memory, args.max_kl, args.text, args.tokens, config)
    report = run(wish, say)
    if args.json:
        sys.stdout.write(json.dumps({"schema_version": 1, **report.document()}, indent=2) + "\n")
    else:
        sys.stdout.write(f"{report.table()}\n\nserve it: dsctl serve {args.out}\nreport: {args.out / 'report.html'}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
