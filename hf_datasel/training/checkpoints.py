"""Checkpoints: those that a plan asks for, and loading one as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import TrainerCallback

from hf_datasel.training.restarting import trainable

__all__ = ["KeepCheckpoints", "cast_back", "set_epoch"]


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
