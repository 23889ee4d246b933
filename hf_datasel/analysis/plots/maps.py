"""Plot of a t-SNE map of the pool with the rows of one or several selections."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.analysis.maps import TsneMap
from hf_datasel.analysis.plots.theme import (
    Theme,
    add_caption,
    add_legend,
    canvas,
    drawable,
    format_count,
    hide_axes,
    require_matplotlib,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_tsne"]

_MAX_COLUMNS = 3
_HEIGHT = {1: 4.2, 2: 3.6, 3: 2.7}  # inches of a map, by the number of columns
_DOT_SIZE = {1: 5.0, 2: 3.0, 3: 2.0}  # points, by the number of columns


def draw_tsne(summary: TsneMap, title: str = "", dark: bool = False) -> Figure:
    """Draw a sample of the pool in grey with the selected rows on top, with a map for each selection.

    Args:
        summary: Result of `tsne_map`.
        title: Title of the figure.
        dark: Whether to draw for a dark page.

    Raises:
        DataselError: If matplotlib is not installed.
    """
    require_matplotlib("draw_tsne")
    names = list(summary["selected"]) or [""]
    columns = 2 if len(names) in (2, 4) else min(len(names), _MAX_COLUMNS)
    rows = math.ceil(len(names) / columns)
    with canvas("draw_tsne", title, dark, height=0.9 + rows * _HEIGHT[columns]) as (figure, theme):
        axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
        for ax, name in zip(axes, names, strict=False):
            _draw_map(ax, summary, name, _DOT_SIZE[columns], theme)
        for ax in axes[len(names) :]:
            ax.set_axis_off()
        if len(names) == 1:
            add_legend(axes[0])
        pool = f"{len(summary['sampled']):,} of {format_count(summary['pool_rows'])} of the pool"
        caption = f"t-SNE of {drawable(summary['column'], 30)}; grey: {pool}\nDistances between groups mean nothing."
        add_caption(figure, caption, theme)
    return figure


def _draw_map(ax: Axes, summary: TsneMap, name: str, size: float, theme: Theme) -> None:
    points = np.asarray(summary["points"], dtype=np.float64).reshape(-1, 2)
    pool, selected = points[summary["sampled"]], points[summary["selected"].get(name, [])]
    label = f"pool: {format_count(len(pool))}"
    ax.scatter(pool[:, 0], pool[:, 1], s=size, linewidth=0, color=theme.density[1], label=label)
    ax.scatter(
        selected[:, 0],
        selected[:, 1],
        s=3.5 * size,
        color=theme.selected,
        edgecolor=theme.background,
        linewidth=0.25,
        # the space shows names with a leading underscore, which matplotlib hides
        label=f" {drawable(name, 40)}: {_drawn_rows(summary, name)}" if name else None,
    )
    if len(summary["selected"]) > 1:
        ax.set_title(f"{drawable(name, 24)}\n{_drawn_rows(summary, name)}", fontsize=9.5)
    ax.set_aspect("equal")
    ax.margins(0.03)
    hide_axes(ax)


def _drawn_rows(summary: TsneMap, name: str) -> str:
    drawn, selected = len(summary["selected"][name]), summary["selected_rows"][name]
    return format_count(selected) if drawn == selected else f"{drawn:,} of {format_count(selected)}"
