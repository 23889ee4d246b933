"""How scores and lengths are spread: histograms over each other, and one below the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.analysis.binning import FEW_WHOLE
from hf_datasel.analysis.plots.theme import Theme, canvas, legend_above, log_axis, plain_number, printable, quiet_axes
from hf_datasel.analysis.summaries import Distribution, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bin_shares", "draw_bars", "draw_lengths", "draw_scores", "few_whole", "value_axis"]

_MARGIN = 0.015  # of the axis, so that nothing stands on its ends

_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))


def draw_scores(summary: Distribution, title: str = "", dark: bool = False) -> Figure:
    """Draw histograms over each other: the first group as an area, the others as lines, medians as marked verticals.

    Each is the share of its own rows, so that a small choice can be held against a large pool.

    Raises:
        DataselError: matplotlib is not installed.
    """
    with canvas("draw_scores", title, dark) as (figure, theme):
        ax = figure.subplots()
        for at, group in enumerate(summary["groups"]):
            _over(ax, summary, group, at, theme)
        _scale(ax, summary)
        ax.set_ylim(0, 1.14 * max(bin_shares(summary, group).max() for group in summary["groups"]) or 1)
        ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
        ax.locator_params("y", nbins=4)
        ax.set_ylabel("share of rows")
        legend_above(ax)
    return figure


def draw_lengths(summary: Distribution, title: str = "", dark: bool = False) -> Figure:
    """Draw a histogram a group, one below the other on the same axis, each as high as its fullest bin says.

    Raises:
        DataselError: matplotlib is not installed.
    """
    groups = summary["groups"]
    with canvas("draw_lengths", title, dark, height=1.3 + 0.55 * max(len(groups), 3)) as (figure, theme):
        ax = figure.subplots()
        for at, group in enumerate(groups):
            _ridge(ax, summary, group, -at, _colour(at, theme), theme)
        _scale(ax, summary)
        ax.set_ylim(0.02 - len(groups) + 1 - 0.05, 0.95)
        names = [f"{printable(group['name'], 22)}\nmedian {plain_number(group['quantiles'][2])}" for group in groups]
        quiet_axes(ax.yaxis, [0.3 - at for at in range(len(groups))], names)
        for label in ax.get_yticklabels():
            label.set_color(theme.ink)
        ax.spines["left"].set_visible(False)
    return figure


def _over(ax: Axes, summary: Distribution, group: Spread, at: int, theme: Theme) -> None:
    heights, colour, edges = bin_shares(summary, group), _colour(at, theme), summary["edges"]
    name = f"{printable(group['name'], 24)}: {_rows(group['rows'])}, median {plain_number(group['quantiles'][2])}"
    name = f" {name}" if name.startswith("_") else name  # matplotlib takes such names for its own
    if at == 0:
        ax.stairs(heights, edges, fill=True, color=colour, label=name)
    else:
        drawn = np.where(heights > 0, heights, np.nan)  # no line where there is nothing
        if at == 1:
            ax.stairs(drawn, edges, fill=True, color=colour, alpha=0.25)
        ax.stairs(drawn, edges, color=colour, linewidth=1.8, linestyle=_DASHES[(at - 1) % len(_DASHES)], label=name)
    line, median = theme.muted if at == 0 else colour, group["quantiles"][2]
    ax.axvline(median, color=line, linewidth=1.2)
    ax.plot(median, 0.97, marker="v", markersize=7, color=line, transform=ax.get_xaxis_transform(), linestyle="none")


def _ridge(ax: Axes, summary: Distribution, group: Spread, base: float, colour: str, theme: Theme) -> None:
    heights = bin_shares(summary, group)
    heights *= 0.8 / max(heights.max(), 1e-12)
    draw_bars(ax, summary, heights, base, colour)
    ax.axhline(base, color=theme.faint, linewidth=0.8, zorder=0)
    median = group["quantiles"][2]
    for line, width in ((theme.ground, 2.6), (theme.ink, 1.3)):
        ax.plot([median, median], [base, base + 0.8], color=line, linewidth=width, solid_capstyle="butt")


def _colour(at: int, theme: Theme) -> str:
    first = (theme.pool, theme.chosen)
    return first[at] if at < 2 else theme.others[(at - 2) % len(theme.others)]


def few_whole(summary: Distribution) -> list[int]:
    """The whole numbers that have a bin each, where they are few; [] where bins are of another kind.

    >>> few_whole({"column": "words", "edges": [0.5, 1.5, 2.5], "log": True, "groups": []})
    [1, 2]
    """
    edges = np.asarray(summary["edges"])
    whole = len(edges) <= FEW_WHOLE + 1 and (edges % 1 == 0.5).all() and (np.diff(edges) == 1).all()
    return [int(each) for each in edges[:-1] + 0.5] if whole else []


def draw_bars(ax: Axes, summary: Distribution, heights: np.ndarray, base: float, colour: str) -> None:
    """Fill bins from a base up, or down where heights are negative; few whole numbers have bars of equal width."""
    if values := few_whole(summary):
        ax.bar(values, heights, 0.8, bottom=base, color=colour)
    else:
        ax.stairs(base + heights, summary["edges"], baseline=base, fill=True, color=colour)


def bin_shares(summary: Distribution, group: Spread) -> np.ndarray:
    """Share of the group's rows in each bin, and in a bin as wide as most where widths differ on the axis."""
    shares: np.ndarray = np.asarray(group["counts"]) / group["rows"]
    if few_whole(summary):
        return shares
    edges = np.log(summary["edges"]) if summary["log"] else np.asarray(summary["edges"])
    widths = np.diff(edges)
    shares *= widths.mean() / widths
    return shares


def value_axis(ax: Axes, summary: Distribution, margin: float = 0.0) -> None:
    """Lay out the axis of values: few whole numbers side by side, each with a tick, whatever axis suits many.

    Args:
        ax: drawn on.
        summary: that is drawn.
        margin: beyond either end, as a share of the axis.
    """
    low, high = summary["edges"][0], summary["edges"][-1]
    values = few_whole(summary)
    if values:
        ax.set_xticks(values)
    elif summary["log"]:
        log_axis(ax, ax.xaxis, low, high)
    ax.set_xlim(
        (low * (low / high) ** margin, high * (high / low) ** margin)
        if summary["log"] and not values
        else (low - margin * (high - low), high + margin * (high - low))
    )


def _scale(ax: Axes, summary: Distribution) -> None:
    value_axis(ax, summary, _MARGIN)
    outside = [(group["name"], group["rows"] - sum(group["counts"])) for group in summary["groups"]]
    said = ", ".join(f"{count:,} of {printable(name, 20)}" for name, count in outside if count)
    ax.set_xlabel(printable(summary["column"], 36) + (f" (not shown: {said})" if said else ""))


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"
