"""What a setting does, a small plot for each measure; and several selectors side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hf_datasel.analysis.plots.theme import Theme, canvas, need_matplotlib, printable, quiet_axes
from hf_datasel.analysis.sweeps import Ablation, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_ablation", "draw_sweep"]

_COLUMNS = 3
_INCHES, _DIGIT, _GAP = 1.75, 0.09, 0.06  # of an axis, about; of a digit under it; and between two numbers


def draw_sweep(summary: Sweep, title: str = "", dark: bool = False) -> Figure:
    """Draw what the choices share, and each measure, against the values of the setting.

    Numbers stand evenly spaced in their order, whatever is between them; the default is a larger dot, and a dotted
    line where it is known. Other values have a line each, as in `draw_ablation`. A measure without any number is left
    out.

    Raises:
        DataselError: matplotlib is not installed.
    """
    need_matplotlib("draw_sweep")
    panels = [
        _Panel("Jaccard with the default", summary["jaccard_default"]),
        _Panel("Jaccard with the previous", summary["jaccard_previous"]),
        *(_Panel(name, each, summary["measures_default"][name]) for name, each in summary["measures"].items()),
    ]
    said = f"{printable(summary['setting'], 24)} of {printable(summary['selector'], 30)}"
    if summary["default"] is not None:
        said = f"{said}; marked: the default, {printable(_said(summary['default']), 20)}"
    labels = [_said(value) for value in summary["values"]]
    marked = [at for at, value in enumerate(summary["values"]) if value == summary["default"]]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in summary["values"])
    height = 1.65 if numeric else _height(labels)
    with _panels("draw_sweep", title, dark, panels, height) as (figure, places, theme):
        for at, (ax, panel) in enumerate(places):
            if numeric:
                _line(ax, panel, labels, marked, theme)
            else:
                _dots(ax, panel, labels if at % _COLUMNS == 0 else [""] * len(labels), marked, theme)
        figure.supxlabel(said, x=0.1 / figure.get_figwidth(), ha="left", fontsize="medium", color=theme.muted)
    return figure


def draw_ablation(summary: Ablation, title: str = "", dark: bool = False) -> Figure:
    """Draw what each choice shares with the first one, and each measure, with a line for each selector.

    The first selector is marked. A measure without any number is left out.

    Raises:
        DataselError: matplotlib is not installed.
    """
    need_matplotlib("draw_ablation")
    names = summary["names"]
    panels = [
        _Panel("Jaccard with the first", summary["jaccard"]),
        *(_Panel(name, values, values[0]) for name, values in summary["measures"].items()),
    ]
    with _panels("draw_ablation", title, dark, panels, _height(names)) as (figure, places, theme):
        for at, (ax, panel) in enumerate(places):
            _dots(ax, panel, names if at % _COLUMNS == 0 else [""] * len(names), [0], theme)
    return figure


class _Panel(NamedTuple):
    name: str
    values: Sequence[float | None]
    default: float | None = None


@contextmanager
def _panels(
    who: str, title: str, dark: bool, panels: Sequence[_Panel], height: float
) -> Iterator[tuple[Figure, list[tuple[Axes, _Panel]], Theme]]:
    """A figure with axes for each panel that has a number."""
    drawn = [panel for panel in panels if any(value is not None for value in panel.values)]
    rows = -(-len(drawn) // _COLUMNS)
    with canvas(who, title, dark, height=0.6 + height * rows) as (figure, theme):
        axes = figure.subplots(rows, min(_COLUMNS, len(drawn)), squeeze=False).ravel().tolist()
        for ax, panel in zip(axes, drawn, strict=False):
            ax.set_title(printable(panel.name, 24), loc="left", fontsize=9.5)
        for ax in axes[len(drawn) :]:
            ax.set_axis_off()
        yield figure, list(zip(axes, drawn, strict=False)), theme


def _height(names: Sequence[str]) -> float:
    return 0.7 + 0.22 * max(len(names), 2)


def _line(ax: Axes, panel: _Panel, labels: Sequence[str], marked: Sequence[int], theme: Theme) -> None:
    numbers = _numbers(panel.values)
    if panel.default is not None:
        ax.axhline(panel.default, color=theme.muted, linewidth=1.0, linestyle=":", zorder=0)
    ax.plot(range(len(numbers)), numbers, color=theme.chosen, linewidth=1.6, marker="o", markersize=4.5)
    for at in marked:
        ax.plot(at, numbers[at], "o", color=theme.others[0], markersize=8, zorder=3)
    named = _named(labels, marked)
    quiet_axes(ax.xaxis, named, [labels[at] for at in named])
    ax.set_xlim(-0.35, len(numbers) - 0.65)
    _room(ax.set_ylim, np.append(numbers, np.nan if panel.default is None else panel.default))
    ax.locator_params("y", nbins=4)


def _named(labels: Sequence[str], marked: Sequence[int]) -> list[int]:
    """Places whose labels fit under the axis side by side: the marked ones, the ends, and what there is room for.

    >>> _named(["0", "0.1", "100,000,000", "0.5", "1"], marked=[1])
    [0, 1, 3, 4]
    """
    step, named = _INCHES / len(labels), list[int]()
    for at in dict.fromkeys([*marked, 0, len(labels) - 1, *range(len(labels))]):
        halves = {each: (len(labels[at]) + len(labels[each])) / 2 * _DIGIT for each in named}
        if all(abs(at - each) * step >= half + _GAP for each, half in halves.items()):
            named.append(at)
    return sorted(named)


def _dots(ax: Axes, panel: _Panel, names: Sequence[str], marked: Sequence[int], theme: Theme) -> None:
    numbers = _numbers(panel.values)
    places = np.arange(len(numbers))
    ax.hlines(places, 0, 1, transform=ax.get_yaxis_transform(), color=theme.faint, linewidth=0.8, zorder=0)
    if panel.default is not None:
        ax.axvline(panel.default, color=theme.muted, linewidth=1.0, linestyle=":", zorder=1)
    colours = [theme.others[0] if at in marked else theme.chosen for at in places.tolist()]
    ax.scatter(numbers, places, s=34, color=colours, zorder=3)
    ax.set_ylim(len(numbers) - 0.5, -0.5)
    quiet_axes(ax.yaxis, places.tolist(), [printable(name, 26) for name in names])
    for label in ax.get_yticklabels():
        label.set_color(theme.ink)
    _room(ax.set_xlim, np.append(numbers, np.nan if panel.default is None else panel.default))
    ax.locator_params("x", nbins=3)
    ax.spines["left"].set_visible(False)


def _room(set_limits: Any, numbers: np.ndarray) -> None:
    """Leave room around the numbers, and do not make much of differences that are rounding."""
    known = numbers[np.isfinite(numbers)]
    middle, half = (known.max() + known.min()) / 2, (known.max() - known.min()) / 2
    half = max(half, 0.01 * abs(middle), 1e-6)
    set_limits(middle - 1.25 * half, middle + 1.25 * half)


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _said(value: Any) -> str:
    if isinstance(value, dict):  # a score or a selector, as recipes write it
        return str(value.get("score", value.get("selector", value)))
    return f"{value:g}" if isinstance(value, float) else str(value)
