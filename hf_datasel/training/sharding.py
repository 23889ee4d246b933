"""What cannot be done while the weights of the model are sharded over the processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import DistributedType

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.scoring.base import Columns, ModelScore, Score
from hf_datasel.spec import spec_name

__all__ = ["check_restarts", "sharding_name", "with_sharding_check"]

_ZERO_3 = "DeepSpeed ZeRO stage 3"

Compute = Callable[[Score, np.ndarray | None], Columns]


def sharding_name(accelerator: Any, model: Any) -> str | None:
    """Name what shards the weights of a model over the processes; None if every process has all weights.

    DDP and DeepSpeed ZeRO stages 1 and 2 do not shard the weights.

    Args:
        accelerator: Accelerator of the trainer.
        model: Model being trained, wrapped or not.
    """
    kind = accelerator.distributed_type
    if kind == DistributedType.FSDP:
        return "FSDP"
    if kind == DistributedType.MEGATRON_LM:
        return "Megatron-LM"
    if kind == DistributedType.DEEPSPEED and accelerator.state.deepspeed_plugin.zero_stage == 3:
        return _ZERO_3
    axes = getattr(accelerator, "parallelism_config", None)
    for axis, name in (("tp", "tensor parallelism"), ("cp", "context parallelism"), ("sp", "sequence parallelism")):
        if axes is not None and getattr(axes, f"{axis}_enabled", False):
            return name
    return "tensor parallelism or a DistributedConfig" if _has_dtensors(model) else None


def check_restarts(plan: Sequence[RoundPlan], accelerator: Any, model: Any, selector: str) -> None:
    """Raise if rounds restart from the base model while its weights, or the optimizer's copy of them, are sharded.

    Args:
        plan: Rounds of the run.
        accelerator: Accelerator of the trainer.
        model: Model being trained, wrapped or not.
        selector: Name of the selector, for the message.

    Raises:
        ConfigError: Says how to run instead.
    """
    if not any(round_plan.restart for round_plan in plan):
        return
    sharding = sharding_name(accelerator, model)
    if sharding is None and accelerator.distributed_type == DistributedType.DEEPSPEED:
        sharding = "DeepSpeed"  # its optimizer has a copy of the weights, which would overwrite the base weights
    if sharding is not None:
        raise ConfigError(
            f"{selector} restarts rounds from the base model, which is not possible with {sharding}. Train with DDP "
            "(torchrun or accelerate launch without it) or in one process."
        )


def with_sharding_check(compute: Compute, accelerator: Any, model: Any) -> Compute:
    """Return `compute`, changed to raise before a process runs a model that is sharded over the processes.

    The processes score different numbers of batches, but every forward pass of a sharded model needs all of them, so
    that they would wait for each other forever. Every process computes the same scores, so that all raise at once.

    Args:
        compute: Computes a score, for all rows or for some.
        accelerator: Accelerator of the trainer.
        model: Model being trained, wrapped or not.

    Returns:
        The function to use. It raises `ConfigError` for a score that cannot be computed.
    """
    sharding = sharding_name(accelerator, model)
    if sharding is None:
        return compute

    def checked(score: Score, indices: np.ndarray | None) -> Columns:
        if _runs_sharded_model(score, sharding):
            name = type(score).__name__
            raise ConfigError(
                f"{name} cannot be computed while training with {sharding}: no process has all weights. Train with "
                "DDP or DeepSpeed ZeRO stage 1 or 2.",
                hint=f"Or compute the score before training, with hf_datasel.score(dataset, {name}(...)), and pass "
                "its column to the selector (quality=... for most); or train on the rows of hf_datasel.select(...).",
                cli_hint=f"Or compute the score before training, with hf-datasel score --scores {spec_name(score)}, "
                "and pass its column to the selector (quality for most); or train on the rows of hf-datasel select "
                "--save_subset true.",
            )
        return compute(score, indices)

    return checked


def _runs_sharded_model(score: Score, sharding: str) -> bool:
    """Return whether a score runs a sharded model.

    The model being trained always is; with ZeRO stage 3, models that are loaded by name are as well.
    """
    if not isinstance(score, ModelScore):
        return False
    return sharding == _ZERO_3 or (score.needs_tokenizer and score.model is None)


def _has_dtensors(model: Any) -> bool:
    if not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return any(isinstance(weight, DTensor) for weight in model.parameters())
