"""The processes of a run, and what they tell each other."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch

from hf_datasel.errors import DataselError

__all__ = ["Ranks"]

_AT_ONCE = 1 << 24
"""Numbers sent in one message."""
_PATIENCE = timedelta(days=7)
"""Before a process that waits for the others gives up: one may have hours of work more than another."""

Made = TypeVar("Made")
_groups: dict[int, Any] = {}


@dataclass(frozen=True)
class Ranks:
    """The processes that score together: one, or as many as `accelerate launch` or `torchrun` started.

    They talk over a group of their own, on the CPU, so that no result has to fit beside a model.

    Attributes:
        index: of this process, from 0.
        size: how many there are.
    """

    index: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """Those of this run. Under a launcher the process group is made where nobody has made it yet."""
        if not torch.distributed.is_available():
            return cls()
        if not torch.distributed.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            PartialState()  # reads the launcher's environment, and takes the device of this process
        if not torch.distributed.is_initialized():
            return cls()
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that reads, writes and prints."""
        return self.index == 0

    def total(self, values: np.ndarray) -> np.ndarray:
        """The sum over all processes, in place. Exact where all but one of them hold zeros."""
        for part in self._parts(values):
            sent = torch.from_numpy(part.copy())
            torch.distributed.all_reduce(sent, group=_group())
            part[:] = sent.numpy()
        return values

    def of_first(self, values: np.ndarray) -> np.ndarray:
        """What the first process holds, in place."""
        for part in self._parts(values):
            sent = torch.from_numpy(part.copy())
            torch.distributed.broadcast(sent, 0, group=_group())
            part[:] = sent.numpy()
        return values

    def made_by_first(self, make: Callable[[], Made]) -> Made:
        """What the first process makes, for all of them; a refusal is raised in all of them."""
        if self.size == 1:
            return make()
        held: list[Any] = [None, None]
        if self.is_first:
            try:
                held = [make(), None]
            except DataselError as error:
                held = [None, error]
        torch.distributed.broadcast_object_list(held, src=0, group=_group())
        if held[1] is not None:
            raise held[1]
        made: Made = held[0]
        return made

    def gathered(self, value: Made) -> list[Made]:
        """What each process holds, in their order, for all of them."""
        if self.size == 1:
            return [value]
        held: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(held, value, group=_group())
        return held

    def wait(self) -> None:
        """Go on once every process has come this far."""
        if self.size > 1:
            torch.distributed.barrier(group=_group())

    def _parts(self, values: np.ndarray) -> Iterator[np.ndarray]:
        flat = values.reshape(-1)
        for at in range(0, len(flat) if self.size > 1 else 0, _AT_ONCE):
            yield flat[at : at + _AT_ONCE]


def _group() -> Any:
    """Made once for each default group: every process comes here for the same first message."""
    key = id(torch.distributed.group.WORLD)
    if key not in _groups:
        _groups[key] = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)
        atexit.register(_leave, key)
    return _groups[key]


def _leave(key: int) -> None:
    """Close a group before the interpreter takes apart what its threads use, which may abort the process."""
    group = _groups.pop(key)
    if torch.distributed.is_initialized() and id(torch.distributed.group.WORLD) == key:
        torch.distributed.destroy_process_group(group)
