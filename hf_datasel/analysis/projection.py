"""Vectors in two dimensions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["principal_plane"]

_BLOCK = 1 << 22  # numbers that are read at once
_NARROW = 1024  # numbers in a vector, up to which the covariance is worth its cube
_ROWS, _ROWS_OF_WIDE = 20_000, 2_000  # that the axes are fitted on


def principal_plane(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """Project vectors of shape (rows, numbers) on their two principal axes, reading them in blocks.

    Returns:
        The points, float64 of shape (rows, 2), NaN where a vector has a value that is not finite; and the share of the
        variance that the plane holds, 0 to 1 (0 where there is none to hold).
    """
    there = np.zeros(len(vectors), dtype=bool)
    for at, block in _blocks(vectors):
        there[at] = np.isfinite(block).all(axis=1)
    points = np.full((len(vectors), 2), np.nan)
    if not there.any():
        return points, 0.0
    rows = np.flatnonzero(there)
    limit = _ROWS if vectors.shape[1] <= _NARROW else _ROWS_OF_WIDE
    if len(rows) > limit:
        rows = rows[np.arange(limit) * len(rows) // limit]
    middle, axes, explained = _fit(vectors[rows].astype(np.float64))
    for at, block in _blocks(vectors):
        inside = there[at]
        points[at][inside] = (block[inside] - middle) @ axes
    return points, explained


def _fit(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean of shape (numbers,), axes of shape (numbers, 2), share of the variance on them."""
    middle = sample.mean(axis=0)
    size = float(np.square(sample).sum())
    sample -= middle
    total = float(np.square(sample).sum())
    few = len(sample) < sample.shape[1]
    # the smaller of the two products has the same largest eigenvalues
    values, found = np.linalg.eigh(sample @ sample.T if few else sample.T @ sample)
    kept = np.flatnonzero(values > 1e-12 * size)[::-1][:2]  # what is below is rounding
    axes = np.zeros((sample.shape[1], 2))
    axes[:, : len(kept)] = sample.T @ found[:, kept] / np.sqrt(values[kept]) if few else found[:, kept]
    largest = axes[np.abs(axes).argmax(axis=0), [0, 1]]
    axes *= np.where(largest < 0, -1, 1)  # an axis has no direction of its own
    return middle, axes, float(values[kept].sum() / total) if len(kept) else 0.0


def _blocks(vectors: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    step = max(_BLOCK // vectors.shape[1], 1)
    for start in range(0, len(vectors), step):
        at = slice(start, start + step)
        yield at, np.asarray(vectors[at], dtype=np.float64)
