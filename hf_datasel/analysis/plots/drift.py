"""Plot of the share of the highest-scored rows that is replaced between two rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_datasel.analysis.drift import Drift, DriftPair
from hf_datasel.analysis.plots.lines import add_line_legend, legend_size, line_style
from hf_datasel.analysis.plots.theme import canvas, drawable, log_axis, percent_axis, require_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_drift"]

_MAX_LINES = 6  # lines that are distinguishable
_LEGEND_SHARE = 0.05  # the share reported in papers, shown in the legend
_TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def draw_drift(summary: Drift, title: str = "", dark: bool = False) -> Figure:
    """Draw the replaced share of the top rows against the size of the top, with a line for each pair of rounds.

    At most six pairs are drawn, pairs of successive rounds first; the axis label says so. The dotted line shows the
    share expected of two unrelated scores.

    Args:
        summary: Result of `drift_between` or `drift_by_round`.
        title: Title of the figure.
        dark: Whether to draw for a dark page.

    Raises:
        DataselError: If matplotlib is not installed.
    """
    require_matplotlib("draw_drift")
    pairs, shares = summary["pairs"], summary["shares"]
    drawn = pairs[:_MAX_LINES]
    names = [*(_name(pair, shares) for pair in drawn), "two unrelated scores"]
    _, rows = legend_size(names)
    with canvas("draw_drift", title, dark, height=3.1 + 0.2 * rows) as (figure, theme):
        key, ax = figure.subplots(2, 1, height_ratios=[0.2 * rows, 2.6])
        chance: dict[str, Any] = {"color": theme.muted, "linewidth": 1.4, "linestyle": ":"}
        add_line_legend(key, names, theme, last=chance)
        ax.plot(shares, drawn[0]["chance"], **chance)
        for index, pair in enumerate(drawn):
            ax.plot(shares, pair["replaced"], **line_style(index, theme))
        if len(shares) > 1:
            log_axis(ax, ax.xaxis, shares[0], shares[-1])
            ticks = [tick for tick in _TICKS if shares[0] <= tick <= shares[-1]]
            ax.set_xticks(ticks if len(ticks) > 1 else [shares[0], shares[-1]])
        percent_axis(ax.xaxis)
        percent_axis(ax.yaxis)
        ax.set_ylim(-0.03, 1.05)
        ax.set_ylabel("replaced")
        more = f"; {_MAX_LINES} of {len(pairs)} pairs" if len(pairs) > _MAX_LINES else ""
        column = drawable(summary["column"], 20)
        ax.set_xlabel(f"top by {column}, of the {_row_range(drawn)} rows with both scores{more}")
    return figure


def _name(pair: DriftPair, shares: list[float]) -> str:
    name = f"{drawable(pair['before'], 29)} → {drawable(pair['after'], 29)}"
    if _LEGEND_SHARE not in shares:
        return name
    return f"{name}: {pair['replaced'][shares.index(_LEGEND_SHARE)]:.0%} at 5%"


def _row_range(pairs: list[DriftPair]) -> str:
    fewest, most = min(pair["rows"] for pair in pairs), max(pair["rows"] for pair in pairs)
    return f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
