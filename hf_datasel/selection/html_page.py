"""A page in a file, which notebooks show."""

from __future__ import annotations

import html
import os
from pathlib import Path

__all__ = ["HtmlPage"]


class HtmlPage(os.PathLike[str]):
    """A page that was written, which notebooks show.

    Args:
        path: The HTML file.
    """

    def __init__(self, path: Path):
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"HtmlPage({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """Return the page in a frame of its own, which cannot reach the notebook."""
        content = html.escape(self.path.read_text(encoding="utf-8"))
        return (
            f'<iframe srcdoc="{content}" sandbox="allow-scripts" title="{html.escape(self.path.name)}" '
            'width="100%" height="720" style="border: 1px solid #8888"></iframe>'
        )
