"""The weights of clusters over the rounds: how evenly they are spread, and which of them moved."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from hf_datasel.analysis.plots.lines import key_rows, line_style, name_lines
from hf_datasel.analysis.plots.theme import Theme, canvas, log_axis, need_matplotlib, plain_number, quiet_axes
from hf_datasel.analysis.weights import ClusterWeights

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_cluster_weights"]

_LABELS = 12  # rounds that are named under the axis
_CURVES = 5  # that can be told apart
_MARKERS = 10  # of a curve
_LINE = 0.075  # of the axis: the height of a name beside it
_LEAST = 1e-6  # of a weight that is drawn: less is nothing


def draw_cluster_weights(summary: ClusterWeights, title: str = "", dark: bool = False) -> Figure:
    """Draw how much weight the heaviest clusters have in each round, and the weights of those that moved most.

    At most five rounds are drawn on the left, the first and the last among them, and named with how many clusters of
    equal weight would be as evenly spread. On the right eight clusters of ten, all but the lowest and the highest
    tenth, are a band.

    Raises:
        DataselError: matplotlib is not installed.
    """
    need_matplotlib("draw_cluster_weights")
    drawn = _spread(len(summary["rounds"]), _CURVES)
    effective = (plain_number(summary["effective"][at]) for at in drawn)
    names = [f"round {summary['rounds'][at]}: {each} effective" for at, each in zip(drawn, effective, strict=True)]
    names.append(f"all equal: {summary['clusters']:,} clusters")
    _, rows = key_rows(names)
    with canvas("draw_cluster_weights", title, dark, height=3.2 + 0.2 * rows) as (figure, theme):
        places = figure.subplot_mosaic([["key", "key"], ["left", "right"]], height_ratios=[0.2 * rows, 2.7])
        equal: dict[str, Any] = {"color": theme.muted, "linewidth": 1.4, "linestyle": ":"}
        name_lines(places["key"], names, theme, last=equal)
        ranks = summary["ranks"]
        places["left"].plot(ranks, [rank / summary["clusters"] for rank in ranks], **equal)
        _draw_curves(places["left"], summary, drawn, theme)
        _draw_moved(places["right"], summary, theme)
    return figure


def _draw_curves(ax: Axes, summary: ClusterWeights, drawn: list[int], theme: Theme) -> None:
    ranks, clusters = summary["ranks"], summary["clusters"]
    every = -(-len(ranks) // _MARKERS)
    for at, place in enumerate(drawn):
        ax.plot(ranks, summary["curves"][place], markevery=(at * every // _CURVES, every), **line_style(at, theme))
    if clusters > _MARKERS:
        log_axis(ax, ax.xaxis, 1, clusters)
    else:
        ax.set_xticks(range(1, clusters + 1))
    ax.yaxis.set_major_formatter(_percent)
    ax.set_ylim(-0.03, 1.05)
    ax.set_xlabel("heaviest clusters")
    ax.set_title("share of the weight", loc="left", fontsize=10)


def _draw_moved(ax: Axes, summary: ClusterWeights, theme: Theme) -> None:
    rounds = range(len(summary["rounds"]))
    low, high = zip(*summary["middle"], strict=True)
    drawn = [[max(each, _LEAST) for each in moved["weights"]] for moved in summary["moved"]]
    ax.fill_between(rounds, [max(each, _LEAST) for each in low], high, color=theme.pool, alpha=0.5, linewidth=0)
    for at, weights in enumerate(drawn):
        ax.plot(rounds, weights, **line_style(at, theme))
    ends = [*(weight for weights in drawn for weight in weights), *(max(each, _LEAST) for each in (*low, *high))]
    least, most = min(ends) / 1.3, max(ends) * 1.3
    log_axis(ax, ax.yaxis, least, most)
    ax.yaxis.set_major_formatter(_percent)
    ax.set_ylim(least, most)
    shown = rounds[:: -(-len(rounds) // _LABELS)]
    quiet_axes(ax.xaxis, shown, [str(summary["rounds"][each]) for each in shown])
    ax.set_xlabel("round")
    for at, place in enumerate(_apart([weights[-1] for weights in drawn], least, most)):
        said = f"cluster {summary['moved'][at]['cluster']:,}"
        colour = line_style(at, theme)["color"]
        ax.annotate(said, (1.03, place), xycoords="axes fraction", va="center", fontsize=9, color=colour)
    ax.set_title("those that moved most; band: 80% of all", loc="left", fontsize=10)


def _spread(count: int, most: int) -> list[int]:
    """At most so many of the numbers below `count`, the first and the last among them.

    >>> _spread(10, 4)
    [0, 3, 6, 9]
    """
    if count <= most:
        return list(range(count))
    return [round(at * (count - 1) / (most - 1)) for at in range(most)]


def _apart(values: list[float], low: float, high: float) -> list[float]:
    """Where on a logarithmic axis to write beside each value, 0 to 1, so that no two are in each other's way."""
    places = [math.log(value / low) / math.log(high / low) for value in values]
    order = sorted(range(len(places)), key=lambda at: places[at])
    floor = 0.0
    for at in order:
        places[at] = floor = max(places[at], floor)
        floor += _LINE
    above = 1 - _LINE / 2  # below the title
    for at in reversed(order):
        places[at] = above = min(places[at], above)
        above -= _LINE
    return places


def _percent(share: float, _: object = None) -> str:
    return f"{100 * share:.3g}%"
