"""Local files that settings name: which settings may name files, and the digests of these files."""

from __future__ import annotations

import functools
import glob
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

__all__ = ["FILE", "file_digest", "named_files"]

FILE: Mapping[str, bool] = MappingProxyType({"file": True})
"""Metadata of a dataclass field whose texts are paths, or names that may be paths: `field(metadata=FILE)`.

In mappings, only the texts at the key `dataset_name` are, if there is one."""
_BERGSON = ("scores.bin", "info.json", "config.yaml", "candidates.npy")
"""Files that are read in a folder of bergson; the last two need not exist."""


def named_files(value: Any) -> list[dict[str, Any]]:
    """Return the local files and folders that a score, selector or filter names, also in those among its settings.

    Args:
        value: The score, selector or filter.

    Returns:
        For each that exists, once: the `path` as it stands in the settings, the `sha256`, and of a folder or pattern
        the number of `files`. The name of a dataset on the Hub is none of them.
    """
    described = {name: _describe(name) for name in _names(value)}
    return [{"path": name, **entry} for name, entry in described.items() if entry]


def _names(value: Any) -> Iterator[str]:
    """Yield the texts of all settings that may name files."""
    if is_dataclass(value):
        for entry in fields(value):
            setting = getattr(value, entry.name)
            yield from _texts(setting) if entry.metadata.get("file") else _names(setting)
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _names(item)


def _texts(setting: Any) -> Iterator[str]:
    if isinstance(setting, str):
        yield setting
    elif isinstance(setting, Mapping) and "dataset_name" in setting:
        yield from _texts(setting["dataset_name"])
    elif isinstance(setting, Mapping | list | tuple):
        for item in setting.values() if isinstance(setting, Mapping) else setting:
            yield from _texts(item)


def _describe(name: str) -> dict[str, Any]:
    """Return the digest of what a name stands for; empty if that is no local file."""
    path = Path(name).expanduser()
    if path.is_file():
        return {"sha256": file_digest(path)}
    if path.is_dir():
        return {"sha256": file_digest(path), "files": len(_files_in(path))}
    matches = sorted(map(Path, glob.glob(str(path), recursive=True))) if glob.has_magic(name) else []
    fixed = next((parent for parent in path.parents if not glob.has_magic(str(parent))), Path())
    files = {match.relative_to(fixed).as_posix(): match for match in matches if match.is_file()}
    return {"sha256": _digest_of_lines(files), "files": len(files)} if files else {}


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file or folder.

    That of a folder is the one of the output of `sha256sum` for its files, in the order of their paths in the folder;
    hidden files do not count. Of a folder of bergson only the files that are read count, in the order scores.bin,
    info.json, config.yaml, candidates.npy.
    """
    if path.is_dir():
        return _digest_of_lines(_files_in(path))
    stat = path.stat()
    return _digest(str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _files_in(folder: Path) -> dict[str, Path]:
    """Return the files of a folder that count, by their paths in it."""
    if all((folder / name).is_file() for name in _BERGSON[:2]):
        return {name: folder / name for name in _BERGSON if (folder / name).is_file()}
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in files.items() if not any(part.startswith(".") for part in Path(name).parts)}


def _digest_of_lines(files: Mapping[str, Path]) -> str:
    lines = "".join(f"{file_digest(path)}  {name}\n" for name, path in files.items())
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()


@functools.lru_cache(maxsize=64)
def _digest(path: str, *stat: int) -> str:
    """Return the SHA-256 of a file, cached while its inode, size and time of modification stay the same."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
