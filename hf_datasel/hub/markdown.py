"""Markdown with escaped text: column names, settings and other foreign text is shown verbatim."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

__all__ = ["Markdown", "code", "fence", "link", "table", "text"]

_LIMIT = 160
_SPECIAL = re.compile(
    r"[&<>\\`*{}\[\]#!|~$]|(?<!\w)_|_(?!\w)"  # anywhere
    r"|^[-+=]|(?<=^\d)[.)](?=\s|$)|(?<=^\d\d)[.)](?=\s|$)"  # at the start of a line
)
_PLAIN_CODE = re.compile(r"[\w… .,:;/@+=<>()\[\]{}'\"%^-]+")
_REPO = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


class Markdown(str):
    """Text that is Markdown already, and is not escaped."""


def text(value: object, limit: int = _LIMIT) -> Markdown:
    """Format a value as plain text on one line, with the special characters of Markdown and HTML as entities.

    Args:
        value: Value to show; `Markdown` is returned unchanged.
        limit: Number of characters after which the text is cut.

    >>> text("<b> & *stars*")
    '&#60;b&#62; &#38; &#42;stars&#42;'
    """
    if isinstance(value, Markdown):
        return value
    return Markdown(_SPECIAL.sub(_entity, _one_line(str(value), limit)))


def code(value: object) -> Markdown:
    """Format a name or a value as a code span.

    Args:
        value: Text, or a value that is shown as JSON.

    >>> code("selection_rank")
    '`selection_rank`'
    >>> code("a|b`c")
    '<code>a&#124;b&#96;c</code>'
    """
    line = _one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), _LIMIT)
    if _PLAIN_CODE.fullmatch(line) and line.strip() == line:
        return Markdown(f"`{line}`")
    return Markdown(f"<code>{_SPECIAL.sub(_entity, line)}</code>")


def fence(content: str, language: str) -> Markdown:
    """Format a block of code, in a fence longer than any inside it; invisible characters are replaced.

    Args:
        content: The code.
        language: Name of the language for highlighting.
    """
    content = "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in content)
    content = content.replace("<!--", "<\ufffd--")  # foreign text must not look like our markers
    longest = max((len(run) for run in re.findall(r"`+", content)), default=0)
    ticks = "`" * max(3, longest + 1)
    return Markdown(f"{ticks}{language}\n{content.rstrip()}\n{ticks}")


def link(repo_id: str, kind: str = "datasets") -> Markdown:
    """Format a link to a repository on the Hub; only its name where that is not valid.

    Args:
        repo_id: Name of the repository.
        kind: Beginning of the path, such as `"datasets"`; empty for models.
    """
    if not _REPO.fullmatch(repo_id) or len(repo_id) > 2 * 96:  # the limit of the Hub for a name
        return code(repo_id)
    path = f"{kind}/{repo_id}" if kind else repo_id
    return Markdown(f"[{text(repo_id)}](https://huggingface.co/{path})")


def table(head: Sequence[str], rows: Iterable[Iterable[object]]) -> Markdown:
    """Format a table; cells that are not `Markdown` are escaped.

    Args:
        head: Names of the columns.
        rows: Cells of each row.
    """
    lines: list[list[str]] = [[text(name) for name in head], ["---"] * len(head)]
    lines += [[text(cell) for cell in row] for row in rows]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def _entity(match: re.Match[str]) -> str:
    return f"&#{ord(match[0])};"


def _one_line(value: str, limit: int) -> str:
    line = " ".join("".join(char if char.isprintable() else " " for char in value[: 4 * limit]).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
