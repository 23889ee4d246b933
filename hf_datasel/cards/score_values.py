"""Scores of a selection that are shown as numbers: their names, values and means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from hf_datasel.cards.selector_traits import selector_of
from hf_datasel.rounds.columns_read import columns_read
from hf_datasel.rounds.selector import Selector
from hf_datasel.scoring.numbers import is_identifier
from hf_datasel.selection import Selection
from hf_datasel.selectors import All, Chain

__all__ = [
    "group_column",
    "is_skewed",
    "is_whole_pool",
    "numeric_scores",
    "rounded",
    "score_means",
    "scored_and_selected",
]

_MAX_SCORES = 3
_WHOLE_POOL = 0.9  # share of the pool from which on the scored rows are called the pool


def group_column(spec: Mapping[str, Any]) -> str | None:
    """Return the column with the group of each row, for a selector that divides its budget over groups; else None."""
    if isinstance(spec.get("then"), Mapping):
        return group_column(spec["then"])
    for setting in ("groups", "clusters"):
        if isinstance(spec.get(setting), Mapping):
            return f"{spec[setting].get('column_prefix', '')}cluster_id"
        if isinstance(spec.get(setting), str):
            return str(spec[setting])
    return None


def numeric_scores(selection: Selection) -> list[str]:
    """Return the numeric scores with a value for some selected row.

    Contamination, distances to centroids, numbers of answers and scores that only filters read come last, and numbers
    of rows and clusters are not included. At most three names are returned.
    """
    types = {name: selection.table.schema.field(name).type for name in selection.score_columns}
    groups = group_column(selection.provenance["selector"])
    names = [
        name
        for name, dtype in types.items()
        if name != groups
        and (pa.types.is_floating(dtype) or pa.types.is_integer(dtype))
        and not is_identifier(name)
        and np.isfinite(selection.scores(name)[selection.indices]).any()
    ]
    side = ("contamination", "cluster_distance", "pass_rate_answers")
    filtered = _only_filtered(selection)
    return sorted(names, key=lambda name: (name in filtered, name.endswith(side)))[:_MAX_SCORES]


def _only_filtered(selection: Selection) -> set[str]:
    """Return the scores that only filters read, whose means say nothing about how rows were selected."""
    inner: Any = selector_of(selection.provenance["selector"])
    while isinstance(inner, Selector) and not isinstance(inner, Chain):
        inner = getattr(inner, "method", None)
    if not isinstance(inner, Chain):
        return set()
    filters = Chain(inner.filters, All())
    return _columns_read(filters, selection) - _columns_read(inner.then, selection)


def _columns_read(selector: Selector, selection: Selection) -> set[str]:
    """Return the columns that a selector reads, and all that its scores write."""
    written = {f"{score.column_prefix}{name}" for score in selector.scores() for name in score.columns()}
    return {*columns_read(selector, selection.score_columns), *written}


def scored_and_selected(selection: Selection, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the finite values of a score over all scored rows, and over the selected rows."""
    values = selection.scores(column)
    selected = values[selection.indices]
    return values[np.isfinite(values)], selected[np.isfinite(selected)]


def score_means(selection: Selection) -> dict[str, tuple[float, float]]:
    """Return score -> mean over the scored rows and over the selected rows, with six significant digits.

    Scores that only filters read are not included.
    """
    means, filtered = {}, _only_filtered(selection)
    for name in (name for name in numeric_scores(selection) if name not in filtered):
        scored, selected = scored_and_selected(selection, name)
        means[name] = rounded(np.mean(scored)), rounded(np.mean(selected))
    return means


def is_whole_pool(count: int, selection: Selection) -> bool:
    """Return whether a number of scored rows is nearly all rows of the pool."""
    return bool(count > _WHOLE_POOL * selection.provenance["dataset"]["rows"])


def is_skewed(values: np.ndarray) -> bool:
    """Return whether positive values are spread so widely that a logarithmic axis suits them."""
    if values.min() <= 0:
        return False
    low, high = np.percentile(values, [1, 99])
    return bool(high > 20 * low)


def rounded(value: Any) -> float:
    """Return a number with six significant digits."""
    return float(f"{float(value):.6g}")
