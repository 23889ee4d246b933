"""Comparison of selections from one pool: size, length, diversity, overlap and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from hf_datasel.analysis.binning import (
    MAX_INTEGER_BINS,
    all_integers,
    finite_values,
    round_significant,
    value_range,
)
from hf_datasel.analysis.columns import PoolColumns, SizeUnit, group_codes
from hf_datasel.analysis.near_duplicates import NearDuplicates, near_duplicates_among
from hf_datasel.analysis.summaries import Distribution, Overlaps, distribution, overlaps, threshold_of
from hf_datasel.errors import ConfigError, DatasetMismatchError, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.selection import Selection
from hf_datasel.selection.provenance import without_paths

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "Comparison",
    "Coverage",
    "Failure",
    "RowFacts",
    "SelectionFacts",
    "compare",
]

_FORMAT = 1
_POOL = "pool"


class Coverage(TypedDict):
    """Distribution of rows over clusters.

    Attributes:
        column: Column of the clusters.
        clusters: Number of clusters with a row of the pool.
        covered: Number of clusters with one of the rows.
        effective: Effective number of clusters: exp of the entropy of the rows' clusters, which is the number of
            clusters of equal size with the same entropy.
    """

    column: str
    clusters: int
    covered: int
    effective: float


class RowFacts(TypedDict):
    """Statistics of some rows.

    Attributes:
        rows: Number of rows.
        size: Total number of tokens or words; None if neither is known.
        words_mean: Mean number of words in a response, or None.
        words_median: Median number of words in a response, or None.
        duplicates: Number of rows with the same content as another of the rows.
        coverage: Coverage of clusters, or None.
    """

    rows: int
    size: int | None
    words_mean: float | None
    words_median: float | None
    duplicates: int
    coverage: Coverage | None


class SelectionFacts(RowFacts):
    """Statistics of a selection, and how it was made.

    Attributes:
        name: Name of the selection in the comparison.
        selector: Name and settings of the selector.
        seed: Random seed.
        round: Round of training; 0 for the first or only selection.
        budget: Number of rows requested.
        model: Record of the model that computed scores, with its `name`; None if there was none.
        near_duplicates: Near-duplicates among the rows, or None if there are no vectors.
        seconds: Time spent on scoring and selecting, or None.
        rows_scored: Number of rows scored for this selection; 0 if scores were read from columns.
        weight_mean: Mean weight of the rows, or None if they have no weights.
    """

    name: str
    selector: dict[str, Any]
    seed: int
    round: int
    budget: int
    model: dict[str, Any] | None
    near_duplicates: NearDuplicates | None
    seconds: float | None
    rows_scored: int
    weight_mean: float | None


class Failure(TypedDict):
    """Method that failed to select rows.

    Attributes:
        name: Name of the method in the comparison.
        selector: Name and settings of the selector.
        error: Message of the error.
    """

    name: str
    selector: dict[str, Any]
    error: str


class Comparison(TypedDict):
    """Comparison of selections from one dataset, as JSON values.

    Attributes:
        format_version: Version of this format.
        dataset: `id`, `rows`, `format` and, if known, the origin of the dataset.
        size_unit: Unit of `size`, or None.
        pool: Statistics of all rows.
        selections: Statistics of each selection, in the order passed.
        lengths: Words per response of the pool and each selection, or None.
        scores: Distribution of each score over the pool and each selection.
        overlap: Jaccard similarity of every two selections.
        chance: Jaccard similarity expected of random selections of the same sizes, for every two selections.
        failures: Methods that failed to select rows.
    """

    format_version: int
    dataset: dict[str, Any]
    size_unit: SizeUnit | None
    pool: RowFacts
    selections: list[SelectionFacts]
    lengths: Distribution | None
    scores: list[Distribution]
    overlap: Overlaps
    chance: list[list[float]]
    failures: list[Failure]


def compare(
    selections: Mapping[str, Selection],
    dataset: Dataset | None = None,
    *,
    scores: Sequence[str] = (),
    clusters: str | None = None,
    vectors: str | None = None,
    model: Any = None,
    processing_class: Any = None,
    threshold: float = 0.9,
) -> Comparison:
    """Compare selections from one dataset.

    Args:
        selections: Selections by name; `selection_names` makes unique names.
        dataset: Dataset that the selections were made from; by default that of the first selection that has it.
            Without a dataset there are no response lengths and no near-duplicates.
        scores: Numeric columns of the dataset whose distributions are included, in addition to the scores in the
            selections that more than nine tenths of the rows have.
        clusters: Column of the dataset or of a selection with numbers of clusters or names of groups, such as a
            source; by default `cluster_id`, if it exists.
        vectors: Column of the dataset with vectors to find near-duplicates with; by default `embedding`, if it exists.
        model: Name or path of the model whose tokenizer counts tokens, if there is no column `num_tokens`. Without
            either, words of prompt and response are counted.
        processing_class: Tokenizer of a live model.
        threshold: Cosine similarity above which two rows are near-duplicates. Each row is compared with all others of
            its selection if these are at most 10,000, or else an evenly spaced sample of the rows is.

    Returns:
        The comparison, with numbers rounded to six significant digits.

    Raises:
        DatasetMismatchError: If the selections were made from different datasets, or from another one than `dataset`.
        ColumnError: If a named column does not exist or has the wrong type.
        SelectionError: If there are no selections, or one has no rows.
        ConfigError: If a selection is called "pool", or the threshold is not a cosine similarity.
    """
    _check(selections, threshold)
    first = next(iter(selections.values()))
    pool = _pool(selections, dataset)
    reader = PoolColumns(selections, pool)
    content = group_codes(first.table.column("row_id"), "row_id")
    words, size, size_unit = reader.sizes(model, processing_class)
    cluster_codes = reader.clusters(clusters)
    vector_column = reader.vector_column(vectors)

    def facts(rows: np.ndarray) -> RowFacts:
        return _facts(rows, content, words, size, cluster_codes)

    def near_duplicates(rows: np.ndarray) -> NearDuplicates | None:
        return near_duplicates_among(pool.dataset, vector_column, rows, threshold) if pool and vector_column else None

    skipped = [clusters or "cluster_id", *([] if words is None else ["response_words"])]
    rows_by_name = {name: selection.indices for name, selection in selections.items()}
    records = [selection.provenance for selection in selections.values()]
    pool_rows = first.provenance["dataset"]["rows"]
    distributions = [
        _distribution(name, values, rows_by_name, threshold_of(records, name))
        for name, values in reader.scores(scores, skipped).items()
    ]
    return {
        "format_version": _FORMAT,
        "dataset": without_paths(first.provenance["dataset"]),
        "size_unit": size_unit,
        "pool": facts(np.arange(pool_rows)),
        "selections": [
            _selection_facts(name, selection, facts(selection.indices), near_duplicates(selection.indices))
            for name, selection in selections.items()
        ],
        "lengths": None if words is None else _distribution("response_words", words, rows_by_name),
        "scores": [summary for summary in distributions if summary is not None],
        "overlap": overlaps(rows_by_name, pool_rows),
        "chance": _chance([len(rows) for rows in rows_by_name.values()], pool_rows),
        "failures": [],
    }


def _pool(selections: Mapping[str, Selection], dataset: Dataset | None) -> Pool | None:
    """Return the pool of the dataset, or of that of the first selection that has it; None if none has it."""
    if dataset is None:
        pools = (
            selection.pool(selection.dataset) for selection in selections.values() if selection.dataset is not None
        )
        return next(pools, None)
    first = next(iter(selections.values()))
    pool = first.pool(dataset)
    if pool.id != first.provenance["dataset"]["id"]:
        first.check(dataset)  # raises an error that says what differs
    return pool


def _check(selections: Mapping[str, Selection], threshold: float) -> None:
    if not selections:
        raise SelectionError("compare needs at least one selection, and got none.")
    empty = [name for name, selection in selections.items() if not len(selection.indices)]
    if empty:
        raise SelectionError(f"The selection {empty[0]!r} has no rows to compare.")
    if _POOL in selections:
        raise ConfigError("A selection cannot be called 'pool', which is the name of all rows.")
    if not -1 <= threshold <= 1:
        raise ConfigError(f"threshold={threshold!r} has to be a cosine similarity, from -1 to 1.")
    first, *others = selections
    for other in others:
        if selections[other].provenance["dataset"]["id"] != selections[first].provenance["dataset"]["id"]:
            raise DatasetMismatchError(f"{first!r} and {other!r} were made from different datasets.")


def _facts(
    rows: np.ndarray,
    content: np.ndarray,
    words: np.ndarray | None,
    size: np.ndarray | None,
    clusters: tuple[str, np.ndarray] | None,
) -> RowFacts:
    copies = np.unique(content[rows], return_counts=True)[1]
    lengths = np.empty(0) if words is None else words[rows][~np.isnan(words[rows])]
    return {
        "rows": len(rows),
        "size": None if size is None else int(np.nansum(size[rows])),
        "words_mean": round_significant(lengths.mean()) if lengths.size else None,
        "words_median": round_significant(np.median(lengths)) if lengths.size else None,
        "duplicates": int(copies[copies > 1].sum()),
        "coverage": None if clusters is None else _coverage(rows, *clusters),
    }


def _coverage(rows: np.ndarray, column: str, codes: np.ndarray) -> Coverage:
    row_codes = codes[rows][codes[rows] >= 0]
    counts = np.unique(row_codes, return_counts=True)[1]
    shares = counts / max(counts.sum(), 1)
    return {
        "column": column,
        "clusters": int(np.unique(codes[codes >= 0]).size),
        "covered": int(counts.size),
        "effective": round_significant(np.exp(-(shares * np.log(shares)).sum())) if counts.size else 0.0,
    }


def _selection_facts(
    name: str, selection: Selection, facts: RowFacts, near_duplicates: NearDuplicates | None
) -> SelectionFacts:
    provenance = without_paths(selection.provenance)
    seconds = provenance.get("seconds")
    return {
        "name": name,
        "selector": provenance["selector"],
        "seed": provenance["seed"],
        "round": provenance["round"],
        "budget": provenance["budget"],
        "model": provenance.get("model"),
        **facts,
        "near_duplicates": near_duplicates,
        "seconds": None if seconds is None else round_significant(float(seconds), 3),
        "rows_scored": provenance["rows_scored"],
        "weight_mean": round_significant(provenance["weights"]["mean"]) if "weights" in provenance else None,
    }


def _distribution(
    name: str, values: np.ndarray, rows: Mapping[str, np.ndarray], threshold: float | None = None
) -> Distribution | None:
    """Return the distribution over the pool and the selections with a value; None if no selection has one."""
    groups = {_POOL: values, **{selection: values[selected] for selection, selected in rows.items()}}
    groups = {group: finite_values(numbers) for group, numbers in groups.items() if np.isfinite(numbers).any()}
    if len(groups) < 2:
        return None
    pool = groups[_POOL]
    low, high = np.percentile(pool, [1, 99])
    few_integers = all_integers(pool) and pool.max() - pool.min() < MAX_INTEGER_BINS  # a bin for each of them
    limits = None if few_integers else value_range(list(groups.values()))
    return distribution(name, groups, limits=limits, log=bool(pool.min() > 0 and high > 20 * low), threshold=threshold)


def _chance(sizes: Sequence[int], rows: int) -> list[list[float]]:
    """Return the Jaccard similarity expected of random selections of these sizes, for every two of them."""
    shared = np.multiply.outer(sizes, sizes) / rows
    matrix = shared / (np.add.outer(sizes, sizes) - shared)
    np.fill_diagonal(matrix, 1)
    return [[round_significant(value) for value in row] for row in matrix.tolist()]
