"""Facts to text: the dataset card, and the same page without the Hub's metadata. Pure functions."""

from __future__ import annotations

import functools
import html
import json
import re
from collections.abc import Collection
from typing import Any

import jinja2

from hf_datasel.cards import sections
from hf_datasel.cards.facts import Facts
from hf_datasel.cards.figures import FigureInfo, figures
from hf_datasel.cards.metadata import card_metadata
from hf_datasel.errors import PublishError
from hf_datasel.hub.card_yaml import joined, merged_metadata, split_card, to_yaml
from hf_datasel.hub.markdown import Markdown, text

__all__ = ["card", "image_folder", "page", "updated_card"]

_PART = re.compile(
    r"^<!-- hf_datasel: (?P<name>[\w.-]+): begin -->\r?$"
    r"(?P<text>(?:(?!^<!-- hf_datasel: [\w.-]+: begin -->\r?$).)*?)"
    r"^<!-- hf_datasel: (?P=name): end -->\r?$",
    re.DOTALL | re.MULTILINE,
)
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
    return f"{to_yaml(card_metadata(facts))}\n{_marked(facts)}\n"


def updated_card(existing: str, facts: Facts, replaced: Collection[str]) -> str:
    """A card that is there already, with the generated part and its metadata made new and all else left as it is.

    Args:
        existing: text of the card.
        facts: of the selection that is published now.
        replaced: names of configurations that are written or removed with it.

    Raises:
        PublishError: the metadata of the card cannot be read, one of the marks around the generated part is gone, or
            another configuration is the default one.
    """
    metadata, body = split_card(existing)
    name, ours = facts["publication"], card_metadata(facts)
    parts = {match["name"]: match for match in _PART.finditer(body)}
    _check_marks(body, name)
    before = {other: _recorded(match) for other, match in parts.items()}
    merged = merged_metadata(
        metadata,
        joined(list(before.values())),
        joined(list({**before, name: ours}.values())),
        ours.get("configs", []),
        replaced,
    )
    if name in parts:
        body = body[: parts[name].start()] + _marked(facts) + body[parts[name].end() :]
    else:
        body = f"{body.rstrip()}\n\n{_marked(facts)}\n" if body.strip() else f"\n{_marked(facts)}\n"
    head = existing[: len(existing) - len(split_card(existing)[1])] if merged == metadata else to_yaml(merged)
    return head + body


def image_folder(publication: str) -> str:
    """Where the images of a page are, as seen from it."""
    return "plots" if publication == "default" else f"plots/{publication}"


def _marked(facts: Facts) -> str:
    name = facts["publication"]
    kept = {key: value for key, value in card_metadata(facts).items() if key != "configs"}
    record = json.dumps(kept).replace("-", "\\u002d")  # what is in a comment must not end it
    return (
        f"<!-- hf_datasel: {name}: begin -->\n"
        "<!-- Generated: write above or below these marks; what is between them is replaced by the next push. -->\n"
        f"<!-- metadata: {record} -->\n\n{page(facts)}\n<!-- hf_datasel: {name}: end -->"
    )


def _recorded(part: re.Match[str]) -> dict[str, Any]:
    """The metadata that an earlier push gave the card, so that what a person changed since can be told."""
    found = re.search(r"^<!-- metadata: (\{.*\}) -->\r?$", part["text"], re.MULTILINE)
    try:
        content = json.loads(found[1]) if found else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _check_marks(body: str, name: str) -> None:
    """Refuse a card in which one of our two marks is gone: what a person wrote could not be told from ours."""
    rest = _PART.sub("", body)
    for end in ("begin", "end"):
        mark = f"<!-- hf_datasel: {name}: {end} -->"
        if any(line.strip() == mark for line in rest.splitlines()):
            raise PublishError(
                f"The card has a mark {mark!r} without its other half. Put that back, or remove this one and the "
                "generated part with it, and push again."
            )


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
        loader=jinja2.PackageLoader("hf_datasel.cards"),
        undefined=jinja2.StrictUndefined,
        finalize=functools.partial(text, limit=_SENTENCES),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("card.md.jinja")
