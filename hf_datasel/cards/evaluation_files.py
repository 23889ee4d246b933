"""Evaluation results in a repository: `results.json`, and Parquet files with the result of every question."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hf_datasel.atomic import failure_reason
from hf_datasel.cards.facts import Result
from hf_datasel.errors import PublishError
from hf_datasel.hub.secrets import SecretScan
from hf_datasel.selection.provenance import without_paths

__all__ = ["evaluation_folder", "item_files", "publications", "write_evaluation"]

_METADATA = b"hf_datasel"
_RECORD = {"kind", "version", "settings"}
"""Keys of the record in a file that `RowResults.save` of `hf_datasel.evaluation` wrote."""
_NAME = re.compile(r"[A-Za-z0-9_][\w.=,@+-]*(/[A-Za-z0-9_][\w.=,@+-]*)*", re.ASCII)


def item_files(items: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]]) -> dict[str, Path]:
    """Return the files with the result of every question by the names that they are published under.

    Args:
        items: Name -> file; or a folder, of which all such files are returned, also those in its folders, with their
            paths without suffix as names. Other Parquet files in it, such as scores of selections, are skipped.

    Raises:
        PublishError: A file cannot be read or is of another kind, a name is not valid, or a folder has no such file.
    """
    if isinstance(items, Mapping):
        files = {name: Path(path) for name, path in items.items()}
        for path in files.values():
            if _record(path) is None:
                raise PublishError(f"{str(path)!r} has no results of questions: RowResults.save did not write it.")
    else:
        folder = Path(items)
        found = sorted(folder.rglob("*.parquet"))
        files = {
            path.relative_to(folder).with_suffix("").as_posix(): path for path in found if _record(path) is not None
        }
        if not files:
            raise PublishError(
                f"{str(folder)!r} has no files with results of questions, only {len(found)} other Parquet files."
                if found
                else f"{str(folder)!r} has no Parquet files with results of questions."
            )
    for name in files:
        if not _NAME.fullmatch(name):
            raise PublishError(
                f"{name!r} is no name for a published file: it has to consist of letters, digits and the characters "
                "_.=,@+- and /."
            )
    return files


def evaluation_folder(publication: str) -> str:
    """Return the folder of the results of a publication in the repository."""
    return f"evaluation/{publication}"


def publications(files: Iterable[str]) -> list[str]:
    """Return the publications with results in a repository.

    Args:
        files: Paths of all files of the repository.
    """
    return [match[1] for path in files if (match := re.fullmatch(r"evaluation/([^/]+)/results\.json", path))]


def write_evaluation(
    folder: Path, publication: str, results: list[Result], items: Mapping[str, Path], scan: SecretScan
) -> list[str]:
    """Write the results and the files of questions, and return the paths of the latter in the repository.

    The settings in the files name local files without their folders.

    Args:
        folder: Folder to write into.
        publication: Name of the selection in the repository.
        results: Checked results; without any, nothing is written.
        items: Name -> file, as `item_files` returns them.
        scan: Search for secrets in the text of the files, such as generated answers.

    Raises:
        PublishError: A file cannot be read or contains secrets.
    """
    if not results:
        return []
    target = folder / evaluation_folder(publication)
    target.mkdir(parents=True)
    (target / "results.json").write_text(f"{json.dumps(results, indent=2, ensure_ascii=False)}\n", encoding="utf-8")
    written = []
    for name, path in sorted(items.items()):
        published = f"{evaluation_folder(publication)}/{name}.parquet"
        copy = folder / published
        copy.parent.mkdir(parents=True, exist_ok=True)
        _copy(path, copy, published, scan)
        written.append(published)
    return written


def _copy(path: Path, copy: Path, published: str, scan: SecretScan) -> None:
    """Copy a file, with its settings without local paths; its bytes are equal where there are none."""
    record = _record(path)
    table = pq.read_table(path)
    assert record is not None
    cleaned = without_paths(record)
    text = json.dumps(cleaned)
    scan.check_texts({published: text})
    scan.check_table(table, published)
    if cleaned == record:
        shutil.copyfile(path, copy)
    else:
        pq.write_table(table.replace_schema_metadata({_METADATA: text}), copy, write_page_checksum=True)


def _record(path: Path) -> dict[str, Any] | None:
    """Return the record of a file with results of questions, or None for another Parquet file."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except pa.ArrowInvalid as error:
        raise PublishError(f"{str(path)!r} is damaged, or no Parquet file: {error}") from error
    except OSError as error:
        raise PublishError(f"Cannot read {str(path)!r}: {failure_reason(error)}.") from error
    record = json.loads(metadata.get(_METADATA, b"null"))
    return record if isinstance(record, dict) and record.keys() >= _RECORD else None
