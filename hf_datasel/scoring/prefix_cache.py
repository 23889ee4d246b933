"""How likely answers are behind an example, whose own tokens go through the model once."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from hf_datasel.scoring.batching import Batches, length_of_positions, plan_batches
from hf_datasel.scoring.few_shot_prompts import Anchor
from hf_datasel.scoring.logprobs import Forward, Forwards, tolerance
from hf_datasel.tokens.sequences import Sequence as TokenSequence

__all__ = ["OneShot", "expanded"]

logger = logging.getLogger(__name__)

_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer)
"""Kinds of cache that hold keys and values of shape (batch, heads, tokens, dimensions), and nothing else."""


class OneShot(Forwards):
    """Log-probabilities of the answers of anchors behind an example.

    The example goes through the model once, and its keys and values are kept; the anchors are right-padded batches
    behind them, and the LM head runs on the answers alone. A batch has at most `tokens_per_batch` tokens, padding and
    the example's copies among them, and is split where the device has no memory for it.

    At the first example some of this is compared with whole sequences. Where it differs, where the model keeps
    something else than keys and values, or keys that depend on what follows (`dynamic` and `longrope` positions, run
    one by one), and where its logits are more than its LM head's, whole sequences are run, which is slower.

    Args:
        model: causal LM, bare or with PEFT adapters, on its device.
        anchors: the tasks.
        tokens_per_batch: upper bound on the tokens of a batch.
    """

    def __init__(self, model: Any, anchors: Sequence[Anchor], tokens_per_batch: int):
        super().__init__(model)
        self.anchors = anchors
        self.tokens_per_batch = tokens_per_batch
        self.lengths = np.array([len(each.behind) + len(each.answer) for each in anchors], dtype=np.int64)
        """Tokens of each anchor behind an example."""
        self.keeps: bool | None = None
        """Whether the example's keys and values are kept; None before the first example."""
        self.one_by_one = length_of_positions(self.causal.config) is not None
        """Whether a sequence has other numbers in a batch with longer ones."""
        self._room: int | None = None

    def scores(self, example: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Summed log-probability in nats of the answers of the anchors at these positions, float64.

        Args:
            example: its ids, int64.
            at: positions of anchors, int64.
        """
        if self.keeps is None:
            self.keeps = self._agrees(example, at)
        cache = self._cache(example) if self.keeps else None

        def compute(batch: np.ndarray) -> list[np.ndarray]:
            losses = self._whole(example, at[batch]) if cache is None else self._behind(cache, at[batch])
            return [np.array([-each.double().sum().item() for each in losses])]

        lengths = len(example) + self.lengths[at]
        runner = Batches(lengths, compute)
        runner.room = self._room
        found = np.zeros(len(at))
        for batch in plan_batches(lengths, self.tokens_per_batch, 1 if self.one_by_one else None):
            for part, [values] in runner.results(batch):
                found[part] = values
        self._room = runner.room
        return found

    def _whole(self, example: np.ndarray, at: np.ndarray) -> list[torch.Tensor]:
        """NLL of the answers' tokens, from whole sequences."""
        batch = [
            TokenSequence(
                np.concatenate([example, anchor.behind, anchor.answer]),
                len(example) + len(anchor.behind) + np.arange(len(anchor.answer)),
            )
            for anchor in (self.anchors[each] for each in at)
        ]
        return self.losses(Forward(self, batch))

    def _cache(self, example: np.ndarray) -> Any:
        ids = torch.from_numpy(example)[None].to(self.device)
        return getattr(self.causal.base_model(input_ids=ids, use_cache=True), "past_key_values", None)

    def _behind(self, cache: DynamicCache, at: np.ndarray) -> list[torch.Tensor]:
        """The same, behind what is kept of the example."""
        anchors = [self.anchors[each] for each in at]
        batch = [
            TokenSequence(np.concatenate([each.behind, each.answer]), len(each.behind) + np.arange(len(each.answer)))
            for each in anchors
        ]
        ids = np.zeros((len(batch), max(len(each.ids) for each in batch) - 1), dtype=np.int64)
        for row, each in enumerate(batch):
            ids[row, : len(each.ids) - 1] = each.ids[:-1]  # nothing follows the last one
        # no mask and no positions: the cache says how many tokens go before, and padding stands where none looks
        inputs = torch.from_numpy(ids).to(self.device)
        kept = expanded(cache, len(batch))
        states = self.causal.base_model(input_ids=inputs, past_key_values=kept, use_cache=True).last_hidden_state
        return self._head_only(_Computed(self, batch, states))

    def _agrees(self, example: np.ndarray, at: np.ndarray) -> bool:
        """Whether keys and values can be kept: compares the shortest anchors and the longest one both ways."""
        order = at[np.argsort(self.lengths[at], kind="stable")]
        few = np.unique(np.concatenate([order[:2], order[-1:]]))
        plain = torch.cat(self._whole(example, few))
        name = type(self.causal).__name__
        if self._backend != self._head_only:
            return False  # and why has been said
        cache = self._cache(example)
        if (why := "its positions depend on the length" if self.one_by_one else _obstacle(cache)) != "":
            logger.warning(
                "An example cannot be kept for all anchors behind it by %s (%s): whole sequences are run, which is "
                "slower.",
                name,
                why,
            )
            return False
        found = torch.cat(self._behind(cache, few))
        if torch.allclose(
            found, plain, rtol=(near := tolerance(self.causal.dtype, self.device)), atol=near, equal_nan=True
        ):
            return True
        logger.warning(
            "The losses of %s behind a kept example differ from those of whole sequences by up to %.2g nats: whole "
            "sequences are run, which is slower.",
            name,
            (found - plain).abs().max().item(),
        )
        return False


class _Computed(Forward):
    """A batch whose hidden states are there already."""

    def __init__(self, forwards: Forwards, batch: list[TokenSequence], hidden: torch.Tensor):
        super().__init__(forwards, batch)
        self._hidden = hidden


def _obstacle(cache: Any) -> str:
    """Why keys and values cannot stand for an example, whatever follows it; "" where they can."""
    if not isinstance(cache, DynamicCache):
        return "it keeps no keys and values, or other things too"
    others = sorted({type(layer).__name__ for layer in cache.layers if type(layer) not in _LAYERS})
    if others:
        return f"its layers keep other things than keys and values: {', '.join(others)}"
    return ""


def expanded(cache: DynamicCache, count: int) -> DynamicCache:
    """The cache of one sequence for so many that begin with it. The one given stays as it is, and nothing is copied.

    Keys and values are views here; a forward pass makes new tensors of them, with its own tokens behind.
    """
    grown = copy.copy(cache)
    grown.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in grown.layers:
        if layer.is_initialized:  # not where a layer uses the keys and values of another one
            layer.keys = layer.keys.expand(count, -1, -1, -1)
            layer.values = layer.values.expand(count, -1, -1, -1)
    return grown
