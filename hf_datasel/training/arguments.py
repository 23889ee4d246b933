"""Preparing and checking the arguments of `SelectiveSFTTrainer` before `SFTTrainer` receives them."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import os
from collections.abc import Mapping
from typing import Any

from datasets import Dataset, IterableDataset
from transformers import AutoTokenizer, ProcessorMixin, TrainingArguments
from trl import SFTConfig

from hf_datasel.errors import ConfigError, FormatError
from hf_datasel.formats import Pool, convert_pool, detect_format
from hf_datasel.rounds.selector import Selector
from hf_datasel.selectors import get_selector
from hf_datasel.spec import default_of, from_name
from hf_datasel.training.config import SelectiveSFTConfig
from hf_datasel.training.run_config import RunConfig

__all__ = ["SelectorLike", "check_processing_class", "evaluation_rows", "prepare_arguments"]

logger = logging.getLogger(__name__)

SelectorLike = Selector | str | Mapping[str, Any]
"""A selector, its name, or its name with its settings: `IterIT()`, `"iterit"` or `{"top": {"by": "ifd"}}`."""

_TRL_FORMATS = ("prompt-completion", "messages", "text")
"""Formats that `SFTTrainer` reads itself."""


def prepare_arguments(
    base: type, trainer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], selector: SelectorLike | None
) -> tuple[dict[str, Any], Pool, Selector, RunConfig]:
    """Bind, check and convert the arguments of the trainer.

    Args:
        base: `SFTTrainer`, whose signature names the arguments.
        trainer: The trainer being constructed.
        args: Positional arguments.
        kwargs: Keyword arguments.
        selector: The argument `selector`.

    Returns:
        The arguments for `SFTTrainer`, by name, with converted rows; the pool; the selector; and the settings of the
        run as they were passed.

    Raises:
        ConfigError: Settings that contradict each other, or a dataset that cannot be selected from.
        FormatError: Rows in no supported format, or none that can be trained on.
    """
    arguments = dict(inspect.signature(base.__init__).bind(trainer, *args, **kwargs).arguments)  # type: ignore[misc]
    arguments.pop("self")
    config = _as_selective(arguments.get("args"), arguments["model"])
    arguments["args"] = config
    _check_arguments(arguments, config)
    resolved = _resolve_selector(config, selector)
    pool = Pool(arguments["train_dataset"])
    run_config = RunConfig.from_arguments(arguments, config, resolved)
    if not type(trainer).__module__.startswith("hf_datasel."):
        run_config.in_python.append(f"the trainer was {type(trainer).__name__}, which is defined in Python")
    chat = _has_chat_template(arguments, config)
    num_malformed = int((pool.reasons != "").sum())
    if num_malformed:
        logger.warning("train_dataset: %s", pool.summary())
    arguments["train_dataset"] = convert_pool(pool, chat)
    if num_malformed == len(pool):
        raise FormatError("No row can be trained on.")
    if arguments.get("eval_dataset") is not None:
        arguments["eval_dataset"] = evaluation_rows(arguments["eval_dataset"], chat, config.dataset_text_field)
    return arguments, pool, resolved, run_config


def _as_selective(config: Any, model: Any) -> SelectiveSFTConfig:
    """Return the config as a `SelectiveSFTConfig`; other configs get the default selection."""
    if isinstance(config, SelectiveSFTConfig):
        return config
    if config is None:
        name = model if isinstance(model, str) else getattr(model.config, "name_or_path", "") or "model"
        return SelectiveSFTConfig(f"{os.path.basename(name)}-SelectiveSFT")
    if not isinstance(config, TrainingArguments | SFTConfig):
        raise ConfigError(f"args has to be a SelectiveSFTConfig, but is {type(config).__name__}.")
    if additions := _class_additions(config):
        raise ConfigError(
            f"args is a {type(config).__name__}, but what that class adds ({', '.join(additions)}) would be lost. "
            "Derive it from SelectiveSFTConfig."
        )
    own = SelectiveSFTConfig.__dataclass_fields__
    names = [field.name for field in dataclasses.fields(config) if field.init and field.name in own]
    values = {name: getattr(config, name) for name in names}
    # values that TRL or transformers derived are not those of the user, except for the device
    device = {name: values[name] for name in ("use_cpu", "bf16", "fp16")}
    usual = SFTConfig(config.output_dir, **device)
    selective = SelectiveSFTConfig(**values)
    user_values = selective.user_values()
    derived = [
        name
        for name in user_values
        if name not in device and hasattr(usual, name) and values.get(name) == getattr(usual, name)
    ]
    selective.mark_derived(user_values | {name: default_of(own[name]) for name in derived})
    return selective


def _class_additions(config: TrainingArguments) -> list[str]:
    """Return the fields, methods and properties that a class derived from TRL's or transformers' config adds."""
    own: dict[str, None] = {}
    for kind in type(config).__mro__:
        if kind in (SFTConfig, TrainingArguments):
            break
        names = [*vars(kind), *vars(kind).get("__annotations__", ())]
        own |= dict.fromkeys(name for name in names if not name.startswith("__"))
    return [name for name in own if name not in SFTConfig.__dataclass_fields__]


def _resolve_selector(config: SelectiveSFTConfig, selector: SelectorLike | None) -> Selector:
    """Return the selector that the argument or the config names."""
    if selector is None:
        kwargs = config.selector_kwargs
        if kwargs is not None and not isinstance(kwargs, dict):
            raise ConfigError(f"selector_kwargs has to be a dict, but is {kwargs!r}.")
        return get_selector(config.selector, kwargs)
    default = SelectiveSFTConfig.__dataclass_fields__["selector"].default
    if config.selector != default or config.selector_kwargs is not None:
        raise ConfigError(
            f"The selector is passed twice: selector={selector!r} to the trainer, and selector={config.selector!r} "
            f"with selector_kwargs={config.selector_kwargs} in args. Remove one of the two."
        )
    resolved = from_name(selector, "selector")
    if not isinstance(resolved, Selector):
        raise ConfigError(f"selector has to be a Selector such as IterIT(), or its name, but is {selector!r}.")
    return resolved


def _check_arguments(arguments: dict[str, Any], config: SelectiveSFTConfig) -> None:
    dataset = arguments.get("train_dataset")
    if dataset is None:
        raise ConfigError("train_dataset is required: it is the pool that rows are selected from.")
    if isinstance(dataset, IterableDataset):
        raise ConfigError("train_dataset is streaming, so its rows have no numbers. Load it with streaming=False.")
    if isinstance(dataset, Dataset) and len(dataset) == 0:
        raise ConfigError("train_dataset is empty, so that there is nothing to select from.")
    if isinstance(dataset, Dataset):
        _check_text_field(dataset.column_names, config.dataset_text_field)
    if arguments.get("formatting_func") is not None:
        raise ConfigError(
            "formatting_func turns rows into plain text, which has no response to score. Map the dataset to prompt "
            "and completion columns instead."
        )
    if (config.dataset_kwargs or {}).get("skip_prepare_dataset"):
        raise ConfigError("skip_prepare_dataset leaves the rows without tokens to score. Remove it.")
    check_processing_class(arguments.get("processing_class"))


def check_processing_class(processing_class: Any) -> None:
    """Raise if the processing class is a multimodal processor, which does not mark the tokens of text rows.

    Raises:
        ConfigError: Says what to pass instead.
    """
    if isinstance(processing_class, ProcessorMixin):
        raise ConfigError(
            f"The processing class is a {type(processing_class).__name__}, a processor of more than text, but rows "
            "are text. Pass its tokenizer: processing_class=processor.tokenizer. If the tokenizer has no "
            "chat_template, set it to that of the processor."
        )


def _check_text_field(columns: list[str], text_field: str) -> None:
    """Raise if rows are plain text in another column than "text", which is the only one that is read."""
    if text_field != "text" and detect_format([*columns, "text"]) == "text" and {text_field, "text"} & set(columns):
        raise ConfigError(
            f"dataset_text_field={text_field!r}: plain text is read from the column 'text' only, but the columns are "
            f"{columns}. Remove dataset_text_field, and rename the column: dataset.rename_column({text_field!r}, "
            "'text')."
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
    """Convert evaluation rows to columns that `SFTTrainer` reads, without malformed rows.

    Args:
        dataset: A dataset, or several by name. Tokenized datasets and other values are returned as they are.
        chat: Whether the tokenizer has a chat template.
        text_field: `dataset_text_field` of the config.

    Raises:
        ConfigError: Streaming rows in columns that `SFTTrainer` does not read, or plain text in another column than
            "text".
        FormatError: Rows in no supported format, or none that can be used.
    """
    if isinstance(dataset, dict):
        return {name: evaluation_rows(rows, chat, text_field) for name, rows in dataset.items()}
    if isinstance(dataset, IterableDataset):
        _check_stream(dataset, text_field)
        return dataset
    if not isinstance(dataset, Dataset) or "input_ids" in dataset.column_names:
        return dataset
    _check_text_field(dataset.column_names, text_field)
    pool = Pool(dataset)
    if (pool.reasons != "").any():
        logger.warning("eval_dataset: %s", pool.summary())
    return convert_pool(pool, chat)


def _check_stream(dataset: IterableDataset, text_field: str) -> None:
    columns = dataset.column_names or list(next(iter(dataset), {}))
    if "input_ids" in columns:
        return
    _check_text_field(columns, text_field)
    row_format = detect_format(columns)
    if row_format not in _TRL_FORMATS:
        raise ConfigError(
            f"The evaluation rows are streaming, but {row_format} rows are converted only when they are loaded in "
            "full. Load them with streaming=False, or map them to the columns prompt and completion."
        )
