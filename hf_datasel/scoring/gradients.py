"""The gradient of each row's loss, for a whole batch of rows from one backward pass, and Adam's step with it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hf_datasel.errors import ModelError
from hf_datasel.tokens.sequences import Sequence

__all__ = ["Moments", "RowGradients"]

logger = logging.getLogger(__name__)

_BYTES = 512 << 20
"""Of the gradients of a batch on a CPU; on an accelerator an eighth of its memory."""


@dataclass(frozen=True)
class Moments:
    """Adam's state of one parameter.

    Attributes:
        first: running mean of the gradient, float32 and flat.
        second: running mean of its square.
        betas: how much of each is kept in a step.
    """

    first: torch.Tensor
    second: torch.Tensor
    betas: tuple[float, float]

    def to(self, device: torch.device) -> Moments:
        """The same, on a device."""
        return Moments(self.first.to(device), self.second.to(device), self.betas)

    def feature(self, gradients: torch.Tensor) -> torch.Tensor:
        """The direction of the step that Adam would take next with each of these gradients, (rows, numbers).

        As in the code of LESS: the epsilon of 1e-8 stands inside the root, and there is no bias correction.
        """
        beta1, beta2 = self.betas
        first = gradients * (1 - beta1) + beta1 * self.first
        second = gradients.square() * (1 - beta2) + beta2 * self.second
        return first / (second + 1e-8).sqrt()


class _CannotBatchError(Exception):
    """Rows cannot be told apart in what a module read."""


@dataclass(frozen=True)
class _Call:
    """What one call of a module read and wrote."""

    module: torch.nn.Module
    read: torch.Tensor
    written: torch.Tensor


class RowGradients:
    """Gradients of the mean loss over the scored tokens of each row, with respect to some of a model's parameters.

    A batch takes one forward and one backward pass: what each module that holds a parameter reads, and the gradient
    of what it writes, give the parameter's gradient row by row. The gradient is never summed over the batch, nor left
    in `.grad`. With the first batch of several rows this is compared with plain autograd on two of them; where it
    cannot be had, or differs (experts that see tokens of several rows at once, weights that a module uses without
    being called), rows go through the model one at a time, which is logged.

    Args:
        model: causal LM in evaluation mode.
        parameters: by name, in the order in which gradients are given. While these are computed they alone require
            gradients: see `active`.

    Raises:
        ModelError: there are no parameters, or some that have no gradient, such as quantised ones.
    """

    def __init__(self, model: torch.nn.Module, parameters: Mapping[str, torch.nn.Parameter]):
        self.model = model
        self.parameters = dict(parameters)
        whole = [name for name, each in self.parameters.items() if not each.is_floating_point()]
        if whole or not self.parameters:
            raise ModelError(
                f"Gradients are wanted of the parameters of {type(model).__name__}, and "
                f"{f'{whole[0]} and others are quantised' if whole else 'there are none'}."
            )
        self.size = sum(each.numel() for each in self.parameters.values())
        self.device = next(iter(self.parameters.values())).device
        self._wanted = {id(each): name for name, each in self.parameters.items()}
        self._owned = {module: owned for module in model.modules() if (owned := self._of(module))}
        accepted = inspect.signature(model.forward).parameters
        self._keeps = "logits_to_keep" in accepted
        self._together: bool | None = None
        """Whether rows go through the model together, once that is known."""

    def __call__(self, batch: list[Sequence]) -> list[torch.Tensor]:
        """The gradient of each row: for each parameter float32 of shape (rows, its numbers)."""
        if self._together is None and len(batch) > 1:
            self._together = self._agrees(batch)
        try:
            return self.batched(batch) if self._together else self.single(batch)
        except _CannotBatchError as error:
            self._together = self._slow(str(error))
        return self.single(batch)

    @property
    def at_once(self) -> int:
        """Rows that a batch should have at most, for the sake of memory."""
        cuda = self.device.type == "cuda"
        room = torch.cuda.get_device_properties(self.device).total_memory // 8 if cuda else _BYTES
        return max(int(room) // (4 * self.size), 1)

    @contextmanager
    def active(self) -> Iterator[None]:
        """These parameters require gradients, and no other one does; put back at the end."""
        before = {each: each.requires_grad for each in self.model.parameters()}
        try:
            for each in before:
                if each.is_floating_point():
                    each.requires_grad_(id(each) in self._wanted)
            yield
        finally:
            for each, required in before.items():
                each.requires_grad_(required)

    def single(self, batch: list[Sequence]) -> list[torch.Tensor]:
        """One row after the other, by plain autograd."""
        rows = [self._of_row(each) for each in batch]
        return [torch.stack(each) for each in zip(*rows, strict=True)]

    def batched(self, batch: list[Sequence]) -> list[torch.Tensor]:
        """All rows in one backward pass."""
        calls, found = list[_Call](), dict[str, torch.Tensor]()
        with self._recorded(calls):
            losses, shapes = self._losses(batch)
        if losses.requires_grad and calls:
            written = torch.autograd.grad(losses.sum(), [each.written for each in calls], allow_unused=True)
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                for call, gradient in zip(calls, written, strict=True):
                    if gradient is None:
                        continue
                    if call.read.shape[:2] not in shapes or gradient.shape[:2] != call.read.shape[:2]:
                        raise _CannotBatchError(f"{type(call.module).__name__} reads several rows as one")
                    for name, each in self._of_call(call, gradient).items():
                        each = each.to(self.device).float().reshape(len(batch), -1)
                        found[name] = found[name] + each if name in found else each
        return [
            found[name] if name in found else torch.zeros(len(batch), each.numel(), device=self.device)
            for name, each in self.parameters.items()
        ]

    # -- choosing -----------------------------------------------------------------------------------------------------
    def _agrees(self, batch: list[Sequence]) -> bool:
        """Whether one pass for both agrees with autograd on the longest and the shortest row of a batch."""
        ordered = np.argsort([-len(each.ids) for each in batch], kind="stable")
        few = [batch[ordered[0]], batch[ordered[-1]]]
        try:
            fast = self.batched(few)
        except _CannotBatchError as error:
            return self._slow(str(error))
        own = self.single(few)
        total = torch.stack([each.norm(dim=1) for each in own]).norm(dim=0)
        near = 0.1 if self._is_narrow() else 1e-3
        for name, left, right in zip(self.parameters, fast, own, strict=True):
            allowed = near * right.norm(dim=1).maximum(near * total)
            if not bool(((left - right).norm(dim=1) <= allowed).logical_or(~total.isfinite()).all()):
                return self._slow(f"the gradient of {name} differs from that of the row alone")
        return True

    def _slow(self, why: str) -> bool:
        logger.warning(
            "Gradients of %s are computed one row at a time, which is slower: %s.", type(self.model).__name__, why
        )
        return False

    def _is_narrow(self) -> bool:
        dtypes = {each.dtype for each in self.model.parameters() if each.is_floating_point()}
        if torch.is_autocast_enabled(self.device.type):
            dtypes.add(torch.get_autocast_dtype(self.device.type))
        return any(torch.finfo(each).bits < 32 for each in dtypes)

    # -- losses -------------------------------------------------------------------------------------------------------
    def _losses(self, batch: list[Sequence]) -> tuple[torch.Tensor, set[tuple[int, int]]]:
        """The mean loss of each row, and the first two dimensions that its modules may read: rows and positions."""
        ids = np.zeros((len(batch), max(len(each.ids) for each in batch)), dtype=np.int64)
        for row, each in enumerate(batch):
            ids[row, : len(each.ids)] = each.ids
        counts = [len(each.scored) for each in batch]
        rows = torch.from_numpy(np.repeat(np.arange(len(batch)), counts))
        before = np.concatenate([each.scored for each in batch]) - 1
        kept = np.unique(before) if self._keeps else np.arange(ids.shape[1])
        more = {"logits_to_keep": torch.from_numpy(kept).to(self._input)} if self._keeps else {}
        # no mask: padding stands on the right, where a causal model does not look
        logits = self.model(input_ids=torch.from_numpy(ids).to(self._input), use_cache=False, **more).logits
        rows, at = rows.to(logits.device), torch.from_numpy(np.searchsorted(kept, before)).to(logits.device)
        targets = torch.from_numpy(np.concatenate([each.ids[each.scored] for each in batch])).to(logits.device)
        losses = torch.nn.functional.cross_entropy(logits[rows, at].float(), targets, reduction="none")
        mean = torch.zeros(len(batch), device=losses.device).index_add(0, rows, losses)
        return mean / torch.tensor(counts, device=losses.device), {(len(batch), ids.shape[1]), (len(batch), len(kept))}

    @property
    def _input(self) -> torch.device:
        model: Any = self.model
        device: torch.device = model.get_input_embeddings().weight.device
        return device

    def _of_row(self, row: Sequence) -> list[torch.Tensor]:
        loss = self._losses([row])[0][0]
        parameters = list(self.parameters.values())
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [
            (torch.zeros_like(each) if gradient is None else gradient).to(self.device).float().flatten()
            for each, gradient in zip(parameters, found, strict=True)
        ]

    # -- modules ------------------------------------------------------------------------------------------------------
    def _of(self, module: torch.nn.Module) -> dict[str, str]:
        """The names that a module, and the model, have for the wanted parameters that it holds itself."""
        own = module.named_parameters(recurse=False)
        return {name: self._wanted[id(each)] for name, each in own if id(each) in self._wanted}

    @contextmanager
    def _recorded(self, calls: list[_Call]) -> Iterator[None]:
        def record(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], written: Any) -> None:
            tensors = [*args, *kwargs.values(), written]
            if len(tensors) != 2 or not all(isinstance(each, torch.Tensor) for each in tensors):
                raise _CannotBatchError(f"{type(module).__name__} does not take one tensor and give one")
            if written.requires_grad:
                calls.append(_Call(module, args[0].detach() if args else tensors[0].detach(), written))

        handles = [module.register_forward_hook(record, with_kwargs=True) for module in self._owned]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _of_call(self, call: _Call, gradient: torch.Tensor) -> dict[str, torch.Tensor]:
        """What a call adds to the gradients of the module's own parameters, each (rows, *shape)."""
        module, owned = call.module, self._owned[call.module]
        if isinstance(module, torch.nn.Linear) and type(module).forward is torch.nn.Linear.forward:
            found = {}
            if "weight" in owned:
                wide = gradient.float().flatten(1, -2), call.read.float().flatten(1, -2)
                found[owned["weight"]] = torch.bmm(wide[0].transpose(1, 2), wide[1])
            if "bias" in owned:
                found[owned["bias"]] = gradient.float().flatten(1, -2).sum(dim=1)
            return found
        if isinstance(module, torch.nn.Embedding) and type(module).forward is torch.nn.Embedding.forward:
            return {owned["weight"]: _of_embedding(module, call.read, gradient)}
        return self._of_any(call, gradient)

    def _of_any(self, call: _Call, gradient: torch.Tensor) -> dict[str, torch.Tensor]:
        """Any other module: the module alone is differentiated once more, row by row."""
        owned = self._owned[call.module]
        values = {name: each.detach() for name, each in call.module.named_parameters(recurse=False) if name in owned}

        def of_row(read: torch.Tensor, gradient: torch.Tensor) -> dict[str, torch.Tensor]:
            def run(values: dict[str, torch.Tensor]) -> torch.Tensor:
                written: torch.Tensor = torch.func.functional_call(call.module, values, (read[None],))
                return written

            pulled: dict[str, torch.Tensor] = torch.func.vjp(run, values)[1](gradient[None])[0]
            return pulled

        try:
            found = torch.func.vmap(of_row)(call.read, gradient)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError) as error:  # what vmap says of a module that it cannot take
            if "memory" in str(error):
                raise
            line = str(error).strip().split("\n")[0]
            raise _CannotBatchError(
                f"{type(call.module).__name__} cannot be differentiated row by row ({line})"
            ) from error
        return {owned[name]: each for name, each in found.items()}


def _of_embedding(module: torch.nn.Embedding, ids: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    if module.scale_grad_by_freq or module.max_norm is not None:
        raise _CannotBatchError("the embedding scales its gradients or vectors by all rows of the batch")
    rows, size = len(ids), module.num_embeddings
    at = ids + size * torch.arange(rows, device=ids.device).reshape(-1, *[1] * (ids.ndim - 1))
    wide = gradient.float()
    if module.padding_idx is not None:
        wide = wide.masked_fill((ids == module.padding_idx)[..., None], 0.0)
    found = torch.zeros(rows * size, wide.shape[-1], device=wide.device)
    return found.index_add_(0, at.flatten(), wide.flatten(0, -2)).reshape(rows, size, -1)
