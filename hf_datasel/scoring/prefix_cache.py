"""Log-probabilities of answers after an example, whose keys and values are computed once and reused."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel._lazy import torch
from hf_datasel.scoring.batching import BatchRunner, plan_batches, static_rope_length
from hf_datasel.scoring.few_shot_prompts import AnchorTokens
from hf_datasel.scoring.logprobs import Forward, LogprobRunner, tolerance
from hf_datasel.tokens.sequences import Sequence as TokenSequence

if TYPE_CHECKING:
    from transformers import DynamicCache

__all__ = ["PrefixCacheRunner", "expand_cache"]

logger = logging.getLogger(__name__)


class PrefixCacheRunner(LogprobRunner):
    """Computes log-probabilities of the answers of anchor tasks after an example.

    The example goes through the model once and its keys and values are cached; the anchors follow it in right-padded
    batches, and the LM head runs on the answers alone. A batch has at most `tokens_per_batch` tokens, including
    padding and the copies of the example, and is split if it does not fit into the memory of the device.

    For the first example this is compared with complete sequences. Complete sequences are run, which is slower, if the
    results differ, if the model caches something else than keys and values, if its keys depend on what follows
    (`dynamic` and `longrope` positions, run one by one), or if its logits are not only its LM head's.

    Args:
        model: Causal LM on its device, with or without PEFT adapters.
        anchors: Tokens of the anchor tasks.
        tokens_per_batch: Maximum number of padded tokens in a batch.

    Attributes:
        lengths: Number of tokens of each anchor after an example, int64.
        num_tokens: Tokens that the model has processed for `answer_logprobs`, without padding.
        uses_cache: Whether the example's keys and values are cached; None before the first example.
        one_by_one: Whether positions depend on the length of the batch, so that sequences are run one by one.
    """

    def __init__(self, model: Any, anchors: Sequence[AnchorTokens], tokens_per_batch: int):
        super().__init__(model)
        self.anchors = anchors
        self.tokens_per_batch = tokens_per_batch
        self.lengths = np.array([len(task.after_example) + len(task.answer) for task in anchors], dtype=np.int64)
        self.num_tokens = 0
        self.uses_cache: bool | None = None
        self.one_by_one = static_rope_length(self.causal.config) is not None
        self._max_tokens: int | None = None

    def answer_logprobs(self, example: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Compute the summed log-probability of the answers of anchors after an example.

        Args:
            example: Token ids of the example, int64.
            indices: Indices of anchors, int64.

        Returns:
            Nats, float64 of shape (len(indices),).
        """
        if self.uses_cache is None:
            self.uses_cache = self._can_use_cache(example, indices)
        cache = self._cache(example) if self.uses_cache else None

        def compute(batch: np.ndarray) -> list[np.ndarray]:
            if cache is None:
                losses = self._losses_of_sequences(example, indices[batch])
            else:
                losses = self._losses_after_cache(cache, indices[batch])
            return [np.array([-values.double().sum().item() for values in losses])]

        lengths = len(example) + self.lengths[indices]
        runner = BatchRunner(lengths, compute, self._max_tokens)
        logprobs = np.zeros(len(indices))
        for batch in plan_batches(lengths, self.tokens_per_batch, 1 if self.one_by_one else None):
            for part, [values] in runner.run(batch):
                logprobs[part] = values
        self._max_tokens = runner.max_tokens
        cached = 0 if cache is None else len(example) + 1  # nor is the last token of an anchor run
        self.num_tokens += int((lengths - cached).sum()) + (0 if cache is None else len(example))
        return logprobs

    def _losses_of_sequences(self, example: np.ndarray, indices: np.ndarray) -> list[torch.Tensor]:
        """Compute the loss of each answer token from complete sequences."""
        batch = [
            TokenSequence(
                np.concatenate([example, anchor.after_example, anchor.answer]),
                len(example) + len(anchor.after_example) + np.arange(len(anchor.answer)),
            )
            for anchor in (self.anchors[index] for index in indices)
        ]
        return self.losses(Forward(self, batch))

    def _cache(self, example: np.ndarray) -> Any:
        ids = torch.from_numpy(example)[None].to(self.device)
        return getattr(self.causal.base_model(input_ids=ids, use_cache=True), "past_key_values", None)

    def _losses_after_cache(self, cache: DynamicCache, indices: np.ndarray) -> list[torch.Tensor]:
        """Compute the same losses with the cached keys and values of the example."""
        anchors = [self.anchors[index] for index in indices]
        batch = [
            TokenSequence(
                np.concatenate([anchor.after_example, anchor.answer]),
                len(anchor.after_example) + np.arange(len(anchor.answer)),
            )
            for anchor in anchors
        ]
        ids = np.zeros((len(batch), max(len(sequence.ids) for sequence in batch) - 1), dtype=np.int64)
        for row, sequence in enumerate(batch):
            ids[row, : len(sequence.ids) - 1] = sequence.ids[:-1]  # nothing is predicted from the last token
        # No attention mask and no positions: the cache knows how many tokens come before, and padding is on the right.
        inputs = torch.from_numpy(ids).to(self.device)
        expanded = expand_cache(cache, len(batch))
        states = self.causal.base_model(input_ids=inputs, past_key_values=expanded, use_cache=True).last_hidden_state
        return self._by_head(_ComputedForward(self, batch, states))

    def _can_use_cache(self, example: np.ndarray, indices: np.ndarray) -> bool:
        """Return whether cached keys and values give the same losses: for the shortest anchors and the longest one."""
        order = indices[np.argsort(self.lengths[indices], kind="stable")]
        few = np.unique(np.concatenate([order[:2], order[-1:]]))
        expected = torch.cat(self._losses_of_sequences(example, few))
        name = type(self.causal).__name__
        if self._backend != self._by_head:
            return False  # already logged
        cache = self._cache(example)
        reason = "its positions depend on the length" if self.one_by_one else _why_not_cached(cache)
        if reason:
            logger.warning(
                "%s cannot cache an example for all anchors (%s): complete sequences are run, which is slower.",
                name,
                reason,
            )
            return False
        losses = torch.cat(self._losses_after_cache(cache, few))
        limit = tolerance(self.causal.dtype, self.device)
        if torch.allclose(losses, expected, rtol=limit, atol=limit, equal_nan=True):
            return True
        logger.warning(
            "The losses of %s with a cached example differ from those of complete sequences by up to %.2g nats: "
            "complete sequences are run, which is slower.",
            name,
            (losses - expected).abs().max().item(),
        )
        return False


class _ComputedForward(Forward):
    """A forward pass whose hidden states are computed already."""

    def __init__(self, logprobs: LogprobRunner, batch: list[TokenSequence], hidden: torch.Tensor):
        super().__init__(logprobs, batch)
        self._hidden = hidden


def _why_not_cached(cache: Any) -> str:
    """Return why a cache does not hold all that the model needs of an example, or "" if it does."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    # the layers that hold keys and values of shape (batch, heads, tokens, dimensions), and nothing else
    supported = (DynamicLayer, DynamicSlidingWindowLayer)
    if not isinstance(cache, DynamicCache):
        return "it caches no keys and values, or other things too"
    others = sorted({type(layer).__name__ for layer in cache.layers if type(layer) not in supported})
    if others:
        return f"its layers cache other things than keys and values: {', '.join(others)}"
    return ""


def expand_cache(cache: DynamicCache, count: int) -> DynamicCache:
    """Expand the cache of one sequence to a batch, without copying or changing it.

    The keys and values are views; a forward pass creates new tensors of them with its own tokens appended.

    Args:
        cache: Cache of one sequence.
        count: Number of sequences in the batch.
    """
    expanded = copy.copy(cache)
    expanded.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in expanded.layers:
        if layer.is_initialized:  # not if a layer uses the keys and values of another one
            layer.keys = layer.keys.expand(count, -1, -1, -1)
            layer.values = layer.values.expand(count, -1, -1, -1)
    return expanded
