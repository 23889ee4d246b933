"""Blocks of rows computed in parallel, with the same results for any number of threads."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

__all__ = ["block_rows", "for_each_block"]

_NUMBERS = 1 << 20  # in one block: fits into the cache of a core
_MAX_ROWS = 2048  # so that small matrices are divided over threads as well


def block_rows(width: int) -> int:
    """Return the number of rows of a block.

    Args:
        width: Numbers per row, such as the number of vectors that a row is compared with.
    """
    return min(max(_NUMBERS // max(width, 1), 1), _MAX_ROWS)


def for_each_block(compute: Callable[[slice], object], rows: int, step: int) -> None:
    """Call a function with every block of rows, in as many threads as BLAS may use.

    BLAS itself runs in one thread meanwhile, since it rounds sums differently for other numbers of threads. Blocks
    depend on the arguments alone, so results do not depend on the number of threads, which `OMP_NUM_THREADS` and
    `threadpoolctl.threadpool_limits` set as usual.

    Args:
        compute: Function of a slice of rows that writes its result into an array. It should spend its time in numpy.
        rows: Number of rows.
        step: Number of rows per block.
    """
    blocks = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
    blas = importlib.import_module("threadpoolctl").ThreadpoolController().select(user_api="blas")
    threads = min(max((library["num_threads"] for library in blas.info()), default=1), len(blocks))
    with blas.limit(limits=1):
        if threads < 2:
            for block in blocks:
                compute(block)
            return
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(compute, blocks):  # raises what a block raised
                pass
