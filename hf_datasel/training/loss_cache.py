"""Losses that rows had in their training steps, to be reused as scores in the next round."""

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
from hf_datasel.scoring.distributed import Processes
from hf_datasel.tokens import Sequences
from hf_datasel.tokens.sequences import Sequence
from hf_datasel.training.schedule import Schedule

__all__ = ["LossCache", "check_reuse"]

_CHUNK_TOKENS = 128
_CHUNK_ROWS = 10_000
_HAS_LOG_PROBS = hasattr(trl_utils, "add_fused_lm_head")
"""Whether forward passes of TRL's training return log-probabilities instead of logits (since TRL 1.16)."""


def check_reuse(trainer: Any) -> None:
    """Raise if the losses of single rows cannot be read from training steps with these settings.

    Args:
        trainer: An `SFTTrainer` that is ready to train.

    Raises:
        ConfigError: Says which setting.
    """
    args = trainer.args
    if args.packing and args.packing_strategy != "bfd":
        raise ConfigError(
            f"reuse_training_loss needs unsplit rows, but packing_strategy={args.packing_strategy!r} splits them. Use "
            "packing_strategy='bfd' or reuse_training_loss=False."
        )
    parallel = getattr(trainer.accelerator, "parallelism_config", None)
    if parallel is not None and (getattr(parallel, "cp_enabled", False) or getattr(parallel, "sp_enabled", False)):
        raise ConfigError(
            "reuse_training_loss needs unsplit rows, but context and sequence parallelism split the tokens of a row "
            "over several processes. Remove one of the two."
        )
    if not _HAS_LOG_PROBS and (args.loss_type == "chunked_nll" or args.use_liger_kernel):
        raise ConfigError(
            "reuse_training_loss needs the log-probability of each token, which this version of TRL does not compute "
            f"with loss_type={args.loss_type!r} and use_liger_kernel={args.use_liger_kernel}. Use loss_type='nll' "
            "without Liger, install trl>=1.16, or use reuse_training_loss=False."
        )
    if trainer.compute_loss_func is not None or trainer.label_smoother is not None:
        raise ConfigError(
            "reuse_training_loss cannot be combined with compute_loss_func or label_smoothing_factor (nor, before trl "
            "1.16, with loss_type='dft'): the model then receives no labels, and computes no loss per token. Remove "
            "one of the two."
        )


class LossCache:
    """Losses of the labelled tokens of rows that were trained on since the last selection.

    They are those of the training steps themselves: with dropout and all other noise of training, computed with the
    weights before the update of that step. Rows are found by their token ids, so that rows with equal tokens share
    their losses, including rows that were not trained on. Of several steps with such a row the last one counts, and
    within a step the last row.

    Nothing is recorded in a round that is planned to be the last. If another round follows nevertheless (the run was
    extended when it was resumed, or a callback ended a round early), its rows are scored as usual. If
    `reuse_training_loss` is off, nothing is recorded, and all methods do nothing.

    Args:
        trainer: An `SFTTrainer` that is ready to train.
        schedule: Returns the schedule of its run.

    Raises:
        ConfigError: Losses are to be reused, but cannot be read from training steps with these settings.
    """

    def __init__(self, trainer: Any, schedule: Callable[[], Schedule]):
        self._trainer = trainer
        self._schedule = schedule
        self._enabled: bool = trainer.args.reuse_training_loss
        self._recording = False
        self._rows: dict[bytes, _Row] = {}  # by the digest of the token ids
        self._reused: set[int] = set()
        if self._enabled:
            check_reuse(trainer)

    # -- while the model trains ---------------------------------------------------------------------------------------
    @contextmanager
    def hooked(self, model: torch.nn.Module) -> Iterator[None]:
        """Observe the forward passes of a model within the context, without changing its output.

        Args:
            model: The unwrapped model.

        Yields:
            None.
        """
        if not self._enabled:
            yield
            return
        hook = torch.compiler.disable(self._record)  # a compiled model leaves its graph for it
        handle = model.register_forward_hook(hook, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the losses of the forward passes within the context, which are those of a training step.

        Yields:
            None.
        """
        self._recording = True
        try:
            yield
        finally:
            self._recording = False

    def _are_needed(self) -> bool:
        """Return whether another round is planned after the current one."""
        schedule = self._schedule()
        current = schedule.records[-1]
        return current.start + current.updates < schedule.max_steps

    def _record(self, model: torch.nn.Module, args: tuple[Any, ...], inputs: dict[str, Any], output: Any) -> None:
        if not (self._recording and torch.is_grad_enabled() and self._are_needed()):
            return
        if inputs.get("input_ids") is None or inputs.get("labels") is None:
            return
        losses, ids = _token_losses(output, inputs["input_ids"], inputs["labels"]), inputs["input_ids"].cpu().numpy()
        for line, positions in _rows_of_batch(inputs):
            row = losses[line, positions]
            labelled = ~np.isnan(row)
            if labelled.any():
                step = self._trainer.state.global_step
                self._rows[_digest(ids[line, positions])] = _Row(step, np.packbits(labelled), row[labelled])

    # -- for the selection --------------------------------------------------------------------------------------------
    def summed(self, sequences: Sequences) -> np.ndarray | None:
        """Return what `SummedNLL` computes for these sequences, for those that were trained on.

        Returns:
            Summed NLL and number of tokens, float64 of shape (sequences, 2), NaN for sequences that were not trained
            on; None if there are no losses at all.
        """
        if not self._rows or sequences.prefix is not None or POOL_ROW not in sequences.data.column_names:
            return None
        values = np.full((len(sequences), 2), np.nan)
        for start in range(0, len(sequences), _CHUNK_ROWS):
            chunk = range(start, min(start + _CHUNK_ROWS, len(sequences)))
            for index, sequence in zip(chunk, sequences.fetch(np.array(chunk)), strict=True):
                row = self._rows.get(_digest(sequence.ids))
                if row is not None:
                    values[index] = row.summed(sequence)
        rows = np.asarray(sequences.data.with_format("numpy")[POOL_ROW][:])
        self._reused.update(rows[~np.isnan(values).any(axis=1)].tolist())
        return values

    def logs(self) -> dict[str, float]:
        """Return the number of rows of the pool whose losses were reused, for the log of the selection."""
        return {"rows_reused": len(self._reused)} if self._enabled else {}

    def gather(self) -> None:
        """Merge the losses of all processes in each of them. Every process has to call it."""
        if not self._enabled:
            return
        merged: dict[bytes, _Row] = {}
        for rows in Processes.current().gather_object(self._rows):
            for digest, row in rows.items():
                if digest not in merged or merged[digest].step <= row.step:
                    merged[digest] = row
        self._rows = merged

    def clear(self) -> None:
        """Remove everything, once rows have been selected."""
        self._rows, self._reused = {}, set()

    # -- for checkpoints ----------------------------------------------------------------------------------------------
    def arrays(self) -> dict[str, np.ndarray]:
        """Return all losses as arrays for a checkpoint; empty if there are none."""
        if not self._rows:
            return {}
        steps, labelled, losses = zip(*self._rows.values(), strict=True)
        return {
            "rows": np.frombuffer(b"".join(self._rows), dtype=np.uint8).reshape(-1, 16),
            "steps": np.array(steps, dtype=np.int64),
            "labelled": np.concatenate(labelled),
            "labelled_bytes": np.array([len(packed) for packed in labelled], dtype=np.int64),
            "losses": np.concatenate(losses),
            "lengths": np.array([len(values) for values in losses], dtype=np.int64),
        }

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace the losses by those of a checkpoint, of which there may be none."""
        self.clear()
        if arrays:
            labelled = np.split(arrays["labelled"], np.cumsum(arrays["labelled_bytes"])[:-1])
            losses = np.split(arrays["losses"], np.cumsum(arrays["lengths"])[:-1])
            rows = map(_Row, arrays["steps"].tolist(), labelled, losses)
            self._rows = {digest.tobytes(): row for digest, row in zip(arrays["rows"], rows, strict=True)}


class _Row(NamedTuple):
    """Losses of a row in one training step.

    Attributes:
        step: Updates made before this step.
        labelled: Which of its tokens have a label, one bit each.
        losses: NLL of each of these in nats, float32.
    """

    step: int
    labelled: np.ndarray
    losses: np.ndarray

    def summed(self, sequence: Sequence) -> tuple[float, int]:
        """Return the summed NLL of the scored tokens, NaN if one of them has no label, and their number."""
        losses = np.full(len(sequence.ids), np.nan)
        losses[np.unpackbits(self.labelled, count=len(losses)).astype(bool)] = self.losses
        return float(losses[sequence.scored].sum()), len(sequence.scored)


def _digest(ids: np.ndarray) -> bytes:
    return hashlib.blake2b(ids.astype("<i8").tobytes(), digest_size=16).digest()


def _rows_of_batch(inputs: Mapping[str, Any]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the line of each row in a batch, and the positions of its tokens in that line.

    Padding is excluded. Rows that were concatenated to one line are separated where `position_ids` restart at 0.
    """
    mask, position_ids = inputs.get("attention_mask"), inputs.get("position_ids")
    lines, width = inputs["input_ids"].shape
    for line in range(lines):
        if mask is not None and mask.ndim == 2:
            yield line, np.flatnonzero(mask[line].cpu().numpy())
        elif position_ids is not None:
            starts = np.flatnonzero(position_ids[line].cpu().numpy() == 0)
            yield from ((line, row) for row in np.split(np.arange(width), starts) if len(row))
        else:
            yield line, np.arange(width)


@torch.no_grad()
def _token_losses(output: Any, ids: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Return the NLL of each labelled token in nats, float32 of the shape of `ids`; NaN for other tokens.

    Raises:
        ConfigError: The output has neither log-probabilities nor logits of these tokens.
    """
    log_probs, logits = getattr(output, "log_probs", None), getattr(output, "logits", None)
    losses = torch.full(ids.shape, torch.nan)
    labelled = labels[:, 1:] == ids[:, 1:]  # -100 is the id of no token
    if log_probs is not None and log_probs.shape == labelled.shape:
        nll = -log_probs[labelled.to(log_probs.device)].float()
    elif logits is not None and logits.shape[:2] == ids.shape:
        rows, before = labelled.to(logits.device).nonzero(as_tuple=True)
        targets = ids[:, 1:][labelled].to(logits.device)
        starts = range(0, max(len(targets), 1), _CHUNK_TOKENS)
        chunks = [slice(start, start + _CHUNK_TOKENS) for start in starts]
        nll = torch.cat([_nll(logits[rows[chunk], before[chunk]], targets[chunk]) for chunk in chunks])
    else:
        raise ConfigError(
            f"reuse_training_loss needs log-probabilities or logits of each token, but {type(output).__name__} has "
            "none while the model trains. Use reuse_training_loss=False."
        )
    losses[:, 1:][labelled.cpu()] = nll.cpu()
    result: np.ndarray = losses.numpy()
    return result


def _nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
