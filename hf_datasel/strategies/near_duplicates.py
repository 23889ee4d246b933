"""Selection of the best rows without near-duplicates.

Source: Liu et al. 2024, "What Makes Good Data for Alignment? A Comprehensive Study of Automatic Data Selection in
Instruction Tuning" (Deita, arXiv:2312.15685), the Repr Filter. The result of the published code depends on its batch
size; this module returns the result of batch size 1, with one matrix product per block of rows.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import Interrupted, SelectionError, ShortfallError
from hf_datasel.strategies._checks import Floats, Ints, blocks, check_budget, check_memory, check_vectors
from hf_datasel.strategies.top import top

_ROWS_PER_BLOCK = 512  # rows that are compared with the selected rows in one product
_NUMBERS_PER_BLOCK = 1 << 20  # size of such a product in memory


def skip_near_duplicates(
    vectors: npt.ArrayLike,
    scores: npt.ArrayLike,
    budget: SupportsIndex | None,
    threshold: float = 0.9,
    progress: Callable[[int], object] | None = None,
) -> Ints:
    """Select rows from the highest score to the lowest, skipping near-duplicates of rows already selected.

    Two rows are near-duplicates if their cosine similarity is strictly above the threshold. The cosine with a vector
    of zeros is 0. Products are in float32, and pairs that are too close to the threshold for float32 are compared in
    float64, always by the same expression. The selection therefore depends neither on the processor nor on the block
    size.

    Args:
        vectors: One vector per row, shape (n, d), not necessarily of length 1. Rows that are not finite are never
            selected.
        scores: One number per row, shape (n,). Rows whose score is NaN, None or infinite are never selected.
        budget: Number of rows to select; None selects all that are not near-duplicates.
        threshold: Cosine similarity, from -1 to 1.
        progress: Called after each block of rows with the number of rows selected so far.

    Returns:
        int64 positions, shape (budget,), by descending score; equal scores in the order of their positions.

    Raises:
        ShortfallError: The budget is more than the rows without near-duplicates, which is found only after all rows
            have been compared. The error has the positions that budget=None returns.
        SelectionError: The budget is more than the rows with a finite score and vector; `scores` does not have one
            number per vector; the threshold is not from -1 to 1; or the selected vectors do not fit into memory.
        Interrupted: On Ctrl-C, with the positions selected so far.

    >>> skip_near_duplicates([[1.0, 0.0], [0.0, 1.0], [9.0, 1.0]], scores=[0.7, 0.8, 0.9], budget=2)
    array([2, 1])
    """
    values, finite = check_vectors("skip_near_duplicates", vectors)
    numbers = np.asarray(scores)
    if numbers.dtype == object:  # a list with None, as nulls are read
        numbers = numbers.astype(np.float64)
    if numbers.shape != (len(values),):
        raise SelectionError(
            f"skip_near_duplicates: scores must be one number for each of the {len(values):,} vectors, "
            f"but has shape {numbers.shape}."
        )
    _check_threshold("skip_near_duplicates", threshold)
    rows = np.flatnonzero(finite & np.isfinite(numbers))
    limit = len(rows)
    if budget is not None:
        limit = check_budget("skip_near_duplicates", budget, limit, len(values), without="a finite score and vector")
        check_memory("skip_near_duplicates", limit, values.shape[1], 4)
    ranked = rows[top(numbers[rows], len(rows))]
    selected = _select(values, ranked, limit, threshold, progress)
    if budget is not None and len(selected) < limit:
        raise ShortfallError(
            f"skip_near_duplicates: budget={limit} is more than the {len(selected):,} rows that can be selected: "
            f"the other {len(ranked) - len(selected):,} of {len(ranked):,} have a cosine above {threshold:g} with a "
            "better row. Lower the budget, raise the threshold, or pass budget=None to select all of them.",
            selected,
        )
    return selected


def near_duplicate_of(
    vectors: npt.ArrayLike, selected: npt.ArrayLike, position: SupportsIndex, threshold: float = 0.9
) -> tuple[int, float] | None:
    """Return the selected row that a row is a near-duplicate of.

    Args:
        vectors: As passed to `skip_near_duplicates`.
        selected: The positions that it returned, in order.
        position: Position of the row to explain.
        threshold: As passed to `skip_near_duplicates`.

    Returns:
        The first selected row whose cosine with this row is above the threshold, which is why this row was skipped,
        and that cosine. None for a row that is selected or is not a near-duplicate of any selected row.

    Raises:
        SelectionError: A position is out of range, or the threshold is not from -1 to 1.

    >>> near_duplicate_of([[1.0, 0.0], [0.0, 1.0], [8.0, 6.0]], selected=[2, 1], position=0, threshold=0.7)
    (2, 0.8)
    """
    values, finite = check_vectors("near_duplicate_of", vectors)
    _check_threshold("near_duplicate_of", threshold)
    rows, row = np.asarray(selected, dtype=np.int64), int(position)
    if min(row, rows.min(initial=0)) < 0 or max(row, rows.max(initial=0)) >= len(values):
        raise SelectionError(f"near_duplicate_of: positions must be from 0 to {len(values) - 1:,}.")
    if row in rows or not finite[row]:
        return None
    for block in blocks(len(rows), values.shape[1]):
        cosines = _cosines(values[rows[block]], values[row][None])
        near = np.flatnonzero(cosines > threshold)
        if len(near):
            return int(rows[block][near[0]]), float(cosines[near[0]])
    return None


def has_near_duplicates(
    vectors: npt.ArrayLike,
    numbers: npt.ArrayLike,
    batches: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]],
    threshold: float = 0.9,
) -> npt.NDArray[np.bool_]:
    """Return which rows have a near-duplicate among many other rows, as `skip_near_duplicates` decides it.

    Args:
        vectors: Vectors of the rows to look up, shape (m, d). Those that are not finite have no near-duplicate.
        numbers: Row numbers of these rows, shape (m,), all different.
        batches: The other rows in batches of row numbers, shape (p,), and vectors, shape (p, d). A row is not compared
            with itself, that is with the same row number. Vectors that are not finite are ignored.
        threshold: As in `skip_near_duplicates`.

    Returns:
        bool, shape (m,): whether the cosine with any other row is above the threshold.

    Raises:
        SelectionError: There is not one row number per vector; the vectors have different dimensions; or the
            threshold is not from -1 to 1.

    >>> rows = [[1.0, 0.0], [0.0, 1.0], [8.0, 6.0]]
    >>> has_near_duplicates(rows[:2], [0, 1], [([0, 1], rows[:2]), ([2], rows[2:])], threshold=0.7)
    array([ True, False])
    """
    function = "has_near_duplicates"
    _check_threshold(function, threshold)
    numbers, queried, finite = _numbered(function, numbers, vectors)
    duplicate = np.zeros(len(queried), dtype=bool)
    if threshold == 1:  # no cosine is above 1
        return duplicate
    units = np.empty((len(queried), queried.shape[1]), dtype=np.float32)
    for block in blocks(len(queried), queried.shape[1]):
        units[block] = _units(np.where(finite[block, None], queried[block], 0))
    for batch_numbers, batch_vectors in batches:
        other_numbers, others, other_finite = _numbered(function, batch_numbers, batch_vectors)
        if len(others) and others.shape[1] != queried.shape[1]:
            raise SelectionError(f"{function}: vectors of {queried.shape[1]:,} and of {others.shape[1]:,} numbers.")
        other_rows = np.flatnonzero(other_finite)
        right = _Block(others, other_rows, _units(others[other_rows]))
        undecided = np.flatnonzero(finite & ~duplicate)
        for block in blocks(len(undecided) if len(other_rows) else 0, len(other_rows), _NUMBERS_PER_BLOCK):
            rows = undecided[block]
            near = _near(_Block(queried, rows, units[rows]), right, threshold)
            _, same, other_same = np.intersect1d(
                numbers[rows], other_numbers[other_rows], assume_unique=True, return_indices=True
            )
            near[same, other_same] = False
            duplicate[rows] = near.any(axis=1)
    return duplicate


def _numbered(
    function: str, numbers: npt.ArrayLike, vectors: npt.ArrayLike
) -> tuple[Ints, Floats, npt.NDArray[np.bool_]]:
    """Return row numbers, vectors and a mask of the finite vectors."""
    values, finite = check_vectors(function, vectors)
    row_numbers = np.asarray(numbers, dtype=np.int64)
    if row_numbers.shape != (len(values),):
        raise SelectionError(
            f"{function}: numbers must be one for each of the {len(values):,} vectors, "
            f"but has shape {row_numbers.shape}."
        )
    return row_numbers, values, finite


def _check_threshold(function: str, threshold: float) -> None:
    if not -1 <= threshold <= 1:
        raise SelectionError(f"{function}: threshold={threshold!r} must be a cosine similarity, from -1 to 1.")


class _Block(NamedTuple):
    """Some rows of an array of vectors, and their unit vectors: float32 of shape (rows, d)."""

    values: Floats
    rows: Ints
    units: npt.NDArray[np.float32]


def _select(
    values: Floats, ranked: Ints, limit: int, threshold: float, progress: Callable[[int], object] | None
) -> Ints:
    """Select rows in the order of `ranked`, up to `limit`."""
    selected = np.empty(0, dtype=np.int64)
    if not limit or threshold == 1:  # no cosine is above 1
        return ranked[:limit]
    try:
        for rows in _distinct_rows(values, ranked, threshold):
            selected = np.concatenate([selected, rows[: limit - len(selected)]])
            if progress is not None:
                progress(len(selected))
            if len(selected) == limit:
                break
    except KeyboardInterrupt:
        raise Interrupted(selected) from None
    return selected


def _distinct_rows(values: Floats, ranked: Ints, threshold: float) -> Iterator[Ints]:
    """Yield, for each block of rows, those that are not near-duplicates of any row yielded before."""
    selected = np.empty(0, dtype=np.int64)
    directions = np.empty((_ROWS_PER_BLOCK, values.shape[1]), dtype=np.float32)  # of `selected`, with spare capacity
    for block in blocks(len(ranked), 1, _ROWS_PER_BLOCK):
        rows = ranked[block]
        units = _units(values[rows])
        for part in blocks(len(selected), len(rows), _NUMBERS_PER_BLOCK):
            earlier = _Block(values, selected[part], directions[: len(selected)][part])
            far = ~_near(_Block(values, rows, units), earlier, threshold).any(axis=1)
            rows, units = rows[far], units[far]
        block_rows = _Block(values, rows, units)
        near = np.triu(_near(block_rows, block_rows, threshold), 1)
        distinct = np.ones(len(rows), dtype=bool)
        for row in np.flatnonzero(near.any(axis=1)):
            if distinct[row]:
                distinct &= ~near[row]
        rows, units = rows[distinct], units[distinct]
        if len(selected) + len(rows) > len(directions):
            directions = np.concatenate([directions, np.empty_like(directions)])
        directions[len(selected) : len(selected) + len(rows)] = units
        selected = np.concatenate([selected, rows])
        yield rows


def _near(left: _Block, right: _Block, threshold: float) -> npt.NDArray[np.bool_]:
    """Return for each pair of a left and a right row whether they are near-duplicates, bool of shape (left, right)."""
    width = left.units.shape[1]
    above = left.units @ right.units.T
    above -= np.float32(threshold)
    near = above > 0
    # The error of a sum of d products is at most d / 2 times the float32 epsilon, in any order of summation.
    margin = (width + 8) * np.finfo(np.float32).eps
    # flatnonzero() is much faster than nonzero() of two dimensions.
    rows, columns = np.unravel_index(np.flatnonzero(np.abs(above, out=above) <= margin), above.shape)
    for block in blocks(len(rows), width, _NUMBERS_PER_BLOCK):
        first, second = rows[block], columns[block]
        cosines = _cosines(left.values[left.rows[first]], right.values[right.rows[second]])
        near[first, second] = cosines > threshold
    return near


def _scaled(vectors: Floats) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return vectors scaled to a largest number between 0.5 and 1, and their squared lengths.

    Scaling by powers of 2 is exact, and the squares then neither overflow nor underflow.
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
    """Return the cosine of each left row with the right row of the same index, or with the only one: shape (n,)."""
    # sum() adds the numbers of a row in the same order for any number of rows; a matrix product does not.
    (left, left_squares), (right, right_squares) = _scaled(left), _scaled(right)
    lengths = np.sqrt(left_squares * right_squares)
    cosines = (left * right).sum(axis=1) / np.where(lengths > 0, lengths, 1)
    clipped: npt.NDArray[np.float64] = np.clip(cosines, -1, 1)
    return clipped
