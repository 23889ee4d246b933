"""Read the results of the runs of an experiment, and refuse those that cannot be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_datasel.errors import EvaluationError
from hf_datasel.evaluation.cells import Cell, slug
from hf_datasel.evaluation.experiment_results import ExperimentResults, RunResult
from hf_datasel.evaluation.prepared import changed_values, plain_settings, read_record
from hf_datasel.evaluation.task import Task

if TYPE_CHECKING:
    from hf_datasel.evaluation.experiment import Experiment

__all__ = ["gather"]


def gather(experiment: Experiment) -> ExperimentResults:
    """Return the results of the runs that have finished; see `Experiment.gather`."""
    record = read_record(experiment.folder)
    config = plain_settings(vars(experiment))
    if changes := changed_values(record["config"], config, ignored=("output_dir",)):
        raise EvaluationError(
            f"{str(experiment.folder)!r} was begun with other settings: {'; '.join(changes)}. Run the experiment "
            "again, which does what is missing, and then gather."
        )
    tasks = tuple(experiment.tasks())
    names = [task.name for task in tasks]
    if list(record["tasks"]) != names:
        raise EvaluationError(
            f"{str(experiment.folder)!r} was evaluated on {', '.join(record['tasks'])}, and the experiment has the "
            f"tasks {', '.join(names)}. Run it again, which evaluates what is missing, and then gather."
        )
    cells = cells_of(experiment, record)
    for cell in cells:
        _check_comparable(cell, tasks, record)
    runs = tuple(_run_result(cell, tasks, record["tasks"], experiment.folder) for cell in cells)
    return ExperimentResults(experiment, tasks, record, runs)


def cells_of(experiment: Experiment, record: Mapping[str, Any]) -> list[Cell]:
    """Return the runs that the record of an experiment lists."""
    return [
        Cell(
            entry["method"],
            entry["seed"],
            experiment.folder / "cells" / entry["folder"],
            entry["keys"],
            {"model_name_or_path": experiment.model_name_or_path},
        )
        for entry in record["cells"]
    ]


def _check_comparable(cell: Cell, tasks: Sequence[Task], record: Mapping[str, Any]) -> None:
    """Raise if a run was trained with other versions, or evaluated with other settings only."""
    versions = (cell.trained or {}).get("versions", record["versions"])
    if changes := changed_values(record["versions"], versions):
        raise EvaluationError(
            f"{cell.folder.name} was trained with other versions than the experiment was begun with: "
            f"{'; '.join(changes)}. Delete its folder and run it again, or use another output_dir."
        )
    for task in tasks:
        identity = record["tasks"][task.name]
        others = sorted((cell.folder / "evaluations").glob(f"{slug(task.name)}-????????.parquet"))
        if others and cell.results(task.name, identity) is None:
            before = task.results_type.load(others[0]).settings.get("task", {})
            raise EvaluationError(
                f"{cell.folder.name} was evaluated on {task.name} with other settings than the experiment has: "
                f"{'; '.join(changed_values(before, identity))}. Run the experiment again, which evaluates it again."
            )


def _run_result(cell: Cell, tasks: Sequence[Task], identities: Mapping[str, Any], folder: Path) -> RunResult:
    state = cell.state(identities)
    numbers: dict[str, float] = {}
    files: dict[str, str] = {}
    items: dict[str, int] = {}
    without_value: dict[str, dict[str, int]] = {}
    if state == "finished":
        for task in tasks:
            file = cell.results(task.name, identities[task.name])
            assert file is not None
            results = task.results_type.load(file)
            files[task.name] = str(file.relative_to(folder))
            numbers |= task.numbers(results)
            items[task.name] = int((results.reasons == "").sum())
            without_value[task.name] = results.without_value
    trained = cell.trained or {}
    failure = cell.failure if state == "failed" else None
    return RunResult(
        cell.method,
        cell.seed,
        state,
        str(cell.folder.relative_to(folder)),
        numbers,
        items,
        trained.get("steps"),
        trained.get("cost"),
        files,
        f"`hf-datasel {failure['command']}` ended with exit code {failure['exit_code']}: {failure['log']}"
        if failure
        else "",
        cell.keys,
        without_value,
    )
