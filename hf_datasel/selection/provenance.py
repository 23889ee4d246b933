"""Package versions, and records without local paths."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Mapping
from typing import Any

from hf_datasel.hub.secrets import without_credentials

__all__ = ["versions", "without_measurements", "without_paths"]

_PACKAGES = ("hf-datasel", "datasets", "transformers", "trl", "peft", "torch", "numpy")
_PATHS = (
    "adapters",
    "anchor_file",
    "base_url",
    "cache_dir",
    "centroids",
    "chat_template_path",
    "checkpoints",
    "complexity_model",
    "dataset_name",
    "gradients",
    "groups",
    "model",
    "model_name_or_path",
    "models",
    "name",
    "offload_folder",
    "path",
    "quality_model",
    "resolved_model",
    "reward_model",
    "row_numbers",
    "validation",
)
_LOCAL = ("anchor_file", "cache_dir", "centroids", "gradients", "offload_folder", "path", "row_numbers")
"""Keys among `_PATHS` that always hold a local file or folder."""
_LOCAL_PATH = re.compile(r"/|[A-Za-z]:[/\\]|~|\.\.?[/\\]|file:|[^:/\\]+(\\|/[^:/\\]+/)")
"""Beginning of a local path; the name of a repository has one slash, and no backslash."""
_MEASUREMENTS = ("cost", "cost_reused", "seconds")
_SECRET = ("token", "use_auth_token")
"""Arguments of `from_pretrained` that no record may hold."""


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that the numbers of a selection depend on."""
    installed = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def without_measurements(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return a provenance without time and cost, which differ between equal selections."""
    return {key: value for key, value in provenance.items() if key not in _MEASUREMENTS}


def without_paths(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record that can be published: without tokens and passwords, and with names of files, not paths."""
    return {key: _without_paths(value, key) for key, value in record.items() if key not in _SECRET}


def _without_paths(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return without_paths(value)
    if isinstance(value, list | tuple):
        return type(value)(_without_paths(item, key) for item in value)
    if not isinstance(value, str):
        return value
    if key not in _PATHS:
        return without_credentials(value)
    if key in _LOCAL or _LOCAL_PATH.match(value):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1] or "folder"
    return without_credentials(value)
