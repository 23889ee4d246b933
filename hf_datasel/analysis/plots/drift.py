"""How much of the top is replaced between two rounds, for every size of the top."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_datasel.analysis.drift import Drift, DriftPair
from hf_datasel.analysis.plots.lines import key_rows, line_style, name_lines
from hf_datasel.analysis.plots.theme import canvas, log_axis, need_matplotlib, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_drift"]

_LINES = 6  # that can be told apart
_NAMED = 0.05  # the share of the papers
_ROUND = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def draw_drift(summary: Drift, title: str = "", dark: bool = False) -> Figure:
    """Draw the share of the top that was replaced against the size of the top, a line for each pair of rounds.

    At most six pairs are drawn, rounds next to each other first, and the axis says so. What two unrelated scores would
    give is dotted.

    Raises:
        DataselError: matplotlib is not installed.
    """
    need_matplotlib("draw_drift")
    pairs, shares = summary["pairs"], summary["shares"]
    drawn = pairs[:_LINES]
    names = [*(_name(pair, shares) for pair in drawn), "two unrelated scores"]
    _, rows = key_rows(names)
    with canvas("draw_drift", title, dark, height=3.1 + 0.2 * rows) as (figure, theme):
        key, ax = figure.subplots(2, 1, height_ratios=[0.2 * rows, 2.6])
        chance = {"color": theme.muted, "linewidth": 1.4, "linestyle": ":"}
        name_lines(key, names, theme, last=chance)
        ax.plot(shares, drawn[0]["chance"], **chance)
        for at, pair in enumerate(drawn):
            ax.plot(shares, pair["replaced"], **line_style(at, theme))
        if len(shares) > 1:
            log_axis(ax, ax.xaxis, shares[0], shares[-1])
            round_shares = [each for each in _ROUND if shares[0] <= each <= shares[-1]]
            ax.set_xticks(round_shares if len(round_shares) > 1 else [shares[0], shares[-1]])
        ax.xaxis.set_major_formatter(_percent)
        ax.yaxis.set_major_formatter(_percent)
        ax.set_ylim(-0.03, 1.05)
        ax.set_ylabel("replaced")
        left = f"; {_LINES} of {len(pairs)} pairs" if len(pairs) > _LINES else ""
        column = printable(summary["column"], 20)
        ax.set_xlabel(f"top by {column}, of the {_counts(drawn)} rows with both scores{left}")
    return figure


def _name(pair: DriftPair, shares: list[float]) -> str:
    said = f"{printable(pair['before'], 29)} → {printable(pair['after'], 29)}"
    return f"{said}: {pair['replaced'][shares.index(_NAMED)]:.0%} at 5%" if _NAMED in shares else said


def _counts(pairs: list[DriftPair]) -> str:
    fewest, most = min(pair["rows"] for pair in pairs), max(pair["rows"] for pair in pairs)
    return f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"


def _percent(share: float, _: object = None) -> str:
    return f"{100 * share:g}%"
