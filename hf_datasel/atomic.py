"""Atomic writing of files: a file is written beside its target and renamed, so that it is never seen half-written."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from hf_datasel.errors import DataselError

__all__ = ["Content", "failure_reason", "remove_old_drafts", "write_draft", "write_file"]

Content = str | bytes | Callable[[Path], object]
"""Text, which is encoded as UTF-8 with its line ends unchanged; bytes; or a function that writes to a path."""

_MAX_DRAFT_AGE = 3600.0
"""Seconds without a change after which a draft counts as left behind by a process that was killed."""


def write_file(path: Path, content: Content, error: type[DataselError] = DataselError) -> Path:
    """Write a file atomically, and return its path.

    The content is written to a draft in the same folder, which is then renamed. Whatever happens, `path` is either the
    file it was before or the new one, and no two writers share a draft.

    Args:
        path: File to write; its folder is created if it does not exist.
        content: Content. A function is called with a path whose suffix is not that of `path`.
        error: Class of the error.

    Raises:
        DataselError: Of the class `error`: the file cannot be written. What was there before is unchanged.
    """
    draft = path.with_name(f".{os.getpid()}-{uuid.uuid4().hex[:12]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_old_drafts(path.parent)
        try:
            os.replace(write_draft(draft, content), path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as failure:
        existing = " What it held before is unchanged." if path.is_file() else ""
        raise error(f"Cannot write {str(path)!r}: {failure_reason(failure)}.{existing}") from failure
    return path


def write_draft(draft: Path, content: Content) -> Path:
    """Write a file that is renamed later, wait until it is on the disk, and return its path.

    Args:
        draft: File to write.
        content: Content.
    """
    if callable(content):
        content(draft)
    else:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
    with draft.open("rb+") as written:
        os.fsync(written.fileno())
    return draft


def failure_reason(error: OSError) -> str:
    """Return why the operating system refused an operation, without the name of the file."""
    if error.errno is not None:
        return os.strerror(error.errno)
    return " ".join(str(error).split()).rstrip(".")


def remove_old_drafts(folder: Path) -> None:
    """Remove drafts that processes which were killed have left in a folder.

    Args:
        folder: Folder of the files that the drafts were to become.
    """
    for draft in folder.glob(".*-*.part"):
        try:
            if time.time() - draft.stat().st_mtime > _MAX_DRAFT_AGE:
                draft.unlink()
        except OSError:  # its writer has finished, or it belongs to somebody else
            continue
