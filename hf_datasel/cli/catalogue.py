"""Catalogue of the selectors, filters and scores of this package: their docstrings and settings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any, cast

from hf_datasel.spec import Kind, changed_settings, default_of, summary

__all__ = ["Entry", "Setting", "catalogue"]

_MAX_LENGTH = 60  # characters of a default that are shown
_ENTRY = re.compile(r"^ {4}(\w+)(?: \([^)]*\))?: ")


@dataclass(frozen=True)
class Setting:
    """A setting of a method.

    Args:
        name: Its name.
        type: Its annotation, as the code has it.
        default: Its default as Python code, shortened; None if it is required.
        about: What its docstring says of it, on one line.
    """

    name: str
    type: str
    default: str | None
    about: str


@dataclass(frozen=True)
class Entry:
    """A selector, filter or score of this package.

    Args:
        kind: What it is.
        name: Its name on the command line, in recipes and in selections.
        cls: Its class.
    """

    kind: Kind
    name: str
    cls: type

    @property
    def summary(self) -> str:
        """The first paragraph of its docstring."""
        return summary(self.cls)

    @property
    def path(self) -> str:
        """Name to import in Python."""
        return f"{self.cls.__module__.rpartition('.')[0]}.{self.cls.__name__}"

    @property
    def trains_between_rounds(self) -> bool:
        """Whether it selects between rounds of training, so that only a trainer can run it."""
        from hf_datasel.rounds.incremental_selector import IncrementalSelector
        from hf_datasel.rounds.warmup_selector import WarmupSelector

        return issubclass(self.cls, IncrementalSelector | WarmupSelector)

    @property
    def about(self) -> str:
        """Its docstring without the settings."""
        text, _, rest = inspect.cleandoc(self.cls.__doc__ or "").partition("\n\nArgs:\n")
        after = re.split(r"^(?=\S)", rest, maxsplit=1, flags=re.MULTILINE)[1:]
        return "\n\n".join([text, *map(str.strip, after)])

    @cached_property
    def settings(self) -> list[Setting]:
        """Its settings, in the order of the constructor."""
        descriptions = {name: text for cls in reversed(self.cls.__mro__) for name, text in _described(cls)}
        return [
            Setting(
                field.name,
                str(field.type),
                None if default_of(field) is MISSING else _default(field.name, default_of(field)),
                descriptions.get(field.name, ""),
            )
            for field in fields(cast(Any, self.cls))
        ]


def catalogue() -> list[Entry]:
    """Return all selectors, filters and scores of this package."""
    from hf_datasel.scores import list_scores
    from hf_datasel.selectors import list_filters, list_selectors

    groups: tuple[tuple[Kind, dict[str, Any]], ...] = (
        ("selector", list_selectors()),
        ("filter", list_filters()),
        ("score", list_scores()),
    )
    return [Entry(kind, name, cls) for kind, classes in groups for name, cls in classes.items()]


def _described(cls: type) -> Iterator[tuple[str, str]]:
    """Yield the names and descriptions in the section `Args` of a class's own docstring."""
    _, _, section = inspect.cleandoc(vars(cls).get("__doc__") or "").partition("\nArgs:\n")
    name, lines = "", list[str]()
    for line in [*section.splitlines(), "end"]:
        match = _ENTRY.match(line)
        if (match or not line.startswith("    ")) and name:
            yield name, " ".join(lines)
        if line.strip() and not line.startswith("    "):
            return
        if match:
            name, lines = match[1], [line[match.end() :].strip()]
        elif line.strip():
            lines.append(line.strip())


def _default(name: str, default: Any) -> str:
    """Return a default as text; a score with its changed settings, a long tuple as its length, long text cut."""
    if is_dataclass(default):
        settings = ", ".join(f"{key}={value!r}" for key, value in changed_settings(default).items())
        return f"{type(default).__name__}({settings})"
    text = repr(default)
    if len(text) <= _MAX_LENGTH:
        return text
    if isinstance(default, tuple):
        return f"({len(default)} {name})"
    return f"{text[: _MAX_LENGTH - 2].rstrip()}…{text[-1]}"
