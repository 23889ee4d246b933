"""What an experiment says, in words: the table of its results and what follows from them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import EvaluationError
from hf_datasel.evaluation.item_statistics import crossed_bootstrap, variance_components
from hf_datasel.evaluation.methods import CONTROL, EQUAL_COST, UNTRAINED, configured_methods, training_config
from hf_datasel.evaluation.prepared import changed_values, plain_settings
from hf_datasel.evaluation.statistics import compare_with_control, non_inferiority
from hf_datasel.evaluation.tables import MethodRuns, results_table
from hf_datasel.evaluation.weight_search import describe_searches
from hf_datasel.hub.markdown import code, text
from hf_datasel.training.schedule import rows_per_round

if TYPE_CHECKING:
    from hf_datasel.evaluation.experiment_results import ExperimentResults, RunResult

__all__ = ["method_runs", "to_markdown", "whole_pool"]


_DIGEST = re.compile("[0-9a-f]{32,}")
_LONGEST = 4_000
"""Number of characters after which settings are cut."""
_NOT_TRAINING = ("selector", "selector_kwargs", "columns", "report_to")


def method_runs(results: ExperimentResults) -> dict[str, MethodRuns]:
    """Return the rows of the table.

    Args:
        results: Results of the experiment.
    """
    columns = [name for name in results.names if name != results.primary]
    return {method: _runs(results, method, columns) for method in results.methods}


def _runs(results: ExperimentResults, method: str, columns: Sequence[str]) -> MethodRuns:
    runs = results.runs_of(method)
    finished = [run for run in runs if run.state == "finished"]
    settings = runs[0].settings
    rows, epochs, steps = _size(results, method, finished, settings)
    return MethodRuns(
        results.values(method),
        {name: values for name in columns if (values := results.values(method, name))},
        rows,
        epochs,
        steps,
        len(runs),
        _mean_cost(finished, ("selecting",), "device_seconds"),
        _mean_cost(finished, ("training",), "device_seconds"),
        _mean_cost(finished, ("selecting", "training"), "flops"),
        method == UNTRAINED,
    )


def _size(
    results: ExperimentResults, method: str, finished: Sequence[RunResult], settings: Mapping[str, Any]
) -> tuple[int | None, float | None, int | None]:
    """Return rows of a round, epochs and steps of the runs of a method."""
    if not settings:
        return None, None, None
    config = training_config({key: value for key, value in settings.items() if key not in _NOT_TRAINING})
    own = _own_rows(results).get(method)
    pool = results.record["pool"] if own is None else results.record["datasets"][own]
    excluded = (pool.get("contaminated") or {}).get("rows", 0)
    is_all = settings["selector"] == "all"  # whatever size the config names
    rows = pool["rows"] - excluded if is_all else rows_per_round(config, pool["rows"])
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps * results.experiment.num_processes
    steps = {run.steps for run in finished if run.steps}
    if config.max_steps > 0:
        return rows, round(config.max_steps * batch / rows, 2), max(steps, default=None)
    return rows, config.num_train_epochs, max(steps, default=None)


def _mean_cost(runs: Sequence[RunResult], phases: Sequence[str], key: str) -> float | None:
    costs = [run.cost for run in runs if run.cost]
    if not costs or len(costs) < len(runs):
        return None
    return float(np.mean([sum(cost[phase][key] for phase in phases if cost.get(phase)) for cost in costs]))


def whole_pool(results: ExperimentResults) -> str | None:
    """Return the name of the method that trains on the whole pool, or None.

    Args:
        results: Results of the experiment.
    """
    own = _own_rows(results)
    trained_on_all = (run.method for run in results.runs if run.settings.get("selector") == "all")
    return next((method for method in trained_on_all if method not in own), None)


def _own_rows(results: ExperimentResults) -> dict[str, str]:
    """Return the datasets of the methods that train on rows of their own instead of the pool."""
    methods = configured_methods(results.experiment.methods)
    return {name: settings["dataset_name"] for name, settings in methods.items() if settings.get("dataset_name")}


def to_markdown(results: ExperimentResults) -> str:
    """Write the results of an experiment as Markdown.

    Args:
        results: Results of the experiment.
    """
    methods = method_runs(results)
    unit = "points" if results.higher_is_better else "bits per byte"
    decimals = 2 if results.higher_is_better else 4
    parts = [_planned(results)]
    if CONTROL in methods:
        parts.append(
            results_table(
                methods,
                items=results.items,
                control=CONTROL,
                primary=f"{results.primary}, {unit}",
                higher_is_better=results.higher_is_better,
                decimals=decimals,
            )
        )
    else:
        parts.append("Without runs on random rows nothing can be said of a method: add random to baselines.")
    parts += [_further(results, decimals), _models(results), _missing(results)]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _planned(results: ExperimentResults) -> str:
    runs = [run for run in results.runs if run.settings]
    finished = sum(run.state == "finished" for run in runs)
    pool = results.record["pool"]
    line = f"{len(runs)} runs planned, {finished} finished. Pool: {pool['rows']:,} rows."
    excluded = pool.get("contaminated")
    line += (
        " Rows that repeat items of the tasks were not looked for." if excluded is None else f" {excluded['summary']}"
    )
    if finished < len(runs):
        line += (
            " The intervals hold if the number of runs does not depend on results: do not stop, or add seeds, because"
            " of these."
        )
    return line


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _further(results: ExperimentResults, decimals: int) -> str:
    """Return what is said beside the differences: other questions, the whole pool, and where the noise is."""
    lines = []
    if changes := _changed_afterwards(results):
        lines.append(
            f"Changed after the first run had been trained: {text('; '.join(changes), _LONGEST)}. If results were a"
            " reason for that, intervals and p values are too optimistic."
        )
    control = results.values(CONTROL) if CONTROL in results.methods else []
    compared = [
        name
        for name in results.methods
        if name not in (CONTROL, UNTRAINED) and min(len(results.values(name)), len(control)) >= 2
    ]
    lines += describe_searches(results, decimals)
    lines += _non_inferior(results, decimals) + _equal_cost(results, compared, decimals)
    if compared and results.primary != "average":
        lines += _other_items(results, compared, decimals)
    return "\n".join(f"- {line}" for line in lines)


def _changed_afterwards(results: ExperimentResults) -> list[str]:
    """Return what decides, by which margin and number of runs, if it is not what was named before the first run."""
    before = results.record.get("before_runs", {})
    return changed_values(before, {name: plain_settings(getattr(results.experiment, name)) for name in before})


def _non_inferior(results: ExperimentResults, decimals: int) -> list[str]:
    """Return which methods are shown to be as good as the whole pool, if there is a margin and enough runs."""
    pool, margin = whole_pool(results), results.experiment.margin
    sign = 1 if results.higher_is_better else -1
    values = {
        name: [sign * value for value in results.values(name)]
        for name in results.methods
        if name != UNTRAINED and len(results.values(name)) > 1
    }
    if pool is None or margin is None or pool not in values or len(values) < 2:
        return []
    whole = values.pop(pool)
    try:
        differences = non_inferiority(values, whole, margin=margin)
    except EvaluationError as error:
        return [str(error)]
    passed = [name for name, entry in differences.items() if entry["non_inferior"]]
    named = ", ".join(map(text, passed)) or "no method"
    is_named = not any(change.startswith(("margin ", "primary ")) for change in _changed_afterwards(results))
    when = "named before" if is_named else "not named before"
    steps = ", trained for as many updates," if "steps" in results.experiment.equal else ""
    losses = {name: (entry["difference"], entry["low"], entry["high"]) for name, entry in differences.items()}
    if sign < 0:
        losses = {name: (-difference, -high, -low) for name, (difference, low, high) in losses.items()}
    end = "-" if sign > 0 else "+"
    return [
        f"As good as the whole pool{steps} up to a margin of {margin:g}, which was {when} the runs: {named}. Of the"
        " others this is not shown, which does not mean that they are worse. Differences to the whole pool (95 % for"
        f" all {len(losses)} at once; as good: the interval lies on the better side of {end}{margin:g}):"
        f" {_intervals(losses, decimals)}."
    ]


def _equal_cost(results: ExperimentResults, compared: Sequence[str], decimals: int) -> list[str]:
    """Return the differences to random rows that are trained on for the compute of the dearest method."""
    methods = {name: results.values(name) for name in compared if name != EQUAL_COST}
    if EQUAL_COST not in compared or not methods:
        return []
    try:
        differences = compare_with_control(methods, results.values(EQUAL_COST))
    except EvaluationError as error:
        return [str(error)]
    intervals = {name: (entry["difference"], entry["low"], entry["high"]) for name, entry in differences.items()}
    return [
        f"Differences to {EQUAL_COST}, which has the compute of the dearest method (95 % for all {len(methods)} at"
        f" once): {_intervals(intervals, decimals)}."
    ]


def _intervals(differences: Mapping[str, tuple[float, float, float]], decimals: int) -> str:
    return ", ".join(
        f"{text(name)} {difference:+.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"
        for name, (difference, low, high) in differences.items()
    )


def _other_items(results: ExperimentResults, compared: Sequence[str], decimals: int) -> list[str]:
    task = next(task for task in results.tasks if task.name == results.primary)
    items = {name: results.item_values(name, task.name) for name in [CONTROL, *compared]}
    with_value = ~np.isnan(np.concatenate(list(items.values()))).any(axis=0)
    values = {name: entry[:, with_value] * task.scale for name, entry in items.items()}
    try:
        differences = crossed_bootstrap({name: values[name] for name in compared}, values[CONTROL])
        parts = variance_components(values[CONTROL])
    except EvaluationError as error:
        return [str(error)]
    intervals = {name: (entry["difference"], entry["low"], entry["high"]) for name, entry in differences.items()}
    without = int((~with_value).sum())
    left_out = f", without the {without:,} that have no value in some run" if without else ""
    return [
        f"For other items of {text(task.name)} of the same kind too (crossed bootstrap of runs and items, 95 % for one"
        f" method at a time, mean over items{left_out}): {_intervals(intervals, decimals)}.",
        f"Where the numbers of Random spread (standard deviations): runs {parts['run']:.{decimals}f}, items"
        f" {parts['item']:.{decimals}f}, runs x items {parts['run_x_item']:.{decimals}f}.",
    ]


def _models(results: ExperimentResults) -> str:
    """Return what was trained and evaluated, and with what."""
    record, experiment = results.record, results.experiment
    lines = [f"Model: {code(experiment.model_name_or_path)}. Pool: {code(experiment.dataset_name)}."]
    own = {
        name: settings["train"]
        for name, settings in configured_methods(experiment.methods).items()
        if {"selector", "dataset_name"} & set(settings) and settings.get("train")
    }
    all_but = f" but {', '.join(map(text, own))}" if own else ""
    lines.append(f"Training, the same for all methods{all_but}: {_listed(plain_settings(experiment.train))}.")
    lines += [f"Training of {text(name)} differs: {_listed(plain_settings(train))}." for name, train in own.items()]
    for task in results.tasks:
        lines.append(f"Task {text(task.name)}: {_listed(record['tasks'][task.name])}.")
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines.append(f"Versions: {versions}.")
    return "\n".join(f"- {line}" for line in lines)


def _listed(settings: Mapping[str, Any]) -> str:
    """Return settings that are set, as text; ids and digests by their first digits."""
    parts = []
    for name, value in settings.items():
        if value not in (None, "", {}, []):
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            parts.append(f"{name} {shown[:12] if _DIGEST.fullmatch(shown) else shown}")
    return text(", ".join(parts) or "nothing is set", _LONGEST)


def _missing(results: ExperimentResults) -> str:
    """Return the items that have no value, and a list of all runs without results."""
    parts = [_without_value(results)]
    lines = []
    for run in results.runs:
        if run.state != "finished":
            why = f": {text(run.error.splitlines()[-1] if run.error else '')}" if run.state == "failed" else ""
            lines.append(f"{text(run.method)}, seed {run.seed}: {run.state}{why} ({code(run.folder)})")
    if "cost" in results.experiment.equal and EQUAL_COST not in results.methods:
        lines.append(
            f"{EQUAL_COST}: not begun. Run the experiment again when all others have finished; no run is needed if no "
            "method costs more than random"
        )
    if lines:
        parts.append("Runs without results:\n\n" + "\n".join(f"- {line}" for line in lines))
    if any(run.state == "failed" for run in results.runs):
        parts.append(
            "Means and intervals leave them out. They mislead if a run failed because of the rows that it was trained"
            " on, as with a loss that diverges."
        )
    return "\n\n".join(part for part in parts if part)


def _without_value(results: ExperimentResults) -> str:
    """Return the tasks with items that no mean includes, as a list: how many in which runs, and why."""
    lines = []
    for task in results.tasks:
        counts = {run.items[task.name] for run in results.runs if task.name in run.items}
        runs = [run.without_value[task.name] for run in results.runs if task.name in run.without_value]
        reasons = sorted({reason for run in runs for reason in run})
        shown = [_range([run.get(reason, 0) for run in runs]) + f" {reason}" for reason in reasons]
        if len(counts) > 1:
            others = f" The others: {text(', '.join(shown))}." if shown else ""
            lines.append(
                f"{text(task.name)}: {min(counts):,} to {max(counts):,} items have a value, depending on the run, so"
                f" that means are not over the same items.{others}"
            )
        elif shown:
            lines.append(f"{text(task.name)}: no mean includes the items without a value: {text(', '.join(shown))}.")
    return "\n".join(f"- {line}" for line in lines)
