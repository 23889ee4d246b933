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
from transformers import AutoTokenizer, ProcessorMixin, TrainingArguments
from trl import SFTConfig

from hf_datasel.errors import ConfigError, FormatError
from hf_datasel.formats import Pool, converted, detect_format
from hf_datasel.rounds.selector import Selector
from hf_datasel.selectors import by_name
from hf_datasel.training.config import SelectiveSFTConfig, default_of
from hf_datasel.training.run_config import Record

__all__ = ["check_private_names", "check_tokenizer", "evaluation_rows", "mixed_seed", "prepared_arguments"]

logger = logging.getLogger(__name__)

_AS_THEY_ARE = ("prompt-completion", "messages", "text")
"""Formats that `SFTTrainer` reads itself."""

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
    "_push_from_checkpoint": ("checkpoint_folder",),
    "log": ("logs", "start_time"),
    "evaluate": ("eval_dataset", "ignore_keys", "metric_key_prefix"),
    "predict": ("test_dataset", "ignore_keys", "metric_key_prefix"),
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
        arguments["eval_dataset"] = evaluation_rows(arguments["eval_dataset"], chat, config.dataset_text_field)
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
    if more := _added(config):
        raise ConfigError(
            f"args is a {type(config).__name__}, and what that class adds ({', '.join(more)}) would be lost. Derive "
            "it from SelectiveSFTConfig."
        )
    names = [each.name for each in dataclasses.fields(config) if each.init and each.name in fields]
    values = {name: getattr(config, name) for name in names}
    device = {name: values[name] for name in ("use_cpu", "bf16", "fp16")}
    usual = SFTConfig(config.output_dir, **device)
    selective = SelectiveSFTConfig(**values)
    given = selective.given()
    derived = [name for name in given if name not in device and values.get(name) == getattr(usual, name, given)]
    selective.settle(given | {name: default_of(fields[name]) for name in derived})
    return selective


def _added(config: TrainingArguments) -> list[str]:
    """What a class derived from `SFTConfig` or `TrainingArguments` has besides: fields, methods, properties."""
    own: dict[str, None] = {}
    for kind in type(config).__mro__:
        if kind in (SFTConfig, TrainingArguments):
            break
        names = [*vars(kind), *vars(kind).get("__annotations__", ())]
        own |= dict.fromkeys(name for name in names if not name.startswith("__"))
    return [name for name in own if name not in SFTConfig.__dataclass_fields__]


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
    if isinstance(dataset, Dataset):
        _check_text_field(dataset.column_names, config.dataset_text_field)
    if arguments.get("formatting_func") is not None:
        raise ConfigError(
            "formatting_func makes plain text of the rows, so that no response is left to score. Map the dataset to "
            "prompt and completion columns instead."
        )
    if (config.dataset_kwargs or {}).get("skip_prepare_dataset"):
        raise ConfigError("skip_prepare_dataset leaves no tokens to select from. Leave it out.")
    check_tokenizer(arguments.get("processing_class"))


def check_tokenizer(processing_class: Any) -> None:
    """Refuse a processor of text and images: it does not mark the tokens of rows as its tokenizer does.

    Raises:
        ConfigError: says what to pass instead.
    """
    if isinstance(processing_class, ProcessorMixin):
        raise ConfigError(
            f"The processing class is a {type(processing_class).__name__}, which is made for more than text, and rows "
            "are text. Pass its tokenizer: processing_class=processor.tokenizer. Where that has no chat_template, "
            "give it the processor's."
        )


def _check_text_field(columns: list[str], text_field: str) -> None:
    """Refuse rows that are plain text in another column than the one that is read.

    Raises:
        ConfigError: `dataset_text_field` names it.
    """
    if text_field != "text" and detect_format([*columns, "text"]) == "text" and {text_field, "text"} & set(columns):
        raise ConfigError(
            f"dataset_text_field={text_field!r}: plain text is read from the column 'text' alone, and the columns are "
            f"{columns}. Leave dataset_text_field out, and give that name to the column: dataset.rename_column(...)."
        )


def _has_chat_template(arguments: dict[str, Any], config: SelectiveSFTConfig) -> bool:
    if config.chat_template_path is not None:
        return True
    processing_class = arguments.get("processing_class")
    if processing_class is None:
        model = arguments["model"]
        name = model if isinstance(model, str) else model.config.name_or_path
        revision = (config.model_init_kwargs or {}).get("revision") if isinstance(model, str) else None
        processing_class = AutoTokenizer.from_pretrained(
            name, revision=revision, trust_remote_code=config.trust_remote_code
        )
    return getattr(processing_class, "chat_template", None) is not None


def evaluation_rows(dataset: Any, chat: bool, text_field: str) -> Any:
    """Evaluation rows in columns that `SFTTrainer` takes, without the malformed ones.

    Args:
        dataset: rows, or several sets of them by name. What is no set of rows, or is tokenised already, stays.
        chat: whether the tokenizer has a chat template.
        text_field: `dataset_text_field` of the config.

    Raises:
        ConfigError: streaming rows in columns that `SFTTrainer` does not take, or a `dataset_text_field` of its own.
        FormatError: rows in no supported format, or none that can be used.
    """
    if isinstance(dataset, dict):
        return {name: evaluation_rows(each, chat, text_field) for name, each in dataset.items()}
    if isinstance(dataset, IterableDataset):
        _check_stream(dataset, text_field)
        return dataset
    if not isinstance(dataset, Dataset) or "input_ids" in dataset.column_names:
        return dataset
    _check_text_field(dataset.column_names, text_field)
    pool = Pool(dataset)
    if (pool.reasons != "").any():
        logger.warning("eval_dataset: %s", pool.summary())
    return converted(pool, chat)


def _check_stream(dataset: IterableDataset, text_field: str) -> None:
    columns = dataset.column_names or list(next(iter(dataset), {}))
    if "input_ids" in columns:
        return
    _check_text_field(columns, text_field)
    if (format := detect_format(columns)) not in _AS_THEY_ARE:
        raise ConfigError(
            f"The rows to evaluate on are streaming, and {format} rows are converted only where they are loaded "
            "whole. Load them with streaming=False, or map them to the columns prompt and completion."
        )


def mixed_seed(seed: int, epoch: int) -> int:
    """A seed for an epoch that no other epoch or run seed gives."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
