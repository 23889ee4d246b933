"""From facts to text: the dataset card, and the same page without the Hub's metadata. All functions are pure."""

from __future__ import annotations

import html
from collections.abc import Collection

from hf_datasel.cards.facts import Facts
from hf_datasel.cards.figures import figures_by_section
from hf_datasel.cards.metadata import card_metadata
from hf_datasel.cards.row_examples import selected_only
from hf_datasel.cards.section import FigureInfo
from hf_datasel.cards.sections import SECTIONS
from hf_datasel.hub.card_parts import new_card, updated_card as update_part
from hf_datasel.hub.markdown import text

__all__ = ["card", "image_folder", "page", "picture", "updated_card", "without_other_rows"]

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
    return new_card(facts["publication"], _published_page(facts), card_metadata(facts))


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
    return update_part(existing, facts["publication"], _published_page(facts), card_metadata(facts), replaced)


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


def _published_page(facts: Facts) -> str:
    return page(without_other_rows(facts))
