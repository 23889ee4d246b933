"""Rows that cannot be rendered or tokenized, and assistant turns that are not trained on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import ModelError
from hf_datasel.formats import POOL_ROW
from hf_datasel.formats.convert import MESSAGE
from hf_datasel.tokens.processes import main_process_first
from hf_datasel.tokens.row_tokenizer import RowTokenizer
from hf_datasel.tokens.tool_calls import call_rendering, has_only_calls, unrendered_message
from hf_datasel.tokens.turns import Conversation

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from transformers import PreTrainedTokenizerBase

    from hf_datasel.tokens.training import TokenSettings

__all__ = ["UNTRAINED_TURNS", "RowRenderer", "error_message", "prepare_valid_rows", "prepare_valid_stream"]

logger = logging.getLogger(__name__)

UNTRAINED_TURNS = "untrained_turns"
"""Column with the positions of the assistant turns of a row that loss flags exclude."""

_VERSION = 2
"""Version of these functions, part of the fingerprint in the cache of `datasets`."""


@dataclass(frozen=True)
class RowRenderer:
    """Renders and tokenizes single rows as `SFTTrainer` does.

    Args:
        tokenizer: Tokenizer of the rows.
        settings: How training truncates and labels rows.
        template: Chat template to use instead of the tokenizer's own.
    """

    tokenizer: PreTrainedTokenizerBase
    settings: TokenSettings
    template: str | None

    @property
    def content(self) -> RowRenderer:
        """The renderer without the number of processes, which is not to change fingerprints of `datasets`."""
        return replace(self, settings=self.settings.content)

    def error(self, row: dict[str, Any], hides_calls: bool) -> str:
        """Return why a row cannot be rendered or tokenized, usually the message of an error; "" if it can be.

        Args:
            row: The row.
            hides_calls: Whether the chat template renders no tool calls.
        """
        if hides_calls and has_only_calls(row):
            return unrendered_message(self.tokenizer)
        try:
            self._tokenize(row)
        except Exception as error:  # chat templates and tokenizers raise errors of any kind
            return error_message(error)
        return ""

    def _tokenize(self, row: dict[str, Any]) -> None:
        if not isinstance(row.get("messages", row.get("prompt")), list):
            texts = [row["prompt"], row["prompt"] + row["completion"]] if "prompt" in row else [row["text"]]
            for text in texts:
                self.tokenizer(text=text, verbose=False)
            return
        tokenizer, mask = RowTokenizer(self.tokenizer), self.settings.assistant_only_loss
        messages = row["messages"] if "messages" in row else row["prompt"] + row["completion"]
        options = {
            "chat_template": self.template,
            "tools": row.get("tools"),
            **(row.get("chat_template_kwargs") or {}),
        }
        options = {"tokenize": True, "return_dict": True, **options}
        rendered = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=mask, **options)
        if mask and 1 not in rendered["assistant_masks"]:
            raise ModelError("The chat template marks no assistant tokens, which assistant_only_loss needs.")
        if "messages" not in row:
            tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, **options)

    def mask(self, row: dict[str, Any]) -> dict[str, list[int]]:
        """Return the labels of a tokenized row, before truncation, without its untrained turns.

        A row whose untrained turns cannot be located has no labels.
        """
        labels = list(row["labels"])
        if untrained := row[UNTRAINED_TURNS]:
            conversation = Conversation(self.tokenizer, row, self.template)
            turns = conversation.turn_spans(first=0)
            if turns is None or conversation.ids != row["input_ids"]:
                return {"labels": [-100] * len(labels)}
            for start, stop in (span for index in untrained for span in turns.get(index, ())):
                labels[start:stop] = [-100] * (stop - start)
        return {"labels": labels}


def prepare_valid_rows(
    dataset: Dataset, prepare: Callable[[Dataset, bool], Dataset], renderer: RowRenderer, allow_none: bool = False
) -> tuple[Dataset, dict[int, str]]:
    """Tokenize rows, without those that cannot be rendered or tokenized and without labels in untrained turns.

    A row with a response that consists of tool calls only cannot be rendered if the chat template renders no tool
    calls. Rows are rendered one by one only if there may be such rows, after `prepare` has raised an error, or in
    several processes, in which one that raises an error would keep the others waiting.

    Args:
        dataset: Rows as returned by `hf_datasel.formats.convert_pool`.
        prepare: Function that tokenizes, labels and truncates rows; without truncation and packing if its second
            argument is False. It continues with rows that are tokenized already.
        renderer: Renders rows as `prepare` does.
        allow_none: Whether to return no rows, instead of raising an error, if none can be rendered and tokenized.

    Returns:
        The tokenized rows, and the errors of the others by `pool_row`, or by position if there is no such column.

    Raises:
        ModelError: No row can be rendered and tokenized.
    """
    from accelerate import PartialState

    hides_calls = _hides_calls(dataset, renderer)
    if PartialState().num_processes == 1 and not hides_calls:
        try:
            return _prepare(dataset, prepare, renderer), {}
        except Exception:  # of any kind, as in RowRenderer.error; raised again if no single row is at fault
            errors = _errors(dataset, renderer, hides_calls)
            if not errors:
                raise
    else:
        with main_process_first(dataset):
            errors = _errors(dataset, renderer, hides_calls)
    if len(errors) == len(dataset) and not allow_none:
        raise ModelError(
            f"None of the {len(dataset):,} rows can be rendered with the chat template of "
            f"{renderer.tokenizer.name_or_path!r} and tokenized. The first error: {next(iter(errors.values()))}"
        )
    valid = np.setdiff1d(np.arange(len(dataset)), list(errors))
    if len(valid):
        tokens = _prepare(dataset.select(valid) if errors else dataset, prepare, renderer)
    else:
        tokens = _no_tokens(dataset)
    rows = dataset.with_format("numpy")[POOL_ROW][:] if POOL_ROW in dataset.column_names else range(len(dataset))
    return tokens, {int(rows[position]): message for position, message in errors.items()}


def prepare_valid_stream(
    stream: IterableDataset, prepare: Callable[[IterableDataset, bool], IterableDataset], renderer: RowRenderer
) -> IterableDataset:
    """Tokenize streaming rows as `prepare_valid_rows` does, each when it is read.

    Args:
        stream: Rows as returned by `hf_datasel.formats.convert.convert_stream`.
        prepare: Function that tokenizes, labels and truncates rows, as in `prepare_valid_rows`.
        renderer: Renders rows as `prepare` does.

    Returns:
        The tokenized rows.

    Raises:
        ModelError: None of the rows can be used.
    """
    options = {"renderer": renderer, "hides_calls": _hides_calls(stream, renderer)}
    stream = stream.filter(_is_rendered, fn_kwargs=options)
    if next(iter(stream), None) is None:
        raise ModelError("None of the streaming rows can be read, rendered with the chat template and tokenized.")
    tokens = prepare(stream, False)
    if UNTRAINED_TURNS in (stream.column_names or ()):
        tokens = tokens.map(_mask, fn_kwargs={"renderer": renderer, "version": _VERSION}).filter(_has_label)
    return prepare(tokens, True)


def _is_rendered(row: dict[str, Any], renderer: RowRenderer, hides_calls: bool) -> bool:
    error = renderer.error(row, hides_calls)
    if error:
        _warn_of_error(error)
    return not error


@lru_cache(maxsize=1)
def _warn_of_error(error: str) -> None:
    logger.warning("Streaming rows that cannot be rendered or tokenized are left out. The first error: %s", error)


def _no_tokens(dataset: Dataset) -> Dataset:
    """Return no rows, with the columns of tokenized rows."""
    from datasets import Dataset, Features, List, Value

    features = Features({**dataset.features, "input_ids": List(Value("int32")), "labels": List(Value("int64"))})
    return Dataset.from_dict({name: [] for name in features}, features=features)


def _hides_calls(rows: Dataset | IterableDataset, renderer: RowRenderer) -> bool:
    """Return whether converted rows may have tool calls, and the chat template renders none."""
    features = (getattr(rows.features.get(name), "feature", None) for name in ("messages", "completion"))
    may_have_calls = any(isinstance(feature, dict) and MESSAGE in feature for feature in features)
    return may_have_calls and not call_rendering(renderer.tokenizer, renderer.template).renders_calls


def _prepare(dataset: Dataset, prepare: Callable[[Dataset, bool], Dataset], renderer: RowRenderer) -> Dataset:
    if UNTRAINED_TURNS not in dataset.column_names:
        return prepare(dataset, True)
    tokens = prepare(dataset, False)
    options = {"num_proc": renderer.settings.dataset_num_proc}
    with main_process_first(tokens):
        tokens = tokens.map(
            _mask,
            fn_kwargs={"renderer": renderer.content, "version": _VERSION},
            desc="Masking turns that are not trained on",
            **options,
        )
        tokens = tokens.filter(_has_label, desc="Dropping rows without labels", **options)
    return prepare(tokens, True) if len(tokens) else tokens


def _mask(row: dict[str, Any], renderer: RowRenderer, version: int) -> dict[str, list[int]]:
    return renderer.mask(row)


def _has_label(row: dict[str, Any]) -> bool:
    return any(label != -100 for label in row["labels"])


def _errors(dataset: Dataset, renderer: RowRenderer, hides_calls: bool) -> dict[int, str]:
    """Return the errors of the rows that cannot be rendered or tokenized, by position."""
    from datasets import Features, Value

    messages = dataset.map(
        _error,
        fn_kwargs={"renderer": renderer.content, "hides_calls": hides_calls, "version": _VERSION},
        remove_columns=dataset.column_names,
        features=Features({"error": Value("string")}),
        num_proc=renderer.settings.dataset_num_proc,
        desc="Finding rows that cannot be rendered",
    )
    return {position: message for position, message in enumerate(messages["error"][:]) if message}


def _error(row: dict[str, Any], renderer: RowRenderer, hides_calls: bool, version: int) -> dict[str, str]:
    return {"error": renderer.error(row, hides_calls)}


def error_message(error: Exception) -> str:
    """Return the message of an error in one line, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
