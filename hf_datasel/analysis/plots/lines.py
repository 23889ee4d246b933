"""Styles and legends of plots with several lines, distinguishable in greyscale and with colour blindness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hf_datasel.analysis.plots.theme import LINE_CHARACTERS, Theme, drawable, legend_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["add_line_legend", "labels_that_fit", "legend_size", "line_style"]

_MARKERS = "os^DvP"
_DASHES = ("-", (0, (5, 1.5)))
_DIGIT_INCHES = 0.09  # width of a digit in a tick label


def line_style(index: int, theme: Theme) -> dict[str, Any]:
    """Return the style of a line: the first six differ in colour and marker, the next six are also dashed."""
    colors = (theme.selected, *theme.others, theme.muted)
    return {
        "color": colors[index % len(colors)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": _DASHES[index // len(colors) % len(_DASHES)],
        "linewidth": 1.6,
        "markersize": 4.5,
    }


def legend_size(names: Sequence[str]) -> tuple[int, int]:
    """Return the number of columns and rows of a legend as wide as the figure.

    >>> legend_size(["one", "two", "three"])
    (3, 1)
    """
    columns = max(min(len(names), LINE_CHARACTERS // (max(len(name) for name in names) + 6)), 1)
    return columns, math.ceil(len(names) / columns)


def add_line_legend(ax: Axes, names: Sequence[str], theme: Theme, last: dict[str, Any] | None = None) -> None:
    """Fill axes as wide as the figure with the legend of lines drawn with `line_style`.

    Args:
        ax: Axes with nothing else in them.
        names: Name of each line, in order.
        theme: Theme of the figure.
        last: Style of the line of the last name, if it is not that of `line_style`.
    """
    from matplotlib.lines import Line2D

    ax.set_axis_off()
    columns, _ = legend_size(names)
    styles = [line_style(index, theme) for index in range(len(names))]
    if last is not None:
        styles[-1] = last
    ax.legend(
        [Line2D([], [], **style) for style in styles],
        [legend_label(drawable(name, LINE_CHARACTERS // columns - 6)) for name in names],
        loc="upper left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        borderaxespad=0,
        handlelength=1.8,
    )


def labels_that_fit(positions: Sequence[float], labels: Sequence[str], first: Sequence[int], gap: float) -> list[int]:
    """Return the indices of the tick labels that fit under an axis without overlap.

    Args:
        positions: Position of each label, in inches.
        labels: The labels.
        first: Indices to place before all others, in this order.
        gap: Minimum distance between two labels, in inches.

    Returns:
        The indices, rising.

    >>> labels_that_fit([0, 0.35, 0.7, 1.05, 1.4], ["0", "0.1", "100,000,000", "0.5", "1"], [1, 0, 4], 0.06)
    [0, 1, 3, 4]
    """
    fitting: list[int] = []
    for index in dict.fromkeys([*first, *range(len(labels))]):
        half_widths = {other: (len(labels[index]) + len(labels[other])) / 2 * _DIGIT_INCHES for other in fitting}
        if all(abs(positions[index] - positions[other]) >= half + gap for other, half in half_widths.items()):
            fitting.append(index)
    return sorted(fitting)
