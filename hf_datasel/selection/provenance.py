"""Origin of a dataset on the Hub, package versions, and records without local paths."""

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
_CACHE_FILE = re.compile(
    r"[/\\]" + _NAME.format("___") + r"[/\\](?P<config>[^/\\]+)[/\\][\d.]+[/\\](?P<revision>[0-9a-f]{40})[/\\]"
)
_HUB_URL = re.compile(r"hf://datasets/" + _NAME.format("/") + r"@(?P<revision>[0-9a-f]{40})/")
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
"""Keys among `_PATHS` that always hold a local file or folder."""
_LOCAL_PATH = re.compile(r"/|[A-Za-z]:[/\\]|~|\.\.?[/\\]|file:|[^:/\\]+(\\|/[^:/\\]+/)")
"""Beginning of a local path; the name of a repository has one slash, and no backslash."""
_SECRET = ("token", "use_auth_token")
"""Arguments of `from_pretrained` that no record may hold."""


def origin(dataset: Dataset) -> dict[str, Any]:
    """Return the only origin of a dataset, as `origins` does; empty if none is known, or several are."""
    all_origins = origins(dataset)
    return all_origins[0] if len(all_origins) == 1 else {}


def origins(dataset: Dataset) -> list[dict[str, Any]]:
    """Return where on the Hub a dataset comes from, read from the paths of its files, which contain the commit.

    Returns:
        For each repository `name`, `revision`, `config`, `split`, and `changed`: whether the dataset visibly differs
        from that split on the Hub (filtered, reordered, mixed, or loaded from some files only).
    """
    config, split = str(dataset.info.config_name or "default"), str(dataset.split or "train")
    files = [*(file["filename"] for file in dataset.cache_files), *(dataset.info.download_checksums or {})]
    matches = [match for file in files if (match := _CACHE_FILE.search(file) or _HUB_URL.match(file))]
    split_info = (dataset.info.splits or {}).get(split)
    repositories = dict.fromkeys((_repository_name(match), match["revision"]) for match in matches)
    changed = (
        len(repositories) > 1
        or dataset._indices is not None
        or (split_info is not None and split_info.num_examples != len(dataset))
        or any(match.groupdict().get("config", config) != config for match in matches)
    )
    return [
        {"name": name, "revision": revision, "config": config, "split": split, "changed": changed}
        for name, revision in repositories
    ]


def _repository_name(match: re.Match[str]) -> str:
    """Return the name of a repository, from the download cache: `datasets` writes its own cache in snake case."""
    from datasets.naming import camelcase_to_snakecase
    from huggingface_hub import constants

    namespace, snake_case, revision = match["namespace"], match["name"], match["revision"]
    for folder in Path(constants.HF_HUB_CACHE).glob(f"datasets--{namespace}--*"):
        name = folder.name.removeprefix(f"datasets--{namespace}--")
        if camelcase_to_snakecase(name) == snake_case and (folder / "snapshots" / revision).is_dir():
            return f"{namespace}/{name}"
    return f"{namespace}/{snake_case}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that the numbers of a selection depend on."""
    installed = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def without_paths(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record that can be published: without tokens, and with the names of local files instead of paths."""
    return {key: _without_paths(value, key) for key, value in record.items() if key not in _SECRET}


def _without_paths(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return without_paths(value)
    if isinstance(value, list | tuple):
        return type(value)(_without_paths(item, key) for item in value)
    if key not in _PATHS or not isinstance(value, str):
        return value
    if key in _LOCAL or _LOCAL_PATH.match(value):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1] or "folder"
    return value
