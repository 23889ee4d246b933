"""Results with one value per row: their summary by group, and their file."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa

from hf_datasel.atomic import failure_reason, write_file
from hf_datasel.errors import EvaluationError

__all__ = ["RowResults"]

_METADATA = b"hf_datasel"
_DIGEST_BYTES = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class RowResults(ABC):
    """One value per held-out row, with what identifies the row and the measurement.

    Args:
        row_ids: SHA-256 of the canonical content of each row, as `Pool.row_ids`: uint8 of shape (rows, 32). Results
            of two models are paired by them.
        reasons: Reason why a row has no value, str of shape (rows,); empty for rows with one.
        groups: Group of each row, str of shape (rows,); empty without `group_by` and where the column is null.
        settings: Model and settings of the measurement, plain values.
    """

    row_ids: np.ndarray
    reasons: np.ndarray
    groups: np.ndarray
    settings: dict[str, Any]

    kind: ClassVar[str]
    """Name of the measurement in files and in `to_dict`."""
    version: ClassVar[int] = 1
    """Version of the measurement: it is increased when equal settings give other numbers."""

    def __len__(self) -> int:
        return len(self.reasons)

    @property
    @abstractmethod
    def values(self) -> np.ndarray:
        """Value of each row, float64 of shape (rows,); NaN for a row without one."""

    @property
    def without_value(self) -> dict[str, int]:
        """Number of rows without a value, which are in no mean, by reason."""
        return dict(sorted(Counter(self.reasons[self.reasons != ""].tolist()).items()))

    @abstractmethod
    def summarize(self, rows: np.ndarray) -> dict[str, Any]:
        """Return the means of some rows as plain values.

        Args:
            rows: Which rows with a value to summarize, bool of shape (rows,), at least one.
        """

    def subset(self, rows: np.ndarray) -> Self:
        """Return the results of some rows.

        Args:
            rows: Which rows, bool of shape (rows,), or their numbers.
        """
        return replace(self, **{name: getattr(self, name)[rows] for name in self._columns()})

    @classmethod
    def _columns(cls) -> list[str]:
        return [field.name for field in fields(cls) if field.name != "settings"]

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain values: counts, reasons, means over all rows and by group, and the settings.

        A group of which no row has a value has counts and no means. `groups` is empty without `group_by`.
        """
        grouped = sorted(set(self.groups.tolist())) if self.settings["group_by"] is not None else []
        return {
            "kind": self.kind,
            "version": self.version,
            **self._summary(np.ones(len(self), dtype=bool)),
            "groups": {group: self._summary(self.groups == group) for group in grouped},
            "settings": self.settings,
        }

    def _summary(self, rows: np.ndarray) -> dict[str, Any]:
        with_value = rows & (self.reasons == "")
        counts = {
            "rows": int(rows.sum()),
            "rows_with_value": int(with_value.sum()),
            "rows_without_value": self.subset(rows).without_value,
        }
        return {**counts, **(self.summarize(with_value) if with_value.any() else {})}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Save the results as one Parquet file, atomically, and return its path.

        It has one row per held-out row, and the settings in the metadata of its schema.

        Args:
            path: File to write.

        Raises:
            EvaluationError: The file cannot be written. What was there before is unchanged.
        """
        import pyarrow.parquet as pq

        record = {"kind": self.kind, "version": self.version, "settings": self.settings}
        columns = {name: getattr(self, name) for name in self._columns()}
        columns |= {name: _binary(values) for name, values in columns.items() if values.ndim == 2}
        table = pa.table(columns).replace_schema_metadata({_METADATA: json.dumps(record)})
        return write_file(
            Path(path), lambda draft: pq.write_table(table, draft, write_page_checksum=True), EvaluationError
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Load results that `save` has written.

        Args:
            path: The file.

        Raises:
            EvaluationError: The file does not exist, is damaged, contains other results, or is of a later version.
        """
        import pyarrow.parquet as pq

        name = str(Path(path))
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                table = file.read()
        except pa.ArrowInvalid as error:
            raise EvaluationError(f"{name!r} is damaged, or no Parquet file: {error}") from error
        except OSError as error:
            raise EvaluationError(f"Cannot read {name!r}: {failure_reason(error)}.") from error
        record = json.loads((table.schema.metadata or {}).get(_METADATA, b"{}"))
        if record.get("kind") != cls.kind:
            raise EvaluationError(
                f"{name!r} contains {record.get('kind') or 'no results of hf_datasel.evaluation'}, not {cls.kind}."
            )
        if record["version"] > cls.version:
            raise EvaluationError(
                f"{name!r} has version {record['version']} of {cls.kind}, and this release reads version "
                f"{cls.version}. Update hf_datasel."
            )
        columns = {name: _array(table[name]) for name in cls._columns()}
        columns |= {name: columns[name].astype(np.str_) for name in ("reasons", "groups")}
        return cls(**columns, settings=record["settings"])


def _binary(digests: np.ndarray) -> pa.Array:
    buffer = pa.py_buffer(np.ascontiguousarray(digests).tobytes())
    return pa.Array.from_buffers(pa.binary(_DIGEST_BYTES), len(digests), [None, buffer])


def _array(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_fixed_size_binary(column.type):
        return np.frombuffer(b"".join(column.to_pylist()), dtype=np.uint8).reshape(-1, _DIGEST_BYTES)
    array: np.ndarray = column.to_numpy()
    return array
