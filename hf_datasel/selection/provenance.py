"""Where rows come from, as far as their dataset and this machine can say."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["origin", "origins", "versions", "without_paths"]

_PACKAGES = ("hf-datasel", "datasets", "transformers", "trl", "peft", "torch", "numpy")
_NAME = r"(?P<namespace>[\w.-]+?){}(?P<name>[\w.-]+?)"
_CACHED = re.compile(
    r"[/\\]" + _NAME.format("___") + r"[/\\](?P<config>[^/\\]+)[/\\][\d.]+[/\\](?P<revision>[0-9a-f]{40})[/\\]"
)
_DOWNLOADED = re.compile(r"hf://datasets/" + _NAME.format("/") + r"@(?P<revision>[0-9a-f]{40})/")
_PATHS = (
    "adapters",
    "anchor_file",
    "base_url",
    "cache_dir",
    "centroids",
    "chat_template_path",
    "checkpoints",
    "complexity_model",
    "gradients",
    "model",
    "model_name_or_path",
    "models",
    "name",
    "offload_folder",
    "quality_model",
    "resolved_model",
    "reward_model",
    "validation",
)
_LOCAL = ("anchor_file", "cache_dir", "centroids", "gradients", "offload_folder")
"""Those of them that are files and folders always, however they are written."""
_PLACE = re.compile(r"/|[A-Za-z]:[/\\]|~|\.\.?[/\\]|file:|[^:/\\]+(\\|/[^:/\\]+/)")
"""How the path of a file or folder begins; the name of a repository has one slash, and no backslash."""
_SECRET = ("token", "use_auth_token")
"""Arguments of `from_pretrained` that are nobody else's business."""


def origin(dataset: Dataset) -> dict[str, Any]:
    """The one place on the Hub that a dataset comes from; empty where none is known, or several are."""
    places = origins(dataset)
    return places[0] if len(places) == 1 else {}


def origins(dataset: Dataset) -> list[dict[str, Any]]:
    """Where on the Hub a dataset comes from, as far as it knows: from the paths of its files, which hold the commit.

    Returns:
        For each repository `name`, `revision`, `config`, `split`, and `changed`: whether the dataset visibly is not
        that split as it is on the Hub (filtered, reordered, mixed, of chosen files only).
    """
    config, split = str(dataset.info.config_name or "default"), str(dataset.split or "train")
    places = [*(each["filename"] for each in dataset.cache_files), *(dataset.info.download_checksums or {})]
    found = [match for place in places if (match := _CACHED.search(place) or _DOWNLOADED.match(place))]
    whole = (dataset.info.splits or {}).get(split)
    names = dict.fromkeys((_name(match), match["revision"]) for match in found)
    changed = (
        len(names) > 1
        or dataset._indices is not None
        or (whole is not None and whole.num_examples != len(dataset))
        or any(match.groupdict().get("config", config) != config for match in found)
    )
    return [
        {"name": name, "revision": revision, "config": config, "split": split, "changed": changed}
        for name, revision in names
    ]


def _name(match: re.Match[str]) -> str:
    """The repository's name: `datasets` writes it in snake case, so the folder of the download is asked first."""
    from datasets.naming import camelcase_to_snakecase
    from huggingface_hub import constants

    namespace, snake, revision = match["namespace"], match["name"], match["revision"]
    for folder in Path(constants.HF_HUB_CACHE).glob(f"datasets--{namespace}--*"):
        name = folder.name.removeprefix(f"datasets--{namespace}--")
        if camelcase_to_snakecase(name) == snake and (folder / "snapshots" / revision).is_dir():
            return f"{namespace}/{name}"
    return f"{namespace}/{snake}"


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
    """A record to be shown to others: of a local file or folder, its name alone is left, and of a token nothing."""
    return {key: _named(value, key) for key, value in record.items() if key not in _SECRET}


def _named(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return without_paths(value)
    if isinstance(value, list | tuple):
        return type(value)(_named(each, key) for each in value)
    if key not in _PATHS or not isinstance(value, str):
        return value
    if key in _LOCAL or _PLACE.match(value):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1] or "folder"
    return value
