"""The two plots of an experiment: every run with the intervals of the methods, and results against compute."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.analysis.plots import PlottedMethod, plot_cost, plot_forest
from hf_datasel.errors import EvaluationError
from hf_datasel.evaluation._checks import is_constant
from hf_datasel.evaluation.methods import CONTROL, EQUAL_COST, UNTRAINED
from hf_datasel.evaluation.report import whole_pool
from hf_datasel.evaluation.statistics import compare_with_control
from hf_datasel.evaluation.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hf_datasel.evaluation.experiment_results import ExperimentResults

__all__ = ["draw_cost", "draw_forest", "write_plots"]


def draw_forest(results: ExperimentResults, dark: bool = False) -> Figure:
    """Draw the forest plot; see `ExperimentResults.plot`."""
    _check(results)
    lower = [] if results.higher_is_better else [results.primary]
    lower += [name for name in results.names if not _task_of(results, name).higher_is_better]
    return plot_forest(
        _plotted(results),
        control=CONTROL,
        whole_pool=whole_pool(results),
        primary=results.primary,
        lower_is_better=set(lower),
        dark=dark,
    )


def draw_cost(results: ExperimentResults, dark: bool = False) -> Figure:
    """Draw results against compute; see `ExperimentResults.plot_cost`."""
    _check(results)
    methods = _plotted(results)
    return plot_cost(
        methods,
        control=CONTROL,
        cost_matched=[EQUAL_COST] if EQUAL_COST in methods else [],
        primary=results.primary,
        lower_is_better=not results.higher_is_better,
        dark=dark,
    )


def write_plots(results: ExperimentResults, folder: Path) -> list[Path]:
    """Write `forest.png` and, if costs are known, `cost.png`; neither without matplotlib or runs on random rows.

    Args:
        results: Results of the experiment.
        folder: Folder to write to.

    Returns:
        The files.
    """
    if importlib.util.find_spec("matplotlib") is None or not _has_control(results):
        return []
    draws = {"forest.png": draw_forest}
    if _plotted(results)[CONTROL].costs:
        draws["cost.png"] = draw_cost
    for name, draw in draws.items():
        draw(results).savefig(folder / name, dpi=150)
    return [folder / name for name in draws]


def _check(results: ExperimentResults) -> None:
    if not _has_control(results):
        raise EvaluationError("No run on random rows has finished, so that there is nothing to compare with.")


def _has_control(results: ExperimentResults) -> bool:
    return CONTROL in results.methods and bool(results.values(CONTROL))


def _task_of(results: ExperimentResults, name: str) -> Task:
    by_name = {task.name: task for task in results.tasks}
    return by_name.get(name) or by_name[name.split("/")[0]]


def _plotted(results: ExperimentResults) -> dict[str, PlottedMethod]:
    names = [name for name in results.names if name != results.primary]
    methods = [name for name in results.methods if name != UNTRAINED]
    primary, others = _intervals(results, results.primary), {name: _intervals(results, name) for name in names}
    return {
        method: PlottedMethod(
            results.values(method),
            {name: results.values(method, name) for name in names},
            primary.get(method),
            {name: others[name][method] for name in names if method in others[name]},
            _flops(results, method),
        )
        for method in methods
    }


def _intervals(results: ExperimentResults, name: str) -> dict[str, tuple[float, float]]:
    """Return the simultaneous interval of each method that can be compared; none if no run differs from another."""
    values = {method: results.values(method, name) for method in results.methods if method != UNTRAINED}
    control = values.pop(CONTROL, [])
    compared = {method: runs for method, runs in values.items() if len(runs) > 1}
    if not compared or len(control) < 2 or all(is_constant(np.array(runs)) for runs in [*compared.values(), control]):
        return {}
    differences = compare_with_control(compared, control)
    return {method: (entry["low"], entry["high"]) for method, entry in differences.items()}


def _flops(results: ExperimentResults, method: str) -> list[float]:
    runs = [run for run in results.runs_of(method) if run.state == "finished"]
    costs = [run.cost for run in runs if run.cost]
    if len(costs) < len(runs):
        return []
    return [cost["selecting"]["flops"] + cost["training"]["flops"] for cost in costs]
