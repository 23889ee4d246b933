"""Rows of JSON files, with the types that their values have: text stays text, whatever it looks like."""

from __future__ import annotations

import codecs
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa

from hf_datasel.errors import FormatError
from hf_datasel.formats.json_values import dump_json
from hf_datasel.formats.layouts import FORMATS
from hf_datasel.formats.message_shapes import is_chat

if TYPE_CHECKING:
    from datasets import Features

__all__ = ["json_features", "json_rows", "json_table"]

Kind = Any
"""Type of values: the name of a scalar type, "null", "json", `[kind]` for lists, or `{key: kind}` for objects."""

_CHUNK_ROWS = 1_000
_CHATS = ("messages", "conversations", "conversation", "dialog", "dialogue", "chat", "turns")
_NAMES = {name for alternatives in FORMATS.values() for names in alternatives for name in names}


# -- rows ------------------------------------------------------------------------------------------------------------
def json_rows(stream: IO[bytes], name: str, lines: bool) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON file.

    A file holds one object per line, a list of objects, a list of texts (rows with a column `text`), an object with
    one key that holds the list of rows, an object of columns, or one row. A row can also be a list of messages, which
    becomes the column `messages`.

    Args:
        stream: The open file.
        name: Name of the file, for messages.
        lines: Whether an only line is a row, as in JSON Lines, and not a document.

    Yields:
        One dict per row.

    Raises:
        FormatError: The file is not JSON, or holds something else; names the file and the line.
    """
    numbered = ((number, line) for number, line in enumerate(stream, 1) if line.strip(b" \t\r\n\xef\xbb\xbf"))
    number, first = next(numbered, (0, b""))
    if not first:
        return
    try:
        value = json.loads(_decoded(first, name, number))
    except json.JSONDecodeError:
        value = None
    second = next(numbered, None)
    if (isinstance(value, dict) and (second is not None or lines)) or (is_chat(value) and lines):
        yield _row(value)
        yield from _lines(itertools.chain([second] if second else [], numbered), name)
        return
    rest = [] if second is None else [line for _, line in itertools.chain([second], numbered)]
    if value is None or rest:
        stream.seek(0)
        value = _document(stream.read(), name)
    yield from _document_rows(value, name)


def _lines(numbered: Iterable[tuple[int, bytes]], name: str) -> Iterator[dict[str, Any]]:
    for number, line in numbered:
        try:
            value = json.loads(_decoded(line, name, number))
        except json.JSONDecodeError as error:
            raise FormatError(
                f"{name}, line {number:,}, column {error.colno:,}: no valid JSON ({error.msg})."
            ) from error
        if not isinstance(value, dict) and not is_chat(value):
            raise FormatError(f"{name}, line {number:,} holds {_described(value)}; every line has to be an object.")
        yield _row(value)


def _row(value: Any) -> dict[str, Any]:
    return {"messages": value} if isinstance(value, list) else value


def _document(content: bytes, name: str) -> Any:
    try:
        return json.loads(_decoded(content, name, 1))
    except json.JSONDecodeError as error:
        raise FormatError(
            f"{name}, line {error.lineno:,}, column {error.colno:,}: no valid JSON ({error.msg})."
        ) from error


def _decoded(content: bytes, name: str, line: int) -> str:
    content = content.removeprefix(codecs.BOM_UTF8)  # the codec "utf-8-sig" is written in Python
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        raise FormatError(
            f"{name}, line {line:,}: the text is not UTF-8 ({error.reason}). Save it as UTF-8."
        ) from error


def _document_rows(document: Any, name: str) -> list[dict[str, Any]]:
    if isinstance(document, dict):
        return _object_rows(document, name)
    if not isinstance(document, list):
        raise FormatError(f"{name} holds {_described(document)}; it has to hold rows.")
    if document and all(isinstance(value, str) for value in document):
        return [{"text": value} for value in document]
    if is_chat(document):
        return [_row(document)]
    for position, value in enumerate(document):
        if not isinstance(value, dict) and not is_chat(value):
            raise FormatError(f"{name}: row {position:,} is {_described(value)}; every row has to be an object.")
    return [_row(value) for value in document]


def _object_rows(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the rows of one object: those that one of its keys holds, its columns, or itself."""
    values = list(document.values())
    if any(isinstance(document.get(name), str) for name in _NAMES) or any(
        _is_list_of(value, dict) and (set(value[0]) & {"role", "from"} or (name in _CHATS and _is_flat(value[0])))
        for name, value in document.items()
    ):
        return [document]
    tables = {key: value for key, value in document.items() if _is_list_of(value, dict)}
    if len(tables) > 1 and "tools" not in tables:
        counts = ", ".join(f"{key!r} with {len(value):,}" for key, value in tables.items())
        raise FormatError(f"{name} holds several lists of rows: {counts}. Save each of them as a file of its own.")
    if len(tables) == 1 and "tools" not in tables:
        return next(iter(tables.values()))
    if values and all(isinstance(value, list) for value in values):
        lengths = {key: len(value) for key, value in document.items()}
        if len(set(lengths.values())) > 1:
            raise FormatError(f"{name} holds columns of different lengths: {lengths}.")
        return [dict(zip(document, row, strict=True)) for row in zip(*values, strict=True)]
    if values and all(isinstance(value, dict) and value for value in values):
        keys = list(values[0])
        if all(list(value) == keys for value in values[1:]) and all(key.isdecimal() for key in keys):
            return [{column: document[column][key] for column in document} for key in keys]
        return values
    return [document]


def _is_flat(value: dict[str, Any]) -> bool:
    return not any(isinstance(item, list | dict) for item in value.values())


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, kind) for item in value)


def _described(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", type(None): "null", bool: "a truth value"}
    return names.get(type(value), "a number")


# -- types -----------------------------------------------------------------------------------------------------------
def json_features(files: Iterable[Iterable[dict[str, Any]]]) -> Features:
    """Return the features of the rows of files.

    Objects with differing keys, and values of differing types, are `datasets.Json()`, so that no row is padded with
    the keys of another. Integers among decimals are decimals in a column of numbers or of vectors; in objects, such as
    the arguments of tool calls, they stay integers.

    Args:
        files: The rows of each file.
    """
    from datasets import Features

    kinds: dict[str, Kind] = {}
    for chunk in itertools.chain.from_iterable(map(_chunks, files)):
        for name in dict.fromkeys(itertools.chain.from_iterable(chunk)):
            found = _kind([row.get(name) for row in chunk])
            kinds[name] = _merged(kinds[name], found) if name in kinds else found
    return Features({name: _feature(kind) for name, kind in kinds.items()})


def json_table(rows: Iterable[dict[str, Any]], features: Features, name: str) -> Iterator[pa.Table]:
    """Yield the rows as tables of some rows each, `Json` features as JSON text.

    Args:
        rows: The rows.
        features: Features that `json_features` returned for them.
        name: Name of the file, for messages.

    Raises:
        FormatError: A text holds half of a surrogate pair, which UTF-8 cannot represent.
    """
    from datasets import Json

    json_paths = {column: _has(feature, Json) for column, feature in features.items()}
    types = {column: _storage(feature) for column, feature in features.items()}
    read = 0
    for chunk in _chunks(rows):
        columns = {}
        for column, feature in features.items():
            values: list[Any] = [row.get(column) for row in chunk]
            if json_paths[column]:
                values = [_encoded(value, feature) for value in values]
            try:
                columns[column] = pa.array(values, types[column])
            except UnicodeEncodeError as error:
                raise FormatError(
                    f"{name}, rows {read:,} to {read + len(chunk) - 1:,}, {column!r}: a text is not valid Unicode "
                    f"({error.reason})."
                ) from error
        read += len(chunk)
        yield pa.table(columns)


def _chunks(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    iterator = iter(rows)
    while chunk := list(itertools.islice(iterator, _CHUNK_ROWS)):
        yield chunk


def _kind(values: Sequence[Any], in_object: bool = False) -> Kind:
    """Return the kind of values, of which some may be null."""
    types = {type(value) for value in values} - {type(None)}
    if len(types) != 1:
        return "null" if not types else "float64" if types == {int, float} and not in_object else "json"
    (only,) = types
    if only is str:
        return "string"
    present = [value for value in values if value is not None]
    if only is list:
        return [_kind(list(itertools.chain.from_iterable(present)), in_object)]
    if only is dict:
        keys = {frozenset(value) for value in present}
        if len(keys) > 1 or not present[0]:
            return "json"
        return {key: _kind([value[key] for value in present], in_object=True) for key in present[0]}
    if only is int:
        return "int64" if min(present) >= -(2**63) and max(present) < 2**63 else "json"
    return "bool" if only is bool else "float64"


def _merged(first: Kind, second: Kind, in_object: bool = False) -> Kind:
    if first == second or second == "null":
        return first
    if first == "null":
        return second
    if isinstance(first, list) and isinstance(second, list):
        return [_merged(first[0], second[0], in_object)]
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return {key: _merged(first[key], second[key], in_object=True) for key in first}
    numbers = [kind in ("int64", "float64") for kind in (first, second) if isinstance(kind, str)]
    return "float64" if numbers == [True, True] and not in_object else "json"


def _feature(kind: Kind) -> Any:
    from datasets import Json, List, Value

    if isinstance(kind, list):
        return List(_feature(kind[0]))
    if isinstance(kind, dict):
        return {key: _feature(value) for key, value in kind.items()}
    return Json() if kind == "json" else Value(kind)


def _has(feature: Any, kind: type) -> bool:
    if isinstance(feature, dict):
        return any(_has(value, kind) for value in feature.values())
    inner = getattr(feature, "feature", None)
    return isinstance(feature, kind) if inner is None else _has(inner, kind)


def _storage(feature: Any) -> pa.DataType:
    """Return the Arrow type of a feature, with text for `Json`."""
    from datasets import Json

    if isinstance(feature, dict):
        return pa.struct([(key, _storage(value)) for key, value in feature.items()])
    inner = getattr(feature, "feature", None)
    if inner is not None:
        return pa.list_(_storage(inner))
    return pa.string() if isinstance(feature, Json) else feature.pa_type


def _encoded(value: Any, feature: Any) -> Any:
    """Return a value with the parts that are `Json` as JSON text."""
    from datasets import Json

    if value is None:
        return None
    if isinstance(feature, Json):
        return dump_json(value)
    if isinstance(feature, Mapping):
        return {key: _encoded(value.get(key), inner) for key, inner in feature.items()}
    inner = getattr(feature, "feature", None)
    return value if inner is None else [_encoded(item, inner) for item in value]
