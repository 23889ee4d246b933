"""The methods of an experiment: selectors with their settings, the seeds of their runs, and their training keys."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hf_datasel.errors import ConfigError, check_option, did_you_mean
from hf_datasel.evaluation.cells import slug
from hf_datasel.evaluation.weight_search import with_all_weights
from hf_datasel.rounds.selector import Selector
from hf_datasel.selectors import All, Random, get_selector
from hf_datasel.spec import name_and_settings
from hf_datasel.training.config import SelectiveSFTConfig
from hf_datasel.training.schedule import rows_per_round, updates_in_epochs, updates_per_pass

__all__ = [
    "CONTROL",
    "EQUAL_COST",
    "UNTRAINED",
    "Method",
    "check_train_keys",
    "configured_methods",
    "planned_steps",
    "read_methods",
    "training_config",
]

CONTROL, UNTRAINED = "random", "untrained"
"""Names of the baselines: random rows, and the model before training."""
EQUAL_COST = "random at equal cost"
"""Name of the runs on as many random rows as the compute of the dearest method pays for."""

_LABELLED = {"selector", "selector_kwargs", "train", "dataset_name"}
_RESERVED = {
    "output_dir": "output_dir of the experiment",
    "seed": "seeds",
    "model_name_or_path": "model_name_or_path of the experiment",
    "model_revision": "model_revision of the experiment",
    "selector": "methods",
    "selector_kwargs": "methods",
    "resume_from_checkpoint": "nothing: what was interrupted is resumed",
    "columns": "columns of the experiment",
    "eval_strategy": "suite",
    "push_to_hub": "`hf-datasel push` afterwards",
}
"""Keys of `hf-datasel train` that an experiment sets, and what to use instead."""


@dataclass(frozen=True)
class Method:
    """One row of the table of an experiment.

    Args:
        name: Name in tables and in the names of folders.
        selector: The selector; None for the model before training.
        seeds: Random seed of each run.
        train: Keys of `hf-datasel train`.
        dataset_name: File or dataset with rows of its own, instead of the pool of the experiment.
    """

    name: str
    selector: Selector | None
    seeds: tuple[int, ...]
    train: Mapping[str, Any] = field(default_factory=dict)
    dataset_name: str | None = None

    @property
    def is_whole_pool(self) -> bool:
        """Whether it trains on all rows of the pool."""
        return isinstance(self.selector, All) and self.dataset_name is None

    @property
    def has_open_size(self) -> bool:
        """Whether only running its filters tells the number of rows, because it trains on all rows that they keep."""
        return self.selector is not None and self.selector.keeps_all and not isinstance(self.selector, All)

    def with_equal_steps(self, steps: int) -> Method:
        """Return the method with as many updates as one that selects."""
        return replace(self, train={**_without_size(self.train), "selection_ratio": 1.0, "max_steps": steps})


def read_methods(
    methods: Sequence[Any],
    baselines: Sequence[str],
    train: Mapping[str, Any],
    seeds: Sequence[int],
    random_seeds: Sequence[int],
    allow_imports: bool = False,
) -> list[Method]:
    """Return the methods and baselines of an experiment, Random first.

    Args:
        methods: Each the name of a selector, `{name: settings}`, or `{label: {selector, selector_kwargs, train,
            dataset_name}}`; a label with rows of its own and no selector trains on all of them. A mix of scores with
            `weights: {steps: 4}` stands for a method with each of these weights; see `with_all_weights`.
        baselines: Names among `"random"`, `"longest"` and `"untrained"`, or of further selectors.
        train: Keys of `hf-datasel train` of all methods.
        seeds: Random seed of each run.
        random_seeds: The same of Random.
        allow_imports: Whether selectors outside hf_datasel are permitted.

    Raises:
        ConfigError: A name or setting is unknown, or two methods have one name.
    """
    if not isinstance(methods, list | tuple):
        raise ConfigError(f"methods has to be a list of selectors, such as [iterit, superfiltering]: {methods!r}.")
    by_name: dict[str, Method] = {}
    for entry in with_all_weights(methods):
        method = _method(entry, train, seeds, allow_imports)
        if method.name in by_name:
            raise ConfigError(
                f"methods: two of them have the name {method.name!r}. Give one a label: "
                f"{{my_{method.name}: {{selector: {method.name}, selector_kwargs: {{...}}}}}}."
            )
        _check_label(method, by_name)
        by_name[method.name] = method
    for name in baselines:
        if not isinstance(name, str):
            raise ConfigError(f"baselines: {name!r} has to be a name; put methods with settings into methods.")
        if name not in by_name:
            is_trained = name != UNTRAINED
            selector = get_selector(name, {}, allow_imports) if is_trained else None
            by_name[name] = Method(name, selector, tuple(seeds) if is_trained else (0,), dict(train))
    if CONTROL in by_name:
        by_name[CONTROL] = replace(by_name[CONTROL], seeds=tuple(random_seeds))
    first = [name for name in (UNTRAINED, CONTROL) if name in by_name]
    return [by_name[name] for name in [*first, *(name for name in by_name if name not in first)]]


def configured_methods(methods: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Return the settings of each method by its name, as they are in the config of an experiment.

    A mix with a grid of weights is several methods.

    Args:
        methods: The methods, as `read_methods` takes them.
    """
    return dict(name_and_settings(entry, "selector") for entry in with_all_weights(methods))


def _method(entry: Any, train: Mapping[str, Any], seeds: Sequence[int], allow_imports: bool) -> Method:
    name, settings = name_and_settings(entry, "selector")
    if not {"selector", "dataset_name"} & set(settings):
        return Method(name, get_selector(name, settings, allow_imports), tuple(seeds), dict(train))
    if unknown := sorted(set(settings) - _LABELLED):
        raise ConfigError(
            f"methods: {name!r} has the key {unknown[0]!r}.{did_you_mean(unknown[0], sorted(_LABELLED))} "
            f"A label has {', '.join(sorted(_LABELLED))}."
        )
    own = settings.get("train") or {}
    if not isinstance(own, Mapping):
        raise ConfigError(f"methods: {name!r} has train={own!r}, which has to be a mapping of training keys.")
    keys = dict(train)
    if {"selection_size", "selection_ratio", "selection_schedule"} & set(own):
        keys = _without_size(keys)
    if {"max_steps", "num_train_epochs"} & set(own):
        keys = {key: value for key, value in keys.items() if key not in ("max_steps", "num_train_epochs")}
    selector = get_selector(settings.get("selector", "all"), settings.get("selector_kwargs") or {}, allow_imports)
    return Method(str(name), selector, tuple(seeds), {**keys, **own}, settings.get("dataset_name"))


def _check_label(method: Method, others: Mapping[str, Method]) -> None:
    """Raise if a label means something else in tables, or has the file name of another one."""
    name = method.name
    if name in (UNTRAINED, EQUAL_COST) or (
        name == CONTROL and not (isinstance(method.selector, Random) and method.dataset_name is None)
    ):
        raise ConfigError(f"methods: {name!r} is the name of a baseline. Give the method another label.")
    for other in others:
        if slug(other) == slug(name):
            raise ConfigError(f"methods: {other!r} and {name!r} have the same file name, {slug(name)!r}. Rename one.")


def _without_size(train: Mapping[str, Any]) -> dict[str, Any]:
    sizes = ("selection_size", "selection_ratio", "selection_schedule")
    return {key: value for key, value in train.items() if key not in sizes}


# -- training keys ----------------------------------------------------------------------------------------------------
def check_train_keys(train: Mapping[str, Any], where: str) -> None:
    """Raise for a key that `hf-datasel train` does not have, or that the experiment sets.

    Args:
        train: Keys and values.
        where: What holds them, for the message.

    Raises:
        ConfigError: Names the key and what to use instead.
    """
    defined = _training_fields() | _model_fields()
    for key in train:
        if key in _RESERVED:
            raise ConfigError(f"{where}: {key!r} is set by the experiment. Use {_RESERVED[key]}.")
        if key not in defined:
            raise ConfigError(f"{where}: unknown key {key!r}.{did_you_mean(str(key), sorted(defined))}")


def training_config(train: Mapping[str, Any]) -> SelectiveSFTConfig:
    """Return the config of a run on this machine, or as on a CPU if it has no GPU, for its derived values.

    Args:
        train: Keys of `hf-datasel train`.

    Raises:
        ConfigError: A value is invalid.
    """
    import torch

    parsed = {key: _parsed(key, value) for key, value in train.items()}
    values = {key: value for key, value in parsed.items() if key in _training_fields()}
    if not torch.accelerator.is_available():  # the run may be planned on another machine than it runs on
        values |= {"use_cpu": True, "bf16": False, "fp16": False, "tf32": None}
    try:
        return SelectiveSFTConfig(output_dir="unused", report_to="none", **values)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"train: {' '.join(str(error).split())}") from error


def planned_steps(method: Method, pool_size: int, processes: int, at_most: bool = False) -> int | None:
    """Return the number of updates of a run, or None if only the run tells it, as with packing.

    Args:
        method: The method.
        pool_size: Number of rows of the pool.
        processes: Number of processes that a run trains with.
        at_most: Whether to return the highest possible number for a method that keeps all rows that pass its filters,
            instead of None.
    """
    assert method.selector is not None
    config = training_config(method.train)
    if config.max_steps > 0:
        return int(config.max_steps)
    is_open = method.has_open_size and not at_most
    if config.packing or config.selection_schedule is not None or is_open:
        return None
    rounds = method.selector.plan(rows_per_round(config, pool_size), config.num_train_epochs, pool_size)
    batch = config.per_device_train_batch_size * processes
    accumulation = config.gradient_accumulation_steps
    return sum(
        updates_in_epochs(updates_per_pass(math.ceil(part.budget / batch), accumulation), part.epochs)
        for part in rounds
    )


def _parsed(key: str, value: Any) -> Any:
    """Return a value as `hf-datasel train` reads it: YAML has read 2e-5 as text."""
    action = _actions().get(key)
    if action is None or value is None or isinstance(value, Mapping):
        return value
    if action.choices is not None:
        check_option(f"train: {key}={value!r}", value, action.choices)
    parse: Any = action.type
    if parse in (None, str) or action.nargs == "+":
        return value
    try:
        parsed = parse(str(value))
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        raise ConfigError(f"train: {key}={value!r} is not valid: {str(error).rstrip('.')}.") from error
    return parsed if isinstance(value, str) else value


@functools.cache
def _actions() -> dict[str, argparse.Action]:
    """Return how each flag of `hf-datasel train` is parsed."""
    from trl import ModelConfig, TrlParser

    return {action.dest: action for action in TrlParser((SelectiveSFTConfig, ModelConfig))._actions}


def _training_fields() -> set[str]:
    return {item.name for item in dataclasses.fields(SelectiveSFTConfig) if item.init}


def _model_fields() -> set[str]:
    from trl import ModelConfig

    return {item.name for item in dataclasses.fields(ModelConfig) if item.init}
