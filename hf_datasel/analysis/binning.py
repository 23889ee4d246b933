"""Bins that several groups of values share, with edges short enough to be written down."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hf_datasel.errors import ConfigError, SelectionError

__all__ = ["FEW_WHOLE", "are_whole", "edges_between", "finite", "limits_of", "significant"]


FEW_WHOLE = 12  # whole numbers that are few enough for a bar each


def finite(values: np.ndarray) -> np.ndarray:
    """The values that are numbers, float64 of shape (values,)."""
    numbers = np.asarray(values, dtype=np.float64).ravel()
    return numbers[np.isfinite(numbers)]


def are_whole(values: np.ndarray) -> bool:
    """Whether finite values are whole numbers, all of them."""
    return bool((values == np.floor(values)).all() and np.abs(values).max() < 1e15)


def significant(value: float, digits: int = 6) -> float:
    """A number rounded to so many significant digits, which is what is left of it on every machine.

    >>> significant(0.123456789)
    0.123457
    """
    return float(f"{value:.{digits}g}")


def limits_of(cut: Sequence[np.ndarray], whole: Sequence[np.ndarray] = ()) -> tuple[float, float]:
    """The range that holds all of `whole`, and of each of `cut` all but the last hundredth at either end."""
    ends = [np.percentile(values, [1, 99]) for values in cut] + [(values.min(), values.max()) for values in whole]
    return float(min(low for low, _ in ends)), float(max(high for _, high in ends))


def edges_between(
    limits: tuple[float, float],
    bins: int,
    log: bool = False,
    whole: bool = False,
    threshold: float | None = None,
) -> np.ndarray:
    """Edges of at most so many bins, rising, float64 of shape (edges,); the limits are inside.

    With `whole`, edges lie halfway between whole numbers, and there are fewer bins where there are fewer of these.
    Otherwise a `threshold` between the limits is an edge, so that no bin holds values on both sides of it.

    Raises:
        SelectionError: `log` with limits of 0 or less.
        ConfigError: fewer than one bin, or limits that are no range.
    """
    low, high = limits
    if bins < 1:
        raise ConfigError(f"bins={bins!r} has to be at least 1.")
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ConfigError(f"limits=({low:g}, {high:g}) have to be two finite numbers, the lower one first.")
    if log and low <= 0:
        raise SelectionError(f"A logarithmic axis cannot show {low:g}. Pass log=False, or limits above 0.")
    if whole:
        return _edges_of_whole(math.floor(low), math.ceil(high), bins, log)
    size = max(abs(low), abs(high))
    if high - low <= 1e-9 * size:  # one value: give it a bin of some width
        margin = max(0.5, 0.01 * size)
        low, high = (low / 2, high * 2) if log else (low - margin, high + margin)
        bins -= 1 - bins % 2  # so that it is in the middle of one
    digits = 6 + max(0, math.floor(math.log10(max(abs(low), abs(high)) / (high - low))))
    if threshold is not None and bins > 1 and low < threshold < high:
        edges = _edges_at(threshold, low, high, bins, log)
        low, high = min(low, edges[0]), max(high, edges[-1])
    else:
        edges = np.geomspace(low, high, bins + 1) if log else np.linspace(low, high, bins + 1)
    inner = [each if each == threshold else significant(each, digits) for each in edges[1:-1].tolist()]
    return np.array([-_rounded_up(-low, digits), *inner, _rounded_up(high, digits)])


def _edges_at(threshold: float, low: float, high: float, bins: int, log: bool) -> np.ndarray:
    """Edges of bins of equal width, one of them at the threshold, the outermost as near to the limits as they can be.

    A bin has to be wider for it where the limits are no whole number of bins apart from the threshold: as little as
    `bins` of them can be.
    """
    below, above = (
        (math.log(threshold / low), math.log(high / threshold)) if log else (threshold - low, high - threshold)
    )
    under = min(max(round(bins * below / (below + above)), 1), bins - 1)
    width = max(below / under, above / (bins - under))
    steps = np.arange(-math.ceil(below / width - 1e-9), math.ceil(above / width - 1e-9) + 1)
    return np.where(steps == 0, threshold, threshold * np.exp(steps * width) if log else threshold + steps * width)


def _edges_of_whole(low: int, high: int, bins: int, log: bool) -> np.ndarray:
    if log:
        inner = np.floor(np.geomspace(low, high, bins + 1)[1:-1]) + 0.5
        return np.unique([low - 0.5, *inner[inner < high], high + 0.5])
    width = -(-(high - low + 1) // bins)
    return np.arange(-(-(high - low + 1) // width) + 1) * width + (low - 0.5)


def _rounded_up(value: float, digits: int) -> float:
    rounded = significant(value, digits)
    if rounded >= value:
        return rounded
    step: float = 10.0 ** (math.floor(math.log10(abs(value))) - digits + 1)
    return significant(rounded + step, digits)
