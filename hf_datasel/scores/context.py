"""The model a score runs on, and the passes that scores share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.scores.nll import NLL
from hf_datasel.scores.quiet import inference

if TYPE_CHECKING:
    import torch

    from hf_datasel.tokens import Sequences

__all__ = ["ModelContext"]


class ModelContext:
    """A live model for the length of one scoring call. Two scores that need the same forward pass share it.

    Args:
        model: causal LM, on its device. Its mode, weights and the random state stay as they are.
        tokens_per_batch: upper bound on the padded tokens of a batch; see `NLL`.
        autocast: compute in this dtype instead of the weights' own.
        progress: show a progress bar where the output is a terminal.
    """

    def __init__(
        self,
        model: Any,
        tokens_per_batch: int | None = None,
        autocast: torch.dtype | None = None,
        progress: bool = True,
    ):
        self.model = model
        self.progress = progress
        self._nll = NLL(model, tokens_per_batch, autocast)
        self._passes: dict[Sequences, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def tokens_per_batch(self) -> int:
        """Upper bound on the padded tokens of a batch."""
        return self._nll.tokens_per_batch

    @property
    def autocast(self) -> torch.dtype | None:
        """Dtype that is computed in instead of the weights' own."""
        return self._nll.autocast

    def describe(self) -> dict[str, Any]:
        """What, besides the weights, decides the numbers."""
        adapters = getattr(self.model, "active_adapters", None) if hasattr(self.model, "peft_config") else None
        return {
            "model": self.model.config.name_or_path,
            "adapters": list(adapters) if isinstance(adapters, list) else adapters,
            "weights_dtype": str(self._nll.causal.dtype),
            "autocast": None if self._nll.autocast is None else str(self._nll.autocast),
            "tokens_per_batch": self._nll.tokens_per_batch,
        }

    def mean_nll(self, sequences: Sequences, rows: int, label: str) -> np.ndarray:
        """Mean NLL in nats over the scored tokens of each of `rows` output rows, float64; NaN where there is none."""
        total, tokens = self.summed_nll(sequences, rows, label)
        mean: np.ndarray = np.divide(total, tokens, out=np.full(rows, np.nan), where=tokens > 0)
        return mean

    def summed_nll(self, sequences: Sequences, rows: int, label: str) -> tuple[np.ndarray, np.ndarray]:
        """Summed NLL in nats and number of scored tokens of each of `rows` output rows, float64."""
        if sequences not in self._passes:
            self._passes[sequences] = self._run(sequences, label)
        sums, counts = self._passes[sequences]
        total = np.bincount(sequences.owner, weights=sums, minlength=rows)
        tokens = np.bincount(sequences.owner, weights=counts, minlength=rows)
        return total, tokens

    def _run(self, sequences: Sequences, label: str) -> tuple[np.ndarray, np.ndarray]:
        from tqdm.auto import tqdm

        disable = None if self.progress else True  # None: off where stderr is no terminal
        with tqdm(total=len(sequences), desc=label, unit="row", disable=disable) as bar, inference(self.model):
            return self._nll(sequences, bar.update)
