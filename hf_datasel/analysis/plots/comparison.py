"""Plots that compare many selections, with one row per selection and room for long names."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.analysis.comparison import Comparison, Coverage
from hf_datasel.analysis.plots.spreads import bin_shares, draw_bars, layout_value_axis
from hf_datasel.analysis.plots.theme import (
    Theme,
    add_caption,
    add_legend,
    canvas,
    color_gradient,
    drawable,
    format_number,
    label_ticks,
    percent_axis,
    readable_on,
    require_matplotlib,
)
from hf_datasel.analysis.summaries import Distribution, Spread
from hf_datasel.errors import DataselError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_compared", "draw_coverage", "draw_jaccard", "format_chance"]

_ROW_HEIGHT, _SMALL_ROW_HEIGHT = 0.42, 0.35  # inches, for three lines of a name
_NAME_WIDTH, _NAME_LINES = 30, 3  # characters per line, and lines, of a name
_MAX_LARGE_CELLS = 8  # selections up to which cells show 0.05, and not .05
_MAX_WITH_NUMBERS = 20  # selections up to which cells show numbers


def draw_compared(summary: Distribution, title: str = "", dark: bool = False) -> Figure:
    """Draw a histogram per group below each other, with its quartiles (bar) and median (tick).

    Each histogram is scaled to its own highest bin. A dashed line marks the median of the first group, the pool.

    Args:
        summary: Distribution of a column over the pool and the selections.
        title: Title of the figure.
        dark: Whether to draw for a dark page.

    Raises:
        DataselError: If matplotlib is not installed.
    """
    groups = summary["groups"]
    with canvas("draw_compared", title, dark, height=1.0 + _ROW_HEIGHT * len(groups)) as (figure, theme):
        ax = figure.subplots()
        ax.axvline(groups[0]["quantiles"][2], color=theme.muted, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
        for index, group in enumerate(groups):
            _draw_histogram(ax, summary, group, index, theme)
        _label_rows(ax, [group["name"] for group in groups], theme)
        _layout_value_axis(ax, summary)
        _annotate_rows(ax, [format_number(group["quantiles"][2]) for group in groups], theme)
        ax.text(1.02, 1.0, "median", transform=ax.transAxes, va="bottom", fontsize=8.5, color=theme.muted)
    return figure


def draw_jaccard(comparison: Comparison, title: str = "", dark: bool = False) -> Figure:
    """Draw the lower half of the Jaccard matrix as shaded cells, with numbers instead of names for the columns.

    Args:
        comparison: Result of `compare`.
        title: Title of the figure.
        dark: Whether to draw for a dark page.

    Raises:
        DataselError: If matplotlib is not installed.
    """
    require_matplotlib("draw_jaccard")
    names, matrix = comparison["overlap"]["names"], np.asarray(comparison["overlap"]["matrix"])
    count = len(names)
    small = count > _MAX_LARGE_CELLS
    row_height = _SMALL_ROW_HEIGHT if small else _ROW_HEIGHT
    with canvas("draw_jaccard", title, dark, height=1.2 + row_height * max(count, 3)) as (figure, theme):
        ax, gradient = figure.subplots(), color_gradient(theme.ramp)
        for column, row in combinations(range(count), 2):
            value = matrix[row, column]
            color = gradient(np.sqrt(value))  # most overlaps are small
            ax.fill_between([column, column + 1], row, row + 1, color=color, edgecolor=theme.background)
            if count <= _MAX_WITH_NUMBERS:
                text, size = _cell_text(value, small), 7 if small else 9
                ink = readable_on(color)
                ax.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=ink, fontsize=size)
        for index in range(count):
            ax.text(index + 0.5, index + 0.5, f"{index + 1}", ha="center", va="center", color=theme.muted, fontsize=8)
        ax.set_xlim(0, max(count, 6))
        _label_rows(ax, [f"{index}  {name}" for index, name in enumerate(names, 1)], theme, small)
        ax.set_ylim(count, 0)
        label_ticks(ax.xaxis)
        ax.spines[:].set_visible(False)
        caption = f"Jaccard (rows in both / rows in either); two random selections: {format_chance(comparison)}"
        add_caption(figure, caption, theme)
    return figure


def _cell_text(value: float, small: bool) -> str:
    text = f"{value:.2f}"
    if not small:
        return text
    return "1.0" if text == "1.00" else text.removeprefix("0")


def draw_coverage(comparison: Comparison, title: str = "", dark: bool = False) -> Figure:
    """Draw the share of clusters with a selected row as bars, and the effective number of clusters as dots.

    Args:
        comparison: Result of `compare`.
        title: Title of the figure.
        dark: Whether to draw for a dark page.

    Raises:
        DataselError: If matplotlib is not installed, or the comparison has no clusters.
    """
    require_matplotlib("draw_coverage")
    names, coverages = _coverages(comparison)
    if not coverages:
        raise DataselError("draw_coverage needs clusters, and the comparison has none.")
    clusters = coverages[0]["clusters"]
    with canvas("draw_coverage", title, dark, height=1.3 + _ROW_HEIGHT * len(names)) as (figure, theme):
        ax = figure.subplots()
        y = np.arange(len(names)) + 0.5
        covered = [coverage["covered"] / max(clusters, 1) for coverage in coverages]
        effective = [coverage["effective"] / max(clusters, 1) for coverage in coverages]
        ax.barh(y, covered, 0.56, color=[theme.pool, *[theme.selected] * (len(names) - 1)])
        ax.barh(0, 0, color=theme.selected, label="clusters with a selected row")
        (dots,) = ax.plot(effective, y, "o", markersize=7, color=theme.others[0], label="effective number")
        dots.set_markeredgecolor(theme.background)
        _label_rows(ax, names, theme)
        ax.set_xlim(0, 1.02)
        percent_axis(ax.xaxis)
        ax.set_xlabel(f"share of the {clusters:,} clusters in {drawable(coverages[0]['column'], 24)}")
        numbers = [f"{coverage['covered']:,} ({format_number(coverage['effective'])})" for coverage in coverages]
        _annotate_rows(ax, numbers, theme)
        add_legend(ax)
    return figure


def _coverages(comparison: Comparison) -> tuple[list[str], list[Coverage]]:
    """Return the names and the coverage of the pool and the selections, of those that have clusters."""
    coverages = [("pool", comparison["pool"]["coverage"])]
    coverages += [(selection["name"], selection["coverage"]) for selection in comparison["selections"]]
    with_clusters = [(name, coverage) for name, coverage in coverages if coverage is not None]
    return [name for name, _ in with_clusters], [coverage for _, coverage in with_clusters]


def format_chance(comparison: Comparison) -> str:
    """Return the Jaccard similarity expected by chance as text; a range if the selections differ in size."""
    chance = np.asarray(comparison["chance"])
    pairs = chance[np.triu_indices(len(chance), 1)] if len(chance) > 1 else np.array([comparison["overlap"]["chance"]])
    low, high = f"{pairs.min():.2g}", f"{pairs.max():.2g}"
    return low if low == high else f"{low} to {high}"


def _draw_histogram(ax: Axes, summary: Distribution, group: Spread, index: int, theme: Theme) -> None:
    heights = bin_shares(summary, group)
    heights *= 0.62 / max(heights.max(), 1e-12)
    base, color = index + 0.72, theme.pool if index == 0 else theme.selected
    draw_bars(ax, summary, -heights, base, color)
    low, median, high = np.clip(group["quantiles"][1:4], summary["edges"][0], summary["edges"][-1])
    ax.plot([low, high], [base + 0.1] * 2, color=theme.muted, linewidth=2.6, solid_capstyle="butt")
    ax.plot([median] * 2, [base + 0.02, base + 0.18], color=theme.ink, linewidth=2, solid_capstyle="butt")


def _label_rows(ax: Axes, names: Sequence[str], theme: Theme, small: bool = False) -> None:
    """Label the rows from top to bottom with names of up to three lines."""
    label_ticks(ax.yaxis, [index + 0.5 for index in range(len(names))], [_wrap(name) for name in names], theme.ink)
    for label in ax.get_yticklabels():
        label.set_fontsize(7.5 if small else 8.5)
        label.set_linespacing(1.0)
    ax.set_ylim(len(names), -0.05)
    ax.spines["left"].set_visible(False)


def _wrap(name: str) -> str:
    lines = textwrap.wrap(name, _NAME_WIDTH) or [""]
    if len(lines) > _NAME_LINES:
        lines = [*lines[: _NAME_LINES - 1], " ".join(lines[_NAME_LINES - 1 :])]
    return "\n".join(drawable(line, _NAME_WIDTH + 2) for line in lines)


def _annotate_rows(ax: Axes, texts: Sequence[str], theme: Theme) -> None:
    """Write a text to the right of each row."""
    for index, text in enumerate(texts):
        ax.text(
            1.02, index + 0.5, text, transform=ax.get_yaxis_transform(), va="center", fontsize=8.5, color=theme.ink
        )


def _layout_value_axis(ax: Axes, summary: Distribution) -> None:
    layout_value_axis(ax, summary)
    outside = max(1 - sum(group["counts"]) / group["rows"] for group in summary["groups"])
    more = f" (up to {outside:.1%} of a selection's values lie outside)" if outside > 0 else ""
    ax.set_xlabel(f"{drawable(summary['column'], 44)}{more}")
