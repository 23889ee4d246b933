"""Scores of large datasets in windows: some rows are scored while the next ones are tokenized."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from hf_datasel.scoring.base import Columns, Score
from hf_datasel.scoring.distributed import Processes
from hf_datasel.scoring.engine import Engine
from hf_datasel.scoring.progress import map_progress_disabled, progress_part

__all__ = ["MIN_ROWS", "WINDOW_ROWS", "compute_group"]

MIN_ROWS = 100_000
"""Number of rows from which on a dataset is scored in windows. Below it, tokenizing takes a minute or two."""
WINDOW_ROWS = 65_536
"""Maximum number of rows of a window. With so many rows, batches by length have next to no padding."""


def compute_group(engine: Engine, scores: Sequence[Score]) -> Iterator[Columns]:
    """Compute the scores that run one model.

    The rows of a large dataset are computed in windows: contiguous rows, whose number depends on that of all rows
    alone. While a window is computed, the next one is tokenized in the background, and no more than two windows of
    tokens are in memory. Under a launcher they are tokenized one after the other, because the processes wait for each
    other while they tokenize. A batch has rows of one window, so that results differ in rounding from those of one
    window; they are equal for each run, for any number of processes, and for a run that continues from the store.

    Rows are computed in one window for scores that read no tokens, that write vectors, whose column may be too large
    for memory, and that share a forward pass with these; and if all rows decide how each one is tokenized.

    Args:
        engine: Engine of the rows.
        scores: Scores of one group of `Engine.group_by_model`.

    Yields:
        The columns of each score, as `Engine.compute` returns them; `engine.messages` has the messages of the score.
    """
    windows = _windows(engine, scores)
    if len(windows) == 1:
        engine.announce(scores)
        yield from map(engine.compute, scores)
        return
    parts: list[list[Columns]] = [[] for _ in scores]
    messages: list[dict[str, str]] = [{} for _ in scores]
    num_rows, start = len(engine.pool), time.monotonic()
    with closing(_tokenized(engine, scores, windows)) as tokenized:
        for window in tokenized:
            label = f"rows {window[0] + 1:,}-{window[-1] + 1:,} of {num_rows:,}"
            with progress_part(label, window[0] / num_rows, start):
                for part, message, score in zip(parts, messages, scores, strict=True):
                    part.append(engine.compute(score, window))
                    message |= {**engine.messages, **message}  # of the first row
            engine.release(window)
    for index, part in enumerate(parts):
        engine.messages = messages[index]
        table = pa.concat_tables([pa.table(columns) for columns in part])
        yield {name: table.column(name).combine_chunks() for name in table.column_names}


def _windows(engine: Engine, scores: Sequence[Score]) -> list[np.ndarray]:
    """Return the row numbers of each window."""
    num_rows = len(engine.pool)
    in_windows = num_rows >= MIN_ROWS and all(
        _has_windows(score) and engine.reads_rows_alone(score) for score in scores
    )
    num_windows = -(-num_rows // WINDOW_ROWS) if in_windows else 1
    return np.array_split(np.arange(num_rows), num_windows)


def _has_windows(score: Score) -> bool:
    return score.needs_tokenizer and not any(pa.types.is_nested(dtype) for dtype in score.columns().values())


def _tokenized(
    engine: Engine, scores: Sequence[Score], windows: Sequence[np.ndarray]
) -> Generator[np.ndarray, Any, None]:
    """Yield each window once it is tokenized, and tokenize the next one in the background meanwhile."""
    in_background = Processes.current().num_processes == 1
    if in_background:
        engine.num_proc = engine.num_proc or _num_proc()
    with ThreadPoolExecutor(1, "tokenize", _end_forks_with_thread) as executor:

        def tokenize(window: np.ndarray) -> Callable[[], Any]:
            announce = partial(engine.announce, scores, window)
            return executor.submit(announce).result if in_background else announce

        tokenize(windows[0])()
        with map_progress_disabled():
            for window, following in pairwise(windows):
                finish = tokenize(following)
                yield window
                finish()
            yield windows[-1]


_thread = threading.local()
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def _end_forks_with_thread() -> None:
    """Let the processes that this thread forks end with it, on Linux.

    They would outlive a process that is killed, wait for work forever, and hold its lock of the score store.
    """
    _thread.forks_end_with = os.getpid()


def _end_with_parent() -> None:
    parent = getattr(_thread, "forks_end_with", None)
    if _libc is None or parent is None:
        return
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # killed since the fork, so that no signal follows
        os.kill(os.getpid(), signal.SIGKILL)
    _thread.forks_end_with = os.getpid()


if _libc is not None:
    os.register_at_fork(after_in_child=_end_with_parent)


def _num_proc() -> int | None:
    """Return how many processes tokenize by default: one where it can be forked, as in `torch.utils.data`.

    Tokenizing in a thread of this process would hold the interpreter, which the model needs for every operation. A
    daemonic process, such as a worker of datatrove, cannot start others.
    """
    from multiprocess import current_process, get_all_start_methods  # of which datasets starts processes

    default = get_all_start_methods()[0]
    return 1 if default == "fork" and not current_process().daemon else None
