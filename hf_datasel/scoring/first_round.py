"""Losses of the first round of a run, which later rounds reuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.scoring.outputs import is_complete

if TYPE_CHECKING:
    from hf_datasel.tokens import Sequences

__all__ = ["FirstRoundLosses"]

_DIGESTS, _LOSSES = "first_round/digests", "first_round/losses"


class FirstRoundLosses:
    """Losses of token sequences as the first round that scored them computed them, for the later rounds of the run.

    Sequences are found by the digest of their tokens, so that a row keeps its losses whatever rows a round scores.

    Args:
        state: Arrays that are carried from round to round and saved in checkpoints. Changed in place: the digests,
            uint8 of shape (sequences, 16), and their `SummedNLL`, float64 of shape (sequences, 2).
    """

    def __init__(self, state: dict[str, np.ndarray]):
        self._state = state

    def summed(self, sequences: Sequences) -> np.ndarray | None:
        """Return the `SummedNLL` of sequences.

        Returns:
            Float64 of shape (sequences, 2), NaN for sequences that no round has scored; None if there are no losses.
        """
        if _DIGESTS not in self._state:
            return None
        stored, keys = _as_keys(self._state[_DIGESTS]), _as_keys(sequences.digests())
        positions = np.minimum(np.searchsorted(stored, keys), len(stored) - 1)
        is_stored = stored[positions] == keys
        values: np.ndarray = np.where(is_stored[:, None], self._state[_LOSSES][positions], np.nan)
        return values

    def add(self, sequences: Sequences, values: np.ndarray) -> None:
        """Keep the `SummedNLL` of sequences that have none yet.

        Args:
            sequences: The sequences.
            values: Float64 of shape (sequences, 2); a row with NaN is not kept.
        """
        complete = is_complete(values)
        if not complete.any():
            return
        digests, losses = sequences.digests()[complete], values[complete]
        if _DIGESTS in self._state:
            digests = np.concatenate([self._state[_DIGESTS], digests])
            losses = np.concatenate([self._state[_LOSSES], losses])
        _, first = np.unique(_as_keys(digests), return_index=True)  # in the order of the digests, for `summed`
        self._state[_DIGESTS], self._state[_LOSSES] = digests[first], losses[first]


def _as_keys(digests: np.ndarray) -> np.ndarray:
    """Return digests as one value each that can be compared and sorted: bytes of shape (sequences,)."""
    keys: np.ndarray = np.ascontiguousarray(digests).reshape(-1).view("S16")
    return keys
