"""Which rows go through a model together, and which process takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from hf_datasel.errors import ModelError

__all__ = ["Batches", "length_of_positions", "plan_batches", "remaining"]


def plan_batches(lengths: np.ndarray, tokens_per_batch: int, batch_size: int | None = None) -> list[np.ndarray]:
    """Positions grouped by length, longest first, so that no padded batch exceeds `tokens_per_batch` tokens.

    A sequence longer than that is a batch of its own. The plan depends on the lengths alone.

    Args:
        lengths: tokens of each sequence, int64.
        tokens_per_batch: upper bound on the sequences of a batch times the tokens of its longest one.
        batch_size: upper bound on the sequences of a batch.

    >>> [batch.tolist() for batch in plan_batches(np.array([3, 9, 3, 4]), 9)]
    [[1], [3, 0], [2]]
    """
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        longest = max(int(lengths[order[start]]), 1)
        size = max(tokens_per_batch // longest, 1)
        stop = start + min(size, batch_size or size)
        batches.append(order[start:stop])
        start = stop
    return batches


def remaining(
    batches: list[np.ndarray],
    known: np.ndarray,
    lengths: np.ndarray,
    tokens_per_batch: int,
    batch_size: int | None = None,
) -> list[np.ndarray]:
    """What is left of a plan once some results are known.

    A batch without a known result stays as it was, so that a plan that was interrupted goes on with the very same
    batches. What is left of the others is planned anew.
    """
    whole = [batch for batch in batches if not known[batch].any()]
    rest = [batch[~known[batch]] for batch in batches if known[batch].any()]
    left = np.concatenate([np.empty(0, dtype=np.int64), *rest])
    return whole + [left[batch] for batch in plan_batches(lengths[left], tokens_per_batch, batch_size)]


def length_of_positions(config: Any) -> int | None:
    """Tokens up to which positions are told in the same way; None where they always are.

    With some rotary embeddings ("dynamic", "longrope") a token's position is told otherwise in a longer sequence, or
    in a batch with one.
    """
    text = config.get_text_config()
    ropes = getattr(text, "rope_parameters", None) or {}
    each_kind = [ropes, *(each for each in ropes.values() if isinstance(each, dict))]
    found = [
        each.get("original_max_position_embeddings")
        or getattr(text, "original_max_position_embeddings", None)
        or text.max_position_embeddings
        for each in each_kind
        if each.get("rope_type") in ("dynamic", "longrope")
    ]
    return min(found, default=None)


class Batches:
    """Runs batches, and splits those that do not fit into the memory of the device.

    Args:
        lengths: tokens of each sequence.
        compute: takes the positions of one batch.
    """

    def __init__(self, lengths: np.ndarray, compute: Callable[[np.ndarray], list[np.ndarray]]):
        self.lengths = lengths
        self.compute = compute
        self.room: int | None = None
        """Padded tokens that a batch may have, once one did not fit."""

    def results(self, batch: np.ndarray) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        """The results of a batch, in as many parts as it takes.

        Raises:
            ModelError: one sequence alone does not fit.
        """
        waiting = [batch]
        while waiting:
            part = waiting.pop()
            if self.room is not None and len(part) > 1 and self._padded(part) > self.room:
                waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
                continue
            found = self._attempt(part)
            if found is not None:
                yield part, found
            elif len(part) > 1:
                self.room = self._padded(part) // 2
                waiting.append(part)
            else:
                raise ModelError(
                    f"A row of {int(self.lengths[part[0]]):,} tokens does not fit into the memory of the device, even "
                    "alone. Lower max_length, or load the model in fewer bits."
                )

    def _padded(self, part: np.ndarray) -> int:
        return len(part) * max(int(self.lengths[part].max()), 1)

    def _attempt(self, part: np.ndarray) -> list[np.ndarray] | None:
        """The results, or None where memory is short."""
        from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

        try:
            return self.compute(part)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError) and not should_reduce_batch_size(error):
                raise
        clear_device_cache(garbage_collection=True)  # once the error, which holds the tensors, is gone
        return None
