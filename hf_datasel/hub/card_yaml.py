"""The YAML at the top of a dataset card."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import yaml

from hf_datasel.errors import PublishError
from hf_datasel.hub.markdown import text

__all__ = ["carried_over", "data_configs", "joined", "merged_metadata", "split_card", "to_yaml"]

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")
_WORDS = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,()+_-]{0,80}")
_LINK = re.compile(r"https?://[\w.~:/?#@%&=+-]{1,300}")
_FILE = re.compile(r"\w[\w./-]{0,100}")
_METADATA = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(.*?)(?:(?<=\n)|\r?\n)---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_LISTS = ("language", "task_categories", "size_categories", "source_datasets", "tags")


def carried_over(metadata: Mapping[str, Any], files: str = "") -> dict[str, Any]:
    """What our card takes over from the parent's, as far as it has the form it should have; nothing is made up.

    A licence that is no identifier of the Hub comes back as `license_as_written`, for the text of the page.

    Args:
        metadata: of the parent's card.
        files: address of the parent's files, for a link to a licence that is one of them.
    """
    kept: dict[str, Any] = {}
    for key in ("license", "license_name", "language", "task_categories"):
        values, form = metadata.get(key), _WORDS if key == "license_name" else _WORD
        words = [each for each in (values if isinstance(values, list) else [values]) if isinstance(each, str)]
        words = [each for each in words if form.fullmatch(each)]
        if words:
            kept[key] = words if key in _LISTS or len(words) > 1 else words[0]
    link = metadata.get("license_link")
    if isinstance(link, str) and (_LINK.fullmatch(link) or (files and _FILE.fullmatch(link))):
        kept["license_link"] = link if _LINK.fullmatch(link) else f"{files}{link}"
    if metadata.get("license") and "license" not in kept:
        kept["license_as_written"] = text(metadata["license"])
    return kept


def joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Metadata of several selections in one repository: their licences, languages and parents together."""
    whole: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            if key not in whole:
                whole[key] = value
            elif key in _LISTS or key == "license":
                values = list(dict.fromkeys([*_as_list(whole[key]), *_as_list(value)]))
                whole[key] = values if key in _LISTS or len(values) > 1 else values[0]
            elif key.startswith("license_") and whole[key] != value:
                whole[key] = None  # the name or the link of one licence cannot stand for two
    return {key: value for key, value in whole.items() if value is not None}


def merged_metadata(
    existing: Mapping[str, Any],
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    configs: Sequence[Mapping[str, Any]],
    replaced: Collection[str],
) -> dict[str, Any]:
    """Metadata of a card that is there already, brought up to date; what a person changed or added stays.

    Args:
        existing: of the card that is there.
        before: what the earlier pushes have put there.
        now: what this one puts there.
        configs: of the selection that is pushed.
        replaced: names of the configurations that this push writes or removes.

    Raises:
        PublishError: another configuration is the default one already.
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
    """Metadata and body of a card.

    Raises:
        PublishError: the metadata cannot be read.
    """
    match = _METADATA.match(card)
    if match is None:
        return {}, card.removeprefix("\ufeff")
    try:
        metadata = yaml.load(match[1], _Loader)
    except (yaml.YAMLError, ValueError) as error:  # a date that does not exist is a ValueError
        line = " ".join(str(error).split())
        raise PublishError(f"The metadata of the card that is there is no valid YAML: {line}") from error
    if not isinstance(metadata or {}, dict):
        raise PublishError(f"The metadata of the card that is there has to be a mapping, and is {metadata!r:.80}.")
    return metadata or {}, card[match.end() :]


def to_yaml(metadata: Mapping[str, Any]) -> str:
    """Metadata as the block that stands at the top of a card."""
    return f"---\n{yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True, width=10_000)}---\n"


def data_configs(card: str | None) -> dict[str, list[str]]:
    """Configuration -> patterns of its files, as the metadata of a card lists them."""
    found: dict[str, list[str]] = {}
    for each in _configs(split_card(card)[0]) if card else []:
        files = each.get("data_files") or []
        paths = [entry.get("path", "") if isinstance(entry, dict) else entry for entry in _as_list(files)]
        found[str(each.get("config_name", "default"))] = [
            str(path) for entry in paths for path in (entry if isinstance(entry, list) else [entry])
        ]
    return found


class _Loader(yaml.SafeLoader):
    """YAML as the Hub reads it: `no` is the Norwegian language, and not `false`."""


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"(true|True|TRUE|false|False|FALSE)\Z"), list("tTfF"))


def _configs(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    configs = metadata.get("configs") or []
    if not isinstance(configs, list) or not all(isinstance(each, dict) for each in configs):
        raise PublishError(
            f"`configs` of the card that is there has to be a list of mappings, and is {configs!r:.80}."
        )
    return configs


def _merged_configs(
    existing: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]], replaced: Collection[str]
) -> list[dict[str, Any]]:
    """Ours in the place of those of their name, then those that are new."""
    new = {each["config_name"]: dict(each) for each in ours}
    others = [each for each in existing if each.get("config_name") not in {*replaced, *new}]
    taken = [each.get("config_name") for each in others if each.get("default") or each.get("config_name") == "default"]
    if taken and any(each.get("default") for each in ours):
        raise PublishError(
            f"The configuration {taken[0]!r} is the repository's default already. Pass a config_name, to put the "
            "selection beside it."
        )
    kept = []
    for each in existing:
        if each.get("config_name") in new:
            kept.append(new.pop(each["config_name"]))
        elif each in others:
            kept.append(dict(each))
    return [*kept, *new.values()]


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
