"""Order of the rows within an epoch: samplers that give the same order in all processes and after a resume."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_datasel.training.order import RoundOrder

__all__ = ["OrderedSampler", "begin_epoch", "seeded"]


class OrderedSampler(Sampler[int]):
    """Sampler that returns positions of a dataset in a fixed order, which may change with each epoch.

    Args:
        size: Number of rows of the dataset.

    Attributes:
        positions: Positions in the order of the current epoch; by default that of the dataset.
    """

    def __init__(self, size: int):
        self.positions = np.arange(size)

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions.tolist())

    def __len__(self) -> int:
        return len(self.positions)


def seeded(sampler: Any, is_ordered: bool, seed: int) -> Any:
    """Return the sampler to train with, which gives the same order in all processes and can be resumed.

    Args:
        sampler: Sampler of `Trainer`.
        is_ordered: Whether the rows are trained on in the order of the dataset.
        seed: Random seed of `LengthGroupedSampler`, which has none of its own.
    """
    if is_ordered:
        return OrderedSampler(len(sampler))
    if isinstance(sampler, LengthGroupedSampler):
        sampler.generator = torch.Generator()
        sampler.generator.manual_seed(seed)
    return sampler


def begin_epoch(sampler: Any, dataloader: Any, order: RoundOrder | None, seed: int, epoch: int) -> None:
    """Tell the samplers of a dataloader which epoch it is, so that they shuffle as in an uninterrupted run.

    `Trainer` looks for the batch sampler inside one wrapper. In several processes there are two where batches are
    skipped.

    Args:
        sampler: Sampler of the dataset, as `seeded` returned it.
        dataloader: Dataloader of the round.
        order: Order of the rows of the round, if it has one.
        seed: Random seed of the order of rows.
        epoch: Epoch of the run, from 0.
    """
    if isinstance(sampler, OrderedSampler) and order is not None and order.segments is not None:
        sampler.positions = order.positions(_epoch_seed(seed, epoch))
    elif isinstance(sampler, LengthGroupedSampler):
        sampler.generator.manual_seed(_epoch_seed(seed, epoch))
    batch_sampler = getattr(dataloader, "batch_sampler", None)
    while batch_sampler is not None:
        if hasattr(batch_sampler, "set_epoch"):
            batch_sampler.set_epoch(epoch)
        batch_sampler = getattr(batch_sampler, "batch_sampler", None)


def _epoch_seed(seed: int, epoch: int) -> int:
    """Return a random seed for an epoch, different for each epoch and each seed of the run."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
