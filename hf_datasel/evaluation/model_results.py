"""Evaluate one model on a suite, and keep what was evaluated."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_datasel.errors import EvaluationError, reason_counts
from hf_datasel.evaluation.cells import result_file
from hf_datasel.evaluation.evaluated_model import EvaluatedModel
from hf_datasel.evaluation.row_results import RowResults
from hf_datasel.evaluation.suites import read_tasks
from hf_datasel.evaluation.task import Task
from hf_datasel.hub.markdown import table

__all__ = ["ModelResults", "evaluate_model"]


@dataclass(frozen=True)
class ModelResults:
    """Results of one model on the tasks of a suite.

    They say something about this model on these items, and nothing about the method that selected its training rows:
    another training run gives another model. `Experiment` compares methods.

    Args:
        model: Name or path of the model.
        tasks: The tasks.
        results: Results of each task by its name, one value per item.
    """

    model: str
    tasks: tuple[Task, ...]
    results: dict[str, RowResults]

    @property
    def numbers(self) -> dict[str, float]:
        """The number of each task, and of each group of items of a task, by name."""
        return {name: value for task in self.tasks for name, value in task.numbers(self.results[task.name]).items()}

    def to_markdown(self) -> str:
        """Return a table: task, metric, value (shares in points), what is better, items with a value, and without.

        The last column has the reasons, such as `not_finite` for a loss that is no finite number.
        """
        rows = []
        for entry in self.to_list():
            direction = "higher" if entry["higher_is_better"] else "lower"
            counts = (
                ("", "") if entry["group"] else (f"{entry['items']:,}", reason_counts(entry["without_value"]) or "0")
            )
            rows.append((entry["task"], entry["metric"], f"{entry['value']:.4g}", direction, *counts))
        return table(["task", "metric", "value", "better", "items", "without a value"], rows)

    def to_list(self) -> list[dict[str, Any]]:
        """Return plain JSON values: `task`, `metric`, `value`, `higher_is_better`, `items` and `without_value`.

        `items` is the number of items of the task that have a value, and `without_value` that of the others by reason.
        `group` is true for the number of a group of items of a task.
        """
        return [
            {
                "task": name,
                "metric": task.metric,
                "value": value,
                "higher_is_better": task.higher_is_better,
                "group": name != task.name,
                "items": int((self.results[task.name].reasons == "").sum()),
                "without_value": dict(self.results[task.name].without_value),
            }
            for task in self.tasks
            for name, value in task.numbers(self.results[task.name]).items()
        ]


def evaluate_model(
    model: str | os.PathLike[str],
    suite: str | Sequence[Any],
    *,
    tier: str = "full",
    output_dir: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    model_init_kwargs: dict[str, Any] | None = None,
    allow_code_execution: bool = False,
) -> ModelResults:
    """Evaluate a model on the tasks of a suite.

    Everything that the tasks need is checked before the first of them. With `output_dir` each task is saved when it is
    done, as a Parquet file with one row per item, and a task that was saved for the same weights with the same
    settings is read.

    Args:
        model: Name or path of the model, or of an adapter.
        suite: Name of a suite, or its tasks, as in `read_tasks`.
        tier: `"full"`, or `"quick"` for some items of some tasks.
        output_dir: Folder for the results.
        revision: Commit, branch or tag of a Hub model.
        dtype: Data type of the weights: "auto" or the name of a floating-point type.
        model_init_kwargs: Further arguments of `from_pretrained`.
        allow_code_execution: Whether programs that the model writes may be run on this machine.

    Raises:
        EvaluationError: A task needs something that is missing, or has no item with a value.
        ConfigError: A task or setting is unknown.
        ModelError: The model cannot be loaded or run.
    """
    name = os.fspath(model)
    tasks = tuple(read_tasks(suite, tier=tier))
    for task in tasks:
        task.check(allow_code_execution)
    described = EvaluatedModel.of(name, None, revision, dtype, model_init_kwargs).describe()
    results = {}
    for task in tasks:
        file = None if output_dir is None else Path(output_dir) / result_file(task.name, task.identity())
        saved = None if file is None else _saved(task, file, described)
        if saved is None:
            saved = task.evaluate(name, revision=revision, dtype=dtype, model_init_kwargs=model_init_kwargs)
            if file is not None:
                saved.save(file)
        results[task.name] = saved
    return ModelResults(name, tasks, results)


def _saved(task: Task, file: Path, model: dict[str, Any]) -> RowResults | None:
    """Return the results in a file, if there are any of this model."""
    if not file.is_file():
        return None
    results = task.results_type.load(file)
    before = results.settings.get("model")
    if before == model:
        return results
    if not isinstance(before, dict) or before.get("identity") is None:
        raise EvaluationError(
            f"{str(file)!r} does not say which model it is of. Move it away, or use another output_dir."
        )
    return None
