"""How a choice is spread over clusters, or other groups of rows, and how their weights move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.analysis.weights import ClusterWeights, cluster_weights
from hf_datasel.cards.facts import Groups
from hf_datasel.selection import Selection

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["group_column", "groups", "weights"]


def group_column(spec: Mapping[str, Any]) -> str | None:
    """The column with the group of each row, of a selector that divides the budget over groups; else None."""
    if isinstance(spec.get("then"), Mapping):
        return group_column(spec["then"])
    for setting in ("groups", "clusters"):
        if isinstance(spec.get(setting), Mapping):
            return f"{spec[setting].get('column_prefix', '')}cluster_id"
        if isinstance(spec.get(setting), str):
            return str(spec[setting])
    return None


def groups(selection: Selection, dataset: Dataset | None) -> Groups | None:
    """How many groups the chosen rows are in.

    Groups that have names, not numbers, are read from the dataset: without it nothing is known of them.
    """
    column = group_column(selection.provenance["selector"])
    found = None if column is None else _ids(selection, dataset, column)
    if column is None or found is None or not (found >= 0).any():
        return None
    chosen = found[selection.indices]
    pool, sizes = np.unique(found[found >= 0], return_counts=True)
    largest = pool[np.argmax(sizes)]
    return {
        "column": column,
        "pool": len(pool),
        "chosen": len(np.unique(chosen[chosen >= 0])),
        "largest": float(f"{sizes.max() / sizes.sum():.6g}"),
        "largest_chosen": float(f"{np.mean(chosen == largest):.6g}") if len(chosen) else 0.0,
    }


def weights(selections: Sequence[Selection]) -> ClusterWeights | None:
    """How the weights of clusters moved over the rounds; None where they are not recorded for several."""
    notes = [each.provenance.get("notes") or {} for each in selections]
    same = all(each.get("cluster_weights") and each["clusters"] == notes[0]["clusters"] for each in notes)
    return cluster_weights(selections) if len(selections) > 1 and same else None


def _ids(selection: Selection, dataset: Dataset | None, column: str) -> np.ndarray | None:
    """The number of each row's group, -1 for none."""
    if column in selection.table.column_names:
        values = selection.scores(column)
        return np.where(np.isnan(values), -1, values)
    if dataset is None or column not in dataset.column_names:
        return None
    names = dataset.select_columns([column]).with_format("arrow")[:].column(column).combine_chunks()
    return np.asarray(names.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False))
