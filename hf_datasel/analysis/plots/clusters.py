"""Plots of numbers of clusters: how well each fits, and the share of its clusters with low quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hf_datasel.analysis.clusters import ClusterFits, ClusterFitsByModel, ClusterQuality
from hf_datasel.analysis.plots.lines import add_line_legend, labels_that_fit, legend_size, line_style
from hf_datasel.analysis.plots.theme import (
    Theme,
    canvas,
    drawable,
    format_number,
    percent_axis,
    require_matplotlib,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_cluster_fits", "draw_cluster_fits_by_model", "draw_cluster_quality"]

_HALF_WIDTH, _FULL_WIDTH = 2.5, 6.0  # approximate width of the axes in inches
_LABEL_GAP = 0.14  # inches between two tick labels


def draw_cluster_fits(summary: ClusterFits, title: str = "", dark: bool = False) -> Figure:
    """Draw silhouette and inertia against k side by side, with the best k and the elbow marked.

    Bars are one standard deviation of the starts of k-means. The title names the k that cannot be told apart from the
    best one, or their number.

    Args:
        summary: Result of `cluster_fits`.
        title: Title of the figure.
        dark: Whether to draw for a dark page.

    Raises:
        DataselError: If matplotlib is not installed.
    """
    with canvas("draw_cluster_fits", title, dark, height=2.9) as (figure, theme):
        left, right = figure.subplots(1, 2)
        best, elbow = summary["best"], summary["elbow"]
        _draw_curve(left, summary["ks"], summary["silhouette"], best, theme, _HALF_WIDTH)
        _draw_curve(right, summary["ks"], summary["inertia"], elbow, theme, _HALF_WIDTH)
        left.set_ylabel("silhouette")
        right.set_ylabel("mean squared distance")
        spread = [value or 0.0 for value in summary["spread"]]
        if any(spread):
            left.errorbar(
                summary["ks"], summary["silhouette"], spread, fmt="none", ecolor=theme.selected, elinewidth=1, zorder=1
            )
        left.set_title(f"highest at k = {best:,}{_or_ties(summary)}")
        right.set_title("no elbow" if elbow is None else f"elbow at k = {elbow:,}")
    return figure


def _or_ties(summary: ClusterFits) -> str:
    ties = summary["ties"]
    if summary["starts"] == 1 or not ties:
        return ""
    return f" or {ties[0]:,}" if len(ties) == 1 else f" or {len(ties)} others"


def draw_cluster_fits_by_model(summary: ClusterFitsByModel, title: str = "", dark: bool = False) -> Figure:
    """Draw silhouette and inertia against k, with a line for each embedding model, its best k and its elbow.

    The inertia is drawn as a share of the variance, since distances differ between models.

    Args:
        summary: Result of `cluster_fits_by_model`.
        title: Title of the figure.
        dark: Whether to draw for a dark page.

    Raises:
        DataselError: If matplotlib is not installed.
    """
    require_matplotlib("draw_cluster_fits_by_model")
    names = [_name_with_best(name, fits) for name, fits in zip(summary["names"], summary["fits"], strict=True)]
    _, rows = legend_size(names)
    with canvas("draw_cluster_fits_by_model", title, dark, height=2.9 + 0.2 * rows) as (figure, theme):
        axes = figure.subplot_mosaic([["key", "key"], ["left", "right"]], height_ratios=[0.2 * rows, 2.4])
        add_line_legend(axes["key"], names, theme)
        left, right = axes["left"], axes["right"]
        for index, fits in enumerate(summary["fits"]):
            style, variance = line_style(index, theme), summary["variance"][index] or 1.0
            shares = [inertia / variance for inertia in fits["inertia"]]
            _draw_marked_line(left, fits["ks"], fits["silhouette"], fits["best"], style)
            _draw_marked_line(right, fits["ks"], shares, fits["elbow"], style)
        for ax in (left, right):
            _layout_k_axis(ax, summary["fits"][0]["ks"], None, _HALF_WIDTH)
        percent_axis(right.yaxis)
        left.set_title("silhouette, its highest marked")
        right.set_title("variance within clusters, elbow marked")
    return figure


def _name_with_best(name: str, fits: ClusterFits) -> str:
    elbow = "none" if fits["elbow"] is None else f"{fits['elbow']:,}"
    return f"{drawable(name, 36)}: highest {fits['best']:,}, elbow {elbow}"


def _draw_marked_line(
    ax: Axes, ks: Sequence[int], values: Sequence[float], marked: int | None, style: dict[str, Any]
) -> None:
    ax.plot(ks, values, **style)
    if marked is not None:
        ax.plot(marked, values[list(ks).index(marked)], **{**style, "markersize": 9})


def draw_cluster_quality(summary: ClusterQuality, title: str = "", dark: bool = False) -> Figure:
    """Draw the share of clusters whose mean quality is below the threshold against k.

    Args:
        summary: Result of `cluster_quality`.
        title: Title of the figure.
        dark: Whether to draw for a dark page.

    Raises:
        DataselError: If matplotlib is not installed.
    """
    with canvas("draw_cluster_quality", title, dark, height=2.8) as (figure, theme):
        ax = figure.subplots()
        _draw_curve(ax, summary["ks"], summary["share"], None, theme, _FULL_WIDTH)
        top = max(summary["share"]) or 1
        ax.set_ylim(-0.02 * top, 1.15 * top)
        percent_axis(ax.yaxis)
        ax.set_ylabel("share of clusters")
        ax.set_title(f"mean quality below {format_number(summary['threshold'])}")
    return figure


def _draw_curve(
    ax: Axes, ks: Sequence[int], values: Sequence[float], marked: int | None, theme: Theme, width: float
) -> None:
    """Draw values against k on a logarithmic axis, with a larger dot for the marked k."""
    ax.plot(ks, values, color=theme.selected, linewidth=1.6, marker="o", markersize=4.5)
    if marked is not None:
        ax.axvline(marked, color=theme.faint, linewidth=1.2, zorder=0)
        ax.plot(marked, values[list(ks).index(marked)], "o", color=theme.others[0], markersize=8, zorder=3)
    _layout_k_axis(ax, ks, marked, width)


def _layout_k_axis(ax: Axes, ks: Sequence[int], marked: int | None, width: float) -> None:
    ax.set_xscale("log")
    margin = (ks[-1] / ks[0]) ** 0.06 if len(ks) > 1 else 2
    ax.set_xlim(ks[0] / margin, ks[-1] * margin)
    ticks = labelled_ks(ks, marked, width)
    ax.set_xticks(ticks, [f"{k:,}" for k in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("k")
    ax.locator_params("y", nbins=5)
    ax.margins(y=0.12)


def labelled_ks(ks: Sequence[int], marked: int | None, width: float) -> list[int]:
    """Return the k whose labels fit under a logarithmic axis: the marked one, the ends, and as many others as fit.

    Args:
        ks: Numbers of clusters, rising.
        marked: The k to label in any case, if any.
        width: Width of the axis in inches.

    >>> labelled_ks(range(10, 100, 10), 50, 2.5)
    [10, 20, 30, 50, 90]
    """
    scale = width / math.log(ks[-1] / ks[0]) if len(ks) > 1 else 0.0
    first = [0 if marked is None else list(ks).index(marked), len(ks) - 1]
    positions = [math.log(k / ks[0]) * scale for k in ks]
    return [ks[index] for index in labels_that_fit(positions, [f"{k:,}" for k in ks], first, _LABEL_GAP)]
