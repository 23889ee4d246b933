"""Many selections side by side: a row each, with room for long names."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.analysis.comparison import Comparison, Coverage
from hf_datasel.analysis.plots.spreads import bin_shares, draw_bars, value_axis
from hf_datasel.analysis.plots.theme import (
    Theme,
    canvas,
    legend_above,
    need_matplotlib,
    plain_number,
    printable,
    quiet_axes,
    readable_on,
)
from hf_datasel.analysis.summaries import Distribution, Spread
from hf_datasel.errors import DataselError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["chance_in_words", "draw_compared", "draw_coverage", "draw_jaccard"]

_ROW, _SMALL_ROW = 0.42, 0.35  # inches, three lines of a name
_LETTERS, _LINES = 30, 3  # of a name
_WITH_ZERO = 8  # selections up to which there is room for 0.05, and not only for .05
_WITH_NUMBERS = 20  # and for any number in a cell


def draw_compared(summary: Distribution, title: str = "", dark: bool = False) -> Figure:
    """Draw a histogram a row, each as high as its own fullest bin says, with quartiles (bar) and median (tick).

    The median of the first group, the pool, goes down through all rows as a line.

    Raises:
        DataselError: matplotlib is not installed.
    """
    groups = summary["groups"]
    with canvas("draw_compared", title, dark, height=1.0 + _ROW * len(groups)) as (figure, theme):
        ax = figure.subplots()
        ax.axvline(groups[0]["quantiles"][2], color=theme.muted, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
        for at, group in enumerate(groups):
            _ridge(ax, summary, group, at, theme)
        _name_rows(ax, [group["name"] for group in groups], theme)
        _value_axis(ax, summary)
        _say_beside(ax, [plain_number(group["quantiles"][2]) for group in groups], theme)
        ax.text(1.02, 1.0, "median", transform=ax.transAxes, va="bottom", fontsize=8.5, color=theme.muted)
    return figure


def draw_jaccard(comparison: Comparison, title: str = "", dark: bool = False) -> Figure:
    """Draw the lower half of the matrix as shaded cells, with numbers for names along the bottom.

    Raises:
        DataselError: matplotlib is not installed.
    """
    need_matplotlib("draw_jaccard")
    names, matrix = comparison["overlap"]["names"], np.asarray(comparison["overlap"]["matrix"])
    count = len(names)
    row = _SMALL_ROW if count > _WITH_ZERO else _ROW
    with canvas("draw_jaccard", title, dark, height=1.2 + row * max(count, 3)) as (figure, theme):
        from matplotlib.colors import LinearSegmentedColormap

        ax, ramp = figure.subplots(), LinearSegmentedColormap.from_list("ramp", theme.ramp)
        for column, line in combinations(range(count), 2):
            shade = ramp(np.sqrt(matrix[line, column]))  # most overlaps are small
            ax.fill_between([column, column + 1], line, line + 1, color=shade, edgecolor=theme.ground)
            if count <= _WITH_NUMBERS:
                said = f"{matrix[line, column]:.2f}"
                said = said if count <= _WITH_ZERO else said.removeprefix("0") if said != "1.00" else "1.0"
                size = 9 if count <= _WITH_ZERO else 7
                ink = readable_on(shade)
                ax.text(column + 0.5, line + 0.5, said, ha="center", va="center", color=ink, fontsize=size)
        for at in range(count):
            ax.text(at + 0.5, at + 0.5, f"{at + 1}", ha="center", va="center", color=theme.muted, fontsize=8)
        ax.set_xlim(0, max(count, 6))
        _name_rows(ax, [f"{at + 1}  {name}" for at, name in enumerate(names)], theme, 0.5, small=count > _WITH_ZERO)
        ax.set_ylim(count, 0)
        quiet_axes(ax.xaxis)
        ax.spines[:].set_visible(False)
        said = f"Jaccard (rows in both / rows in either); two random draws: {chance_in_words(comparison)}"
        figure.supxlabel(said, x=0.1 / figure.get_figwidth(), ha="left", fontsize="medium", color=theme.muted)
    return figure


def draw_coverage(comparison: Comparison, title: str = "", dark: bool = False) -> Figure:
    """Draw the share of clusters with a chosen row as bars, and the effective number of clusters as dots.

    Raises:
        DataselError: matplotlib is not installed, or there are no clusters.
    """
    need_matplotlib("draw_coverage")
    rows = [("pool", comparison["pool"]["coverage"])]
    rows += [(each["name"], each["coverage"]) for each in comparison["selections"]]
    known: list[tuple[str, Coverage]] = [(name, each) for name, each in rows if each is not None]
    if not known:
        raise DataselError("draw_coverage needs clusters, and the comparison has none.")
    whole = known[0][1]["clusters"]
    with canvas("draw_coverage", title, dark, height=1.3 + _ROW * len(known)) as (figure, theme):
        ax = figure.subplots()
        places = np.arange(len(known))
        covered = [each["covered"] / max(whole, 1) for _, each in known]
        effective = [each["effective"] / max(whole, 1) for _, each in known]
        colours = [theme.pool, *[theme.chosen] * (len(known) - 1)]
        ax.barh(places + 0.5, covered, 0.56, color=colours)
        ax.barh(0, 0, color=theme.chosen, label="clusters with a chosen row")
        dots = ax.plot(effective, places + 0.5, "o", markersize=7, color=theme.others[0], label="effective number")
        dots[0].set_markeredgecolor(theme.ground)
        _name_rows(ax, [name for name, _ in known], theme)
        ax.set_xlim(0, 1.02)
        ax.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
        ax.set_xlabel(f"share of the {whole:,} clusters in {printable(known[0][1]['column'], 24)}")
        _say_beside(ax, [f"{each['covered']:,} ({plain_number(each['effective'])})" for _, each in known], theme)
        legend_above(ax)
    return figure


def chance_in_words(comparison: Comparison) -> str:
    """What two random draws share, for those of the selections' sizes that share least and most."""
    chance = np.asarray(comparison["chance"])
    pairs = chance[np.triu_indices(len(chance), 1)] if len(chance) > 1 else np.array([comparison["overlap"]["chance"]])
    low, high = f"{pairs.min():.2g}", f"{pairs.max():.2g}"
    return low if low == high else f"{low} to {high}"


def _ridge(ax: Axes, summary: Distribution, group: Spread, at: int, theme: Theme) -> None:
    heights = bin_shares(summary, group)
    heights *= 0.62 / max(heights.max(), 1e-12)
    base, colour = at + 0.72, theme.pool if at == 0 else theme.chosen
    draw_bars(ax, summary, -heights, base, colour)
    low, middle, high = (np.clip(each, *_ends(summary)) for each in group["quantiles"][1:4])
    ax.plot([low, high], [base + 0.1] * 2, color=theme.muted, linewidth=2.6, solid_capstyle="butt")
    ax.plot([middle] * 2, [base + 0.02, base + 0.18], color=theme.ink, linewidth=2, solid_capstyle="butt")


def _name_rows(ax: Axes, names: Sequence[str], theme: Theme, middle: float = 0.5, small: bool = False) -> None:
    """Name the rows from the top on the left, in up to three lines."""
    quiet_axes(ax.yaxis, [at + middle for at in range(len(names))], [_in_lines(name) for name in names])
    for label in ax.get_yticklabels():
        label.set_color(theme.ink)
        label.set_fontsize(7.5 if small else 8.5)
        label.set_linespacing(1.0)
    ax.set_ylim(len(names), -0.05)
    ax.spines["left"].set_visible(False)


def _in_lines(name: str) -> str:
    lines = textwrap.wrap(name, _LETTERS) or [""]
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], " ".join(lines[_LINES - 1 :])]
    return "\n".join(printable(line, _LETTERS + 2) for line in lines)


def _say_beside(ax: Axes, said: Sequence[str], theme: Theme) -> None:
    for at, text in enumerate(said):
        place = ax.get_yaxis_transform()
        ax.text(1.02, at + 0.5, text, transform=place, va="center", fontsize=8.5, color=theme.ink)


def _ends(summary: Distribution) -> tuple[float, float]:
    return summary["edges"][0], summary["edges"][-1]


def _value_axis(ax: Axes, summary: Distribution) -> None:
    value_axis(ax, summary)
    outside = max(1 - sum(each["counts"]) / each["rows"] for each in summary["groups"])
    more = f" (up to {outside:.1%} of a selection's values lie outside)" if outside > 0 else ""
    ax.set_xlabel(f"{printable(summary['column'], 44)}{more}")
