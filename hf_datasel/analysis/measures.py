"""Measures of a selection: functions of the dataset and a selection that return a number."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.formats.words import count_words, segments
from hf_datasel.selection import Selection

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Measure", "cluster_coverage", "distinct", "mean_of", "response_words", "standard_measures"]

Measure = Callable[["Dataset", Selection], float]

_WORD = re.compile(r"\w+")


def standard_measures(scores: Sequence[str] = (), clusters: str = "cluster_id") -> dict[str, Measure]:
    """Return measures by name: mean scores, words per response, distinct-1 to -3 and cluster coverage.

    Args:
        scores: Columns of the dataset, or scores computed by the selection, to take the mean of.
        clusters: Column of clusters; the coverage is NaN if the dataset does not have it.

    >>> list(standard_measures(["ifd"]))
    ['mean ifd', 'response words', 'distinct-1', 'distinct-2', 'distinct-3', 'cluster coverage']
    """
    means: dict[str, Measure] = {f"mean {name}": mean_of(name) for name in scores}
    ngrams: dict[str, Measure] = {f"distinct-{n}": distinct(n) for n in (1, 2, 3)}
    return {**means, "response words": response_words, **ngrams, "cluster coverage": cluster_coverage(clusters)}


def mean_of(column: str) -> Measure:
    """Return the measure that is the mean of a score over the selected rows.

    The score is read from the column of the dataset or else from the selection. The mean is NaN if neither has it.

    Args:
        column: Name of the score.
    """

    def mean(dataset: Dataset, selection: Selection) -> float:
        if column in dataset.column_names:
            values = _numbers(dataset, column, selection.indices)
        elif column in selection.table.column_names:
            values = selection.scores(column)[selection.indices]
        else:
            return float("nan")
        values = values[np.isfinite(values)]
        return float(values.mean()) if values.size else float("nan")

    return mean


def response_words(dataset: Dataset, selection: Selection) -> float:
    """Compute the mean number of words per selected response, counted as in `Length("words")`."""
    counts = [count_words(text) for text in _responses(dataset, selection)]
    return float(np.mean(counts)) if counts else float("nan")


def distinct(n: int) -> Measure:
    """Return the measure distinct-n: distinct n-grams over all n-grams in the selected responses, 0 to 1.

    Words are runs of letters and digits in lower case; in scripts without spaces between words their segments at
    Unicode word boundaries, which are characters in Chinese. The measure decreases with the amount of text: compare
    selections with similar numbers of words. It is NaN if no response has n words. Source: Li et al. 2016
    (1510.03055).

    Args:
        n: Number of words in an n-gram.
    """

    def share(dataset: Dataset, selection: Selection) -> float:
        distinct_ngrams: set[tuple[str, ...]] = set()
        count = 0
        for text in _responses(dataset, selection):
            words = [word for run in _WORD.findall(text.lower()) for word in segments(run)]
            ngrams = list(zip(*(words[start:] for start in range(n)), strict=False))
            count += len(ngrams)
            distinct_ngrams.update(ngrams)
        return len(distinct_ngrams) / count if count else float("nan")

    return share


def cluster_coverage(column: str = "cluster_id") -> Measure:
    """Return the measure that is the share of the pool's clusters with a selected row, 0 to 1.

    Args:
        column: Column of clusters; the measure is NaN if the dataset does not have it.
    """

    def share(dataset: Dataset, selection: Selection) -> float:
        if column not in dataset.column_names:
            return float("nan")
        all_ids, selected_ids = (_numbers(dataset, column, rows) for rows in (None, selection.indices))
        clusters = np.unique(all_ids[all_ids >= 0])  # NaN and -1 are no cluster
        covered = np.unique(selected_ids[selected_ids >= 0])
        return len(covered) / len(clusters) if len(clusters) else float("nan")

    return share


def _responses(dataset: Dataset, selection: Selection) -> list[str]:
    pool = selection.pool(dataset)
    return pool.texts("both" if pool.format == "text" else "response", selection.indices)


def _numbers(dataset: Dataset, column: str, rows: np.ndarray | None) -> np.ndarray:
    """Return a column as float64, NaN for nulls."""
    data = dataset.select_columns([column])
    values = (data if rows is None else data.select(rows)).with_format("arrow")[:].column(column)
    return np.asarray(values.cast("double", safe=False).to_numpy(), dtype=np.float64)
