"""Plots of selections, drawn with matplotlib (`pip install "hf-datasel[plot]"`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.errors import DataselError, SelectionError
from hf_datasel.selection import Selection

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_rounds"]

_SCORED, _CHOSEN = "#c3c9d0", "#20639b"  # light and dark, so that they stay apart in grey
_WIDTH = 0.44


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
        log: logarithmic axis, which suits a ratio.

    Returns:
        The axes drawn on. Without `ax`, `plot_rounds(...).figure.savefig("rounds.png")` writes the file.

    Raises:
        SelectionError: no selections, one in which no chosen row has the score, or `log` with values of 0 or less.
        DataselError: matplotlib is not installed.
    """
    drawn = [_scored_and_chosen(selection, column) for selection in selections]
    if not drawn:
        raise SelectionError("plot_rounds needs at least one selection, and got none.")
    edges = _edges(drawn, bins, limits, log)
    ax = _new_axes() if ax is None else ax
    for at, pair in enumerate(drawn):
        for values, side, colour in zip(pair, (-1, 1), (_SCORED, _CHOSEN), strict=True):
            _half(ax, at, side, values, edges, colour)
    for label, colour in (("scored", _SCORED), ("chosen", _CHOSEN)):
        ax.fill_between([], [], color=colour, label=label)
    rounds = [selection.provenance.get("round", at) for at, selection in enumerate(selections)]
    ax.set_xticks(range(len(drawn)), [f"round {each}" for each in rounds])
    ax.set_xlim(-0.55, len(drawn) - 0.45)
    ax.set_yscale("log" if log else "linear")
    ax.set_ylim(edges[0], edges[-1])
    ax.set_ylabel(column)
    return ax


def _scored_and_chosen(selection: Selection, column: str) -> tuple[np.ndarray, np.ndarray]:
    values = selection.scores(column)
    scored, chosen = values[~np.isnan(values)], values[selection.indices]
    chosen = chosen[~np.isnan(chosen)]
    if not chosen.size:
        raise SelectionError(f"No chosen row of round {selection.provenance.get('round')} has a score {column!r}.")
    return scored, chosen


def _edges(
    drawn: list[tuple[np.ndarray, np.ndarray]], bins: int, limits: tuple[float, float] | None, log: bool
) -> np.ndarray:
    if limits is None:
        tails = np.percentile(np.concatenate([scored for scored, _ in drawn]), [1, 99])
        chosen = np.concatenate([chosen for _, chosen in drawn])
        limits = float(min(tails[0], chosen.min())), float(max(tails[1], chosen.max()))
    low, high = limits
    if log and low <= 0:
        raise SelectionError(f"A logarithmic axis cannot show {low:g}. Pass log=False, or limits above 0.")
    if low == high:  # one value: give it a bin of some width
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    return np.geomspace(low, high, bins + 1) if log else np.linspace(low, high, bins + 1)


def _half(ax: Axes, at: int, side: int, values: np.ndarray, edges: np.ndarray, colour: str) -> None:
    heights = np.histogram(values, edges)[0].astype(np.float64)
    heights *= _WIDTH / max(heights.max(), 1)
    ax.stairs(at + side * heights, edges, baseline=at, orientation="horizontal", fill=True, color=colour)
    median = float(np.median(values))
    ends = [at, at + side * _WIDTH]
    ax.plot(ends, [median, median], color="white", linewidth=3.5, solid_capstyle="butt")
    ax.plot(ends, [median, median], color="black", linewidth=1.5, solid_capstyle="butt")


def _new_axes() -> Axes:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataselError(
            "plot_rounds draws with matplotlib, which is not installed: pip install 'hf-datasel[plot]'."
        ) from error
    # a figure of its own, and not pyplot's: nothing global changes, and no window opens
    axes: Axes = Figure(layout="constrained").subplots()
    return axes
