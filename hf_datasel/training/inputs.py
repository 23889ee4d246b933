"""What `SelectiveSFTTrainer` makes of its arguments before `SFTTrainer` sees them."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import os
from typing import Any

import numpy as np
import transformers
import trl
from datasets import Dataset, IterableDataset
from transformers import AutoTokenizer, TrainingArguments
from trl import SFTConfig

from hf_datasel.errors import ConfigError, FormatError
from hf_datasel.formats import Pool, converted
from hf_datasel.selectors import Selector, by_name
from hf_datasel.training.config import SelectiveSFTConfig, default_of
from hf_datasel.training.record import Record

__all__ = ["check_private_names", "mixed_seed", "prepared_arguments"]

logger = logging.getLogger(__name__)

PRIVATE_NAMES: dict[str, tuple[str, ...]] = {
    "_prepare_dataset": ("dataset", "processing_class", "args", "packing", "formatting_func", "dataset_name"),
    "set_initial_training_values": ("args", "dataloader"),
    "_init_training_state": (
        "max_steps", "num_update_steps_per_epoch", "num_train_epochs", "resume_from_checkpoint", "trial",
    ),
    "_run_epoch": ("epoch", "train_dataloader", "steps_in_epoch", "num_update_steps_per_epoch"),
    "create_scheduler": ("num_training_steps", "optimizer"),
    "_get_train_sampler": ("train_dataset",),
    "save_model": ("output_dir", "_internal_call"),
    "_save": ("output_dir", "state_dict"),
    "log": ("logs", "start_time"),
    "evaluate": ("eval_dataset", "ignore_keys", "metric_key_prefix"),
    "create_model_card": ("model_name", "dataset_name", "tags"),
    "init_hf_repo": ("token",),
    "push_to_hub": ("commit_message", "blocking", "token", "revision"),
}  # fmt: skip
"""Methods of `SFTTrainer` and `Trainer` that are overridden, and the parameters that are relied on."""


def check_private_names(kind: type) -> None:
    """Refuse versions of TRL and transformers whose inner methods are not those that are overridden.

    Raises:
        ConfigError: names what moved.
    """
    for name, parameters in PRIVATE_NAMES.items():
        method = next((vars(base)[name] for base in trl.SFTTrainer.__mro__ if name in vars(base)), None)
        missing = [each for each in parameters if method is None or each not in inspect.signature(method).parameters]
        if missing:
            raise ConfigError(
                f"{kind.__name__} does not fit trl {trl.__version__} with transformers {transformers.__version__}: "
                f"{name} has no {', '.join(missing)}. Install the versions named in constraints.txt."
            )


def prepared_arguments(
    base: type, trainer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], selector: Selector | None
) -> tuple[dict[str, Any], Pool, Selector, Record]:
    """The arguments for `SFTTrainer`, with the rows converted; the pool; the selector; and what was passed."""
    arguments = dict(inspect.signature(base.__init__).bind(trainer, *args, **kwargs).arguments)  # type: ignore[misc]
    arguments.pop("self")
    config = _as_selective(arguments.get("args"), arguments["model"])
    arguments["args"] = config
    _refuse(arguments, config)
    chosen = _selector(config, selector)
    pool = Pool(arguments["train_dataset"])
    record = Record.of(arguments, config, chosen)
    if not type(trainer).__module__.startswith("hf_datasel."):
        record.in_python.append(f"the trainer was {type(trainer).__name__}, which is defined in Python")
    chat = _has_chat_template(arguments, config)
    if bad := int((pool.reasons != "").sum()):
        logger.warning("train_dataset: %s", pool.summary())
    arguments["train_dataset"] = converted(pool, chat)
    if bad == len(pool):
        raise FormatError("No row can be trained on.")
    if arguments.get("eval_dataset") is not None:
        arguments["eval_dataset"] = _converted_eval(arguments["eval_dataset"], chat)
    return arguments, pool, chosen, record


def _as_selective(config: Any, model: Any) -> SelectiveSFTConfig:
    """The config as ours: an `SFTConfig` or `TrainingArguments` gets the default selection."""
    if isinstance(config, SelectiveSFTConfig):
        return config
    if config is None:
        name = model if isinstance(model, str) else getattr(model.config, "name_or_path", "") or "model"
        return SelectiveSFTConfig(f"{os.path.basename(name)}-SelectiveSFT")
    if not isinstance(config, TrainingArguments | SFTConfig):
        raise ConfigError(f"args has to be a SelectiveSFTConfig, and is {type(config).__name__}.")
    fields = SelectiveSFTConfig.__dataclass_fields__
    names = [each.name for each in dataclasses.fields(config) if each.init and each.name in fields]
    values = {name: getattr(config, name) for name in names}
    device = {name: values[name] for name in ("use_cpu", "bf16", "fp16")}
    usual = SFTConfig(config.output_dir, **device)
    selective = SelectiveSFTConfig(**values)
    given = selective.given()
    derived = [name for name in given if name not in device and values.get(name) == getattr(usual, name, given)]
    selective.settle(given | {name: default_of(fields[name]) for name in derived})
    return selective


def _selector(config: SelectiveSFTConfig, selector: Selector | None) -> Selector:
    if selector is None:
        kwargs = config.selector_kwargs
        if kwargs is not None and not isinstance(kwargs, dict):
            raise ConfigError(f"selector_kwargs has to be a dict, and is {kwargs!r}.")
        return by_name(config.selector, kwargs)
    if not isinstance(selector, Selector):
        raise ConfigError(f"selector has to be a Selector such as IterIT(), and is {selector!r}.")
    default = SelectiveSFTConfig.__dataclass_fields__["selector"].default
    if config.selector != default or config.selector_kwargs is not None:
        raise ConfigError(
            f"A selector is given twice: {selector!r}, and selector={config.selector!r} with "
            f"selector_kwargs={config.selector_kwargs} in args. Leave one of them out."
        )
    return selector


def _refuse(arguments: dict[str, Any], config: SelectiveSFTConfig) -> None:
    dataset = arguments.get("train_dataset")
    if dataset is None:
        raise ConfigError("train_dataset is required: it is the pool that rows are selected from.")
    if isinstance(dataset, IterableDataset):
        raise ConfigError("train_dataset is streaming, so that its rows have no numbers to select by. Load it whole.")
    if isinstance(dataset, Dataset) and len(dataset) == 0:
        raise ConfigError("train_dataset is empty, so that there is nothing to select from.")
    if arguments.get("formatting_func") is not None:
        raise ConfigError(
            "formatting_func makes plain text of the rows, so that no response is left to score. Map the dataset to "
            "prompt and completion columns instead."
        )
    if (config.dataset_kwargs or {}).get("skip_prepare_dataset"):
        raise ConfigError("skip_prepare_dataset leaves no tokens to select from. Leave it out.")


def _has_chat_template(arguments: dict[str, Any], config: SelectiveSFTConfig) -> bool:
    if config.chat_template_path is not None:
        return True
    processing_class = arguments.get("processing_class")
    if processing_class is None:
        model = arguments["model"]
        name = model if isinstance(model, str) else model.config.name_or_path
        revision = (config.model_init_kwargs or {}).get("revision") if isinstance(model, str) else None
        processing_class = AutoTokenizer.from_pretrained(name, revision=revision)
    return getattr(processing_class, "chat_template", None) is not None


def _converted_eval(dataset: Any, chat: bool) -> Any:
    """Evaluation rows in columns that `SFTTrainer` takes, without the malformed ones."""
    if isinstance(dataset, dict):
        return {name: _converted_eval(each, chat) for name, each in dataset.items()}
    if not isinstance(dataset, Dataset) or "input_ids" in dataset.column_names:
        return dataset
    pool = Pool(dataset)
    if (pool.reasons != "").any():
        logger.warning("eval_dataset: %s", pool.summary())
    return converted(pool, chat)


def mixed_seed(seed: int, epoch: int) -> int:
    """A seed for an epoch that no other epoch or run seed gives."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
