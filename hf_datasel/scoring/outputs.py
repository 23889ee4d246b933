"""What a model computes for each item, and the interfaces of where results come from and go to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from hf_datasel.tokens import Sequences

__all__ = ["KnownLosses", "Output", "ResultStore", "ResultTable", "is_complete"]


@dataclass(frozen=True)
class Output:
    """An array that is computed for a list of items, one row of numbers per item.

    Args:
        width: Numbers per item.
        spec: Name, version and settings of the computation, as JSON; the model is added to it. None excludes the
            output from the score store.
        dtype: Data type of the numbers.
        cached: Known results, used instead of those in the store: shape (items, width), NaN where unknown.
    """

    width: int
    spec: Mapping[str, Any] | None = None
    dtype: type[np.floating[Any]] = np.float64
    cached: np.ndarray | None = None


class ResultTable(Protocol):
    """Stored results of one spec, as in `hf_datasel.scoring.store.StoreTable`."""

    def fill(self, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Write stored results into `values`, and return which ones are stored: bool of shape (len(keys),)."""

    def append(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Store results."""

    def close(self) -> None:
        """Finish writing in this process."""

    def compact(self) -> None:
        """Merge the files of all processes."""


class ResultStore(Protocol):
    """A score store, as `hf_datasel.scoring.store.ScoreStore`."""

    def table(self, spec: Mapping[str, Any], width: int, dtype: np.dtype[Any]) -> ResultTable:
        """Return the results of one spec."""

    def identity_of(self, model: Any) -> dict[str, Any]:
        """Return what identifies a loaded model in the specs of its results."""

    def add_model(self, identity: Mapping[str, Any], model: Any) -> None:
        """Record the weights of a model that was loaded by name."""


class KnownLosses(Protocol):
    """Losses that need no forward pass, as those of training steps in `hf_datasel.training.loss_cache`."""

    def summed(self, sequences: Sequences) -> np.ndarray | None:
        """Return the `SummedNLL` of sequences, float64 with NaN where unknown, or None if all are unknown."""


def is_complete(values: np.ndarray) -> np.ndarray:
    """Return which rows of an array have no NaN: bool of shape (rows,)."""
    complete: np.ndarray = ~np.isnan(values).any(axis=1)
    return complete
