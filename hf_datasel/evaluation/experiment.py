"""An experiment: train on what several methods select, with several seeds each, and evaluate every model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hf_datasel.errors import ConfigError, check_option
from hf_datasel.evaluation.commands import CommandServer
from hf_datasel.evaluation.gather import gather
from hf_datasel.evaluation.methods import (
    CONTROL,
    UNTRAINED,
    Method,
    check_train_keys,
    read_methods,
    training_config,
)
from hf_datasel.evaluation.plan import Plan, make_plan
from hf_datasel.evaluation.prepared import Prepared, read_record
from hf_datasel.evaluation.suites import read_tasks
from hf_datasel.evaluation.task import HeldoutTask, Task, primary_tasks
from hf_datasel.formats import Pool, load_pool
from hf_datasel.scores.loss import Loss
from hf_datasel.scoring.models import Loading, check_max_length, check_model_exists, load_config

if TYPE_CHECKING:
    from hf_datasel.evaluation.experiment_results import ExperimentResults

__all__ = ["Experiment"]

_EQUAL = ("steps", "cost")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Several methods x seeds on one pool, evaluated on one suite, with the training run as the unit.

    Each run is a folder of `output_dir/cells`, and the state of the experiment is in these folders only: a run that
    was interrupted is resumed, several processes and machines may work on one folder, and a run whose settings are
    changed is another folder.

    Args:
        model_name_or_path: Model that every run starts from.
        methods: Selectors to compare: a name, `{name: settings}`, or `{label: {selector, selector_kwargs, train,
            dataset_name}}` with training keys or rows of its own. A mix of scores may have a grid of weights:
            `{top: {by: {score: mix, by: [ifd, reward], weights: {steps: 4}}}}` is five methods.
        suite: Name of a suite, or its tasks.
        tier: `"full"`, or `"quick"` for some items of some tasks.
        dataset_name: The pool: a file, a folder or a dataset on the Hub.
        dataset_config: Configuration of a Hub dataset.
        dataset_train_split: Split of the pool.
        dataset_revision: Commit, branch or tag of a Hub dataset.
        columns: Names of the columns of the row format and those of the dataset, as in `hf_datasel.score`.
        model_revision: Commit, branch or tag of a Hub model.
        train: Keys of `hf-datasel train`, the same for all methods: one learning rate, one number of epochs.
        baselines: Methods that are added: Random, Longest, and the model before training.
        seeds: Number of runs of each method, or their seeds. A seed moves the order of rows, the initialisation of
            adapters, and what is drawn.
        random_seeds: The same of Random, whose spread every difference is held against; at least five by default.
        equal: `"steps"` trains the whole pool for as many updates as the other methods. `"cost"` adds runs on as many
            random rows as the compute of the dearest method, scoring included, pays for.
        primary: Task that decides, or `"average"` of all tasks in points. By default the average, or the only task.
        margin: Largest loss to the whole pool that is accepted, in the unit of `primary`. Name it before the runs.
        sd: Standard deviation between runs that is expected, in the unit of `primary`, from earlier experiments.
        decontaminate: Whether rows of the pool that share n-grams of words with items of the suite are excluded, or
            the settings of `contaminated_rows`: `{n: 13, threshold: 0.5}`.
        launcher: Command that starts each training, such as `["accelerate", "launch", "--num_processes", "8"]`.
        num_processes: Number of processes that it starts.
        eval_dtype: Data type of the weights in evaluations.
        allow_imports: Whether selectors outside hf_datasel are permitted.
        allow_code_execution: Whether programs that a model writes may be run.
        output_dir: Folder of the experiment.
    """

    model_name_or_path: str
    methods: Sequence[Any]
    suite: str | Sequence[Any]
    tier: str = "full"
    dataset_name: str
    dataset_config: str | None = None
    dataset_train_split: str = "train"
    dataset_revision: str | None = None
    columns: Mapping[str, str] | None = None
    model_revision: str | None = None
    train: Mapping[str, Any] = field(default_factory=dict)
    baselines: Sequence[str] = (CONTROL, "longest", UNTRAINED)
    seeds: int | Sequence[int] = 3
    random_seeds: int | Sequence[int] | None = None
    equal: Sequence[str] = ("steps",)
    primary: str | None = None
    margin: float | None = None
    sd: float | None = None
    decontaminate: bool | Mapping[str, Any] = True
    launcher: Sequence[str] = ()
    num_processes: int = 1
    eval_dtype: str = "auto"
    allow_imports: bool = False
    allow_code_execution: bool = False
    output_dir: str = "outputs/bench"

    def __post_init__(self) -> None:
        for name in ("model_name_or_path", "dataset_name"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ConfigError(f"The experiment needs {name}.")
        for name in ("baselines", "equal", "launcher"):
            if not isinstance(value := getattr(self, name), list | tuple):
                raise ConfigError(f"{name}={value!r} has to be a list.")
        for name in self.equal:
            check_option(f"equal={list(self.equal)!r} has {name!r}", name, _EQUAL)
        if self.num_processes < 1:
            raise ConfigError(f"num_processes={self.num_processes} has to be 1 or more.")
        for name in ("margin", "sd"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ConfigError(f"{name}={value!r} has to be above 0, in the unit of the primary task.")
        check_train_keys(self.train, "train")
        _seeds(self.seeds, "seeds")

    # -- what it consists of ------------------------------------------------------------------------------------------
    @property
    def folder(self) -> Path:
        """The folder of the experiment."""
        return Path(self.output_dir)

    @property
    def source(self) -> dict[str, Any]:
        """The keys of `hf-datasel train` that name the pool."""
        names = ("dataset_name", "dataset_config", "dataset_train_split", "dataset_revision")
        return {name: getattr(self, name) for name in names}

    def tasks(self) -> list[Task]:
        """Return the tasks of the suite.

        Raises:
            ConfigError: A task or setting is unknown, or `primary` is none of them.
        """
        tasks = read_tasks(self.suite, tier=self.tier)
        primary_tasks(tasks, self.primary)
        return tasks

    def read_methods(self) -> list[Method]:
        """Return the methods with their seeds and training keys, Random first.

        Raises:
            ConfigError: A method, setting or training key is unknown.
        """
        seeds = _seeds(self.seeds, "seeds")
        random_seeds = tuple(range(max(5, len(seeds)))) if self.random_seeds is None else self.random_seeds
        methods = read_methods(
            self.methods,
            self.baselines,
            self.train,
            seeds,
            _seeds(random_seeds, "random_seeds"),
            self.allow_imports,
        )
        for method in methods:
            if method.selector is not None:
                check_train_keys(method.train, f"methods: {method.name!r}")
                training_config(method.train)
        return methods

    def prepare(self) -> Prepared:
        """Load the pool, and check everything that the runs and evaluations need, before any work.

        Raises:
            EvaluationError: A task needs what is missing, or the folder was begun with another model, pool or version.
            DataselError: Any of the settings is invalid.
        """
        methods, tasks = self.read_methods(), self.tasks()
        for task in tasks:
            task.check(self.allow_code_execution)
        check_model_exists(self.model_name_or_path, self.model_revision)
        self._check_evaluation(tasks)
        split = self.dataset_train_split
        source = (self.dataset_name, split, self.dataset_config, self.dataset_revision)
        pools: dict[str | None, Pool] = {None: Pool(load_pool(*source, self.columns), self.columns)}
        for name in dict.fromkeys(method.dataset_name for method in methods):
            if name is not None:
                pools[name] = Pool(load_pool(name, columns=self.columns), self.columns)
        return Prepared.of(self, pools, methods, tasks)

    def _check_evaluation(self, tasks: Sequence[Task]) -> None:
        """Raise if the name of the dtype is unknown, or held-out rows may be longer than the model supports."""
        trust = {"trust_remote_code": bool(self.train.get("trust_remote_code"))}
        Loss(self.model_name_or_path, dtype=self.eval_dtype)
        config = load_config(Loading(self.model_name_or_path, self.model_revision, init_kwargs=trust))
        for task in tasks:
            if isinstance(task, HeldoutTask):
                check_max_length(config, task.max_length, task.name)

    def plan(self) -> Plan:
        """Return what the experiment would do and cost, and what it could see, without doing it.

        Raises:
            DataselError: As `prepare`.
        """
        return make_plan(self.prepare())

    def unfinished(self, shard: tuple[int, int] = (0, 1)) -> list[str]:
        """Return the runs that are left, as the flags of `hf-datasel bench` that do one of them: `--shard 3/8`.

        Runs at equal cost are listed when all others have finished, since their size is not known before.

        Args:
            shard: As in `run`.

        Raises:
            DataselError: As `prepare`.
        """
        prepared = self.prepare()
        cells, number, count = prepared.cells(), *shard
        added = prepared.equal_cost_cells() if "cost" in self.equal else []
        unfinished = {
            index
            for group in (cells, added)
            for index, cell in list(enumerate(group))[number::count]
            if cell.state(prepared.identities) != "finished"
        }
        return [f"--shard {index + 1}/{len(cells)}" for index in sorted(unfinished)]

    def run(self, shard: tuple[int, int] = (0, 1), progress: Callable[[str], None] = print) -> ExperimentResults:
        """Do all runs that are not done yet, and return the results.

        Several processes and machines may call it at the same time for one folder: each run is done once.

        Args:
            shard: `(i, n)` does only every n-th run, beginning with number i, from 0.
            progress: Is called with the plan, and with a line about each run that has ended.

        Raises:
            DataselError: As `prepare`. A run that fails is a line of the results.
        """
        prepared = self.prepare()
        progress(f"{make_plan(prepared).to_text()}\n")
        prepared.begin()
        begun = time.time()
        with CommandServer() as server:
            prepared.work(prepared.cells(), server, shard, begun, progress)
            if "cost" in self.equal and (cells := prepared.equal_cost_cells()):
                prepared.begin()
                prepared.work(cells, server, shard, begun, progress)
        return self.gather()

    def gather(self) -> ExperimentResults:
        """Return the results of the runs that have finished, without doing any.

        Raises:
            EvaluationError: The experiment has not begun, or its results were made with different settings.
        """
        return gather(self)

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """Return the experiment that was begun in a folder.

        Args:
            folder: Its `output_dir`.

        Raises:
            EvaluationError: There is none.
        """
        record = read_record(Path(folder))
        names = {entry.name for entry in fields(cls)}
        config = {key: value for key, value in record["config"].items() if key in names}
        return cls(**{**config, "output_dir": str(folder)})


def _seeds(value: Any, name: str) -> tuple[int, ...]:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    seeds = tuple(range(value)) if is_number else tuple(value) if isinstance(value, list | tuple) else ()
    if not seeds or len(set(seeds)) < len(seeds) or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise ConfigError(f"{name}={value!r} has to be a number of runs, or a list of different seeds of 0 or more.")
    return seeds
