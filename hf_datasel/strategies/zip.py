"""Greedy selection of texts with a low joint compression ratio: the strategy of ZIP.

The compression ratio of a set of texts is its size in bytes divided by its size compressed with zlib. A low ratio
means little repetition within and between texts. Sources: Yin et al. 2024, "Entropy Law" (arXiv:2407.06645), and Eq. 9
of Xia et al. 2024, "Rethinking Data Selection at Scale" (arXiv:2410.09335).

The selection depends on the form of the texts and on the level and the build of zlib: record all three (`zlib_build`).
"""

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, SupportsIndex, TypedDict

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import Interrupted, SelectionError
from hf_datasel.strategies._checks import Floats, Ints, check_budget
from hf_datasel.strategies._topk import topk_smallest

Frame = tuple[bytes, bytes, bytes]

_LIST: Frame = (b"[", b", ", b"]")
_ROWS_PER_BLOCK = 4096
_MAX_THREADS = 8
_PROBE = repr(list(range(5000))).encode()


class ZlibBuild(TypedDict):
    """Identification of a zlib build.

    Attributes:
        version: Version of zlib at run time.
        probe: Compressed length of a fixed text, which differs between builds that compress differently.
    """

    version: str
    probe: int


def zip_greedy(
    texts: Sequence[bytes],
    budget: SupportsIndex,
    k1: int = 10_000,
    k2: int = 200,
    k3: int = 100,
    frame: Frame = _LIST,
    compat: bool = False,
    level: int = 9,
    progress: Callable[[int], object] | None = None,
    threads: int | None = None,
) -> Ints:
    """Select rows with a low joint compression ratio, `k3` rows per step.

    Each step has three stages:

    1. Take the `k1` rows with the lowest stored ratio: the ratio of the row alone or, if stage 2 has evaluated the row
       before, its last ratio there. Ratios increase with the number of selected rows, so rows that stage 2 has not
       evaluated yet mostly come first.
    2. For each of them, compute and store the ratio of (all selected rows, then the row), and keep the `k2` lowest.
    3. From these, build a new set, starting empty, by adding the row with the lowest ratio of (set, then the row). The
       first `k3` rows of the set are selected, in this order; the others can be selected in later steps.

    The selected rows are compressed once, and the state of the compressor is copied for each row to evaluate. The
    lengths equal those of compressing everything again, and the cost per row does not depend on the number of selected
    rows.

    Args:
        texts: n texts as bytes. They are read by position, a few thousand at a time: all of them at the start, and a
            row again whenever it is evaluated.
        budget: Number of rows to select, at most n.
        k1: Number of rows after stage 1; all remaining rows if they are fewer.
        k2: Number of rows after stage 2, at most k1.
        k3: Number of rows selected per step, at most k2. The last step selects the missing rows.
        frame: Bytes before the texts of a set, between two texts, and after them. With the default, a set of texts
            `str(row).encode()` equals Python's `str` of the list of rows, which is the published form.
        compat: Whether to select the same rows as the published code: ratios in float32, equal ratios in the order of
            `torch.topk` on a CPU under Linux, and the k2 - k3 rows that stage 3 does not select are excluded from
            later steps.
        level: Compression level of zlib, 1 to 9.
        progress: Called after each selected row with the number of rows selected so far.
        threads: Number of threads for compression, which does not change the selection. By default one per core, up
            to 8.

    Returns:
        int64 positions in order of selection, shape (budget,). Without `compat`, equal ratios are in the order of
        their positions.

    Raises:
        SelectionError: The budget is more than n; a setting is out of range; a text is not bytes; or, with `compat`,
            a step would start with fewer than k1 rows, where the published code stops with an error or selects rows a
            second time.
        Interrupted: On Ctrl-C, with the positions selected so far.

    >>> texts = [b"many green pears, many red pears", b"few green pears, many red plums", b"Sphinx of black quartz!"]
    >>> zip_greedy(texts, budget=3, k1=3, k2=3, k3=3)
    array([2, 1, 0])
    """
    if not 1 <= k3 <= k2 <= k1:
        raise SelectionError(f"zip_greedy needs 1 <= k3 <= k2 <= k1, but has k1={k1!r}, k2={k2!r}, k3={k3!r}.")
    budget = check_budget("zip_greedy", budget, available=len(texts), total=len(texts), without="a text")
    if compat:
        _check_published_steps(len(texts), budget, k1, k2, k3)
    selected: list[int] = []
    try:
        with _Trials(texts, frame, level, threads) as trials:
            for position in islice(_positions_in_order(trials, len(texts), (k1, k2, k3), compat), budget):
                selected.append(position)
                if progress is not None:
                    progress(len(selected))
    except KeyboardInterrupt:
        raise Interrupted(np.array(selected, dtype=np.int64)) from None
    return np.array(selected, dtype=np.int64)


def compression_ratio(texts: Iterable[bytes], frame: Frame = _LIST, level: int = 9) -> float:
    """Compute the compression ratio of a set of texts: its size in bytes divided by its size compressed with zlib.

    Args:
        texts: Texts as bytes.
        frame: As in `zip_greedy`.
        level: As in `zip_greedy`.

    Raises:
        SelectionError: A setting is out of range.

    >>> compression_ratio([b"pears"] * 99) > compression_ratio([b"pears", b"plums"])
    True
    """
    _check_form(frame, level)
    content = frame[0] + frame[1].join(texts) + frame[2]
    return len(content) / len(zlib.compress(content, level))


def ratios_with(
    texts: Sequence[bytes],
    selected: npt.ArrayLike,
    positions: npt.ArrayLike,
    frame: Frame = _LIST,
    level: int = 9,
    threads: int | None = None,
) -> npt.NDArray[np.float64]:
    """Compute the compression ratio of (all selected rows, then the row) for some rows, as in stage 2 of ZIP.

    Args:
        texts: n texts as bytes.
        selected: Positions of the selected rows, in order; empty for the ratio of each row alone.
        positions: Positions of the rows to evaluate, shape (m,).
        frame: As in `zip_greedy`.
        level: As in `zip_greedy`.
        threads: As in `zip_greedy`.

    Returns:
        float64 ratios, shape (m,).

    Raises:
        SelectionError: A setting or a position is out of range, or a text is not bytes.

    >>> texts = [b"green pears and red plums", b"green pears or red plums", b"Sphinx of black quartz!"]
    >>> ratios_with(texts, selected=[0], positions=[1, 2]).round(1)
    array([1.2, 0.9])
    """
    selected_rows, candidates = (np.atleast_1d(np.asarray(part, dtype=np.int64)) for part in (selected, positions))
    all_positions = np.concatenate([selected_rows, candidates])
    invalid = all_positions[(all_positions < 0) | (all_positions >= len(texts))]
    if len(invalid):
        raise SelectionError(f"ratios_with: position {invalid[0]} is none of the {len(texts):,} texts.")
    with _Trials(texts, frame, level, threads) as trials:
        text_set = trials.empty_set()
        for position in selected_rows.tolist():
            text_set.add(trials.text(position))
        return trials.ratios(text_set, candidates)


def zlib_build() -> ZlibBuild:
    """Return the version of zlib and the length of a compressed probe text, to be recorded with a selection.

    Builds with the same version can compress differently. `probe` tells them apart; it is 11164 for the classic zlib.
    """
    return {"version": zlib.ZLIB_RUNTIME_VERSION, "probe": len(zlib.compress(_PROBE, 9))}


class _Compressed:
    """A set of texts, compressed as they are added."""

    def __init__(self, frame: Frame, level: int):
        self._before, self._between, self._after = frame
        self._compressor = zlib.compressobj(level)
        self._read = self._written = 0

    def add(self, text: bytes) -> None:
        piece = self._before + text
        self._written += len(self._compressor.compress(piece))
        self._read += len(piece)
        self._before = self._between

    def ratio_with(self, text: bytes) -> float:
        """Return the ratio of the set followed by this text, without adding it."""
        piece = self._before + text + self._after
        trial = self._compressor.copy()
        trial_bytes = len(trial.compress(piece)) + len(trial.flush())
        return (self._read + len(piece)) / (self._written + trial_bytes)


class _Trials:
    """Evaluation of ratios in several threads; zlib releases the interpreter lock while it compresses."""

    def __init__(self, texts: Sequence[bytes], frame: Frame, level: int, threads: int | None):
        _check_form(frame, level)
        if threads is not None and threads < 1:
            raise SelectionError(f"threads={threads!r} must be 1 or more, or None for one per core.")
        self._texts, self._frame, self._level = texts, frame, level
        self._threads = threads or min(os.cpu_count() or 1, _MAX_THREADS)
        self._pool = ThreadPoolExecutor(self._threads)

    def __enter__(self) -> "_Trials":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def empty_set(self) -> _Compressed:
        return _Compressed(self._frame, self._level)

    def text(self, position: int) -> bytes:
        text = self._texts[position]
        if not isinstance(text, bytes):
            raise SelectionError(
                f"ZIP compresses bytes, but the text at position {position:,} is of type {type(text).__name__}."
                " Encode it with .encode()."
            )
        return text

    def ratios(self, text_set: _Compressed, positions: Ints) -> npt.NDArray[np.float64]:
        """Return the ratio of the set followed by each of these rows."""
        ratios = np.empty(len(positions))
        for start in range(0, len(positions), _ROWS_PER_BLOCK):
            texts = [self.text(position) for position in positions[start : start + _ROWS_PER_BLOCK].tolist()]
            ratios[start : start + len(texts)] = self.ratios_of(text_set, texts)
        return ratios

    def ratios_of(self, text_set: _Compressed, texts: list[bytes]) -> npt.NDArray[np.float64]:
        """Return the ratio of the set followed by each of these texts."""
        ratios = np.empty(len(texts))
        shares = [texts[thread :: self._threads] for thread in range(self._threads)]
        results = self._pool.map(lambda share: [text_set.ratio_with(text) for text in share], shares)
        for thread, values in enumerate(results):
            ratios[thread :: self._threads] = values
        return ratios


def _positions_in_order(trials: _Trials, n: int, sizes: tuple[int, int, int], compat: bool) -> Iterator[int]:
    """Yield positions in the order of selection, until no rows remain."""
    k1, k2, k3 = sizes
    smallest = topk_smallest if compat else _smallest
    selected_set, num_remaining = trials.empty_set(), n
    known_ratios: Floats = trials.ratios(selected_set, np.arange(n))
    if compat:
        known_ratios = known_ratios.astype(np.float32)
    while num_remaining:
        candidates = smallest(known_ratios, min(k1, num_remaining))
        known_ratios[candidates] = trials.ratios(selected_set, candidates)
        shortlist = candidates[smallest(known_ratios[candidates], min(k2, num_remaining))]
        step = []
        for position in _best_together(trials, shortlist, min(k3, num_remaining), smallest, known_ratios.dtype):
            yield position
            step.append(position)
        for position in step:
            selected_set.add(trials.text(position))
        removed = shortlist if compat else step
        known_ratios[removed] = np.inf
        num_remaining -= len(removed)


def _best_together(
    trials: _Trials, shortlist: Ints, size: int, smallest: Callable[[Floats, int], Ints], dtype: np.dtype[Any]
) -> Iterator[int]:
    """Yield the rows of a new set, adding the row with the lowest ratio each time (stage 3)."""
    text_set, texts = trials.empty_set(), [trials.text(position) for position in shortlist.tolist()]
    remaining = list(range(len(texts)))
    ratios: Floats = np.full(len(texts), np.inf, dtype=dtype)
    for _ in range(size):
        ratios[remaining] = trials.ratios_of(text_set, [texts[index] for index in remaining])
        best = int(smallest(ratios, 1)[0])
        yield int(shortlist[best])
        text_set.add(texts[best])
        remaining.remove(best)
        ratios[best] = np.inf


def _smallest(values: Floats, k: int) -> Ints:
    """Return the ascending positions of the k smallest values; of equal values the lower positions."""
    threshold = np.partition(values, k - 1)[k - 1]
    below, equal = np.flatnonzero(values < threshold), np.flatnonzero(values == threshold)
    return np.sort(np.concatenate([below, equal[: k - len(below)]]))


def _check_form(frame: Frame, level: int) -> None:
    if len(frame) != 3 or not all(isinstance(part, bytes) for part in frame):
        raise SelectionError(
            f"frame={frame!r} must be three bytes objects: before the texts, between two of them, and after them."
        )
    if level not in range(1, 10):
        raise SelectionError(f"level={level!r} must be from 1 to 9.")


def _check_published_steps(n: int, budget: int, k1: int, k2: int, k3: int) -> None:
    steps = max(-(-budget // k3), 1)
    num_remaining = n - (steps - 1) * k2
    if budget and num_remaining < k1:
        raise SelectionError(
            f"zip_greedy: with compat=True each step needs k1={k1:,} rows and removes k2={k2:,}, but of {n:,} rows "
            f"{max(num_remaining, 0):,} remain for step {steps:,}, where the published code stops with an error or "
            "selects rows a second time. Lower k1 or the budget, or use compat=False."
        )
