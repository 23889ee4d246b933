"""Compare selectors and selections by what models trained on their rows can do."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_datasel.atomic import write_file
from hf_datasel.errors import ConfigError, EvaluationError, did_you_mean
from hf_datasel.evaluation.cells import digest, slug
from hf_datasel.evaluation.experiment import Experiment
from hf_datasel.formats import Pool
from hf_datasel.rounds.selector import Selector
from hf_datasel.selection import Selection
from hf_datasel.spec import outside_names

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import SFTConfig

    from hf_datasel.evaluation.experiment_results import ExperimentResults

__all__ = ["evaluate_selections"]


def evaluate_selections(
    dataset: Dataset,
    methods: Mapping[str, Selector | Selection],
    *,
    model: str | os.PathLike[str],
    train: SFTConfig | Mapping[str, Any],
    suite: str | Sequence[Any],
    output_dir: str | os.PathLike[str],
    columns: Mapping[str, str] | None = None,
    **settings: Any,
) -> ExperimentResults:
    """Train on what each method selects from a dataset, evaluate every model, and compare the methods with Random.

    Random and Longest are added unless `baselines=()`. Each run is a process of its own, and what is in `output_dir`
    is not repeated, so that an interrupted call can be made again. A selector is a class of a module: one that is
    defined in a script or notebook itself cannot be imported by the runs.

    Args:
        dataset: The pool, in any supported row format.
        methods: Selectors, which run in every training run, and selections of this dataset, whose rows are trained on
            as they are, by the names that they have in the table.
        model: Name or path of the model that every run starts from.
        train: Training settings that are the same for all methods: an `SFTConfig`, or keys of `hf-datasel train`. Of a
            config the fields that differ from their defaults are used.
        suite: Name of a suite, or its tasks, as in `Experiment`.
        output_dir: Folder of the experiment.
        columns: Names of the columns of the row format and those of the dataset, as in `hf_datasel.score`.
        **settings: Further settings of `Experiment`, such as `seeds`, `baselines`, `primary` and `margin`.

    Returns:
        The results, as `Experiment.run`.

    Raises:
        ConfigError: A method or setting is unknown, or a selector cannot be imported.
        DataselError: As in `Experiment.run`.
    """
    names = [item.name for item in fields(Experiment)]
    for name in settings:
        if name not in names:
            raise ConfigError(f"There is no setting {name!r}.{did_you_mean(name, names)}")
    folder = Path(output_dir)
    pool = Pool(dataset, columns)
    file = _write_rows(pool, range(len(pool)), folder / "pool" / f"pool-{pool.id[:8]}.parquet")
    entries = [{name: _entry(name, method, pool, folder)} for name, method in methods.items()]
    experiment = Experiment(
        model_name_or_path=os.fspath(model),
        methods=entries,
        suite=suite,
        dataset_name=str(file),
        columns=columns,
        train=train_keys(train),
        allow_imports=bool(outside_names(entries)),
        output_dir=str(folder),
        **settings,
    )
    return experiment.run()


def _entry(name: str, method: Selector | Selection, pool: Pool, folder: Path) -> dict[str, Any]:
    """Return a method as the config of an experiment has it."""
    if isinstance(method, Selection):
        method.check(pool.dataset)
        rows = method.indices.tolist()
        file = _write_rows(pool, rows, folder / "pool" / f"{slug(name)}-{digest(rows)}.parquet")
        return {"dataset_name": str(file)}
    if not isinstance(method, Selector):
        raise ConfigError(
            f"methods[{name!r}] is {method!r}: it has to be a selector, such as IterIT(), or a Selection."
        )
    spec = dict(method.spec())
    own = next((outside for outside in outside_names(spec) if outside.startswith("__main__:")), None)
    if own is not None:
        raise ConfigError(
            f"methods[{name!r}]: {own.removeprefix('__main__:')} is defined in the script or notebook itself, which "
            "the training runs cannot import. Put the class into a module of its own."
        )
    return {"selector": spec.pop("selector"), "selector_kwargs": spec}


def _write_rows(pool: Pool, rows: Sequence[int], file: Path) -> Path:
    if not file.is_file():
        selected = pool.dataset.select(rows)
        write_file(file, lambda draft: selected.to_parquet(draft), EvaluationError)
    return file


def train_keys(train: SFTConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Return training settings as keys of `hf-datasel train`.

    Args:
        train: A config, or the keys.

    Raises:
        ConfigError: It is neither.
    """
    from trl import SFTConfig

    from hf_datasel.training import SelectiveSFTConfig
    from hf_datasel.training.run_config import plain, run_settings

    if isinstance(train, Mapping):
        return dict(train)
    if not isinstance(train, SFTConfig):
        raise ConfigError(f"train is a {type(train).__name__}: it has to be an SFTConfig, or a mapping of its fields.")
    if isinstance(train, SelectiveSFTConfig):
        values = run_settings(train)
    else:
        default = type(train)(output_dir=train.output_dir, use_cpu=train.use_cpu, bf16=train.bf16)
        values = {
            name: value
            for name, value in vars(train).items()
            if name in type(train).__dataclass_fields__ and value != getattr(default, name)
        }
        values |= {name: getattr(train, name) for name in ("use_cpu", "bf16") if train.use_cpu}
    dropped = ("output_dir", "seed", "hub_", "push_", "logging_dir", "run_name", "eval_strategy", "do_")
    return {name: plain(value) for name, value in values.items() if not name.startswith(dropped)}
