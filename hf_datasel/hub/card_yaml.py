"""YAML metadata of dataset cards: reading, writing and merging."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import yaml

from hf_datasel.errors import PublishError
from hf_datasel.hub.markdown import text

__all__ = [
    "STORE_FILES",
    "combined_metadata",
    "data_configs",
    "default_config",
    "inherited_metadata",
    "is_data_file",
    "merged_metadata",
    "settled_defaults",
    "split_card",
    "to_yaml",
]

STORE_FILES = re.compile(r"([a-z_]+-[0-9a-f]{16})/\*\.parquet")
"""Files of a table of a score store, as a configuration."""

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")
_WORDS = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,()+_-]{0,80}")
_LINK = re.compile(r"https?://[\w.~:/?#@%&=+-]{1,300}")
_FILE = re.compile(r"\w[\w./-]{0,100}")
_DATA_FILE = re.compile(r".+\.(parquet|jsonl?|csv|tsv|arrow|txt|zip|tar|gz|zst)")
_METADATA = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(.*?)(?:(?<=\n)|\r?\n)---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_LISTS = ("language", "task_categories", "size_categories", "source_datasets", "tags")


def inherited_metadata(metadata: Mapping[str, Any], files_url: str = "") -> dict[str, Any]:
    """Return the metadata that the card of a selection copies from its parent: licence, languages and tasks.

    Only well-formed values are copied. A licence that is not an identifier of the Hub is returned as
    `license_as_written`, for the text of the card.

    Args:
        metadata: Metadata of the parent's card.
        files_url: URL of the parent's files, for a link to a licence file among them.
    """
    inherited: dict[str, Any] = {}
    for key in ("license", "license_name", "language", "task_categories"):
        pattern = _WORDS if key == "license_name" else _WORD
        words = [word for word in _as_list(metadata.get(key)) if isinstance(word, str) and pattern.fullmatch(word)]
        if words:
            inherited[key] = words if key in _LISTS or len(words) > 1 else words[0]
    link = metadata.get("license_link")
    if isinstance(link, str) and (_LINK.fullmatch(link) or (files_url and _FILE.fullmatch(link))):
        inherited["license_link"] = link if _LINK.fullmatch(link) else f"{files_url}{link}"
    if metadata.get("license") and "license" not in inherited:
        inherited["license_as_written"] = text(metadata["license"])
    return inherited


def combined_metadata(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Combine the metadata of several selections or parents: the union of licences, languages and sources.

    Args:
        parts: Metadata, in order of priority: of other values the first one is used.
    """
    combined: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            if key not in combined:
                combined[key] = value
            elif key in _LISTS or key == "license":
                values = list(dict.fromkeys([*_as_list(combined[key]), *_as_list(value)]))
                combined[key] = values if key in _LISTS or len(values) > 1 else values[0]
            elif key.startswith("license_") and combined[key] != value:
                combined[key] = None  # one name or link cannot describe two licences
    return {key: value for key, value in combined.items() if value is not None}


def merged_metadata(
    existing: Mapping[str, Any],
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    configs: Sequence[Mapping[str, Any]],
    replaced: Collection[str],
) -> dict[str, Any]:
    """Update the metadata of an existing card; what a person has changed or added is preserved.

    Args:
        existing: Metadata of the existing card.
        before: Metadata that earlier pushes wrote.
        now: Metadata that this push writes.
        configs: Configurations of the selection that is pushed.
        replaced: Names of the configurations that this push writes or removes.

    Raises:
        PublishError: Another configuration is the default one already.
    """
    merged = dict(existing)
    for key in [key for key in {**before, **now} if key != "tags"]:
        if key not in existing or existing[key] == before.get(key):
            merged.pop(key, None)
            if key in now:
                merged[key] = now[key]
    merged["tags"] = list(dict.fromkeys([*_as_list(existing.get("tags")), *now.get("tags", [])]))
    merged["configs"] = _merged_configs(_configs(existing), configs, replaced)
    return merged


def split_card(card: str) -> tuple[dict[str, Any], str]:
    """Split a card into its metadata and its body.

    Args:
        card: Text of README.md.

    Raises:
        PublishError: The metadata is not valid YAML, or not a mapping.
    """
    match = _METADATA.match(card)
    if match is None:
        return {}, card.removeprefix("\ufeff")
    try:
        metadata = yaml.load(match[1], _Loader)
    except (yaml.YAMLError, ValueError) as error:  # a date that does not exist is a ValueError
        line = " ".join(str(error).split())
        raise PublishError(f"The metadata of the existing card is not valid YAML: {line}") from error
    if not isinstance(metadata or {}, dict):
        raise PublishError(f"The metadata of the existing card has to be a mapping, not {metadata!r:.80}.")
    return metadata or {}, card[match.end() :]


def is_data_file(path: str) -> bool:
    """Return whether `datasets` loads a file of a repository whose card has no configurations."""
    return bool(_DATA_FILE.fullmatch(path))


def settled_defaults(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return configurations of which one of a score store is not the default any more if another one is."""
    is_settled = not any(_is_default(config) and not _is_of_store(config) for config in configs)
    return [
        {key: value for key, value in config.items() if is_settled or key != "default" or not _is_of_store(config)}
        for config in configs
    ]


def to_yaml(metadata: Mapping[str, Any]) -> str:
    """Format metadata as the YAML block at the top of a card."""
    return f"---\n{yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True, width=10_000)}---\n"


def data_configs(card: str | None) -> dict[str, list[str]]:
    """Return the configurations in the metadata of a card.

    Args:
        card: Text of README.md, or None.

    Returns:
        Name of the configuration -> patterns of its files.
    """
    patterns: dict[str, list[str]] = {}
    for config in _configs(split_card(card)[0]) if card else []:
        files = config.get("data_files") or []
        paths = [entry.get("path", "") if isinstance(entry, dict) else entry for entry in _as_list(files)]
        patterns[str(config.get("config_name", "default"))] = [
            str(path) for entry in paths for path in (entry if isinstance(entry, list) else [entry])
        ]
    return patterns


def default_config(card: str | None) -> str | None:
    """Return the name of the configuration that is loaded by default, or None."""
    configs = _configs(split_card(card)[0]) if card else []
    return next((str(config.get("config_name", "default")) for config in configs if _is_default(config)), None)


class _Loader(yaml.SafeLoader):
    """YAML loader that reads `no` as the language code, as the Hub does, and not as `false`."""


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"(true|True|TRUE|false|False|FALSE)\Z"), list("tTfF"))


def _configs(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    configs = metadata.get("configs") or []
    if not isinstance(configs, list) or not all(isinstance(config, dict) for config in configs):
        raise PublishError(f"`configs` of the existing card has to be a list of mappings, not {configs!r:.80}.")
    return configs


def _merged_configs(
    existing: Sequence[Mapping[str, Any]], new_configs: Sequence[Mapping[str, Any]], replaced: Collection[str]
) -> list[dict[str, Any]]:
    """Return the existing configurations, updated in place, followed by the new ones."""
    new = {config["config_name"]: dict(config) for config in new_configs}
    others = [config for config in existing if config.get("config_name") not in {*replaced, *new}]
    defaults = [config.get("config_name") for config in others if _is_default(config) and not _is_of_store(config)]
    if defaults and any(config.get("default") for config in new_configs):
        raise PublishError(
            f"The configuration {defaults[0]!r} is the default of this repository already. Pass config_name=... to "
            "publish the selection next to it."
        )
    merged = []
    for config in existing:
        if config.get("config_name") in new:
            merged.append(new.pop(config["config_name"]))
        elif config in others:
            merged.append(dict(config))
    return settled_defaults([*merged, *new.values()])


def _is_of_store(config: Mapping[str, Any]) -> bool:
    return isinstance(config.get("data_files"), str) and bool(STORE_FILES.fullmatch(config["data_files"]))


def _is_default(config: Mapping[str, Any]) -> bool:
    return config.get("config_name") == "default" or bool(config.get("default"))


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
