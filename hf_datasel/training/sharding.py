"""What a model whose weights are split over the processes of a run cannot do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import DistributedType

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.context import RoundPlan
from hf_datasel.scoring.base import Columns, ModelScore, Score

__all__ = ["check_restarts", "checked_compute", "how_split"]

_ZERO_3 = "DeepSpeed ZeRO stage 3"

Compute = Callable[[Score, np.ndarray | None], Columns]


def how_split(accelerator: Any, model: Any) -> str | None:
    """By what the weights of a model are split over the processes; None where every process has all of them.

    DDP and DeepSpeed ZeRO stages 1 and 2 leave the weights whole.

    Args:
        accelerator: of the trainer.
        model: being trained, wrapped or not.
    """
    kind = accelerator.distributed_type
    if kind == DistributedType.FSDP:
        return "FSDP"
    if kind == DistributedType.MEGATRON_LM:
        return "Megatron-LM"
    if kind == DistributedType.DEEPSPEED and accelerator.state.deepspeed_plugin.zero_stage == 3:
        return _ZERO_3
    axes = getattr(accelerator, "parallelism_config", None)
    for name, said in (("tp", "tensor parallelism"), ("cp", "context parallelism"), ("sp", "sequence parallelism")):
        if axes is not None and getattr(axes, f"{name}_enabled", False):
            return said
    return "tensor parallelism or a DistributedConfig" if _has_parts(model) else None


def check_restarts(plan: Sequence[RoundPlan], accelerator: Any, model: Any, asker: str) -> None:
    """Refuse rounds that begin again from the base model where its weights, or the optimizer's copy, are split.

    Args:
        plan: the rounds of the run.
        accelerator: of the trainer.
        model: being trained, wrapped or not.
        asker: the selector, for the message.

    Raises:
        ConfigError: says what to run instead.
    """
    if not any(each.restart for each in plan):
        return
    split = how_split(accelerator, model)
    if split is None and accelerator.distributed_type == DistributedType.DEEPSPEED:
        split = "DeepSpeed"  # its optimizer holds a copy of the weights, which would be put back over the base's
    if split is not None:
        raise ConfigError(
            f"{asker} begins rounds again from the base model, which cannot be done under {split}. Train with DDP "
            "(torchrun or accelerate launch without it) or in one process."
        )


def checked_compute(compute: Compute, accelerator: Any, model: Any) -> Compute:
    """`compute`, but with a refusal before any process runs a model that is split over the processes.

    The processes score different rows, and so not equally often, while each forward pass of such a model needs all of
    them: they would wait for each other for ever. Every process asks for the same scores, so that all refuse at once.

    Args:
        compute: computes a score, for all rows or for some.
        accelerator: of the trainer.
        model: being trained, wrapped or not.

    Returns:
        The function to use; it raises `ConfigError` for a score that cannot be computed here.
    """
    split = how_split(accelerator, model)
    if split is None:
        return compute

    def checked(score: Score, indices: np.ndarray | None) -> Columns:
        if _runs_split_model(score, split):
            name = type(score).__name__
            raise ConfigError(
                f"{name} cannot be computed while training under {split}: no process has all weights. Compute it once "
                f"before, by hf-datasel score --scores {name.lower()}, and give the selector that column "
                "(quality=... for most), or choose by hf-datasel select and train on what it wrote. Or train with DDP "
                "or DeepSpeed ZeRO stage 1 or 2, which score with the model as it is."
            )
        return compute(score, indices)

    return checked


def _runs_split_model(score: Score, split: str) -> bool:
    """Whether a score runs a model that is split.

    It is the live model in every case; under ZeRO stage 3 those loaded by name are split as well.
    """
    if not isinstance(score, ModelScore):
        return False
    return split == _ZERO_3 or (score.needs_tokenizer and score.model is None)


def _has_parts(model: Any) -> bool:
    if not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return any(isinstance(each, DTensor) for each in model.parameters())
