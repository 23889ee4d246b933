"""Order of the processes of a launcher where one of them does what the others read from the cache of `datasets`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hf_datasel._lazy import torch

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["main_process_first"]


@contextmanager
def main_process_first(dataset: Dataset) -> Iterator[None]:
    """Let the main process map a dataset first, then the main process of each node, then all others.

    As in `SFTTrainer`, the others read the result from the cache of `datasets`. Nothing is cached of a dataset that is
    in memory: it is mapped by all processes at once. All processes must enter the context. Contexts of this kind and
    those of `SFTTrainer` may be nested, since every process meets the same number of barriers in each.

    Args:
        dataset: The dataset that is mapped in the context.
    """
    from datasets import is_caching_enabled

    is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not is_distributed or not dataset.cache_files or not is_caching_enabled():
        yield
        return
    rank = torch.distributed.get_rank()
    goes_first = [rank == 0, int(os.environ.get("LOCAL_RANK", rank)) == 0]
    _wait(goes_first.count(False))
    try:
        yield
    except Exception:  # the others are to raise it too, and not to wait
        _wait(goes_first.count(True))
        raise
    _wait(goes_first.count(True))


def _wait(barriers: int) -> None:
    from accelerate import PartialState

    for _ in range(barriers):
        if PartialState().num_processes > 1:
            PartialState().wait_for_everyone()
        else:  # it does not know the processes of torchrun on a CPU
            torch.distributed.barrier()
