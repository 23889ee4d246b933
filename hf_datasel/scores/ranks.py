"""The processes of a run, and what they tell each other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = ["Ranks"]

_AT_ONCE = 1 << 24
"""Numbers sent in one message."""


@dataclass(frozen=True)
class Ranks:
    """The processes that score together: one, or as many as `accelerate launch` or `torchrun` started.

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
        if self.size > 1:
            for part, tensor in self._parts(values):
                torch.distributed.all_reduce(tensor)
                part[:] = tensor.cpu().numpy()
        return values

    def of_first(self, values: np.ndarray) -> np.ndarray:
        """What the first process holds, in place."""
        if self.size > 1:
            for part, tensor in self._parts(values):
                torch.distributed.broadcast(tensor, 0)
                part[:] = tensor.cpu().numpy()
        return values

    def object_of_first(self, value: Any) -> Any:
        """Any picklable object that the first process holds."""
        if self.size == 1:
            return value
        held = [value]
        torch.distributed.broadcast_object_list(held, src=0)
        return held[0]

    def wait(self) -> None:
        """Go on once every process has come this far."""
        if self.size > 1:
            torch.distributed.barrier()

    def _parts(self, values: np.ndarray) -> list[tuple[np.ndarray, torch.Tensor]]:
        device = "cpu" if "gloo" in str(torch.distributed.get_backend()) else torch.accelerator.current_accelerator()
        flat = values.reshape(-1)
        parts = [flat[at : at + _AT_ONCE] for at in range(0, len(flat), _AT_ONCE)]
        return [(part, torch.from_numpy(part.copy()).to(device)) for part in parts]
