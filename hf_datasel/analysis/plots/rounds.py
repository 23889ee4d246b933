"""Plots of a score over the rounds: scored rows on the left, selected rows on the right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_datasel.analysis.plots.spreads import bin_shares
from hf_datasel.analysis.plots.theme import (
    add_legend,
    canvas,
    drawable,
    format_number,
    label_ticks,
    log_axis,
    require_matplotlib,
)
from hf_datasel.analysis.summaries import Distribution, distribution_by_round, threshold_of
from hf_datasel.errors import SelectionError
from hf_datasel.selection import Selection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_rounds", "plot_rounds"]

_SCORED, _SELECTED = "#c3c9d0", "#20639b"  # light and dark, distinguishable in greyscale
_WIDTH = 0.44
_MAX_LABELS = 12  # rounds with a label
_MAX_WITH_MEDIANS = 5  # rounds up to which labels have room for medians


def plot_rounds(
    selections: Sequence[Selection],
    column: str,
    ax: Axes | None = None,
    bins: int = 40,
    limits: tuple[float, float] | None = None,
    log: bool = False,
) -> Axes:
    """Draw the distribution of a score over the rows scored (left) and selected (right) in each round.

    Each half is a histogram scaled to its own highest bin; the black lines are medians.

    Args:
        selections: Selection of each round, in order, each with the score in its table.
        column: Name of the score, such as `"ifd"`.
        ax: Axes to draw on; a new figure by default.
        bins: Number of bins of each histogram, shared by all rounds.
        limits: Values shown; by default all selected values, and the 1st to 99th percentile of the scored values.
            Medians are those of all values.
        log: Whether the axis is logarithmic, as suits a ratio. No bin spans the threshold from which rows were
            excluded.

    Returns:
        The axes drawn on. Without `ax`, `plot_rounds(...).figure.savefig("rounds.png")` writes the file.

    Raises:
        SelectionError: If there are no selections, no selected row of a round has the score, or `log` is True and a
            value is 0 or less.
        DataselError: If matplotlib is not installed.
    """
    if not selections:
        raise SelectionError("plot_rounds needs at least one selection, and got none.")
    numbers = [selection.provenance.get("round", index) for index, selection in enumerate(selections)]
    scores = [selection.scores(column) for selection in selections]
    selected = [values[selection.indices] for values, selection in zip(scores, selections, strict=True)]
    threshold = threshold_of([{"exclusions": {}, **selection.provenance} for selection in selections], column)
    rounds = list(zip(numbers, scores, selected, strict=True))
    summary = distribution_by_round(column, rounds, bins, limits, log, threshold)
    ax = _new_axes() if ax is None else ax
    _draw_halves(ax, summary, (_SCORED, _SELECTED), "black", "white")
    ax.set_xticks(range(len(numbers)), [f"round {number}" for number in numbers])
    ax.set_yscale("log" if log else "linear")
    ax.set_ylim(summary["edges"][0], summary["edges"][-1])
    ax.set_ylabel(column, parse_math=False)
    return ax


def draw_rounds(summary: Distribution, title: str = "", dark: bool = False) -> Figure:
    """Draw the distribution over the rows scored in each round on the left, and over those selected on the right.

    Args:
        summary: Result of `distribution_by_round`.
        title: Title of the figure.
        dark: Whether to draw for a dark page.

    Raises:
        DataselError: If matplotlib is not installed.
    """
    names = [group["name"].rpartition(":")[0] for group in summary["groups"][::2]]
    with canvas("draw_rounds", title, dark) as (figure, theme):
        ax = figure.subplots()
        _draw_halves(ax, summary, (theme.pool, theme.selected), theme.ink, theme.background)
        if summary["log"]:
            log_axis(ax, ax.yaxis, summary["edges"][0], summary["edges"][-1])
        ax.set_ylim(summary["edges"][0], summary["edges"][-1])
        ax.set_ylabel(drawable(summary["column"], 20))
        step = math.ceil(len(names) / _MAX_LABELS)
        if len(names) <= _MAX_WITH_MEDIANS:
            labels = [_label_with_medians(summary, index, name) for index, name in enumerate(names)]
            median_label = "median (below: scored → selected)"
        else:
            labels = [name.rpartition(" ")[2] for name in names]
            median_label = "median"
            ax.set_xlabel("round")
        label_ticks(ax.xaxis, range(0, len(names), step), labels[::step])
        ax.plot([], [], color=theme.ink, linewidth=1.2, label=median_label)
        add_legend(ax)
    return figure


def _label_with_medians(summary: Distribution, index: int, name: str) -> str:
    scored, selected = summary["groups"][2 * index : 2 * index + 2]
    medians = " → ".join(format_number(group["quantiles"][2]) for group in (scored, selected))
    return f"{drawable(name, 14)}\n{medians}"


def _draw_halves(ax: Axes, summary: Distribution, colors: tuple[str, str], line: str, outline: str) -> None:
    """Draw two histograms per round, back to back, each with a line at its median."""
    for index, group in enumerate(summary["groups"]):
        center, side = index // 2, 1 if index % 2 else -1
        heights = bin_shares(summary, group)
        heights *= _WIDTH / (heights.max() or 1)
        ax.stairs(
            center + side * heights,
            summary["edges"],
            baseline=center,
            orientation="horizontal",
            fill=True,
            color=colors[index % 2],
            label=("scored", "selected")[index] if index < 2 else None,
        )
        ends, median = [center, center + side * _WIDTH], [group["quantiles"][2]] * 2
        ax.plot(ends, median, color=outline, linewidth=2.4, solid_capstyle="butt")
        ax.plot(ends, median, color=line, linewidth=1.2, solid_capstyle="butt")
    ax.set_xlim(-0.55, len(summary["groups"]) // 2 - 0.45)


def _new_axes() -> Axes:
    require_matplotlib("plot_rounds")
    from matplotlib.figure import Figure

    # not pyplot's figure: it would change global state, and may open a window
    axes: Axes = Figure(layout="constrained").subplots()
    return axes
