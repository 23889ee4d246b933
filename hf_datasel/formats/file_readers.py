"""Kinds of files of rows by their endings, and how each kind is read."""

from __future__ import annotations

import bz2
import gzip
import importlib
import importlib.util
import lzma
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa

from hf_datasel.errors import FormatError
from hf_datasel.formats.csv_files import csv_features, csv_tables, csv_typed
from hf_datasel.formats.json_files import json_features, json_rows, json_table

if TYPE_CHECKING:
    from datasets import Features

__all__ = ["COMPRESSIONS", "KINDS", "file_features", "file_kind", "file_tables"]

KINDS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
"""Kind of file by its ending."""

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
"""Endings of compressed files, which follow the ending of the kind."""


def file_kind(path: Path) -> tuple[str, str, str]:
    """Return the kind of a file, the ending that tells it, and the ending of its compression ("" if there is none).

    Args:
        path: The file, whose endings may be in capitals. The kind of an unknown ending is "".
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else ""
    ending = suffixes[-1] if suffixes else ""
    return KINDS.get(ending, ""), ending, compression


def file_features(files: Sequence[str], text_columns: Collection[str]) -> Features:
    """Return the features of the rows of files of one kind.

    Args:
        files: Paths of the files.
        text_columns: See `csv_features`.
    """
    from datasets import Features

    paths = [Path(file) for file in files]
    kind = file_kind(paths[0])[0]
    if kind == "json":
        features = json_features(_json_rows(path) for path in paths)
    elif kind == "csv":
        features = csv_features((table for path in paths for table in _tables(path)), text_columns)
    else:
        features = Features.from_arrow_schema(next(_tables(paths[0])).schema)
    if not features:
        raise FormatError(f"{', '.join(repr(path.name) for path in paths[:3])}: there are no rows.")
    return features


def file_tables(file: str, features: Features) -> Iterator[pa.Table]:
    """Yield the rows of a file as tables of some rows each.

    Args:
        file: Path of the file.
        features: Features that `file_features` returned.
    """
    path = Path(file)
    kind = file_kind(path)[0]
    if kind == "json":
        yield from json_table(_json_rows(path), features, repr(path.name))
    else:
        yield from (csv_typed(table, features) if kind == "csv" else table for table in _tables(path))


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    with _opener(path)() as stream:
        yield from json_rows(stream, repr(path.name), lines=file_kind(path)[1] != ".json")


def _tables(path: Path) -> Iterator[pa.Table]:
    kind, ending, _ = file_kind(path)
    if kind == "csv":
        yield from csv_tables(_opener(path), repr(path.name), "\t" if ending == ".tsv" else ",")
        return
    with _opener(path)() as stream:
        content = pa.py_buffer(stream.read())
    if kind == "parquet":
        import pyarrow.parquet as pq

        yield pq.read_table(pa.BufferReader(content))
        return
    try:
        yield pa.ipc.open_stream(content).read_all()
    except pa.ArrowInvalid:
        yield pa.ipc.open_file(content).read_all()


def _opener(path: Path) -> Callable[[], IO[bytes]]:
    """Return a function that opens a file and decompresses it."""
    compression = file_kind(path)[2]
    if compression == ".zst":
        if importlib.util.find_spec("zstandard") is None:
            raise FormatError(
                f"{path.name!r} is compressed with Zstandard, and the package zstandard is not installed. Install it "
                "with pip install zstandard."
            )
        return partial(importlib.import_module("zstandard").open, path, "rb")
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return partial(openers.get(compression, open), path, "rb")
