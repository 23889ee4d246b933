"""Selections from one pool held against each other: how much, how long, how varied, how alike, and at what cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from hf_datasel.analysis.binning import FEW_WHOLE, are_whole, finite, limits_of, significant
from hf_datasel.analysis.columns import Counted, PoolColumns, codes_of
from hf_datasel.analysis.near_duplicates import NearCopies, near_copies_among
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
    """How rows are spread over clusters.

    Attributes:
        column: that holds the clusters.
        clusters: with at least one row of the pool.
        covered: those of them with at least one of these rows.
        effective: as many clusters of equal size are as varied: exp of the entropy of the rows' clusters.
    """

    column: str
    clusters: int
    covered: int
    effective: float


class RowFacts(TypedDict):
    """What some rows are like.

    Attributes:
        rows: how many.
        size: tokens or words of all of them, or None where neither is known.
        words_mean: mean number of words in a response, or None.
        words_median: median of the same, or None.
        duplicates: rows whose content equals that of another one of them.
        coverage: of clusters, or None.
    """

    rows: int
    size: int | None
    words_mean: float | None
    words_median: float | None
    duplicates: int
    coverage: Coverage | None


class SelectionFacts(RowFacts):
    """What one selection is like, and how it was made.

    Attributes:
        name: that it goes by in this comparison.
        selector: name and settings.
        seed: of everything random.
        round: of training, 0 where there was none before.
        budget: rows that were asked for.
        model: that scored: `name` and more; None where no model did.
        near_copies: among its rows, or None where there are no vectors.
        seconds: spent on scoring and choosing, or None.
        rows_scored: by a model or otherwise for this choice; 0 where only columns were read.
    """

    name: str
    selector: dict[str, Any]
    seed: int
    round: int
    budget: int
    model: dict[str, Any] | None
    near_copies: NearCopies | None
    seconds: float | None
    rows_scored: int


class Failure(TypedDict):
    """A method that made no selection, and the sentence that says why."""

    name: str
    selector: dict[str, Any]
    error: str


class Comparison(TypedDict):
    """Everything that tells selections of one dataset apart, as plain JSON values.

    Attributes:
        format_version: of this record.
        dataset: `id`, `rows`, `format` and, as far as it is known, where it comes from.
        counted: what `size` is counted in, or None.
        pool: what all rows are like.
        selections: in the order in which they were given.
        lengths: words of the responses of the pool and of each selection, or None.
        scores: each score over the pool and each selection.
        overlap: Jaccard similarity of every two selections.
        chance: what two random choices of their sizes would share, for every two selections.
        failed: methods that made no selection.
    """

    format_version: int
    dataset: dict[str, Any]
    counted: Counted | None
    pool: RowFacts
    selections: list[SelectionFacts]
    lengths: Distribution | None
    scores: list[Distribution]
    overlap: Overlaps
    chance: list[list[float]]
    failed: list[Failure]


def compare(
    selections: Mapping[str, Selection],
    dataset: Dataset | None = None,
    *,
    scores: Sequence[str] = (),
    clusters: str | None = None,
    vectors: str | None = None,
    model: Any = None,
    tokenizer: Any = None,
    threshold: float = 0.9,
) -> Comparison:
    """Hold selections from one dataset against each other.

    Args:
        selections: name -> selection; `names_of` makes names.
        dataset: that they were made from; by default the one that a selection still knows. Without it there are no
            response lengths and no near copies.
        scores: columns of numbers of the dataset to show too, beside the scores in the selections that are known for
            more than nine tenths of the pool.
        clusters: column of cluster numbers, or of names such as a source, of the dataset or of a selection; by default
            `cluster_id` where there is one.
        vectors: column of vectors of the dataset that near copies are found by; by default `embedding` where there is
            one.
        model: name or path of the model whose tokenizer counts tokens, where there is no column `num_tokens`. Without
            either, words of prompt and response are counted.
        tokenizer: of a live model.
        threshold: cosine above which two rows are near copies. Each row is held against all others of its selection
            where that is up to 10,000 rows; of more, some rows are, picked evenly.

    Raises:
        DatasetMismatchError: selections of different datasets, or of another one than this.
        ColumnError: a column that is named is not there, or is of the wrong type.
        SelectionError: no selections, or one without rows.
        ConfigError: a selection called "pool", or a threshold that is no cosine.
    """
    _check(selections, threshold)
    first = next(iter(selections.values()))
    known = next((each.dataset for each in selections.values() if each.dataset is not None), None)
    pool = Pool(dataset if dataset is not None else known) if dataset is not None or known is not None else None
    if pool is not None and dataset is not None and pool.id != first.provenance["dataset"]["id"]:
        first.check(dataset)  # says what differs
    reader = PoolColumns(selections, pool)
    content = codes_of(first.table.column("row_id"), "row_id")
    words, size, counted = reader.sizes(model, tokenizer)
    known_clusters = reader.clusters(clusters)
    close = reader.vector_column(vectors)

    def facts(at: np.ndarray) -> RowFacts:
        return _facts(at, content, words, size, known_clusters)

    skipped = [clusters or "cluster_id", *([] if words is None else ["response_words"])]
    rows = {name: each.indices for name, each in selections.items()}
    records = [each.provenance for each in selections.values()]
    everything = first.provenance["dataset"]["rows"]
    return {
        "format_version": _FORMAT,
        "dataset": without_paths(first.provenance["dataset"]),
        "counted": counted,
        "pool": facts(np.arange(everything)),
        "selections": [
            _selection_facts(
                name,
                each,
                facts(each.indices),
                near_copies_among(pool.dataset, close, each.indices, threshold) if pool and close else None,
            )
            for name, each in selections.items()
        ],
        "lengths": None if words is None else _distribution("response_words", words, rows),
        "scores": [
            found
            for name, values in reader.scores(scores, skipped).items()
            if (found := _distribution(name, values, rows, threshold_of(records, name))) is not None
        ],
        "overlap": overlaps(rows, everything),
        "chance": _chance([len(each) for each in rows.values()], everything),
        "failed": [],
    }


def _check(selections: Mapping[str, Selection], threshold: float) -> None:
    if not selections:
        raise SelectionError("compare needs at least one selection, and got none.")
    empty = [name for name, each in selections.items() if not len(each.indices)]
    if empty:
        raise SelectionError(f"The selection {empty[0]!r} has no rows to compare.")
    if _POOL in selections:
        raise ConfigError("A selection cannot be called 'pool', which is what the rows to choose from are called.")
    if not -1 <= threshold <= 1:
        raise ConfigError(f"threshold={threshold!r} has to be a cosine similarity, from -1 to 1.")
    ids = {name: each.provenance["dataset"]["id"] for name, each in selections.items()}
    name = next(iter(ids))
    for other, found in ids.items():
        if found != ids[name]:
            raise DatasetMismatchError(f"{name!r} and {other!r} were made from different datasets.")


def _facts(
    rows: np.ndarray,
    content: np.ndarray,
    words: np.ndarray | None,
    size: np.ndarray | None,
    clusters: tuple[str, np.ndarray] | None,
) -> RowFacts:
    repeats = np.unique(content[rows], return_counts=True)[1]
    lengths = np.empty(0) if words is None else words[rows][~np.isnan(words[rows])]
    return {
        "rows": len(rows),
        "size": None if size is None else int(np.nansum(size[rows])),
        "words_mean": significant(lengths.mean()) if lengths.size else None,
        "words_median": significant(np.median(lengths)) if lengths.size else None,
        "duplicates": int(repeats[repeats > 1].sum()),
        "coverage": None if clusters is None else _coverage(rows, *clusters),
    }


def _coverage(rows: np.ndarray, column: str, codes: np.ndarray) -> Coverage:
    there = codes[rows][codes[rows] >= 0]
    counts = np.unique(there, return_counts=True)[1]
    shares = counts / max(counts.sum(), 1)
    return {
        "column": column,
        "clusters": int(np.unique(codes[codes >= 0]).size),
        "covered": int(counts.size),
        "effective": significant(np.exp(-(shares * np.log(shares)).sum())) if counts.size else 0.0,
    }


def _selection_facts(
    name: str, selection: Selection, facts: RowFacts, near_copies: NearCopies | None
) -> SelectionFacts:
    about = without_paths(selection.provenance)
    seconds = about.get("seconds")
    return {
        "name": name,
        "selector": about["selector"],
        "seed": about["seed"],
        "round": about["round"],
        "budget": about["budget"],
        "model": about.get("model"),
        **facts,
        "near_copies": near_copies,
        "seconds": None if seconds is None else significant(float(seconds), 3),
        "rows_scored": about["rows_scored"],
    }


def _distribution(
    name: str, values: np.ndarray, rows: Mapping[str, np.ndarray], threshold: float | None = None
) -> Distribution | None:
    """Over the pool and each selection in which some row has a value; None where none has."""
    groups = {_POOL: values, **{each: values[at] for each, at in rows.items()}}
    groups = {each: found for each, found in groups.items() if np.isfinite(found).any()}
    if len(groups) < 2:
        return None
    pool = values[np.isfinite(values)]
    low, high = np.percentile(pool, [1, 99])
    few = are_whole(pool) and pool.max() - pool.min() < FEW_WHOLE  # all of them are shown, one by one
    limits = None if few else limits_of([finite(each) for each in groups.values()])
    return distribution(name, groups, limits=limits, log=bool(pool.min() > 0 and high > 20 * low), threshold=threshold)


def _chance(sizes: Sequence[int], rows: int) -> list[list[float]]:
    shared = np.multiply.outer(sizes, sizes) / rows
    matrix = shared / (np.add.outer(sizes, sizes) - shared)
    np.fill_diagonal(matrix, 1)
    return [[significant(each) for each in row] for row in matrix.tolist()]
