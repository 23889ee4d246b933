"""Bin edges shared by several groups of values, rounded to few digits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hf_datasel.errors import ConfigError, SelectionError

__all__ = ["MAX_INTEGER_BINS", "all_integers", "bin_edges", "finite_values", "round_significant", "value_range"]

MAX_INTEGER_BINS = 12  # number of different integers up to which each has a bin


def finite_values(values: np.ndarray) -> np.ndarray:
    """Return the finite values, float64 of shape (values,)."""
    numbers = np.asarray(values, dtype=np.float64).ravel()
    return numbers[np.isfinite(numbers)]


def all_integers(values: np.ndarray) -> bool:
    """Return whether all of the finite values are integers."""
    return bool((values == np.floor(values)).all() and np.abs(values).max() < 1e15)


def round_significant(value: float, digits: int = 6) -> float:
    """Round a number to significant digits, so that results are the same on every machine.

    >>> round_significant(0.123456789)
    0.123457
    """
    return float(f"{value:.{digits}g}")


def value_range(trimmed: Sequence[np.ndarray], full: Sequence[np.ndarray] = ()) -> tuple[float, float]:
    """Return the range of several arrays of values.

    Args:
        trimmed: Arrays of which the range covers the 1st to the 99th percentile.
        full: Arrays of which the range covers all values.
    """
    ends = [np.percentile(values, [1, 99]) for values in trimmed]
    ends += [(values.min(), values.max()) for values in full]
    return float(min(low for low, _ in ends)), float(max(high for _, high in ends))


def bin_edges(
    limits: tuple[float, float],
    bins: int,
    log: bool = False,
    integers: bool = False,
    threshold: float | None = None,
) -> np.ndarray:
    """Return the edges of at most `bins` bins that include the limits.

    Args:
        limits: Lowest and highest value.
        bins: Maximum number of bins.
        log: Whether bins have equal width on a logarithmic axis.
        integers: Whether the values are integers: edges are then halfway between integers, and there are fewer bins
            if there are fewer integers.
        threshold: Value that is an edge if it is within the limits, so that no bin has values on both sides of it;
            ignored with `integers`.

    Returns:
        The edges, rising, float64 of shape (edges,).

    Raises:
        SelectionError: If `log` is True and a limit is 0 or less.
        ConfigError: If `bins` is less than 1, or the limits are not finite or in the wrong order.
    """
    low, high = limits
    if bins < 1:
        raise ConfigError(f"bins={bins!r} has to be at least 1.")
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ConfigError(f"limits=({low:g}, {high:g}) have to be two finite numbers, the lower one first.")
    if log and low <= 0:
        raise SelectionError(f"A logarithmic axis cannot show {low:g}. Pass log=False, or limits above 0.")
    if integers:
        return _integer_edges(math.floor(low), math.ceil(high), bins, log)
    magnitude = max(abs(low), abs(high))
    if high - low <= 1e-9 * magnitude:  # a single value: widen the range around it
        margin = max(0.5, 0.01 * magnitude)
        low, high = (low / 2, high * 2) if log else (low - margin, high + margin)
        bins -= 1 - bins % 2  # an odd number, so that the value is in the middle of a bin
    digits = 6 + max(0, math.floor(math.log10(max(abs(low), abs(high)) / (high - low))))
    if threshold is not None and bins > 1 and low < threshold < high:
        edges = _edges_with_threshold(threshold, low, high, bins, log)
        low, high = min(low, edges[0]), max(high, edges[-1])
    else:
        edges = np.geomspace(low, high, bins + 1) if log else np.linspace(low, high, bins + 1)
    inner = [edge if edge == threshold else round_significant(edge, digits) for edge in edges[1:-1].tolist()]
    return np.array([-_round_up(-low, digits), *inner, _round_up(high, digits)])


def _edges_with_threshold(threshold: float, low: float, high: float, bins: int, log: bool) -> np.ndarray:
    """Return edges of bins of equal width with an edge at the threshold.

    Bins are as narrow as `bins` of them allow, so that the outermost edges are close to the limits.
    """
    if log:
        below, above = math.log(threshold / low), math.log(high / threshold)
    else:
        below, above = threshold - low, high - threshold
    bins_below = min(max(round(bins * below / (below + above)), 1), bins - 1)
    width = max(below / bins_below, above / (bins - bins_below))
    steps = np.arange(-math.ceil(below / width - 1e-9), math.ceil(above / width - 1e-9) + 1)
    return np.where(steps == 0, threshold, threshold * np.exp(steps * width) if log else threshold + steps * width)


def _integer_edges(low: int, high: int, bins: int, log: bool) -> np.ndarray:
    if log:
        inner = np.floor(np.geomspace(low, high, bins + 1)[1:-1]) + 0.5
        return np.unique([low - 0.5, *inner[inner < high], high + 0.5])
    integers = high - low + 1
    width = math.ceil(integers / bins)
    return np.arange(math.ceil(integers / width) + 1) * width + (low - 0.5)


def _round_up(value: float, digits: int) -> float:
    rounded = round_significant(value, digits)
    if rounded >= value:
        return rounded
    step: float = 10.0 ** (math.floor(math.log10(abs(value))) - digits + 1)
    return round_significant(rounded + step, digits)
