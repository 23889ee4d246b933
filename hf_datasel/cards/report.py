"""A folder that says everything about a selection: the facts as JSON, and the page as Markdown and as HTML."""

from __future__ import annotations

import base64
import functools
import html
import json
import math
import os
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

from hf_datasel.cards.card import card, image_folder, page
from hf_datasel.cards.facts import Facts, Result
from hf_datasel.cards.figures import figures, png
from hf_datasel.errors import PublishError, did_you_mean
from hf_datasel.hub.markdown import text

__all__ = ["html_page", "json_text", "read_facts", "read_results", "write_card", "write_files", "write_report"]

_FORMAT = 1


def write_report(facts: Facts, folder: str | os.PathLike[str]) -> list[Path]:
    """Write `report.html`, `report.md`, `plots/*.png` and `facts.json`; returns their paths.

    `report.html` holds all of it, and asks nothing of any network.

    Raises:
        DataselError: matplotlib is not installed.
        PublishError: the folder cannot be written.
    """
    facts = _beside_its_images(facts)
    images = _images(facts)
    files: dict[str, str | bytes] = {
        "report.html": html_page(facts["title"], page(facts), images),
        "report.md": page(facts),
    }
    return write_files(Path(folder), {**files, **images, "facts.json": _json(facts)})


def write_card(facts: Facts, folder: str | os.PathLike[str]) -> list[Path]:
    """Write `README.md` (the dataset card), `plots/*.png` and `facts.json`; returns their paths.

    Raises:
        DataselError: matplotlib is not installed.
        PublishError: the folder cannot be written.
    """
    facts = _beside_its_images(facts)
    return write_files(Path(folder), {"README.md": card(facts), **_images(facts), "facts.json": _json(facts)})


def read_facts(path: str | os.PathLike[str]) -> Facts:
    """Read `facts.json`.

    Raises:
        PublishError: there is no such file, it is of another version, or it is no valid JSON or not what facts are.
    """
    content = _load(Path(path))
    version = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version != _FORMAT:
        raise PublishError(
            f"{os.fspath(path)!r} has format_version {version}, and this version of hf_datasel reads {_FORMAT}. "
            "Make it again from the selection, with hf-datasel report."
        )
    return cast(Facts, _conform(content, Facts, os.fspath(path)))


def read_results(path: str | os.PathLike[str]) -> list[Result]:
    """Read measurements: a JSON list of objects with the keys of `Result`, of which `note` may be left out.

    Raises:
        PublishError: there is no such file, or something in it is not a measurement; says where.
    """
    content = _load(Path(path))
    if not isinstance(content, list):
        raise PublishError(f"{os.fspath(path)} has to hold a list of results, and holds {_kind(content)}.")
    filled = [{"note": "", **each} if isinstance(each, dict) else each for each in content]
    results = cast(list[Result], _conform(filled, list[Result], os.fspath(path)))
    for at, each in enumerate(results):
        if not math.isfinite(each["value"]):
            raise PublishError(f"{os.fspath(path)}[{at}]['value'] has to be a number.")
    return results


# -- the page in HTML ------------------------------------------------------------------------------------------------
def html_page(title: str, content: str, images: Mapping[str, bytes]) -> str:
    """A page of ours in one file of HTML, which asks nothing of any network.

    Args:
        title: of the window; shown as it is.
        content: Markdown in which all words of others are escaped: HTML in it passes through.
        images: path, as it stands in `content`, -> PNG, which is put in its place.
    """
    body = _markdown().render(content)
    for path, image in images.items():
        data = f"data:image/png;base64,{base64.b64encode(image).decode()}"
        for name in ("src", "srcset"):
            body = body.replace(f'{name}="{path}"', f'{name}="{data}"')
    return _template().render(title=html.unescape(text(title)), body=Markup(body))


@functools.cache
def _markdown() -> MarkdownIt:
    # HTML passes through: the page escapes all words that are not its own.
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
def _beside_its_images(facts: Facts) -> Facts:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", facts["publication"]):  # it names a folder
        raise PublishError(f"publication={facts['publication']!r:.80} has to be letters, digits, '-', '_' and '.'.")
    return {**facts, "images": ""}


def _images(facts: Facts) -> dict[str, bytes]:
    folder = image_folder(facts["publication"])
    return {
        f"{folder}/{each.name}-{'dark' if dark else 'light'}.png": png(facts, each.name, dark)
        for each in figures(facts)
        for dark in (False, True)
    }


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> list[Path]:
    """Write files at these paths within a folder, which is made; returns their paths.

    Raises:
        PublishError: the folder cannot be written.
    """
    try:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    except OSError as error:
        raise PublishError(f"Cannot write to {str(folder)!r}: {error.strerror}.") from error
    return [folder / name for name in files]


# -- JSON ------------------------------------------------------------------------------------------------------------
def _json(facts: Facts) -> str:
    return json_text(_conform(facts, Facts, "facts"))


def json_text(value: Any) -> str:
    """JSON with a key or an item a line, but numbers side by side; null for what is no number."""
    return f"{_dump(value, '')}\n"


def _dump(value: Any, indent: str) -> str:
    deeper = f"{indent}  "
    if isinstance(value, Mapping) and value:
        lines = [f"{json.dumps(str(key), ensure_ascii=False)}: {_dump(each, deeper)}" for key, each in value.items()]
        opening, closing = "{}"
    elif isinstance(value, list | tuple) and not all(isinstance(each, int | float | None) for each in value):
        lines = [_dump(each, deeper) for each in value]
        opening, closing = "[]"
    elif isinstance(value, list | tuple):
        return f"[{', '.join(_dump(each, deeper) for each in value)}]"
    else:
        is_nan = isinstance(value, float) and not math.isfinite(value)  # which JSON has no word for
        return "null" if is_nan else json.dumps(value, ensure_ascii=False, default=str)
    return f"{opening}\n{deeper}" + f",\n{deeper}".join(lines) + f"\n{indent}{closing}"


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PublishError(f"Cannot read {str(path)!r}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # broken JSON, or bytes that are no text
        raise PublishError(f"{str(path)!r} is no valid JSON: {error}") from error


def _conform(value: Any, kind: Any, place: str) -> Any:
    """The value as its type has it: keys in order, tuples where JSON has lists; refused where it is something else."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return None if value is None else _conform(value, inner[0], place)
    if kind is float and value is None:
        return math.nan
    plain = dict if is_typeddict(kind) else origin or kind
    if not _is(value, plain) or (plain is tuple and len(value) != len(inner)):
        wanted = f"a list of {len(inner)}" if plain is tuple else _NAMES[plain]
        raise PublishError(f"{place} has to be {wanted}, and is {_kind(value)}.")
    if is_typeddict(kind):
        return _conform_keys(value, get_type_hints(kind), place)
    if plain is dict:
        return {key: _conform(each, inner[1], f"{place}[{key!r}]") for key, each in value.items()}
    if plain is list:
        return [_conform(each, inner[0], f"{place}[{at}]") for at, each in enumerate(value)]
    if plain is tuple:
        pairs = zip(value, inner, strict=True)
        return tuple(_conform(each, part, f"{place}[{at}]") for at, (each, part) in enumerate(pairs))
    return value


def _conform_keys(value: Mapping[str, Any], kinds: Mapping[str, Any], place: str) -> dict[str, Any]:
    for key in value:
        if key not in kinds:
            raise PublishError(f"{place} has an unknown key {key!r}.{did_you_mean(str(key), kinds)}")
    for key in kinds:
        if key not in value:
            raise PublishError(f"{place} has no {key!r}. It needs {', '.join(kinds)}.")
    return {key: _conform(value[key], kind, f"{place}[{key!r}]") for key, kind in kinds.items()}


_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind in (float, tuple):
        return isinstance(value, int | float if kind is float else list | tuple)
    return isinstance(value, kind)


def _kind(value: Any) -> str:
    return "null" if value is None else _NAMES.get(type(value), type(value).__name__)
