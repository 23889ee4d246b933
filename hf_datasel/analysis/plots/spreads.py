"""Histograms of scores and lengths, on top of each other or below each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.analysis.binning import MAX_INTEGER_BINS
from hf_datasel.analysis.plots.theme import (
    Theme,
    add_legend,
    canvas,
    drawable,
    format_count,
    format_number,
    label_ticks,
    legend_label,
    log_axis,
    percent_axis,
)
from hf_datasel.analysis.summaries import Distribution, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bin_shares", "draw_bars", "draw_lengths", "draw_scores", "few_values", "integer_bins", "layout_value_axis"]

_NEARLY_ALL = 0.98  # share of rows
_MARGIN = 0.015  # share of the axis at either end
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))


def draw_scores(summary: Distribution, title: str = "", dark: bool = False) -> Figure:
    """Draw histograms on top of each other: the first group as an area, the others as lines, with marked medians.

    Heights are shares of the rows of each group, so that a small selection is comparable with a large pool.

    Args:
        summary: Result of `distribution`.
        title: Title of the figure.
        dark: Whether to draw for a dark page.

    Raises:
        DataselError: If matplotlib is not installed.
    """
    with canvas("draw_scores", title, dark) as (figure, theme):
        ax = figure.subplots()
        for index, group in enumerate(summary["groups"]):
            _draw_overlaid(ax, summary, group, index, theme)
        _layout_axis(ax, summary)
        ax.set_ylim(0, 1.14 * max(bin_shares(summary, group).max() for group in summary["groups"]) or 1)
        percent_axis(ax.yaxis)
        ax.locator_params("y", nbins=4)
        ax.set_ylabel("share of rows")
        add_legend(ax)
    return figure


def draw_lengths(summary: Distribution, title: str = "", dark: bool = False) -> Figure:
    """Draw a histogram per group below each other on the same axis, each scaled to its own highest bin.

    Args:
        summary: Result of `distribution`.
        title: Title of the figure.
        dark: Whether to draw for a dark page.

    Raises:
        DataselError: If matplotlib is not installed.
    """
    groups = summary["groups"]
    with canvas("draw_lengths", title, dark, height=1.3 + 0.55 * max(len(groups), 3)) as (figure, theme):
        ax = figure.subplots()
        for index, group in enumerate(groups):
            _draw_separate(ax, summary, group, -index, _group_color(index, theme), theme)
        _layout_axis(ax, summary)
        ax.set_ylim(0.02 - len(groups) + 1 - 0.05, 0.95)
        names = [f"{drawable(group['name'], 22)}\nmedian {format_number(group['quantiles'][2])}" for group in groups]
        label_ticks(ax.yaxis, [0.3 - index for index in range(len(groups))], names, theme.ink)
        ax.spines["left"].set_visible(False)
    return figure


def _draw_overlaid(ax: Axes, summary: Distribution, group: Spread, index: int, theme: Theme) -> None:
    heights, color, edges = bin_shares(summary, group), _group_color(index, theme), summary["edges"]
    median = group["quantiles"][2]
    label = f"{drawable(group['name'], 24)}: {format_count(group['rows'])}, median {format_number(median)}"
    label = legend_label(label)
    if index == 0:
        ax.stairs(heights, edges, fill=True, color=color, label=label)
    else:
        visible = np.where(heights > 0, heights, np.nan)  # no line along empty bins
        if index == 1:
            ax.stairs(visible, edges, fill=True, color=color, alpha=0.25)
        dashes = _DASHES[(index - 1) % len(_DASHES)]
        ax.stairs(visible, edges, color=color, linewidth=1.8, linestyle=dashes, label=label)
    line_color = theme.muted if index == 0 else color
    ax.axvline(median, color=line_color, linewidth=1.2)
    ax.plot(
        median, 0.97, marker="v", markersize=7, color=line_color, transform=ax.get_xaxis_transform(), linestyle="none"
    )


def _draw_separate(ax: Axes, summary: Distribution, group: Spread, base: float, color: str, theme: Theme) -> None:
    heights = bin_shares(summary, group)
    heights *= 0.8 / max(heights.max(), 1e-12)
    draw_bars(ax, summary, heights, base, color)
    ax.axhline(base, color=theme.faint, linewidth=0.8, zorder=0)
    median = group["quantiles"][2]
    for line_color, width in ((theme.background, 2.6), (theme.ink, 1.3)):
        ax.plot([median, median], [base, base + 0.8], color=line_color, linewidth=width, solid_capstyle="butt")


def _group_color(index: int, theme: Theme) -> str:
    colors = (theme.pool, theme.selected)
    return colors[index] if index < 2 else theme.others[(index - 2) % len(theme.others)]


def integer_bins(summary: Distribution) -> list[int]:
    """Return the integers that have a bin each; empty if the bins are of another kind.

    >>> integer_bins({"column": "words", "edges": [0.5, 1.5, 2.5], "log": True, "groups": []})
    [1, 2]
    """
    edges = np.asarray(summary["edges"])
    one_each = len(edges) <= MAX_INTEGER_BINS + 1 and (edges % 1 == 0.5).all() and (np.diff(edges) == 1).all()
    return [int(center) for center in edges[:-1] + 0.5] if one_each else []


def few_values(summary: Distribution) -> dict[float, int]:
    """Return value -> bin, if a histogram would be a single high bar, or two bars of integers; otherwise empty.

    So it is for a score that is 0 for nearly all rows. The numbers of rows in `counts` say more then.

    >>> few_values({"column": "refusal", "edges": [-0.5, 0.5, 1.5], "log": False, "groups": [{"counts": [40, 2]}]})
    {0: 0, 1: 1}
    """
    groups = summary["groups"]
    if values := integer_bins(summary):
        filled = np.flatnonzero(np.sum([group["counts"] for group in groups], axis=0)).tolist()
        return {values[index]: index for index in filled} if len(filled) <= 2 else {}
    highest = int(np.argmax(groups[0]["counts"]))
    if any(group["counts"][highest] < _NEARLY_ALL * group["rows"] for group in groups):
        return {}
    return {groups[0]["quantiles"][2]: highest}


def draw_bars(ax: Axes, summary: Distribution, heights: np.ndarray, base: float, color: str) -> None:
    """Draw a histogram from a base upwards, or downwards if heights are negative; integer bins as separate bars.

    Args:
        ax: Axes to draw on.
        summary: Distribution with the edges of the bins.
        heights: Height of each bin, float of shape (bins,).
        base: Position of the base.
        color: Colour of the bars.
    """
    if values := integer_bins(summary):
        ax.bar(values, heights, 0.8, bottom=base, color=color)
    else:
        ax.stairs(base + heights, summary["edges"], baseline=base, fill=True, color=color)


def bin_shares(summary: Distribution, group: Spread) -> np.ndarray:
    """Return the share of the group's rows in each bin, scaled to bins of equal width on the axis.

    Args:
        summary: Distribution with the edges of the bins.
        group: One of its groups.

    Returns:
        The shares, float64 of shape (bins,).
    """
    shares: np.ndarray = np.asarray(group["counts"]) / group["rows"]
    if integer_bins(summary):
        return shares
    edges = np.log(summary["edges"]) if summary["log"] else np.asarray(summary["edges"])
    widths = np.diff(edges)
    shares *= widths.mean() / widths
    return shares


def layout_value_axis(ax: Axes, summary: Distribution, margin: float = 0.0) -> None:
    """Set scale, limits and ticks of the axis of values; integer bins have a tick each on a linear axis.

    Args:
        ax: Axes drawn on.
        summary: The distribution that is drawn.
        margin: Space at either end, as a share of the axis.
    """
    low, high = summary["edges"][0], summary["edges"][-1]
    values = integer_bins(summary)
    if values:
        ax.set_xticks(values)
    elif summary["log"]:
        log_axis(ax, ax.xaxis, low, high)
    if summary["log"] and not values:
        ax.set_xlim(low * (low / high) ** margin, high * (high / low) ** margin)
    else:
        ax.set_xlim(low - margin * (high - low), high + margin * (high - low))


def _layout_axis(ax: Axes, summary: Distribution) -> None:
    layout_value_axis(ax, summary, _MARGIN)
    outside = [(group["name"], group["rows"] - sum(group["counts"])) for group in summary["groups"]]
    counts = ", ".join(f"{count:,} of {drawable(name, 20)}" for name, count in outside if count)
    ax.set_xlabel(drawable(summary["column"], 36) + (f" (not shown: {counts})" if counts else ""))
