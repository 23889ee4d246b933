"""Removal of plots that an earlier page in the same folder showed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["linked_plots", "remove_stale_plots"]

_PLOT = re.compile(r"\bplots/[\w.=-]+-(?:light|dark)\.png\b")


def linked_plots(page: Path) -> set[Path]:
    """Return the paths of the plots that a Markdown page shows; empty if there is no such page."""
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return set()
    return {page.parent / plot for plot in _PLOT.findall(text)}


def remove_stale_plots(linked_before: Iterable[Path], written: Iterable[Path]) -> None:
    """Remove plots that the earlier page showed and that have not been written again."""
    for path in {*linked_before} - {*written}:
        path.unlink(missing_ok=True)
