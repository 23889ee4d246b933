"""The YAML at the top of a dataset card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from hf_datasel.errors import PublishError
from hf_datasel.publish.facts import DataConfig, Facts

__all__ = ["card_metadata", "carried_over", "data_configs", "merged_metadata", "split_card"]

_METADATA = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)(?:(?<=\n)|\r?\n)---[ \t]*(?:\r?\n|\Z)", re.DOTALL)

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")
_LINK = re.compile(r"(https?://[\w.~:/?#@%&=+-]{1,300}|\w[\w./-]{0,100})")
_SIZES = (10**3, 10**4, 10**5, 10**6, 10**7, 10**8, 10**9)
_NAMES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")
_INHERITED = ("license", "license_name", "license_link", "language", "task_categories")


def carried_over(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What our card takes over from the parent's, as far as it has the form it should have; nothing is made up."""
    kept: dict[str, Any] = {}
    for key in _INHERITED:
        pattern = _LINK if key == "license_link" else _WORD
        values = metadata.get(key)
        several = isinstance(values, list)
        words = [each for each in (values if isinstance(values, list) else [values]) if isinstance(each, str)]
        words = [each for each in words if pattern.fullmatch(each)]
        if words:
            kept[key] = words if several or key in ("language", "task_categories") else words[0]
    return kept


def card_metadata(facts: Facts) -> dict[str, Any]:
    """Metadata of the card, in the Hub's terms."""
    inherited = facts["parent"]["metadata"]
    rows = max(
        (sum(each["splits"].values()) for each in facts["configs"] if each["holds"] == "rows"),
        default=facts["choices"][-1]["rows"],
    )
    metadata: dict[str, Any] = {"pretty_name": facts["title"]}
    metadata |= {key: inherited[key] for key in _INHERITED if key in inherited}
    metadata.setdefault("task_categories", ["text-generation"])
    metadata["size_categories"] = [_size(rows)]
    if facts["parent"]["name"] is not None:
        metadata["source_datasets"] = [facts["parent"]["name"]]
    metadata["tags"] = ["hf_datasel", "data-selection", "instruction-tuning", "sft"]
    if facts["configs"]:
        metadata["configs"] = [_config(each) for each in facts["configs"]]
    return metadata


def merged_metadata(existing: Mapping[str, Any], ours: Mapping[str, Any], replaced: set[str]) -> dict[str, Any]:
    """Metadata of a card that is there already, brought up to date.

    What a person changed stays: all keys but those of the files. What came from the parent is renewed if the parent is
    another one.

    Args:
        existing: of the card that is there.
        ours: of the new card.
        replaced: names of configurations that this push writes or removes.
    """
    merged = dict(existing)
    another_parent = bool(existing.get("source_datasets")) and (
        existing.get("source_datasets") != ours.get("source_datasets")
    )
    if another_parent:
        for key in _INHERITED:
            merged.pop(key, None)
    for key, value in ours.items():
        if key not in merged or key in ("size_categories", "source_datasets"):
            merged[key] = value
    tags = existing.get("tags") or []
    merged["tags"] = list(dict.fromkeys([*tags, *ours["tags"]]))
    merged["configs"] = _merged_configs(existing.get("configs") or [], ours.get("configs", []), replaced)
    return merged


def _merged_configs(existing: list[Any], ours: list[Any], replaced: set[str]) -> list[Any]:
    """Ours in the place of those of their name, then those that are new; one default."""
    new = {each["config_name"]: dict(each) for each in ours}
    others = [each for each in existing if each.get("config_name") not in replaced | new.keys()]
    if any(each.get("default") or each.get("config_name") == "default" for each in others):
        for each in new.values():
            each.pop("default", None)
    kept = [
        new.pop(each.get("config_name"), each) for each in existing if each in others or each["config_name"] in new
    ]
    return [*kept, *new.values()]


def split_card(card: str) -> tuple[dict[str, Any], str]:
    """Metadata and body of a card.

    Raises:
        PublishError: the metadata cannot be read.
    """
    match = _METADATA.match(card)
    if match is None:
        return {}, card
    try:
        metadata = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        line = " ".join(str(error).split())
        raise PublishError(f"The metadata of the card that is there is no valid YAML: {line}") from error
    if not isinstance(metadata or {}, dict):
        raise PublishError(f"The metadata of the card that is there has to be a mapping, and is {metadata!r:.80}.")
    return metadata or {}, card[match.end() :]


def data_configs(card: str | None) -> dict[str, list[str]]:
    """Configuration -> patterns of its files, as the metadata of a card lists them."""
    configs = split_card(card)[0].get("configs") if card else None
    found: dict[str, list[str]] = {}
    for each in configs or []:
        files = each.get("data_files") or []
        files = [files] if isinstance(files, str) else files
        paths = [entry.get("path", "") if isinstance(entry, dict) else entry for entry in files]
        found[str(each.get("config_name", "default"))] = [
            path for entry in paths for path in (entry if isinstance(entry, list) else [entry])
        ]
    return found


def _config(config: DataConfig) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "config_name": config["name"],
        "data_files": [{"split": split, "path": path} for split, path in config["files"].items()],
    }
    return entry | ({"default": True} if config["default"] else {})


def _size(rows: int) -> str:
    if rows < _SIZES[0]:
        return "n<1K"
    for at, bound in enumerate(_SIZES[1:], start=1):
        if rows < bound:
            return f"{_NAMES[at - 1]}<n<{_NAMES[at]}"
    return "n>1B" if rows < 10**12 else "n>1T"
