"""Metadata of a dataset card, from its facts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hf_datasel.cards.facts import DataConfig, Facts

__all__ = ["card_metadata"]

_SIZES = {10**3: "1K", 10**4: "10K", 10**5: "100K", 10**6: "1M", 10**7: "10M", 10**8: "100M", 10**9: "1B"}


def card_metadata(facts: Facts) -> dict[str, Any]:
    """Return the metadata of the card, in the terms of the Hub."""
    inherited = facts["parent"]["metadata"]
    rows = max(
        (sum(config["splits"].values()) for config in facts["configs"] if config["holds"] == "rows"),
        default=facts["rounds"][-1]["rows"],
    )
    metadata: dict[str, Any] = {"pretty_name": facts["title"]}
    for key in ("license", "license_name", "license_link", "language", "task_categories"):
        if key in inherited:
            metadata[key] = inherited[key]
    metadata.setdefault("task_categories", ["text-generation"])
    metadata["size_categories"] = [_size_category(rows)]
    if facts["parent"]["sources"]:
        metadata["source_datasets"] = list(facts["parent"]["sources"])
    metadata["tags"] = ["hf_datasel", "data-selection", "instruction-tuning", "sft"]
    if facts["configs"]:
        metadata["configs"] = [_config(config) for config in facts["configs"]]
    return metadata


def _config(config: DataConfig) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "config_name": config["name"],
        "data_files": [{"split": split, "path": path} for split, path in config["files"].items()],
    }
    return entry | ({"default": True} if config["default"] else {})


def _size_category(rows: int) -> str:
    bounds = list(_SIZES.items())
    if rows < bounds[0][0]:
        return f"n<{bounds[0][1]}"
    for (_, lower), (upper, name) in pairwise(bounds):
        if rows < upper:
            return f"{lower}<n<{name}"
    return "1B<n<10B"
