"""Rows of CSV and TSV files: the columns of a row format are text, other columns of numbers are numbers."""

from __future__ import annotations

import csv
import io
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from hf_datasel.errors import FormatError

if TYPE_CHECKING:
    from datasets import Features

__all__ = ["csv_features", "csv_tables", "csv_typed"]

_BLOCK = 32 << 20  # bytes; a row has to fit into a block
_INTEGER = r"-?(0|[1-9][0-9]*)"
_NUMBER = r"-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|(?i:-?inf(inity)?|nan)"


def csv_tables(open_file: Callable[[], IO[bytes]], name: str, delimiter: str) -> Iterator[pa.Table]:
    r"""Yield the rows of a CSV file as tables of some rows each, with text in all columns.

    Args:
        open_file: Opens the file.
        name: Name of the file, for messages.
        delimiter: `","` or `"\t"`. A header without commas, but with semicolons or tabs, is split at those.

    Raises:
        FormatError: A row has another number of cells than the header, a column occurs twice, or a text is not UTF-8.
    """
    from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, open_csv

    with io.TextIOWrapper(open_file(), encoding="utf-8-sig", newline="") as text:
        names, header_lines, delimiter = _header(text, name, delimiter)
    if not names:
        return
    try:
        with open_file() as stream:
            yield from map(
                pa.Table.from_batches,
                (
                    [batch]
                    for batch in open_csv(
                        stream,
                        ReadOptions(use_threads=False, block_size=_BLOCK, column_names=names, skip_rows=header_lines),
                        ParseOptions(delimiter=delimiter, newlines_in_values=True),
                        ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
                    )
                ),
            )
    except pa.ArrowInvalid as error:
        if "Empty CSV file" in str(error):
            return
        raise FormatError(f"{name}: {_explained(str(error))}") from error


def _header(text: IO[str], name: str, delimiter: str) -> tuple[list[str], int, str]:
    """Return the names of the columns, the number of lines of the header, and the delimiter."""
    try:
        lines = []
        for line in text:
            lines.append(line)
            if line.strip():
                break
        if lines and delimiter not in lines[-1]:
            delimiter = next((other for other in ",;\t" if other in lines[-1]), delimiter)
        reader = csv.reader(itertools.chain(lines, text), delimiter=delimiter)
        names = next((cells for cells in reader if cells), [])
    except UnicodeDecodeError as error:
        raise FormatError(f"{name}: the text is not UTF-8 ({error.reason}). Save it as UTF-8.") from error
    names = [column or f"Unnamed: {position}" for position, column in enumerate(names)]  # an index, as in pandas
    if twice := [column for column, count in Counter(names).items() if count > 1]:
        raise FormatError(f"{name}: the header has the column {twice[0]!r} twice. Rename one of them.")
    return names, reader.line_num, delimiter


def _explained(message: str) -> str:
    line = message.splitlines()[0].removeprefix("CSV parse error: ").removeprefix("In ")
    if "invalid UTF8" in line:
        return "the text is not UTF-8. Save it as UTF-8."
    if line.startswith("Row #"):
        line = f"{line[0].lower()}{line[1:]}. Put quotes around texts that contain the delimiter"
    return f"{line.rstrip('.')}."


def csv_features(tables: Iterable[pa.Table], text_columns: Collection[str]) -> Features:
    """Return the features of tables of text.

    A column is `int64` or `float64` if it is none of `text_columns`, at least one of its cells is a number, and the
    others are numbers or empty. Texts such as "007", dates and "true" are no numbers. All other columns are text, in
    which an empty cell is an empty text.

    Args:
        tables: Tables with text in all columns.
        text_columns: Names of columns that are text whatever their cells look like, in lower case.
    """
    from datasets import Features, Value

    types: dict[str, str] = {}
    for table in tables:
        for column in table.column_names:
            kind = "string" if column.lower() in text_columns else _kind(table[column])
            order = ("", "int64", "float64", "string")
            types[column] = max(types.get(column, ""), kind, key=order.index)
    return Features({column: Value(kind or "string") for column, kind in types.items()})


def _kind(cells: pa.ChunkedArray) -> str:
    present = cells.filter(pc.not_equal(cells, ""))
    if not len(present):
        return ""
    if _all_match(present, _INTEGER):
        try:
            present.cast(pa.int64())
        except pa.ArrowInvalid:  # too large: a name, not a quantity
            return "string"
        return "int64"
    return "float64" if _all_match(present, _NUMBER) else "string"


def _all_match(cells: pa.ChunkedArray, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(cells, f"^({pattern})$")).as_py())


def csv_typed(table: pa.Table, features: Features) -> pa.Table:
    """Return a table of text with the types of the features; missing columns are null.

    Args:
        table: Table with text in all columns.
        features: Features that `csv_features` returned.
    """
    columns: dict[str, Any] = {}
    for name, feature in features.items():
        if name not in table.column_names:
            columns[name] = pa.nulls(len(table), feature.pa_type)
        elif feature.dtype == "string":
            columns[name] = table[name]
        else:
            cells = table[name]
            columns[name] = pc.if_else(pc.equal(cells, ""), None, cells).cast(feature.pa_type)
    return pa.table(columns)
