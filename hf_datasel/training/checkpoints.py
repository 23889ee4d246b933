"""Checkpoints: those that a plan asks for, the last one that is whole, and loading one as it was."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_datasel.training.restart import trainable

__all__ = ["KeepCheckpoints", "cast_back", "last_whole", "set_epoch"]

logger = logging.getLogger(__name__)


class KeepCheckpoints(TrainerCallback):
    """Asks for a checkpoint at the end of an epoch, where there has to be one.

    Args:
        wanted: whether there has to be one.
    """

    def __init__(self, wanted: Callable[[], bool]):
        self._wanted = wanted
        self.asked = False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.asked = self._wanted()
        control.should_save = control.should_save or self.asked


def last_whole(output_dir: str | os.PathLike[str]) -> str | None:
    """The last checkpoint of a run that can be gone on from; None where there is none.

    A run that is killed while it saves one leaves a part of it. `Trainer` writes its state last.
    """
    steps = {}
    for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if step.isdecimal() and path.is_dir():
            steps[int(step)] = path
    for _, path in sorted(steps.items(), reverse=True):
        if _is_whole(path):
            return str(path)
        logger.warning("%s is not whole: the run ended while it was saved. It is passed over.", path)
    return None


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def cast_back(model: torch.nn.Module, dtypes: Mapping[str, torch.dtype]) -> None:
    """Give the weights that training changes the dtype that they had before a checkpoint was loaded.

    PEFT loads an adapter in float32, also where TRL trains it in bfloat16, so that its updates would be rounded
    otherwise from then on.

    Args:
        dtypes: by name of the weight.
    """
    for name, weight in trainable(model).items():
        if name in dtypes and weight.dtype != dtypes[name]:
            weight.data = weight.data.to(dtypes[name])


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell a sampler of batches which epoch it is, so that it shuffles as it did before a checkpoint was loaded.

    `Trainer` looks for it inside one wrapper. In several processes there are two, where batches are skipped.
    """
    sampler = getattr(loader, "batch_sampler", None)
    while sampler is not None:
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        sampler = getattr(sampler, "batch_sampler", None)
