"""Greedy choice of the texts that compress worst together: the strategy of ZIP.

The compression ratio of a set of texts is its bytes over its bytes compressed by zlib: the lower, the less its texts
repeat themselves and each other. Sources: Yin et al. 2024, "Entropy Law" (arXiv:2407.06645), and Eq. 9 of Xia et al.
2024, "Rethinking Data Selection at Scale" (arXiv:2410.09335).

The form of the texts, the level and the build of zlib decide which rows are chosen: record all three (`zlib_build`).
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
from hf_datasel.strategies._topk import smallest_as_torch

Frame = tuple[bytes, bytes, bytes]

_LIST: Frame = (b"[", b", ", b"]")
_ROWS_AT_ONCE = 4096
_MOST_THREADS = 8
_PROBE = repr(list(range(5000))).encode()


class ZlibBuild(TypedDict):
    """What tells whether two machines compress alike."""

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
    """Choose rows that compress badly together, `k3` at a step, each step in three stages.

    1. The `k1` rows with the lowest ratio known so far: that of the row alone or, once the row has been tried in
       stage 2, the one found when it was last tried. The more is chosen, the higher are the ratios found, so that rows
       not yet tried mostly come first.
    2. Each of them is tried with everything chosen before: the ratio of (all chosen rows, then the row) becomes its
       known ratio. The `k2` lowest stay.
    3. From these a set is built that begins empty: one at a time, the row with which its ratio is lowest. Its first
       `k3` rows are chosen, in this order; the others can be tried again in the next step.

    What rows are tried with is compressed once, and the state of the compressor copied for each of them: the lengths
    are those of compressing everything anew, but a try costs the same however much has been chosen.

    Args:
        texts: n texts as bytes, read by position, a few thousand at a time. Every one is read at the beginning, and
            each again whenever it is tried.
        budget: Rows to choose, at most n.
        k1: Rows that stage 1 leaves; where fewer are left, all of them.
        k2: Rows that stage 2 leaves, at most k1.
        k3: Rows chosen in a step, at most k2. The last step chooses what is missing.
        frame: What stands before the texts of a set, between two of them, and after them. With the default a set of
            texts `str(row).encode()` is Python's `str` of the list of rows, which is the published form.
        compat: Choose what the published code chooses: ratios in float32, equal ones in the order that `torch.topk`
            has on a CPU under Linux, and the k2 - k3 rows that stage 3 leaves are never tried again.
        level: Of zlib, 1 to 9.
        progress: Called after each row with the number of rows chosen so far.
        threads: Threads that compress; they do not change what is chosen. When not given, one for each core, up to 8.

    Returns:
        int64 positions in order of choice, shape (budget,). Without `compat`, equal ratios in the order of their
        positions.

    Raises:
        SelectionError: The budget is more than n; a setting is outside its range; a text is not bytes; or, with
            `compat`, a step would begin with fewer than k1 rows, where the published code stops with an error or
            begins to choose rows a second time.
        Interrupted: Ctrl-C; it has the positions chosen by then.

    >>> texts = [b"many green pears, many red pears", b"few green pears, many red plums", b"Sphinx of black quartz!"]
    >>> zip_greedy(texts, budget=3, k1=3, k2=3, k3=3)
    array([2, 1, 0])
    """
    if not 1 <= k3 <= k2 <= k1:
        raise SelectionError(f"zip_greedy needs 1 <= k3 <= k2 <= k1, but has k1={k1!r}, k2={k2!r}, k3={k3!r}.")
    budget = check_budget("zip_greedy", budget, available=len(texts), total=len(texts), without="a text")
    if compat:
        _check_published_steps(len(texts), budget, k1, k2, k3)
    chosen: list[int] = []
    try:
        with _Trials(texts, frame, level, threads) as trials:
            for position in islice(_choices(trials, len(texts), (k1, k2, k3), compat), budget):
                chosen.append(position)
                if progress is not None:
                    progress(len(chosen))
    except KeyboardInterrupt:
        raise Interrupted(np.array(chosen, dtype=np.int64)) from None
    return np.array(chosen, dtype=np.int64)


def compression_ratio(texts: Iterable[bytes], frame: Frame = _LIST, level: int = 9) -> float:
    """Bytes of a set of texts, framed as in `zip_greedy`, over its bytes compressed by zlib.

    >>> compression_ratio([b"pears"] * 99) > compression_ratio([b"pears", b"plums"])
    True
    """
    _check_form(frame, level)
    content = frame[0] + frame[1].join(texts) + frame[2]
    return len(content) / len(zlib.compress(content, level))


def ratios_with(
    texts: Sequence[bytes],
    chosen: npt.ArrayLike,
    positions: npt.ArrayLike,
    frame: Frame = _LIST,
    level: int = 9,
    threads: int | None = None,
) -> npt.NDArray[np.float64]:
    """Return the ratio of (all chosen rows, then the row) for each of some rows: what stage 2 of ZIP compares.

    Args:
        texts: n texts as bytes.
        chosen: Positions of the rows that stand before, in order; none for the ratio of each row alone.
        positions: Rows to try, shape (m,).
        frame: As in `zip_greedy`.
        level: As in `zip_greedy`.
        threads: As in `zip_greedy`.

    Returns:
        float64 ratios, shape (m,).

    Raises:
        SelectionError: A setting is outside its range, a position is none of the n, or a text is not bytes.

    >>> texts = [b"green pears and red plums", b"green pears or red plums", b"Sphinx of black quartz!"]
    >>> ratios_with(texts, chosen=[0], positions=[1, 2]).round(1)
    array([1.2, 0.9])
    """
    before, rows = (np.atleast_1d(np.asarray(part, dtype=np.int64)) for part in (chosen, positions))
    every = np.concatenate([before, rows])
    wrong = every[(every < 0) | (every >= len(texts))]
    if len(wrong):
        raise SelectionError(f"ratios_with: position {wrong[0]} is none of the {len(texts):,} texts.")
    with _Trials(texts, frame, level, threads) as trials:
        together = trials.empty_set()
        for position in before.tolist():
            together.add(trials.text(position))
        return trials.ratios(together, rows)


def zlib_build() -> ZlibBuild:
    """Describe the zlib in use, for the record of a choice: another one may compress to other lengths.

    `version` alone does not tell, since builds that compress differently can have the same; so `probe` is the length
    that one known text is compressed to, 11164 by the classic zlib.
    """
    return {"version": zlib.ZLIB_RUNTIME_VERSION, "probe": len(zlib.compress(_PROBE, 9))}


class _Compressed:
    """A set of texts that grows at its end, compressed as far as it stands."""

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
        """Return the ratio of the set with this text at its end, which is not added."""
        piece = self._before + text + self._after
        trial = self._compressor.copy()
        written = len(trial.compress(piece)) + len(trial.flush())
        return (self._read + len(piece)) / (self._written + written)


class _Trials:
    """The texts, tried at the end of sets by several threads: zlib needs no interpreter lock while it compresses."""

    def __init__(self, texts: Sequence[bytes], frame: Frame, level: int, threads: int | None):
        _check_form(frame, level)
        if threads is not None and threads < 1:
            raise SelectionError(f"threads={threads!r} must be 1 or more, or None for one a core.")
        self._texts, self._frame, self._level = texts, frame, level
        self._threads = threads or min(os.cpu_count() or 1, _MOST_THREADS)
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

    def ratios(self, together: _Compressed, positions: Ints) -> npt.NDArray[np.float64]:
        """Return the ratio of the set with each of these rows at its end."""
        found = np.empty(len(positions))
        for start in range(0, len(positions), _ROWS_AT_ONCE):
            texts = [self.text(position) for position in positions[start : start + _ROWS_AT_ONCE].tolist()]
            found[start : start + len(texts)] = self.ratios_of(together, texts)
        return found

    def ratios_of(self, together: _Compressed, texts: list[bytes]) -> npt.NDArray[np.float64]:
        found = np.empty(len(texts))
        shares = [texts[thread :: self._threads] for thread in range(self._threads)]
        tried = self._pool.map(lambda share: [together.ratio_with(text) for text in share], shares)
        for thread, ratios in enumerate(tried):
            found[thread :: self._threads] = ratios
        return found


def _choices(trials: _Trials, n: int, sizes: tuple[int, int, int], compat: bool) -> Iterator[int]:
    """Yield positions in the order of choice, until no row is left."""
    k1, k2, k3 = sizes
    lowest = smallest_as_torch if compat else _smallest
    everything, left = trials.empty_set(), n
    known: Floats = trials.ratios(everything, np.arange(n))
    if compat:
        known = known.astype(np.float32)
    while left:
        candidates = lowest(known, min(k1, left))
        known[candidates] = trials.ratios(everything, candidates)
        shortlist = candidates[lowest(known[candidates], min(k2, left))]
        step = []
        for position in _best_together(trials, shortlist, min(k3, left), lowest, known.dtype):
            yield position
            step.append(position)
        for position in step:
            everything.add(trials.text(position))
        gone = shortlist if compat else step
        known[gone] = np.inf
        left -= len(gone)


def _best_together(
    trials: _Trials, shortlist: Ints, size: int, lowest: Callable[[Floats, int], Ints], dtype: np.dtype[Any]
) -> Iterator[int]:
    """Yield the rows of a set that grows, from nothing, by the row with which its ratio is lowest: stage 3."""
    together, texts = trials.empty_set(), [trials.text(position) for position in shortlist.tolist()]
    left = list(range(len(texts)))
    ratios: Floats = np.full(len(texts), np.inf, dtype=dtype)
    for _ in range(size):
        ratios[left] = trials.ratios_of(together, [texts[place] for place in left])
        best = int(lowest(ratios, 1)[0])
        yield int(shortlist[best])
        together.add(texts[best])
        left.remove(best)
        ratios[best] = np.inf


def _smallest(values: Floats, k: int) -> Ints:
    """Return the positions of the k smallest values, the first among equals, in ascending order of position."""
    limit = np.partition(values, k - 1)[k - 1]
    below, equal = np.flatnonzero(values < limit), np.flatnonzero(values == limit)
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
    left = n - (steps - 1) * k2
    if budget and left < k1:
        raise SelectionError(
            f"zip_greedy: with compat=True each step needs k1={k1:,} rows and takes k2={k2:,} away, but of {n:,} rows"
            f" {max(left, 0):,} are left for step {steps:,}: there the published code stops with an error or chooses"
            " rows a second time. Lower k1 or the budget, or leave compat out."
        )
