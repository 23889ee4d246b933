"""Run a causal language model over token sequences, and reduce each forward pass to a few numbers."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np

from hf_datasel._lazy import torch
from hf_datasel.errors import ModelError
from hf_datasel.tokens.sequences import Sequence as TokenSequence

__all__ = [
    "Forward",
    "LogprobRunner",
    "PooledStates",
    "Pooling",
    "Reduction",
    "SummedNLL",
    "is_prompt_learning",
    "position_weights",
    "tolerance",
]

logger = logging.getLogger(__name__)

Pooling: TypeAlias = Literal["mean", "weighted_mean", "last"]
"""How the states of some tokens become one vector; see `PooledStates`."""

_CHUNK_BYTES = {"cpu": 4 << 20, "cuda": 256 << 20}
"""Size of the float32 logits in memory at once, if that is at least `_CHUNK_ROWS` rows of them."""
_CHUNK_ROWS = 128
_PROBE_TOKENS = 32
"""Number of tokens at the end of a row with which the LM head is compared with the whole model."""


class Reduction(Protocol):
    """What is computed from the forward pass of a sequence. Reductions are frozen; equal ones are computed once.

    Attributes:
        dtype: Data type of the numbers.
    """

    dtype: ClassVar[type[np.floating[Any]]]

    def width(self, hidden_size: int) -> int:
        """Return how many numbers there are per sequence."""

    def spec(self) -> dict[str, Any]:
        """Return everything but the model and the sequence that determines the numbers."""

    def __call__(self, forward: Forward) -> np.ndarray:
        """Compute the numbers of each sequence of a batch: shape (sequences, width)."""


def tolerance(dtype: torch.dtype, device: torch.device) -> float:
    """Return how much two computations of the same number may differ.

    Args:
        dtype: Data type of the weights; under autocast its data type is used.
        device: Device of the computation.
    """
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    return 5e-2 if torch.finfo(dtype).bits < 32 else 1e-4


def is_prompt_learning(model: Any) -> bool:
    """Return whether a model has an adapter of virtual tokens: prompt tuning, prefix tuning or p-tuning.

    Args:
        model: A model, with or without PEFT adapters.
    """
    return bool(getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False))


class Forward:
    """The forward pass of a batch; its hidden states are computed at the first access.

    Args:
        logprobs: Runner of the model.
        batch: Token sequences.
    """

    def __init__(self, logprobs: LogprobRunner, batch: list[TokenSequence]):
        self.logprobs = logprobs
        self.batch = batch
        self._hidden: torch.Tensor | None = None

    @property
    def hidden(self) -> torch.Tensor:
        """Last hidden states, right-padded, of shape (sequences, tokens, hidden size)."""
        if self._hidden is None:
            self._hidden = self.logprobs.hidden(self.batch)
        return self._hidden

    def losses(self) -> list[torch.Tensor]:
        """Return the negative log-likelihood of each scored token of each sequence: nats, float32 on the CPU."""
        return self.logprobs.losses(self)


class LogprobRunner:
    """Runs a causal language model over token sequences.

    The backbone runs on right-padded batches, and the LM head only on the scored positions, in chunks: the logits of
    the prompt, which would take most of the memory, are never computed. A model that does more to its logits than
    multiply hidden states by the head (logit scaling, for example) is detected by comparing a few rows with the
    model's own logits; its losses are then computed by the whole model, one row at a time.

    Args:
        model: Causal LM on its device, with or without PEFT adapters.

    Raises:
        ModelError: The model has virtual prompt tokens, which shift all positions.
    """

    def __init__(self, model: Any):
        if is_prompt_learning(model):
            raise ModelError("Prompt-learning adapters put virtual tokens before every row and cannot be scored.")
        self.causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.device = self.causal.get_input_embeddings().weight.device
        self.softcap = getattr(self.causal.config.get_text_config(), "final_logit_softcapping", None)
        self._backend: Callable[[Forward], list[torch.Tensor]] | None = None

    def __call__(self, batch: list[TokenSequence], reductions: Sequence[Reduction]) -> list[np.ndarray]:
        """Compute several reductions of each sequence in one forward pass.

        Args:
            batch: Token sequences.
            reductions: The reductions.

        Returns:
            One array per reduction, of shape (sequences, width of the reduction).
        """
        forward = Forward(self, batch)
        return [reduction(forward) for reduction in reductions]

    def width(self, reduction: Reduction) -> int:
        """Return how many numbers a reduction has per sequence of this model."""
        return reduction.width(self.causal.config.get_text_config().hidden_size)

    def hidden(self, batch: list[TokenSequence]) -> torch.Tensor:
        """Compute the last hidden states.

        Args:
            batch: Token sequences.

        Returns:
            Tensor of shape (sequences, tokens, hidden size), right-padded.
        """
        width = max(len(sequence.ids) for sequence in batch)
        ids = np.zeros((len(batch), width), dtype=np.int64)
        for row, sequence in enumerate(batch):
            ids[row, : len(sequence.ids)] = sequence.ids
        # No attention mask: padding is on the right, which a causal model does not see, and attention is faster
        # without a mask.
        inputs = torch.from_numpy(ids).to(self.device)
        states: torch.Tensor = self.causal.base_model(input_ids=inputs, use_cache=False).last_hidden_state
        return states

    def losses(self, forward: Forward) -> list[torch.Tensor]:
        """Return the negative log-likelihood of each scored token of each sequence: nats, float32 on the CPU."""
        if self._backend is None:
            self._backend = self._select_backend(forward.batch)
        return self._backend(forward)

    def _select_backend(self, batch: list[TokenSequence]) -> Callable[[Forward], list[torch.Tensor]]:
        """Select the LM head on the scored positions if it reproduces the model's own logits on two rows."""
        if self.causal.base_model is self.causal or self.causal.get_output_embeddings() is None:
            return self._by_whole_model
        difference = max(self._difference(sequence.ids[-_PROBE_TOKENS:]) for sequence in batch[:2])
        if difference <= tolerance(self.causal.dtype, self.device):
            return self._by_head
        logger.warning(
            "The logits of %s are not only its LM head's (log-probabilities differ by up to %.2g nats): the whole "
            "model is run one row at a time, which is slower.",
            type(self.causal).__name__,
            difference,
        )
        return self._by_whole_model

    def _difference(self, ids: np.ndarray) -> float:
        """Return the largest difference between log-probabilities of the head and of the model, over the vocabulary.

        It is relative for those above 1 nat. The losses of the tokens alone would not do: a token that the model is
        certain of has a loss of 0 whatever is done to the logits.
        """
        inputs = torch.from_numpy(ids)[None].to(self.device)
        own = type(self.causal).forward(self.causal, input_ids=inputs, use_cache=False).logits[0].float()
        fast = self._logits(self.causal.base_model(input_ids=inputs, use_cache=False).last_hidden_state[0])
        own, fast = own.log_softmax(dim=-1), fast.to(own.device).log_softmax(dim=-1)
        difference = ((own - fast).abs() / own.abs().clamp(min=1.0)).max().item()
        return 0.0 if math.isnan(difference) else difference  # a model with NaN logits has them either way

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        """Compute float32 logits with the LM head alone."""
        head = self.causal.get_output_embeddings()
        logits: torch.Tensor = head(states.to(head.weight.device)).float()
        if self.softcap is not None:
            logits = logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits

    def _by_head(self, forward: Forward) -> list[torch.Tensor]:
        batch, hidden = forward.batch, forward.hidden
        lengths = [len(sequence.scored) for sequence in batch]
        rows = torch.from_numpy(np.repeat(np.arange(len(batch)), lengths)).to(hidden.device)
        scored = np.concatenate([sequence.scored for sequence in batch])
        targets = np.concatenate([sequence.ids[sequence.scored] for sequence in batch])
        states = hidden[rows, torch.from_numpy(scored - 1).to(hidden.device)]
        return list(self._head(states, torch.from_numpy(targets)).split(lengths))

    def _head(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        head = self.causal.get_output_embeddings()
        chunk = max(_CHUNK_BYTES.get(states.device.type, 64 << 20) // (4 * head.weight.shape[0]), _CHUNK_ROWS)
        # Allocated before the first chunk: small results allocated between the chunks would fragment the heap, so that
        # no later chunk fits into the gaps.
        losses = torch.empty(len(targets), device=head.weight.device)
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            logits = self._logits(states[part])
            losses[part] = _nll(logits, targets[part].to(logits.device))
            del logits  # before the next chunk is allocated, not after
        return losses.cpu()

    def _by_whole_model(self, forward: Forward) -> list[torch.Tensor]:
        model_forward = type(self.causal).forward  # not the instance's, which trainers wrap, in autocast for example
        has_logits_to_keep = "logits_to_keep" in inspect.signature(model_forward).parameters
        losses = []
        for sequence in forward.batch:
            positions = torch.from_numpy(sequence.scored - 1).to(self.device)
            ids = torch.from_numpy(sequence.ids)[None].to(self.device)
            kwargs = {"logits_to_keep": positions} if has_logits_to_keep else {}
            logits = model_forward(self.causal, input_ids=ids, use_cache=False, **kwargs).logits[0]
            logits = (logits if has_logits_to_keep else logits[positions]).float()
            losses.append(_nll(logits, torch.from_numpy(sequence.ids[sequence.scored]).to(logits.device)).cpu())
        return losses


@dataclass(frozen=True)
class SummedNLL:
    """Sum of the negative log-likelihoods of the scored tokens in nats, and the number of these tokens.

    Args:
        of_first_round: Whether the numbers of the first round that computed them are used in the later rounds of a
            run, instead of those of the model as it is then.
    """

    of_first_round: bool = False

    dtype: ClassVar[type[np.floating[Any]]] = np.float64

    def width(self, hidden_size: int) -> int:
        """Return 2: the sum and the number of tokens."""
        return 2

    def spec(self) -> dict[str, Any]:
        """Return the name and the version of the computation."""
        return {"computed": "nll", "version": 1}

    def __call__(self, forward: Forward) -> np.ndarray:
        """Compute the sum and the number of tokens of each sequence: float64 of shape (sequences, 2)."""
        sums = [losses.double().sum().item() for losses in forward.losses()]
        return np.array([[total, len(row.scored)] for total, row in zip(sums, forward.batch, strict=True)])


@dataclass(frozen=True)
class PooledStates:
    """Last hidden states of a part of each sequence, pooled over its tokens.

    The scored tokens are the response; the tokens before the first of them are the prompt.

    Args:
        part: Part of the sequence.
        pooling: "mean" of the hidden states, "weighted_mean" with `position_weights`, or the "last" one.
    """

    part: Literal["prompt", "response", "both"]
    pooling: Pooling

    dtype: ClassVar[type[np.floating[Any]]] = np.float32

    def width(self, hidden_size: int) -> int:
        """Return the hidden size."""
        return hidden_size

    def spec(self) -> dict[str, Any]:
        """Return the name, the version and the settings of the computation."""
        return {"computed": "states", "version": 1, "part": self.part, "pooling": self.pooling}

    def __call__(self, forward: Forward) -> np.ndarray:
        """Pool the states of each sequence: float32 of shape (sequences, hidden size)."""
        pooled = []
        for states, sequence in zip(forward.hidden, forward.batch, strict=True):
            positions = torch.from_numpy(self._positions(sequence)).to(states.device)
            selected = states[positions[-1:] if self.pooling == "last" else positions].float()
            if self.pooling == "weighted_mean":
                pooled.append(position_weights(len(selected)).to(selected.device) @ selected)
            else:
                pooled.append(selected.mean(dim=0))
        vectors: np.ndarray = torch.stack(pooled).cpu().numpy()
        return vectors

    def _positions(self, sequence: TokenSequence) -> np.ndarray:
        if self.part == "both":
            return np.arange(len(sequence.ids))
        return sequence.scored if self.part == "response" else np.arange(sequence.scored[0])


def position_weights(length: int) -> torch.Tensor:
    """Return the weight of each token of a position-weighted mean: i / (1 + ... + length) for token i from 1.

    Later tokens of a causal model have seen more of the text. Muennighoff 2022 (2202.08904, SGPT), Eq. 2.

    Args:
        length: Number of tokens.

    Returns:
        Float32 of shape (length,); its sum is 1.
    """
    positions = torch.arange(1, length + 1, dtype=torch.float64)
    return (positions / positions.sum()).float()


def _nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")
