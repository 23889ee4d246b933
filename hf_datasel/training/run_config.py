"""The settings of a run as plain values, in the keys of a recipe that reproduces it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import ModelConfig, get_peft_config, get_quantization_config

from hf_datasel.hub.parents import parents_of
from hf_datasel.rounds.selector import Selector
from hf_datasel.scoring.setting_files import named_files
from hf_datasel.spec import changed_settings, default_of, describe_outside, outside_names
from hf_datasel.training.config import SelectiveSFTConfig

__all__ = ["EVALUATION", "NOT_OF_THE_RUN", "RunConfig", "adapter_keys", "model_keys", "plain", "run_settings"]

Keys = tuple[dict[str, Any], list[str]]
"""Keys of a recipe, and sentences on the settings that no key can express."""

_SEPARATE = ("selector", "selector_kwargs", "model_init_kwargs", "columns")
"""Fields of the config that are recorded from the objects themselves, or with the dataset."""
NOT_OF_THE_RUN = (
    "output_dir", "overwrite_output_dir", "logging_", "log_", "report_to", "run_name", "project", "trackio_", "hub_",
    "push_", "selection_repo_id", "disable_tqdm", "resume_from_checkpoint", "do_", "local_rank",
)  # fmt: skip
"""Prefixes of the fields that say where results are written and what is displayed."""
EVALUATION = (
    "eval_", "per_device_eval_", "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
    "prediction_loss_only", "include_for_metrics", "batch_eval_metrics", "label_names", "bf16_full_eval",
    "fp16_full_eval",
)  # fmt: skip
"""Prefixes of the fields that say how a run is evaluated."""
_SCHEDULERS_ON_METRICS = ("reduce_lr_on_plateau", "greedy")
_NOT_SECRET = ("scoring_tokens_per_batch", "eos_token", "pad_token", "average_tokens_across_devices")
"""Fields whose names contain "token" but that hold no secret."""
_MODEL_OR_FILE = ("model", "models", "model_name_or_path", "_path", "_file", "centroids")
"""Suffixes of the settings that name a model or a file, possibly without a folder."""
_OBJECTS = ("compute_loss_func", "data_collator", "optimizer_cls_and_kwargs", "optimizers")
"""Arguments in Python that decide the weights and that no key of a recipe can express."""
_RECORDED = ("model", "args", "train_dataset", "eval_dataset", "peft_config", "quantization_config")

_MODEL_DEFAULTS = {setting.name: setting.default for setting in fields(ModelConfig)}
_LORA_KEYS = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_parameters": "lora_target_parameters",
    "modules_to_save": "lora_modules_to_save",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}
"""Field of `peft.LoraConfig` -> key."""
_LORA_STATE = ("target_modules", "task_type", "base_model_name_or_path", "revision", "auto_mapping", "inference_mode")
"""Fields of `peft.LoraConfig` that are compared separately or are no settings."""


@dataclass
class RunConfig:
    """Settings of a run as plain values, recorded before the trainer changes any of them.

    Attributes:
        keys: Keys of the recipe that do not come from the config: model, adapter and selector.
        in_python: Short sentences on settings that the recipe cannot express.
        parent: Name, revision, configuration and split of the pool on the Hub, as far as they are known.
        evaluation: The same of each evaluation dataset, by the prefix of its metrics.
        evaluation_split: Split of the parent that is the evaluation dataset, if one is.
        objects: Names and settings of the functions and optimizers in Python that decide the weights, by argument.
    """

    keys: dict[str, Any]
    in_python: list[str]
    parent: dict[str, str]
    evaluation: dict[str, dict[str, str]] = field(default_factory=dict)
    evaluation_split: str | None = None
    objects: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any], config: SelectiveSFTConfig, selector: Selector) -> RunConfig:
        """Record the arguments of a trainer, by name and as they were passed."""
        quantization = arguments.get("quantization_config")
        model, unsettled = model_keys(arguments["model"], config.model_init_kwargs, quantization)
        adapter, unsettled_adapter = adapter_keys(arguments.get("peft_config"))
        selection, unsettled_selector = _selector_keys(selector)
        in_python = [*unsettled, *unsettled_adapter, *unsettled_selector]
        for name, value in arguments.items():
            if name == "formatting_func" and value is not None:
                function = getattr(value, "__qualname__", type(value).__name__)
                in_python.append(f"the text of each row was returned by formatting_func={function}, a Python function")
            elif name not in _RECORDED and value not in (None, [], (None, None)):
                in_python.append(f"{name} was passed to the trainer in Python")
        parent = parents_of(arguments["train_dataset"]).only
        keys: dict[str, Any] = {}
        for name, value in {**model, **adapter}.items():
            in_python += _add_key(keys, name, value)
        files = [os.path.basename(file["path"].rstrip(os.sep)) for file in named_files(selector)]
        for name, value in selection.items():  # selections record files with their digests
            in_python += _add_key(keys, name, value, drop_tokens=False, recorded=files)
        eval_dataset = arguments.get("eval_dataset")
        objects = {name: _describe_object(arguments[name]) for name in _OBJECTS if arguments.get(name) is not None}
        split = _split_of_parent(parent, eval_dataset)
        return cls(keys, in_python, parent, _evaluation_origins(eval_dataset), split, objects)

    def provenance(self, config: SelectiveSFTConfig, model_config: Any) -> dict[str, Any]:
        """Return the record for a selection: `model`, `settings` (keys and values of the recipe) and `in_python`."""
        settings, in_python = dict(self.keys), list(self.in_python)
        commit = getattr(model_config, "_commit_hash", None)
        if commit is not None and "model_name_or_path" in settings:
            settings["model_revision"] = commit
        for name, value in run_settings(config).items():
            in_python += _add_key(settings, name, value)
        in_python += self._settle_evaluation(config, settings)
        if config.world_size > 1:
            in_python.append(f"it ran in {config.world_size} processes: start it with torchrun or accelerate launch")
        elif config.n_gpu > 1:
            in_python.append(f"each batch was split over {config.n_gpu} GPUs")
        model = settings.get("model_name_or_path") or str(getattr(model_config, "model_type", "a model"))
        return {"model": model, "settings": settings, "in_python": in_python}

    def _settle_evaluation(self, config: SelectiveSFTConfig, settings: dict[str, Any]) -> list[str]:
        """Remove the keys of an evaluation on rows that a recipe cannot name."""
        evaluates = str(getattr(config.eval_strategy, "value", config.eval_strategy)) != "no"
        if evaluates and self.evaluation_split is not None:
            if self.evaluation_split != "test":
                settings["dataset_test_split"] = self.evaluation_split
            return []
        if evaluates and settings.get("lr_scheduler_type") in _SCHEDULERS_ON_METRICS:
            return ["the learning rate follows evaluations on other rows: name them with dataset_test_split"]
        for name in [name for name in settings if name.startswith(EVALUATION)]:
            del settings[name]
        return ["the run was evaluated on rows that the recipe does not name"] if evaluates else []


def run_settings(config: SelectiveSFTConfig) -> dict[str, Any]:
    """Return the fields that differ from their defaults, as the user passed them.

    Secrets, and fields that do not change the run, such as where it is logged, are excluded.
    """
    defaults = {setting.name: default_of(setting) for setting in fields(config)}
    return {
        name: value
        for name, value in changed_settings(config, config.user_values()).items()
        if name not in _SEPARATE
        and not name.startswith(NOT_OF_THE_RUN)
        and ("token" not in name or name in _NOT_SECRET)
        and not (_is_empty(value) and _is_empty(defaults[name]))
    }


# -- plain values -----------------------------------------------------------------------------------------------------
def _add_key(
    keys: dict[str, Any], name: str, value: Any, drop_tokens: bool = True, recorded: Sequence[str] = ()
) -> list[str]:
    """Add a key in plain values, and return sentences on what has to be added by hand."""
    if value is None:
        return [f"`{name}: null` has to be added to the recipe as a file"]
    try:
        value = plain(value, drop_tokens)
    except TypeError as error:
        return [f"{name} holds {error}, which a recipe cannot express"]
    if value == {}:
        return []
    local = [path for path in dict.fromkeys(_local_names(value, name)) if path not in recorded]
    keys[name] = _without_folders(value, name)
    return [f"{path!r} in {name} is a file or folder of one machine: replace it with its path" for path in local]


def plain(value: Any, drop_tokens: bool = True) -> Any:
    """Return a value in the types of JSON and YAML.

    Raises:
        TypeError: It has no such form.
    """
    if value is None or isinstance(value, bool | int | float) or type(value) is str:
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str | Path):
        return str(value)
    if isinstance(value, Mapping):
        shown = {key: item for key, item in value.items() if not (drop_tokens and "token" in str(key).lower())}
        return {str(key): plain(item, drop_tokens) for key, item in shown.items()}
    if isinstance(value, list | tuple):
        return [plain(item, drop_tokens) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(item, drop_tokens) for item in value)
    if type(value).__name__ == "dtype":
        return str(value).removeprefix("torch.")
    if hasattr(value, "to_dict"):
        return plain(value.to_dict(), drop_tokens)
    raise TypeError(f"a {type(value).__name__}")


def _describe_object(value: Any) -> Any:
    """Return the name of a function or class, and the settings of an optimizer, in the types of JSON."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_describe_object(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _describe_object(item) for key, item in value.items()}
    name = getattr(value, "__qualname__", type(value).__qualname__)
    settings = getattr(value, "defaults", None)
    return {name: _describe_object(settings)} if isinstance(settings, Mapping) else name


def _is_local(value: str, name: str) -> bool:
    """Return whether a setting is a local file or folder, also without a folder if its name says so."""
    path = os.path.expanduser(value)
    exists = (os.sep in value or name.endswith(_MODEL_OR_FILE)) and os.path.exists(path)
    return os.path.isabs(path) or value.startswith(("./", "../")) or (exists and bool(value))


def _local_names(value: Any, name: str) -> list[str]:
    """Return the names, without their folders, of the local files and folders in a setting."""
    if isinstance(value, str):
        return [_without_folders(value, name)] if _is_local(value, name) else []
    if isinstance(value, dict):
        return [path for key, item in value.items() for path in _local_names(item, key)]
    return [path for item in (value if isinstance(value, list) else []) for path in _local_names(item, name)]


def _without_folders(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item, name) for item in value]
    if isinstance(value, str) and _is_local(value, name):
        return os.path.basename(value.rstrip(os.sep)) or "root"
    return value


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", [], {})


# -- selector, datasets -----------------------------------------------------------------------------------------------
def _selector_keys(selector: Selector) -> Keys:
    spec = selector.spec()
    kwargs = {name: spec[name] for name in changed_settings(selector)}
    keys: dict[str, Any] = {"selector": spec["selector"]} | ({"selector_kwargs": kwargs} if kwargs else {})
    outside = outside_names(spec)
    return keys | ({"allow_imports": True} if outside else {}), describe_outside(outside)


def _evaluation_origins(dataset: Any) -> dict[str, dict[str, str]]:
    """Return the origin of each evaluation dataset, by the prefix of its metrics."""
    if isinstance(dataset, Mapping):
        origins = {name: _evaluation_origins(rows) for name, rows in dataset.items()}
        return {f"eval_{name}": inner["eval"] for name, inner in origins.items() if inner}
    if dataset is None:
        return {}
    return {"eval": parents_of(dataset).only if isinstance(dataset, Dataset) else {}}


def _split_of_parent(parent: Mapping[str, str], dataset: Any) -> str | None:
    """Return the split of the parent's repository that a dataset is, if it is a full one."""
    source = parents_of(dataset).only if isinstance(dataset, Dataset) else {}
    if not source or any(source[key] != parent.get(key) for key in ("name", "revision", "config")):
        return None
    return source["split"] if _split_size(dataset) == len(dataset) else None


def _split_size(dataset: Dataset) -> int | None:
    """Return the number of rows of the split on the Hub, if it is known."""
    split = (dataset.info.splits or {}).get(str(dataset.split))
    return split.num_examples if split is not None and parents_of(dataset).only else None


# -- model, adapter, quantization: the keys of `trl.ModelConfig` ------------------------------------------------------
def model_keys(model: Any, init_kwargs: Mapping[str, Any] | None, quantization: Any) -> Keys:
    """Return the recipe keys of a model.

    Args:
        model: Name or path of the model, or the model itself.
        init_kwargs: `model_init_kwargs` of the config, if the model is a name.
        quantization: `quantization_config` of the trainer, if the model is a name.
    """
    if not isinstance(model, str):
        return _loaded_model_keys(model)
    remaining = {name: value for name, value in (init_kwargs or {}).items() if value is not None}
    keys = {
        "model_name_or_path": model,
        "model_revision": remaining.pop("revision", None),
        "dtype": _dtype_name(remaining.pop("dtype", remaining.pop("torch_dtype", None))),
        "attn_implementation": remaining.pop("attn_implementation", None),
    }
    keys, unsettled = _with_quantization(keys, quantization or remaining.pop("quantization_config", None))
    if remaining.pop("trust_remote_code", False):
        keys["trust_remote_code"] = True
    return keys | ({"model_init_kwargs": remaining} if remaining else {}), unsettled


def adapter_keys(peft_config: Any) -> Keys:
    """Return the recipe keys of a `peft` config.

    `ModelConfig` reads a list of one name as a pattern over full module paths, so that one name is written as such.
    """
    if peft_config is None:
        return {}, []
    if type(peft_config).__name__ != "LoraConfig":
        kind = type(peft_config).__name__
        return {}, [f"the adapter is a {kind}: pass the same `peft_config=` to the trainer"]
    keys = {key: getattr(peft_config, name, None) for name, key in _LORA_KEYS.items()}
    keys = {name: sorted(value) if isinstance(value, set) else value for name, value in keys.items()}
    keys = {name: value for name, value in keys.items() if value not in (None, _MODEL_DEFAULTS[name])}
    modules = _sorted(peft_config.target_modules)
    if isinstance(modules, str):
        keys["lora_target_modules"] = [modules]
    elif modules:
        keys["lora_target_modules"] = modules if len(modules) > 1 else [rf"(.*\.)?{modules[0]}"]
    if peft_config.task_type not in (None, "CAUSAL_LM"):
        keys["lora_task_type"] = str(peft_config.task_type)
    rebuilt = get_peft_config(ModelConfig(use_peft=True, **keys))
    names = [setting.name for setting in fields(peft_config) if setting.init and setting.name not in _LORA_STATE]
    differs = [name for name in names if _sorted(getattr(rebuilt, name)) != _sorted(getattr(peft_config, name))]
    unsettled = f"the adapter has settings without a key: {', '.join(differs)} in its LoraConfig"
    return {"use_peft": True, **keys}, [unsettled] if differs else []


def _loaded_model_keys(model: Any) -> Keys:
    config = model.config
    name = getattr(config, "name_or_path", "")
    attention = getattr(config, "_attn_implementation", None)
    keys = {
        "model_name_or_path": name or None,
        "dtype": _dtype_name(model.dtype),
        "attn_implementation": None if attention == "sdpa" else attention,
    }
    keys, unsettled = _with_quantization(keys, getattr(config, "quantization_config", None))
    adapters = getattr(model, "peft_config", None)
    if isinstance(adapters, Mapping):
        adapter, unsettled_adapter = adapter_keys(next(iter(adapters.values())))
        keys |= adapter
        unsettled += unsettled_adapter
    if not name:
        return keys, ["the model was created in Python and has no name", *unsettled]
    return keys, ["the model was an object in Python: changes to it after loading are not recorded", *unsettled]


def _with_quantization(keys: dict[str, Any], quantization: Any) -> Keys:
    """Return the keys that differ from their defaults, with those of a quantized model."""
    keys = {name: value for name, value in keys.items() if value not in (None, _MODEL_DEFAULTS.get(name))}
    if quantization is None:
        return keys, []
    config = dict(quantization) if isinstance(quantization, Mapping) else quantization.to_dict()
    if config.get("load_in_4bit"):
        storage = config["bnb_4bit_quant_storage"]
        requested = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": config["bnb_4bit_quant_type"],
            "use_bnb_nested_quant": config["bnb_4bit_use_double_quant"],
            "bnb_4bit_quant_storage": None if storage == "uint8" else storage,
        }
    elif config.get("load_in_8bit"):
        requested = {"load_in_8bit": True}
    else:
        return keys, [f"the model is quantized with {config.get('quant_method', 'settings of its own')}"]
    requested = {name: value for name, value in requested.items() if value != _MODEL_DEFAULTS[name]}
    dtype = keys.get("dtype", _MODEL_DEFAULTS["dtype"])
    if dtype == "auto":
        return keys | requested, ["a quantized model cannot compute in dtype 'auto': name the dtype that was used"]
    rebuilt = get_quantization_config(ModelConfig(**requested, dtype=dtype)).to_dict()
    differs = [name for name, value in rebuilt.items() if name in config and config[name] != value]
    unsettled = f"the quantization has settings without a key: {', '.join(differs)}"
    return keys | requested, [unsettled] if differs else []


def _dtype_name(value: Any) -> str | None:
    return None if value is None else str(value).removeprefix("torch.")


def _sorted(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset | list | tuple) else value
