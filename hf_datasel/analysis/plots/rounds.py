"""A score over the rounds: what was scored on the left, what was chosen on the right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_datasel.analysis.plots.spreads import bin_shares
from hf_datasel.analysis.plots.theme import (
    canvas,
    legend_above,
    log_axis,
    need_matplotlib,
    plain_number,
    printable,
    quiet_axes,
)
from hf_datasel.analysis.summaries import Distribution, distribution_by_round, threshold_of
from hf_datasel.errors import SelectionError
from hf_datasel.selection import Selection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_rounds", "plot_rounds"]

_SCORED, _CHOSEN = "#c3c9d0", "#20639b"  # light and dark, so that they stay apart in grey
_WIDTH = 0.44
_LABELS = 12  # rounds that are named under the axis
_WITH_MEDIANS = 5  # rounds up to which there is room for their medians too


def plot_rounds(
    selections: Sequence[Selection],
    column: str,
    ax: Axes | None = None,
    bins: int = 40,
    limits: tuple[float, float] | None = None,
    log: bool = False,
) -> Axes:
    """Draw how a score was spread over the rows scored in each round (left) and over those chosen (right).

    Each half is a histogram, as wide as its own fullest bin says; the black lines are medians.

    Args:
        selections: one a round, in order, each with the score in its table.
        column: name of the score, such as `"ifd"`.
        ax: where to draw; a new figure by default.
        bins: of each histogram, shared by all rounds.
        limits: values shown; by default those chosen, and of those scored all but the last hundredth at either end.
            Medians count the others too.
        log: logarithmic axis, which suits a ratio. No bin reaches across the value from which on rows were left out.

    Returns:
        The axes drawn on. Without `ax`, `plot_rounds(...).figure.savefig("rounds.png")` writes the file.

    Raises:
        SelectionError: no selections, one in which no chosen row has the score, or `log` with values of 0 or less.
        DataselError: matplotlib is not installed.
    """
    if not selections:
        raise SelectionError("plot_rounds needs at least one selection, and got none.")
    names = [selection.provenance.get("round", at) for at, selection in enumerate(selections)]
    scores = [selection.scores(column) for selection in selections]
    chosen = [values[each.indices] for values, each in zip(scores, selections, strict=True)]
    rounds, threshold = list(zip(names, scores, chosen, strict=True)), _threshold(selections, column)
    summary = distribution_by_round(column, rounds, bins, limits, log, threshold)
    ax = _new_axes() if ax is None else ax
    _draw_halves(ax, summary, (_SCORED, _CHOSEN), "black", "white")
    ax.set_xticks(range(len(names)), [f"round {each}" for each in names])
    ax.set_yscale("log" if log else "linear")
    ax.set_ylim(summary["edges"][0], summary["edges"][-1])
    ax.set_ylabel(column, parse_math=False)
    return ax


def draw_rounds(summary: Distribution, title: str = "", dark: bool = False) -> Figure:
    """Draw what `distribution_by_round` counted: the rows scored in each round on the left, those chosen on the right.

    Raises:
        DataselError: matplotlib is not installed.
    """
    names = [group["name"].rpartition(":")[0] for group in summary["groups"][::2]]
    with canvas("draw_rounds", title, dark) as (figure, theme):
        ax = figure.subplots()
        _draw_halves(ax, summary, (theme.pool, theme.chosen), theme.ink, theme.ground)
        if summary["log"]:
            log_axis(ax, ax.yaxis, summary["edges"][0], summary["edges"][-1])
        ax.set_ylim(summary["edges"][0], summary["edges"][-1])
        ax.set_ylabel(printable(summary["column"], 20))
        step = -(-len(names) // _LABELS)
        few = len(names) <= _WITH_MEDIANS
        shown = [_with_medians(summary, at, name) if few else name.rpartition(" ")[2] for at, name in enumerate(names)]
        quiet_axes(ax.xaxis, range(0, len(names), step), shown[::step])
        if not few:
            ax.set_xlabel("round")
        ax.plot([], [], color=theme.ink, linewidth=1.2, label="median (below: scored → chosen)" if few else "median")
        legend_above(ax)
    return figure


def _threshold(selections: Sequence[Selection], column: str) -> float | None:
    return threshold_of([{"left_out": {}, **each.provenance} for each in selections], column)


def _with_medians(summary: Distribution, at: int, name: str) -> str:
    scored, chosen = summary["groups"][2 * at : 2 * at + 2]
    medians = " → ".join(plain_number(group["quantiles"][2]) for group in (scored, chosen))
    return f"{printable(name, 14)}\n{medians}"


def _draw_halves(ax: Axes, summary: Distribution, colours: tuple[str, str], line: str, halo: str) -> None:
    """Draw two histograms a round, back to back, each with a line at its median."""
    for at, group in enumerate(summary["groups"]):
        middle, side = at // 2, 1 if at % 2 else -1
        heights = bin_shares(summary, group)
        heights *= _WIDTH / (heights.max() or 1)
        ax.stairs(
            middle + side * heights,
            summary["edges"],
            baseline=middle,
            orientation="horizontal",
            fill=True,
            color=colours[at % 2],
            label=("scored", "chosen")[at] if at < 2 else None,
        )
        ends, median = [middle, middle + side * _WIDTH], [group["quantiles"][2]] * 2
        ax.plot(ends, median, color=halo, linewidth=2.4, solid_capstyle="butt")
        ax.plot(ends, median, color=line, linewidth=1.2, solid_capstyle="butt")
    ax.set_xlim(-0.55, len(summary["groups"]) // 2 - 0.45)


def _new_axes() -> Axes:
    need_matplotlib("plot_rounds")
    from matplotlib.figure import Figure

    # a figure of its own, and not pyplot's: nothing global changes, and no window opens
    axes: Axes = Figure(layout="constrained").subplots()
    return axes
