"""Labels of rows, such as tags or clusters, as selectors read them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ColumnError, ConfigError, SelectionError
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import Selector
from hf_datasel.scoring.base import is_text_list
from hf_datasel.scoring.column_provenance import column_numbers, provenance_of
from hf_datasel.scoring.vector_files import row_blocks

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from hf_datasel.scores import Cluster, Embedding, InsTag

__all__ = [
    "RowLabels",
    "candidate_labels",
    "check_labels",
    "describe_labels",
    "labels_name",
    "mean_vectors",
    "read_labels",
]


@dataclass(frozen=True)
class RowLabels:
    """Which labels each row has.

    Args:
        names: Distinct labels, sorted.
        matrix: 1 for each label of a row, float64 of shape (rows, labels).
        are_texts: Whether labels are texts, such as tags, and not numbers of clusters.
    """

    names: tuple[str, ...]
    matrix: csr_matrix
    are_texts: bool = True


def check_labels(selector: Selector, setting: str, kinds: Sequence[str]) -> None:
    """Raise if a setting is neither the name of a column nor a score that gives labels.

    Args:
        selector: Selector.
        setting: Name of the setting.
        kinds: Classes in `hf_datasel.scores` that the score may be of.

    Raises:
        ConfigError: Names the values that are possible.
    """
    from hf_datasel import scores

    value = getattr(selector, setting)
    if not (isinstance(value, str) and value) and not isinstance(
        value, tuple(getattr(scores, kind) for kind in kinds)
    ):
        raise ConfigError(
            f"{type(selector).__name__}({setting}={value!r}): it has to be the name of a column, or "
            f"{' or '.join(f'{kind}(...)' for kind in kinds)}."
        )


def labels_name(source: str | InsTag | Cluster) -> str:
    """Return the name of the column that a setting names, or that its score writes labels into."""
    if isinstance(source, str):
        return source
    return f"{source.column_prefix}{'tags' if 'tags' in source.columns() else 'cluster_id'}"


def read_labels(
    context: RoundContext,
    source: str | InsTag | Cluster,
    vectors: str | Embedding | None = None,
    are_texts: bool = False,
) -> RowLabels:
    """Read the labels of all rows.

    Args:
        context: Context of the round.
        source: `InsTag(...)` or `Cluster(...)`; or a column of tags, of texts or of cluster numbers. Each row of a
            column of tags is a list of texts; a text is one label, unless it is a list in JSON. Tags are read as they
            are, each once per row; null and empty ones are none.
        vectors: What a `Cluster` without centroids is fitted to.
        are_texts: Whether cluster numbers are refused.

    Raises:
        ColumnError: The column is missing, or holds no labels, or texts that are lists of tags with separators.
    """
    from hf_datasel.scores import InsTag

    if isinstance(source, InsTag):
        name = labels_name(source)
        if not context.reads_column(source, name):
            return _text_labels(pa.array(context.score(source)[name].tolist(), pa.list_(pa.string())), name)
        source = name
    if isinstance(source, str):
        values = context.read_columns([source]).with_format("arrow")[:].column(source)
        if not _is_number(values.type):
            _record_column(context, source, values)
            return _text_labels(values.combine_chunks(), source)
        if are_texts:
            raise ColumnError(
                f"Column {source!r} holds {values.type}, and must contain tags: lists of texts, or texts."
            )
    ids, _ = context.clusters(source, "embedding" if vectors is None else vectors)
    rows = np.flatnonzero(ids >= 0)
    numbers, codes = np.unique(ids[rows], return_inverse=True)
    return RowLabels(tuple(map(str, numbers.tolist())), _matrix(rows, codes, len(ids), len(numbers)), are_texts=False)


def _record_column(context: RoundContext, name: str, values: pa.ChunkedArray) -> None:
    """Record that the selection relies on a column, and the score that computed it if it is known."""
    spec = provenance_of(name, column_numbers(values)) if is_text_list(values.type) else None
    if name not in context.row_columns():
        context.record.add_column(name, verified=spec is not None)
    if spec is not None:
        context.record.add_spec(spec)


def candidate_labels(
    context: RoundContext, labels: RowLabels, rows: np.ndarray, min_count: int, name: str
) -> tuple[np.ndarray, RowLabels]:
    """Return the rows with a frequent label, and the labels of these rows; the others are counted as excluded.

    Args:
        context: Context of the round.
        labels: Labels of all rows.
        rows: Rows that can be selected.
        min_count: Labels of fewer of these rows are ignored.
        name: Name of the labels, for the record.

    Raises:
        SelectionError: No label is that frequent.
    """
    matrix = labels.matrix[rows]
    context.exclude(f"without {name}", rows[matrix.getnnz(axis=1) == 0])
    most = max(labels.matrix.getnnz(axis=0), default=0)
    if 0 < most < min_count:
        raise SelectionError(
            f"None of the {name} has {min_count:,} rows (min_count): the most frequent one has {most:,}. "
            "Lower min_count."
        )
    is_frequent = matrix.getnnz(axis=0) >= max(min_count, 1)
    matrix = matrix[:, is_frequent]
    has_label = matrix.getnnz(axis=1) > 0
    context.exclude(_rare_reason(name, min_count), rows[~has_label])
    names = tuple(name for name, is_kept in zip(labels.names, is_frequent, strict=True) if is_kept)
    return rows[has_label], RowLabels(names, matrix[has_label], labels.are_texts)


def _rare_reason(name: str, min_count: int) -> str:
    return f"with only {name} of fewer than {min_count} rows"


def describe_labels(
    context: RoundContext, labels: RowLabels, selected: np.ndarray, row: int, min_count: int, name: str
) -> list[str]:
    """Describe the labels of a row, and how many selected rows have each, for `explain`.

    Args:
        context: Context of the round, as it was when the rows were selected.
        labels: Labels of all rows.
        selected: Row numbers that were selected, best first.
        row: Row number to describe.
        min_count: Labels of fewer of the rows that can be selected are ignored.
        name: Name of the labels.
    """
    own = labels.matrix[row].indices
    if not len(own):
        return ["It has no label."]
    frequency = labels.matrix[np.flatnonzero(context.eligible)].getnnz(axis=0)[own]
    if row not in selected and frequency.max() < min_count:
        listed = ", ".join(f"{labels.names[label]!r} ({count:,})" for label, count in zip(own, frequency, strict=True))
        return [f"It was excluded: {_rare_reason(name, min_count)} (min_count). Its {name}, and their rows: {listed}."]
    rank = np.flatnonzero(selected == row)
    before, when = (selected[: rank[0]], " before it") if len(rank) else (selected, "")
    counts = labels.matrix[before].getnnz(axis=0)[own]
    listed = ", ".join(f"{labels.names[label]!r} ({count:,})" for label, count in zip(own, counts, strict=True))
    return [f"Its labels, and how many of the {len(before):,} rows selected{when} have them: {listed}."]


def mean_vectors(labels: RowLabels, rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the mean of the vectors of the rows with each label.

    Args:
        labels: Labels of some rows.
        rows: Row numbers of these rows, each with a vector.
        vectors: Vectors of all rows, shape (rows, dimensions).

    Returns:
        float64 of shape (labels, dimensions).
    """
    total = np.zeros((len(labels.names), vectors.shape[1]))
    for block in row_blocks(len(rows), vectors.shape[1] * total.itemsize):
        total += labels.matrix[block].T @ vectors[rows[block]].astype(np.float64)
    means: np.ndarray = total / np.maximum(labels.matrix.getnnz(axis=0), 1)[:, None]
    return means


def _text_labels(values: pa.Array, name: str) -> RowLabels:
    types = pa.types
    if types.is_string(values.type) or types.is_large_string(values.type):
        texts = values.to_pylist()
        lists = [_listed(text, name) for text in texts]
        _check_separators([tags[0] for text, tags in zip(texts, lists, strict=True) if tags == [text]], name)
        values = pa.array(lists, pa.list_(pa.string()))
    is_empty = types.is_null(values.type) or (types.is_list(values.type) and types.is_null(values.type.value_type))
    if not is_text_list(values.type) and not is_empty:
        raise ColumnError(
            f"Column {name!r} holds {values.type}, and labels are lists of texts, texts, or cluster numbers."
        )
    rows_tags: list[list[Any] | None] = values.to_pylist()
    rows = np.repeat(np.arange(len(rows_tags)), [len(tags or ()) for tags in rows_tags])
    flat = [tag or "" for tags in rows_tags for tag in tags or ()]
    names = sorted(set(flat) - {""})
    code_of = {tag: code for code, tag in enumerate(names)}
    codes = np.array([code_of.get(tag, -1) for tag in flat], dtype=np.int64)
    return RowLabels(tuple(names), _matrix(rows[codes >= 0], codes[codes >= 0], len(values), len(names)))


def _check_separators(texts: list[str], name: str) -> None:
    """Raise `ColumnError` if many texts seem to be several tags: if they share parts between separators with others.

    One label such as "Arts, crafts" shares no part with other labels.
    """
    counts = Counter(text for text in texts if text)
    for separator in ",;|":
        parts = {text: {part.strip() for part in text.split(separator)} - {""} for text in counts}
        owners = Counter(part for own in parts.values() for part in own)
        joined = [text for text, own in parts.items() if separator in text and any(owners[part] > 1 for part in own)]
        if 10 * sum(counts[text] for text in joined) >= counts.total() > 0:
            split = f"[tag.strip() for tag in (row[{name!r}] or '').split({separator!r})]"
            raise ColumnError(
                f"Column {name!r} holds texts such as {joined[0][:60]!r}, and each text is one tag. Split them: "
                f"dataset.map(lambda row: {{{name!r}: {split}}}). If each is one tag, make it a list: [row[{name!r}]]."
            )


def _listed(text: str | None, name: str) -> list[str]:
    """Return the labels in a text: those of a list in JSON, or the text itself."""
    if text is None or not text.strip().startswith("["):
        return [] if text is None else [text]
    try:
        tags = json.loads(text)
    except ValueError:
        return [text]
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ColumnError(f"Column {name!r} holds {text[:60]!r}, and a list of labels is a list of texts.")
    return tags


def _matrix(rows: np.ndarray, codes: np.ndarray, num_rows: int, num_labels: int) -> csr_matrix:
    from scipy.sparse import csr_matrix

    matrix = csr_matrix((np.ones(len(rows)), (rows, codes)), shape=(num_rows, num_labels))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
