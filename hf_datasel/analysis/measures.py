"""Numbers that tell one choice of rows from another: functions of the dataset and a selection."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.formats import Pool
from hf_datasel.selection import Selection

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Measure", "cluster_coverage", "distinct", "mean_of", "response_words", "standard_measures"]

Measure = Callable[["Dataset", Selection], float]

_WORD = re.compile(r"\w+")


def standard_measures(scores: Sequence[str] = (), clusters: str = "cluster_id") -> dict[str, Measure]:
    """Mean scores, words in the response, distinct 1-, 2- and 3-grams of the responses, and coverage of clusters.

    Args:
        scores: columns of the dataset, or scores that a selection has computed, whose means are given.
        clusters: column with the cluster of each row; where the dataset has none, the coverage is NaN.

    >>> list(standard_measures(["ifd"]))
    ['mean ifd', 'response words', 'distinct-1', 'distinct-2', 'distinct-3', 'cluster coverage']
    """
    means: dict[str, Measure] = {f"mean {name}": mean_of(name) for name in scores}
    grams: dict[str, Measure] = {f"distinct-{n}": distinct(n) for n in (1, 2, 3)}
    return {**means, "response words": response_words, **grams, "cluster coverage": cluster_coverage(clusters)}


def mean_of(column: str) -> Measure:
    """The mean of a score over the chosen rows that have it: of the dataset's column, else as the selection has it.

    NaN where neither has it, as with a selection that needed no such score.
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
    """Words in a response, the mean over the chosen rows, split at white space as `Length("words")` does."""
    counts = [len(text.split()) for text in _responses(dataset, selection)]
    return float(np.mean(counts)) if counts else float("nan")


def distinct(n: int) -> Measure:
    """Different n-grams in the responses chosen over all n-grams in them, 0 to 1 (Li et al. 2016, 1510.03055).

    Words are runs of letters and digits in lower case. The more text, the lower: hold choices of about as many words
    against each other. NaN where no response has so many words.
    """

    def share(dataset: Dataset, selection: Selection) -> float:
        seen: set[tuple[str, ...]] = set()
        count = 0
        for text in _responses(dataset, selection):
            words = _WORD.findall(text.lower())
            grams = list(zip(*(words[start:] for start in range(n)), strict=False))
            count += len(grams)
            seen.update(grams)
        return len(seen) / count if count else float("nan")

    return share


def cluster_coverage(column: str = "cluster_id") -> Measure:
    """The share of the pool's clusters in which a row was chosen, 0 to 1; NaN where the dataset has no such column."""

    def share(dataset: Dataset, selection: Selection) -> float:
        if column not in dataset.column_names:
            return float("nan")
        every, chosen = (_numbers(dataset, column, rows) for rows in (None, selection.indices))
        clusters = np.unique(every[every >= 0])  # NaN and -1 are no cluster
        covered = np.unique(chosen[chosen >= 0])
        return len(covered) / len(clusters) if len(clusters) else float("nan")

    return share


def _responses(dataset: Dataset, selection: Selection) -> list[str]:
    pool = Pool(dataset)
    return pool.texts("both" if pool.format == "text" else "response", selection.indices)


def _numbers(dataset: Dataset, column: str, rows: np.ndarray | None) -> np.ndarray:
    """A column as float64, NaN where it is null."""
    data = dataset.select_columns([column])
    values = (data if rows is None else data.select(rows)).with_format("arrow")[:].column(column)
    return np.asarray(values.cast("double").to_numpy(), dtype=np.float64)
