"""How a run was set up, as a recipe that makes it again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

from datasets import Dataset

from hf_datasel.rounds.selector import Selector
from hf_datasel.selection.provenance import origin
from hf_datasel.training.config import SelectiveSFTConfig, default_of
from hf_datasel.training.model_keys import adapter_keys, model_keys

__all__ = ["Record", "changed_settings"]

_ELSEWHERE = ("selector", "selector_kwargs", "model_init_kwargs")
_NOT_THE_RUN = (
    "output_dir", "overwrite_output_dir", "logging_", "log_", "report_to", "run_name", "project", "trackio_", "hub_",
    "push_", "selection_repo_id", "disable_tqdm", "resume_from_checkpoint", "do_", "local_rank",
)  # fmt: skip
"""Beginnings of the fields that say where results go and what is shown of them."""
_EVALUATION = (
    "eval_", "per_device_eval_", "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
    "prediction_loss_only", "include_for_metrics", "batch_eval_metrics", "label_names", "bf16_full_eval",
    "fp16_full_eval",
)  # fmt: skip
_FOLLOWS_EVALUATION = ("reduce_lr_on_plateau", "greedy")
_WITH_TOKEN = ("scoring_tokens_per_batch", "eos_token", "pad_token", "average_tokens_across_devices")
"""Fields whose names hold the word, and which hold no secret."""
_ON_DISK = ("model", "models", "model_name_or_path", "_path", "_file", "centroids")
"""Endings of the names of settings that hold a model or a file, which may be named without any folder before it."""
_READ = ("model", "args", "train_dataset", "eval_dataset", "peft_config", "quantization_config")


@dataclass
class Record:
    """What a run was given, as plain values, taken before the trainer changes any of it.

    Attributes:
        keys: of its recipe, without those of the config: model, adapter, selector.
        in_python: what the recipe does not settle, in short sentences.
        parent: name, revision, configuration and split of the pool, as far as it is from the Hub.
        evaluation: the same of each evaluation set, by the beginning of its metrics' names.
        evaluation_split: split of the parent that is the evaluation set, if one is.
    """

    keys: dict[str, Any]
    in_python: list[str]
    parent: dict[str, str]
    evaluation: dict[str, dict[str, str]] = field(default_factory=dict)
    evaluation_split: str | None = None

    @classmethod
    def of(cls, arguments: Mapping[str, Any], config: SelectiveSFTConfig, selector: Selector) -> Record:
        """Take down the arguments of a trainer, by name and as they were passed."""
        keys, missing = model_keys(arguments["model"], config.model_init_kwargs, arguments.get("quantization_config"))
        adapter, unsettled = adapter_keys(arguments.get("peft_config"))
        chosen, unknown = _selector_keys(selector)
        missing += unsettled + unknown
        for name, value in arguments.items():
            if name not in _READ and value not in (None, [], (None, None)):
                missing.append(f"{name} was passed to the trainer in Python")
        parent = origin(arguments["train_dataset"])
        plain: dict[str, Any] = {}
        for name, value in {**keys, **adapter, **chosen}.items():
            missing += _put(plain, name, value, drop_tokens=name != "selector_kwargs")
        held_out = arguments.get("eval_dataset")
        return cls(plain, missing, parent, _evaluation(held_out), _split_beside(parent, held_out))

    def provenance(self, config: SelectiveSFTConfig, model_config: Any) -> dict[str, Any]:
        """The record as a selection keeps it: `model`, `settings` (keys and values of the recipe) and `in_python`."""
        settings, missing = dict(self.keys), list(self.in_python)
        commit = getattr(model_config, "_commit_hash", None)
        if commit is not None and "model_name_or_path" in settings:
            settings["model_revision"] = commit
        for name, value in changed_settings(config).items():
            missing += _put(settings, name, value)
        missing += self._evaluated(config, settings)
        if config.world_size > 1:
            missing.append(f"it ran in {config.world_size} processes: start it with torchrun or accelerate launch")
        elif config.n_gpu > 1:
            missing.append(f"each batch was spread over {config.n_gpu} GPUs")
        model = settings.get("model_name_or_path") or str(getattr(model_config, "model_type", "a model"))
        return {"model": model, "settings": settings, "in_python": missing}

    def _evaluated(self, config: SelectiveSFTConfig, settings: dict[str, Any]) -> list[str]:
        """Leave out the keys of an evaluation on rows that a recipe cannot name."""
        during = str(getattr(config.eval_strategy, "value", config.eval_strategy)) != "no"
        if during and self.evaluation_split is not None:
            if self.evaluation_split != "test":
                settings["dataset_test_split"] = self.evaluation_split
            return []
        if during and settings.get("lr_scheduler_type") in _FOLLOWS_EVALUATION:
            return ["the learning rate follows evaluations on other rows: name them with dataset_test_split"]
        for name in [name for name in settings if name.startswith(_EVALUATION)]:
            del settings[name]
        return ["the run was evaluated on rows that the recipe does not name"] if during else []


def changed_settings(config: SelectiveSFTConfig) -> dict[str, Any]:
    """Fields that differ from their defaults, as the user gave them; without secrets and what is not of the run."""
    given, found = config.given(), {}
    for each in fields(config):
        name = each.name
        if name in _ELSEWHERE or name.startswith(_NOT_THE_RUN) or ("token" in name and name not in _WITH_TOKEN):
            continue
        value, default = given.get(name), default_of(each)
        if each.init and value != default and not (_is_empty(value) and _is_empty(default)):
            found[name] = value
    return found


def _put(keys: dict[str, Any], name: str, value: Any, drop_tokens: bool = True) -> list[str]:
    """Add a key in plain values; says what of it has to be added by hand."""
    if value is None:
        return [f"`{name}: null` has to be added to the recipe as a file"]
    try:
        value = _plain(value, drop_tokens)
    except TypeError as error:
        return [f"{name} holds {error}, which no recipe can"]
    if value == {}:
        return []
    local = dict.fromkeys(_local_names(value, name))
    keys[name] = _without_folders(value, name)
    return [f"{each!r} in {name} is a file or folder of one machine: put its path in its place" for each in local]


def _plain(value: Any, drop_tokens: bool = True) -> Any:
    """As JSON and YAML have it.

    Raises:
        TypeError: it is of a kind that they have not.
    """
    if value is None or isinstance(value, bool | int | float) or type(value) is str:
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str | Path):
        return str(value)
    if isinstance(value, Mapping):
        kept = {str(key): each for key, each in value.items() if not (drop_tokens and "token" in str(key).lower())}
        return {key: _plain(each, drop_tokens) for key, each in kept.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, drop_tokens) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(_plain(each, drop_tokens) for each in value)
    if type(value).__name__ == "dtype":
        return str(value).removeprefix("torch.")
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict(), drop_tokens)
    raise TypeError(f"a {type(value).__name__}")


def _is_local(value: str, name: str) -> bool:
    """Whether a setting of this name is a file or folder here; a bare word may be one where the name says so."""
    path = os.path.expanduser(value)
    inside = (os.sep in value or name.endswith(_ON_DISK)) and os.path.exists(path)
    return os.path.isabs(path) or value.startswith(("./", "../")) or (inside and bool(value))


def _local_names(value: Any, name: str) -> list[str]:
    """Names, without their folders, of the files and folders in the plain value of a setting."""
    if isinstance(value, str):
        return [_without_folders(value, name)] if _is_local(value, name) else []
    if isinstance(value, dict):
        return [found for key, each in value.items() for found in _local_names(each, key)]
    return [found for each in (value if isinstance(value, list) else []) for found in _local_names(each, name)]


def _without_folders(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_folders(each, name) for each in value]
    if isinstance(value, str) and _is_local(value, name):
        return os.path.basename(value.rstrip(os.sep)) or "root"
    return value


def _selector_keys(selector: Selector) -> tuple[dict[str, Any], list[str]]:
    spec = selector.spec()
    name, kind = spec.pop("selector"), type(selector)
    kwargs = {each.name: spec[each.name] for each in fields(selector) if spec[each.name] != default_of(each)}
    keys: dict[str, Any] = {"selector": name} | ({"selector_kwargs": kwargs} if kwargs else {})
    if ":" not in name:
        return keys, []
    keys["allow_imports"] = True
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        return keys, [f"the selector {kind.__name__} is defined in the program itself: put it into a module"]
    return keys, [f"the selector {name} is code outside hf_datasel, and has to be installed"]


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", [], {})


def _evaluation(rows: Any) -> dict[str, dict[str, str]]:
    if isinstance(rows, Mapping):
        return {f"eval_{name}": known["eval"] for name, each in rows.items() if (known := _evaluation(each))}
    return {} if rows is None else {"eval": origin(rows) if isinstance(rows, Dataset) else {}}


def _split_beside(parent: Mapping[str, str], rows: Any) -> str | None:
    """The split of the parent's dataset that these rows are, if they are one."""
    known = origin(rows) if isinstance(rows, Dataset) else {}
    beside = bool(known) and all(known[key] == parent.get(key) for key in ("name", "revision", "config"))
    return known["split"] if beside and _split_size(rows) == len(rows) else None


def _split_size(rows: Dataset) -> int | None:
    """Rows that the split has on the Hub; None where that is not known."""
    split = (rows.info.splits or {}).get(str(rows.split))
    return split.num_examples if split is not None and origin(rows) else None
