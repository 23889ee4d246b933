"""The losses that rows had while the model trained on them, for the scores of the next round."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from trl.trainer import utils as trl_utils

from hf_datasel.errors import ConfigError
from hf_datasel.formats import POOL_ROW
from hf_datasel.scores.ranks import Ranks
from hf_datasel.tokens import Sequences

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
    if not _FUSED and (trainer.compute_loss_func is not None or trainer.label_smoother is not None):
        raise ConfigError(
            "reuse_training_loss does not go with compute_loss_func or label_smoothing_factor in this version of TRL, "
            "which keeps the labels from the model then. Install trl>=1.16, or leave one of them out."
        )


class TrainingLosses:
    """The loss of each labelled token of the rows trained on since the last choice, by the tokens of the row.

    A row that was trained on twice has the losses of the second time. They are those of the training step itself:
    with dropout and all other noise of training, by the weights before that step's update.

    Args:
        step: gives the number of updates made so far.
    """

    def __init__(self, step: Callable[[], int]):
        self._step = step
        self._rows: dict[bytes, tuple[int, np.ndarray]] = {}
        """Digest of a row's token ids -> the step, and the NLLs from the first labelled token to the end, float32."""
        self._taken: set[int] = set()

    @contextmanager
    def watching(self, model: torch.nn.Module) -> Iterator[None]:
        """Read the losses of what this model is trained on in the meantime. Its output stays as it is."""
        read = torch.compiler.disable(self._read)  # a compiled model stops before it
        handle = model.register_forward_hook(read, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _read(self, model: torch.nn.Module, args: tuple[Any, ...], inputs: dict[str, Any], output: Any) -> None:
        if not model.training or inputs.get("input_ids") is None or inputs.get("labels") is None:
            return
        losses, ids = _token_losses(output, inputs["input_ids"], inputs["labels"]), inputs["input_ids"].cpu().numpy()
        for row, at in _whole_rows(inputs):
            labelled = np.flatnonzero(~np.isnan(losses[row, at]))
            if len(labelled):
                self._rows[_digest(ids[row, at])] = self._step(), losses[row, at[labelled[0] :]]

    # -- for the choice ---------------------------------------------------------------------------------------------
    @property
    def taken(self) -> int:
        """Rows of the pool that were not scored anew, since the last choice."""
        return len(self._taken)

    def table(self, sequences: Sequences) -> KnownLosses | None:
        """What `SummedNLL` gives for these sequences, as far as training has shown it; None where nothing is known."""
        if not self._rows or sequences.prefix is not None or POOL_ROW not in sequences.data.column_names:
            return None
        values = np.full((len(sequences), 2), np.nan)
        for start in range(0, len(sequences), _READ):
            part = range(start, min(start + _READ, len(sequences)))
            for at, each in zip(part, sequences.fetch(np.array(part)), strict=True):
                _, losses = self._rows.get(_digest(each.ids), (0, np.empty(0)))
                inside = each.scored - (len(each.ids) - len(losses))
                if (inside >= 0).all():
                    values[at] = losses[inside].sum(dtype=np.float64), len(inside)
        table = KnownLosses(values)
        rows = sequences.data.with_format("numpy")[POOL_ROW][:]
        self._taken.update(np.asarray(rows)[table.known].tolist())
        return table

    def gather(self) -> None:
        """Give every process what all of them have seen. Every process has to call it."""
        merged: dict[bytes, tuple[int, np.ndarray]] = {}
        for rows in Ranks.current().gathered(self._rows):
            for digest, (step, losses) in rows.items():
                if digest not in merged or merged[digest][0] <= step:
                    merged[digest] = step, losses
        self._rows = merged

    def forget(self) -> None:
        """Drop everything: the choice is made."""
        self._rows, self._taken = {}, set()

    # -- for checkpoints --------------------------------------------------------------------------------------------
    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, to be kept in a checkpoint."""
        losses = [each for _, each in self._rows.values()]
        return {
            "rows": np.frombuffer(b"".join(self._rows), dtype=np.uint8).reshape(-1, 16),
            "steps": np.array([step for step, _ in self._rows.values()], dtype=np.int64),
            "lengths": np.array([len(each) for each in losses], dtype=np.int64),
            "losses": np.concatenate([np.empty(0, dtype=np.float32), *losses]),
        }

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what a checkpoint has; nothing where it has nothing."""
        self.forget()
        if arrays:
            losses = np.split(arrays["losses"], np.cumsum(arrays["lengths"])[:-1])
            for row, step, each in zip(arrays["rows"], arrays["steps"].tolist(), losses, strict=False):
                self._rows[row.tobytes()] = step, each


@dataclass(frozen=True)
class KnownLosses:
    """A table of results that are there already, for given sequences in their order.

    Attributes:
        values: float64 of shape (sequences, 2), NaN where a result is not known.
    """

    values: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Which results are known: bool of shape (sequences,)."""
        known: np.ndarray = ~np.isnan(self.values).any(axis=1)
        return known

    def fill(self, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Put the known results into `values`, and say which they are."""
        known = self.known
        values[known] = self.values[known]
        return known

    def append(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Keep nothing: the next round has another model."""

    def close(self) -> None:
        """Nothing is written."""

    def compact(self) -> None:
        """Nothing is written."""


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
