"""Weighted losses: each row of a training batch has a factor that its losses are multiplied by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from trl.trainer import utils as trl_utils

from hf_datasel.errors import ConfigError
from hf_datasel.formats import POOL_ROW
from hf_datasel.scoring.logprobs import is_prompt_learning
from hf_datasel.training.batch_rows import row_numbers_in_batches
from hf_datasel.training.step_filter import StepFilter, step_filter_of

__all__ = ["RowFactors", "check_row_losses"]

_HAS_LOG_PROBS = hasattr(trl_utils, "add_fused_lm_head")
"""Whether training steps of TRL compute the log-probability of each token before the loss (since TRL 1.16)."""
_WEIGHTS = "A selection with row weights"


def check_row_losses(trainer: Any, needed_by: str) -> None:
    """Raise if the losses of single rows cannot be changed in training steps with these settings.

    Args:
        trainer: An `SFTTrainer` that is ready to train.
        needed_by: What needs them, with which the message begins.

    Raises:
        ConfigError: Says which setting.
    """
    args = trainer.args
    parallel = getattr(trainer.accelerator, "parallelism_config", None)
    problem = ""
    if not _HAS_LOG_PROBS:
        problem = "this version of TRL does not compute the loss of each row. Install trl>=1.16"
    elif args.packing:
        problem = "packing=True puts several rows into one sequence. Use packing=False"
    elif getattr(trainer.data_collator, "padding_free", False):
        problem = "padding_free=True concatenates the rows of a batch. Use padding_free=False"
    elif args.loss_type != "nll":
        problem = f"loss_type={args.loss_type!r} weights tokens by itself. Use loss_type='nll'"
    elif trainer.compute_loss_func is not None:
        problem = (
            "compute_loss_func computes the loss of a batch as a whole. Remove it, and weight rows in it yourself"
        )
    elif trainer.label_smoother is not None:
        problem = "label_smoothing_factor computes the loss of a batch as a whole. Use label_smoothing_factor=0"
    elif args.n_gpu > 1:
        problem = (
            f"each batch is split over {args.n_gpu} GPUs in one process (DataParallel). Start one process per GPU, "
            "with accelerate launch or torchrun, or set CUDA_VISIBLE_DEVICES to one GPU"
        )
    elif parallel is not None and parallel.non_data_parallel_size > 1:
        problem = (
            "context, sequence and tensor parallelism split the rows of a batch over several processes. Use data "
            "parallelism alone"
        )
    if problem:
        raise ConfigError(f"{needed_by} needs the loss of each row, but {problem}, or train without it.")


def _check_adapter(trainer: Any) -> None:
    """Raise if the loss of a row before training cannot be computed because of the adapter."""
    if is_prompt_learning(trainer.accelerator.unwrap_model(trainer.model)):
        raise ConfigError(
            f"step_filter={trainer.args.step_filter!r} needs the loss of each row before training, but the "
            "prompt-learning adapter puts virtual tokens before every row. Train another kind of adapter, such as "
            "LoRA, or use another filter, such as top_loss."
        )


class RowFactors:
    """Factors that the losses of the rows of each training batch are multiplied by: their weights, and a step filter.

    `SFTTrainer` computes in each process, with the tokens `t` of the rows `i` of a batch,
    `loss = sum_i sum_t nll[i, t] / N`, where `N` is the number of labelled tokens of all batches of an optimizer step
    and of all processes (`num_items_in_batch`); the losses of the batches are added up. With row weights `w` it is

        loss = sum_i w[i] * sum_t nll[i, t] / N

    with the same `N`. So the gradient of a row is its gradient in unweighted training times its weight, whatever rows
    are in its batch, also with one row per step. A row with weight 0 contributes nothing but counts in `N`: a step has
    the gradient of the step without the row, times the share of labelled tokens that the other rows have. (Dividing by
    the weighted number of tokens instead would cancel the weights where a step has one row, and the gradients of a row
    would depend on its neighbors.) The factors act between the model's log-probabilities and the loss, so that
    gradient accumulation, padding, adapters, mixed precision and several processes need nothing of their own. Entropy,
    accuracy and evaluation are those of all tokens, unweighted.

    If all weights of a round are 1, nothing is hooked in, and training equals that without weights bit for bit.

    Args:
        trainer: An `SFTTrainer` that is ready to train.
        sets_weights: Whether the selector says that rows get weights.

    Raises:
        ConfigError: Rows get weights, or there is a step filter, and the losses of single rows cannot be changed with
            these settings.
    """

    def __init__(self, trainer: Any, sets_weights: bool):
        self._trainer = trainer
        self._weights: torch.Tensor | None = None
        self._model: torch.nn.Module | None = None  # while it trains
        self._hook: torch.utils.hooks.RemovableHandle | None = None
        self._rows: torch.Tensor | None = None  # of the batch of the current training step
        self._num_items: Any = None
        batch_filter = step_filter_of(trainer.args.step_filter)
        self._step_filter = None if batch_filter is None else StepFilter(trainer, batch_filter)
        if self._step_filter is not None:
            check_row_losses(trainer, f"step_filter={trainer.args.step_filter!r}")
            self._step_filter.check_batch()
        if self._step_filter is not None and self._step_filter.lacks_initial_losses:
            _check_adapter(trainer)
        if sets_weights:
            check_row_losses(trainer, _WEIGHTS)

    def begin_round(self, rows: np.ndarray, weights: np.ndarray | None, num_rows: int) -> None:
        """Take over the weights of the rows of a round.

        Args:
            rows: Row numbers of the pool, int64.
            weights: Weight of each of them, or None.
            num_rows: Number of rows of the pool.

        Raises:
            ConfigError: There are weights other than 1, and rows cannot be weighted with these settings.
        """
        self._weights = None
        if weights is not None and (weights != 1).any():
            check_row_losses(self._trainer, _WEIGHTS)
            self._weights = torch.zeros(num_rows)
            self._weights[torch.from_numpy(rows)] = torch.from_numpy(weights)
        if self._needs_rows and self._hook is None:
            assert self._model is not None
            self._hook = self._model.register_forward_hook(torch.compiler.disable(self._multiply))
        elif not self._needs_rows:
            self._remove_hook()

    @property
    def _needs_rows(self) -> bool:
        """Whether batches of the current round have to name their rows."""
        return self._weights is not None or self._step_filter is not None

    # -- losses before training ---------------------------------------------------------------------------------------
    @property
    def initial_losses(self) -> np.ndarray | None:
        """Losses of rows before training, float64 of shape (rows,), if the step filter reads them; for checkpoints."""
        return None if self._step_filter is None else self._step_filter.initial_losses

    @initial_losses.setter
    def initial_losses(self, losses: np.ndarray | None) -> None:
        if self._step_filter is not None:
            self._step_filter.initial_losses = losses

    def record_initial_losses(self, compute: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> None:
        """Compute the losses that rows have before training, if the step filter needs them and has none yet.

        Args:
            compute: Returns the mean loss of the labelled tokens of rows of the pool, with the model as it is.
            rows: Row numbers of all rows that may be trained on.
        """
        if self._step_filter is not None and self._step_filter.lacks_initial_losses:
            self._step_filter.initial_losses = compute(rows)

    # -- while the model trains ---------------------------------------------------------------------------------------
    @contextmanager
    def training(self, model: torch.nn.Module) -> Iterator[None]:
        """Change the losses of a model within the context, in the rounds that have factors.

        Args:
            model: The unwrapped model.

        Yields:
            None.
        """
        self._model = model
        try:
            yield
        finally:
            self._remove_hook()
            self._model = None

    def _remove_hook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def loading(self) -> AbstractContextManager[None]:
        """Return a context in which the training dataloaders that are created add row numbers, if they are needed."""
        return row_numbers_in_batches(self._trainer) if self._needs_rows else nullcontext()

    @contextmanager
    def step(self, inputs: MutableMapping[str, Any], num_items: Any) -> Iterator[None]:
        """Multiply the losses of the batch of a training step within the context.

        Args:
            inputs: The batch, from which the row numbers are removed.
            num_items: `num_items_in_batch` of the step, or None.

        Yields:
            None.
        """
        self._rows, self._num_items = inputs.pop(POOL_ROW, None), num_items
        try:
            yield
        finally:
            self._rows = self._num_items = None

    def _multiply(self, model: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._rows is None or not torch.is_grad_enabled():
            return
        log_probs = getattr(output, "log_probs", None)
        if log_probs is None:
            raise ConfigError(
                f"Rows cannot be weighted or filtered: {type(output).__name__} has no log-probability of each token "
                "while the model trains. Train without row weights and step_filter."
            )
        if len(self._rows) != len(log_probs):
            raise ConfigError(
                f"Rows cannot be weighted or filtered: the model was given {len(log_probs):,} rows of a batch of "
                f"{len(self._rows):,}. Pass it all rows of the batch in one call, or train without row weights and "
                "step_filter."
            )
        factors = torch.ones(len(log_probs), device=log_probs.device)
        if self._weights is not None:
            factors = factors * self._weights[self._rows.cpu()].to(log_probs.device)
        if self._step_filter is not None:
            tokens = output.label_mask.sum(dim=1)
            losses = -log_probs.detach().float().sum(dim=1) / tokens.clamp(min=1)
            factors = factors * self._step_filter.factors(losses, tokens, self._rows, self._num_items)
        output.log_probs = log_probs * factors[:, None]
