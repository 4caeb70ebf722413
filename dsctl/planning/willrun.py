"""Will it run here: memory arithmetic from the checkpoint's config.json against each host, before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from dsctl.base.missing import Missing
from dsctl.base.units import size
from dsctl.config.schema import Scalar
from dsctl.facts.host import HostFacts
from dsctl.planning.fleetseen import Fleet
from dsctl.planning.fleetwish import FleetWish, device_of
from engine.spec.config import EngineConfig
from engine.spec.errors import EngineError
from engine.spec.memory import latent_bytes_per_token, weight_bytes, workspace_bytes
from engine.spec.model import ModelSpec, spec_from_config
from engine.spec.policy import DEFAULT, NAMED, Policy

LEAST_CAPABILITY = (8, 0)  # bfloat16 matrix units; older cards compute it much slower or not at all
FP8_CAPABILITY = (8, 9)  # 8-bit float matrix units
LEAST_TOKENS = 2048  # of cache, below which a replica is of no use


@dataclass(frozen=True, slots=True)
class Need:
    """What one copy takes, in bytes."""

    weights: int
    workspace: int
    cache: int  # for LEAST_TOKENS or the wished length

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.workspace + self.cache


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why it cannot run, by host; and what should be known although it can."""

    refusals: Mapping[str, str]
    warnings: tuple[str, ...]


def need(config: Mapping[str, Any], flags: Mapping[str, Scalar]) -> Need | Missing:
    """What a copy of that checkpoint takes with these engine flags; Missing with the engine's own words."""
    try:
        spec = spec_from_config(dict(config))
        engine = EngineConfig(model="", **cast("dict[str, Any]", dict(flags)))
        weights = weight_bytes(spec, engine.dtype, _policy(spec, engine))
        cache = _tokens(spec, engine) * latent_bytes_per_token(spec, engine.dtype)
        return Need(weights, workspace_bytes(spec, engine), cache)
    except (EngineError, TypeError) as error:
        return Missing(str(error))


def judge(wish: FleetWish, fleet: Fleet, wanted: Need | Missing, fp8: bool = False) -> Verdict:
    """The verdict on every wished host that answered."""
    refusals: dict[str, str] = {}
    kinds: dict[str, list[str]] = {}
    warnings: list[str] = [] if isinstance(wanted, Need) else [f"what a copy takes is not known: {wanted.reason}"]
    for host in wish.hosts:
        facts = fleet.get(host, Missing("not asked"))
        if isinstance(facts, Missing):
            continue
        is_cuda = device_of(wish, facts) == "cuda"
        reason = _on_cards(wish, facts, wanted) if is_cuda else _on_processor(facts, wanted)
        if reason:
            refusals[host] = reason
        for card in () if isinstance(facts.gpus, Missing) or not is_cuda else facts.gpus:
            kinds.setdefault(card.name, []).append(host)
            is_old = not isinstance(card.capability, Missing) and card.capability < FP8_CAPABILITY
            if fp8 and is_old:
                warnings.append(f"{host}: {card.name} has no 8-bit float units; the weights are widened when used")
    if len(kinds) > 1:
        shown = ", ".join(f"{name} ({len(set(hosts))} hosts)" for name, hosts in sorted(kinds.items()))
        warnings.append(f"cards of several generations: {shown}; copies will differ in speed and in their last bits")
    return Verdict(refusals, tuple(dict.fromkeys(warnings)))


def _on_cards(wish: FleetWish, facts: HostFacts, wanted: Need | Missing) -> str | None:
    cards = () if isinstance(facts.gpus, Missing) else facts.gpus
    for card in cards:
        if not isinstance(card.capability, Missing) and card.capability < LEAST_CAPABILITY:
            have, least = (".".join(map(str, each)) for each in (card.capability, LEAST_CAPABILITY))
            return f"{card.name} has compute capability {have}, at least {least} is needed"
    memories = [card.memory for card in cards if isinstance(card.memory, int)]
    if isinstance(wanted, Missing) or not memories:
        return None
    room = min(memories) * wish.gpus * wish.nodes
    if wanted.total <= room:
        return None
    enough = -(-wanted.total // min(memories))
    return f"a copy takes {_shown(wanted)}, {wish.gpus} of its cards hold {size(room)}; {enough} would do"


def _on_processor(facts: HostFacts, wanted: Need | Missing) -> str | None:
    if isinstance(wanted, Missing) or not isinstance(facts.memory, int) or wanted.total <= facts.memory:
        return None
    return f"a copy takes {_shown(wanted)}, the host has {size(facts.memory)}"


def _shown(wanted: Need) -> str:
    parts = f"weights {size(wanted.weights)}, workspace {size(wanted.workspace)}, cache {size(wanted.cache)}"
    return f"{size(wanted.total)} ({parts})"


def _policy(spec: ModelSpec, engine: EngineConfig) -> Policy:
    """The formats of the weights as far as config.json tells; a policy file on the hosts is not read from here."""
    automatic = DEFAULT if spec.fp8_block is not None else Policy()
    return NAMED.get(engine.quantization, automatic)


def _tokens(spec: ModelSpec, engine: EngineConfig) -> int:
    return engine.kv_cache_tokens or engine.max_model_len or min(LEAST_TOKENS, spec.max_positions)
