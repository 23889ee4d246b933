"""Words of other people inside our Markdown: shown as they are, never obeyed."""

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
    """Text that is Markdown already, and goes into the page as it is."""


def text(value: object, limit: int = _LIMIT) -> Markdown:
    """Plain words on one line, with every character that Markdown or HTML would act on written as an entity.

    >>> text("<b> & *stars*")
    '&#60;b&#62; &#38; &#42;stars&#42;'
    """
    if isinstance(value, Markdown):
        return value
    return Markdown(_SPECIAL.sub(_entity, _one_line(str(value), limit)))


def code(value: object) -> Markdown:
    """A name or a value in a code span, whatever it holds.

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
    """A block of code, in a fence longer than any within it; characters that cannot be seen are replaced."""
    content = "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in content)
    content = content.replace("<!--", "<\ufffd--")  # no word of others may look like a mark of ours
    longest = max((len(run) for run in re.findall(r"`+", content)), default=0)
    ticks = "`" * max(3, longest + 1)
    return Markdown(f"{ticks}{language}\n{content.rstrip()}\n{ticks}")


def link(repo_id: str, kind: str = "datasets") -> Markdown:
    """A link to a repository on the Hub; only the name where it cannot be one."""
    if not _REPO.fullmatch(repo_id) or len(repo_id) > 2 * 96:  # the Hub's own limit of a name
        return code(repo_id)
    place = f"{kind}/{repo_id}" if kind else repo_id
    return Markdown(f"[{text(repo_id)}](https://huggingface.co/{place})")


def table(head: Sequence[str], rows: Iterable[Iterable[object]]) -> Markdown:
    """A table; cells that are no Markdown yet are escaped."""
    lines: list[list[str]] = [[text(each) for each in head], ["---"] * len(head)]
    lines += [[text(cell) for cell in row] for row in rows]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def _entity(match: re.Match[str]) -> str:
    return f"&#{ord(match[0])};"


def _one_line(value: str, limit: int) -> str:
    line = " ".join("".join(each if each.isprintable() else " " for each in value[: 4 * limit]).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
