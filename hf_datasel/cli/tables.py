"""Text tables of numeric columns."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["column_table", "numeric_columns", "sparkline", "value_counts"]

_BARS = " ▁▂▃▄▅▆▇█"
_BINS = 20
_MAX_LISTED = 4
"""Number of different values up to which they are listed."""


def column_table(dataset: Any, names: list[str]) -> str:
    """Return a table with the number of nulls, the minimum, quartiles, maximum and a histogram of each numeric column.

    The histogram covers the 1st to the 99th percentile. Where there are few values, or one that nearly all rows
    have, these are listed instead, with their numbers of rows. Numbers of rows and clusters are not included.
    """
    width = max([len("column"), *map(len, names)])
    heads = ["null", "min", "25 %", "median", "75 %", "max"]
    lines = [f"{'column':<{width}}" + "".join(f"{head:>10}" for head in heads) + "  1 to 99 %, or values (rows)"]
    for name, values in numeric_columns(dataset, names).items():
        quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1]) if values.size else [np.nan] * 5
        numbers = "".join(f"{quantile:>10.4g}" for quantile in quantiles)
        nulls = len(dataset) - values.size
        lines.append(f"{name:<{width}}{nulls:>10,}{numbers}  {value_counts(values) or sparkline(values)}".rstrip())
    return "\n".join(lines)


def numeric_columns(dataset: Any, names: list[str]) -> dict[str, np.ndarray]:
    """Return the values of the numeric columns among `names`, without nulls and without identifiers; float64."""
    from hf_datasel.scoring.numbers import is_identifier

    columns = {}
    for name in names:
        dtype = getattr(dataset.features[name], "dtype", "string")  # embeddings have none
        if dtype != "string" and not is_identifier(name):
            columns[name] = dataset.data.column(name).drop_null().to_numpy().astype(np.float64)
    return columns


def value_counts(values: np.ndarray) -> str:
    """Return a few values, or the one of nearly all rows, with their numbers of rows; "" if a histogram shows more."""
    distinct, counts = np.unique(values, return_counts=True)
    has_few = len(distinct) <= _MAX_LISTED
    if not values.size or not (has_few or np.ptp(np.percentile(values, [1, 99])) == 0):
        return ""
    listed = range(len(distinct)) if has_few else [int(np.argmax(counts))]
    texts = [f"{distinct[index]:.4g} ({counts[index]:,})" for index in listed]
    return ", ".join(texts if has_few else [*texts, f"others ({values.size - counts.max():,})"])


def sparkline(values: np.ndarray) -> str:
    """Return a histogram as one line of text, from the 1st to the 99th percentile.

    >>> sparkline(np.repeat([0.0, 1.0, 2.0], [1, 4, 2]))
    '▂         █         ▄'
    """
    if not values.size:
        return ""
    low, high = np.percentile(values, [1, 99])
    counts, _ = np.histogram(values.clip(low, high), _BINS + 1, (low, high) if high > low else (low - 1, high + 1))
    heights = np.ceil(counts / counts.max() * (len(_BARS) - 1)).astype(int)
    return "".join(_BARS[height] for height in heights)
