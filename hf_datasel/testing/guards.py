"""What the checks of scores and of selectors share."""

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
    "alike",
    "modes_kept",
    "offline",
    "random_state_kept",
    "require",
    "require_round_trip",
    "with_model",
    "with_unusable_row",
]


def require(condition: object, message: str) -> None:
    """As `assert`, also where Python runs with -O and in test suites that do not rewrite this module."""
    if not condition:
        raise AssertionError(message)


def require_round_trip(subject: Any, restored: object, by: str) -> None:
    """Equal to what came back, and to its own pickle, which is the same bytes each time."""
    require(restored == subject, f"{by} gives {restored} for {subject}")
    pickled = pickle.dumps(subject)
    require(pickle.loads(pickled) == subject, f"the pickle of {subject} holds {pickle.loads(pickled)}")
    require(pickle.dumps(pickle.loads(pickled)) == pickled, f"{subject} pickles to other bytes each time")


def alike(left: Any, right: Any, tolerance: float = 1e-5) -> bool:
    """Equal values, numbers to a relative or absolute tolerance."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(alike(a, b, tolerance) for a, b in zip(left, right, strict=True))
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=tolerance, abs_tol=tolerance)
    return bool(left == right)


def with_model(subject: Any, model: str | None) -> Any:
    """The object with this model, where it takes one and names none."""
    takes_one = any(each.name == "model" for each in fields(subject))
    if model is None or not takes_one or subject.model is not None:
        return subject
    return replace(subject, model=model)


def with_unusable_row(rows: Dataset) -> Dataset:
    """The rows with one in the middle that has nothing in any column."""
    from datasets import Dataset, concatenate_datasets

    half = len(rows) // 2
    nothing = Dataset.from_dict({name: [None] for name in rows.column_names}, features=rows.features)
    return concatenate_datasets([rows.select(range(half)), nothing, rows.select(range(half, len(rows)))])


@contextmanager
def random_state_kept() -> Iterator[None]:
    """The random state of torch, numpy and Python is at the end what it was."""
    before = _random_state()
    yield
    changed = [name for name, state in _random_state().items() if state != before[name]]
    require(not changed, f"the global random state of {', '.join(changed)} is changed")


def _random_state() -> dict[str, Any]:
    import torch

    torches = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]
    return {
        "Python": random.getstate(),
        "numpy": pickle.dumps(np.random.get_state()),
        "torch": [state.tolist() for state in torches],
    }


@contextmanager
def modes_kept(model: torch.nn.Module) -> Iterator[None]:
    """Modules in training and in evaluation mode, mixed, are at the end as they were."""
    was = {module: module.training for module in model.modules()}
    for at, module in enumerate(was):
        module.training = at % 2 == 0
    mixed = {module: module.training for module in was}
    try:
        yield
        require(all(module.training == mixed[module] for module in mixed), "the mode of the model is changed")
    finally:
        for module, training in was.items():
            module.training = training


@contextmanager
def offline() -> Iterator[None]:
    """Nothing but this machine is reached, or looked up, even where the failure is swallowed."""
    reached: list[str] = []
    connect, connect_ex, lookup = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def refuse(host: object) -> None:
        if str(host) not in ("localhost", "127.0.0.1", "::1"):
            reached.append(str(host))
            raise ConnectionError(f"no network here, and {host!r} was asked for")

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
            require(not reached, f"the network is used: {', '.join(reached)}")
