"""Tables of scores: written in shards, and read by column, without the text of the rows."""

from __future__ import annotations

import copy
import glob
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_datasel.errors import DatasetMismatchError, FormatError, ScoreError, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.formats.digest import ids_from_arrow
from hf_datasel.formats.row_scan import RowScan
from hf_datasel.hub.parents import recorded_parents
from hf_datasel.scoring.base import Columns, Score, has_default_numbers
from hf_datasel.scoring.column_provenance import other_settings, record_provenance
from hf_datasel.spec import spec_name, upgraded

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

__all__ = [
    "KEYS",
    "REASON_COLUMN",
    "ROW_COLUMN",
    "ROW_ID_COLUMN",
    "TABLE_VERSION",
    "ScoreTables",
    "TablePool",
    "table_features",
    "table_record",
    "with_record",
]

ROW_COLUMN, ROW_ID_COLUMN, REASON_COLUMN = "row", "row_id", "row_reason"
KEYS = (ROW_COLUMN, ROW_ID_COLUMN, REASON_COLUMN)
"""Columns of a table besides the scores."""
TABLE_VERSION = 2
"""Version of these columns, and of the record. Raise it when they change: the tables are then written again."""

_METADATA = b"hf_datasel"
_SETTINGS = ("version", "format", "columns", "scores", "dataset_rows")
"""Keys of the record that are equal in all tables of a dataset, where they are recorded."""


def table_record(schema: pa.Schema) -> dict[str, Any]:
    """Return what a table records of its rows and scores; empty for a file of another kind."""
    record: dict[str, Any] = json.loads((schema.metadata or {}).get(_METADATA, b"{}"))
    return record


def table_features(schema: pa.Schema, columns: Sequence[str]) -> Features:
    """Return the features of columns of a table. Row ids are bytes of any length: older `datasets` know no fixed one.

    Args:
        schema: Schema of the table.
        columns: Names of the columns.
    """
    from datasets import Features

    fields = [schema.field(name) for name in columns]
    fields = [each.with_type(pa.binary()) if each.name == ROW_ID_COLUMN else each for each in fields]
    return Features.from_arrow_schema(pa.schema(fields))


def with_record(table: pa.Table, record: dict[str, Any]) -> pa.Table:
    """Return a table with another record in its metadata."""
    return table.replace_schema_metadata({_METADATA: json.dumps(record)})


class ScoreTables:
    """The score tables of a dataset, as `hf-datasel score --shard` writes them, to select from without the dataset.

    `select` and `select_streaming` take them in place of the dataset, and read only the columns that the selector
    needs. The selection has the row ids of the tables, so that `Selection.apply` accepts the dataset that was scored,
    and no other one.

    Args:
        folder: Folder of the tables: `scores` in the output folder of `hf-datasel score`; or one table.

    Attributes:
        columns: Names of the columns of the scores.
        format: Row format of the dataset.
        mapping: `columns` that the dataset was read with, or None.

    Raises:
        ScoreError: There are no tables, some are missing, or they do not belong together.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder).expanduser()
        paths = [self.folder] if self.folder.is_file() else sorted(self.folder.glob("*.parquet"))
        if not paths:
            inside = self.folder / "scores"
            advice = f"Name {str(inside)!r}." if inside.is_dir() else "hf-datasel score --shard 0/1 writes them."
            raise ScoreError(f"{str(folder)!r} holds no score tables. {advice}")
        self._schemas = {path: _schema(path) for path in paths}
        self._records = {path: table_record(schema) for path, schema in self._schemas.items()}
        self._paths = sorted(paths, key=lambda path: self._first_row(path))
        self._check()
        first = self._records[self._paths[0]]
        self.columns = [name for name in self._schemas[self._paths[0]].names if name not in KEYS]
        self.format: str = first["format"]
        self.mapping: dict[str, str] | None = first["columns"]

    def __repr__(self) -> str:
        return f"ScoreTables({str(self.folder)!r}, {len(self):,} rows, {', '.join(self.columns)})"

    @staticmethod
    def are_at(path: str | os.PathLike[str]) -> bool:
        """Return whether a folder holds score tables, or a file is one."""
        folder = Path(path).expanduser()
        is_file = folder.suffix == ".parquet" and folder.is_file()
        first = folder if is_file else min(folder.glob("*.parquet"), default=None)
        return first is not None and "specs" in table_record(_schema(first))

    def __len__(self) -> int:
        rows: int = self._records[self._paths[-1]]["rows"][1]
        return rows

    @cached_property
    def specs(self) -> dict[str, dict[str, Any]]:
        """What each column was computed with, as far as it is recorded."""
        specs: dict[str, dict[str, Any]] = {}
        for path in self._paths:
            for name, spec in self._records[path].get("specs", {}).items():
                specs.setdefault(name, upgraded(spec))
        return specs

    def dataset(self, columns: Sequence[str]) -> Dataset:
        """Return columns of the tables, in the order of the rows, mapped from a file in the cache of `datasets`.

        Args:
            columns: Names of the columns. The row numbers are returned in any case.
        """
        from datasets import load_dataset

        data: Dataset = load_dataset("parquet", split="train", **self._files(columns))
        # the tables record where the rows come from, and that is looked up where `datasets` records downloads
        data.info.download_checksums = {str(path): {"num_bytes": None, "checksum": None} for path in self._paths}
        for name in columns:
            if name in self.specs:
                record_provenance(name, data.data.column(name), self.specs[name])
        return data

    def stream(self, columns: Sequence[str]) -> IterableDataset:
        """Return columns of the tables as a stream, in the order of the rows.

        Args:
            columns: Names of the columns. Row numbers, row ids and reasons are returned in any case.
        """
        from datasets import load_dataset

        return load_dataset("parquet", split="train", streaming=True, **self._files([*KEYS[1:], *columns]))

    def rows_of(self, dataset: Dataset, selected: Dataset) -> Dataset:
        """Return the rows of the dataset that were selected from a stream of these tables, with the other columns.

        Only these rows are read.

        Args:
            dataset: The dataset that was scored.
            selected: What `select_streaming` returned.

        Returns:
            The rows in the same order, with the columns of `selected` but the id and the reason, and but the row
            number if the dataset has a column of its own with that name; `selection_row` is the same number.

        Raises:
            DatasetMismatchError: A row differs from the one that was scored.
            ScoreError: `selected` is something else, such as a `Selection`.
        """
        if ROW_ID_COLUMN not in getattr(selected, "column_names", ()):
            raise ScoreError(
                f"selected has to be what select_streaming returned for score tables, and this is "
                f"{type(selected).__name__}. For a Selection, use selection.apply(dataset)."
            )
        from hf_datasel.scoring.score_rows import replace_columns

        keys = selected.select_columns([ROW_COLUMN, ROW_ID_COLUMN]).with_format("arrow")[:]
        numbers = keys.column(ROW_COLUMN).to_numpy()
        if len(dataset) != len(self):
            raise DatasetMismatchError(f"{len(self):,} rows were scored, and the dataset has {len(dataset):,}.")
        rows = dataset.select(numbers)
        differs = (ids_from_arrow(keys.column(ROW_ID_COLUMN)) != Pool(rows, self.mapping).row_ids).any(axis=1)
        if differs.any():
            raise DatasetMismatchError(
                f"The dataset is not the one that was scored: {int(differs.sum()):,} of the {len(rows):,} selected "
                f"rows differ, such as row {numbers[differs][0]:,}."
            )
        own = [ROW_COLUMN] if ROW_COLUMN in dataset.column_names else []
        return replace_columns(rows, [selected.remove_columns([ROW_ID_COLUMN, REASON_COLUMN, *own])])

    def holds(self, score: Score, column: str) -> bool:
        """Return whether a column is recorded to be the output of a score with these settings."""
        spec = self.specs.get(column)
        return spec is not None and column in self.columns and not other_settings(score, spec)

    def check_score(self, score: Score) -> None:
        """Raise if a score cannot be read from the tables.

        Raises:
            ScoreError: Names the scores of the tables.
        """
        column, no_model = score.value_column, score.needs_tokenizer and getattr(score, "model", "") is None
        is_named = no_model and column in self.columns and has_default_numbers(score)
        if not (is_named or self.holds(score, column)):
            self.refuse(score)

    def compute(self, score: Score, rows: np.ndarray | None = None) -> Columns:
        """Return the columns of a score that the tables have, in place of `Engine.compute`.

        Raises:
            ScoreError: The tables do not have the score.
        """
        names = [f"{score.column_prefix}{name}" for name in score.columns()]
        if not (self.holds(score, score.value_column) and set(names) <= set(self.columns)):
            self.refuse(score)
        table = self.dataset(names).with_format("arrow")[:].select(names)
        table = table if rows is None else table.take(pa.array(rows))
        return {name: table.column(name).combine_chunks() for name in names}

    def describe(self, score: Score) -> dict[str, Any]:
        """Return the recorded spec of a score that the tables have."""
        return self.specs[score.value_column]

    def check_mapping(self, columns: Mapping[str, str] | None) -> None:
        """Raise if the rows were scored with other `columns` than these.

        Raises:
            SelectionError: Names both.
        """
        if columns is not None and dict(columns) != (self.mapping or {}):
            raise SelectionError(
                f"The rows of the score tables were read with columns={self.mapping}, and not {dict(columns)}.",
                "Do not pass columns.",
                "Omit --columns.",
            )

    def refuse(self, score: Score) -> NoReturn:
        """Raise the error for a score that is not in the tables."""
        present = ", ".join(self.columns)
        raise ScoreError(
            f"{spec_name(score)} with these settings is not in the score tables in {str(self.folder)!r}, which "
            f"have no text to compute it from. They have {present}: name one of these columns, or score the dataset "
            "again with all scores."
        )

    def scan(self) -> RowScan:
        """Return the ids of all rows, and why rows cannot be used."""
        ids, codes = np.empty((len(self), 32), dtype=np.uint8), np.zeros(len(self), dtype=np.uint8)
        code_of, start = {"": 0}, 0
        for batch in self._batches([ROW_ID_COLUMN, REASON_COLUMN]):
            stop = start + len(batch)
            ids[start:stop] = ids_from_arrow(batch.column(0))
            reasons = batch.column(1).dictionary_encode()
            of_batch = [code_of.setdefault(reason, len(code_of)) for reason in reasons.dictionary.to_pylist()]
            codes[start:stop] = np.array(of_batch, dtype=np.uint8)[reasons.indices.to_numpy()]
            start = stop
        unusable = np.flatnonzero(codes).tolist()
        return RowScan(ids, codes, np.zeros(len(self), dtype=np.uint8), tuple(code_of), dict.fromkeys(unusable, ""))

    def _files(self, columns: Sequence[str]) -> dict[str, Any]:
        paths = [glob.escape(os.path.abspath(path)) for path in self._paths]
        names = [ROW_COLUMN, *columns]
        features = table_features(self._schemas[self._paths[0]], names)
        return {"data_files": paths, "columns": names, "features": features}

    def _batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for path in self._paths:
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(columns=list(columns))

    def _first_row(self, path: Path) -> int:
        """Return the number of the first row of a table; raise if it is none, or has an earlier version."""
        record = self._records[path]
        if "specs" not in record:
            raise ScoreError(f"{str(path)!r} is no score table. Keep other files elsewhere.")
        if record.get("version") != TABLE_VERSION:
            raise ScoreError(
                f"{str(path)!r} was written by another version of hf_datasel. Run the same hf-datasel score --shard "
                "again: it reads computed scores from its store."
            )
        first: int = record["rows"][0]
        return first

    def _check(self) -> None:
        """Raise if tables are missing, overlap, or are of other scores, settings or rows than the first."""
        first, stop, before = self._paths[0], 0, self._paths[0]
        known: dict[str, tuple[Path, dict[str, Any]]] = {}
        total = self._records[first].get("dataset_rows")
        for path in self._paths:
            record = self._records[path]
            differs = [key for key in _SETTINGS if record.get(key) != self._records[first].get(key)]
            if differs or not self._schemas[path].equals(self._schemas[first]):
                rows = [self._records[each].get("dataset_rows") for each in (first, path)]
                values = f" ({rows[0]:,} and {rows[1]:,})" if "dataset_rows" in differs and None not in rows else ""
                what = f"{', '.join(differs) or 'columns'}{values}"
                raise ScoreError(
                    f"{str(first)!r} and {path.name!r} do not belong together: they differ in {what}. Score all "
                    "shards of a dataset with the same settings."
                )
            for name, spec in record["specs"].items():
                settings = {key: value for key, value in upgraded(spec).items() if key != "computed"}
                other, settings_before = known.setdefault(name, (path, settings))
                if settings != settings_before:
                    raise ScoreError(
                        f"{str(other)!r} and {path.name!r} do not belong together: {name} was computed with other "
                        "settings. Score all shards of a dataset with the same settings."
                    )
            if (revisions := _revisions(record)) != (revisions_before := _revisions(self._records[first])):
                raise ScoreError(
                    f"{str(first)!r} and {path.name!r} do not belong together: their rows are those of "
                    f"{revisions_before} and {revisions}. Pass --dataset_revision to all shards."
                )
            if record["rows"][0] < stop:
                raise ScoreError(
                    f"{str(before)!r} and {path.name!r} both have row {record['rows'][0]:,}: keep the tables of one "
                    "number of shards, and delete the others."
                )
            self._check_gap(stop, record["rows"][0], total)
            stop, before = record["rows"][1], path
        self._check_gap(stop, stop if total is None else total, total)

    def _check_gap(self, start: int, stop: int, total: int | None) -> None:
        if start < stop:
            of_all = "" if total is None else f" of the {total:,} rows"
            raise ScoreError(
                f"The score tables in {str(self.folder)!r} lack rows {start:,} to {stop - 1:,}{of_all}: score the "
                "shards that are missing first."
            )


def _revisions(record: Mapping[str, Any]) -> str:
    """Return the datasets on the Hub, with their revisions, that the rows of a table come from."""
    parents = recorded_parents(record.get("parents") or {}).datasets
    return ", ".join(sorted(f"{parent['name']} at {parent['revision']}" for parent in parents)) or "a local file"


class TablePool(Pool):
    """Pool of the rows of score tables, which has their ids and reasons, and columns of scores, but no text.

    Args:
        tables: The tables.

    Attributes:
        dataset: The columns that `load` has read.
    """

    def __init__(self, tables: ScoreTables):
        self.tables, self.format, self.mapping = tables, tables.format, tables.mapping
        self.dataset = tables.dataset([])

    @property
    def columns(self) -> list[str]:
        """Names of the columns that make the rows: none."""
        return []

    @property
    def column_names(self) -> list[str]:
        """Names of all columns of scores, read or not."""
        return self.tables.columns

    @property
    def has_text(self) -> bool:
        """Whether the rows have text: they have none here."""
        return False

    def subset(self, indices: Sequence[int] | np.ndarray) -> TablePool:
        """Return a pool of these rows; see `Pool.subset`."""
        subset, indices = copy.copy(self), np.asarray(indices, dtype=np.int64)
        subset.dataset = self.dataset.select(indices)
        subset.__dict__["_scan"] = self._scan.subset(indices)
        subset.__dict__.pop("reasons", None)
        return subset

    def load(self, columns: Sequence[str]) -> None:
        """Read columns of the tables, besides those that were read before."""
        names = list(dict.fromkeys([*self.dataset.column_names[1:], *columns]))
        if names != self.dataset.column_names[1:]:
            self.dataset = self.tables.dataset(names)

    @cached_property
    def _scan(self) -> RowScan:
        return self.tables.scan()

    def _tables(self, indices: Sequence[int] | np.ndarray | None = None) -> NoReturn:
        raise FormatError(
            f"The score tables in {str(self.tables.folder)!r} have no text. Select from the dataset itself, such as "
            "scored.parquet, which hf-datasel score without --shard writes."
        )


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise ScoreError(f"{str(path)!r} cannot be read: {' '.join(str(error).split())}.") from error
