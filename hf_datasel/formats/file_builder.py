"""Builder of `datasets` for files of rows, which keeps their text as it stands and caches what it has read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import pyarrow as pa
from datasets.builder import Key

from hf_datasel.formats.file_readers import file_features, file_tables

__all__ = ["RowFiles"]


@dataclass
class RowFilesConfig(datasets.BuilderConfig):  # type: ignore[misc]  # datasets has no types
    """Configuration of `RowFiles`, which is part of the name of its cache.

    Args:
        files: Split -> absolute paths of its files.
        stamps: Time of change and size of each file, by path.
        text_columns: Names of columns that are text in a CSV file whatever their cells look like, in lower case.
    """

    files: dict[str, list[str]] = field(default_factory=dict)
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)
    text_columns: Sequence[str] = ()


class RowFiles(datasets.ArrowBasedBuilder):  # type: ignore[misc]  # datasets has no types
    """Rows of JSON, CSV and compressed Arrow and Parquet files.

    `datasets` itself reads "2024-01-01" as a time, "007" as a number, and "None" as a null.
    """

    VERSION = datasets.Version("1.0.0")  # raised when the same file is read differently, for the cache
    BUILDER_CONFIG_CLASS = RowFilesConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo()

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        files = self.config.files
        self.info.features = file_features(
            [name for names in files.values() for name in names], self.config.text_columns
        )
        return [datasets.SplitGenerator(name=split, gen_kwargs={"files": names}) for split, names in files.items()]

    def _generate_tables(self, files: Sequence[str]) -> Iterator[tuple[Key, pa.Table]]:
        for shard, file in enumerate(files):
            for number, table in enumerate(file_tables(file, self.info.features)):
                yield Key(shard, number), table
