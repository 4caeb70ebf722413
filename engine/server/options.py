"""The command line of an API process: its own options, and one for every field of EngineConfig."""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.spec.config import EngineConfig
from engine.spec.errors import CapacityError, ConfigError

_HELP = {
    "dtype": "weights, activations and cache",
    "max_model_len": "longest prompt plus answer, in tokens; 0: what the checkpoint says",
    "max_num_seqs": "sequences that run together",
    "max_num_batched_tokens": "tokens of one step",
    "long_prefill_threshold": "most tokens of one prompt in a step; 0: the whole step",
    "target_itl_ms": "cut prompts so that running streams get their next token within this time, which is learned; "
    "0: off",
    "block_size": "tokens of one cache block",
    "kv_cache_tokens": "size of the cache in tokens; 0: from --kv-cache-ratio",
    "kv_cache_ratio": "share of the free memory the cache may take",
    "enable_prefix_cache": "reuse the cache of equal prompt beginnings",
    "reuse_output_blocks": "let prompts hit blocks filled by decoding; replays are then no longer exact",
    "max_queue": "sequences that may wait; 0: 4 × --max-num-seqs",
    "max_queue_delay_ms": "hold waiting requests this long to fill --preferred-batch-size",
    "preferred_batch_size": "batch size worth waiting for; 0: off",
    "queue_timeout_s": "a request that waits longer is refused with 503",
    "threads": "compute threads; 0: the usable cores",
    "load_format": "dummy makes random weights",
    "kernels": "what computes: cpu (compiled for this machine), reference (torch), or auto (cpu where a compiler is)",
    "tensor_parallel_size": "processes among which heads, inner sizes and the vocabulary are divided",
    "expert_parallel_size": "processes among which the routed experts are divided",
    "pipeline_parallel_size": "processes among which the layers are divided",
    "quantization": "none, int8 (all matrices), int4 (routed experts, the rest int8), a policy file, or auto: what the "
    "checkpoint's policy.json says",
}


@dataclass(frozen=True, slots=True)
class Options:
    """Everything the operator decides about one API process."""

    engine: EngineConfig
    host: str
    port: int
    name: str
    model_name: str  # what clients call the model
    token_file: str | None
    no_auth: bool
    ledger: str | None
    spare_cores: int
    core_module: str
    faults: dict[str, float]


def make_parser() -> argparse.ArgumentParser:
    """The parser; cheap, so that --help is instant."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.server",
        usage="%(prog)s --model DIR [options; --help lists them]",
        description="Serve one DeepSeek-class model over an OpenAI-compatible API.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=_port, default=0, help="port to listen on; 0: any free one (default)")
    parser.add_argument("--name", default="engine", help="name of this replica in /server_info and metrics")
    parser.add_argument("--served-model-name", metavar="ID", help="the model's id (default: name of its directory)")
    parser.add_argument("--token-file", metavar="FILE", help="ask every client for the bearer token in this file")
    parser.add_argument("--no-auth", action="store_true", help="listen beyond loopback without a token")
    parser.add_argument("--ledger", metavar="FILE", help="append one JSON line for every sequence that ends")
    parser.add_argument("--spare-cores", type=int, choices=(0, 1), default=1, help="cores kept ready to take over")
    parser.add_argument("--core-module", default="engine.core", help=argparse.SUPPRESS)
    parser.add_argument("--fault", type=_fault, action="append", default=[], help=argparse.SUPPRESS)
    group = parser.add_argument_group("engine")
    hints = typing.get_type_hints(EngineConfig)
    for field in dataclasses.fields(EngineConfig):
        _add_field(group, field, hints[field.name])
    return parser


def parse_options(arguments: list[str]) -> Options:
    """Options from arguments. Raises ConfigError on values that cannot work, CapacityError on a refused listener."""
    values = vars(make_parser().parse_args(arguments))
    config = {field.name: values[field.name] for field in dataclasses.fields(EngineConfig)}
    config["model"] = str(Path(config["model"]).resolve())
    if config["quantization"].endswith(".json"):
        config["quantization"] = str(Path(config["quantization"]).resolve())
    options = Options(
        engine=EngineConfig(**config),
        host=values["host"],
        port=values["port"],
        name=values["name"],
        model_name=values["served_model_name"] or Path(config["model"]).name,
        token_file=values["token_file"],
        no_auth=values["no_auth"],
        ledger=values["ledger"],
        spare_cores=values["spare_cores"],
        core_module=values["core_module"],
        faults=dict(values["fault"]),
    )
    _check_listener(options)
    return options


def _add_field(group: Any, field: dataclasses.Field[Any], hint: Any) -> None:
    flag = "--" + field.name.replace("_", "-")
    text = _HELP.get(field.name, "")
    if field.default is dataclasses.MISSING:
        group.add_argument(flag, required=True, metavar="DIR", help="directory of the checkpoint")
    elif hint is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default, help=text)
    elif typing.get_origin(hint) is typing.Literal:
        group.add_argument(flag, choices=typing.get_args(hint), default=field.default, help=text)
    else:
        metavar = "NAME" if hint is str else "N"
        group.add_argument(
            flag, type=hint, default=field.default, metavar=metavar, help=f"{text} (default {field.default})".strip()
        )


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give 0 … 65535")
    return int(text)


def _fault(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    return name, float(value or 1)


class OpenListenerError(CapacityError):
    """A listener beyond loopback without a token (process exit 6)."""


def _check_listener(options: Options) -> None:
    if options.token_file or options.no_auth or is_loopback(options.host):
        return
    raise OpenListenerError(
        f"refusing to listen on {options.host} without a token: anyone who reaches it could use the model; "
        "give --token-file FILE, or --no-auth if the network is trusted"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: str) -> str:
    """The bearer token in a file. Raises ConfigError when it is unreadable, empty or not printable ASCII."""
    try:
        token = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token file {path} cannot be read: {error}") from error
    if not token or not token.isprintable() or " " in token:
        raise ConfigError(f"the token file {path} holds no usable token; write one line of printable characters")
    return token
