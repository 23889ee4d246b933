"""One forward pass over token sequences, reduced to a few numbers each: losses, pooled states."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch

from hf_datasel.errors import ModelError
from hf_datasel.tokens.sequences import Sequence as TokenSequence

__all__ = ["Forward", "Forwards", "PooledStates", "Reduction", "SummedNLL", "tolerance"]

logger = logging.getLogger(__name__)

_CHUNK_BYTES = {"cpu": 4 << 20, "cuda": 256 << 20}
"""Float32 logits held at once, unless that is fewer than `_CHUNK_ROWS` rows of them."""
_CHUNK_ROWS = 128
_TRIAL_TOKENS = 32
"""Of a row on which the head is tried."""


class Reduction(Protocol):
    """What is taken from the forward pass of a sequence. Frozen: equal ones are computed once."""

    dtype: ClassVar[type[np.floating[Any]]]

    def width(self, hidden_size: int) -> int:
        """Numbers a sequence."""

    def spec(self) -> dict[str, Any]:
        """Everything but the model and the sequence that decides the numbers."""

    def __call__(self, forward: Forward) -> np.ndarray:
        """The numbers of each sequence of the batch: shape (sequences, width)."""


def tolerance(dtype: torch.dtype, device: torch.device) -> float:
    """How far two ways to the same number may be apart, with weights of this dtype or under autocast."""
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    return 5e-2 if torch.finfo(dtype).bits < 32 else 1e-4


class Forward:
    """A batch of sequences on its way through a model, whose hidden states are made once, when first asked for."""

    def __init__(self, forwards: Forwards, batch: list[TokenSequence]):
        self.forwards = forwards
        self.batch = batch
        self._hidden: torch.Tensor | None = None

    @property
    def hidden(self) -> torch.Tensor:
        """The last hidden states, right-padded: shape (sequences, tokens, hidden size)."""
        if self._hidden is None:
            self._hidden = self.forwards.hidden(self.batch)
        return self._hidden

    def losses(self) -> list[torch.Tensor]:
        """The NLL of each scored token in nats, float32 on the CPU, of each sequence."""
        return self.forwards.losses(self)


class Forwards:
    """Runs a causal language model over token sequences.

    The backbone runs on right-padded batches, and the LM head on the scored positions only, a chunk at a time: logits
    of the prompt, which are most of the memory elsewhere, are never made. A model whose head does more than multiply
    (logit scaling, for example) is found by comparing a few rows with the model's own logits; its losses are then
    taken from the whole model, one row at a time.

    Args:
        model: causal LM, bare or with PEFT adapters, on its device.

    Raises:
        ModelError: the model has virtual prompt tokens, which shift all positions.
    """

    def __init__(self, model: Any):
        if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
            raise ModelError("Prompt-learning adapters put virtual tokens before every row and cannot be scored.")
        self.causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.device = self.causal.get_input_embeddings().weight.device
        self.softcap = getattr(self.causal.config.get_text_config(), "final_logit_softcapping", None)
        self._backend: Callable[[Forward], list[torch.Tensor]] | None = None

    def __call__(self, batch: list[TokenSequence], reductions: Sequence[Reduction]) -> list[np.ndarray]:
        """Each reduction of each sequence, from one pass."""
        forward = Forward(self, batch)
        return [each(forward) for each in reductions]

    def width(self, reduction: Reduction) -> int:
        """Numbers a sequence."""
        return reduction.width(self.causal.config.get_text_config().hidden_size)

    def hidden(self, batch: list[TokenSequence]) -> torch.Tensor:
        """The last hidden states, right-padded: shape (sequences, tokens, hidden size)."""
        width = max(len(sequence.ids) for sequence in batch)
        ids = np.zeros((len(batch), width), dtype=np.int64)
        for row, sequence in enumerate(batch):
            ids[row, : len(sequence.ids)] = sequence.ids
        # no mask: padding stands on the right, where a causal model does not look, and attention is faster without one
        inputs = torch.from_numpy(ids).to(self.device)
        states: torch.Tensor = self.causal.base_model(input_ids=inputs, use_cache=False).last_hidden_state
        return states

    def losses(self, forward: Forward) -> list[torch.Tensor]:
        """The NLL of each scored token in nats, float32 on the CPU, of each sequence."""
        if self._backend is None:
            self._backend = self._choose(forward.batch)
        return self._backend(forward)

    def _choose(self, batch: list[TokenSequence]) -> Callable[[Forward], list[torch.Tensor]]:
        """Head on the scored positions, if the head alone gives the model's own logits at the ends of two rows."""
        if self.causal.base_model is self.causal or self.causal.get_output_embeddings() is None:
            return self._whole_model
        differ = max(self._difference(each.ids[-_TRIAL_TOKENS:]) for each in batch[:2])
        if differ <= tolerance(self.causal.dtype, self.device):
            return self._head_only
        logger.warning(
            "The logits of %s are more than its LM head's (log-probabilities differ by up to %.2g nats): it is scored "
            "whole, one row at a time, which is slower.",
            type(self.causal).__name__,
            differ,
        )
        return self._whole_model

    def _difference(self, ids: np.ndarray) -> float:
        """How far the log-probabilities by the head alone are from the model's own, over the whole vocabulary.

        Relative for those above 1. The loss of the tokens that are there would not do: one that the model is sure of
        has none, whatever is done to the logits.
        """
        inputs = torch.from_numpy(ids)[None].to(self.device)
        own = type(self.causal).forward(self.causal, input_ids=inputs, use_cache=False).logits[0].float()
        fast = self._logits(self.causal.base_model(input_ids=inputs, use_cache=False).last_hidden_state[0])
        own, fast = own.log_softmax(dim=-1), fast.to(own.device).log_softmax(dim=-1)
        found = ((own - fast).abs() / own.abs().clamp(min=1.0)).max().item()
        return 0.0 if math.isnan(found) else found  # a model that gives no numbers gives none either way

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        """Float32 logits by the head alone."""
        head = self.causal.get_output_embeddings()
        logits: torch.Tensor = head(states.to(head.weight.device)).float()
        if self.softcap is not None:
            logits = logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits

    def _head_only(self, forward: Forward) -> list[torch.Tensor]:
        batch, hidden = forward.batch, forward.hidden
        lengths = [len(sequence.scored) for sequence in batch]
        rows = torch.from_numpy(np.repeat(np.arange(len(batch)), lengths)).to(hidden.device)
        at = np.concatenate([sequence.scored for sequence in batch])
        targets = np.concatenate([sequence.ids[sequence.scored] for sequence in batch])
        states = hidden[rows, torch.from_numpy(at - 1).to(hidden.device)]
        return list(self._head(states, torch.from_numpy(targets)).split(lengths))

    def _head(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        head = self.causal.get_output_embeddings()
        chunk = max(_CHUNK_BYTES.get(states.device.type, 64 << 20) // (4 * head.weight.shape[0]), _CHUNK_ROWS)
        # Made before the first chunk: small results kept between the chunks would leave the heap in pieces that none
        # of them fits into again.
        losses = torch.empty(len(targets), device=head.weight.device)
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            logits = self._logits(states[part])
            losses[part] = _nll(logits, targets[part].to(logits.device))
            del logits  # before the next chunk is made, not after
        return losses.cpu()

    def _whole_model(self, whole: Forward) -> list[torch.Tensor]:
        forward = type(self.causal).forward  # not the instance's: trainers wrap that one, in autocast for example
        keeps = "logits_to_keep" in inspect.signature(forward).parameters
        losses = []
        for sequence in whole.batch:
            at = torch.from_numpy(sequence.scored - 1).to(self.device)
            ids = torch.from_numpy(sequence.ids)[None].to(self.device)
            more = {"logits_to_keep": at} if keeps else {}
            logits = forward(self.causal, input_ids=ids, use_cache=False, **more).logits[0]
            logits = (logits if keeps else logits[at]).float()
            losses.append(_nll(logits, torch.from_numpy(sequence.ids[sequence.scored]).to(logits.device)).cpu())
        return losses


@dataclass(frozen=True)
class SummedNLL:
    """The sum of the scored tokens' NLL in nats, and how many they are."""

    dtype: ClassVar[type[np.floating[Any]]] = np.float64

    def width(self, hidden_size: int) -> int:
        return 2

    def spec(self) -> dict[str, Any]:
        return {"computed": "nll", "version": 1}

    def __call__(self, forward: Forward) -> np.ndarray:
        sums = [losses.double().sum().item() for losses in forward.losses()]
        return np.array([[total, len(each.scored)] for total, each in zip(sums, forward.batch, strict=True)])


@dataclass(frozen=True)
class PooledStates:
    """The last hidden states of a part of each sequence: their mean, or the last of them.

    The scored tokens are the response, the others up to the first of them the prompt.
    """

    part: Literal["prompt", "response", "both"]
    pooling: Literal["mean", "last"]

    dtype: ClassVar[type[np.floating[Any]]] = np.float32

    def width(self, hidden_size: int) -> int:
        return hidden_size

    def spec(self) -> dict[str, Any]:
        return {"computed": "states", "version": 1, "part": self.part, "pooling": self.pooling}

    def __call__(self, forward: Forward) -> np.ndarray:
        pooled = []
        for states, sequence in zip(forward.hidden, forward.batch, strict=True):
            at = torch.from_numpy(self._positions(sequence)).to(states.device)
            chosen = states[at[-1:] if self.pooling == "last" else at].float()
            pooled.append(chosen.mean(dim=0))
        vectors: np.ndarray = torch.stack(pooled).cpu().numpy()
        return vectors

    def _positions(self, sequence: TokenSequence) -> np.ndarray:
        if self.part == "both":
            return np.arange(len(sequence.ids))
        return sequence.scored if self.part == "response" else np.arange(sequence.scored[0])


def _nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")
