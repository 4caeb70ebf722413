"""`dsctl quantize MODEL`: fewer bytes for as little loss as is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dsctl.cli.options import Json

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint, or a bundled model's name.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="A new directory for policy, checkpoint and report.")]
Memory = Annotated[str | None, typer.Option(metavar="SIZE", help="Most memory of one replica, such as 8GiB.")]
Kl = Annotated[float | None, typer.Option(metavar="NATS", help="Most mean KL divergence from 16 bits, such as 0.01.")]
PolicyFile = Annotated[Path | None, typer.Option(metavar="FILE", help="A policy to apply as it is.")]
Bits = Annotated[
    int | None, typer.Option(metavar="8|4", help="One policy for all: attention stays, experts have these.")
]
Method = Annotated[str, typer.Option(metavar="symmetric", help="The only one there is.")]
Text = Annotated[
    Path | None, typer.Option(metavar="FILE", help=".txt or .jsonl to judge by; default: Python's manual.")
]
Tokens = Annotated[int, typer.Option(min=1, help="Tokens to choose by, and as many to judge by.")]
Threads = Annotated[int, typer.Option(min=0, help="0: the usable cores.")]


def quantize(
    model: Model, out: Out, target_memory: Memory = None, max_kl: Kl = None, policy: PolicyFile = None,
    bits: Bits = None, method: Method = "symmetric", text: Text = None, tokens: Tokens = 8192,
    threads: Threads = 0, json: Json = False,
) -> None:  # fmt: skip
    """Quantise a model by memory, by loss, or to 8 or 4 bits.

    Measures what each class of each layer loses, chooses, writes a checkpoint for `dsctl serve DIR`, and reports.
    Interrupted, the same command goes on.
    """
    from dsctl.flows import quantize as flow

    wishes = {"target_memory": target_memory, "max_kl": max_kl, "policy": policy, "bits": bits, "method": method}
    flow.quantize(model, {"out": out, **wishes, "text": text, "tokens": tokens, "threads": threads, "json": json})
