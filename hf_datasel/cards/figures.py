"""Figures of a page: those of its sections under unique names, and their images."""

from __future__ import annotations

import io
import re
from collections.abc import Container
from dataclasses import replace
from typing import TYPE_CHECKING

from hf_datasel.analysis.plots.theme import theme_of, theme_settings
from hf_datasel.cards.facts import Facts
from hf_datasel.cards.section import FigureInfo, Section
from hf_datasel.cards.sections import SECTIONS
from hf_datasel.errors import DataselError, did_you_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw", "figures", "figures_by_section", "file_stem", "png", "png_of"]

_COLOURS = 64  # of an image: enough for smooth edges, and a third of the bytes


def figures_by_section(facts: Facts) -> dict[str, list[FigureInfo]]:
    """Return the figures of each section in the order of the page; their names are the stems of the image files."""
    stems: set[str] = set()
    figures: dict[str, list[FigureInfo]] = {}
    for section in SECTIONS:
        figures[section.name] = []
        for figure in _figures_of(section, facts):
            stem = file_stem(figure.name, stems)
            stems.add(stem)
            figures[section.name].append(replace(figure, name=stem))
    return figures


def _figures_of(section: Section, facts: Facts) -> list[FigureInfo]:
    return section.figures(facts, facts["sections"].get(section.name))


def figures(facts: Facts) -> list[FigureInfo]:
    """Return all figures in the order of the page. Does not need matplotlib."""
    return [figure for figures in figures_by_section(facts).values() for figure in figures]


def draw(facts: Facts, name: str, dark: bool) -> Figure:
    """Draw a figure.

    Args:
        facts: Facts of the page.
        name: Name of the figure, one of those that `figures` returns.
        dark: Whether the background is dark.

    Raises:
        DataselError: There is no such figure, or matplotlib is not installed.
    """
    by_name = {figure.name: figure for figure in figures(facts)}
    if name not in by_name:
        raise DataselError(f"The page has no figure {name!r}, only {list(by_name)}.{did_you_mean(name, by_name)}")
    return by_name[name].draw(title=by_name[name].title, dark=dark)


def png(facts: Facts, name: str, dark: bool) -> bytes:
    """Return the PNG image of a figure, 1,152 pixels wide; the same bytes with the same versions of packages.

    Args:
        facts: Facts of the page.
        name: Name of the figure.
        dark: Whether the background is dark.

    Raises:
        DataselError: There is no such figure, or matplotlib is not installed.
    """
    return png_of(draw(facts, name, dark), dark)


def png_of(figure: Figure, dark: bool) -> bytes:
    """Return the PNG image of a matplotlib figure with a small palette.

    Args:
        figure: The figure.
        dark: Whether it was drawn for a dark background.
    """
    from PIL import Image  # comes with matplotlib

    pixels, output = io.BytesIO(), io.BytesIO()
    with theme_settings(theme_of(dark)):
        figure.savefig(pixels, format="rgba")
    image = Image.frombytes("RGBA", figure.canvas.get_width_height(), pixels.getvalue()).convert("RGB")
    image.quantize(_COLOURS, dither=Image.Dither.NONE).save(output, format="png", optimize=True)
    return output.getvalue()


def file_stem(label: str, existing: Container[str]) -> str:
    """Return a file name of a-z, 0-9 and hyphens that does not exist yet.

    >>> file_stem("scores IFD!", {"scores-ifd"})
    'scores-ifd-2'
    """
    stem = re.sub(r"[^a-z0-9]+", "-", label.lower())[:48].strip("-")
    name, number = stem, 2
    while name in existing:
        name, number = f"{stem}-{number}", number + 1
    return name
