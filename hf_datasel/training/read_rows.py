"""Reading the datasets of a trainer: the row format, the text column, and the formatting function."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset, IterableDataset

from hf_datasel.errors import ConfigError
from hf_datasel.formats import Pool
from hf_datasel.formats.mapping import applicable
from hf_datasel.training.config import SelectiveSFTConfig

__all__ = ["FormattingFunction", "column_mapping", "read_rows", "row_text", "text_mapping"]

logger = logging.getLogger(__name__)

FormattingFunction = Callable[[dict[str, Any]], str]
"""Function that returns the text of a row."""


def read_rows(
    dataset: Any, config: SelectiveSFTConfig, formatting_func: FormattingFunction | None = None, is_pool: bool = True
) -> Pool:
    """Read a dataset as instruction rows, in the order in which `SFTTrainer` looks at it.

    Rows with `input_ids` are tokenized already, unless `columns` of the config names the columns to read. A formatting
    function returns the text of every row, and is not called for tokenized rows. `dataset_text_field` is the text if
    it names a column and there are no columns that `SFTTrainer` reads first.

    Args:
        dataset: The dataset.
        config: Config of the run.
        formatting_func: `formatting_func` of the trainer.
        is_pool: Whether `columns` of the config was made for these rows. Other rows are read with it if they have
            all columns that it names.

    Returns:
        The rows. With a formatting function they have a column `text`.

    Raises:
        ConfigError: The formatting function contradicts the columns or the config.
        FormatError: The rows are in no supported format.
    """
    names = dataset.column_names if isinstance(dataset, Dataset) else []
    mapping = column_mapping(config) if is_pool else applicable(column_mapping(config), names)
    if "input_ids" in names and mapping is None:
        if formatting_func is not None:
            logger.warning("formatting_func is not called, since the rows are tokenized already.")
        return Pool(dataset)
    if formatting_func is not None and names:
        _check_formatting_func(dataset, config)
        texts = dataset.map(
            row_text, fn_kwargs={"formatting_func": formatting_func}, desc="Applying formatting function"
        )
        return Pool(texts, {"text": "text"})
    return Pool(dataset, mapping or text_mapping(dataset, names, config))


def text_mapping(
    rows: Dataset | IterableDataset, names: Sequence[str], config: SelectiveSFTConfig
) -> dict[str, str] | None:
    """Return the mapping that reads `dataset_text_field` as the text; None if it names no column that is read.

    Args:
        rows: Rows that are not tokenized.
        names: Names of their columns.
        config: Config of the run.
    """
    field = config.dataset_text_field
    if field == "text" or field not in names or _columns_read_first(rows, names):
        return None
    return {"text": field}


def column_mapping(config: SelectiveSFTConfig) -> dict[str, str] | None:
    """Return `columns` of the config.

    Raises:
        ConfigError: It is no mapping.
    """
    if config.columns is not None and not isinstance(config.columns, dict):
        raise ConfigError(
            f"columns has to be a dict such as {{'prompt': 'question', 'completion': 'answer'}}, but is "
            f"{config.columns!r}."
        )
    return config.columns or None


def row_text(row: dict[str, Any], formatting_func: FormattingFunction) -> dict[str, str]:
    """Return the column `text` of a row, for `map`.

    Args:
        row: The row.
        formatting_func: `formatting_func` of the trainer.
    """
    return {"text": formatting_func(row)}


def _columns_read_first(rows: Dataset | IterableDataset, names: Sequence[str]) -> list[str]:
    """Return the columns that `SFTTrainer` reads even if there is a column of text."""
    found = [name for name in ("prompt", "completion", "messages") if name in names]
    if found in (["prompt"], ["completion"]):
        return []
    row: dict[str, Any] = next(iter(rows), {}) if "conversations" in names else {}
    messages = row.get("conversations")
    first = messages[0] if isinstance(messages, list) and messages else None
    if isinstance(first, dict) and {"from", "value"} <= first.keys():
        found.append("conversations")
    return found


def _check_formatting_func(dataset: Dataset, config: SelectiveSFTConfig) -> None:
    """Raise if `SFTTrainer` would refuse the formatting function, or ignore the text that it returns."""
    if config.completion_only_loss:
        raise ConfigError(
            "formatting_func returns plain text, which has no completion, but completion_only_loss=True. Set it to "
            "False, or map the dataset to the columns prompt and completion instead."
        )
    if names := _columns_read_first(dataset, dataset.column_names):
        raise ConfigError(
            f"formatting_func returns plain text, but SFTTrainer trains on {', '.join(map(repr, names))} of these "
            f"rows instead. Leave formatting_func out, or remove these columns: dataset.remove_columns({names})."
        )
