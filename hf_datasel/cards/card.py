"""From facts to text: the dataset card, and the same page without the Hub's metadata. All functions are pure."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Collection
from typing import Any

from hf_datasel.cards.facts import Facts
from hf_datasel.cards.figures import figures_by_section
from hf_datasel.cards.metadata import card_metadata
from hf_datasel.cards.row_examples import selected_only
from hf_datasel.cards.section import FigureInfo
from hf_datasel.cards.sections import SECTIONS
from hf_datasel.errors import PublishError
from hf_datasel.hub.card_yaml import combined_metadata, merged_metadata, split_card, to_yaml
from hf_datasel.hub.markdown import text

__all__ = ["card", "image_folder", "page", "picture", "updated_card", "without_other_rows"]

_PART = re.compile(
    r"^<!-- hf_datasel: (?P<name>[\w.-]+): begin -->\r?$"
    r"(?P<text>(?:(?!^<!-- hf_datasel: [\w.-]+: begin -->\r?$).)*?)"
    r"^<!-- hf_datasel: (?P=name): end -->\r?$",
    re.DOTALL | re.MULTILINE,
)
_MAX_TEXT = 2_000
"""Characters of an alternative text; foreign names in it are cut earlier."""


def page(facts: Facts) -> str:
    """Render the facts as a Markdown page. Foreign text, such as names of columns, is escaped."""
    figures, heading = figures_by_section(facts), ""
    parts = [f"# {text(facts['title'], limit=_MAX_TEXT)}"]
    for section in SECTIONS:
        body = [section.text(facts, facts["sections"].get(section.name))]
        body += [_figure(facts, figure) for figure in figures[section.name]]
        body = [part for part in body if part]
        if body and section.heading != heading:
            heading = section.heading
            parts.append(f"## {heading}")
        parts += body
    return "\n\n".join(parts) + "\n"


def card(facts: Facts) -> str:
    """Render a new dataset card: metadata for the Hub, and the page between the markers that `updated_card` reads."""
    return f"{to_yaml(card_metadata(facts))}\n{_marked_page(facts)}\n"


def updated_card(existing: str, facts: Facts, replaced: Collection[str]) -> str:
    """Replace the generated page and metadata in an existing card; everything else is preserved.

    Args:
        existing: Text of the card.
        facts: Facts of the selection that is published now.
        replaced: Names of the configurations that are written or removed.

    Raises:
        PublishError: The metadata of the card cannot be read, one of the markers around the generated page is missing,
            or another configuration is the default one.
    """
    metadata, body = split_card(existing)
    name, new_metadata = facts["publication"], card_metadata(facts)
    parts = {match["name"]: match for match in _PART.finditer(body)}
    _check_markers(body, name)
    before = {publication: _recorded_metadata(match) for publication, match in parts.items()}
    merged = merged_metadata(
        metadata,
        combined_metadata(list(before.values())),
        combined_metadata(list({**before, name: new_metadata}.values())),
        new_metadata.get("configs", []),
        replaced,
    )
    if name in parts:
        body = body[: parts[name].start()] + _marked_page(facts) + body[parts[name].end() :]
    else:
        body = f"{body.rstrip()}\n\n{_marked_page(facts)}\n" if body.strip() else f"\n{_marked_page(facts)}\n"
    head = existing[: len(existing) - len(split_card(existing)[1])] if merged == metadata else to_yaml(merged)
    return head + body


def without_other_rows(facts: Facts) -> Facts:
    """Return facts without the text of rows that were not selected: a card is published with the selected rows alone.

    Args:
        facts: Facts of the page.
    """
    rows = selected_only(facts["sections"].get("rows"))
    return {**facts, "sections": {**facts["sections"], "rows": rows}} if rows is not None else facts


def image_folder(publication: str) -> str:
    """Return the path of the images of a page, relative to the page."""
    return "plots" if publication == "default" else f"plots/{publication}"


def picture(stem: str, title: str) -> str:
    """Return the HTML of an image for light and dark pages.

    Args:
        stem: URL of the images without `-light.png` and `-dark.png`.
        title: Title of the figure.
    """
    alt = html.escape(f"{title} (see the details below)", quote=True)
    return (
        f'<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="{stem}-dark.png">\n'
        f'  <img src="{stem}-light.png" alt="{alt}" width="720">\n</picture>'
    )


def _figure(facts: Facts, figure: FigureInfo) -> str:
    stem = f"{facts['images']}{image_folder(facts['publication'])}/{figure.name}"
    details = text(figure.alt, limit=_MAX_TEXT)
    return f"{picture(stem, figure.title)}\n\n<details><summary>Details</summary>\n\n{details}\n\n</details>"


def _marked_page(facts: Facts) -> str:
    name = facts["publication"]
    metadata = {key: value for key, value in card_metadata(facts).items() if key != "configs"}
    record = json.dumps(metadata).replace("-", "\\u002d")  # the content of a comment must not end it
    return (
        f"<!-- hf_datasel: {name}: begin -->\n"
        "<!-- Generated: write above or below these markers; the text between them is replaced by the next push. -->\n"
        f"<!-- metadata: {record} -->\n\n{page(without_other_rows(facts))}\n<!-- hf_datasel: {name}: end -->"
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
    """Raise if one of the two markers is missing, because the generated page could not be told from other text."""
    other_text = _PART.sub("", body)
    for end in ("begin", "end"):
        marker = f"<!-- hf_datasel: {name}: {end} -->"
        if any(line.strip() == marker for line in other_text.splitlines()):
            raise PublishError(
                f"The card has the marker {marker!r} without its counterpart. Restore the missing marker, or remove "
                "this one together with the generated page, and push again."
            )
