"""Reports and cards in a local folder: facts.json, the page as Markdown and as HTML, and the images."""

from __future__ import annotations

import base64
import functools
import html
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

from hf_datasel.atomic import write_file
from hf_datasel.cards.card import card, image_folder, page, without_other_rows
from hf_datasel.cards.facts import FORMAT, Facts, Result
from hf_datasel.cards.figures import figures, png
from hf_datasel.cards.results import check_results
from hf_datasel.cards.sections import SECTIONS
from hf_datasel.cards.typed_json import checked, checked_keys
from hf_datasel.errors import PublishError
from hf_datasel.hub.markdown import text

__all__ = [
    "default_title",
    "html_page",
    "json_text",
    "read_facts",
    "read_results",
    "write_card",
    "write_files",
    "write_report",
]


def write_report(facts: Facts, folder: str | os.PathLike[str]) -> list[Path]:
    """Write `report.html`, `report.md`, `plots/*.png` and `facts.json`, and return their paths.

    `report.html` contains everything and loads nothing from a network.

    Args:
        facts: Facts of the page.
        folder: Folder to write into; it is created if it does not exist.

    Raises:
        DataselError: matplotlib is not installed.
        PublishError: The folder cannot be written.
    """
    facts = _with_local_images(facts)
    images = _images(facts)
    files: dict[str, str | bytes] = {
        "report.html": html_page(facts["title"], page(facts), images),
        "report.md": page(facts),
    }
    return write_files(Path(folder), {**files, **images, "facts.json": _json(facts)})


def default_title(facts: Facts, name: str = "") -> str:
    """Return the title of a page: the name of the method and of the dataset.

    Args:
        facts: Facts of the page.
        name: Name of a dataset that has none of its own; by default its number of rows.
    """
    rows = f"{facts['parent']['rows']:,} rows"
    return f"{facts['method']['name']} on {facts['parent']['name'] or name or rows}"


def write_card(facts: Facts, folder: str | os.PathLike[str]) -> list[Path]:
    """Write `README.md` (the dataset card), `plots/*.png` and `facts.json`, and return their paths.

    Of rows that were not selected, which are not published with a card, it has no text.

    Args:
        facts: Facts of the page.
        folder: Folder to write into; it is created if it does not exist.

    Raises:
        DataselError: matplotlib is not installed.
        PublishError: The folder cannot be written.
    """
    facts = without_other_rows(_with_local_images(facts))
    return write_files(Path(folder), {"README.md": card(facts), **_images(facts), "facts.json": _json(facts)})


def read_facts(path: str | os.PathLike[str]) -> Facts:
    """Read `facts.json`.

    Args:
        path: Path of the file.

    Raises:
        PublishError: The file does not exist, has another format version, or is not valid.
    """
    content = _load(Path(path))
    version = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version != FORMAT:
        raise PublishError(
            f"{os.fspath(path)!r} has format_version {version}, but this version of hf_datasel reads {FORMAT}.",
            hint="Write it again from the selection.",
            cli_hint="Write it again from the selection, with hf-datasel report.",
        )
    return _checked_facts(content, os.fspath(path))


def read_results(path: str | os.PathLike[str]) -> list[Result]:
    """Read evaluation results: a JSON list of objects with the keys of `Result`, of which `note` is optional.

    Args:
        path: Path of the file.

    Raises:
        PublishError: The file does not exist, or an entry is not valid; the message says which.
    """
    return check_results(_load(Path(path)), os.fspath(path))


# -- the page in HTML ------------------------------------------------------------------------------------------------
def html_page(title: str, content: str, images: Mapping[str, bytes]) -> str:
    """Render a Markdown page as one HTML file that loads nothing from a network.

    Args:
        title: Title of the window; escaped.
        content: Markdown in which foreign text is escaped: HTML in it is not changed.
        images: Path of an image in `content` -> PNG that is embedded instead.
    """
    body = _markdown().render(content)
    for path, image in images.items():
        data = f"data:image/png;base64,{base64.b64encode(image).decode()}"
        for name in ("src", "srcset"):
            body = body.replace(f'{name}="{path}"', f'{name}="{data}"')
    return _template().render(title=html.unescape(text(title)), body=Markup(body))


@functools.cache
def _markdown() -> MarkdownIt:
    # HTML is passed through: the page escapes all foreign text.
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    markdown.add_render_rule("table_open", lambda *_: '<div class="scroll">\n<table>\n')
    markdown.add_render_rule("table_close", lambda *_: "</table>\n</div>\n")
    return markdown


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hf_datasel.cards"), undefined=jinja2.StrictUndefined, autoescape=True
    )
    return environment.get_template("report.html.jinja")


# -- files -----------------------------------------------------------------------------------------------------------
def _with_local_images(facts: Facts) -> Facts:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", facts["publication"]):  # it names a folder
        raise PublishError(
            f"publication={facts['publication']!r:.80} has to consist of letters, digits, '-', '_' and '.'."
        )
    return {**facts, "images": ""}


def _images(facts: Facts) -> dict[str, bytes]:
    folder = image_folder(facts["publication"])
    return {
        f"{folder}/{figure.name}-{'dark' if dark else 'light'}.png": png(facts, figure.name, dark)
        for figure in figures(facts)
        for dark in (False, True)
    }


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> list[Path]:
    """Write files into a folder, and return their paths.

    Args:
        folder: The folder; it is created if it does not exist.
        files: Path within the folder -> content.

    Raises:
        PublishError: A file cannot be written.
    """
    return [write_file(folder / name, content, PublishError) for name, content in files.items()]


# -- JSON ------------------------------------------------------------------------------------------------------------
def _json(facts: Facts) -> str:
    return json_text(_checked_facts(facts, "facts"))


def json_text(value: Any) -> str:
    """Format a value as JSON with one key or item per line, but numbers in one line; NaN becomes null."""
    return f"{_dump(value, '')}\n"


def _dump(value: Any, indent: str) -> str:
    deeper = f"{indent}  "
    if isinstance(value, Mapping) and value:
        lines = [f"{json.dumps(str(key), ensure_ascii=False)}: {_dump(item, deeper)}" for key, item in value.items()]
        opening, closing = "{}"
    elif isinstance(value, list | tuple) and not all(isinstance(item, int | float | None) for item in value):
        lines = [_dump(item, deeper) for item in value]
        opening, closing = "[]"
    elif isinstance(value, list | tuple):
        return f"[{', '.join(_dump(item, deeper) for item in value)}]"
    else:
        is_nan = isinstance(value, float) and not math.isfinite(value)  # JSON has no NaN
        return "null" if is_nan else json.dumps(value, ensure_ascii=False, default=str)
    return f"{opening}\n{deeper}" + f",\n{deeper}".join(lines) + f"\n{indent}{closing}"


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PublishError(f"Cannot read {str(path)!r}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # broken JSON, or bytes that are not text
        raise PublishError(f"{str(path)!r} is not valid JSON: {error}") from error


def _checked_facts(content: Any, name: str) -> Facts:
    """Return facts with checked types: those of the page, and those that each section defines."""
    facts = cast(Facts, checked(content, Facts, name))
    types_by_section = {section.name: section.facts_type for section in SECTIONS if section.compute is not None}
    # files of earlier versions have no rows
    facts["sections"] = checked_keys(facts["sections"], types_by_section, f"{name}['sections']", optional=("rows",))
    return facts
