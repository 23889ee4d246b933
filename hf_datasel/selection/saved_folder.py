"""Folder of a saved selection, which holds either the earlier selection or the new one, whenever it is read."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from hf_datasel.atomic import failure_reason, write_draft
from hf_datasel.errors import SelectionError
from hf_datasel.selection.saved_format import parse_selection, recorded_digests, with_digests

__all__ = ["load_folder", "save_folder"]

RECORD, INDICES, SCORES = "selection.json", "indices.npy", "scores.parquet"
_DATA = {"indices": INDICES, "scores": SCORES}
"""Name of a digest in the record -> file."""
_LOCK = "selection.lock"
_LOCK_SECONDS = 60.0


def save_folder(folder: Path, indices: np.ndarray, provenance: dict[str, Any], table: pa.Table) -> None:
    """Save a selection to a folder; see `Selection.save`.

    Rows and scores are first written under names with their digests. The record, which contains the digests, replaces
    the earlier one by a rename, and with it the earlier selection. Then the rows and scores get their usual names.
    `load_folder` finds them under both, so that a process may be killed at any point.

    Args:
        folder: Folder, created if it does not exist.
        indices: Row numbers.
        provenance: Provenance.
        table: Row ids and scores.

    Raises:
        SelectionError: The folder cannot be written to.
    """
    replaced = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            replaced = " The selection that it held before is unchanged." if (folder / RECORD).is_file() else ""
            _put_in_place(folder)  # what a process that was killed has left
            try:
                digests = {
                    "indices": _write_data(folder, INDICES, lambda path: _save_npy(path, indices)),
                    "scores": _write_data(folder, SCORES, lambda path: pq.write_table(table, path)),
                }
                record = write_draft(_new_draft(folder, RECORD), with_digests(provenance, digests))
                os.replace(record, folder / RECORD)
                replaced = ""
            finally:
                _put_in_place(folder)
    except OSError as error:
        raise SelectionError(
            f"Cannot save the selection to {str(folder)!r}: {failure_reason(error)}.{replaced}",
            hint="It is still in memory: save it to another folder.",
            cli_hint="Pass another --output_dir, or make room and run the command again.",
        ) from error


def load_folder(folder: Path) -> tuple[np.ndarray, dict[str, Any], pa.Table]:
    """Load the row numbers, the provenance, and the row ids and scores from a folder; see `Selection.load`.

    Raises:
        SelectionError: A file is missing, damaged or changed, or a later version wrote it.
    """
    record, missing = _read(folder / RECORD), []
    while True:
        digests = recorded_digests(record)
        contents = {
            file: _read(folder / _draft_name(file, digests[key])) if key in digests else None
            for key, file in _DATA.items()
        }
        contents = {file: _read(folder / file) if data is None else data for file, data in contents.items()}
        missing = [file for file, data in {RECORD: record, **contents}.items() if data is None]
        if (current := _read(folder / RECORD)) == record:
            break
        record = current  # another process has saved a selection in the meantime
    if missing or record is None:
        raise SelectionError(f"{str(folder)!r} holds no selection: {', '.join(missing)} not found.")
    return parse_selection(record, contents[INDICES] or b"", [contents[SCORES] or b""], repr(str(folder)))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time write to a folder. The lock ends with its process."""
    path = folder / _LOCK
    try:
        with FileLock(str(path), timeout=_LOCK_SECONDS):
            try:
                yield
            finally:
                with suppress(FileNotFoundError, PermissionError):  # Windows does not remove open files
                    path.unlink()
    except Timeout as error:
        raise SelectionError(
            f"Cannot save the selection to {str(folder)!r}: another process has been saving to it for a minute. "
            "Wait for it, or use another folder."
        ) from error


def _write_data(folder: Path, file: str, write: Callable[[Path], object]) -> str:
    """Write a file under a name with its digest, and return the digest."""
    draft = write_draft(_new_draft(folder, file), write)
    with draft.open("rb") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    os.replace(draft, folder / _draft_name(file, digest))
    return digest


def _put_in_place(folder: Path) -> None:
    """Give the files that the record refers to their usual names, and remove other drafts."""
    digests = recorded_digests(_read(folder / RECORD))
    recorded = {_draft_name(file, digests[key]): file for key, file in _DATA.items() if key in digests}
    for file in (RECORD, INDICES, SCORES):
        for draft in folder.glob(_draft_name(file, "*")):
            if draft.name in recorded:
                os.replace(draft, folder / recorded[draft.name])
            else:
                draft.unlink(missing_ok=True)


def _new_draft(folder: Path, file: str) -> Path:
    return folder / _draft_name(file, f"new-{uuid.uuid4().hex}")


def _draft_name(file: str, digest: str) -> str:
    stem, suffix = file.split(".")
    return f".{stem}-{digest[:32]}.{suffix}"


def _read(path: Path) -> bytes | None:
    """Return the content of a file, or None if it does not exist."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SelectionError(f"Cannot read {str(path)!r}: {failure_reason(error)}.") from error


def _save_npy(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, values)
