"""Pool of instruction rows, read from a dataset."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import FormatError, reason_counts
from hf_datasel.formats.rows import FORMATS, Part, Row, canonical_rows, detect_format

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["POOL_ROW", "Pool", "load_pool"]

logger = logging.getLogger(__name__)

POOL_ROW = "pool_row"
"""Name of the column of converted and tokenized datasets with the row number in the pool."""

_BATCH_SIZE = 1_000
_BUILDERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv", ".arrow": "arrow"}


class Pool:
    """A `datasets.Dataset` read as instruction rows. Row i of the pool is row i of the dataset.

    Args:
        dataset: Dataset in one of the supported row formats.

    Attributes:
        dataset: The dataset with its output format reset.
        format: Name of the row format (see `hf_datasel.formats.rows`).

    Raises:
        FormatError: The dataset is not a `datasets.Dataset` with rows in a supported format.
    """

    def __init__(self, dataset: Dataset):
        from datasets import Dataset, DatasetDict

        if isinstance(dataset, DatasetDict):
            raise FormatError(f"The dataset is a DatasetDict with splits {list(dataset)}. Pass one of them.")
        if not isinstance(dataset, Dataset):
            hint = (
                "Rows of a streaming dataset have no row numbers: map it with a score, select with select_streaming, "
                "or load it with streaming=False."
            )
            if isinstance(dataset, str | Path):
                hint = "Load it with hf_datasel.load_pool first."
            if isinstance(dataset, list | dict):
                kind = "list" if isinstance(dataset, list) else "dict"
                hint = f"Convert it with datasets.Dataset.from_{kind}(rows)."
            raise FormatError(f"A pool has to be a datasets.Dataset, but this is {type(dataset).__name__}. {hint}")
        if dataset.format["type"] == "custom":
            raise FormatError(
                "The dataset transforms its rows with a function passed to with_transform or set_transform. Apply the "
                "function to the stored rows instead: dataset.with_format(None).map(function, batched=True)."
            )
        if {"image", "images"} & set(dataset.column_names):
            raise FormatError("Rows with images cannot be scored or selected yet. Remove the image column.")
        self.format = detect_format(dataset.column_names)
        self.dataset = dataset.with_format(None)

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def columns(self) -> list[str]:
        """Names of the columns of the row format, in the order of the dataset."""
        return row_columns(self.dataset.column_names, self.format)

    def subset(self, indices: np.ndarray) -> Pool:
        """Return a pool of these rows, with their ids and reasons if this pool has computed them.

        Args:
            indices: Row numbers, in the order of the new pool.
        """
        subset = Pool(self.dataset.select(indices))
        if "_scan" in self.__dict__:
            subset.__dict__["_scan"] = tuple(array[indices] for array in self._scan)
        return subset

    def rows(self, indices: Sequence[int] | np.ndarray | None = None) -> Iterator[Row]:
        """Yield the canonical rows.

        Args:
            indices: Row numbers to read, in this order; all rows by default.

        Yields:
            One `Row` per row.

        Raises:
            FormatError: A text is not UTF-8.
        """
        data = self.dataset.select_columns(self.columns)
        if indices is not None:
            data = data.select(np.asarray(indices, dtype=np.int64))
        try:
            for batch in data.iter(batch_size=_BATCH_SIZE):
                yield from canonical_rows(batch, self.format)
        except UnicodeDecodeError as error:
            raise FormatError(
                f"A row of the dataset contains text that is not UTF-8 ({error}). Correct the file that it comes from "
                "and load it again."
            ) from error

    def texts(self, part: Part, indices: Sequence[int] | np.ndarray | None = None) -> list[str]:
        """Return the prompt, the response or both of the rows, as plain text.

        Args:
            part: Part of the row.
            indices: Row numbers to read, in this order; all rows by default.

        Raises:
            FormatError: The rows have only a text column, and `part` is not `"both"`.
        """
        if self.format == "text" and part != "both":
            raise FormatError(
                f"Rows with only a text column have no {part}. Split them into prompt and completion columns."
            )
        return [row.text(part) for row in self.rows(indices)]

    @cached_property
    def _scan(self) -> tuple[np.ndarray, np.ndarray]:
        digests = bytearray(32 * len(self))
        reasons: list[str] = []
        for index, row in enumerate(self.rows()):
            digests[32 * index : 32 * index + 32] = row.digest()
            reasons.append(row.reason)
        ids = np.frombuffer(bytes(digests), dtype=np.uint8).reshape(-1, 32)
        return ids, np.array(reasons, dtype=np.str_) if reasons else np.empty(0, dtype="U1")

    @property
    def row_ids(self) -> np.ndarray:
        """SHA-256 of the canonical content of each row, uint8 of shape (rows, 32)."""
        return self._scan[0]

    @property
    def reasons(self) -> np.ndarray:
        """Reason why each row cannot be used, strings of shape (rows,); empty for usable rows."""
        return self._scan[1]

    @property
    def id(self) -> str:
        """Hash of the row ids in order, which is the same on every machine and in every file format."""
        return hashlib.sha256(self.row_ids.tobytes()).hexdigest()

    def summary(self) -> str:
        """Return one line with the number of rows, the row format, and the number of unusable rows by reason."""
        bad = Counter(self.reasons[self.reasons != ""].tolist())
        line = f"{len(self):,} rows ({self.format})"
        return f"{line}, {sum(bad.values()):,} of them unusable: {reason_counts(bad)}" if bad else line


def row_columns(present: Sequence[str], row_format: str) -> list[str]:
    """Return the columns of a row format, out of those present."""
    needed = next(names for names in FORMATS[row_format] if names <= set(present))
    optional = {"input"} if row_format == "alpaca" else set()
    return [name for name in present if name in needed | optional]


def load_pool(name: str, split: str = "train", config: str | None = None, revision: str | None = None) -> Dataset:
    """Load rows from a file (json, jsonl, parquet, csv, arrow), a `save_to_disk` folder or the Hub.

    Args:
        name: Path of a file or folder, or id of a dataset on the Hub.
        split: Name of the split. A single file has only `train`.
        config: Configuration of a Hub dataset.
        revision: Commit, branch or tag of a Hub dataset.

    Returns:
        The loaded dataset, with at least one row.

    Raises:
        FormatError: The file, folder or dataset does not exist, cannot be read, or has no rows.
    """
    from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
    from datasets.exceptions import DatasetsError

    path = Path(name).expanduser()
    try:
        if path.is_file() and path.stat().st_size == 0:
            raise FormatError(f"{name!r} is empty: it has no rows.")
        if path.is_file():
            data: Any = load_dataset(_builder(path), data_files=str(path), split=split)
        elif (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
            data = load_from_disk(str(path))
            data = data[split] if isinstance(data, DatasetDict) else data
        elif path.suffix in _BUILDERS or name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise FormatError(f"There is no file or folder {name!r}.")
        else:
            data = load_dataset(name, config, split=split, revision=revision)
    except (DatasetsError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        if isinstance(error, FormatError):
            raise
        line = _first_line(error)
        if "corresponds to no data" in line:
            raise FormatError(f"{name!r} (split {split!r}) has no rows.") from error
        raise FormatError(f"Cannot load {name!r} (split {split!r}): {line}") from error
    if not isinstance(data, Dataset) or len(data) == 0:
        raise FormatError(f"{name!r} (split {split!r}) has no rows.")
    return data


def _builder(path: Path) -> str:
    if path.suffix not in _BUILDERS:
        raise FormatError(f"Cannot read {str(path)!r}: the ending has to be one of {', '.join(_BUILDERS)}.")
    return _BUILDERS[path.suffix]


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
