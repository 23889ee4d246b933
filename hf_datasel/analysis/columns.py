"""Numeric columns of a pool, read from the dataset or from the tables of selections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa

from hf_datasel._lazy import pc
from hf_datasel.errors import ColumnError, did_you_mean
from hf_datasel.formats import Pool
from hf_datasel.formats.words import count_words
from hf_datasel.scores import Length
from hf_datasel.scoring.engine import Engine
from hf_datasel.scoring.numbers import is_identifier
from hf_datasel.selection import Selection
from hf_datasel.selection.provenance import without_paths

__all__ = ["PoolColumns", "SizeUnit", "group_codes"]


class SizeUnit(TypedDict):
    """Unit of the size of rows.

    Attributes:
        unit: `"tokens"` or `"words"`.
        source: How the sizes were counted, as text.
    """

    unit: str
    source: str


@dataclass(frozen=True)
class PoolColumns:
    """Columns of the pool, from the dataset if it has them, or else from the table of a selection.

    Args:
        selections: Selections by name.
        pool: Pool that the selections were made from; None if the dataset is not available.
    """

    selections: Mapping[str, Selection]
    pool: Pool | None

    @property
    def dataset_columns(self) -> list[str]:
        """Names of the dataset's columns; empty without a dataset."""
        return [] if self.pool is None else list(self.pool.dataset.column_names)

    def column(self, name: str) -> pa.ChunkedArray | None:
        """Return a column of the dataset, or else of the first selection that has it; None if none has it."""
        if self.pool is not None and name in self.dataset_columns:
            return self.pool.dataset.select_columns([name]).with_format("arrow")[:].column(name)
        tables = (selection.table for selection in self.selections.values() if name in selection.score_columns)
        return next((table.column(name) for table in tables), None)

    def missing_column(self, name: str) -> ColumnError:
        """Return the error for a column that neither the dataset nor a selection has."""
        scores = [column for selection in self.selections.values() for column in selection.score_columns]
        columns = list(dict.fromkeys([*self.dataset_columns, *scores]))
        where = "the dataset and the selections have" if self.pool is not None else "the selections have"
        return ColumnError(f"There is no column {name!r}: {where} {columns}.{did_you_mean(name, columns)}")

    def sizes(self, model: Any, processing_class: Any) -> tuple[np.ndarray | None, np.ndarray | None, SizeUnit | None]:
        """Return the words of each response, the size of each row, and the unit of the size.

        Args:
            model: Name or path of the model whose tokenizer counts tokens, or a live model, or None.
            processing_class: Tokenizer of a live model.

        Returns:
            Float64 arrays of shape (rows,), NaN for rows without text; None if the dataset is not available or, for
            responses, the rows have only a text column.
        """
        size, unit = self._token_column()
        if self.pool is None:
            return None, size, unit
        if size is None and model is not None:
            computed = Engine(self.pool, model, processing_class).compute(Length("tokens"))["num_tokens"]
            tokenizer_name = getattr(processing_class, "name_or_path", "") or "the model"
            name = str(model if processing_class is None else tokenizer_name)
            source = f"tokenizer of {without_paths({'model': name})['model']}"
            size, unit = _numbers(computed, "num_tokens"), SizeUnit(unit="tokens", source=source)
        if self.pool.format == "tokenized":
            if size is None:
                name = self.pool.layout.fields["input_ids"]
                ids = self.pool.dataset.select_columns([name]).with_format("arrow")[:].column(name)
                size = np.asarray(pc.list_value_length(ids).to_numpy(), dtype=np.float64)
                unit = SizeUnit(unit="tokens", source=f"column {name}")
            return None, size, unit
        response_words, row_words = _count_words(self.pool, prompts=size is None)
        if size is None:
            size, unit = row_words, SizeUnit(unit="words", source="prompt and response")
        return (response_words if self.pool.has_responses else None), size, unit

    def _token_column(self) -> tuple[np.ndarray | None, SizeUnit | None]:
        """Return the column `num_tokens` if all selected rows have a value in it."""
        column = self.column("num_tokens")
        if column is None:
            return None, None
        values = _numbers(column, "num_tokens")
        if not all(np.isfinite(values[selection.indices]).all() for selection in self.selections.values()):
            return None, None
        return values, SizeUnit(unit="tokens", source="column num_tokens")

    def clusters(self, name: str | None) -> tuple[str, np.ndarray] | None:
        """Return the name of the column of clusters, and the codes of its values as from `group_codes`.

        Args:
            name: Name of the column; by default `cluster_id`, if it exists.

        Raises:
            ColumnError: If the named column does not exist.
        """
        column = self.column(name or "cluster_id")
        if column is None and name is not None:
            raise self.missing_column(name)
        return None if column is None else (name or "cluster_id", group_codes(column, name or "cluster_id"))

    def vector_column(self, name: str | None) -> str | None:
        """Return the name of the column of vectors, by default `embedding`; None if there is none.

        Raises:
            ColumnError: If the named column does not exist in the dataset.
        """
        if name is not None and name not in self.dataset_columns:
            raise self.missing_column(name)
        return name or ("embedding" if "embedding" in self.dataset_columns else None)

    def scores(self, names: Sequence[str], skipped: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the named columns, and the scores in the selections that more than nine tenths of the rows have.

        A score that differs between selections is returned for each of them, as "score of selection".

        Args:
            names: Numeric columns.
            skipped: Scores of selections to skip; numbers of rows and clusters are skipped in any case.

        Returns:
            Values by name, float64 of shape (rows,).

        Raises:
            ColumnError: If a named column does not exist or is not numeric.
        """
        columns: dict[str, np.ndarray] = {}
        for name in names:
            column = self.column(name)
            if column is None:
                raise self.missing_column(name)
            columns[name] = _numbers(column, name)
        by_name: dict[str, dict[str, np.ndarray]] = {}  # name of the score -> name of the selection -> values
        for selection_name, selection in self.selections.items():
            for name in selection.score_columns:
                if name in skipped or not _is_quantity(name, selection.table.schema.field(name).type):
                    continue
                values = selection.scores(name)
                if np.isfinite(values).sum() <= 0.9 * len(values):
                    continue
                versions = by_name.setdefault(name, {"": columns[name]} if name in columns else {})
                if not any(_almost_equal(version, values) for version in versions.values()):
                    versions[selection_name] = values
        for name, versions in by_name.items():  # several if computed with different settings or models
            for selection_name, values in versions.items():
                columns[f"{name} of {selection_name}" if selection_name and len(versions) > 1 else name] = values
        return columns


def _is_quantity(name: str, type_: pa.DataType) -> bool:
    return (pa.types.is_floating(type_) or pa.types.is_integer(type_)) and not is_identifier(name)


def _almost_equal(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether scores are equal up to the effect of different batch sizes."""
    return np.allclose(first, second, rtol=1e-4, atol=1e-4 * float(np.nanstd(first)), equal_nan=True)


def _numbers(column: pa.Array | pa.ChunkedArray, name: str) -> np.ndarray:
    """Return a column as float64, NaN for nulls."""
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        raise ColumnError(f"Column {name!r} holds {column.type}, and a distribution needs numbers.")
    values = column.cast("double", safe=False)
    return np.asarray(values.to_numpy() if isinstance(values, pa.ChunkedArray) else values.to_numpy(False))


def group_codes(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """Return a code from 0 for each distinct value of a column, and -1 for null, NaN and negative numbers.

    Args:
        column: Column of numbers or strings.
        name: Name of the column, for messages.

    Returns:
        The codes, int64 of shape (rows,).

    Raises:
        ColumnError: If the column is nested.
    """
    type_ = column.type
    if pa.types.is_floating(type_) or pa.types.is_integer(type_):
        values = _numbers(column, name)
        valid = np.isfinite(values) & (values >= 0)
        codes = np.full(len(values), -1, dtype=np.int64)
        codes[valid] = np.unique(values[valid], return_inverse=True)[1]
        return codes
    if pa.types.is_nested(type_):
        raise ColumnError(f"Column {name!r} holds {type_}, and groups need numbers or names.")
    encoded = column.combine_chunks().dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    return np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)


def _count_words(pool: Pool, prompts: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the words of each response and, if `prompts`, of each prompt and response; NaN for 0 words."""
    counts = np.zeros((2, len(pool)))
    for index, row in enumerate(pool.rows()):
        counts[0, index] = count_words(row.response)
        if prompts:
            counts[1, index] = count_words(row.prompt)
    counts[1] += counts[0]
    counts[counts == 0] = np.nan
    return counts[0], counts[1]
