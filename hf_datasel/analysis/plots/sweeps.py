"""Plots of sweeps and ablations, with a small panel for each measure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hf_datasel.analysis.plots.lines import labels_that_fit
from hf_datasel.analysis.plots.theme import (
    Theme,
    add_caption,
    canvas,
    drawable,
    label_ticks,
    require_matplotlib,
)
from hf_datasel.analysis.sweeps import Ablation, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_ablation", "draw_sweep"]

_COLUMNS = 3
_PANEL_WIDTH, _LABEL_GAP = 1.75, 0.06  # inches; the width is approximate


class _Panel(NamedTuple):
    """A measure of each selection, and of the default."""

    name: str
    values: Sequence[float | None]
    default: float | None = None


def draw_sweep(summary: Sweep, title: str = "", dark: bool = False) -> Figure:
    """Draw the Jaccard similarities and each measure against the values of the setting.

    Numeric values are evenly spaced in the given order; the default is a larger dot, and a dotted line if its measure
    is known. Other values have a row each, as in `draw_ablation`. Measures without a number are skipped.

    Args:
        summary: Result of `sweep` for a setting.
        title: Title of the figure.
        dark: Whether to draw for a dark page.

    Raises:
        DataselError: If matplotlib is not installed.
    """
    require_matplotlib("draw_sweep")
    panels = [
        _Panel("Jaccard with the default", summary["jaccard_default"]),
        _Panel("Jaccard with the previous", summary["jaccard_previous"]),
        *(_Panel(name, column, summary["measures_default"][name]) for name, column in summary["measures"].items()),
    ]
    caption = f"{drawable(summary['setting'], 24)} of {drawable(summary['selector'], 30)}"
    if summary["default"] is not None:
        caption += f"; marked: the default, {drawable(_value_label(summary['default']), 20)}"
    labels = [_value_label(value) for value in summary["values"]]
    marked = [index for index, value in enumerate(summary["values"]) if value == summary["default"]]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in summary["values"])
    height = 1.65 if numeric else _rows_height(labels)
    with _panel_axes("draw_sweep", title, dark, panels, height) as (figure, axes, theme):
        for index, (ax, panel) in enumerate(axes):
            if numeric:
                _draw_line(ax, panel, labels, marked, theme)
            else:
                _draw_rows(ax, panel, labels if index % _COLUMNS == 0 else [""] * len(labels), marked, theme)
        add_caption(figure, caption, theme)
    return figure


def draw_ablation(summary: Ablation, title: str = "", dark: bool = False) -> Figure:
    """Draw the Jaccard similarity with the first selection and each measure, with a row for each selector.

    The first selector is marked. Measures without a number are skipped.

    Args:
        summary: Result of `ablation`.
        title: Title of the figure.
        dark: Whether to draw for a dark page.

    Raises:
        DataselError: If matplotlib is not installed.
    """
    require_matplotlib("draw_ablation")
    names = summary["names"]
    panels = [
        _Panel("Jaccard with the first", summary["jaccard"]),
        *(_Panel(name, values, values[0]) for name, values in summary["measures"].items()),
    ]
    with _panel_axes("draw_ablation", title, dark, panels, _rows_height(names)) as (figure, axes, theme):
        for index, (ax, panel) in enumerate(axes):
            _draw_rows(ax, panel, names if index % _COLUMNS == 0 else [""] * len(names), [0], theme)
    return figure


@contextmanager
def _panel_axes(
    function: str, title: str, dark: bool, panels: Sequence[_Panel], height: float
) -> Iterator[tuple[Figure, list[tuple[Axes, _Panel]], Theme]]:
    """Give a figure, and axes for each panel that has a number."""
    drawn = [panel for panel in panels if any(value is not None for value in panel.values)]
    rows = math.ceil(len(drawn) / _COLUMNS)
    with canvas(function, title, dark, height=0.6 + height * rows) as (figure, theme):
        axes = figure.subplots(rows, min(_COLUMNS, len(drawn)), squeeze=False).ravel().tolist()
        for ax, panel in zip(axes, drawn, strict=False):
            ax.set_title(drawable(panel.name, 24), fontsize=9.5)
        for ax in axes[len(drawn) :]:
            ax.set_axis_off()
        yield figure, list(zip(axes, drawn, strict=False)), theme


def _rows_height(names: Sequence[str]) -> float:
    return 0.7 + 0.22 * max(len(names), 2)


def _draw_line(ax: Axes, panel: _Panel, labels: Sequence[str], marked: Sequence[int], theme: Theme) -> None:
    values = np.array(panel.values, dtype=np.float64)  # None becomes NaN
    if panel.default is not None:
        ax.axhline(panel.default, color=theme.muted, linewidth=1.0, linestyle=":", zorder=0)
    ax.plot(range(len(values)), values, color=theme.selected, linewidth=1.6, marker="o", markersize=4.5)
    for index in marked:
        ax.plot(index, values[index], "o", color=theme.others[0], markersize=8, zorder=3)
    positions = [index * _PANEL_WIDTH / len(labels) for index in range(len(labels))]
    labelled = labels_that_fit(positions, labels, [*marked, 0, len(labels) - 1], _LABEL_GAP)
    label_ticks(ax.xaxis, labelled, [labels[index] for index in labelled])
    ax.set_xlim(-0.35, len(values) - 0.65)
    _set_limits(ax.set_ylim, values, panel.default)
    ax.locator_params("y", nbins=4)


def _draw_rows(ax: Axes, panel: _Panel, names: Sequence[str], marked: Sequence[int], theme: Theme) -> None:
    values = np.array(panel.values, dtype=np.float64)  # None becomes NaN
    rows = range(len(values))
    ax.hlines(rows, 0, 1, transform=ax.get_yaxis_transform(), color=theme.faint, linewidth=0.8, zorder=0)
    if panel.default is not None:
        ax.axvline(panel.default, color=theme.muted, linewidth=1.0, linestyle=":", zorder=1)
    colors = [theme.others[0] if row in marked else theme.selected for row in rows]
    ax.scatter(values, rows, s=34, color=colors, zorder=3)
    ax.set_ylim(len(values) - 0.5, -0.5)
    label_ticks(ax.yaxis, rows, [drawable(name, 26) for name in names], theme.ink)
    _set_limits(ax.set_xlim, values, panel.default)
    ax.locator_params("x", nbins=3)
    ax.spines["left"].set_visible(False)


def _set_limits(set_limits: Any, values: np.ndarray, default: float | None) -> None:
    """Set the limits of an axis with a margin, and not so close that rounding differences fill it."""
    values = np.append(values, np.nan if default is None else default)
    finite = values[np.isfinite(values)]
    center, half = (finite.max() + finite.min()) / 2, (finite.max() - finite.min()) / 2
    half = max(half, 0.01 * abs(center), 1e-6)
    set_limits(center - 1.25 * half, center + 1.25 * half)


def _value_label(value: Any) -> str:
    if isinstance(value, dict):  # the spec of a score or a selector
        return str(value.get("score", value.get("selector", value)))
    return f"{value:g}" if isinstance(value, float) else str(value)
