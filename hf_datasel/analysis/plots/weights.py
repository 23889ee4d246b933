"""Plot of the weights of clusters over the rounds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from hf_datasel.analysis.plots.lines import add_line_legend, legend_size, line_style
from hf_datasel.analysis.plots.theme import (
    Theme,
    canvas,
    format_number,
    label_ticks,
    log_axis,
    percent_axis,
    require_matplotlib,
)
from hf_datasel.analysis.weights import ClusterWeights

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_cluster_weights"]

_MAX_LABELS = 12  # rounds with a label
_MAX_CURVES = 5  # curves that are distinguishable
_MARKERS = 10  # markers on a curve
_LABEL_HEIGHT = 0.075  # height of a label, as a share of the axis
_MIN_WEIGHT = 1e-6  # smaller weights are drawn as this on the logarithmic axis


def draw_cluster_weights(summary: ClusterWeights, title: str = "", dark: bool = False) -> Figure:
    """Draw the cumulative weight of the heaviest clusters in each round, and the weights of those that changed most.

    The left panel has at most five rounds, including the first and the last, with the effective number of clusters in
    the legend. The right panel shows the 10th to the 90th percentile of all weights as a band.

    Args:
        summary: Result of `cluster_weights`.
        title: Title of the figure.
        dark: Whether to draw for a dark page.

    Raises:
        DataselError: If matplotlib is not installed.
    """
    require_matplotlib("draw_cluster_weights")
    drawn = _evenly_spaced(len(summary["rounds"]), _MAX_CURVES)
    names = [
        f"round {summary['rounds'][index]}: {format_number(summary['effective'][index])} effective" for index in drawn
    ]
    names.append(f"all equal: {summary['clusters']:,} clusters")
    _, rows = legend_size(names)
    with canvas("draw_cluster_weights", title, dark, height=3.2 + 0.2 * rows) as (figure, theme):
        axes = figure.subplot_mosaic([["key", "key"], ["left", "right"]], height_ratios=[0.2 * rows, 2.7])
        equal: dict[str, Any] = {"color": theme.muted, "linewidth": 1.4, "linestyle": ":"}
        add_line_legend(axes["key"], names, theme, last=equal)
        ranks = summary["ranks"]
        axes["left"].plot(ranks, [rank / summary["clusters"] for rank in ranks], **equal)
        _draw_curves(axes["left"], summary, drawn, theme)
        _draw_moved(axes["right"], summary, theme)
    return figure


def _draw_curves(ax: Axes, summary: ClusterWeights, drawn: list[int], theme: Theme) -> None:
    ranks, clusters = summary["ranks"], summary["clusters"]
    step = math.ceil(len(ranks) / _MARKERS)
    for line, index in enumerate(drawn):
        markers = (line * step // _MAX_CURVES, step)
        ax.plot(ranks, summary["curves"][index], markevery=markers, **line_style(line, theme))
    if clusters > _MARKERS:
        log_axis(ax, ax.xaxis, 1, clusters)
    else:
        ax.set_xticks(range(1, clusters + 1))
    percent_axis(ax.yaxis)
    ax.set_ylim(-0.03, 1.05)
    ax.set_xlabel("heaviest clusters")
    ax.set_title("share of the weight")


def _draw_moved(ax: Axes, summary: ClusterWeights, theme: Theme) -> None:
    rounds = range(len(summary["rounds"]))
    low = [max(weight, _MIN_WEIGHT) for weight, _ in summary["deciles"]]
    high = [weight for _, weight in summary["deciles"]]
    lines = [[max(weight, _MIN_WEIGHT) for weight in cluster["weights"]] for cluster in summary["moved"]]
    ax.fill_between(rounds, low, high, color=theme.pool, alpha=0.5, linewidth=0)
    for index, weights in enumerate(lines):
        ax.plot(rounds, weights, **line_style(index, theme))
    values = [
        *(weight for weights in lines for weight in weights),
        *(max(weight, _MIN_WEIGHT) for weight in high),
        *low,
    ]
    bottom, top = min(values) / 1.3, max(values) * 1.3
    log_axis(ax, ax.yaxis, bottom, top)
    percent_axis(ax.yaxis)
    ax.set_ylim(bottom, top)
    labelled = rounds[:: math.ceil(len(rounds) / _MAX_LABELS)]
    label_ticks(ax.xaxis, labelled, [str(summary["rounds"][index]) for index in labelled])
    ax.set_xlabel("round")
    positions = _label_positions([weights[-1] for weights in lines], bottom, top)
    for index, (cluster, position) in enumerate(zip(summary["moved"], positions, strict=True)):
        name, color = f"cluster {cluster['cluster']:,}", line_style(index, theme)["color"]
        ax.annotate(name, (1.03, position), xycoords="axes fraction", va="center", fontsize=9, color=color)
    ax.set_title("those that moved most; band: 80% of all")


def _evenly_spaced(count: int, limit: int) -> list[int]:
    """Return at most `limit` evenly spaced indices below `count`, including the first and the last.

    >>> _evenly_spaced(10, 4)
    [0, 3, 6, 9]
    """
    if count <= limit:
        return list(range(count))
    return [round(index * (count - 1) / (limit - 1)) for index in range(limit)]


def _label_positions(values: list[float], low: float, high: float) -> list[float]:
    """Return positions on a logarithmic axis, 0 to 1, for labels next to the values that do not overlap."""
    positions = [math.log(value / low) / math.log(high / low) for value in values]
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    lowest = 0.0
    for index in order:
        positions[index] = lowest = max(positions[index], lowest)
        lowest += _LABEL_HEIGHT
    highest = 1 - _LABEL_HEIGHT / 2  # below the title
    for index in reversed(order):
        positions[index] = highest = min(positions[index], highest)
        highest -= _LABEL_HEIGHT
    return positions
