"""Orders to train on rows in: sorted by a score, dealt into folds, or shuffled within segments."""

import numpy as np
import numpy.typing as npt

from hf_datasel.strategies._checks import Ints, check_scores


def by_value(values: npt.ArrayLike, descending: bool = False) -> Ints:
    """Return the positions of the values that are not missing, sorted by value.

    Args:
        values: One number per row, shape (n,). Rows whose value is NaN or None are missing in the result.
        descending: Whether the highest value comes first.

    Returns:
        int64 positions, shape (at most n,); those of equal values in their order.

    Raises:
        SelectionError: The values are not one flat array of numbers.

    >>> by_value([0.5, float("nan"), 0.9, 0.1, 0.5])
    array([3, 0, 4, 2])
    >>> by_value([0.5, float("nan"), 0.9, 0.1, 0.5], descending=True)
    array([2, 0, 4, 3])
    """
    numbers, present = check_scores("by_value", values)
    candidates = np.flatnonzero(present).astype(np.int64)
    ranks = np.unique(numbers[candidates], return_inverse=True)[1]
    return candidates[np.argsort(-ranks if descending else ranks, kind="stable")]


def folded(positions: Ints, folds: int) -> Ints:
    """Deal sorted positions into folds, and return one fold after the other: several passes from low to high.

    This is Folding Ordering of DELT (https://arxiv.org/abs/2506.21545).

    Args:
        positions: Sorted positions, shape (n,).
        folds: Number of folds, above 0. Position i belongs to fold i mod `folds`.

    >>> folded(np.array([5, 6, 7, 8, 9]), 2)
    array([5, 7, 9, 6, 8])
    """
    return np.concatenate([positions[fold::folds] for fold in range(folds)])


def segment_numbers(size: int, segments: int) -> Ints:
    """Return the segment of each of so many sorted rows, where sizes differ by at most one row.

    Args:
        size: Number of rows.
        segments: Number of segments, above 0. The first ones are the larger ones.

    >>> segment_numbers(5, 2)
    array([0, 0, 0, 1, 1])
    """
    sizes = [len(part) for part in np.array_split(np.empty(size), segments)]
    return np.repeat(np.arange(segments, dtype=np.int64), sizes)


def segments_of_equal(values: npt.ArrayLike) -> Ints:
    """Return the segment of each of the sorted rows, where a segment is the rows of one value.

    Args:
        values: Sorted values, shape (n,), none of them missing.

    >>> segments_of_equal([3, 3, 2, 1, 1])
    array([0, 0, 1, 2, 2])
    """
    numbers = np.asarray(values)
    changes = np.concatenate([np.zeros(min(len(numbers), 1), dtype=bool), numbers[1:] != numbers[:-1]])
    return np.cumsum(changes, dtype=np.int64)


def shuffled_within(segments: Ints, rng: np.random.Generator) -> Ints:
    """Return all positions, those of a segment in random order and the segments in ascending order.

    Args:
        segments: Segment of each position, shape (n,).
        rng: Source of randomness.

    >>> shuffled_within(np.array([0, 1, 2]), np.random.default_rng(0))
    array([0, 1, 2])
    """
    return np.lexsort((rng.random(len(segments)), segments)).astype(np.int64)
