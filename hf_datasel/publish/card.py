"""Facts to text: the dataset card, and the same page without the Hub's metadata. Pure functions."""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Mapping, Set
from typing import Any

import jinja2
import yaml

from hf_datasel.publish import sections
from hf_datasel.publish.facts import Facts
from hf_datasel.publish.figures import FigureInfo, figures
from hf_datasel.publish.markdown import Markdown, text
from hf_datasel.publish.metadata import card_metadata, merged_metadata, split_card

__all__ = ["card", "image_folder", "page", "updated_card"]

_SENTENCES = 2_000
"""Characters of a text of ours that are shown; words of others are cut earlier."""


def page(facts: Facts) -> str:
    """The page that says everything, in Markdown. Words that come from elsewhere are shown and never obeyed."""
    values = {
        **{name: section(facts) for name, section in sections.SECTIONS.items()},
        "title": facts["title"],
        "method": facts["method"],
        "figures": [{"numbers": each.alt, "picture": _picture(facts, each)} for each in figures(facts)],
    }
    rendered = _template().render(values)
    return re.sub(r"\n{3,}", "\n\n", rendered).strip() + "\n"


def card(facts: Facts) -> str:
    """A new dataset card: metadata for the Hub, and the page between marks that `updated_card` looks for."""
    return _with_metadata(card_metadata(facts), _marked(facts))


def updated_card(existing: str, facts: Facts, replaced: Set[str]) -> str:
    """A card that is there already, with the generated part and its metadata made new and all else left as it is.

    Args:
        existing: text of the card.
        facts: of the selection that is published now.
        replaced: names of configurations that are written or removed with it.

    Raises:
        PublishError: the metadata of the existing card cannot be read.
    """
    metadata, body = split_card(existing)
    begin, end = _marks(facts)
    at = body.find(begin)
    stop = body.find(end, at)
    if at >= 0 and stop >= 0:
        body = body[:at] + _marked(facts) + body[stop + len(end) :]
    else:
        body = f"{body.rstrip()}\n\n{_marked(facts)}\n" if body.strip() else f"{_marked(facts)}\n"
    return _with_metadata(merged_metadata(metadata, card_metadata(facts), set(replaced)), body.strip("\n"))


def image_folder(publication: str) -> str:
    """Where the images of a page are, as seen from it."""
    return "plots" if publication == "default" else f"plots/{publication}"


def _with_metadata(metadata: Mapping[str, Any], body: str) -> str:
    head = yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True, width=10_000)
    return f"---\n{head}---\n\n{body}\n"


def _marks(facts: Facts) -> tuple[str, str]:
    name = facts["publication"]
    return f"<!-- hf_datasel: {name}: begin -->", f"<!-- hf_datasel: {name}: end -->"


def _marked(facts: Facts) -> str:
    begin, end = _marks(facts)
    note = "<!-- Generated: write above or below these marks; what is between them is replaced by the next push. -->"
    return f"{begin}\n{note}\n\n{page(facts)}\n{end}"


def _picture(facts: Facts, figure: FigureInfo) -> Markdown:
    stem = f"{facts['images']}{image_folder(facts['publication'])}/{figure.name}"
    alt = html.escape(f"{figure.title} (in numbers below)", quote=True)
    return Markdown(
        f'<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="{stem}-dark.png">\n'
        f'  <img src="{stem}-light.png" alt="{alt}" width="720">\n</picture>'
    )


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hf_datasel.publish"),
        undefined=jinja2.StrictUndefined,
        finalize=functools.partial(text, limit=_SENTENCES),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("card.md.jinja")
