"""The losses that rows had while the model trained on them, for the scores of the next round."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from trl.trainer import utils as trl_utils

from hf_datasel.errors import ConfigError
from hf_datasel.formats import POOL_ROW
from hf_datasel.scoring.distributed import Ranks
from hf_datasel.tokens import Sequences
from hf_datasel.tokens.sequences import Sequence
from hf_datasel.training.schedule import Schedule

__all__ = ["TrainingLosses", "check_reuse"]

_CHUNK_ROWS = 128
_READ = 10_000
_FUSED = hasattr(trl_utils, "add_fused_lm_head")
"""Whether TRL's forward pass in training gives log-probabilities instead of logits (from 1.16 on)."""


def check_reuse(trainer: Any) -> None:
    """Refuse settings under which the losses of single rows cannot be read from a training step.

    Args:
        trainer: an `SFTTrainer` that is ready to train.

    Raises:
        ConfigError: says which one.
    """
    args = trainer.args
    if args.packing and args.packing_strategy != "bfd":
        raise ConfigError(
            f"reuse_training_loss needs rows that stay whole, and packing_strategy={args.packing_strategy!r} cuts "
            "them. Use packing_strategy='bfd', or leave reuse_training_loss out."
        )
    parallel = getattr(trainer.accelerator, "parallelism_config", None)
    if parallel is not None and (getattr(parallel, "cp_enabled", False) or getattr(parallel, "sp_enabled", False)):
        raise ConfigError(
            "reuse_training_loss needs rows that stay whole, and context or sequence parallelism deals the tokens of "
            "a row to several processes. Leave one of them out."
        )
    if not _FUSED and (args.loss_type == "chunked_nll" or args.use_liger_kernel):
        raise ConfigError(
            "reuse_training_loss needs the log-probability of each token, which this version of TRL does not make "
            f"with loss_type={args.loss_type!r} and use_liger_kernel={args.use_liger_kernel}. Use loss_type='nll' "
            "without Liger, install trl>=1.16, or leave reuse_training_loss out."
        )
    if trainer.compute_loss_func is not None or trainer.label_smoother is not None:
        raise ConfigError(
            "reuse_training_loss does not go with compute_loss_func or label_smoothing_factor (nor, before trl 1.16, "
            "with loss_type='dft'): the labels are kept from the model then, and with them the losses of single "
            "tokens. Leave one of them out."
        )


class TrainingLosses:
    """The loss of each labelled token of the rows trained on since the last choice, by the tokens of the row.

    They are those of the training step itself: with dropout and all other noise of training, by the weights before
    that step's update. Rows of equal tokens share them, also with one that was not trained on: those of the last step
    that had such a row, and within a step those of the last of them.

    Nothing is read in a round that no other is planned to follow. Where one follows all the same, in a run that was
    made longer when it was resumed, or that a callback took to it early, its rows are scored anew. Where
    `reuse_training_loss` is off nothing is ever read, and every method does nothing.

    Args:
        trainer: an `SFTTrainer` that is ready to train.
        schedule: gives the rounds of its run.

    Raises:
        ConfigError: losses are to be reused, and cannot be read from a step of this training.
    """

    def __init__(self, trainer: Any, schedule: Callable[[], Schedule]):
        self._trainer = trainer
        self._schedule = schedule
        self._on: bool = trainer.args.reuse_training_loss
        self._reading = False
        self._rows: dict[bytes, _Row] = {}
        """By the digest of the row's token ids."""
        self._taken: set[int] = set()
        if self._on:
            check_reuse(trainer)

    # -- while the model trains ---------------------------------------------------------------------------------------
    @contextmanager
    def watching(self, model: torch.nn.Module) -> Iterator[None]:
        """Be told of the forward passes of this model in the meantime. Its output stays as it is."""
        if not self._on:
            yield
            return
        read = torch.compiler.disable(self._read)  # a compiled model stops before it
        handle = model.register_forward_hook(read, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read the losses of forward passes in the meantime: those of a training step. All others are let pass."""
        self._reading = True
        try:
            yield
        finally:
            self._reading = False

    def _are_wanted(self) -> bool:
        """Whether another round is planned to follow the one under way."""
        schedule = self._schedule()
        under_way = schedule.records[-1]
        return under_way.start + under_way.updates < schedule.max_steps

    def _read(self, model: torch.nn.Module, args: tuple[Any, ...], inputs: dict[str, Any], output: Any) -> None:
        if not (self._reading and torch.is_grad_enabled() and self._are_wanted()):
            return
        if inputs.get("input_ids") is None or inputs.get("labels") is None:
            return
        losses, ids = _token_losses(output, inputs["input_ids"], inputs["labels"]), inputs["input_ids"].cpu().numpy()
        for line, at in _whole_rows(inputs):
            row = losses[line, at]
            labelled = ~np.isnan(row)
            if labelled.any():
                step = self._trainer.state.global_step
                self._rows[_digest(ids[line, at])] = _Row(step, np.packbits(labelled), row[labelled])

    # -- for the choice -----------------------------------------------------------------------------------------------
    def summed(self, sequences: Sequences) -> np.ndarray | None:
        """What `SummedNLL` gives for these sequences, as far as training has shown it.

        Returns:
            float64 of shape (sequences, 2), NaN where it is not known; None where nothing is.
        """
        if not self._rows or sequences.prefix is not None or POOL_ROW not in sequences.data.column_names:
            return None
        values = np.full((len(sequences), 2), np.nan)
        for start in range(0, len(sequences), _READ):
            part = range(start, min(start + _READ, len(sequences)))
            for at, each in zip(part, sequences.fetch(np.array(part)), strict=True):
                row = self._rows.get(_digest(each.ids))
                if row is not None:
                    values[at] = row.summed(each)
        rows = np.asarray(sequences.data.with_format("numpy")[POOL_ROW][:])
        self._taken.update(rows[~np.isnan(values).any(axis=1)].tolist())
        return values

    def logs(self) -> dict[str, float]:
        """For the log of a choice: how many rows of the pool were not scored anew since the one before."""
        return {"rows_reused": len(self._taken)} if self._on else {}

    def gather(self) -> None:
        """Give every process what all of them have seen. Every process has to call it."""
        if not self._on:
            return
        merged: dict[bytes, _Row] = {}
        for rows in Ranks.current().gathered(self._rows):
            for digest, row in rows.items():
                if digest not in merged or merged[digest].step <= row.step:
                    merged[digest] = row
        self._rows = merged

    def forget(self) -> None:
        """Drop everything: the choice is made."""
        self._rows, self._taken = {}, set()

    # -- for checkpoints ----------------------------------------------------------------------------------------------
    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, to be kept in a checkpoint; nothing where there is nothing."""
        if not self._rows:
            return {}
        steps, labelled, losses = zip(*self._rows.values(), strict=True)
        return {
            "rows": np.frombuffer(b"".join(self._rows), dtype=np.uint8).reshape(-1, 16),
            "steps": np.array(steps, dtype=np.int64),
            "labelled": np.concatenate(labelled),
            "labelled_bytes": np.array([len(each) for each in labelled], dtype=np.int64),
            "losses": np.concatenate(losses),
            "lengths": np.array([len(each) for each in losses], dtype=np.int64),
        }

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what a checkpoint has; nothing where it has nothing."""
        self.forget()
        if arrays:
            labelled = np.split(arrays["labelled"], np.cumsum(arrays["labelled_bytes"])[:-1])
            losses = np.split(arrays["losses"], np.cumsum(arrays["lengths"])[:-1])
            rows = map(_Row, arrays["steps"].tolist(), labelled, losses)
            self._rows = {digest.tobytes(): row for digest, row in zip(arrays["rows"], rows, strict=True)}


class _Row(NamedTuple):
    """What training has shown of a row.

    Attributes:
        step: updates made before.
        labelled: which of its tokens have a label, a bit each.
        losses: NLL of each of these in nats, float32.
    """

    step: int
    labelled: np.ndarray
    losses: np.ndarray

    def summed(self, sequence: Sequence) -> tuple[float, int]:
        """Summed NLL of the scored tokens, NaN where one of them had no label, and how many they are."""
        losses = np.full(len(sequence.ids), np.nan)
        losses[np.unpackbits(self.labelled, count=len(losses)).astype(bool)] = self.losses
        return float(losses[sequence.scored].sum()), len(sequence.scored)


def _digest(ids: np.ndarray) -> bytes:
    return hashlib.blake2b(ids.astype("<i8").tobytes(), digest_size=16).digest()


def _whole_rows(inputs: Mapping[str, Any]) -> Iterator[tuple[int, np.ndarray]]:
    """Where in a batch each row stands: its line, and the positions of its tokens in it.

    Padding is left out, and rows that were joined to one line are told by where their positions begin anew.
    """
    mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
    lines, width = inputs["input_ids"].shape
    for line in range(lines):
        if mask is not None and mask.ndim == 2:
            yield line, np.flatnonzero(mask[line].cpu().numpy())
        elif positions is not None:
            starts = np.flatnonzero(positions[line].cpu().numpy() == 0)
            yield from ((line, part) for part in np.split(np.arange(width), starts) if len(part))
        else:
            yield line, np.arange(width)


@torch.no_grad()
def _token_losses(output: Any, ids: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """The NLL of each labelled token in nats, float32 of the shape of `ids`; NaN where there is none.

    Raises:
        ConfigError: the model gives neither log-probabilities nor logits for these tokens.
    """
    log_probs, logits = getattr(output, "log_probs", None), getattr(output, "logits", None)
    losses = torch.full(ids.shape, torch.nan)
    labelled = labels[:, 1:] == ids[:, 1:]  # -100 is the id of no token
    if log_probs is not None and log_probs.shape == labelled.shape:
        found = -log_probs[labelled.to(log_probs.device)].float()
    elif logits is not None and logits.shape[:2] == ids.shape:
        rows, before = labelled.to(logits.device).nonzero(as_tuple=True)
        targets = ids[:, 1:][labelled].to(logits.device)
        parts = [slice(start, start + _CHUNK_ROWS) for start in range(0, max(len(targets), 1), _CHUNK_ROWS)]
        found = torch.cat([_nll(logits[rows[part], before[part]], targets[part]) for part in parts])
    else:
        raise ConfigError(
            f"reuse_training_loss needs log-probabilities or logits of each token, and {type(output).__name__} has "
            "none while the model trains. Leave it out."
        )
    losses[:, 1:][labelled.cpu()] = found.cpu()
    plain: np.ndarray = losses.numpy()
    return plain


def _nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
