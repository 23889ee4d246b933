"""Forest plot of an experiment: every run, and the interval of each method's difference to the control."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hf_datasel.analysis.plots.runs import PlottedMethod, Runs, check_methods, finite
from hf_datasel.analysis.plots.theme import Theme, canvas, drawable, label_ticks, legend_label
from hf_datasel.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_forest"]

_ROW = 0.23  # inches per method
_MARGIN = 0.06  # of the width of a panel, at either end
_TITLES = {1: 60, 2: 32, 3: 20}  # columns of panels -> characters that fit above one


class _Row(NamedTuple):
    """Runs of a method in a panel, and the interval of its difference to the control."""

    values: Runs
    interval: tuple[float, float] | None


class _Panel(NamedTuple):
    """A task or the primary result: a row per method."""

    name: str
    rows: Mapping[str, _Row]
    lower_is_better: bool


def plot_forest(
    methods: Mapping[str, PlottedMethod],
    *,
    control: str = "random",
    whole_pool: str | None = None,
    primary: str = "average",
    lower_is_better: Collection[str] = (),
    title: str = "",
    dark: bool = False,
) -> Figure:
    """Draw the runs of each method, with a panel for the primary result and for each task.

    Marks are runs; those of methods without an interval are diamonds. A bar is the interval of the difference to the
    control, placed around the control's mean: if it does not cross the line of this mean, the difference is not 0. The
    band is the range of the control's runs. Methods that are worse than the control and those that are better differ
    in colour and shape.

    Args:
        methods: Results by name of the method, the control included, in the order of the rows.
        control: Name of the method that the others are compared with, drawn first.
        whole_pool: Name of the method that trains on all rows, whose mean is a line too; None without one.
        primary: Name of the panel of the primary results, which is drawn first.
        lower_is_better: Names of the panels in which lower values are better.
        title: Title of the figure.
        dark: Whether to draw for a dark page.

    Returns:
        The figure; `figure.axes` are the panels, and `figure.savefig("forest.png")` writes it.

    Raises:
        ConfigError: `control`, `whole_pool` or a name in `lower_is_better` is unknown, or there is no result at all.
        DataselError: matplotlib is not installed.
    """
    check_methods("plot_forest", methods, control, *([] if whole_pool is None else [whole_pool]))
    panels = _panels(methods, primary, lower_is_better)
    if unknown := set(lower_is_better) - {panel.name for panel in panels}:
        raise ConfigError(f"plot_forest: lower_is_better names {sorted(unknown)}, which are no tasks.")
    names = [control, *(name for name in methods if name != control)]
    columns = _columns(len(panels))
    rows = math.ceil(len(panels) / columns)
    height = 0.75 + rows * (0.62 + _ROW * max(len(names), 2))
    with canvas("plot_forest", title, dark, height) as (figure, theme):
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel().tolist()
        for index, (ax, panel) in enumerate(zip(axes, panels, strict=False)):
            _draw_panel(ax, panel, names, whole_pool, theme)
            ax.set_title(drawable(panel.name, _TITLES[columns]), fontsize=9.5)
            label_ticks(ax.yaxis, range(len(names)), [drawable(name, 24) for name in names], theme.ink)
            ax.tick_params("y", labelleft=index % columns == 0)
        for ax in axes[len(panels) :]:
            ax.remove()
        _add_legend(figure, panels, control, whole_pool, theme)
    return figure


def _panels(methods: Mapping[str, PlottedMethod], primary: str, lower_is_better: Collection[str]) -> list[_Panel]:
    panels = []
    if any(len(finite(method.values)) for method in methods.values()):
        rows = {name: _Row(method.values, method.interval) for name, method in methods.items()}
        panels.append(_Panel(primary, rows, primary in lower_is_better))
    for task in dict.fromkeys(task for method in methods.values() for task in method.tasks):
        rows = {
            name: _Row(method.tasks.get(task, ()), method.task_intervals.get(task)) for name, method in methods.items()
        }
        if any(len(finite(row.values)) for row in rows.values()):
            panels.append(_Panel(task, rows, task in lower_is_better))
    if not panels:
        raise ConfigError("plot_forest: no method has a result.")
    return panels


def _columns(panels: int) -> int:
    return {1: 1, 2: 2, 4: 2}.get(panels, 3)


def _draw_panel(ax: Axes, panel: _Panel, names: list[str], whole_pool: str | None, theme: Theme) -> None:
    control = finite(panel.rows[names[0]].values)
    mean = float(control.mean()) if len(control) else None
    if mean is not None:
        ax.axvspan(control.min(), control.max(), color=theme.faint, linewidth=0, zorder=0)
        ax.axvline(mean, color=theme.muted, linewidth=1.0, zorder=1)
    if whole_pool is not None and len(pool := finite(panel.rows[whole_pool].values)):
        ax.axvline(pool.mean(), color=theme.others[1], linewidth=1.3, linestyle=(0, (4, 2)), zorder=1)
    limits = [control]
    for index, name in enumerate(names):
        row = panel.rows[name]
        runs = finite(row.values)
        interval = row.interval if index and mean is not None and len(runs) else None
        color, marker = _style(interval, panel.lower_is_better, theme) if index else (theme.ink, "s")
        if interval is not None and mean is not None:
            low, high = mean + interval[0], mean + interval[1]
            ax.plot([low, high], [index, index], color=color, linewidth=5, alpha=0.4, solid_capstyle="butt", zorder=2)
            limits.append(np.array([low, high]))
        if len(runs):
            ax.scatter(
                runs,
                [index] * len(runs),
                s=20,
                color=color,
                marker=marker,
                linewidth=0.5,
                edgecolor=theme.background,
                zorder=3,
            )
        else:
            ax.text(0.02, index, "no run", transform=ax.get_yaxis_transform(), va="center", color=theme.muted, size=8)
        limits.append(runs)
    _layout(ax, np.concatenate(limits), len(names))
    ax.set_xlabel(
        "← better" if panel.lower_is_better else "better →", loc="left" if panel.lower_is_better else "right"
    )


def _layout(ax: Axes, values: np.ndarray, rows: int) -> None:
    center, half = (values.max() + values.min()) / 2, (values.max() - values.min()) / 2
    half = (1 + 2 * _MARGIN) * max(half, 0.005 * abs(center), 1e-6)
    ax.set_xlim(center - half, center + half)
    ax.set_ylim(rows - 0.5, -0.5)
    ax.locator_params("x", nbins=4)
    ax.tick_params("x", labelsize=8.5)
    ax.spines["left"].set_visible(False)


def _style(interval: tuple[float, float] | None, lower_is_better: bool, theme: Theme) -> tuple[str, str]:
    """Return colour and marker of a method: not compared, not known to differ, better or worse."""
    if interval is None:
        return theme.muted, "D"
    if interval[0] <= 0 <= interval[1]:
        return theme.muted, "o"
    is_better = (interval[0] > 0) != lower_is_better
    return (theme.selected, "^") if is_better else (theme.others[0], "v")


def _add_legend(figure: Figure, panels: list[_Panel], control: str, whole_pool: str | None, theme: Theme) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    name = drawable(control, 16)
    rows = [(row, panel) for panel in panels for other, row in panel.rows.items() if other != control]
    styles = {_style(row.interval, panel.lower_is_better, theme) for row, panel in rows if len(finite(row.values))}
    words = {"v": f"worse than {name}", "^": f"better than {name}", "o": "no difference seen", "D": "not compared"}
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", markersize=5, label=words[marker])
        for color, marker in sorted(styles, key=lambda style: list(words).index(style[1]))
    ]
    if any(row.interval for row, _ in rows):
        handles.append(Line2D([], [], color=theme.muted, linewidth=5, alpha=0.4, label="interval of the difference"))
    lines: list[Artist] = [Patch(color=theme.faint, label=legend_label(f"runs of {name}; line: their mean"))]
    if whole_pool is not None:
        dashes = (0, (4, 2))
        label = legend_label(f"mean of {drawable(whole_pool, 16)}")
        lines.append(Line2D([], [], color=theme.others[1], linewidth=1.3, linestyle=dashes, label=label))
    figure.legend(
        handles=[*handles, *lines],
        loc="outside lower left",
        ncols=3,
        fontsize=8.5,
        handlelength=1.6,
        borderaxespad=0.6,
    )
