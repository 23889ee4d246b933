"""Gradients of the loss of each row of a batch."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_datasel._lazy import torch
from hf_datasel.errors import ModelError
from hf_datasel.tokens.sequences import Sequence

__all__ = ["AdamMoments", "RowGradients"]

logger = logging.getLogger(__name__)

_CPU_BYTES = 512 << 20
"""Size of the gradients of a batch on a CPU; on an accelerator it is an eighth of its memory."""


@dataclass(frozen=True)
class AdamMoments:
    """Adam's state of one parameter.

    Args:
        first: Running mean of the gradient, float32 and flat.
        second: Running mean of the squared gradient, float32 and flat.
        betas: Decay rates of the two means.
    """

    first: torch.Tensor
    second: torch.Tensor
    betas: tuple[float, float]

    def to(self, device: torch.device) -> AdamMoments:
        """Move the state to a device."""
        return AdamMoments(self.first.to(device), self.second.to(device), self.betas)

    def update_direction(self, gradients: torch.Tensor) -> torch.Tensor:
        """Return the direction of Adam's next step for each of several gradients.

        As in the code of LESS, the epsilon of 1e-8 is inside the square root, and there is no bias correction.

        Args:
            gradients: Float32 of shape (rows, elements of the parameter).

        Returns:
            Float32 of the same shape.
        """
        beta1, beta2 = self.betas
        first = gradients * (1 - beta1) + beta1 * self.first
        second = gradients.square() * (1 - beta2) + beta2 * self.second
        return first / (second + 1e-8).sqrt()


class _CannotBatchError(Exception):
    """The rows of a batch cannot be separated in the input of a module."""


@dataclass(frozen=True)
class _Call:
    """Input and output of one call of a module."""

    module: torch.nn.Module
    input: torch.Tensor
    output: torch.Tensor


class RowGradients:
    """Gradients of the mean loss over the scored tokens of each row, with respect to some parameters of a model.

    A batch takes one forward and one backward pass: the input of each module that owns a parameter, and the gradient
    of its output, give the parameter's gradient for each row. The gradient is never summed over the batch, nor written
    to `.grad`. For the first batch with several rows the result is compared with plain autograd on two of them. If it
    differs or cannot be computed (experts that see tokens of several rows at once, weights that are used without
    calling their module), rows are run one at a time, which is logged.

    Args:
        model: Causal LM in eval mode.
        parameters: Parameters by name, in the order of the gradients. Inside `active` only these require gradients.

    Attributes:
        size: Number of elements of all parameters.

    Raises:
        ModelError: There are no parameters, or one of them has no gradient, such as a quantized one.
    """

    def __init__(self, model: torch.nn.Module, parameters: Mapping[str, torch.nn.Parameter]):
        self.model = model
        self.parameters = dict(parameters)
        quantized = [name for name, parameter in self.parameters.items() if not parameter.is_floating_point()]
        if quantized or not self.parameters:
            problem = f"{quantized[0]} and others are quantized" if quantized else "there are none"
            raise ModelError(f"Gradients of parameters of {type(model).__name__} are needed, and {problem}.")
        self.size = sum(parameter.numel() for parameter in self.parameters.values())
        self.device = next(iter(self.parameters.values())).device
        self._names = {id(parameter): name for name, parameter in self.parameters.items()}
        self._owned = {module: owned for module in model.modules() if (owned := self._owned_by(module))}
        self._has_logits_to_keep = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._use_batches: bool | None = None  # None: not known yet

    def __call__(self, batch: list[Sequence]) -> list[torch.Tensor]:
        """Compute the gradient of each row.

        Args:
            batch: Token sequences.

        Returns:
            One tensor per parameter, float32 of shape (rows, elements of the parameter).
        """
        if self._use_batches is None and len(batch) > 1:
            self._use_batches = self._batches_agree(batch)
        try:
            return self.batched(batch) if self._use_batches else self.single(batch)
        except _CannotBatchError as error:
            self._use_batches = self._warn_slow(str(error))
        return self.single(batch)

    @property
    def max_batch_size(self) -> int:
        """Maximum number of rows per batch that fits into device memory."""
        is_cuda = self.device.type == "cuda"
        memory = torch.cuda.get_device_properties(self.device).total_memory // 8 if is_cuda else _CPU_BYTES
        return max(int(memory) // (4 * self.size), 1)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make exactly these parameters require gradients, and restore the model's settings on exit."""
        before = {parameter: parameter.requires_grad for parameter in self.model.parameters()}
        try:
            for parameter in before:
                if parameter.is_floating_point():
                    parameter.requires_grad_(id(parameter) in self._names)
            yield
        finally:
            for parameter, required in before.items():
                parameter.requires_grad_(required)

    def single(self, batch: list[Sequence]) -> list[torch.Tensor]:
        """Compute the gradients one row after the other, with plain autograd; see `__call__`."""
        rows = [self._row_gradient(sequence) for sequence in batch]
        return [torch.stack(gradients) for gradients in zip(*rows, strict=True)]

    def batched(self, batch: list[Sequence]) -> list[torch.Tensor]:
        """Compute the gradients of all rows in one backward pass; see `__call__`."""
        calls, gradients = list[_Call](), dict[str, torch.Tensor]()
        with self._record(calls):
            losses, shapes = self._losses(batch)
        if losses.requires_grad and calls:
            of_outputs = torch.autograd.grad(losses.sum(), [call.output for call in calls], allow_unused=True)
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                for call, of_output in zip(calls, of_outputs, strict=True):
                    if of_output is None:
                        continue
                    if call.input.shape[:2] not in shapes or of_output.shape[:2] != call.input.shape[:2]:
                        raise _CannotBatchError(f"{type(call.module).__name__} reads several rows as one")
                    for name, gradient in self._call_gradients(call, of_output).items():
                        gradient = gradient.to(self.device).float().reshape(len(batch), -1)
                        gradients[name] = gradients[name] + gradient if name in gradients else gradient
        return [
            gradients[name] if name in gradients else torch.zeros(len(batch), parameter.numel(), device=self.device)
            for name, parameter in self.parameters.items()
        ]

    # -- batches or single rows ---------------------------------------------------------------------------------------
    def _batches_agree(self, batch: list[Sequence]) -> bool:
        """Return whether the batched gradients of the longest and the shortest row agree with plain autograd."""
        ordered = np.argsort([-len(sequence.ids) for sequence in batch], kind="stable")
        pair = [batch[ordered[0]], batch[ordered[-1]]]
        try:
            fast = self.batched(pair)
        except _CannotBatchError as error:
            return self._warn_slow(str(error))
        expected = self.single(pair)
        total = torch.stack([gradient.norm(dim=1) for gradient in expected]).norm(dim=0)
        tolerance = 0.1 if self._is_low_precision() else 1e-3
        for name, left, right in zip(self.parameters, fast, expected, strict=True):
            allowed = tolerance * right.norm(dim=1).maximum(tolerance * total)
            if not bool(((left - right).norm(dim=1) <= allowed).logical_or(~total.isfinite()).all()):
                return self._warn_slow(f"the gradient of {name} differs from that of the row alone")
        return True

    def _warn_slow(self, reason: str) -> bool:
        logger.warning(
            "Gradients of %s are computed one row at a time, which is slower: %s.", type(self.model).__name__, reason
        )
        return False

    def _is_low_precision(self) -> bool:
        dtypes = {parameter.dtype for parameter in self.model.parameters() if parameter.is_floating_point()}
        if torch.is_autocast_enabled(self.device.type):
            dtypes.add(torch.get_autocast_dtype(self.device.type))
        return any(torch.finfo(dtype).bits < 32 for dtype in dtypes)

    # -- losses -------------------------------------------------------------------------------------------------------
    def _losses(self, batch: list[Sequence]) -> tuple[torch.Tensor, set[tuple[int, int]]]:
        """Compute the mean loss of each row, and the (rows, positions) that the input of a module may have."""
        ids = np.zeros((len(batch), max(len(sequence.ids) for sequence in batch)), dtype=np.int64)
        for row, sequence in enumerate(batch):
            ids[row, : len(sequence.ids)] = sequence.ids
        counts = [len(sequence.scored) for sequence in batch]
        rows = torch.from_numpy(np.repeat(np.arange(len(batch)), counts))
        before = np.concatenate([sequence.scored for sequence in batch]) - 1
        positions = np.unique(before) if self._has_logits_to_keep else np.arange(ids.shape[1])
        kwargs = {"logits_to_keep": torch.from_numpy(positions).to(self._input)} if self._has_logits_to_keep else {}
        # No attention mask: padding is on the right, which a causal model does not see.
        logits = self.model(input_ids=torch.from_numpy(ids).to(self._input), use_cache=False, **kwargs).logits
        rows = rows.to(logits.device)
        columns = torch.from_numpy(np.searchsorted(positions, before)).to(logits.device)
        targets = torch.from_numpy(np.concatenate([row.ids[row.scored] for row in batch])).to(logits.device)
        losses = torch.nn.functional.cross_entropy(logits[rows, columns].float(), targets, reduction="none")
        mean = torch.zeros(len(batch), device=losses.device).index_add(0, rows, losses)
        shapes = {(len(batch), ids.shape[1]), (len(batch), len(positions))}
        return mean / torch.tensor(counts, device=losses.device), shapes

    @property
    def _input(self) -> torch.device:
        model: Any = self.model
        device: torch.device = model.get_input_embeddings().weight.device
        return device

    def _row_gradient(self, sequence: Sequence) -> list[torch.Tensor]:
        loss = self._losses([sequence])[0][0]
        parameters = list(self.parameters.values())
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [
            (torch.zeros_like(parameter) if gradient is None else gradient).to(self.device).float().flatten()
            for parameter, gradient in zip(parameters, gradients, strict=True)
        ]

    # -- modules ------------------------------------------------------------------------------------------------------
    def _owned_by(self, module: torch.nn.Module) -> dict[str, str]:
        """Return the names, in the module and in the model, of the parameters that a module owns directly."""
        own = module.named_parameters(recurse=False)
        return {name: self._names[id(parameter)] for name, parameter in own if id(parameter) in self._names}

    @contextmanager
    def _record(self, calls: list[_Call]) -> Iterator[None]:
        def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            tensors = [*args, *kwargs.values(), output]
            if len(tensors) != 2 or not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
                raise _CannotBatchError(f"{type(module).__name__} does not map one tensor to one tensor")
            if output.requires_grad:
                calls.append(_Call(module, args[0].detach() if args else tensors[0].detach(), output))

        handles = [module.register_forward_hook(hook, with_kwargs=True) for module in self._owned]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _call_gradients(self, call: _Call, of_output: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the gradients of the module's own parameters from one call, each (rows, *shape)."""
        module, owned = call.module, self._owned[call.module]
        if isinstance(module, torch.nn.Linear) and type(module).forward is torch.nn.Linear.forward:
            gradients = {}
            if "weight" in owned:
                outputs, inputs = of_output.float().flatten(1, -2), call.input.float().flatten(1, -2)
                gradients[owned["weight"]] = torch.bmm(outputs.transpose(1, 2), inputs)
            if "bias" in owned:
                gradients[owned["bias"]] = of_output.float().flatten(1, -2).sum(dim=1)
            return gradients
        if isinstance(module, torch.nn.Embedding) and type(module).forward is torch.nn.Embedding.forward:
            return {owned["weight"]: _embedding_gradient(module, call.input, of_output)}
        return self._vmapped_gradients(call, of_output)

    def _vmapped_gradients(self, call: _Call, of_output: torch.Tensor) -> dict[str, torch.Tensor]:
        """Differentiate any other module once more, row by row."""
        owned = self._owned[call.module]
        own = call.module.named_parameters(recurse=False)
        values = {name: parameter.detach() for name, parameter in own if name in owned}

        def of_row(row: torch.Tensor, gradient: torch.Tensor) -> dict[str, torch.Tensor]:
            def run(values: dict[str, torch.Tensor]) -> torch.Tensor:
                output: torch.Tensor = torch.func.functional_call(call.module, values, (row[None],))
                return output

            gradients: dict[str, torch.Tensor] = torch.func.vjp(run, values)[1](gradient[None])[0]
            return gradients

        try:
            gradients = torch.func.vmap(of_row)(call.input, of_output)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError) as error:  # vmap does not support the module
            if "memory" in str(error):
                raise
            line = str(error).strip().split("\n")[0]
            raise _CannotBatchError(
                f"{type(call.module).__name__} cannot be differentiated row by row ({line})"
            ) from error
        return {owned[name]: gradient for name, gradient in gradients.items()}


def _embedding_gradient(module: torch.nn.Embedding, ids: torch.Tensor, of_output: torch.Tensor) -> torch.Tensor:
    if module.scale_grad_by_freq or module.max_norm is not None:
        raise _CannotBatchError("the embedding scales its gradients or vectors by all rows of the batch")
    rows, size = len(ids), module.num_embeddings
    index = ids + size * torch.arange(rows, device=ids.device).reshape(-1, *[1] * (ids.ndim - 1))
    values = of_output.float()
    if module.padding_idx is not None:
        values = values.masked_fill((ids == module.padding_idx)[..., None], 0.0)
    gradient = torch.zeros(rows * size, values.shape[-1], device=values.device)
    return gradient.index_add_(0, index.flatten(), values.flatten(0, -2)).reshape(rows, size, -1)
