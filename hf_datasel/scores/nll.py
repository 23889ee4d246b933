"""Negative log-likelihood of marked tokens: length-sorted batches, and the LM head on those tokens alone."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from hf_datasel.errors import ModelError
from hf_datasel.tokens.sequences import Sequence, Sequences

__all__ = ["NLL", "plan_batches"]

logger = logging.getLogger(__name__)

_CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}
"""Float32 logits held at once."""


def plan_batches(lengths: np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
    """Positions grouped by length, longest first, so that no padded batch exceeds `tokens_per_batch` tokens.

    A sequence longer than that is a batch of its own. The plan depends on the lengths alone.

    >>> [batch.tolist() for batch in plan_batches(np.array([3, 9, 3, 4]), 9)]
    [[1], [3, 0], [2]]
    """
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        longest = max(int(lengths[order[start]]), 1)
        stop = start + max(tokens_per_batch // longest, 1)
        batches.append(order[start:stop])
        start = stop
    return batches


class NLL:
    """Scores token sequences with one causal language model.

    The backbone runs on right-padded batches, and the LM head on the scored positions only, a chunk at a time: logits
    of the prompt, which are most of the memory elsewhere, are never made. A model whose head does more than multiply
    (logit scaling, for example) is found by comparing a few rows with the model's own logits; it is then run whole,
    one row at a time.

    Args:
        model: causal LM, bare or with PEFT adapters, on its device.
        tokens_per_batch: upper bound on the padded tokens of a batch; by default 2,048 on a CPU, where more was
            slower, and 16,384 elsewhere.
        autocast: compute in this dtype instead of the weights' own.

    Raises:
        ModelError: the model has virtual prompt tokens, which shift all positions.
    """

    def __init__(self, model: Any, tokens_per_batch: int | None = None, autocast: torch.dtype | None = None):
        if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
            raise ModelError("Prompt-learning adapters put virtual tokens before every row and cannot be scored.")
        self.model = model
        self.autocast = autocast
        self.causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.device = self.causal.get_input_embeddings().weight.device
        self.tokens_per_batch = tokens_per_batch or (2048 if self.device.type == "cpu" else 16384)
        self.softcap = getattr(self.causal.config.get_text_config(), "final_logit_softcapping", None)
        self._backend: Callable[[list[Sequence]], list[torch.Tensor]] | None = None

    def __call__(
        self, sequences: Sequences, done: Callable[[int], Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Summed NLL in nats (float64) and number of scored tokens (int64) of each sequence.

        Args:
            sequences: what to score.
            done: called with the number of sequences finished, after each batch.
        """
        sums, counts = np.zeros(len(sequences)), np.zeros(len(sequences), dtype=np.int64)
        for batch, fetched in self._batches(sequences):
            for at, sequence, losses in zip(batch, fetched, self._losses(fetched), strict=True):
                sums[at], counts[at] = losses.double().sum().item(), len(sequence.scored)
            if done is not None:
                done(len(batch))
        return sums, counts

    def _batches(self, sequences: Sequences) -> Iterator[tuple[np.ndarray, list[Sequence]]]:
        for batch in plan_batches(sequences.lengths, self.tokens_per_batch):
            yield batch, sequences.fetch(batch)

    def _losses(self, batch: list[Sequence]) -> list[torch.Tensor]:
        enabled = self.autocast is not None
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=enabled):
            if self._backend is None:
                self._backend = self._choose(batch)
            return self._backend(batch)

    def _choose(self, batch: list[Sequence]) -> Callable[[list[Sequence]], list[torch.Tensor]]:
        """Head on the scored positions, if that agrees with the model's own logits on the shortest rows of a batch."""
        if self.causal.base_model is self.causal or self.causal.get_output_embeddings() is None:
            return self._whole_model
        few = sorted((each for each in batch if len(each.scored)), key=lambda each: len(each.ids))[:2]
        if not few:
            return self._whole_model
        fast, own = torch.cat(self._head_only(few)), torch.cat(self._whole_model(few))
        low = torch.finfo(self.causal.dtype if self.autocast is None else self.autocast).bits < 32
        if torch.allclose(fast, own, rtol=5e-2 if low else 1e-4, atol=5e-2 if low else 1e-4, equal_nan=True):
            return self._head_only
        logger.warning(
            "The logits of %s are more than its LM head's (they differ by up to %.2g nats): it is scored whole, one "
            "row at a time, which is slower.",
            type(self.causal).__name__,
            (fast - own).abs().max().item(),
        )
        return self._whole_model

    def _head_only(self, batch: list[Sequence]) -> list[torch.Tensor]:
        width = max(len(sequence.ids) for sequence in batch)
        ids = np.zeros((len(batch), width), dtype=np.int64)
        for row, sequence in enumerate(batch):
            ids[row, : len(sequence.ids)] = sequence.ids
        # no mask: padding stands on the right, where a causal model does not look, and attention is faster without one
        hidden = self.causal.base_model(
            input_ids=torch.from_numpy(ids).to(self.device), use_cache=False
        ).last_hidden_state
        lengths = [len(sequence.scored) for sequence in batch]
        rows = torch.from_numpy(np.repeat(np.arange(len(batch)), lengths)).to(hidden.device)
        at = np.concatenate([sequence.scored for sequence in batch])
        targets = np.concatenate([sequence.ids[sequence.scored] for sequence in batch])
        states = hidden[rows, torch.from_numpy(at - 1).to(hidden.device)]
        return list(self._head(states, torch.from_numpy(targets)).split(lengths))

    def _head(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        head = self.causal.get_output_embeddings()
        chunk = max(_CHUNK_BYTES.get(states.device.type, 64 << 20) // (4 * head.weight.shape[0]), 1)
        # Made before the first chunk: small results kept between the chunks would leave the heap in pieces that none
        # of them fits into again.
        losses = torch.empty(len(targets), device=head.weight.device)
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            logits = head(states[part].to(losses.device)).float()
            if self.softcap is not None:
                logits = logits.div_(self.softcap).tanh_().mul_(self.softcap)
            losses[part] = _nll(logits, targets[part].to(logits.device))
            del logits  # before the next chunk is made, not after
        return losses.cpu()

    def _whole_model(self, batch: list[Sequence]) -> list[torch.Tensor]:
        forward = type(self.causal).forward  # not the instance's: trainers wrap that one, in autocast for example
        keeps = "logits_to_keep" in inspect.signature(forward).parameters
        losses = []
        for sequence in batch:
            at = torch.from_numpy(sequence.scored - 1).to(self.device)
            ids = torch.from_numpy(sequence.ids)[None].to(self.device)
            more = {"logits_to_keep": at} if keeps else {}
            logits = forward(self.causal, input_ids=ids, use_cache=False, **more).logits[0]
            logits = (logits if keeps else logits[at]).float()
            losses.append(_nll(logits, torch.from_numpy(sequence.ids[sequence.scored]).to(logits.device)).cpu())
        return losses


def _nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")
