"""Assertions and context managers shared by the checks of scores and selectors."""

from __future__ import annotations

import math
import pickle
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

__all__ = [
    "equal_values",
    "no_network",
    "require",
    "require_round_trip",
    "unchanged_modes",
    "unchanged_random_state",
    "with_model",
    "with_unusable_row",
]


def require(condition: object, message: str) -> None:
    """Raise `AssertionError` unless the condition holds, also with `python -O`.

    Args:
        condition: What has to be true.
        message: Message of the error.
    """
    if not condition:
        raise AssertionError(message)


def require_round_trip(subject: Any, restored: object, by: str) -> None:
    """Check that an object equals a restored one and its own pickle, and that its pickle is the same each time.

    Args:
        subject: Score or selector.
        restored: The object that was restored from its settings.
        by: How it was restored, for the message.
    """
    require(restored == subject, f"{by} gives {restored} for {subject}")
    pickled = pickle.dumps(subject)
    require(pickle.loads(pickled) == subject, f"the pickle of {subject} holds {pickle.loads(pickled)}")
    require(pickle.dumps(pickle.loads(pickled)) == pickled, f"{subject} pickles to other bytes each time")


def equal_values(left: Any, right: Any, tolerance: float = 1e-5) -> bool:
    """Return whether two values are equal, numbers up to a relative or absolute tolerance."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(equal_values(a, b, tolerance) for a, b in zip(left, right, strict=True))
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=tolerance, abs_tol=tolerance)
    return bool(left == right)


def with_model(subject: Any, model: str | None) -> Any:
    """Return the object with this model, if it has a setting `model` that is None."""
    has_setting = any(field.name == "model" for field in fields(subject))
    if model is None or not has_setting or subject.model is not None:
        return subject
    return replace(subject, model=model)


def with_unusable_row(rows: Dataset) -> Dataset:
    """Return the rows with one more in the middle that is null in every column."""
    from datasets import Dataset, concatenate_datasets

    half = len(rows) // 2
    null_row = Dataset.from_dict({name: [None] for name in rows.column_names}, features=rows.features)
    return concatenate_datasets([rows.select(range(half)), null_row, rows.select(range(half, len(rows)))])


@contextmanager
def unchanged_random_state() -> Iterator[None]:
    """Check that the body does not change the global random state of torch, numpy and Python."""
    before = _random_state()
    yield
    changed = [name for name, state in _random_state().items() if state != before[name]]
    require(not changed, f"the global random state of {', '.join(changed)} is changed")


def _random_state() -> dict[str, Any]:
    import torch

    torch_states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]
    return {
        "Python": random.getstate(),
        "numpy": pickle.dumps(np.random.get_state()),
        "torch": [state.tolist() for state in torch_states],
    }


@contextmanager
def unchanged_modes(model: torch.nn.Module) -> Iterator[None]:
    """Check that the body does not change which modules of a model are in training mode and which in eval mode."""
    original = {module: module.training for module in model.modules()}
    for index, module in enumerate(original):
        module.training = index % 2 == 0
    mixed = {module: module.training for module in original}
    try:
        yield
        require(all(module.training == mixed[module] for module in mixed), "the mode of the model is changed")
    finally:
        for module, training in original.items():
            module.training = training


@contextmanager
def no_network() -> Iterator[None]:
    """Check that the body connects to no other machine and looks up no host, also if it catches the error."""
    requested: list[str] = []
    connect, connect_ex, lookup = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def refuse(host: object) -> None:
        if str(host) not in ("localhost", "127.0.0.1", "::1"):
            requested.append(str(host))
            raise ConnectionError(f"no network here, and {host!r} was requested")

    def guarded(original: Any) -> Any:
        def call(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                refuse(address[0])
            return original(self, address)

        return call

    def guarded_lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        refuse(host)
        return lookup(host, *args, **kwargs)

    with (
        mock.patch.object(socket.socket, "connect", guarded(connect)),
        mock.patch.object(socket.socket, "connect_ex", guarded(connect_ex)),
        mock.patch.object(socket, "getaddrinfo", guarded_lookup),
    ):
        try:
            yield
        finally:
            require(not requested, f"the network is used: {', '.join(requested)}")
