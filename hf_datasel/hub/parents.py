"""Parents of a dataset: the datasets on the Hub that its rows come from, also by way of files written in between."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from hf_datasel.atomic import write_file
from hf_datasel.hub.card_yaml import inherited_metadata
from hf_datasel.hub.retry import TRANSPORT_ERROR, error_line

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "PARENTS_FILE",
    "Parents",
    "merged_parents",
    "parents_of",
    "read_parents",
    "recorded_parents",
    "write_parents",
    "write_parquet",
]

logger = logging.getLogger(__name__)

_KEY, _FIELD = "hf_datasel", "parents"
"""Key in the metadata of a Parquet file, and field of its JSON and of the origins file that hold the record."""
PARENTS_FILE = "parents.json"
"""Name of the file with the record of a folder that holds no rows."""
_ROW_GROUP = 10_000
COLUMN_FILE_PREFIX = "cache-vectors-"
"""Beginning of the name of a file with a column of vectors; see `hf_datasel.scoring.vector_files`."""
_STATE = ("private", "gated", "license")
_REPOSITORY = r"(?P<namespace>[\w.-]+?){}(?P<name>[\w.-]+?)"
_CACHE_FILE = re.compile(
    r"[/\\]" + _REPOSITORY.format("___") + r"[/\\](?P<config>[^/\\]+)[/\\][\d.]+[/\\](?P<revision>[0-9a-f]{40})[/\\]"
)
_SOURCE = re.compile(
    r"hf://datasets/" + _REPOSITORY.format("/") + r"@(?P<revision>[0-9a-f]{40})/"
    r"|.*[/\\]datasets--(?P<cached_namespace>[\w.-]+?)--(?P<cached_name>[\w.-]+?)"
    r"[/\\]snapshots[/\\](?P<cached_revision>[0-9a-f]{40})[/\\]"
)
_TIMEOUT = 10.0
"""Seconds after which the Hub counts as not reachable, when a record asks for the state of a parent."""


@dataclass(frozen=True)
class Parents:
    """The datasets on the Hub that rows come from.

    Args:
        datasets: For each repository `name`, `revision`, `config`, `split`, and `changed`: whether the rows visibly
            differ from that split (filtered, reordered, mixed, or loaded from some files only); and, where the Hub
            has been asked, `private`, `gated` and `license`.
        complete: Whether all rows come from these, as far as can be told. False for rows of a file or from memory.
    """

    datasets: tuple[dict[str, Any], ...] = ()
    complete: bool = False

    @property
    def names(self) -> list[str]:
        """Names of the repositories."""
        return list(dict.fromkeys(parent["name"] for parent in self.datasets))

    @property
    def only(self) -> dict[str, Any]:
        """The parent, if there is just one; else empty."""
        return self.datasets[0] if len(self.datasets) == 1 else {}

    def with_state(self) -> Parents:
        """Return the parents with `private`, `gated` and `license`; the Hub is asked once in a process for each."""
        address = constants.ENDPOINT, get_token()
        datasets = [
            parent
            if "private" in parent
            else {**parent, **_asked(address[0], parent["name"], parent["revision"], address[1])}
            for parent in self.datasets
        ]
        return Parents(tuple(datasets), self.complete)

    def record(self) -> dict[str, Any]:
        """Return plain JSON values that `recorded_parents` reads: those of the only parent, or a list of `sources`."""
        incomplete = {} if self.complete or not self.datasets else {"complete": False}
        return ({"sources": list(self.datasets)} if len(self.datasets) > 1 else self.only) | incomplete


def parents_of(dataset: Dataset) -> Parents:
    """Return where the rows of a dataset come from.

    It is read from the paths of the cached files of `datasets`, which contain repository and commit, and from the
    addresses of its source files: files on the Hub, and Parquet files written by `hf-datasel` or `write_parquet`.

    Args:
        dataset: The dataset.
    """
    info, blocks = dataset.info, _row_blocks(dataset)
    is_merged = info.config_name is None  # of several datasets, by concatenate_datasets
    config, split = str(info.config_name or "default"), str(dataset.split or "train")
    direct: dict[tuple[str, str], None] = {}
    sources = [_of_source(str(source)) for source in info.download_checksums or {}]
    from_files = [source for source in sources if isinstance(source, Parents)]
    direct |= dict.fromkeys(source for source in sources if isinstance(source, tuple))
    complete = all(part.complete for part in from_files) and None not in sources
    matches = [match for paths in blocks for path in paths if (match := _CACHE_FILE.search(path))]
    direct |= dict.fromkeys((_repository_name(match), match["revision"]) for match in matches)
    for paths in blocks:
        is_known = any(_CACHE_FILE.search(path) and not (is_merged and _is_mapped(path)) for path in paths)
        complete &= is_known or (bool(sources) and (bool(paths) or len(blocks) == 1))
    split_info = (info.splits or {}).get(split)
    names = {*direct, *((parent["name"], parent["revision"]) for part in from_files for parent in part.datasets)}
    changed = (
        len(names) > 1
        or not complete
        or dataset._indices is not None
        or (split_info is not None and split_info.num_examples != len(dataset))
        or any(match["config"] != config for match in matches)
    )
    datasets = [
        {"name": name, "revision": revision, "config": config, "split": split, "changed": changed}
        for name, revision in direct
    ]
    for part in from_files:
        datasets += [{**parent, "changed": changed or parent["changed"]} for parent in part.datasets]
    return merged_parents([Parents((parent,), complete) for parent in datasets])


def merged_parents(parts: Iterable[Parents]) -> Parents:
    """Return the parents of several parts of the rows, each repository and commit once."""
    datasets: dict[tuple[str, Any], dict[str, Any]] = {}
    complete = []
    for part in parts:
        complete.append(part.complete)
        for parent in part.datasets:
            key = (parent["name"], parent.get("revision"))
            datasets[key] = {**parent, **datasets.get(key, {})}
    return Parents(tuple(datasets.values()), bool(complete) and all(complete))


def recorded_parents(record: Mapping[str, Any]) -> Parents:
    """Return what `Parents.record` has written.

    Args:
        record: Plain values; keys that it does not write are ignored.
    """
    sources = record.get("sources") or ([record] if record.get("name") else [])
    keys = ("name", "revision", "config", "split", "changed", *_STATE)
    datasets = [{key: source[key] for key in keys if key in source} for source in sources]
    return Parents(
        tuple({"revision": None, "changed": False} | parent for parent in datasets),
        bool(datasets) and "complete" not in record,
    )


def read_parents(path: Path) -> Parents:
    """Read what `write_parents` has written; a damaged file is logged, and the origin counts as unknown."""
    record = _json_record(path.read_bytes(), path)
    return Parents() if record is None else recorded_parents(record)


def write_parents(path: Path, parents: Parents) -> None:
    """Write the record of parents as JSON."""
    write_file(path, json.dumps({_FIELD: parents.record()}, indent=1))


def write_parquet(dataset: Dataset, path: str | os.PathLike[str], parents: Parents | None = None) -> None:
    """Write a dataset as a Parquet file whose metadata names the parents of the rows.

    Args:
        dataset: The dataset.
        path: File to write.
        parents: Where the rows come from; by default as the dataset shows it and the Hub says.
    """
    record = (parents or parents_of(dataset).with_state()).record()
    schema = dataset.features.arrow_schema
    schema = schema.with_metadata({**(schema.metadata or {}), _KEY: json.dumps({_FIELD: record})})
    with pq.ParquetWriter(path, schema, write_page_index=True) as writer:
        for table in dataset.with_format("arrow").iter(batch_size=_ROW_GROUP):
            writer.write_table(table)


def _row_blocks(dataset: Dataset) -> list[list[str]]:
    """Return for each block of consecutive rows the cached files that its columns are in; empty for one in memory.

    Files of columns of vectors, which a score has added, say nothing about where the rows come from.
    """
    blocks = getattr(dataset.data, "blocks", [[dataset.data]])
    files = [[str(part.path) for part in block if hasattr(part, "path")] for block in blocks]
    return [[path for path in paths if not Path(path).name.startswith(COLUMN_FILE_PREFIX)] for paths in files]


def _is_mapped(path: str) -> bool:
    """Return whether a cached file is the result of a `map`, which may have had rows of several datasets."""
    return Path(path).name.startswith("cache-")


def _of_source(source: str) -> Parents | tuple[str, str] | None:
    """Return repository and commit of a source file on the Hub, or the parents that a local file records."""
    if match := _SOURCE.match(source):
        parts = match.groupdict()
        prefix = "cached_" if parts["name"] is None else ""
        return f"{parts[f'{prefix}namespace']}/{parts[f'{prefix}name']}", str(parts[f"{prefix}revision"])
    path = Path(source)
    record = _parquet_record(path) if path.suffix.lower() == ".parquet" else None
    beside = path.with_suffix(".origins.json")
    if record is None and beside.is_file():
        record = _json_record(beside.read_bytes(), beside)
    parents = Parents() if record is None else recorded_parents(record)
    return parents if parents.datasets else None


def _parquet_record(path: Path) -> dict[str, Any] | None:
    try:
        content = (pq.read_schema(path).metadata or {}).get(_KEY.encode())
    except (OSError, pa.ArrowException):  # the file has been moved or changed since its rows were read
        return None
    return None if content is None else _json_record(content, path)


def _json_record(content: bytes, path: Path) -> dict[str, Any] | None:
    """Return the record in JSON text, or None for one that is damaged."""
    try:
        record = json.loads(content).get(_FIELD)
        return record if record is not None and recorded_parents(record) else None
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        logger.warning("%s does not say which dataset its rows come from: its record is damaged (%s).", path, error)
        return None


@cache
def _asked(endpoint: str, name: str, revision: str | None, token: str | None) -> Mapping[str, Any]:
    """Return what the Hub says of a repository; empty if it cannot be asked."""
    try:
        info = HfApi(endpoint, token).dataset_info(name, revision=revision, timeout=_TIMEOUT)
    except (HfHubHTTPError, HFValidationError, TRANSPORT_ERROR, ConnectionError, TimeoutError) as error:
        logger.warning(
            "The Hub does not say whether %s is private or gated, so that is recorded as unknown: %s",
            name,
            error_line(error),
        )
        return {}
    card = inherited_metadata(cast(Any, info.card_data).to_dict() if info.card_data else {})
    licence = {"license": card["license"]} if "license" in card else {}
    return {"private": bool(info.private), "gated": bool(info.gated), **licence}


def _repository_name(match: re.Match[str]) -> str:
    """Return the name of a repository, from the download cache: `datasets` writes its own cache in snake case."""
    from datasets.naming import camelcase_to_snakecase

    namespace, snake_case, revision = match["namespace"], match["name"], match["revision"]
    for folder in Path(constants.HF_HUB_CACHE).glob(f"datasets--{namespace}--*"):
        name = folder.name.removeprefix(f"datasets--{namespace}--")
        if camelcase_to_snakecase(name) == snake_case and (folder / "snapshots" / revision).is_dir():
            return f"{namespace}/{name}"
    return f"{namespace}/{snake_case}"
