"""The processes of a distributed run, and the collective operations between them."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np

from hf_datasel._lazy import torch
from hf_datasel.errors import DataselError

__all__ = ["Processes"]

_MESSAGE_SIZE = 1 << 24
"""Number of values sent in one message."""
_TIMEOUT = timedelta(days=7)
"""Time that a process waits for the others: one may have hours more work than another."""

Value = TypeVar("Value")
_groups: dict[int, Any] = {}


@dataclass(frozen=True)
class Processes:
    """The processes of a run: one, or as many as `accelerate launch` or `torchrun` started.

    The methods have the names and the meaning of their counterparts in `accelerate`. All processes must call them in
    the same order. They communicate through a Gloo process group of their own on the CPU, so that results need no
    memory on the device.

    Args:
        process_index: Index of this process, from 0.
        num_processes: Number of processes.
    """

    process_index: int = 0
    num_processes: int = 1

    @classmethod
    def current(cls) -> Processes:
        """Return the processes of this run, and initialize the process group if a launcher is used."""
        if not torch.distributed.is_available():
            return cls()
        if not torch.distributed.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            # reads the environment of the launcher and sets the device of this process
            PartialState(timeout=_TIMEOUT)
        if not torch.distributed.is_initialized():
            return cls()
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    @property
    def is_main_process(self) -> bool:
        """Whether this is the main process, which reads, writes and prints."""
        return self.process_index == 0

    def all_reduce(self, values: np.ndarray) -> np.ndarray:
        """Sum an array over all processes, in place.

        The sum is exact where all processes but one have zeros.

        Args:
            values: Array of the same shape and data type in every process.

        Returns:
            The same array, with the sums.
        """
        for block in self._blocks(values):
            tensor = torch.from_numpy(block.copy())
            torch.distributed.all_reduce(tensor, group=_group())
            block[:] = tensor.numpy()
        return values

    def broadcast(self, values: np.ndarray) -> np.ndarray:
        """Copy an array of the main process to all processes, in place.

        Args:
            values: Array of the same shape and data type in every process.

        Returns:
            The same array, with the values of the main process.
        """
        for block in self._blocks(values):
            tensor = torch.from_numpy(block.copy())
            torch.distributed.broadcast(tensor, 0, group=_group())
            block[:] = tensor.numpy()
        return values

    def run_on_main_process(self, function: Callable[[], Value]) -> Value:
        """Call a function on the main process, and return its result on all processes.

        Args:
            function: Function without arguments; its result must be picklable.

        Raises:
            DataselError: The function raised one. It is raised on every process.
        """
        if self.num_processes == 1:
            return function()
        message: list[Any] = [None, None]
        if self.is_main_process:
            try:
                message = [function(), None]
            except DataselError as error:
                message = [None, error]
        torch.distributed.broadcast_object_list(message, src=0, group=_group())
        if message[1] is not None:
            raise message[1]
        result: Value = message[0]
        return result

    def gather_object(self, value: Value) -> list[Value]:
        """Gather a picklable object from every process.

        Args:
            value: Object of this process.

        Returns:
            The objects of all processes in the order of their indices, on every process.
        """
        if self.num_processes == 1:
            return [value]
        values: list[Any] = [None] * self.num_processes
        torch.distributed.all_gather_object(values, value, group=_group())
        return values

    def wait_for_everyone(self) -> None:
        """Wait until every process has reached this call."""
        if self.num_processes > 1:
            torch.distributed.barrier(group=_group())

    def _blocks(self, values: np.ndarray) -> Iterator[np.ndarray]:
        flat = values.reshape(-1)
        for start in range(0, len(flat) if self.num_processes > 1 else 0, _MESSAGE_SIZE):
            yield flat[start : start + _MESSAGE_SIZE]


def _group() -> Any:
    """Return the Gloo group, created once per default group: every process comes here for the same first message."""
    key = id(torch.distributed.group.WORLD)
    if key not in _groups:
        _groups[key] = torch.distributed.new_group(backend="gloo", timeout=_TIMEOUT)
        atexit.register(_close_group, key)
    return _groups[key]


def _close_group(key: int) -> None:
    """Close a group before the interpreter frees what its threads use, which may abort the process."""
    group = _groups.pop(key)
    if torch.distributed.is_initialized() and id(torch.distributed.group.WORLD) == key:
        torch.distributed.destroy_process_group(group)
