"""What choices share, and where in a map of the pool they lie: numbers on grids."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.analysis.plots.theme import canvas, chance_number, legend_above, printable, quiet_axes, readable_on
from hf_datasel.analysis.summaries import EmbeddingMap, Overlaps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_map", "draw_overlaps", "in_short"]

_LEVELS = 6  # of density that are told apart
_MARGIN = 2  # cells that are put around the grid


def draw_overlaps(summary: Overlaps, title: str = "", dark: bool = False) -> Figure:
    """Draw the lower half of the matrix as shaded cells with their numbers, and say what chance would give.

    Raises:
        DataselError: matplotlib is not installed.
    """
    names, shortlist = [printable(name, 22) for name in summary["names"]], summary["shortlist"]
    count = len(names)
    height = 1.3 + 0.18 * (shortlist is not None) + 0.38 * max(count - 1, 2)
    with canvas("draw_overlaps", title, dark, height) as (figure, theme):
        ax = figure.subplots()
        matrix = np.asarray(summary["matrix"])
        ramp = _ramp(theme.ramp)
        for row, column in product(range(count), repeat=2):
            if row <= column:
                continue
            value = matrix[row, column]
            shade = ramp(np.sqrt(value))  # most overlaps are small
            ax.fill_between([column, column + 1], row, row + 1, color=shade, edgecolor=theme.ground)
            ax.text(column + 0.5, row + 0.5, f"{value:.2f}", ha="center", va="center", color=readable_on(shade))
        for at, name in enumerate(names[:-1]):
            ax.text(at + 0.08, at + 0.5, name, va="center", color=theme.muted)
        ax.set_xlim(0, max(count, 5))
        ax.set_ylim(count, 0)
        quiet_axes(ax.yaxis, [at + 0.5 for at in range(1, count)], names[1:])
        quiet_axes(ax.xaxis)
        ax.spines[:].set_visible(False)
        for label in ax.get_yticklabels():
            label.set_color(theme.ink)
        chance = f"two random draws from the pool: {chance_number(summary['chance'])}"
        said = f"Jaccard (rows in both / rows in either); {chance}"
        if shortlist is not None:
            whose = printable(in_short(shortlist["names"]), 40)
            said += f",\nfrom the {shortlist['rows']:,} rows that {whose} are all from: "
            said += chance_number(shortlist["chance"])
        figure.supxlabel(said, x=0.1 / figure.get_figwidth(), ha="left", fontsize="medium", color=theme.muted)
    return figure


def in_short(names: Sequence[str]) -> str:
    """Names in a sentence: all of them where they are few, else the first and the last.

    >>> in_short(["round 0", "round 1"]), in_short(["round 0", "round 1", "round 2", "round 3"])
    ('round 0 and round 1', 'round 0 to round 3')
    """
    *most, last = names
    return f"{', '.join(most)} and {last}" if 0 < len(most) < 3 else f"{names[0]} to {last}"


def draw_map(summary: EmbeddingMap, title: str = "", dark: bool = False) -> Figure:
    """Draw where the pool is dense (shaded) and how many rows were chosen where (discs).

    Raises:
        DataselError: matplotlib is not installed.
    """
    with canvas("draw_map", title, dark, height=3.8) as (figure, theme):
        ax = figure.subplots()
        pool, chosen = np.asarray(summary["pool"]), np.asarray(summary["chosen"])
        x, y = (_centres(summary[axis]) for axis in ("x", "y"))
        density = np.sqrt(_blurred(pool))
        levels = np.linspace(0.08, 1, _LEVELS + 1) * density.max()
        bands = _ramp(theme.density)(np.linspace(0, 1, _LEVELS))
        ax.contourf(x, y, density, levels=levels, colors=bands)
        ax.fill_between([], [], color=bands[_LEVELS // 2], label=f"pool: {_rows(pool.sum())}")
        rows, columns = np.nonzero(chosen)
        ax.scatter(
            x[columns + _MARGIN],
            y[rows + _MARGIN],
            s=10 * chosen[rows, columns],
            color=theme.chosen,
            edgecolor=theme.ground,
            linewidth=0.6,
            label=f"chosen: {_rows(chosen.sum())}, more where discs are larger",
        )
        legend_above(ax)
        quiet_axes(ax.xaxis)
        quiet_axes(ax.yaxis)
        ax.spines[:].set_visible(False)
        column, share = printable(summary["column"], 40), summary["explained"]
        ax.set_xlabel(f"{column}: two principal axes, {share:.0%} of the variance", loc="left")
    return figure


def _ramp(ends: tuple[str, str]) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("ramp", ends)


def _blurred(counts: np.ndarray) -> np.ndarray:
    """Counts shared out among neighbouring cells, which shows the density behind a few rows a cell."""
    padded = np.pad(counts.astype(np.float64), _MARGIN)
    for axis in (0, 1):
        padded = np.apply_along_axis(np.convolve, axis, padded, np.array([1, 4, 6, 4, 1]) / 16, "same")
    return padded


def _centres(edges: list[float]) -> np.ndarray:
    """Of the cells, and of as many beyond either end as the density is blurred into."""
    steps = np.arange(-_MARGIN, len(edges) - 1 + _MARGIN) + 0.5
    centres: np.ndarray = edges[0] + steps * (edges[-1] - edges[0]) / (len(edges) - 1)
    return centres


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"
