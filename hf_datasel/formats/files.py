"""Loading of rows from files, folders and the Hub."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_datasel.errors import FormatError, did_you_mean
from hf_datasel.formats.layouts import FORMATS
from hf_datasel.formats.mapping import checked_mapping

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load_pool"]

logger = logging.getLogger(__name__)

_ENDINGS = ".json, .jsonl, .ndjson, .csv, .tsv, .parquet, .arrow (and .gz, .bz2, .xz or .zst after it)"
_OTHER_ENDINGS = (".txt", ".xlsx", ".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".npy", ".pt", ".pkl")
"""Endings of files that are not read, and that no dataset on the Hub has."""
_SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_IN_FOLDER = {
    split: re.compile(rf"(?:.*[/\-._ 0-9])?(?:{'|'.join(words)})(?:[\-._ 0-9][^/]*)?/.*", re.IGNORECASE)
    for split, words in _SPLIT_WORDS.items()
}
_IN_NAME = {
    split: re.compile(rf"(?:.*[/\-._ 0-9])?(?:{'|'.join(words)})[\-._ 0-9][^/]*", re.IGNORECASE)
    for split, words in _SPLIT_WORDS.items()
}
_SHARD = re.compile(r"data/(\w+(?:[-.]\w+)*?)-\d{5}-of-\d{5}[^/]*")
_CARD_CONFIGS = re.compile(r"\A---\s*\n(.*\n)??configs:", re.DOTALL)
_TEXT_COLUMNS = {
    *(name for alternatives in FORMATS.values() for names in alternatives for name in names),
    *("input", "context", "system", "system_prompt", "history", "tools", "rejected"),
}


def load_pool(
    name: str | os.PathLike[str],
    split: str = "train",
    config: str | None = None,
    revision: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Dataset:
    """Load rows from files, a `save_to_disk` folder or the Hub.

    Files end in `.json`, `.jsonl`, `.ndjson`, `.csv`, `.tsv`, `.parquet` or `.arrow`, also compressed (`.jsonl.gz`,
    `.bz2`, `.xz`, and `.zst` with the package zstandard). A JSON file holds one object per line, a list of objects, an
    object with a key that holds the list (`{"data": [...]}`), or columns (`{"prompt": [...], "completion": [...]}`).

    Text stays as it stands in the file: "None", "NA", "007", "true" and dates are text in JSON and in CSV, and an
    empty cell of a CSV file is an empty text. Only columns of a CSV file that do not belong to a row format, and whose
    cells are all numbers or empty, are numbers, such as the scores `ifd` and `loss`.

    Args:
        name: Path of a file or folder, a glob such as `"data/*.jsonl"`, or id of a dataset on the Hub. What exists
            locally is read from there.
        split: Name of the split, or a part such as `"train[:1000]"`. A file and a glob have only `train`; a folder has
            the splits that the names of its files or its README tell, as with `load_dataset`.
        config: Configuration of a Hub dataset, or of a folder whose README lists configurations.
        revision: Commit, branch or tag of a Hub dataset.
        columns: Names of the columns of the row format and those of the dataset, as in `Pool`; the dataset keeps its
            own. Columns named here are text in a CSV file.

    Returns:
        The loaded dataset, with at least one row.

    Raises:
        FormatError: The file, folder or dataset does not exist, cannot be read, has no such split, or has no rows.
    """
    from datasets import Dataset, load_dataset
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    name = os.fspath(name)
    path = Path(name).expanduser()
    try:
        if _is_saved(path):
            data: Any = _from_disk(path, name, split)
        elif (splits := _local_files(path, name, config)) is not None:
            data = _read(
                splits, name, split, {str(value).lower() for value in (checked_mapping(columns) or {}).values()}
            )
        else:
            data = load_dataset(name, config, split=split, revision=revision)
    except FormatError:
        raise
    except (DatasetsError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        cause = _cause(error)
        line = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        if "corresponds to no data" in line:
            raise FormatError(f"{name!r} (split {split!r}) has no rows.") from error
        is_missing = isinstance(error, DatasetNotFoundError | ConnectionError) and not path.exists()
        local = f"{'' if line.endswith('.') else '.'} {_no_file(path, name)}" if is_missing else ""
        raise FormatError(f"Cannot load {name!r} (split {split!r}): {line}{local}") from error
    if not isinstance(data, Dataset) or len(data) == 0:
        raise FormatError(f"{name!r} (split {split!r}) has no rows.")
    return data


def _cause(error: BaseException) -> BaseException:
    return error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error


# -- what there is ---------------------------------------------------------------------------------------------------
def _local_files(path: Path, name: str, config: str | None) -> dict[str, list[Path]] | None:
    """Return the files of each split; None for the id of a dataset on the Hub."""
    from hf_datasel.formats.file_readers import file_kind

    if path.is_file():
        if path.stat().st_size == 0:
            raise FormatError(f"{name!r} is empty: it has no rows.")
        return {"train": [path]}
    if path.is_dir():
        return _folder_files(path, name, config)
    if glob.has_magic(name):
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
        if not (files := [match for match in matches if match.is_file() and file_kind(match)[0]]):
            raise FormatError(f"No file of rows matches {name!r}. The ending has to be one of {_ENDINGS}.")
        return {"train": files}
    has_ending = file_kind(path)[0] or path.suffix.lower() in _OTHER_ENDINGS
    if has_ending or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FormatError(_no_file(path, name))
    return None


def _no_file(path: Path, name: str) -> str:
    siblings = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    where = "" if path.is_absolute() else f" in the current folder {os.getcwd()!r}"
    return f"There is no file or folder {name!r}{where}.{did_you_mean(path.name, siblings)}"


def _folder_files(folder: Path, name: str, config: str | None) -> dict[str, list[Path]]:
    from hf_datasel.formats.file_readers import file_kind

    card = folder / "README.md"
    if card.is_file() and _CARD_CONFIGS.match(card.read_text(encoding="utf-8", errors="replace")):
        return _card_files(folder, name, config)
    ignored = ("dataset_info.json", "dataset_infos.json", "state.json")
    present = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
    )
    files = [path for path in present if file_kind(path)[0] and path.name not in ignored]
    if not files:
        found = ", ".join(path.name for path in present[:5]) or "nothing"
        raise FormatError(
            f"The folder {name!r} has no file of rows (it has {found}). The ending has to be one of {_ENDINGS}."
        )
    return _splits(folder, files)


def _card_files(folder: Path, name: str, config: str | None) -> dict[str, list[Path]]:
    """Return the files that the README of a folder lists for a configuration."""
    from datasets import get_dataset_config_names, load_dataset_builder

    names = get_dataset_config_names(str(folder))
    if (config is None and len(names) > 1 and "default" not in names) or config not in (None, *names):
        raise FormatError(
            f"{name!r} has the configurations {', '.join(map(repr, names))}, and not {config!r}."
            f"{did_you_mean(config or '', names)}",
            hint=f"Pass one of them, as config={names[0]!r}.",
            cli_hint=f"Pass one of them, as --dataset_config {names[0]}.",
        )
    builder = load_dataset_builder(str(folder), config)
    return {str(split): [Path(file) for file in files] for split, files in (builder.config.data_files or {}).items()}


def _splits(folder: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the files of each split by their names, with the rules of `load_dataset`."""
    relative = {file: file.relative_to(folder).as_posix() for file in files}
    sharded = {file: match[1] for file, path in relative.items() if (match := _SHARD.fullmatch(path))}
    by_folder, by_name = (
        {
            file: split
            for file, path in relative.items()
            for split, pattern in reversed(patterns.items())
            if pattern.fullmatch(path)
        }
        for patterns in (_IN_FOLDER, _IN_NAME)
    )
    split_of = sharded or by_folder or by_name or dict.fromkeys(files, "train")
    if ignored := [path for file, path in relative.items() if file not in split_of]:
        logger.warning(
            "%s of %s are not read: their names tell no split, as those of other files do.", ", ".join(ignored), folder
        )
    order = [*_SPLIT_WORDS, *split_of.values()]
    return {
        split: [file for file in files if split_of.get(file) == split]
        for split in dict.fromkeys(order)
        if split in split_of.values()
    }


# -- reading ---------------------------------------------------------------------------------------------------------
def _read(splits: Mapping[str, Sequence[Path]], name: str, split: str, text_columns: set[str]) -> Dataset:
    """Read the files of a split, all of which have to be of one kind."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    from hf_datasel.formats.file_builder import RowFiles
    from hf_datasel.formats.file_readers import file_kind

    names = _split_names(split, splits, name)
    files = {base: [Path(os.path.abspath(file)) for file in splits[base]] for base in names}
    paths = [file for part in files.values() for file in part]
    for path in paths:
        if not file_kind(path)[0]:
            raise FormatError(f"Cannot read {str(path)!r}: the ending has to be one of {_ENDINGS}.")
    kinds = {file_kind(path)[0]: path for path in paths}
    if len(kinds) > 1:
        counts = {kind: sum(file_kind(path)[0] == kind for path in paths) for kind in kinds}
        found = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
        raise FormatError(
            f"{name!r} has files of several kinds ({found}). Name those of one kind, as '*{paths[0].suffix}'."
        )
    (kind,) = kinds
    if kind in ("parquet", "arrow") and not any(file_kind(path)[2] for path in paths):
        data_files = {base: [glob.escape(str(path)) for path in part] for base, part in files.items()}
        return _with_sources(load_dataset(kind, data_files=data_files, split=split), paths)
    builder = RowFiles(
        dataset_name=kind,
        files={base: [str(path) for path in part] for base, part in files.items()},
        stamps={str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in paths},
        **({"text_columns": sorted(_TEXT_COLUMNS | text_columns)} if kind == "csv" else {}),
    )
    try:
        builder.download_and_prepare()
    except (FormatError, DatasetGenerationError) as error:
        if isinstance(cause := _cause(error), FormatError):
            raise FormatError(f"Cannot load {name!r}: {cause}") from error
        raise
    return _with_sources(builder.as_dataset(split=split), paths)


def _with_sources(data: Dataset, paths: Sequence[Path]) -> Dataset:
    """Record in a dataset which files it was read from, where `datasets` records downloads."""
    data.info.download_checksums = {str(path): {"num_bytes": path.stat().st_size, "checksum": None} for path in paths}
    return data


def _split_names(split: str, present: Mapping[str, Any], name: str) -> list[str]:
    """Return the splits that `"train[:10]+test"` names.

    Raises:
        FormatError: One of them does not exist; names those that do.
    """
    names = [part.split("[", 1)[0].strip() for part in str(split).split("+")]
    for missing in (base for base in names if base not in present):
        first = next(iter(present))
        raise FormatError(
            f"{name!r} has no split {missing!r}.{did_you_mean(missing, present)} It has "
            f"{', '.join(map(repr, present))}.",
            hint=f"Pass one of them, as split={first!r}.",
            cli_hint=f"Pass one of them, as --dataset_train_split {first}.",
        )
    return list(dict.fromkeys(names))


def _is_saved(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or (
        (path / "dataset_info.json").is_file() and (path / "state.json").is_file()
    )


def _from_disk(path: Path, name: str, split: str) -> Dataset:
    """Load a split, or a part of it, of a folder that `save_to_disk` wrote."""
    from datasets import DatasetDict, ReadInstruction, concatenate_datasets, load_from_disk

    data: Any = load_from_disk(str(path))
    if not isinstance(data, DatasetDict):  # the only split, by its own name or as `train`
        own = str(data.split or "train")
        data = {own: data, "train": data}
    data = dict(data)
    _split_names(split, data, name)
    parts = ReadInstruction.from_spec(split).to_absolute({base: len(rows) for base, rows in data.items()})
    selected = [
        data[part.splitname].select(range(part.from_ or 0, len(data[part.splitname]) if part.to is None else part.to))
        if "[" in split
        else data[part.splitname]
        for part in parts
    ]
    return selected[0] if len(selected) == 1 else concatenate_datasets(selected)
