"""Scores that another library computed, read from its files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ConfigError, ScoreError, check_option
from hf_datasel.scoring.base import Columns, Score, finite_or_null
from hf_datasel.scoring.score_files import (
    Reduction,
    ScoreFile,
    read_row_numbers,
    read_score_file,
    reduced,
)
from hf_datasel.scoring.setting_files import FILE, file_digest
from hf_datasel.tokens import TokenRows

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelRunner

__all__ = ["ImportedScore"]

_BY_ROW_NUMBER = "its file has scores by row number, and a batch does not say which rows it has"


@dataclass(frozen=True)
class ImportedScore(Score):
    """Score that another library computed and saved, such as the attribution scores of bergson or dattri.

    The file has one score for each row of the dataset and query, in the order of the rows; the queries are reduced to
    their mean or highest score. The library itself is not needed. The number of rows is compared with the dataset, so
    score the dataset that the library was run on, before rows are filtered or shuffled. The record has a digest of
    each file, whether the sign was changed, and what the file says about its origin.

    `path` is one of:

    - a folder that `bergson score` or one of its pipelines wrote (`scores.bin`, `info.json`). Its `config.yaml` says
      whether higher is better; scores of candidates only (`candidates.npy`) leave the other rows without a value, as
      do scores that an interrupted run has not written.
    - a tensor that `torch.save` wrote (.pt, .pth), as the one that `attribute` of dattri returns: training rows x test
      rows. It is read with `weights_only=True`.
    - an array or tensor of the same shape (.npy, .safetensors).

    Reads no column. Writes `imported_score` (float32) and `imported_score_reason` ("" for a row with a value). Cost:
    no model; one pass over the file. It is not for `Dataset.map`, whose batches have no row numbers: use
    `hf_datasel.score`.

    Reference: Quirke et al. 2026 (2606.11660), bergson; Deng et al. 2024 (2410.04555), dattri.

    Args:
        path: Folder or file with the scores.
        aggregate: How the scores of a row for several queries become one: their `"mean"`, or the highest (`"max"`).
        row_axis: Axis of the rows: 1 for an array of queries x rows, such as that of dattri's `KNNShapleyAttributor`.
        row_numbers: File (.npy) with the row number of each row of the scores, if the library scored a part of the
            dataset; the other rows are null.
        higher_is_better: Whether higher scores are better; otherwise the sign is changed. None is what the folder of
            bergson says, and true for other files.
        origin: What computed the scores, for the record: `"dattri 0.3.0, TracIn at 4 checkpoints"`.
        column_prefix: Prefix of the name of every column that the score writes.

    >>> ImportedScore("runs/scores", aggregate="max").value_column
    'imported_score'
    """

    path: str = field(metadata=FILE)
    aggregate: Reduction = field(default="mean", kw_only=True)
    row_axis: int = field(default=0, kw_only=True)
    row_numbers: str | None = field(default=None, kw_only=True, metadata=FILE)
    higher_is_better: bool | None = field(default=None, kw_only=True)
    origin: str = field(default="", kw_only=True)

    contract_exceptions: ClassVar[dict[str, str]] = {
        "order": "The file has the scores by row number.",
        "global_state": "The file has the scores of more than the one row of the check.",
    }

    def __post_init__(self) -> None:
        for name in ("path", "row_numbers"):
            value = getattr(self, name)
            if not (isinstance(value, str) and value) and not (name == "row_numbers" and value is None):
                raise ConfigError(f"ImportedScore({name}={value!r}): it has to be the path of a file.")
        check_option(f"ImportedScore(aggregate={self.aggregate!r})", self.aggregate, get_args(Reduction))
        if type(self.row_axis) is not int or self.row_axis not in (0, 1):
            raise ConfigError(f"ImportedScore(row_axis={self.row_axis!r}): it has to be 0 or 1.")
        if self.higher_is_better not in (None, True, False):
            raise ConfigError(
                f"ImportedScore(higher_is_better={self.higher_is_better!r}): it has to be true or false, or None."
            )
        if not isinstance(self.origin, str):
            raise ConfigError(f"ImportedScore(origin={self.origin!r}): it has to be a text.")

    @property
    def not_in_batches(self) -> str:
        """Why a batch of rows cannot be scored: it has no row numbers."""
        return _BY_ROW_NUMBER

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        return {"imported_score": pa.float32(), "imported_score_reason": pa.string()}

    def check(self, rows: int) -> None:
        """Raise an error if the file is not one of scores of this many rows."""
        self._open(rows)

    def check_inputs(self, rows: TokenRows, runner: ModelRunner) -> None:
        """Do nothing: rows are not read, and `check` has read the file."""

    def spec(self) -> dict[str, Any]:
        """Return the settings for the record, with the digests, the shape, the sign and the origin of the files."""
        file = self._file()
        read = {"scored_rows": file.shape[0], "queries": file.shape[1], "negated": self._is_negative(file)}
        digests = {"sha256": file_digest(file.path)}
        if self.row_numbers is not None:
            digests["row_numbers_sha256"] = file_digest(Path(self.row_numbers).expanduser())
        return {**super().spec(), **file.record, **read, **digests}

    def _identity(self) -> str:
        paths = [self.path] + ([self.row_numbers] if self.row_numbers is not None else [])
        files = [Path(path).expanduser() for path in paths]
        return ":".join([super()._identity(), *(file_digest(file) if file.exists() else "missing" for file in files)])

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for all rows of a dataset."""
        total = len(rows.pool)
        file, numbers = self._open(total)
        values, reasons = np.full(total, np.nan), np.full(total, "not_in_file", dtype=object)
        values[numbers], reasons[numbers] = reduced(file, self.aggregate, self._is_negative(file)), ""
        if file.written is not None:
            reasons[numbers[~file.written(slice(None))]] = "not_written"
        values[reasons != ""] = np.nan
        (column,), reason_column = finite_or_null([values[rows.indices]], reasons[rows.indices])
        return {"imported_score": column, "imported_score_reason": reason_column}

    def _file(self) -> ScoreFile:
        file = read_score_file(Path(self.path).expanduser())
        return file.transposed() if self.row_axis == 1 else file

    def _open(self, total: int) -> tuple[ScoreFile, np.ndarray]:
        """Return the file, and the row number of each of its rows, if these fit a dataset of this many rows.

        Raises:
            ScoreError: They do not; or whether higher is better is unknown.
        """
        file = self._file()
        self._is_negative(file)
        scored, queries = file.shape
        if self.row_numbers is not None:
            numbers = read_row_numbers(Path(self.row_numbers).expanduser(), scored)
        elif file.candidates is not None:
            numbers = file.candidates
        elif scored == total:
            return file, np.arange(total)
        else:
            is_turned = queries == total and self.row_axis == 0
            raise ScoreError(
                f"{self.path!r} has scores of {scored:,} rows for {queries:,} queries, and the dataset has {total:,} "
                "rows.",
                "Its second axis has as many: pass row_axis=1."
                if is_turned
                else "Score the dataset that the library was run on; if that was a part of it, name a file of the row "
                "numbers of the part: row_numbers=FILE.npy.",
            )
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < total):
            raise ScoreError(
                f"{self.path!r} has scores of the rows {numbers.min():,} to {numbers.max():,}, and the dataset has "
                f"{total:,} rows, from 0. Score the dataset that the library was run on."
            )
        return file, numbers

    def _is_negative(self, file: ScoreFile) -> bool:
        """Return whether lower scores are better.

        Raises:
            ScoreError: A folder of bergson does not say so, and the setting neither.
        """
        higher = file.higher_is_better if self.higher_is_better is None else self.higher_is_better
        if higher is None and "library" in file.record:
            raise ScoreError(
                f"{self.path!r} does not say whether higher scores are better: its config.yaml has no score_cfg. Pass "
                "higher_is_better=True for scores by gradients, False for those of bergson magic, which are changes "
                "of the loss."
            )
        return higher is False
