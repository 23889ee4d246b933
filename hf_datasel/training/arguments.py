"""Preparing and checking the arguments of `SelectiveSFTTrainer` before `SFTTrainer` receives them."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from transformers import AutoTokenizer, ProcessorMixin, TrainingArguments
from trl import SFTConfig

from hf_datasel.errors import ConfigError, FormatError
from hf_datasel.formats import Pool, convert_pool
from hf_datasel.formats.convert import convert_stream
from hf_datasel.formats.mapping import applicable
from hf_datasel.rounds.selector import Selector
from hf_datasel.selectors import get_selector
from hf_datasel.spec import default_of, from_name
from hf_datasel.tokens.processes import main_process_first
from hf_datasel.tokens.tool_calls import conversion_options
from hf_datasel.training.config import SelectiveSFTConfig
from hf_datasel.training.read_rows import FormattingFunction, column_mapping, read_rows, row_text, text_mapping
from hf_datasel.training.run_config import RunConfig

__all__ = ["SelectorLike", "check_labels", "check_processing_class", "evaluation_rows", "prepare_arguments"]

logger = logging.getLogger(__name__)

SelectorLike = Selector | str | Mapping[str, Any]
"""A selector, its name, or its name with its settings: `IterIT()`, `"iterit"` or `{"top": {"by": "ifd"}}`."""


def prepare_arguments(
    base: type, trainer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], selector: SelectorLike | None
) -> tuple[dict[str, Any], Pool, Selector, RunConfig, FormattingFunction | None]:
    """Bind, check and convert the arguments of the trainer.

    Args:
        base: `SFTTrainer`, whose signature names the arguments.
        trainer: The trainer being constructed.
        args: Positional arguments.
        kwargs: Keyword arguments.
        selector: The argument `selector`.

    Returns:
        The arguments for `SFTTrainer`, by name, with converted rows; the pool; the selector; the settings of the
        run as they were passed; and the formatting function, which has been applied.

    Raises:
        ConfigError: Settings that contradict each other, or a dataset that cannot be selected from.
        FormatError: Rows in no supported format, or none that can be trained on.
    """
    # mypy warns of __init__ read from an instance, whose class may differ; base is a class
    arguments = dict(inspect.signature(base.__init__).bind(trainer, *args, **kwargs).arguments)  # type: ignore[misc]
    arguments.pop("self")
    config = _as_selective(arguments.get("args"), arguments["model"])
    arguments["args"] = config
    _check_arguments(arguments, config)
    resolved = _resolve_selector(config, selector)
    formatting_func = arguments.get("formatting_func")
    pool = read_rows(arguments["train_dataset"], config, formatting_func)
    run_config = RunConfig.from_arguments(arguments, config, resolved)
    if not type(trainer).__module__.startswith("hf_datasel."):
        run_config.in_python.append(f"the trainer was {type(trainer).__name__}, which is defined in Python")
    options = _conversion_options(arguments, config)
    num_malformed = int((~pool.usable).sum())
    if num_malformed:
        logger.warning("train_dataset: %s", pool.summary())
    with main_process_first(pool.dataset):
        arguments["train_dataset"] = convert_pool(pool, **options, num_proc=config.dataset_num_proc)
    arguments["formatting_func"] = None
    if num_malformed == len(pool):
        raise FormatError("No row can be trained on.")
    if arguments.get("eval_dataset") is not None:
        arguments["eval_dataset"] = evaluation_rows(arguments["eval_dataset"], options, config, formatting_func)
    return arguments, pool, resolved, run_config, formatting_func


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
    if (config.dataset_kwargs or {}).get("skip_prepare_dataset"):
        raise ConfigError("skip_prepare_dataset leaves the rows without tokens to score. Remove it.")
    if config.packing and config.max_length is None:
        raise ConfigError("packing=True needs max_length, the length of the packed sequences, and it is None.")
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


def check_labels(tokens: Any, num_rows: int, config: Any, name: str) -> None:
    """Raise if tokenized rows are empty because truncation left no row with a label.

    Args:
        tokens: The rows as `SFTTrainer` prepared them.
        num_rows: Number of rows before.
        config: Config of the run.
        name: Name of the dataset, for the message.

    Raises:
        ConfigError: Names `max_length`.
    """
    if num_rows and isinstance(tokens, Dataset) and not len(tokens):
        raise ConfigError(
            f"max_length={config.max_length} leaves no token to train on in any of the {num_rows:,} rows of {name}: "
            f"with truncation_mode={config.truncation_mode!r} the part of a row that is kept ends before its labels "
            "begin. Raise max_length."
        )


def _conversion_options(arguments: dict[str, Any], config: SelectiveSFTConfig) -> dict[str, bool]:
    """Return the arguments of `convert_pool` that depend on the chat template that `SFTTrainer` is going to use."""
    path, template = config.chat_template_path, None
    if path is not None and os.path.isfile(path) and path.endswith((".jinja", ".j2")):
        template = Path(path).read_text(encoding="utf-8")
    elif path is not None:
        return conversion_options(AutoTokenizer.from_pretrained(path))
    processing_class = arguments.get("processing_class")
    if processing_class is None:
        model = arguments["model"]
        name = model if isinstance(model, str) else model.config.name_or_path
        revision = (config.model_init_kwargs or {}).get("revision") if isinstance(model, str) else None
        processing_class = AutoTokenizer.from_pretrained(
            name, revision=revision, trust_remote_code=config.trust_remote_code
        )
    return conversion_options(processing_class, template)


def evaluation_rows(
    dataset: Any,
    options: Mapping[str, bool],
    config: SelectiveSFTConfig,
    formatting_func: FormattingFunction | None = None,
    name: str = "eval_dataset",
) -> Any:
    """Convert evaluation rows to columns that `SFTTrainer` reads, without malformed rows.

    Args:
        dataset: A dataset, or several by name. Tokenized datasets are returned as they are, unless `columns` of the
            config names their columns, and so are other values.
        options: Arguments of `convert_pool` that depend on the chat template.
        config: The config, with `dataset_text_field` and `columns`.
        formatting_func: `formatting_func` of the trainer.
        name: Name of the dataset in messages.

    Raises:
        ConfigError: A dataset without rows.
        FormatError: Rows in no supported format, in a list or in a table of pandas; or none that can be used.
    """
    if isinstance(dataset, dict):
        return {
            key: evaluation_rows(rows, options, config, formatting_func, f"eval_dataset[{key!r}]")
            for key, rows in dataset.items()
        }
    if isinstance(dataset, IterableDataset):
        return _evaluation_stream(dataset, options, config, formatting_func)
    if isinstance(dataset, Dataset) and not len(dataset):
        raise ConfigError(
            f"{name} has no rows, so that there is nothing to evaluate on. Pass other rows, or leave it out and set "
            "eval_strategy='no'."
        )
    if isinstance(dataset, list) or type(dataset).__module__.startswith(("pandas", "polars")):
        try:
            return Pool(dataset)  # raises, and says how to convert them
        except FormatError as error:
            raise FormatError(f"{name} cannot be read. {error}") from error
    if not isinstance(dataset, Dataset) or _is_tokenized(dataset.column_names, config):
        return dataset
    pool = read_rows(dataset, config, formatting_func, is_pool=False)
    if not pool.usable.all():
        logger.warning("%s: %s", name, pool.summary())
    return convert_pool(pool, **options, num_proc=config.dataset_num_proc)


def _is_tokenized(columns: Sequence[str], config: SelectiveSFTConfig) -> bool:
    return "input_ids" in columns and applicable(column_mapping(config), columns) is None


def _evaluation_stream(
    stream: IterableDataset,
    options: Mapping[str, bool],
    config: SelectiveSFTConfig,
    formatting_func: FormattingFunction | None,
) -> IterableDataset:
    columns = stream.column_names or list(next(iter(stream), {}))
    if _is_tokenized(columns, config):
        return stream
    if formatting_func is not None:
        stream = stream.map(row_text, fn_kwargs={"formatting_func": formatting_func}, remove_columns=columns)
        return convert_stream(stream, ["text"], None, **options)
    mapping = applicable(column_mapping(config), columns) or text_mapping(stream, columns, config)
    return convert_stream(stream, columns, mapping, **options)
