"""Projection of vectors onto their two principal axes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["principal_plane"]

_BLOCK = 1 << 22  # numbers read at once
_MAX_COVARIANCE = 1024  # dimensions up to which the covariance matrix is decomposed for many rows
_ROWS, _ROWS_OF_WIDE = 20_000, 2_000  # rows that the axes are fitted to


def principal_plane(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """Project vectors onto their two principal axes, reading them in blocks.

    Args:
        vectors: Float of shape (rows, dimensions).

    Returns:
        The points, float64 of shape (rows, 2), NaN for vectors with a value that is not finite; and the share of the
        variance explained by the plane, 0 to 1 (0 if there is no variance).
    """
    finite = np.zeros(len(vectors), dtype=bool)
    for rows, block in _blocks(vectors):
        finite[rows] = np.isfinite(block).all(axis=1)
    points = np.full((len(vectors), 2), np.nan)
    if not finite.any():
        return points, 0.0
    fitted = np.flatnonzero(finite)
    limit = _ROWS if vectors.shape[1] <= _MAX_COVARIANCE else _ROWS_OF_WIDE
    if len(fitted) > limit:
        fitted = fitted[np.arange(limit) * len(fitted) // limit]
    mean, axes, explained = _fit(vectors[fitted].astype(np.float64))
    for rows, block in _blocks(vectors):
        block_finite = finite[rows]
        points[rows][block_finite] = (block[block_finite] - mean) @ axes
    return points, explained


def _fit(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the mean (dimensions,), the axes (dimensions, 2) and the share of the variance they explain."""
    mean = sample.mean(axis=0)
    magnitude = float(np.square(sample).sum())
    sample -= mean
    total = float(np.square(sample).sum())
    wide = len(sample) < sample.shape[1]
    # the smaller of the two products has the same largest eigenvalues
    values, vectors = np.linalg.eigh(sample @ sample.T if wide else sample.T @ sample)
    top = np.flatnonzero(values > 1e-12 * magnitude)[::-1][:2]  # smaller values are rounding errors
    axes = np.zeros((sample.shape[1], 2))
    axes[:, : len(top)] = sample.T @ vectors[:, top] / np.sqrt(values[top]) if wide else vectors[:, top]
    largest = axes[np.abs(axes).argmax(axis=0), [0, 1]]
    axes *= np.where(largest < 0, -1, 1)  # the sign of an axis is arbitrary
    return mean, axes, float(values[top].sum() / total) if len(top) else 0.0


def _blocks(vectors: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    step = max(_BLOCK // vectors.shape[1], 1)
    for start in range(0, len(vectors), step):
        rows = slice(start, start + step)
        yield rows, np.asarray(vectors[rows], dtype=np.float64)
