"""Plot of the results of an experiment against the cost of its runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from hf_datasel.analysis.plots.lines import line_style
from hf_datasel.analysis.plots.runs import PlottedMethod, check_methods
from hf_datasel.analysis.plots.theme import Theme, add_caption, canvas, drawable, log_axis
from hf_datasel.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

__all__ = ["plot_cost"]

_MARKER = 5.0  # points, half of a marker and its margin
_DISTANCES = (7, 14, 22, 32, 44, 58, 74, 92, 112, 134)  # points from a marker to its name
_LEADER = 12  # points from which a line connects them
_MIN_RANGE = 0.7  # of the axis of costs, natural logarithm
_MAX_IN_CAPTION = 3  # methods that the caption names

Points = dict[str, npt.NDArray[np.float64]]
"""Method -> cost relative to the control's and result of each run, float64 of shape (runs, 2)."""


class _Place(NamedTuple):
    """Offset of a name from its marker in points, its alignment, and its distance."""

    x: float
    y: float
    alignment: Literal["left", "center", "right"]
    distance: float


def plot_cost(
    methods: Mapping[str, PlottedMethod],
    *,
    control: str = "random",
    cost_matched: Collection[str] = (),
    primary: str = "average",
    lower_is_better: bool = False,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """Draw the primary result of each run against its cost relative to the control's, on a logarithmic axis.

    Small dots are runs, large markers the means of methods. Selecting is worth its cost where a method lies on the
    better side of the line, which connects the control with its cost-matched runs.

    Args:
        methods: Results by name of the method, with `costs`.
        control: Name of the method whose mean cost is 1.
        cost_matched: Names of the methods that train on the control's rows for longer, at a higher cost.
        primary: Name of the primary result, for the axis.
        lower_is_better: Whether lower values of the primary result are better.
        title: Title of the figure.
        dark: Whether to draw for a dark page.

    Returns:
        The figure. A caption names the methods that have no cost, or no run.

    Raises:
        ConfigError: `control` or a cost-matched method is unknown, or the control has no run with a cost; or costs
            are not positive, or not as many as results.
        DataselError: matplotlib is not installed.
    """
    check_methods("plot_cost", methods, control, *cost_matched)
    points, missing = _points(methods, control)
    with canvas("plot_cost", title, dark, 4.0) as (figure, theme):
        ax = figure.subplots()
        _layout(ax, points, primary, lower_is_better)
        ax.set_xlabel(f"cost of selecting and training (operations), {drawable(control, 24)} = 1", loc="left")
        line = _line(points, (control, *cost_matched))
        ax.plot(*line.T, color=theme.muted, linewidth=1.2, linestyle=(0, (4, 2)), zorder=1)
        for index, (name, runs) in enumerate(points.items()):
            style = _style(index, name in (control, *cost_matched), theme)
            zorder = 3.5 if name == control else 3.0
            mean = runs.mean(axis=0)
            ax.scatter(runs[:, 0], runs[:, 1], s=11, alpha=0.55, linewidth=0, zorder=2, **style)
            ax.scatter(mean[0], mean[1], s=52, edgecolor=theme.background, linewidth=0.8, zorder=zorder, **style)
        if missing:
            add_caption(figure, f"No cost recorded: {_listed(missing)}", theme)
        figure.draw_without_rendering()  # computes the positions that names are placed by
        _add_names(ax, points, line, (control, *cost_matched), theme)
    return figure


def _points(methods: Mapping[str, PlottedMethod], control: str) -> tuple[Points, list[str]]:
    """Return the runs with a cost, and the names of the methods without any."""
    points: Points = {}
    for name, method in methods.items():
        values, costs = (np.asarray(runs, dtype=np.float64) for runs in (method.values, method.costs))
        if len(costs) and len(costs) != len(values):
            raise ConfigError(f"plot_cost: {name!r} has {len(values)} results and {len(costs)} costs.")
        pairs = np.column_stack([costs, values]) if len(costs) else np.empty((0, 2))
        pairs = pairs[np.isfinite(pairs).all(axis=1)]
        if (pairs[:, 0] <= 0).any():
            raise ConfigError(f"plot_cost: {name!r} has a run that costs {pairs[:, 0].min():g}, not more than 0.")
        if len(pairs):
            points[name] = pairs
    if control not in points:
        raise ConfigError(f"plot_cost: the control {control!r} has no run with a cost.")
    unit = points[control][:, 0].mean()
    for pairs in points.values():
        pairs[:, 0] /= unit
    return points, [name for name in methods if name not in points]


def _line(points: Points, controls: Collection[str]) -> npt.NDArray[np.float64]:
    """Return the means of the control and its cost-matched runs by rising cost, float64 of shape (methods, 2)."""
    means = np.array([points[name].mean(axis=0) for name in controls if name in points])
    return means[np.argsort(means[:, 0])]


def _style(index: int, is_control: bool, theme: Theme) -> dict[str, Any]:
    if is_control:
        return {"color": theme.ink, "marker": "X"}
    style = line_style(index, theme)
    return {"color": style["color"], "marker": style["marker"]}


def _layout(ax: Axes, points: Points, primary: str, lower_is_better: bool) -> None:
    costs, values = np.concatenate(list(points.values())).T
    low, high = np.log(costs.min()), np.log(costs.max())
    half = 0.62 * max(high - low, _MIN_RANGE)
    low, high = np.exp([(low + high) / 2 - half, (low + high) / 2 + half])
    log_axis(ax, ax.xaxis, low, high)
    ax.set_xlim(low, high)
    pad = 0.12 * max(float(np.ptp(values)), 0.01 * abs(float(values.mean())), 1e-6)
    ax.set_ylim(values.min() - pad, values.max() + pad)
    ax.set_ylabel(f"{drawable(primary, 24)} ({'lower' if lower_is_better else 'higher'} is better)")


def _listed(names: list[str]) -> str:
    shown = ", ".join(drawable(name, 20) for name in names[:_MAX_IN_CAPTION])
    return shown + (f" and {len(names) - _MAX_IN_CAPTION} more" if len(names) > _MAX_IN_CAPTION else "")


def _add_names(
    ax: Axes, points: Points, line: npt.NDArray[np.float64], controls: Collection[str], theme: Theme
) -> None:
    """Write the name of each method next to its mean, where it covers no name and no mean, and rather no run."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    scale = ax.figure.dpi / 72
    means = {name: ax.transData.transform(runs.mean(axis=0)) for name, runs in points.items()}
    seen = [ax.transData.transform(runs) for runs in points.values()]
    ends = ax.transData.transform(line)
    seen += [start + (end - start) * np.linspace(0, 1, 60)[:, None] for start, end in pairwise(ends)]
    runs_at = np.concatenate(seen)
    obstacles = [Bbox.from_bounds(*(mean - _MARKER * scale), *[2 * _MARKER * scale] * 2) for mean in means.values()]
    for index, name in enumerate(points):
        color = _style(index, name in controls, theme)["color"]
        label = ax.annotate(
            drawable(name, 26),
            points[name].mean(axis=0),
            (0, 0),
            textcoords="offset points",
            color=color,
            size=9,
            zorder=4,
            path_effects=[withStroke(linewidth=2.5, foreground=theme.background)],  # readable on the lines to names
        )
        label.set_in_layout(False)
        label.set_verticalalignment("center")

        def box_at(place: _Place, label: Annotation = label) -> Bbox:
            label.set_horizontalalignment(place.alignment)
            label.xyann = (place.x, place.y)
            return label.get_window_extent()

        place = min(_places(), key=lambda place: _penalty(box_at(place), place, obstacles, runs_at, ax.bbox))
        box = box_at(place)
        obstacles.append(box)
        if place.distance > _LEADER:
            start, end = ax.transData.inverted().transform([means[name], np.clip(means[name], box.min, box.max)])
            ax.plot(*zip(start, end, strict=True), color=color, linewidth=0.6, zorder=1.5)


def _places() -> Iterator[_Place]:
    """Yield the places of a name around its marker, near ones first."""
    for distance in _DISTANCES:
        for angle in (0, 180, 90, 270, 45, 315, 135, 225, 22, 338, 158, 202):
            x, y = (distance * float(f(np.radians(angle))) for f in (np.cos, np.sin))
            yield _Place(x, 1.2 * y, "center" if angle in (90, 270) else "left" if x > 0 else "right", distance)


def _penalty(box: Bbox, place: _Place, obstacles: list[Bbox], runs: npt.NDArray[np.float64], area: Bbox) -> float:
    """Return how bad a place is: names and means must not be covered, runs rather not, and near ones are better."""
    covered = sum(box.overlaps(other) for other in obstacles)
    outside = not (area.x0 <= box.x0 and box.x1 <= area.x1 and area.y0 <= box.y0 and box.y1 <= area.y1)
    inside = ((runs >= box.min) & (runs <= box.max)).all(axis=1).sum()
    return 10.0 * covered + 20.0 * outside + 0.2 * float(inside) + 0.001 * place.distance
