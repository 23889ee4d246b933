"""Batches of rows with similar lengths, split where the device runs out of memory."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from hf_datasel._lazy import torch
from hf_datasel.errors import ModelError

__all__ = ["BatchRunner", "plan_batches", "remaining_batches", "static_rope_length"]


def plan_batches(lengths: np.ndarray, tokens_per_batch: int, batch_size: int | None = None) -> list[np.ndarray]:
    """Group sequences by length, longest first, into batches of at most `tokens_per_batch` padded tokens.

    A sequence longer than that is a batch of its own. The plan depends on the lengths alone.

    Args:
        lengths: Number of tokens of each sequence, int64.
        tokens_per_batch: Maximum number of sequences in a batch times the tokens of its longest one.
        batch_size: Maximum number of sequences in a batch.

    Returns:
        The indices of the sequences of each batch, int64.

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


def remaining_batches(
    batches: list[np.ndarray],
    is_cached: np.ndarray,
    lengths: np.ndarray,
    tokens_per_batch: int,
    batch_size: int | None = None,
) -> list[np.ndarray]:
    """Return the batches that remain to be computed once some results are cached.

    A batch without a cached result stays as it was, so that an interrupted run continues with exactly the same
    batches. The remaining sequences of the other batches are grouped again.

    Args:
        batches: All batches, from `plan_batches`.
        is_cached: Whether the result of each sequence is cached, bool.
        lengths: Number of tokens of each sequence, int64.
        tokens_per_batch: As in `plan_batches`.
        batch_size: As in `plan_batches`.
    """
    unchanged = [batch for batch in batches if not is_cached[batch].any()]
    partial = [batch[~is_cached[batch]] for batch in batches if is_cached[batch].any()]
    indices = np.concatenate([np.empty(0, dtype=np.int64), *partial])
    return unchanged + [indices[batch] for batch in plan_batches(lengths[indices], tokens_per_batch, batch_size)]


def static_rope_length(config: Any) -> int | None:
    """Return the length up to which positions are encoded the same way, or None if that is any length.

    With some rotary embeddings ("dynamic", "longrope") a position is encoded differently in a longer sequence, or in
    a batch that contains one.

    Args:
        config: Configuration of the model.
    """
    text = config.get_text_config()
    parameters = getattr(text, "rope_parameters", None) or {}
    by_layer_type = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    lengths = [
        rope.get("original_max_position_embeddings")
        or getattr(text, "original_max_position_embeddings", None)
        or text.max_position_embeddings
        for rope in by_layer_type
        if rope.get("rope_type") in ("dynamic", "longrope")
    ]
    return min(lengths, default=None)


class BatchRunner:
    """Runs batches, and splits those that do not fit into the memory of the device.

    Args:
        lengths: Number of tokens of each sequence.
        compute: Function of the indices of a batch, which returns its results.
        max_tokens: Maximum number of padded tokens of a batch, if a larger one is known not to fit. It is lowered
            whenever a batch does not fit.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        compute: Callable[[np.ndarray], list[np.ndarray]],
        max_tokens: int | None = None,
    ):
        self.lengths = lengths
        self.compute = compute
        self.max_tokens = max_tokens

    def run(self, batch: np.ndarray) -> Generator[tuple[np.ndarray, list[np.ndarray]], None, None]:
        """Compute the results of a batch, in as many parts as necessary.

        Args:
            batch: Indices of sequences.

        Yields:
            The indices of a part, and its results.

        Raises:
            ModelError: A single sequence does not fit into memory.
        """
        stack = [batch]
        while stack:
            part = stack.pop()
            if self.max_tokens is not None and len(part) > 1 and self._padded_tokens(part) > self.max_tokens:
                stack += [part[len(part) // 2 :], part[: len(part) // 2]]
                continue
            results = self._try(part)
            if results is not None:
                yield part, results
            elif len(part) > 1:
                self.max_tokens = self._padded_tokens(part) // 2
                stack.append(part)
            else:
                raise ModelError(
                    f"A row of {int(self.lengths[part[0]]):,} tokens does not fit into the memory of the device, even "
                    "alone. Lower max_length, or load the model in fewer bits."
                )

    def _padded_tokens(self, part: np.ndarray) -> int:
        return len(part) * max(int(self.lengths[part].max()), 1)

    def _try(self, part: np.ndarray) -> list[np.ndarray] | None:
        """Compute the results, or return None if the device runs out of memory."""
        from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

        try:
            return self.compute(part)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError) and not should_reduce_batch_size(error):
                raise
        clear_device_cache(garbage_collection=True)  # outside the handler: the error refers to the tensors
        return None
