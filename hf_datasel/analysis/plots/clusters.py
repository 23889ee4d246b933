"""Numbers of clusters held against each other: how well each fits, and how much of it is of low quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hf_datasel.analysis.clusters import ClusterChoice, ClusterChoices, ClusterQuality
from hf_datasel.analysis.plots.lines import key_rows, line_style, name_lines
from hf_datasel.analysis.plots.theme import Theme, canvas, need_matplotlib, plain_number, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_cluster_choice", "draw_cluster_choices", "draw_cluster_quality"]

_HALF, _FULL = 2.5, 6.0  # inches of an axis, about
_DIGIT, _GAP = 0.09, 0.14  # inches of a digit under an axis, and between two numbers


def draw_cluster_choice(summary: ClusterChoice, title: str = "", dark: bool = False) -> Figure:
    """Draw silhouette and inertia against k side by side, with the best k and the elbow marked.

    Raises:
        DataselError: matplotlib is not installed.
    """
    with canvas("draw_cluster_choice", title, dark, height=2.9) as (figure, theme):
        left, right = figure.subplots(1, 2)
        best, elbow = summary["best"], summary["elbow"]
        _curve(left, summary["ks"], summary["silhouette"], best, theme, _HALF)
        _curve(right, summary["ks"], summary["inertia"], elbow, theme, _HALF)
        left.set_ylabel("silhouette")
        right.set_ylabel("mean squared distance")
        _say(left, f"highest at k = {best:,}")
        _say(right, "no elbow" if elbow is None else f"elbow at k = {elbow:,}")
    return figure


def draw_cluster_choices(summary: ClusterChoices, title: str = "", dark: bool = False) -> Figure:
    """Draw silhouette and inertia against k side by side, a line an embedding model, with each one's best k and elbow.

    The inertia is drawn as a share of the variance, since models differ in how far apart their vectors are.

    Raises:
        DataselError: matplotlib is not installed.
    """
    need_matplotlib("draw_cluster_choices")
    names = [_with_best(name, choice) for name, choice in zip(summary["names"], summary["choices"], strict=True)]
    _, rows = key_rows(names)
    with canvas("draw_cluster_choices", title, dark, height=2.9 + 0.2 * rows) as (figure, theme):
        places = figure.subplot_mosaic([["key", "key"], ["left", "right"]], height_ratios=[0.2 * rows, 2.4])
        name_lines(places["key"], names, theme)
        left, right = places["left"], places["right"]
        for at, choice in enumerate(summary["choices"]):
            style, variance = line_style(at, theme), summary["variance"][at] or 1.0
            shares = [inertia / variance for inertia in choice["inertia"]]
            _marked_line(left, choice["ks"], choice["silhouette"], choice["best"], style)
            _marked_line(right, choice["ks"], shares, choice["elbow"], style)
        for ax in (left, right):
            _k_axis(ax, summary["choices"][0]["ks"], None, _HALF)
        right.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
        _say(left, "silhouette, its highest marked")
        _say(right, "variance within clusters, elbow marked")
    return figure


def _with_best(name: str, choice: ClusterChoice) -> str:
    elbow = "none" if choice["elbow"] is None else f"{choice['elbow']:,}"
    return f"{printable(name, 36)}: highest {choice['best']:,}, elbow {elbow}"


def _marked_line(
    ax: Axes, ks: Sequence[int], values: Sequence[float], marked: int | None, style: dict[str, Any]
) -> None:
    ax.plot(ks, values, **style)
    if marked is not None:
        ax.plot(marked, values[list(ks).index(marked)], **{**style, "markersize": 9})


def draw_cluster_quality(summary: ClusterQuality, title: str = "", dark: bool = False) -> Figure:
    """Draw the share of clusters whose mean quality lies below the threshold against k.

    Raises:
        DataselError: matplotlib is not installed.
    """
    with canvas("draw_cluster_quality", title, dark, height=2.8) as (figure, theme):
        ax = figure.subplots()
        _curve(ax, summary["ks"], summary["share"], None, theme, _FULL)
        top = max(summary["share"]) or 1
        ax.set_ylim(-0.02 * top, 1.15 * top)
        ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
        ax.set_ylabel("share of clusters")
        _say(ax, f"mean quality below {plain_number(summary['threshold'])}")
    return figure


def _curve(
    ax: Axes, ks: Sequence[int], values: Sequence[float], marked: int | None, theme: Theme, inches: float
) -> None:
    """Values against k on a logarithmic axis, a dot each, and a larger one for the marked k."""
    ax.plot(ks, values, color=theme.chosen, linewidth=1.6, marker="o", markersize=4.5)
    if marked is not None:
        ax.axvline(marked, color=theme.faint, linewidth=1.2, zorder=0)
        ax.plot(marked, values[list(ks).index(marked)], "o", color=theme.others[0], markersize=8, zorder=3)
    _k_axis(ax, ks, marked, inches)


def _k_axis(ax: Axes, ks: Sequence[int], marked: int | None, inches: float) -> None:
    ax.set_xscale("log")
    margin = (ks[-1] / ks[0]) ** 0.06 if len(ks) > 1 else 2
    ax.set_xlim(ks[0] / margin, ks[-1] * margin)
    ticks = named_ks(ks, marked, inches)
    ax.set_xticks(ticks, [f"{k:,}" for k in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("k")
    ax.locator_params("y", nbins=5)
    ax.margins(y=0.12)


def named_ks(ks: Sequence[int], marked: int | None, inches: float) -> list[int]:
    """Those k whose numbers fit under a logarithmic axis: the marked one, the ends, and what there is room for.

    >>> named_ks(range(10, 100, 10), 50, 2.5)
    [10, 20, 30, 50, 90]
    """
    per_log = inches / math.log(ks[-1] / ks[0]) if len(ks) > 1 else 0.0
    named: list[int] = []
    for k in dict.fromkeys([ks[0] if marked is None else marked, ks[-1], *ks]):
        width = {each: _DIGIT * len(f"{each:,}") for each in (k, *named)}
        if all(abs(math.log(k / each)) * per_log >= (width[k] + width[each]) / 2 + _GAP for each in named):
            named.append(k)
    return sorted(named)


def _say(ax: Axes, text: str) -> None:
    ax.set_title(text, loc="left", fontsize=10)
