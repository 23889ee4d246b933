"""How the selection is distributed over clusters or other groups, and how the weights of clusters changed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from hf_datasel.analysis import plots
from hf_datasel.analysis.plots.theme import format_number
from hf_datasel.analysis.weights import ClusterWeights, cluster_weights
from hf_datasel.cards.score_values import group_column, rounded
from hf_datasel.cards.section import CardSource, FigureInfo, Section
from hf_datasel.hub.markdown import code
from hf_datasel.selection import Selection

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_datasel.cards.facts import Facts

__all__ = ["SECTION", "GroupCoverage", "GroupsFacts"]

_MAX_LISTED = 6  # rounds that the alternative text lists one by one


class GroupCoverage(TypedDict):
    """How the selected rows are distributed over groups of rows.

    Attributes:
        column: Column with the group of each row.
        pool: Number of groups in the pool.
        selected: Number of these groups with selected rows.
        largest: Share of the pool's rows in its largest group, 0 to 1.
        largest_selected: Share of the selected rows in that group, 0 to 1.
    """

    column: str
    pool: int
    selected: int
    largest: float
    largest_selected: float


class GroupsFacts(TypedDict):
    """Groups of rows, and weights of clusters.

    Attributes:
        coverage: None if the selector has no groups, or they are unknown.
        weights: None if no weights of clusters are recorded for several rounds.
    """

    coverage: GroupCoverage | None
    weights: ClusterWeights | None


def _compute(source: CardSource) -> GroupsFacts:
    return {"coverage": _coverage(source.last, source.dataset), "weights": _weights(source.selections)}


def _coverage(selection: Selection, dataset: Dataset | None) -> GroupCoverage | None:
    """Count the groups of the selected rows. Groups with names are read from the dataset, and unknown without it."""
    column = group_column(selection.provenance["selector"])
    groups = None if column is None else _group_ids(selection, dataset, column)
    if column is None or groups is None or not (groups >= 0).any():
        return None
    selected = groups[selection.indices]
    ids, sizes = np.unique(groups[groups >= 0], return_counts=True)
    largest = ids[np.argmax(sizes)]
    return {
        "column": column,
        "pool": len(ids),
        "selected": len(np.unique(selected[selected >= 0])),
        "largest": rounded(sizes.max() / sizes.sum()),
        "largest_selected": rounded(np.mean(selected == largest)) if len(selected) else 0.0,
    }


def _group_ids(selection: Selection, dataset: Dataset | None, column: str) -> np.ndarray | None:
    """Return the number of each row's group, -1 for none."""
    if column in selection.table.column_names:
        values = selection.scores(column)
        return np.where(np.isnan(values), -1, values)
    if dataset is None or column not in dataset.column_names:
        return None
    names = dataset.select_columns([column]).with_format("arrow")[:].column(column).combine_chunks()
    return np.asarray(names.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False))


def _weights(selections: Sequence[Selection]) -> ClusterWeights | None:
    notes = [selection.provenance.get("notes") or {} for selection in selections]
    recorded = all(note.get("cluster_weights") and note["clusters"] == notes[0]["clusters"] for note in notes)
    return cluster_weights(selections) if len(selections) > 1 and recorded else None


def _text(facts: Facts, own: GroupsFacts) -> str:
    coverage = own["coverage"]
    if coverage is None:
        return ""
    return (
        f"The pool has {coverage['pool']:,} groups ({code(coverage['column'])}), and the selected rows are in "
        f"{coverage['selected']:,} of them. The largest group has {coverage['largest']:.1%} of the pool and "
        f"{coverage['largest_selected']:.1%} of the selected rows."
    )


def _figures(facts: Facts, own: GroupsFacts) -> list[FigureInfo]:
    if own["weights"] is None:
        return []
    draw = partial(plots.draw_cluster_weights, own["weights"])
    return [FigureInfo("weights", "Weights of the clusters by round", _alt(own["weights"]), draw)]


def _alt(summary: ClusterWeights) -> str:
    rounds = summary["rounds"]
    listed = range(len(rounds)) if len(rounds) <= _MAX_LISTED else (0, len(rounds) - 1)
    effective = "; ".join(f"round {rounds[index]} {format_number(summary['effective'][index])}" for index in listed)
    changes = "; ".join(
        f"cluster {moved['cluster']:,} from {_percent(moved['weights'][0])} to {_percent(moved['weights'][-1])}"
        for moved in summary["moved"]
    )
    return (
        f"Two line charts of the weights of {summary['clusters']:,} clusters in {len(rounds)} rounds. First, the "
        f"share of the weight of the heaviest clusters; effective number of clusters: {effective}. Second, the "
        f"clusters whose weights changed most: {changes}."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


SECTION = Section("groups", "Selected rows", _text, _figures, _compute, GroupsFacts)
