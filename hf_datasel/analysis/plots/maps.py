"""A t-SNE map of the pool, with the rows that one or several selections chose."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.analysis.maps import TsneMap
from hf_datasel.analysis.plots.theme import Theme, canvas, legend_above, need_matplotlib, printable, quiet_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_tsne"]

_COLUMNS = 3
_HEIGHT, _SIZE = {1: 4.2, 2: 3.6, 3: 2.7}, {1: 5.0, 2: 3.0, 3: 2.0}  # inches of a map, and points of a dot, by columns


def draw_tsne(summary: TsneMap, title: str = "", dark: bool = False) -> Figure:
    """Draw the sample of the pool in grey and the chosen rows over it, a map for each selection beside each other.

    Raises:
        DataselError: matplotlib is not installed.
    """
    need_matplotlib("draw_tsne")
    names = list(summary["chosen"])
    columns = 2 if len(names) in (2, 4) else min(max(len(names), 1), _COLUMNS)
    rows = -(-max(len(names), 1) // columns)
    with canvas("draw_tsne", title, dark, height=0.9 + rows * _HEIGHT[columns]) as (figure, theme):
        places = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
        for ax, name in zip(places, names or [""], strict=False):
            _one(ax, summary, name, _SIZE[columns], theme)
        for ax in places[max(len(names), 1) :]:
            ax.set_axis_off()
        if len(names) < 2:
            legend_above(places[0])
        pool = f"{len(summary['sampled']):,} of {_rows(summary['pool_rows'])} of the pool"
        said = f"t-SNE of {printable(summary['column'], 30)}; grey: {pool}\nDistances between groups mean nothing."
        figure.supxlabel(said, x=0.1 / figure.get_figwidth(), ha="left", fontsize="medium", color=theme.muted)
    return figure


def _one(ax: Axes, summary: TsneMap, name: str, size: float, theme: Theme) -> None:
    points = np.asarray(summary["points"], dtype=np.float64).reshape(-1, 2)
    pool, chosen = points[summary["sampled"]], points[summary["chosen"].get(name, [])]
    ax.scatter(pool[:, 0], pool[:, 1], s=size, linewidth=0, color=theme.density[1], label=f"pool: {_rows(len(pool))}")
    ax.scatter(
        chosen[:, 0],
        chosen[:, 1],
        s=3.5 * size,
        color=theme.chosen,
        edgecolor=theme.ground,
        linewidth=0.25,
        label=f" {printable(name, 40)}: {_chosen(summary, name)}" if name else None,  # a first "_" would hide it
    )
    if len(summary["chosen"]) > 1:
        ax.set_title(f"{printable(name, 24)}\n{_chosen(summary, name)}", loc="left", fontsize=9.5)
    ax.set_aspect("equal")
    ax.margins(0.03)
    quiet_axes(ax.xaxis)
    quiet_axes(ax.yaxis)
    ax.spines[:].set_visible(False)


def _chosen(summary: TsneMap, name: str) -> str:
    drawn, chosen = len(summary["chosen"][name]), summary["chosen_rows"][name]
    return _rows(chosen) if drawn == chosen else f"{drawn:,} of {_rows(chosen)}"


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"
