"""`dsctl serve MODEL_DIR`: one replica in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Port = Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")]
Dtype = Annotated[str, typer.Option(metavar="float32|bfloat16", help="Weights, activations and cache.")]
Length = Annotated[int, typer.Option(min=0, help="Longest prompt and answer together; 0: what the checkpoint says.")]
Bits = Annotated[str, typer.Option(metavar="none|int8|int4|auto|POLICY", help="Bits of the weights; a policy file.")]
Threads = Annotated[int, typer.Option(min=0, help="Threads that compute; 0: the usable cores.")]
Format = Annotated[str, typer.Option(metavar="safetensors|dummy", help="dummy: random weights of the right shape.")]
Target = Annotated[
    float, typer.Option(min=0, help="Cut prompts so that running streams get a token within this; 0: off.")
]
Id = Annotated[str | None, typer.Option(help="The model's id for clients; default: the directory's name.")]


def serve(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A checkpoint, or a bundled model's name.")],
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Port = 0, dtype: Dtype = "bfloat16", max_model_len: Length = 0,
    served_model_name: Id = None, quantization: Bits = "auto", threads: Threads = 0,
    load_format: Format = "safetensors", target_itl_ms: Target = 0.0,
) -> None:  # fmt: skip
    """Serve one checkpoint in the foreground.

    Prints `ready http://HOST:PORT model=ID` when it is. Other options are the engine's: python -m engine.server --help.
    """
    from dsctl.flows import foreground

    arguments = ["--host", host, "--port", str(port), "--dtype", dtype, "--max-model-len", str(max_model_len)]
    arguments += ["--quantization", quantization, "--threads", str(threads), "--load-format", load_format]
    arguments += ["--target-itl-ms", str(target_itl_ms)] if target_itl_ms else []
    arguments += ["--served-model-name", served_model_name] if served_model_name else []
    foreground.serve(model, [*arguments, *context.args])
