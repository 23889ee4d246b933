"""Plots of the overlap between selections, and of selected rows in a map of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.analysis.plots.theme import (
    add_caption,
    add_legend,
    canvas,
    color_gradient,
    drawable,
    format_count,
    format_jaccard,
    hide_axes,
    label_ticks,
    readable_on,
)
from hf_datasel.analysis.summaries import EmbeddingMap, Overlaps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_map", "draw_overlaps", "join_names"]

_DENSITY_LEVELS = 6
_MARGIN = 2  # cells added around the grid


def draw_overlaps(summary: Overlaps, title: str = "", dark: bool = False) -> Figure:
    """Draw the lower half of the Jaccard matrix as shaded cells with numbers, and the similarity expected by chance.

    Args:
        summary: Result of `overlaps`.
        title: Title of the figure.
        dark: Whether to draw for a dark page.

    Raises:
        DataselError: If matplotlib is not installed.
    """
    names, shortlist = [drawable(name, 22) for name in summary["names"]], summary["shortlist"]
    count = len(names)
    height = 1.3 + 0.18 * (shortlist is not None) + 0.38 * max(count - 1, 2)
    with canvas("draw_overlaps", title, dark, height) as (figure, theme):
        ax = figure.subplots()
        matrix = np.asarray(summary["matrix"])
        gradient = color_gradient(theme.ramp)
        for column, row in combinations(range(count), 2):
            value = matrix[row, column]
            color = gradient(np.sqrt(value))  # most overlaps are small
            ax.fill_between([column, column + 1], row, row + 1, color=color, edgecolor=theme.background)
            ax.text(column + 0.5, row + 0.5, f"{value:.2f}", ha="center", va="center", color=readable_on(color))
        for index, name in enumerate(names[:-1]):
            ax.text(index + 0.08, index + 0.5, name, va="center", color=theme.muted)
        ax.set_xlim(0, max(count, 5))
        ax.set_ylim(count, 0)
        label_ticks(ax.yaxis, [index + 0.5 for index in range(1, count)], names[1:], theme.ink)
        label_ticks(ax.xaxis)
        ax.spines[:].set_visible(False)
        caption = "Jaccard (rows in both / rows in either); two random selections from the pool: "
        caption += format_jaccard(summary["chance"])
        if shortlist is not None:
            selections = drawable(join_names(shortlist["names"]), 40)
            caption += f",\nfrom the {shortlist['rows']:,} rows that {selections} are all from: "
            caption += format_jaccard(shortlist["chance"])
        add_caption(figure, caption, theme)
    return figure


def join_names(names: Sequence[str]) -> str:
    """Return up to three names joined with "and", or else the first and the last.

    >>> join_names(["round 0", "round 1"]), join_names(["round 0", "round 1", "round 2", "round 3"])
    ('round 0 and round 1', 'round 0 to round 3')
    """
    *most, last = names
    return f"{', '.join(most)} and {last}" if 0 < len(most) < 3 else f"{names[0]} to {last}"


def draw_map(summary: EmbeddingMap, title: str = "", dark: bool = False) -> Figure:
    """Draw the density of the pool as shaded areas, and the number of selected rows as discs.

    Args:
        summary: Result of `embedding_map`.
        title: Title of the figure.
        dark: Whether to draw for a dark page.

    Raises:
        DataselError: If matplotlib is not installed.
    """
    with canvas("draw_map", title, dark, height=3.8) as (figure, theme):
        ax = figure.subplots()
        pool, selected = np.asarray(summary["pool"]), np.asarray(summary["selected"])
        x, y = _cell_centers(summary["x"]), _cell_centers(summary["y"])
        density = np.sqrt(_blur(pool))
        levels = np.linspace(0.08, 1, _DENSITY_LEVELS + 1) * density.max()
        colors = color_gradient(theme.density)(np.linspace(0, 1, _DENSITY_LEVELS))
        ax.contourf(x, y, density, levels=levels, colors=colors)
        ax.fill_between([], [], color=colors[_DENSITY_LEVELS // 2], label=f"pool: {format_count(pool.sum())}")
        rows, columns = np.nonzero(selected)
        ax.scatter(
            x[columns + _MARGIN],
            y[rows + _MARGIN],
            s=10 * selected[rows, columns],
            color=theme.selected,
            edgecolor=theme.background,
            linewidth=0.6,
            label=f"selected: {format_count(selected.sum())}, more where discs are larger",
        )
        add_legend(ax)
        hide_axes(ax)
        column, share = drawable(summary["column"], 40), summary["explained"]
        ax.set_xlabel(f"{column}: two principal axes, {share:.0%} of the variance", loc="left")
    return figure


def _blur(counts: np.ndarray) -> np.ndarray:
    """Return counts averaged over neighbouring cells, since most cells have few rows."""
    padded = np.pad(counts.astype(np.float64), _MARGIN)
    for axis in (0, 1):
        padded = np.apply_along_axis(np.convolve, axis, padded, np.array([1, 4, 6, 4, 1]) / 16, "same")
    return padded


def _cell_centers(edges: list[float]) -> np.ndarray:
    """Return the centres of the cells and of the margin added around the grid."""
    steps = np.arange(-_MARGIN, len(edges) - 1 + _MARGIN) + 0.5
    centers: np.ndarray = edges[0] + steps * (edges[-1] - edges[0]) / (len(edges) - 1)
    return centers
