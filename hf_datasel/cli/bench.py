"""`hf-datasel bench`: train and evaluate several methods with several seeds, and compare them with random rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from hf_datasel.cli.arguments import (
    allow_local_imports,
    as_dict,
    log_to_stderr,
    parse,
)
from hf_datasel.cli.eval import NO_SUITE
from hf_datasel.cli.output_folder import create_output_folder
from hf_datasel.errors import ConfigError, EvaluationError
from hf_datasel.scoring.progress import only_drawn_bars

if TYPE_CHECKING:
    from hf_datasel.evaluation import Experiment, ExperimentResults

__all__ = ["BenchArguments", "run"]


@dataclass
class BenchArguments:
    """The experiment, and what to do of it."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Model that every run starts from."})
    model_revision: str | None = field(default=None, metadata={"help": "Commit, branch or tag of a Hub model."})
    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "The pool: a file, a folder or a dataset on the Hub. Relative paths, also of models and "
            "tasks, are those in the current folder, not in that of the config file."
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split of the pool."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Commit, branch or tag of a Hub dataset."})
    columns: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Columns of the row format, and the names that the dataset has for them."}
    )
    train: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Keys of `hf-datasel train`, the same for all methods."}
    )
    methods: list[str] | None = field(
        default=None,
        metadata={
            "help": "Selectors to compare. In a config file each may have settings, [iterit: {decay: 0}], or a label "
            "with training keys of its own: [{short: {selector: iterit, train: {num_train_epochs: 1}}}]."
        },
    )
    baselines: list[str] = field(
        default_factory=lambda: ["random", "longest", "untrained"],
        metadata={"help": "Methods that are added: random rows, the longest ones, and the model before training."},
    )
    seeds: str = field(
        default="3", metadata={"help": "Number of runs of each method, or in a config file their seeds."}
    )
    random_seeds: str | None = field(default=None, metadata={"help": "The same of random; at least 5 by default."})
    equal: list[str] = field(
        default_factory=lambda: ["steps"],
        metadata={
            "help": "steps: the whole pool is trained for as many updates as the other methods. cost: more random "
            "rows, for the compute of the dearest method, are added."
        },
    )
    suite: list[str] | None = field(default=None, metadata={"help": "Name of a suite, or names of tasks."})
    tier: str = field(default="full", metadata={"help": "full, or quick for some items of some tasks."})
    primary: str | None = field(default=None, metadata={"help": "Task that decides, or average."})
    margin: float | None = field(
        default=None, metadata={"help": "Largest loss to the whole pool that is accepted; name it before the runs."}
    )
    sd: float | None = field(
        default=None, metadata={"help": "Standard deviation between runs that earlier experiments have shown."}
    )
    decontaminate: str = field(
        default="true",
        metadata={
            "help": "Whether rows of the pool that share n-grams with items of the suite are excluded: true, false, "
            'or settings such as {"n": 13, "threshold": 0.5}.'
        },
    )
    launcher: list[str] = field(
        default_factory=list, metadata={"help": "Command that starts each training, such as accelerate launch."}
    )
    num_processes: int = field(default=1, metadata={"help": "Number of processes that the launcher starts."})
    eval_dtype: str = field(default="auto", metadata={"help": "Data type of the weights in evaluations."})
    allow_imports: bool = field(
        default=False, metadata={"help": "Permit selectors outside hf_datasel, as module:Class."}
    )
    allow_code_execution: bool = field(
        default=False, metadata={"help": "Run programs that a model writes, on this machine."}
    )
    output_dir: str = field(
        default="outputs/bench",
        metadata={
            "help": "Folder of the experiment. What is there already is not repeated. Parts that are started in other "
            "folders need its absolute path."
        },
    )
    plan: bool = field(default=False, metadata={"help": "Print what would be done, cost and seen, and do nothing."})
    list_runs: bool = field(
        default=False,
        metadata={
            "aliases": ["--list"],
            "help": "Print the runs that are left, one per line as the flags that do it, for xargs or an array job.",
        },
    )
    gather: bool = field(
        default=False, metadata={"help": "Write the results of the runs that have finished, and stop."}
    )
    shard: str | None = field(
        default=None,
        metadata={"help": "Do only a part of the runs: 3/8 is the third of eight parts. Parts may run at once."},
    )


_NOT_OF_THE_EXPERIMENT = ("plan", "list_runs", "gather", "shard")


def run(argv: Sequence[str]) -> None:
    """Do the runs of an experiment that are left, and write its results."""
    (arguments,) = parse((BenchArguments,), argv, "bench")
    log_to_stderr()
    allow_local_imports(arguments.allow_imports)
    if sum((arguments.plan, arguments.list_runs, arguments.gather)) > 1:
        raise ConfigError("--plan, --list and --gather exclude each other. Pass one of them.")
    shard = _shard(arguments.shard)
    if arguments.gather and not arguments.model_name_or_path:
        from hf_datasel.evaluation import Experiment

        _check_no_settings(arguments)
        _write(Experiment.from_folder(arguments.output_dir).gather())
        return
    experiment = _experiment(arguments)
    if arguments.gather:
        _write(experiment.gather())
        return
    with only_drawn_bars():
        if arguments.plan:
            print(experiment.plan().to_text())
        elif arguments.list_runs:
            print("\n".join(experiment.unfinished(shard)))
        else:
            create_output_folder(experiment.output_dir)
            _write(experiment.run(shard, progress=lambda line: print(line, flush=True)))


def _check_no_settings(arguments: BenchArguments) -> None:
    """Raise `ConfigError` for settings beside --gather that the record of the experiment would silently replace."""
    others = (*_NOT_OF_THE_EXPERIMENT, "output_dir", "allow_imports")
    defaults = BenchArguments()
    for entry in fields(BenchArguments):
        if entry.name not in others and getattr(arguments, entry.name) != getattr(defaults, entry.name):
            raise ConfigError(
                f"--gather reads the settings that the experiment in {arguments.output_dir!r} was begun with, and "
                f"{entry.name} is set too. Omit it, or pass --config with all settings of the experiment."
            )


def _experiment(arguments: BenchArguments) -> Experiment:
    from hf_datasel.evaluation import Experiment

    values = {
        entry.name: getattr(arguments, entry.name)
        for entry in fields(BenchArguments)
        if entry.name not in _NOT_OF_THE_EXPERIMENT
    }
    values["columns"] = as_dict(arguments.columns, "columns") or None
    values["train"] = as_dict(arguments.train, "train")
    values["methods"] = arguments.methods or []
    if isinstance(text := arguments.decontaminate, str):
        is_flag = text.lower() in ("true", "false")
        values["decontaminate"] = text.lower() == "true" if is_flag else as_dict(text, "decontaminate")
    if not values["suite"]:
        raise ConfigError(NO_SUITE)
    for name in ("model_name_or_path", "dataset_name"):
        if not values[name]:
            raise ConfigError(f"{name} is missing. Pass --{name} NAME, or put it into the config file.")
    for name in ("seeds", "random_seeds"):
        if isinstance(values[name], str):
            values[name] = _number(name, values[name])
    return Experiment(**values)


def _number(name: str, value: str) -> int:
    if not value.isdigit():
        raise ConfigError(f"{name}={value!r} has to be a number of runs.")
    return int(value)


def _shard(value: str | None) -> tuple[int, int]:
    """Return number, from 0, and count of the parts: `"3/8"` is (2, 8)."""
    if value is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", value)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--shard {value!r} has to be the number of a part and that of all parts, such as 3/8.")
    return int(match[1]) - 1, int(match[2])


def _write(results: ExperimentResults) -> None:
    folder = results.save()
    print(results.to_markdown())
    print(
        f"Written to {folder.absolute()}: results.md, results.json and plots. For a card: hf-datasel push --results "
        f"{folder}/results/METHOD.json --items {folder}/cells --selection {folder}/cells/RUN/model ..."
    )
    failed = [run for run in results.runs if run.state == "failed"]
    if failed:
        raise EvaluationError(f"{len(failed)} of {len(results.runs)} runs failed. See the log in {failed[0].folder}.")
