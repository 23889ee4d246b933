"""Blocks of rows over threads: as many threads as BLAS may use, which itself runs in one meanwhile."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from hf_datasel.scoring.blocks import block_rows, for_each_block


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in ThreadpoolController().select(user_api="blas").info()}


@pytest.mark.parametrize("threads", [1, 3])
def test_all_rows_in_as_many_threads_as_blas_may_use(threads):
    rows, names, limits = np.zeros(1000, dtype=int), set(), []

    def compute(block):
        rows[block] += 1
        names.add(threading.current_thread().name)
        limits.append(blas_threads())
        time.sleep(0.01)

    with threadpool_limits(limits=threads):
        for_each_block(compute, 1000, 90)
        assert blas_threads() == {threads}
    assert rows.tolist() == [1] * 1000
    assert len(names) == threads
    assert limits == [{1}] * 12


@pytest.mark.parametrize("threads", [1, 2])
def test_errors_of_a_block_are_raised(threads):
    with threadpool_limits(limits=threads), pytest.raises(ZeroDivisionError, match="division by zero"):
        for_each_block(lambda block: 1 / (block.start - 4), 9, 2)
    for_each_block(lambda block: 1 / 0, 0, 2)  # no rows, no block


def test_blocks_are_bounded():
    assert block_rows(1) == block_rows(512) == 2048
    assert block_rows(10_000) == 104
    assert block_rows(2**40) == 1
