"""Results of an experiment: every run with its state, numbers and cost, and what follows from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.atomic import write_file
from hf_datasel.errors import ConfigError, EvaluationError, did_you_mean
from hf_datasel.evaluation.card_results import card_results
from hf_datasel.evaluation.cells import State, slug
from hf_datasel.evaluation.experiment_plots import draw_cost, draw_forest, write_plots
from hf_datasel.evaluation.report import to_markdown
from hf_datasel.evaluation.task import Task, primary_tasks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hf_datasel.cards.facts import Result
    from hf_datasel.evaluation.experiment import Experiment

__all__ = ["ExperimentResults", "RunResult"]


@dataclass(frozen=True)
class RunResult:
    """One run of a method.

    Args:
        method: Name of the method.
        seed: Random seed.
        state: "finished", "failed", "running", "trained" or "waiting".
        folder: Folder of the run, relative to that of the experiment.
        numbers: Numbers of the tasks and of their groups, by name.
        items: Number of items with a value, by task.
        steps: Number of updates.
        cost: Cost of each phase, or None if it is not known.
        files: File with the value of each item, by task, relative to the folder of the experiment.
        error: Last lines of the log of a run that failed.
        settings: The keys of `hf-datasel train`.
        without_value: Number of items without a value by reason, by task.
    """

    method: str
    seed: int
    state: State
    folder: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    items: Mapping[str, int] = field(default_factory=dict)
    steps: int | None = None
    cost: Mapping[str, Any] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    without_value: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class ExperimentResults:
    """Results of an experiment, half of it or all.

    Args:
        experiment: The experiment.
        tasks: Its tasks.
        record: The record in `experiment.json`.
        runs: All runs that are planned, Random's first.
    """

    experiment: Experiment
    tasks: tuple[Task, ...]
    record: Mapping[str, Any]
    runs: tuple[RunResult, ...]

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the order of the table."""
        return list(dict.fromkeys(run.method for run in self.runs))

    @property
    def primary(self) -> str:
        """Name of what decides: a task, or "average"."""
        tasks = primary_tasks(self.tasks, self.experiment.primary)
        return tasks[0].name if len(tasks) == 1 else "average"

    @property
    def higher_is_better(self) -> bool:
        """Whether higher numbers of `primary` are better."""
        return primary_tasks(self.tasks, self.experiment.primary)[0].higher_is_better

    @property
    def items(self) -> int:
        """Number of items behind the primary number of a run."""
        names = [task.name for task in primary_tasks(self.tasks, self.experiment.primary)]
        return max((sum(run.items[name] for name in names) for run in self.runs if run.state == "finished"), default=0)

    def runs_of(self, method: str) -> list[RunResult]:
        """Return the runs of a method, finished or not.

        Raises:
            ConfigError: There is no such method.
        """
        if method not in self.methods:
            raise ConfigError(f"There is no method {method!r}.{did_you_mean(method, self.methods)}")
        return [run for run in self.runs if run.method == method]

    def values(self, method: str, name: str | None = None) -> list[float]:
        """Return a number of each finished run of a method, in the order of their seeds.

        Args:
            method: Name of the method.
            name: Name of a task, or of a task and a group; `primary` by default.
        """
        name = name or self.primary
        finished = [run for run in self.runs_of(method) if run.state == "finished"]
        if name != "average":
            return [run.numbers[name] for run in finished if name in run.numbers]
        names = [task.name for task in self.tasks]
        return [float(np.mean([run.numbers[entry] for entry in names])) for run in finished]

    @property
    def names(self) -> list[str]:
        """Names of all numbers of a run: tasks and their groups, in the order of the tasks."""
        names = list(dict.fromkeys(name for run in self.runs for name in run.numbers))
        order = [task.name for task in self.tasks]
        return sorted(names, key=lambda name: order.index(name.split("/")[0]) if name.split("/")[0] in order else 0)

    def item_values(self, method: str, task: str) -> np.ndarray:
        """Return the values of the items of a task: runs x items, float64.

        Args:
            method: Name of the method.
            task: Name of the task.

        Raises:
            EvaluationError: The runs were evaluated on different items.
        """
        results_type = next(entry.results_type for entry in self.tasks if entry.name == task)
        files = [run.files[task] for run in self.runs_of(method) if run.state == "finished"]
        results = [results_type.load(self.experiment.folder / file) for file in files]
        ids = {entry.row_ids.tobytes() for entry in results}
        if len(ids) > 1:
            raise EvaluationError(f"The runs of {method!r} were evaluated on different items of {task!r}.")
        return np.array([entry.values for entry in results])

    def to_markdown(self) -> str:
        """Return the table, what can be said and what cannot, and every run that is missing, as Markdown."""
        return to_markdown(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the record of the experiment and all runs as plain values."""
        return {**self.record, "primary": self.primary, "runs": [asdict(run) for run in self.runs]}

    def results(self, method: str) -> list[Result]:
        """Return the results for the card of a method's selection: its own, and those of the baselines.

        Args:
            method: Name of the method.
        """
        return card_results(self, method)

    def save(self, folder: str | Path | None = None) -> Path:
        """Write `results.md`, `results.json`, the plots, and `results/METHOD.json` for `hf-datasel push --results`.

        Args:
            folder: Folder to write to; by default that of the experiment.

        Returns:
            The folder.
        """
        folder = self.experiment.folder if folder is None else Path(folder)
        write_file(folder / "results.md", self.to_markdown(), EvaluationError)
        files: dict[Path, Any] = {folder / "results.json": self.to_dict()}
        files |= {folder / "results" / f"{slug(name)}.json": self.results(name) for name in self.methods}
        for file, content in files.items():
            write_file(file, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n", EvaluationError)
        write_plots(self, folder)
        return folder

    def plot(self, *, dark: bool = False) -> Figure:
        """Draw every run and the interval of each method, a panel per task, as `plot_forest`.

        Args:
            dark: Whether to draw for a dark page.

        Raises:
            DataselError: matplotlib is not installed, or no run has finished.
        """
        return draw_forest(self, dark)

    def plot_cost(self, *, dark: bool = False) -> Figure:
        """Draw the primary result of each run against its compute, as `plot_cost`.

        Args:
            dark: Whether to draw for a dark page.

        Raises:
            DataselError: matplotlib is not installed, or no run has a cost.
        """
        return draw_cost(self, dark)
