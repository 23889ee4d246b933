"""Results of an experiment as a dataset card and a model card take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.cards.facts import Result
from hf_datasel.cards.results import check_results
from hf_datasel.errors import EvaluationError
from hf_datasel.evaluation.methods import CONTROL, EQUAL_COST, UNTRAINED
from hf_datasel.evaluation.report import whole_pool
from hf_datasel.evaluation.statistics import (
    Difference,
    compare_with_control,
    minimum_detectable_effect,
    pooled_sd,
)
from hf_datasel.evaluation.task import Task
from hf_datasel.evaluation.weight_search import num_tried

if TYPE_CHECKING:
    from hf_datasel.evaluation.experiment_results import ExperimentResults, RunResult

__all__ = ["card_results"]

_TRAINED_ON = {
    CONTROL: "random rows",
    UNTRAINED: "the untrained model",
    EQUAL_COST: "random rows, at equal cost",
}


def card_results(results: ExperimentResults, method: str) -> list[Result]:
    """Return the results of a method's rows, followed by those of Random, the whole pool and the untrained model.

    The intervals are simultaneous over all methods of the experiment, not only over those on the card.

    Args:
        results: Results of the experiment.
        method: Name of the method.
    """
    results.runs_of(method)  # raises for an unknown name
    others = [CONTROL, EQUAL_COST, whole_pool(results), UNTRAINED]
    shown = list(dict.fromkeys([method, *(name for name in others if name in results.methods)]))
    names = [*([results.primary] if results.primary == "average" else []), *results.names]
    shown_results = [
        _result(results, name, number, name == method)
        for number in names
        for name in shown
        if name is not None and results.values(name, number)
    ]
    return check_results(shown_results, str(results.experiment.folder))


def _result(results: ExperimentResults, method: str, name: str, is_own: bool) -> dict[str, Any]:
    values = results.values(method, name)
    task = _task(results, name)
    runs = results.runs_of(method)
    trained_on = "this selection" if is_own else _TRAINED_ON.get(method, "the whole pool")
    result: dict[str, Any] = {
        "trained_on": trained_on,
        "metric": task.metric if name != "average" else "average",
        "dataset": name if name != "average" else ", ".join(entry.name for entry in results.tasks),
        "value": float(np.mean(values)),
        "note": "",
        "higher_is_better": task.higher_is_better,
        **_items(results, runs, name),
    }
    if method != UNTRAINED:
        result |= {"runs": len(values), "planned": len(runs), "values": values}
    if name == results.primary and method == whole_pool(results) and "steps" in results.experiment.equal:
        result["note"] = f"trained for as many updates as the other rows{_updates(runs)}, not for as many epochs"
    if is_own and name == results.primary and len(values) > 1:
        result["note"] = (
            f"mean of {len(values)} runs of the method, which selects and trains with the seed of the run; this "
            "selection is that of one of them"
        )
    if is_own and (tried := num_tried(results, method)):
        search = f"its weights are one of {tried} that were compared on these items, so that the best is too good"
        result["note"] = "; ".join(filter(None, (result["note"], search)))
    if len(values) > 1:
        result["sd"] = float(np.std(values, ddof=1))
    if name != "average":
        result |= {"task": _task_facts(results, task), "harness": _harness(results, task)}
    if cost := _mean_cost([run for run in runs if run.state == "finished"]):
        result["cost"] = cost
    if difference := _difference(results, method, name):
        result |= difference
    return result


def _updates(runs: Sequence[RunResult]) -> str:
    steps = sorted({run.steps for run in runs if run.steps})
    return f" ({steps[0]:,})" if len(steps) == 1 else ""


def _task(results: ExperimentResults, name: str) -> Task:
    by_name = {task.name: task for task in results.tasks}
    return by_name.get(name) or by_name.get(name.split("/")[0]) or results.tasks[0]


def _items(results: ExperimentResults, runs: Sequence[RunResult], name: str) -> dict[str, int]:
    finished = [run for run in runs if run.state == "finished"]
    counts = [sum(run.items.values()) if name == "average" else run.items.get(name, 0) for run in finished]
    return {"items": most} if (most := max(counts, default=0)) else {}


def _difference(results: ExperimentResults, method: str, name: str) -> dict[str, Any]:
    """Return the difference to Random, with its interval over all methods that are compared."""
    if method in (CONTROL, UNTRAINED) or CONTROL not in results.methods:
        return {}
    values = {entry: results.values(entry, name) for entry in results.methods if entry != UNTRAINED}
    compared = {entry: value for entry, value in values.items() if entry != CONTROL and len(value) > 1}
    if method not in compared or len(values[CONTROL]) < 2:
        return {}
    try:
        comparison: Difference = compare_with_control(compared, values[CONTROL])[method]
    except EvaluationError:  # no run differs from the others of its method: there is no interval
        return {}
    detectable = minimum_detectable_effect(
        pooled_sd({**compared, CONTROL: values[CONTROL]}),
        min(len(value) for value in compared.values()),
        control_runs=len(values[CONTROL]),
        methods=len(compared),
    )
    return {
        "versus": "random rows",
        "difference": comparison["difference"],
        "low": comparison["low"],
        "high": comparison["high"],
        "p": comparison["p"],
        "confidence": 0.95,
        "compared": len(compared),
        "detectable": detectable,
    }


def _task_facts(results: ExperimentResults, task: Task) -> dict[str, Any]:
    identity = results.record["tasks"][task.name]
    facts = {
        "name": task.name,
        "metric": task.metric,
        "version": identity.get("version"),
        "shots": identity.get("num_fewshot"),
        "filter": identity.get("filter"),
        "limit": identity.get("limit"),
        "template": identity.get("template"),
        "weighting": identity.get("weighting") if "harness" not in identity else None,
    }
    return {key: value for key, value in facts.items() if value is not None}


def _harness(results: ExperimentResults, task: Task) -> dict[str, str]:
    identity = results.record["tasks"][task.name]
    if "harness" in identity:
        return {"name": "lm_eval", "version": str(identity["harness"])}
    return {"name": "hf_datasel", "version": str(results.record["versions"]["hf-datasel"])}


def _mean_cost(runs: Sequence[RunResult]) -> dict[str, Any]:
    """Return the mean cost of each phase; nothing unless it is known of all runs."""
    costs = [run.cost for run in runs]
    if not costs or not all(costs):
        return {}
    return {phase: _mean([cost[phase] for cost in costs if cost]) for phase in costs[0] or {}}


def _mean(costs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    numbers = {
        key: float(np.mean([cost[key] for cost in costs]))
        for key, value in costs[0].items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    whole = {key: round(value) if key.startswith("tokens") else value for key, value in numbers.items()}
    peaks = [cost["peak_memory"] for cost in costs if cost.get("peak_memory") is not None]
    return {**costs[0], **whole, "peak_memory": max(peaks, default=None)}
