"""From a Start message to a core that can step: threads, memory plan, weights, self-check, and what Ready says."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from engine.caching.pool import BlockPool
from engine.core import faults, machine
from engine.core.ranks import Ranks
from engine.layers.cache import LatentCache
from engine.modeling import loader, selfcheck
from engine.modeling.fused import FusedModel
from engine.modeling.loader import Loaded
from engine.modeling.parted import NumberedCache, PartedModel
from engine.running.runner import Runner
from engine.scheduling.admission import Limits
from engine.scheduling.scheduler import Scheduler
from engine.scheduling.steptime import ExpertShape
from engine.spec.config import EngineConfig
from engine.spec.errors import CapacityError
from engine.spec.memory import GIB, MemoryPlan, plan_memory
from engine.spec.model import read_spec
from engine.spec.policy import resolve
from engine.wire.messages import Ready, Start

log = logging.getLogger(__name__)

SAMPLING_VERSION = 1  # raise it whenever a change of scheduling or running changes which token is chosen


@dataclass(frozen=True, slots=True)
class Booted:
    """All that the loop needs."""

    scheduler: Scheduler
    runner: Runner
    ready: Ready


def boot(start: Start) -> Booted:
    """Load what `start` names. Raises CheckpointError, ConfigError or CapacityError."""
    began = time.monotonic()
    config, ills = start.config, faults.wanted(start.faults, start.epoch)
    runtime = machine.resident_bytes()
    torch.set_num_threads(config.threads or machine.usable_cores())
    plan = _plan(config)
    faults.while_loading(ills)
    model, cache = _load(config, plan)
    reason = _why_not_exact(config, selfcheck.check(model))
    computes = faults.FaultyModel(model, ills) if ills else model
    limits = Limits(model.spec.vocab_size, plan.max_model_len, plan.cache_tokens)
    ready = Ready(
        epoch=start.epoch,
        numerics_id=numerics_id(model),
        exact=not reason,
        reason=reason,
        max_model_len=plan.max_model_len,
        kv_total_tokens=plan.cache_tokens,
        block_size=config.block_size,
        load_s=time.monotonic() - began,
        plan={**_sizes(plan), "runtime": runtime},
    )
    log.info("ready in %.2f s: %d cache tokens, numerics %s", ready.load_s, plan.cache_tokens, ready.numerics_id)
    router = model.spec.router
    shape = ExpertShape(router.experts, router.top_k)
    scheduler = Scheduler(config, limits, BlockPool(plan.num_blocks), shape=shape)
    contenders = model.library.contenders if isinstance(model, FusedModel) else None
    return Booted(scheduler, Runner(computes, cache, config.block_size, contenders), ready)


def _plan(config: EngineConfig) -> MemoryPlan:
    """What loading will take, said before it is taken. Raises CapacityError when it would not fit."""
    spec = read_spec(config.model)
    policy = resolve(config.quantization, Path(config.model), spec)
    # every rank has its own copy of what is not divided: each is given its share of what is free
    free = machine.free_bytes() // config.world_size
    plan = plan_memory(spec, config, free, policy, packed=loader.library_of(config, spec) is not None)
    log.info("plan: %s; %.2f GiB are free; quantisation %s", plan, free / GIB, policy.name)
    return plan


def _parted(config: EngineConfig) -> PartedModel:
    """The model on as many processes as the config says; they live as long as this one."""
    threads = max(1, torch.get_num_threads() // config.world_size)
    ranks = Ranks(config.world_size, threads).start()
    log.info("ranks 1 to %d are %s, %d threads each", config.world_size - 1, ranks.pids, threads)
    return ranks.load(config)


def _load(config: EngineConfig, plan: MemoryPlan) -> tuple[Loaded | PartedModel, LatentCache | NumberedCache]:
    """Model and cache. Raises CapacityError when the memory that was free a moment ago is not there any more."""
    try:
        model = loader.load(config) if config.world_size == 1 else _parted(config)
        return model, model.new_cache(plan.num_blocks, config.block_size)
    except RuntimeError as error:  # what torch raises for want of memory
        if "allocate" not in str(error):
            raise
        raise CapacityError(
            f"the plan of {plan.total >> 20} MiB fitted when it was made, but the memory could not be had: {error}; "
            "free memory, use fewer replicas or a smaller kv_cache_ratio"
        ) from error


def numerics_id(model: Loaded | PartedModel) -> str:
    """Hash of everything that decides a token: equal ids may continue each other's sequences."""
    parts = (model.numerics, str(SAMPLING_VERSION), torch.__version__, np.__version__)
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def _why_not_exact(config: EngineConfig, found: str) -> str:
    """Why a replay might differ; empty when it cannot."""
    if found:
        return found
    if config.reuse_output_blocks:
        return "reuse_output_blocks lets prompts use blocks that were computed with decode arithmetic"
    return ""


def _sizes(plan: MemoryPlan) -> dict[str, int]:
    return {"weights": plan.weights, "cache": plan.cache, "workspace": plan.workspace}
