"""Columns of numbers as a table of text."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["column_table", "numeric_columns", "sparkline"]

_BARS = " ▁▂▃▄▅▆▇█"
_BINS = 20


def column_table(dataset: Any, names: list[str]) -> str:
    """Nulls, minimum, quartiles and maximum of each numeric column, and its histogram from the 1st to the 99th
    percentile."""
    width = max([len("column"), *map(len, names)])
    head = ["null", "min", "25 %", "median", "75 %", "max"]
    lines = [f"{'column':<{width}}" + "".join(f"{each:>10}" for each in head) + "  1 to 99 %"]
    for name, values in numeric_columns(dataset, names).items():
        cells = np.quantile(values, [0, 0.25, 0.5, 0.75, 1]) if values.size else [np.nan] * 5
        numbers = "".join(f"{cell:>10.4g}" for cell in cells)
        nulls = len(dataset) - values.size
        lines.append(f"{name:<{width}}{nulls:>10,}{numbers}  {sparkline(values)}".rstrip())
    return "\n".join(lines)


def numeric_columns(dataset: Any, names: list[str]) -> dict[str, np.ndarray]:
    """The values, without nulls, of those columns that hold numbers; float64."""
    found = {}
    for name in names:
        if getattr(dataset.features[name], "dtype", "string") != "string":  # reasons, and vectors, which have no dtype
            found[name] = dataset.data.column(name).drop_null().to_numpy().astype(np.float64)
    return found


def sparkline(values: np.ndarray) -> str:
    """A histogram in one line: how many values lie in each twentieth of the range, without the ends.

    >>> sparkline(np.repeat([0.0, 1.0, 2.0], [1, 4, 2]))
    '▂         █         ▄'
    """
    if not values.size:
        return ""
    low, high = np.percentile(values, [1, 99])
    counts, _ = np.histogram(values.clip(low, high), _BINS + 1, (low, high) if high > low else (low - 1, high + 1))
    heights = np.ceil(counts / counts.max() * (len(_BARS) - 1)).astype(int)
    return "".join(_BARS[height] for height in heights)
