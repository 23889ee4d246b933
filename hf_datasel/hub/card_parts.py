"""Generated parts of a card, between markers: everything else on the card is preserved."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from hf_datasel.errors import PublishError
from hf_datasel.hub.card_yaml import combined_metadata, merged_metadata, split_card, to_yaml

__all__ = ["has_part", "new_card", "updated_card"]

_PART = re.compile(
    r"^<!-- hf_datasel: (?P<name>[\w.-]+): begin -->\r?$"
    r"(?P<text>(?:(?!^<!-- hf_datasel: [\w.-]+: begin -->\r?$).)*?)"
    r"^<!-- hf_datasel: (?P=name): end -->\r?$",
    re.DOTALL | re.MULTILINE,
)


def has_part(card: str, name: str) -> bool:
    """Return whether a card has a generated part of this name."""
    return any(match["name"] == name for match in _PART.finditer(card))


def new_card(name: str, page: str, metadata: Mapping[str, Any]) -> str:
    """Return a new card: metadata for the Hub, and one generated part.

    Args:
        name: Name of the part.
        page: Markdown of the part.
        metadata: Metadata of the card.
    """
    return f"{to_yaml(metadata)}\n{_marked(name, page, metadata)}\n"


def updated_card(
    existing: str, name: str, page: str, metadata: Mapping[str, Any], replaced: Collection[str] = ()
) -> str:
    """Replace a generated part and its metadata in an existing card, or add it; everything else is preserved.

    Args:
        existing: Text of the card.
        name: Name of the part.
        page: Markdown of the part.
        metadata: Metadata that the part writes, with its configurations as `configs`.
        replaced: Names of the configurations that are written or removed.

    Raises:
        PublishError: The metadata of the card cannot be read, one of the markers around the part is missing, or
            another configuration is the default one.
    """
    existing_metadata, body = split_card(existing)
    parts = {match["name"]: match for match in _PART.finditer(body)}
    _check_markers(body, name)
    before = {part: _recorded_metadata(match) for part, match in parts.items()}
    merged = merged_metadata(
        existing_metadata,
        combined_metadata(list(before.values())),
        combined_metadata(list({**before, name: metadata}.values())),
        metadata.get("configs", []),
        replaced,
    )
    marked = _marked(name, page, metadata)
    if name in parts:
        body = body[: parts[name].start()] + marked + body[parts[name].end() :]
    else:
        body = f"{body.rstrip()}\n\n{marked}\n" if body.strip() else f"\n{marked}\n"
    is_same = merged == existing_metadata
    head = existing[: len(existing) - len(split_card(existing)[1])] if is_same else to_yaml(merged)
    return head + body


def _marked(name: str, page: str, metadata: Mapping[str, Any]) -> str:
    recorded = {key: value for key, value in metadata.items() if key != "configs"}
    record = json.dumps(recorded).replace("-", "\\u002d")  # the content of a comment must not end it
    return (
        f"<!-- hf_datasel: {name}: begin -->\n"
        "<!-- Generated: write above or below these markers; the text between them is replaced by the next push. -->\n"
        f"<!-- metadata: {record} -->\n\n{page}\n<!-- hf_datasel: {name}: end -->"
    )


def _recorded_metadata(part: re.Match[str]) -> dict[str, Any]:
    """Return the metadata that an earlier push wrote, to detect what a person has changed since."""
    match = re.search(r"^<!-- metadata: (\{.*\}) -->\r?$", part["text"], re.MULTILINE)
    try:
        metadata = json.loads(match[1]) if match else {}
    except ValueError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _check_markers(body: str, name: str) -> None:
    """Raise if one of the two markers is missing, because the generated part could not be told from other text."""
    other_text = _PART.sub("", body)
    for end in ("begin", "end"):
        marker = f"<!-- hf_datasel: {name}: {end} -->"
        if any(line.strip() == marker for line in other_text.splitlines()):
            raise PublishError(
                f"The card has the marker {marker!r} without its counterpart. Restore the missing marker, or remove "
                "this one together with the generated page, and push again."
            )
