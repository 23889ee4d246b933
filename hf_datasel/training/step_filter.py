"""Filters within a training step: rows of a batch whose losses are dropped, by the losses themselves."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from hf_datasel.errors import ConfigError, check_option, did_you_mean

__all__ = ["BatchFilter", "BottomLoss", "MiddleLoss", "StepFilter", "TailSFT", "TopLoss", "step_filter_of"]

_MAX_ROWS = 1_000  # of a forward pass: a filter that keeps all of so many rows is meant to


@dataclass(frozen=True)
class BatchFilter(ABC):
    """Decides which rows of a batch are trained on.

    Attributes:
        needs_initial_losses: Whether the loss that each row had before training is read.
    """

    needs_initial_losses: ClassVar[bool] = False

    @abstractmethod
    def keep(self, losses: np.ndarray, initial: np.ndarray, progress: float) -> np.ndarray:
        """Return the positions of the rows to train on, at least one.

        Args:
            losses: Mean loss of the labelled tokens of each row, in nats.
            initial: What it was before training; NaN where it is not needed.
            progress: Progress of the run, from 0 at the first update to 1 at the last.
        """

    def can_drop(self, num_rows: int) -> bool:
        """Return whether rows are dropped from a batch of so many rows at the end of the run."""
        return len(self.keep(np.zeros(num_rows), np.zeros(num_rows), 1.0)) < num_rows


@dataclass(frozen=True)
class TailSFT(BatchFilter):
    """Drops the rows whose loss fell furthest below that of the initial model.

    Reference: TailSFT, Malladi et al. 2026 (2608.25756), Algorithm 1; `round(n * fraction)` rows of a batch of n are
    dropped, and one is always kept, as in the example of TRL.

    Args:
        fraction: Share of the rows of a batch that are dropped, at least 0 and below 1.
        schedule: `"static"` drops this share in every step; `"ramp"` raises it linearly from 0 in the first step to
            `fraction` in the last.
    """

    fraction: float = 0.5
    schedule: Literal["static", "ramp"] = "ramp"

    needs_initial_losses = True

    def __post_init__(self) -> None:
        if type(self.fraction) not in (int, float) or not 0 <= self.fraction < 1:
            raise ConfigError(f"tail_sft: fraction={self.fraction!r} has to be a number of at least 0 and below 1.")
        check_option(f"tail_sft: schedule={self.schedule!r}", self.schedule, ("static", "ramp"))

    def keep(self, losses: np.ndarray, initial: np.ndarray, progress: float) -> np.ndarray:
        """Return the positions of the rows that are kept; see `BatchFilter.keep`."""
        fraction = self.fraction * (progress if self.schedule == "ramp" else 1)
        dropped = min(round(len(losses) * fraction), len(losses) - 1)
        return np.argsort(losses - initial, kind="stable")[dropped:]


@dataclass(frozen=True)
class _ByLoss(BatchFilter):
    """Keeps a share of the rows by their losses in this step; of n rows `max(1, round(n * ratio))`.

    Args:
        ratio: Share of the rows of a batch that are kept, above 0 and at most 1.
    """

    ratio: float = 0.5

    def __post_init__(self) -> None:
        if type(self.ratio) not in (int, float) or not 0 < self.ratio <= 1:
            raise ConfigError(f"{_name_of(type(self))}: ratio={self.ratio!r} has to be above 0 and at most 1.")

    def _num_kept(self, num_rows: int) -> int:
        return max(1, round(num_rows * self.ratio))


@dataclass(frozen=True)
class TopLoss(_ByLoss):
    """Keeps the rows with the highest losses, as Ordered SGD and online hard example mining do.

    Reference: Ordered SGD, Kawaguchi and Lu 2020 (1907.04371); OHEM, Shrivastava et al. 2016 (1604.03540).

    Args:
        ratio: Share of the rows of a batch that are kept, above 0 and at most 1.
    """

    def keep(self, losses: np.ndarray, initial: np.ndarray, progress: float) -> np.ndarray:
        """Return the positions of the rows that are kept; see `BatchFilter.keep`."""
        return np.argsort(-losses, kind="stable")[: self._num_kept(len(losses))]


@dataclass(frozen=True)
class BottomLoss(_ByLoss):
    """Keeps the rows with the lowest losses, which leaves out rows that are wrong or too hard.

    Args:
        ratio: As in `TopLoss`.
    """

    def keep(self, losses: np.ndarray, initial: np.ndarray, progress: float) -> np.ndarray:
        """Return the positions of the rows that are kept; see `BatchFilter.keep`."""
        return np.argsort(losses, kind="stable")[: self._num_kept(len(losses))]


@dataclass(frozen=True)
class MiddleLoss(_ByLoss):
    """Keeps the rows in the middle of the order of the losses; of an odd number to drop, one more of the highest.

    Args:
        ratio: As in `TopLoss`.
    """

    def keep(self, losses: np.ndarray, initial: np.ndarray, progress: float) -> np.ndarray:
        """Return the positions of the rows that are kept; see `BatchFilter.keep`."""
        kept = self._num_kept(len(losses))
        start = (len(losses) - kept) // 2
        return np.argsort(losses, kind="stable")[start : start + kept]


_FILTERS: dict[str, type[BatchFilter]] = {
    "tail_sft": TailSFT,
    "top_loss": TopLoss,
    "bottom_loss": BottomLoss,
    "middle_loss": MiddleLoss,
}


def _name_of(filter_class: type[BatchFilter]) -> str:
    return next(name for name, known in _FILTERS.items() if known is filter_class)


def step_filter_of(value: Any) -> BatchFilter | None:
    """Return the filter that a value of `step_filter` names, None for None.

    >>> step_filter_of({"top_loss": {"ratio": 0.25}})
    TopLoss(ratio=0.25)
    >>> step_filter_of("tail_sft")
    TailSFT(fraction=0.5, schedule='ramp')

    Args:
        value: Name of a filter, or a mapping of one name to its settings.

    Raises:
        ConfigError: There is no such filter or setting, or a setting has a value that is not possible.
    """
    if value is None:
        return None
    if isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ConfigError(
            f"step_filter={value!r} has to be the name of a filter ({', '.join(_FILTERS)}), or one name and its "
            'settings, such as {"tail_sft": {"fraction": 0.5}}.'
        )
    ((name, settings),) = value.items()
    check_option(f"step_filter={name!r}", name, _FILTERS)
    names = [field.name for field in fields(_FILTERS[name])]
    settings = {} if settings is None else settings
    if not isinstance(settings, Mapping):
        example = {name: {names[0]: settings if isinstance(settings, int | float) else 0.5}}
        raise ConfigError(f"step_filter={value!r}: settings have names. Write {json.dumps(example)}.")
    for key in settings:
        if key not in names:
            raise ConfigError(f"{name} has no setting {key!r}, only {', '.join(names)}.{did_you_mean(key, names)}")
    return _FILTERS[name](**settings)


class StepFilter:
    """Applies a `BatchFilter` to the rows of each forward and backward pass, over all processes.

    Rows are compared by the mean loss of their labelled tokens in the forward pass that trains on them. The loss of a
    batch is the mean over the labelled tokens of the rows that are kept, in all processes; the batches of gradient
    accumulation count equally, whatever number of tokens they keep, as in Algorithm 1 of TailSFT and in TRL's example.
    (`SFTTrainer` without a filter divides by the tokens of all batches of an optimizer step.)

    Args:
        trainer: An `SFTTrainer` that is ready to train.
        batch_filter: The filter.

    Attributes:
        initial_losses: Mean loss of the labelled tokens of each row of the pool before training, float64 of shape
            (rows,), NaN for rows that are not trained on; None if the filter does not need it.
    """

    def __init__(self, trainer: Any, batch_filter: BatchFilter):
        self._trainer = trainer
        self._filter = batch_filter
        self.initial_losses: np.ndarray | None = None

    @property
    def lacks_initial_losses(self) -> bool:
        """Whether the filter reads the losses before training, and they are not known yet."""
        return self._filter.needs_initial_losses and self.initial_losses is None

    def check_batch(self) -> None:
        """Raise if no row could ever be dropped, because too few rows are in a forward pass, or their number changes.

        Raises:
            ConfigError: Says how many rows there have to be.
        """
        args, processes = self._trainer.args, self._trainer.accelerator.num_processes
        if args.auto_find_batch_size:
            raise ConfigError(
                f"step_filter={args.step_filter!r} compares the rows of one forward pass, and "
                "auto_find_batch_size=True lowers their number whenever memory runs out, also in the middle of a run: "
                "other rows would be dropped from then on, and none at a batch size of 1. Remove it, and set "
                "per_device_train_batch_size to a number of rows that fits into memory."
            )
        num_rows = args.per_device_train_batch_size * processes
        enough = next((size for size in range(num_rows, _MAX_ROWS) if self._filter.can_drop(size)), num_rows)
        if enough == num_rows:
            return
        compared = "there is 1" if num_rows == 1 else f"there are {num_rows}, too few to drop one"
        raise ConfigError(
            f"step_filter={args.step_filter!r} compares the rows of one forward pass, and {compared}; raise "
            f"per_device_train_batch_size to at least {math.ceil(enough / processes)}. Gradient accumulation does not "
            "add rows to a forward pass."
        )

    def factors(self, losses: torch.Tensor, tokens: torch.Tensor, rows: torch.Tensor, num_items: Any) -> torch.Tensor:
        """Return the factors by which the losses of the rows of a batch are multiplied.

        Args:
            losses: Mean loss of the labelled tokens of each row of this process, float32 of shape (rows,).
            tokens: Number of these tokens, int64 of shape (rows,).
            rows: Row numbers of the pool, int64 of shape (rows,).
            num_items: Number of tokens that `SFTTrainer` divides the loss by; None for those of this batch.

        Returns:
            Float32 of shape (rows,), 0 for rows that are dropped.
        """
        trainer, accelerator = self._trainer, self._trainer.accelerator
        initial = np.full(len(rows), np.nan)
        if self.initial_losses is not None:
            initial = self.initial_losses[rows.cpu().numpy()]
        initial_losses = torch.from_numpy(initial.astype(np.float32)).to(losses.device)  # MPS has no float64
        own = accelerator.pad_across_processes(
            torch.stack([losses, initial_losses, tokens.float()])[None], dim=2, pad_index=-1
        )
        batches = accelerator.gather(own).cpu().numpy().astype(np.float64)
        counts = [int((batch[2] >= 0).sum()) for batch in batches]
        batch = np.concatenate([batch[:, :count] for batch, count in zip(batches, counts, strict=True)], axis=1)
        progress = trainer.state.global_step / max(trainer.state.max_steps - 1, 1)
        is_kept = np.zeros(batch.shape[1], dtype=bool)
        is_kept[self._filter.keep(batch[0], batch[1], progress)] = True
        trainer._metrics["train"]["step_filter_dropped"].append(float(1 - is_kept.mean()))

        start = sum(counts[: accelerator.process_index])
        kept = torch.from_numpy(is_kept[start : start + len(rows)]).to(losses.device)
        # SFTTrainer multiplies the sum by `scale` and divides it by `num_items`, or else by the tokens of this batch
        processes = accelerator.num_processes
        scale = processes if trainer.args.average_tokens_across_devices and num_items is not None else 1
        divided_by = max(int(tokens.sum()), 1) if num_items is None else float(num_items)
        batches_per_update = 1 if num_items is None else trainer.current_gradient_accumulation_steps
        divide_by = max(batch[2][is_kept].sum(), 1) * batches_per_update
        factors: torch.Tensor = kept.float() * (processes / scale * divided_by / divide_by)
        return factors
