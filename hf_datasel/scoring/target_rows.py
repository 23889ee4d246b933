"""Rows of the task that a selection is made for: where they are, and the subtask of each."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hf_datasel.errors import ColumnError, ConfigError, FormatError, did_you_mean
from hf_datasel.formats import Part, Pool, load_pool
from hf_datasel.formats.mapping import checked_mapping
from hf_datasel.formats.words import comparable_words
from hf_datasel.scoring.contamination import QuestionIndex
from hf_datasel.scoring.setting_files import FILE

__all__ = ["TargetRows", "TargetSettings", "cached", "check_texts"]

_CACHE_SIZE = 32
"""Number of target rows, and of results for them, that a process caches for `Dataset.map`."""
_COPY_NGRAM = 8
_COPY_SHARE = 0.8
"""Share of the words of a target row's prompt from which on a row that covers them with n-grams is a copy of it."""
_ARGUMENT = re.compile(r"\b(split|config|columns)=('([^']*)')?|^columns(?= maps )")
"""Arguments of `load_pool` and `Pool` in their messages, which are settings with a prefix here."""
_CACHE: OrderedDict[Hashable, Any] = OrderedDict()


@dataclass(frozen=True, eq=False)
class TargetRows:
    """Rows of a target task, in a supported row format.

    Args:
        pool: The rows.
        labels: Subtask of each row, strings of shape (rows,); "" if they are one task.
        digest: SHA-256 of the rows and their subtasks.
    """

    pool: Pool
    labels: np.ndarray
    digest: str

    @classmethod
    def read(cls, settings: TargetSettings) -> TargetRows:
        """Read the rows that settings name.

        Args:
            settings: The settings.

        Raises:
            FormatError: The rows cannot be loaded, or are in no supported row format.
            ColumnError: The column of subtasks is missing, or has nulls.
        """
        caller = next(cls.__name__ for cls in type(settings).__mro__ if not cls.__name__.startswith("_"))
        columns = checked_mapping(settings.validation_columns, "validation_columns")
        try:
            rows = load_pool(
                settings.validation, settings.validation_split, settings.validation_config, columns=columns
            )
            pool = Pool(rows, columns, setting="validation_columns")
        except FormatError as error:
            raise FormatError(
                f"{caller}(validation={settings.validation!r}):",
                _ARGUMENT.sub(r"validation_\g<0>", str(error)),
                _ARGUMENT.sub(_in_json, str(error)),
            ) from error
        labels = _labels(pool, caller, settings.validation, settings.subtask)
        return cls(pool, labels, hashlib.sha256(json.dumps([pool.id, labels.tolist()]).encode()).hexdigest())

    def copies(self, pool: Pool, rows: np.ndarray) -> np.ndarray:
        """Find rows of a pool that are copies or near-copies of target rows.

        A row is one if its prompt has the words of a target row's prompt, whatever their case and punctuation, or if
        its 8-grams of words cover more than 80 % of them. If either has only a text column, texts are compared.

        Args:
            pool: The pool.
            rows: Row numbers in the pool, int64.

        Returns:
            For each of `rows` the number of the target row that it repeats most of, int64; -1 if it repeats none.

        Raises:
            FormatError: The rows of the pool or of the target are tokenized already, and have no text.
        """
        part: Part = "both" if "text" in (pool.format, self.pool.format) else "prompt"
        index, short = self._index(part)
        longest = max(map(len, short), default=0)
        matches = np.full(len(rows), -1, dtype=np.int64)

        def texts() -> Iterator[str]:
            for position, row in enumerate(pool.rows(rows)):
                text = "" if row.reason else row.text(part)
                if longest and len(words := tuple(comparable_words(text))) <= longest:
                    matches[position] = short.get(words, -1)
                yield text

        shares, questions = index.compare(texts())
        is_copy = shares[:, 0] > np.float32(_COPY_SHARE)
        matches[is_copy] = questions[is_copy, 0]
        return matches

    def _index(self, part: Part) -> tuple[QuestionIndex, dict[tuple[str, ...], int]]:
        """Return the n-grams of the target rows, and the numbers of those that are too short for n-grams."""
        texts = ["" if row.reason else row.text(part) for row in self.pool.rows()]
        short: dict[tuple[str, ...], int] = {}
        for number, text in enumerate(texts):
            words = tuple(comparable_words(text))
            if 0 < len(words) < _COPY_NGRAM:
                short.setdefault(words, number)
        return QuestionIndex({"target": texts}, _COPY_NGRAM), short


@dataclass(frozen=True)
class TargetSettings:
    """Settings of scores and selectors that name the rows of a target task. Base class beside `Score` or `Selector`.

    Args:
        validation: Rows of the target task: a file, a folder or a name on the Hub.
        validation_config: Configuration of a dataset on the Hub.
        validation_split: Split of the rows.
        validation_columns: Names of the columns of a row format, or `role` and `content` of messages, and the names
            that the rows have for them: `{"prompt": "question", "completion": "answer"}`.
        subtask: Column of the rows with the subtask of each; by default they are one task.
    """

    validation: str = field(kw_only=True, metadata=FILE)
    validation_config: str | None = field(default=None, kw_only=True)
    validation_split: str = field(default="train", kw_only=True)
    validation_columns: dict[str, str] | None = field(default=None, kw_only=True)
    subtask: str | None = field(default=None, kw_only=True)

    def check_target(self) -> None:
        """Check the settings; whether the rows exist is not checked.

        Raises:
            ConfigError: A setting has a value that it cannot have.
            FormatError: `validation_columns` is no mapping.
        """
        check_texts(self, "validation", "validation_split")
        check_texts(self, "validation_config", "subtask", optional=True)
        checked_mapping(self.validation_columns, "validation_columns")

    def target(self) -> TargetRows:
        """Return the target rows, which are read again if their files have changed.

        Raises:
            FormatError: The rows cannot be loaded, or are in no supported row format.
            ColumnError: The column of subtasks is missing, or has nulls.
        """
        names = self.validation, self.validation_config, self.validation_split, self.subtask
        key = ("rows", *names, json.dumps(self.validation_columns), _file_stats(self.validation))
        rows: TargetRows = cached(key, lambda: TargetRows.read(self))
        return rows


def check_texts(owner: Any, *names: str, optional: bool = False) -> None:
    """Check settings that are texts, and intern them so that pickles of equal settings are equal.

    Args:
        owner: Frozen dataclass.
        names: Names of the settings.
        optional: Whether they may be None.

    Raises:
        ConfigError: A setting is no text, or is empty.
    """
    for name in names:
        value = getattr(owner, name)
        if optional and value is None:
            continue
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{type(owner).__name__}({name}={value!r}): it has to be a text that is not empty.")
        object.__setattr__(owner, name, sys.intern(value))  # the value may also be a field's name


def cached(key: Hashable, compute: Callable[[], Any]) -> Any:
    """Return the cached value of a key, which `Dataset.map` reads for each batch; computed if it is missing.

    Args:
        key: The key.
        compute: Function that returns the value.
    """
    if key not in _CACHE:
        _CACHE[key] = compute()
    _CACHE.move_to_end(key)
    while len(_CACHE) > _CACHE_SIZE:
        _CACHE.popitem(last=False)
    return _CACHE[key]


def _in_json(argument: re.Match[str]) -> str:
    """Return an argument as the settings of the command line name it."""
    name, quoted, text = argument.groups()
    if name is None:
        return f"validation_{argument[0]}"
    return f'"validation_{name}": ' + (f'"{text}"' if quoted else "")


def _labels(pool: Pool, caller: str, name: str, subtask: str | None) -> np.ndarray:
    """Return the subtask of each row, as a string."""
    if subtask is None:
        return np.full(len(pool), "")
    columns = pool.dataset.column_names
    if subtask not in columns:
        hint = did_you_mean(subtask, columns)
        raise ColumnError(f"{caller}(subtask={subtask!r}): the validation rows {name!r} have {columns}.{hint}")
    values = pool.dataset[subtask][:]
    if any(value is None for value in values):
        raise ColumnError(f"Column {subtask!r} of the validation rows {name!r} has nulls: each needs a subtask.")
    return np.array([str(value) for value in values])


def _file_stats(name: str) -> tuple[tuple[str, int, int], ...]:
    """Return path, size and time of modification of the files of a name; empty for a dataset on the Hub."""
    path = Path(name).expanduser()
    files = [file for file in [path, *sorted(path.rglob("*"))] if file.is_file()]
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
