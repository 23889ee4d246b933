"""Plots that an earlier page in the same folder showed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["linked_plots", "remove_old"]

_PLOT = re.compile(r"\bplots/[\w.=-]+-(?:light|dark)\.png\b")


def linked_plots(page: Path) -> set[Path]:
    """The plots that a page in Markdown shows; none where there is no such page."""
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return set()
    return {page.parent / place for place in _PLOT.findall(text)}


def remove_old(before: Iterable[Path], written: Iterable[Path]) -> None:
    """Remove what a page showed before and its successor does not show."""
    for path in {*before} - {*written}:
        path.unlink(missing_ok=True)
