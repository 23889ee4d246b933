"""Docstrings as mkdocstrings reads them: examples as code, and no headings among the arguments."""

from __future__ import annotations

import inspect
import re
from typing import Any

from griffe import Extension, Object


def fenced(text: str) -> str:
    """Return a docstring whose examples, which begin with `>>>`, are blocks of code."""
    return re.sub(r"^>>> (?:.|\n(?!\n))*", lambda match: f"```pycon\n{match[0]}\n```", text, flags=re.MULTILINE)


class Docstrings(Extension):
    """Extension of griffe that prepares every docstring."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        """Prepare the docstring of an object."""
        if obj.docstring is not None:
            text = re.sub(
                r"^ *> Parameters that .*\n\n?", "", inspect.cleandoc(obj.docstring.value), flags=re.MULTILINE
            )
            obj.docstring.value = fenced(text)
