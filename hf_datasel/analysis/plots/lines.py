"""Several lines in one plot, which stay apart in grey and for the colour-blind, and their names above the axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hf_datasel.analysis.plots.theme import Theme, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["key_rows", "line_style", "name_lines"]

_MARKERS = "os^DvP"
_DASHES = ("-", (0, (5, 1.5)))
_WIDE = 84  # letters beside each other


def line_style(at: int, theme: Theme) -> dict[str, Any]:
    """How the line at this place is drawn: the first six differ in colour and marker, the next ones are dashed too."""
    colours = (theme.chosen, *theme.others, theme.muted)
    return {
        "color": colours[at % len(colours)],
        "marker": _MARKERS[at % len(_MARKERS)],
        "linestyle": _DASHES[at // len(colours) % len(_DASHES)],
        "linewidth": 1.6,
        "markersize": 4.5,
    }


def key_rows(names: Sequence[str]) -> tuple[int, int]:
    """How many names stand beside each other in a key as wide as the figure, and in how many rows.

    >>> key_rows(["one", "two", "three"])
    (3, 1)
    """
    columns = max(min(len(names), _WIDE // (max(len(name) for name in names) + 6)), 1)
    return columns, -(-len(names) // columns)


def name_lines(ax: Axes, names: Sequence[str], theme: Theme, last: dict[str, Any] | None = None) -> None:
    """Fill axes of their own, as wide as the figure, with the key of lines drawn with `line_style`.

    Args:
        ax: nothing else is drawn there.
        names: of the lines, in order.
        theme: of the figure.
        last: how the line of the last name is drawn, where that is another way.
    """
    from matplotlib.lines import Line2D

    ax.set_axis_off()
    columns, _ = key_rows(names)
    styles = [line_style(at, theme) for at in range(len(names))]
    handles = [Line2D([], [], **style) for style in (styles if last is None else [*styles[:-1], last])]
    labels = [printable(name, _WIDE // columns - 6) for name in names]
    ax.legend(
        handles,
        [f" {label}" if label.startswith("_") else label for label in labels],  # matplotlib takes such for its own
        loc="upper left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        borderpad=0,
        borderaxespad=0,
        handlelength=1.8,
        handletextpad=0.5,
        columnspacing=1.6,
    )
