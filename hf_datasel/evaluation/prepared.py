"""The runs of an experiment: which there are, what is written down about them, and doing those that are left."""

from __future__ import annotations

import importlib.metadata
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.atomic import write_file
from hf_datasel.errors import ConfigError, EvaluationError
from hf_datasel.evaluation.cells import Cell, digest, mean_flops, slug
from hf_datasel.evaluation.commands import CommandServer
from hf_datasel.evaluation.contaminated_pool import CleanPool
from hf_datasel.evaluation.methods import CONTROL, EQUAL_COST, Method, planned_steps, training_config
from hf_datasel.formats import Pool
from hf_datasel.scoring.models import model_identity
from hf_datasel.spec import to_spec
from hf_datasel.training.schedule import rows_per_round

if TYPE_CHECKING:
    from hf_datasel.evaluation.experiment import Experiment
    from hf_datasel.evaluation.task import Task

__all__ = ["Prepared", "changed_values", "plain_settings", "read_record"]

_PACKAGES = ("hf-datasel", "torch", "transformers", "trl", "peft", "datasets", "accelerate")


@dataclass(frozen=True)
class Prepared:
    """An experiment whose pool is loaded and whose tasks are checked.

    Args:
        experiment: The experiment.
        pools: The rows that repeat no item of the tasks, of the pool (None) and of each dataset that a method names.
        methods: The methods, Random first.
        tasks: The tasks.
        record: What is written into `experiment.json`: settings, versions, and identities of model, pool and tasks.
    """

    experiment: Experiment
    pools: Mapping[str | None, CleanPool]
    methods: list[Method]
    tasks: list[Task]
    record: dict[str, Any]

    @classmethod
    def of(
        cls, experiment: Experiment, pools: Mapping[str | None, Pool], methods: list[Method], tasks: list[Task]
    ) -> Prepared:
        """Identify what decides the results of an experiment.

        Args:
            experiment: The experiment.
            pools: The pool (None), and each dataset that a method names.
            methods: The methods, Random first.
            tasks: The tasks, which are checked.

        Raises:
            EvaluationError: Runs of the folder were made with another model, pool or version.
        """
        clean = {
            name: CleanPool.of(pool, tasks, experiment.decontaminate, experiment.folder)
            for name, pool in pools.items()
        }
        record = {
            "format_version": 1,
            "config": plain_settings({entry.name: getattr(experiment, entry.name) for entry in fields(experiment)}),
            "model": model_identity(experiment.model_name_or_path, experiment.model_revision),
            "pool": clean[None].identity(),
            "datasets": {name: pool.identity() for name, pool in clean.items() if name is not None},
            "versions": _versions(),
            "tasks": {task.name: task.identity() for task in tasks},
        }
        prepared = cls(experiment, clean, methods, tasks, record)
        prepared._check_begun()
        return prepared

    @property
    def identities(self) -> dict[str, Any]:
        """Identity of each task by its name."""
        return dict(self.record["tasks"])

    def _check_begun(self) -> None:
        """Raise if runs of the folder were made, or would be evaluated, with other versions, data or weights."""
        for cell in self.cells():
            versions = (cell.trained or {}).get("versions", self.record["versions"])
            if changes := changed_values(versions, self.record["versions"]):
                raise EvaluationError(
                    f"{cell.folder.name} was trained with other versions: {'; '.join(changes)}. Runs with different "
                    "versions cannot be compared.",
                    "Install what it was trained with, or use another output_dir.",
                )
        if not (self.experiment.folder / "experiment.json").is_file():
            return
        before = read_record(self.experiment.folder)
        if changed_values(before["config"], self.record["config"], ignored=("output_dir",)):
            return  # what is evaluated with other settings is evaluated again
        now = self.record
        subjects = [
            (f"The model {self.experiment.model_name_or_path!r}", {"model": before["model"]}, {"model": now["model"]}),
            (f"The pool {self.experiment.dataset_name!r}", before["pool"], now["pool"]),
            *((f"The dataset {name!r}", before["datasets"][name], value) for name, value in now["datasets"].items()),
            *((f"The task {name!r}", before["tasks"][name], value) for name, value in now["tasks"].items()),
        ]
        for subject, begun, identity in subjects:
            if changes := changed_values(begun, identity):
                raise EvaluationError(
                    f"{subject} is not what the experiment was begun with: {'; '.join(changes)}.",
                    "Install the versions and use the data that it was begun with, or another output_dir. Relative "
                    f"paths are those in the current folder, {os.getcwd()!r}.",
                )

    def begin(self) -> None:
        """Write `experiment.json`, with the runs that are planned, and the files that they need."""
        for pool in self.pools.values():
            pool.write()
        cells = [*self.cells(), *self.equal_cost_cells()] if "cost" in self.experiment.equal else self.cells()
        runs = [
            {"method": cell.method, "seed": cell.seed, "folder": cell.folder.name, "keys": cell.keys} for cell in cells
        ]
        record = {**self.record, "before_runs": self._before_runs(), "cells": runs}
        text = json.dumps(record, indent=2, ensure_ascii=False, default=str) + "\n"
        write_file(self.experiment.folder / "experiment.json", text, EvaluationError)

    def _before_runs(self) -> dict[str, Any]:
        """Return what was to decide, by which margin and number of runs, before the first run had been trained."""
        names = ("primary", "margin", "methods", "baselines", "seeds", "random_seeds")
        if not any((self.experiment.folder / "cells").glob("*/trained.json")):
            return {name: self.record["config"][name] for name in names}
        before = read_record(self.experiment.folder)
        return dict(before.get("before_runs") or {name: before["config"][name] for name in names})

    def cells(self) -> list[Cell]:
        """Return the runs, those of all methods with one seed before those with the next."""
        methods = [self.with_equal_steps(method) for method in self.methods]
        longest = max(len(method.seeds) for method in methods)
        return [
            self._cell(method, method.seeds[number])
            for number in range(longest)
            for method in methods
            if number < len(method.seeds)
        ]

    def equal_cost_cells(self) -> list[Cell]:
        """Return the runs on as many random rows as the dearest method pays for; none before it has finished."""
        flops = {
            method.name: mean_flops(cells) for method, cells in self._cells_by_method() if method.selector is not None
        }
        control = next((method for method in self.methods if method.name == CONTROL), None)
        defined = {name: value for name, value in flops.items() if value}
        if control is None or CONTROL not in defined or len(defined) < len(flops):
            return []
        factor = max(defined.values()) / defined[CONTROL]
        config = training_config(control.train)
        rows, steps = rows_per_round(config, self.num_rows(control)), self.steps(control)
        if factor <= 1 or steps is None:
            return []
        size = min(round(rows * factor), self.num_usable)
        keys = {
            key: value for key, value in control.train.items() if key not in ("selection_ratio", "num_train_epochs")
        }
        train = {**keys, "selection_size": size, "max_steps": round(steps * factor)}
        method = replace(control, name=EQUAL_COST, train=train)
        return [self._cell(method, seed) for seed in method.seeds]

    def num_rows(self, method: Method) -> int:
        """Return the number of rows that a method's sizes are shares of, or the highest number that it keeps."""
        pool = self.pools[method.dataset_name]
        keeps_all = method.selector is not None and method.selector.keeps_all
        return pool.num_usable if keeps_all else len(pool.pool)

    def steps(self, method: Method) -> int | None:
        """Return the number of updates of a run of a method; None if only the run tells it."""
        return planned_steps(method, self.num_rows(method), self.experiment.num_processes)

    @property
    def num_usable(self) -> int:
        """Number of rows of the pool that can be read and are not excluded."""
        return self.pools[None].num_usable

    def work(
        self,
        cells: Sequence[Cell],
        server: CommandServer,
        shard: tuple[int, int],
        begun: float,
        progress: Callable[[str], None],
    ) -> None:
        """Do what is left of these runs, except for what other processes do or have failed to do since `begun`."""
        number, count = shard
        for cell in cells[number::count]:
            if cell.state(self.identities) == "finished" or _failed_since(cell, begun):
                continue
            start = time.perf_counter()
            state = cell.run(server, self.identities, self.record["versions"])
            progress(f"{cell.folder.name}: {state} ({time.perf_counter() - start:.0f} s)")

    def _cells_by_method(self) -> list[tuple[Method, list[Cell]]]:
        cells = self.cells()
        return [(method, [cell for cell in cells if cell.method == method.name]) for method in self.methods]

    def with_equal_steps(self, method: Method) -> Method:
        """Return the method as it is trained: the whole pool for as many updates as the other methods.

        Raises:
            ConfigError: The number of updates is not known before training.
        """
        if not method.is_whole_pool or "steps" not in self.experiment.equal:
            return method
        others = [entry for entry in self.methods if entry.selector is not None and not entry.is_whole_pool]
        defined = [steps for steps in map(self.steps, others) if steps is not None]
        if not defined:
            raise ConfigError(
                "equal: [steps] cannot tell the number of updates before training (packing, filters that keep an "
                "unknown number of rows, or no method that selects). Set max_steps in train, or equal: []."
            )
        return method.with_equal_steps(defined[0])

    def _cell(self, method: Method, seed: int) -> Cell:
        experiment = self.experiment
        evaluation = {
            "model_name_or_path": experiment.model_name_or_path,
            "model_revision": None if method.selector is not None else experiment.model_revision,
            "suite": plain_settings(experiment.suite),
            "tier": experiment.tier,
            "dtype": experiment.eval_dtype,
            "allow_code_execution": experiment.allow_code_execution,
        }
        keys = {} if method.selector is None else self._train_keys(method, seed)
        identity = {"keys": keys, "model": self.record["model"], "pool": self.pools[method.dataset_name].identity()}
        name = f"{slug(method.name)}-seed-{seed}-{digest(identity)}"
        launcher = experiment.launcher if method.selector is not None else ()
        keys = self.pools[method.dataset_name].keys(keys) if keys else {}
        return Cell(method.name, seed, experiment.folder / "cells" / name, keys, evaluation, launcher)

    def _train_keys(self, method: Method, seed: int) -> dict[str, Any]:
        assert method.selector is not None
        experiment = self.experiment
        spec = to_spec(method.selector)
        keys = {
            "model_name_or_path": experiment.model_name_or_path,
            "model_revision": experiment.model_revision,
            **(experiment.source if method.dataset_name is None else {"dataset_name": method.dataset_name}),
            "columns": None if experiment.columns is None else dict(experiment.columns),
            "selector": spec.pop("selector"),
            "selector_kwargs": spec,
            "seed": seed,
            "allow_imports": experiment.allow_imports,
            "save_strategy": "no",
            "report_to": "none",
            **method.train,
        }
        unset = [key for key, value in keys.items() if value in (None, {}) or value is False]
        return {key: value for key, value in plain_settings(keys).items() if key not in unset or key in method.train}


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record of the experiment that was begun in a folder.

    Raises:
        EvaluationError: There is none, or it is damaged.
    """
    file = folder / "experiment.json"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        missing = f"{str(folder)!r} has no experiment.json"
        if any((folder / "cells").glob("*/*")):
            raise EvaluationError(
                f"{missing}, but runs in cells, and the file has the settings that these were begun with. Copy it "
                "back from where they were made, or use another output_dir."
            ) from error
        raise EvaluationError(f"{missing}: no experiment has begun there.") from error
    except json.JSONDecodeError as error:
        raise EvaluationError(f"{str(file)!r} is damaged: {error}.") from error
    return dict(record)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def changed_values(before: Mapping[str, Any], now: Mapping[str, Any], ignored: Sequence[str] = ()) -> list[str]:
    """Return the values that differ, each as `name before -> now`.

    Args:
        before: Plain values by name.
        now: The same later.
        ignored: Names of values that may differ.
    """
    names = [name for name in dict.fromkeys([*before, *now]) if name not in ignored]
    return [f"{name} {before.get(name)} -> {now.get(name)}" for name in names if before.get(name) != now.get(name)]


def _failed_since(cell: Cell, begun: float) -> bool:
    file = cell.folder / "failed.json"
    return file.is_file() and file.stat().st_mtime > begun


def plain_settings(value: Any) -> Any:
    """Return settings in the types of JSON.

    Args:
        value: Settings, also with selectors in them.
    """
    from hf_datasel.rounds.selector import Selector
    from hf_datasel.training.run_config import plain

    if isinstance(value, Selector):
        return value.spec()
    if isinstance(value, Mapping):
        return {str(key): plain_settings(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_settings(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return plain(value, drop_tokens=False)
