"""The best rows that are not near copies of better ones.

Source: Liu et al. 2024, "What Makes Good Data for Alignment? A Comprehensive Study of Automatic Data Selection in
Instruction Tuning" (Deita, arXiv:2312.15685), the Repr Filter. The published code gives other rows at other
batch sizes; here it is what it gives one row at a time, at the cost of one matrix product a block.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import Interrupted, SelectionError, ShortfallError
from hf_datasel.strategies._checks import Floats, Ints, blocks, check_budget, check_vectors
from hf_datasel.strategies.top import top

_BLOCK = 512  # rows that are compared with those kept in one product
_NUMBERS = 1 << 20  # of a product that are in memory at once


def skip_near_copies(
    vectors: npt.ArrayLike,
    scores: npt.ArrayLike,
    budget: SupportsIndex | None,
    threshold: float = 0.9,
    progress: Callable[[int], object] | None = None,
) -> Ints:
    """Go through rows from the best to the worst and keep those that are not near copies of one already kept.

    Near means a cosine similarity strictly above the threshold. The cosine with a vector of zeros is 0. Products are
    in float32 and each pair that is too near to the threshold for them is decided in float64, always by the same
    expression, so that neither the processor nor what a row is compared together with changes what is kept.

    Args:
        vectors: One vector per row, shape (n, d), of any length other than 0. Rows that are not finite are never kept.
        scores: One number per row, shape (n,). Rows whose score is NaN, None or infinite are never kept.
        budget: How many rows to keep; None keeps all that are not near copies.
        threshold: From -1 to 1.
        progress: Called with the number of rows kept so far, after each block of rows.

    Returns:
        int64 positions, shape (budget,), by descending score; equal scores in the order of their positions.

    Raises:
        ShortfallError: The budget is more than the rows that can be kept, which is known only when all have been
            compared; with the positions kept, as budget=None returns them.
        SelectionError: The budget is more than the rows with a finite score and vector; there is not one score per
            vector; or the threshold is not from -1 to 1.
        Interrupted: On Ctrl-C, with the positions kept by then.

    >>> skip_near_copies([[1.0, 0.0], [0.0, 1.0], [9.0, 1.0]], scores=[0.7, 0.8, 0.9], budget=2)
    array([2, 1])
    """
    values, usable = check_vectors("skip_near_copies", vectors)
    numbers = np.asarray(scores)
    if numbers.dtype == object:  # a list with None, which is how a null reads
        numbers = numbers.astype(np.float64)
    if numbers.shape != (len(values),):
        raise SelectionError(
            f"skip_near_copies: scores must be one number for each of the {len(values):,} vectors, "
            f"but has shape {numbers.shape}."
        )
    _check_threshold("skip_near_copies", threshold)
    rows = np.flatnonzero(usable & np.isfinite(numbers))
    limit = len(rows)
    if budget is not None:
        limit = check_budget("skip_near_copies", budget, limit, len(values), without="a finite score and vector")
    ranked = rows[top(numbers[rows], len(rows))]
    kept = _keep(values, ranked, limit, threshold, progress)
    if budget is not None and len(kept) < limit:
        raise ShortfallError(
            f"skip_near_copies: budget={limit} is more than the {len(kept):,} rows that can be kept: the other "
            f"{len(ranked) - len(kept):,} of {len(ranked):,} have a cosine above {threshold:g} with a better one. "
            "Lower it, raise the threshold, or pass budget=None for all that can be kept.",
            kept,
        )
    return kept


def near_copy_of(
    vectors: npt.ArrayLike, kept: npt.ArrayLike, position: SupportsIndex, threshold: float = 0.9
) -> tuple[int, float] | None:
    """Say which kept row a row is a near copy of.

    Args:
        vectors: As given to `skip_near_copies`.
        kept: The positions that it returned, in their order.
        position: The row to explain.
        threshold: As given to `skip_near_copies`.

    Returns:
        The first kept row whose cosine with this one is above the threshold, which is the row that it was skipped
        for, and that cosine; None for a row that is kept itself or is near to none of those kept.

    Raises:
        SelectionError: Positions outside the vectors, or a threshold that is not from -1 to 1.

    >>> near_copy_of([[1.0, 0.0], [0.0, 1.0], [8.0, 6.0]], kept=[2, 1], position=0, threshold=0.7)
    (2, 0.8)
    """
    values, usable = check_vectors("near_copy_of", vectors)
    _check_threshold("near_copy_of", threshold)
    others, row = np.asarray(kept, dtype=np.int64), int(position)
    if min(row, others.min(initial=0)) < 0 or max(row, others.max(initial=0)) >= len(values):
        raise SelectionError(f"near_copy_of: positions must be from 0 to {len(values) - 1:,}.")
    if row in others or not usable[row]:
        return None
    for block in blocks(len(others), values.shape[1]):
        cosines = _cosines(values[others[block]], values[row][None])
        near = np.flatnonzero(cosines > threshold)
        if len(near):
            return int(others[block][near[0]]), float(cosines[near[0]])
    return None


def with_near_copies(
    vectors: npt.ArrayLike,
    numbers: npt.ArrayLike,
    parts: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]],
    threshold: float = 0.9,
) -> npt.NDArray[np.bool_]:
    """Say which of some rows have a near copy among many others, by the decision that `skip_near_copies` makes.

    Args:
        vectors: Of the rows that are asked about, shape (m, d). Those that are not finite have no near copy.
        numbers: Of these rows, shape (m,), all different: what tells a row from the others.
        parts: The many rows a part at a time, as numbers of shape (p,) and vectors of shape (p, d). A row is not held
            against the one with its own number. Those that are not finite are near to nothing.
        threshold: As in `skip_near_copies`.

    Returns:
        bool, shape (m,): whether the cosine with some other row is above the threshold.

    Raises:
        SelectionError: There is not one number per vector, vectors of different lengths, or a threshold that is not
            from -1 to 1.

    >>> rows = [[1.0, 0.0], [0.0, 1.0], [8.0, 6.0]]
    >>> with_near_copies(rows[:2], [0, 1], [([0, 1], rows[:2]), ([2], rows[2:])], threshold=0.7)
    array([ True, False])
    """
    who = "with_near_copies"
    _check_threshold(who, threshold)
    numbers, asked, usable = _numbered(who, numbers, vectors)
    found = np.zeros(len(asked), dtype=bool)
    if threshold == 1:  # no cosine is above 1
        return found
    units = np.empty((len(asked), asked.shape[1]), dtype=np.float32)
    for block in blocks(len(asked), asked.shape[1]):
        units[block] = _units(np.where(usable[block, None], asked[block], 0))
    for their_numbers, their_vectors in parts:
        theirs, others, finite = _numbered(who, their_numbers, their_vectors)
        if len(others) and others.shape[1] != asked.shape[1]:
            raise SelectionError(f"{who}: vectors of {asked.shape[1]:,} and of {others.shape[1]:,} numbers.")
        at = np.flatnonzero(finite)
        right = _Part(others, at, _units(others[at]))
        open_ = np.flatnonzero(usable & ~found)
        for block in blocks(len(open_) if len(at) else 0, len(at), _NUMBERS):
            rows = open_[block]
            near = _near(_Part(asked, rows, units[rows]), right, threshold)
            _, mine, own = np.intersect1d(numbers[rows], theirs[at], assume_unique=True, return_indices=True)
            near[mine, own] = False
            found[rows] = near.any(axis=1)
    return found


def _numbered(who: str, numbers: npt.ArrayLike, vectors: npt.ArrayLike) -> tuple[Ints, Floats, npt.NDArray[np.bool_]]:
    values, usable = check_vectors(who, vectors)
    found = np.asarray(numbers, dtype=np.int64)
    if found.shape != (len(values),):
        raise SelectionError(
            f"{who}: numbers must be one for each of the {len(values):,} vectors, but has shape {found.shape}."
        )
    return found, values, usable


def _check_threshold(who: str, threshold: float) -> None:
    if not -1 <= threshold <= 1:
        raise SelectionError(f"{who}: threshold={threshold!r} must be a cosine similarity, from -1 to 1.")


class _Part(NamedTuple):
    """Some rows of an array of vectors, and their directions: float32 of shape (rows, d)."""

    values: Floats
    rows: Ints
    units: npt.NDArray[np.float32]


def _keep(
    values: Floats, ranked: Ints, limit: int, threshold: float, progress: Callable[[int], object] | None
) -> Ints:
    """Keep rows in the order of `ranked` until there are `limit` of them, or no more rows."""
    kept = np.empty(0, dtype=np.int64)
    if not limit or threshold == 1:  # no cosine is above 1
        return ranked[:limit]
    try:
        for rows in _survivors(values, ranked, threshold):
            kept = np.concatenate([kept, rows[: limit - len(kept)]])
            if progress is not None:
                progress(len(kept))
            if len(kept) == limit:
                break
    except KeyboardInterrupt:
        raise Interrupted(kept) from None
    return kept


def _survivors(values: Floats, ranked: Ints, threshold: float) -> Iterator[Ints]:
    """Yield, a block of rows at a time, those that are not near copies of any yielded before them."""
    kept = np.empty(0, dtype=np.int64)
    directions = np.empty((_BLOCK, values.shape[1]), dtype=np.float32)  # of those kept, with room for more
    for block in blocks(len(ranked), 1, _BLOCK):
        rows = ranked[block]
        units = _units(values[rows])
        for part in blocks(len(kept), len(rows), _NUMBERS):
            before = _Part(values, kept[part], directions[: len(kept)][part])
            far = ~_near(_Part(values, rows, units), before, threshold).any(axis=1)
            rows, units = rows[far], units[far]
        these = _Part(values, rows, units)
        near = np.triu(_near(these, these, threshold), 1)
        alive = np.ones(len(rows), dtype=bool)
        for row in np.flatnonzero(near.any(axis=1)):
            if alive[row]:
                alive &= ~near[row]
        rows, units = rows[alive], units[alive]
        if len(kept) + len(rows) > len(directions):
            directions = np.concatenate([directions, np.empty_like(directions)])
        directions[len(kept) : len(kept) + len(rows)] = units
        kept = np.concatenate([kept, rows])
        yield rows


def _near(left: _Part, right: _Part, threshold: float) -> npt.NDArray[np.bool_]:
    """Say for each row on the left and each on the right whether they are near copies."""
    width = left.units.shape[1]
    above = left.units @ right.units.T
    above -= np.float32(threshold)
    near = above > 0
    # The sum of d products is off by at most d / 2 times the float32 epsilon, in whatever order it is added.
    margin = (width + 8) * np.finfo(np.float32).eps
    # flatnonzero() is many times as fast as nonzero() of two dimensions.
    rows, columns = np.unravel_index(np.flatnonzero(np.abs(above, out=above) <= margin), above.shape)
    for block in blocks(len(rows), width, _NUMBERS):
        first, second = rows[block], columns[block]
        cosines = _cosines(left.values[left.rows[first]], right.values[right.rows[second]])
        near[first, second] = cosines > threshold
    return near


def _scaled(vectors: Floats) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return vectors with a largest number between 0.5 and 1, and their squared lengths, which can then be computed.

    By powers of 2, which changes no digit.
    """
    largest = np.abs(vectors).max(axis=1, initial=0, keepdims=True)
    scaled = np.ldexp(vectors.astype(np.float64), -np.frexp(largest)[1])
    return scaled, (scaled * scaled).sum(axis=1)


def _units(vectors: Floats) -> npt.NDArray[np.float32]:
    """Return vectors of length 1 in the same directions; zeros stay zeros."""
    scaled, squares = _scaled(vectors)
    units: npt.NDArray[np.float32] = (scaled / np.sqrt(np.where(squares > 0, squares, 1))[:, None]).astype(np.float32)
    return units


def _cosines(left: Floats, right: Floats) -> npt.NDArray[np.float64]:
    """Return the cosine of each row on the left with the same row on the right (or with the one there is): (n,)."""
    # sum() adds up each row in the same order whatever the number of rows, which a matrix product does not.
    (left, left_squares), (right, right_squares) = _scaled(left), _scaled(right)
    lengths = np.sqrt(left_squares * right_squares)
    cosines = (left * right).sum(axis=1) / np.where(lengths > 0, lengths, 1)
    inside: npt.NDArray[np.float64] = np.clip(cosines, -1, 1)
    return inside
