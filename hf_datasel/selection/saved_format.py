"""Format of saved and published selections: its version, its digests, and the upgrade of earlier ones."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tokenize
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_datasel.errors import SelectionError
from hf_datasel.rounds.record import WEIGHT_COLUMN
from hf_datasel.spec import upgraded

__all__ = ["FORMAT_VERSION", "parse_selection", "recorded_digests", "upgrade_provenance", "with_digests"]

FORMAT_VERSION = 3
"""Version of the keys in `selection.json`. Raise it when a key changes, and extend `upgrade_provenance`."""

_DIGESTS = "sha256"
"""Key of the digests: of the file of row numbers, of the files of scores, and of all other keys of the record."""
_DIGESTS_SINCE = 3

_RENAMED_IN_2 = {
    "chosen": "selected",
    "left_out": "exclusions",
    "chosen_before": "selected_before",
    "columns_known": "columns_verified",
}

_REQUIRED: dict[str, Any] = {
    "dataset": {"id": str, "rows": int, "format": str},
    "selector": {"selector": str},
    "scores": [{"score": str}],
    "columns_unverified": [str],
    "columns_verified": [str],
    "round": int,
    "seed": int,
    "budget": int,
    "selected": int,
    "shortfall": int,
    "rows_scored": int,
    "not_eligible": {str: int},
    "exclusions": {str: int},
    "versions": {str: str},
}
_COST = {
    "tokens_forward": int,
    "tokens_backward": int,
    "flops": float,
    "wall_seconds": float,
    "device_seconds": float,
    "device": str,
    "peak_memory": object,
}
_OPTIONAL: dict[str, Any] = {
    "plan": [{"budget": int, "epochs": float, "restart": bool}],
    "selected_before": int,
    "tokens": {"budget": int, "selected": int},
    "weights": {"min": float, "max": float, "mean": float},
    "seconds": float,
    "cost": _COST,
    "cost_reused": _COST,
    "interrupted": bool,
    "notes": {str: object},
    "files": [{"path": str, "sha256": str}],
    "model": {"name": str},
    "training": {"settings": {str: object}, "in_python": [str]},
}
_OPTIONAL_IN_DATASET: dict[str, Any] = {
    "name": str,
    "revision": str,
    "config": str,
    "split": str,
    "changed": bool,
    "columns": {str: str},
}

_INNER_SELECTORS = {"chain": "then", "weighted": "method", "within": "method"}
"""Setting that is a selector, by the selector that has it."""

_TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def with_digests(provenance: Mapping[str, Any], digests: Mapping[str, str]) -> str:
    """Return the text of a `selection.json`: the provenance, with the digests that are checked when it is loaded.

    Args:
        provenance: Provenance of the selection.
        digests: SHA-256 in hexadecimal of the file of row numbers as `indices`, and of the files of scores as
            `scores`.
    """
    record = json.loads(json.dumps({**provenance, _DIGESTS: dict(digests)}, ensure_ascii=False, default=str))
    record[_DIGESTS]["record"] = _record_digest(record)
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def recorded_digests(record: bytes | None) -> dict[str, str]:
    """Return the digests of the data files in a `selection.json`; empty if there are none.

    Args:
        record: Content of the file, or None if there is no file.
    """
    try:
        content = json.loads(record or b"")
    except (ValueError, RecursionError):
        return {}
    digests = content.get(_DIGESTS) if isinstance(content, dict) else None
    pairs = digests.items() if isinstance(digests, dict) else ()
    return {key: value for key, value in pairs if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)}


def parse_selection(
    record: bytes,
    indices: bytes,
    scores: Sequence[bytes],
    source: str,
    convert: Callable[[pa.Table, dict[str, Any]], pa.Table] | None = None,
) -> tuple[np.ndarray, dict[str, Any], pa.Table]:
    """Return row numbers, provenance and table of a saved or published selection, after checks of all three.

    Args:
        record: Content of `selection.json`.
        indices: Content of `indices.npy`.
        scores: Contents of the Parquet files of the row ids and scores, in order.
        source: Folder or repository that they were read from, for messages.
        convert: Function of the table in the files and the provenance that returns the table of the selection.

    Raises:
        SelectionError: They are damaged, changed or do not belong together, or a later version of hf_datasel wrote
            them.
    """
    content = _parse_json(record, source)
    provenance = upgrade_provenance(content, source)
    provenance.pop(_DIGESTS, None)
    _check_digests(content, indices, scores, source)
    try:
        _check_types(provenance, _REQUIRED, _OPTIONAL, "")
        _check_types(provenance["dataset"], {}, _OPTIONAL_IN_DATASET, "dataset.")
        _check_selector(provenance["selector"], "selector.")
    except TypeError as error:
        raise SelectionError(f"The selection.json in {source} is no record of a selection: {error}.") from error
    rows = _parse_npy(indices, source)
    table = _parse_parquet(scores, source)
    if convert is not None:
        try:
            table = convert(table, provenance)
        except (KeyError, ValueError, TypeError, pa.ArrowException) as error:
            raise _damaged(source, f"its scores cannot be read: {_one_line(error)}") from error
    _check_contents(rows, provenance, table, source)
    return rows, provenance, table


def upgrade_provenance(provenance: Any, source: str) -> dict[str, Any]:
    """Return the provenance of a saved selection with the keys and names of the current format.

    Args:
        provenance: Content of a `selection.json`.
        source: Folder or repository that it was read from, for messages.

    Raises:
        SelectionError: It is no provenance of a selection, or a later version of hf_datasel wrote it.
    """
    version = provenance.get("format_version") if isinstance(provenance, dict) else None
    if type(version) is not int or version < 1:
        raise SelectionError(f"The selection.json in {source} is no record of a selection.")
    if version > FORMAT_VERSION:
        raise SelectionError(
            f"The selection in {source} has format_version {version}, written by {_writer(provenance)}, and this "
            f"version of hf_datasel reads up to {FORMAT_VERSION}. Upgrade hf_datasel to read it."
        )
    try:
        current = _from_1(provenance) if version == 1 else provenance
        current = current | {key: upgraded(current[key]) for key in ("selector", "scores") if key in current}
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # a value of another type
        raise SelectionError(f"The selection.json in {source} is no record of a selection.") from error
    return {**current, "format_version": FORMAT_VERSION}


def _writer(provenance: dict[str, Any]) -> str:
    packages = provenance.get("versions")
    version = packages.get("hf-datasel") if isinstance(packages, dict) else None
    return f"hf_datasel {version}" if version else "a later version of hf_datasel"


def _from_1(provenance: dict[str, Any]) -> dict[str, Any]:
    renamed = {_RENAMED_IN_2.get(key, key): value for key, value in provenance.items()}
    if "tokens" in renamed:
        renamed["tokens"] = {_RENAMED_IN_2.get(key, key): value for key, value in renamed["tokens"].items()}
    if "plan" in renamed:
        renamed["plan"] = [
            {**step, "kind": "selection"} if step.get("kind") == "choice" else step for step in renamed["plan"]
        ]
    return renamed


# -- checks ----------------------------------------------------------------------------------------------------------
def _damaged(source: str, problem: str) -> SelectionError:
    return SelectionError(
        f"The selection in {source} is damaged: {problem}. Restore its files from a copy or an earlier revision, or "
        "select again."
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


def _parse_json(record: bytes, source: str) -> Any:
    try:
        return json.loads(record)
    except (ValueError, RecursionError) as error:
        raise _damaged(source, f"selection.json is no valid JSON ({_one_line(error)})") from error


def _parse_npy(content: bytes, source: str) -> np.ndarray:
    file = io.BytesIO(content)
    try:
        rows = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, TypeError, OverflowError, MemoryError, SyntaxError, tokenize.TokenError) as error:
        raise _damaged(source, f"indices.npy cannot be read ({_one_line(error)})") from error
    if rows.ndim != 1 or rows.dtype != np.int64 or file.read(1):
        raise _damaged(source, f"indices.npy holds {rows.dtype} of shape {rows.shape}, not a list of row numbers")
    return np.asarray(rows)


def _parse_parquet(contents: Sequence[bytes], source: str) -> pa.Table:
    try:
        return pa.concat_tables([pq.ParquetFile(pa.BufferReader(content)).read() for content in contents])
    except (ValueError, KeyError, TypeError, OSError, MemoryError, OverflowError, pa.ArrowException) as error:
        raise _damaged(source, f"its scores cannot be read ({_one_line(error)})") from error


def _record_digest(record: Mapping[str, Any]) -> str:
    """Return the digest of a record without its own digest, which spaces and the order of keys do not change."""
    digests = {key: value for key, value in record[_DIGESTS].items() if key != "record"}
    text = json.dumps({**record, _DIGESTS: digests}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_digests(content: dict[str, Any], indices: bytes, scores: Sequence[bytes], source: str) -> None:
    """Raise if the record, the row numbers or the scores are not as they were written."""
    digests = content.get(_DIGESTS)
    if digests is None and content["format_version"] < _DIGESTS_SINCE:
        return  # saved by a version without digests
    if not isinstance(digests, dict) or digests.get("record") != _record_digest(content):
        raise _damaged(source, "selection.json is not as it was written (its sha256 differs)")
    scores_digest = hashlib.sha256()
    for part in scores:
        scores_digest.update(part)
    found = {"indices": hashlib.sha256(indices).hexdigest(), "scores": scores_digest.hexdigest()}
    for key, what in (("indices", "indices.npy is"), ("scores", "the scores are")):
        if digests.get(key) != found[key]:
            raise _damaged(source, f"{what} not what was written with its selection.json (the sha256 differs)")


def _check_selector(spec: Mapping[str, Any], name: str) -> None:
    """Raise `TypeError` if a setting that has to be a score or a selector has another type."""
    if isinstance(spec.get("by"), dict):
        _check_types(spec, {"by": {"score": str}}, {}, name)
    if (inner := _INNER_SELECTORS.get(spec["selector"])) is not None:
        _check_types(spec, {inner: {"selector": str}}, {}, name)
        _check_selector(spec[inner], f"{name}{inner}.")


def _check_types(value: Any, required: Mapping[Any, Any], optional: Mapping[str, Any], name: str) -> None:
    """Raise `TypeError` if a value of a record has another type; its message names the key."""
    for key, expected in required.items():
        if key not in value:
            raise TypeError(f"it has no {name}{key}")
        _check_type(value[key], expected, f"{name}{key}")
    for key, expected in optional.items():
        if value.get(key) is not None:
            _check_type(value[key], expected, f"{name}{key}")


def _check_type(value: Any, expected: Any, name: str) -> None:
    if isinstance(expected, list):
        if not isinstance(value, list):
            raise TypeError(f"{name} is no list")
        for index, item in enumerate(value):
            _check_type(item, expected[0], f"{name}[{index}]")
    elif isinstance(expected, dict):
        if not isinstance(value, dict):
            raise TypeError(f"{name} is no object")
        if str in expected:
            expected = dict.fromkeys(value, expected[str])
        _check_types(value, expected, {}, f"{name}.")
    elif expected is not object:
        is_type = isinstance(value, int | float if expected is float else expected)
        if not is_type or (isinstance(value, bool) and expected is not bool):
            raise TypeError(f"{name} is not {_TYPE_NAMES[expected]}")


def _check_contents(rows: np.ndarray, provenance: dict[str, Any], table: pa.Table, source: str) -> None:
    """Raise if row numbers, provenance and table do not fit together."""
    pool_rows = provenance["dataset"]["rows"]
    if table.column_names[:1] != ["row_id"] or table.schema.field(0).type != pa.binary(32):
        raise _damaged(source, "its scores have no column of row ids")
    if len(table) != pool_rows:
        raise _damaged(source, f"it has scores of {len(table):,} rows for a pool of {pool_rows:,}")
    if rows.size and not 0 <= rows.min() <= rows.max() < pool_rows:
        raise _damaged(source, f"it has row numbers beyond its pool of {pool_rows:,} rows")
    if (repeated := rows.size - np.unique(rows).size) > 0:
        raise _damaged(source, f"{repeated:,} of its {rows.size:,} row numbers are repeated")
    if rows.size != provenance["selected"]:
        raise _damaged(source, f"it has {rows.size:,} row numbers for {provenance['selected']:,} selected rows")
    if _ids_digest(table.column("row_id")) != provenance["dataset"]["id"]:
        raise _damaged(source, "its row ids are not those of the dataset that it was made from")
    if "weights" in provenance:
        weights = table.column(WEIGHT_COLUMN) if WEIGHT_COLUMN in table.column_names else None
        if weights is None or weights.type != pa.float32() or weights.take(pa.array(rows)).null_count:
            raise _damaged(source, "its selected rows have weights, but not all of them are there")
    if len(set(table.column_names)) < table.num_columns:
        raise _damaged(source, "two of its scores have the same name")


def _ids_digest(column: pa.ChunkedArray) -> str:
    """Return the SHA-256 of the row ids in order, which is the id of the dataset; "" if ids are missing."""
    if column.null_count:
        return ""
    digest = hashlib.sha256()
    for chunk in column.chunks:
        digest.update(memoryview(chunk.buffers()[1])[32 * chunk.offset : 32 * (chunk.offset + len(chunk))])
    return digest.hexdigest()
