"""Output to terminals: control characters in rows, columns and file names are shown, and not obeyed."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO, cast

__all__ = ["print_next_steps", "printable", "printable_stdout"]

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""Return a text with the escape of each control character but tabs and newlines.

    >>> printable("column \x1b[31mred")
    'column \\x1b[31mred'
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def print_next_steps(*commands: Sequence[str]) -> None:
    """Print the commands that usually follow.

    Args:
        *commands: Name and flags of each.
    """
    lines = [shlex.join(["hf-datasel", *command]) for command in commands]
    print("\n".join(["Next, for example:", *(f"  {line}" for line in lines)]))


class _PrintableStream:
    """Text stream that writes to another what can be printed."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(printable(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def printable_stdout() -> Iterator[None]:
    """Print only what `printable` returns while the context is open."""
    with redirect_stdout(cast(TextIO, _PrintableStream(sys.stdout))):
        yield
