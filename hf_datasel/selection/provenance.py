"""Where rows come from, as far as their dataset and this machine can say."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["origin", "versions", "without_paths"]

_PACKAGES = ("hf-datasel", "datasets", "transformers", "trl", "peft", "torch", "numpy")
_NAME = r"(?P<namespace>[\w.-]+?){}(?P<name>[\w.-]+?)"
_CACHED = re.compile(
    r"[/\\]" + _NAME.format("___") + r"[/\\](?P<config>[^/\\]+)[/\\][\d.]+[/\\](?P<revision>[0-9a-f]{40})[/\\]"
)
_DOWNLOADED = re.compile(r"hf://datasets/" + _NAME.format("/") + r"@(?P<revision>[0-9a-f]{40})/")


def origin(dataset: Dataset) -> dict[str, Any]:
    """Where on the Hub a dataset comes from, as far as it knows: from the names of its files, which hold the commit.

    Returns:
        `name`, `revision`, `config`, `split`, and `changed`: whether it visibly is not that split as it is on the Hub
        (rows filtered, reordered, of chosen files only). Empty where nothing is known.
    """
    config, split = str(dataset.info.config_name or "default"), str(dataset.split or "train")
    places = [*(each["filename"] for each in dataset.cache_files), *(dataset.info.download_checksums or {})]
    found = [match for place in places if (match := _CACHED.search(place) or _DOWNLOADED.match(place))]
    if len({(match["namespace"], match["name"], match["revision"]) for match in found}) != 1:
        return {}  # of no place on the Hub, or of several
    whole = (dataset.info.splits or {}).get(split)
    changed = (
        dataset._indices is not None
        or (whole is not None and whole.num_examples != len(dataset))
        or any(match.groupdict().get("config", config) != config for match in found)
    )
    name, revision = f"{found[0]['namespace']}/{found[0]['name']}", found[0]["revision"]
    return {"name": name, "revision": revision, "config": config, "split": split, "changed": changed}


def versions() -> dict[str, str]:
    """Package -> version, of what a selection's numbers depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def without_paths(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record to be shown to others: of a local file or folder, its name alone is left."""
    return {key: _named(value) for key, value in record.items()}


def _named(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_paths(value)
    if isinstance(value, list | tuple):
        return type(value)(_named(each) for each in value)
    if isinstance(value, str) and (os.path.isabs(value) or value.startswith(("~", "./", "../"))):
        return os.path.basename(value.rstrip("/\\")) or "root"
    return value
