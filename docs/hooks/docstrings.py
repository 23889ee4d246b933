"""Docstrings as mkdocstrings reads them: examples as code, and no headings among the arguments."""

from __future__ import annotations

import inspect
import re
from typing import Any

from griffe import Extension, Object

_CROSS_REFERENCE = re.compile(r"\[`~?([^`\]]+)`\](?![(\[])")


def plain(text: str) -> str:
    """Return a docstring without the notation of Hugging Face for [`SFTConfig`] and for groups of arguments."""
    return _CROSS_REFERENCE.sub(r"`\1`", re.sub(r"^ *> Parameters that .*\n\n?", "", text, flags=re.MULTILINE))


def fenced(text: str) -> str:
    """Return a docstring whose examples, which begin with `>>>`, are blocks of code."""
    return re.sub(r"^>>> (?:.|\n(?!\n))*", lambda match: f"```pycon\n{match[0]}\n```", text, flags=re.MULTILINE)


class Docstrings(Extension):
    """Extension of griffe that prepares every docstring."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        """Prepare the docstring of an object."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(plain(inspect.cleandoc(obj.docstring.value)))
