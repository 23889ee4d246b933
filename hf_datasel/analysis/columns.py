"""Columns of a pool, wherever they are known, as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ColumnError, did_you_mean
from hf_datasel.formats import Pool
from hf_datasel.scores import Length
from hf_datasel.scoring.engine import Engine
from hf_datasel.selection import Selection
from hf_datasel.selection.provenance import without_paths

__all__ = ["Counted", "PoolColumns", "codes_of"]


class Counted(TypedDict):
    """What the size of a row is counted in: `"tokens"` or `"words"`, and where the counts come from, in words."""

    unit: str
    source: str


@dataclass(frozen=True)
class PoolColumns:
    """Columns of the pool, wherever they are known: in the dataset, or in the table of a selection."""

    selections: Mapping[str, Selection]
    pool: Pool | None

    @property
    def columns(self) -> list[str]:
        return [] if self.pool is None else list(self.pool.dataset.column_names)

    def column(self, name: str) -> pa.ChunkedArray | None:
        """As it is in the dataset, else in the first selection that has it."""
        if self.pool is not None and name in self.columns:
            return self.pool.dataset.select_columns([name]).with_format("arrow")[:].column(name)
        tables = (each.table for each in self.selections.values() if name in each.score_columns)
        return next((table.column(name) for table in tables), None)

    def missing(self, name: str) -> ColumnError:
        tables = dict.fromkeys(column for each in self.selections.values() for column in each.score_columns)
        there = list(dict.fromkeys([*self.columns, *tables]))
        where = "the dataset and the selections have" if self.pool is not None else "the selections have"
        return ColumnError(f"There is no column {name!r}: {where} {there}.{did_you_mean(name, there)}")

    def sizes(self, model: Any, tokenizer: Any) -> tuple[np.ndarray | None, np.ndarray | None, Counted | None]:
        """Words of each response, tokens or words of each row, and what these are."""
        tokens, counted = None, None
        found = self.column("num_tokens")
        if found is not None:
            values = _numbers(found, "num_tokens")
            if all(np.isfinite(values[each.indices]).all() for each in self.selections.values()):
                tokens, counted = values, Counted(unit="tokens", source="column num_tokens")
        if self.pool is None:
            return None, tokens, counted
        if tokens is None and model is not None:
            computed = Engine(self.pool, model, tokenizer).compute(Length("tokens"))["num_tokens"]
            name = str(model if tokenizer is None else getattr(tokenizer, "name_or_path", "") or "the model")
            source = f"tokenizer of {without_paths({'model': name})['model']}"
            tokens, counted = _numbers(computed, "num_tokens"), Counted(unit="tokens", source=source)
        response, whole = _words(self.pool, whole=tokens is None)
        if tokens is None:
            tokens, counted = whole, Counted(unit="words", source="prompt and response")
        return (None if self.pool.format == "text" else response), tokens, counted

    def clusters(self, name: str | None) -> tuple[str, np.ndarray] | None:
        """Name of the column, and a number from 0 for the cluster of each row, -1 for none."""
        found = self.column(name or "cluster_id")
        if found is None and name is not None:
            raise self.missing(name)
        return None if found is None else (name or "cluster_id", codes_of(found, name or "cluster_id"))

    def vector_column(self, name: str | None) -> str | None:
        if name is not None and name not in self.columns:
            raise self.missing(name)
        return name or ("embedding" if "embedding" in self.columns else None)

    def scores(self, named: Sequence[str], skipped: Sequence[str]) -> dict[str, np.ndarray]:
        """The columns that are named, and the scores of the pool that selections know; each one once.

        Left out are those of `skipped`, and the numbers of clusters, which are no quantities.
        """
        found: dict[str, np.ndarray] = {}
        for name in named:
            column = self.column(name)
            if column is None:
                raise self.missing(name)
            found[name] = _numbers(column, name)
        known: dict[str, dict[str, np.ndarray]] = {}  # name of the score -> owner -> values
        for owner, each in self.selections.items():
            for name in each.score_columns:
                kind = each.table.schema.field(name).type
                number = pa.types.is_floating(kind) or pa.types.is_integer(kind)
                if not number or name.endswith("_id") or name in skipped:
                    continue
                values = each.scores(name)
                if np.isfinite(values).sum() <= 0.9 * len(values):
                    continue
                of_name = known.setdefault(name, {"": found[name]} if name in found else {})
                if not any(_are_equal(other, values) for other in of_name.values()):
                    of_name[owner] = values
        for name, of_name in known.items():  # several were computed with other settings, or by another model
            for owner, values in of_name.items():
                found[f"{name} of {owner}" if owner and len(of_name) > 1 else name] = values
        return found


def _are_equal(one: np.ndarray, other: np.ndarray) -> bool:
    """But for what batches of other sizes change."""
    return np.allclose(one, other, rtol=1e-4, atol=1e-4 * float(np.nanstd(one)), equal_nan=True)


def _numbers(column: pa.Array | pa.ChunkedArray, name: str) -> np.ndarray:
    """A column as float64, NaN where it is null."""
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        raise ColumnError(f"Column {name!r} holds {column.type}, and a distribution needs numbers.")
    values = column.cast("double")
    return np.asarray(values.to_numpy() if isinstance(values, pa.ChunkedArray) else values.to_numpy(False))


def codes_of(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """A number from 0 for each different value, int64 of shape (rows,); -1 for null, NaN and negative numbers."""
    kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        values = _numbers(column, name)
        known = np.isfinite(values) & (values >= 0)
        codes = np.full(len(values), -1, dtype=np.int64)
        codes[known] = np.unique(values[known], return_inverse=True)[1]
        return codes
    if pa.types.is_nested(kind):
        raise ColumnError(f"Column {name!r} holds {kind}, and groups need numbers or names.")
    encoded = column.combine_chunks().dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    return np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)


def _words(pool: Pool, whole: bool) -> tuple[np.ndarray, np.ndarray]:
    """Words of each response and, with `whole`, of each row; NaN where there are none."""
    counts = np.zeros((2, len(pool)))
    for at, row in enumerate(pool.rows()):
        counts[0, at] = len(row.response.split())
        if whole:
            counts[1, at] = len(row.prompt.split())
    counts[1] += counts[0]
    counts[counts == 0] = np.nan
    return counts[0], counts[1]
