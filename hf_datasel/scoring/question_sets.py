"""Questions of evaluation sets, read from files and from datasets on the Hub."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_datasel.errors import ConfigError, FormatError, ScoreError, did_you_mean
from hf_datasel.formats import Pool, load_pool

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["checked_sources", "read_questions"]

_KEYS = ("dataset_name", "dataset_config", "dataset_split", "dataset_revision", "columns")
_EXAMPLE = '{"gsm8k": {"dataset_name": "openai/gsm8k", "dataset_config": "main", "columns": ["question"]}}'


def checked_sources(questions: Any, caller: str) -> dict[str, dict[str, Any]]:
    """Check where evaluation questions come from, and return each source as a dict.

    Args:
        questions: Source of each evaluation set by its name: a path or Hub id, or a mapping with `dataset_name` and,
            where needed, `dataset_config`, `dataset_split`, `dataset_revision` and `columns`.
        caller: Name of what the setting belongs to, for messages.

    Raises:
        ConfigError: It is anything else.
    """
    if not isinstance(questions, Mapping) or not questions:
        raise ConfigError(
            f"{caller}(questions={questions!r}): it has to be a dict with the file or dataset of each evaluation set, "
            f"such as {_EXAMPLE}."
        )
    return {name: _checked_source(name, source, caller) for name, source in questions.items()}


def _checked_source(name: Any, source: Any, caller: str) -> dict[str, Any]:
    where = f"{caller}(questions={{{name!r}: ...}})"
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{where}: the name of an evaluation set has to be a text that is not empty.")
    if isinstance(source, list | tuple):
        raise ConfigError(
            f"{where}: it has to name a file or dataset, so that the selection can be repeated from its record. Write "
            "the questions to a .txt file with one question per line, or pass texts to "
            "hf_datasel.scoring.contaminated_rows."
        )
    checked = {"dataset_name": source} if isinstance(source, str) else source
    if not isinstance(checked, Mapping) or not checked.get("dataset_name"):
        raise ConfigError(f"{where}: it has to be a path, a Hub id, or a dict with dataset_name, as in {_EXAMPLE}.")
    for key, value in checked.items():
        if key not in _KEYS:
            hint = did_you_mean(str(key), _KEYS)
            raise ConfigError(f"{where} has the key {key!r}. The keys are {', '.join(_KEYS)}.{hint}")
        if key != "columns" and value is not None and not isinstance(value, str):
            raise ConfigError(f"{where}: {key} has to be a text, and is {value!r}.")
    if str(checked["dataset_name"]).endswith(".txt") and len(checked) > 1:
        raise ConfigError(f"{where}: a .txt file has one question per line, so it takes no {list(checked)[1]}.")
    columns = checked.get("columns")
    columns = [columns] if isinstance(columns, str) else columns
    if columns is not None and not (
        isinstance(columns, list | tuple) and columns and all(isinstance(column, str) for column in columns)
    ):
        raise ConfigError(f"{where}: columns has to be a list of names, such as ['question'], and is {columns!r}.")
    settings = {key: checked[key] for key in _KEYS if checked.get(key) is not None}
    return settings | ({"columns": list(columns)} if columns else {})


def read_questions(name: str, source: Mapping[str, Any]) -> list[str]:
    """Return the texts of the questions of an evaluation set.

    Args:
        name: Name of the evaluation set, for messages.
        source: Its source, as `checked_sources` returns it.

    Returns:
        One text per row. With `columns`, their texts joined by newlines; else the prompt, or the text of rows with
        only a text column. Of a .txt file, its lines that are not blank.

    Raises:
        ScoreError: The dataset cannot be loaded, has no such column, or has rows whose question is no text.
    """
    path, split = source["dataset_name"], source.get("dataset_split")
    file = Path(path).expanduser()
    try:
        if file.suffix == ".txt":
            return [line for line in file.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
        split = split or ("train" if file.is_file() or glob.has_magic(path) else "test")
        dataset = load_pool(path, split, source.get("dataset_config"), source.get("dataset_revision"))
    except (OSError, UnicodeDecodeError, FormatError) as error:
        in_split = f", dataset_split={split!r}" if split else ""
        raise ScoreError(f"The questions of {name!r} (dataset_name={path!r}{in_split}): {error}") from error
    columns = source.get("columns")
    return _prompts(name, dataset) if columns is None else _texts(name, dataset, columns)


def _texts(name: str, dataset: Dataset, columns: list[str]) -> list[str]:
    """Return the texts of columns, joined by newlines; lists of texts count as one text per item."""
    for column in columns:
        if column not in dataset.column_names:
            raise ScoreError(
                f"The questions of {name!r} have no column {column!r}, but {dataset.column_names}."
                f"{did_you_mean(column, dataset.column_names)}"
            )
    rows = zip(*(dataset[column] for column in columns), strict=True)
    return ["\n".join(_parts(name, columns, number, row)) for number, row in enumerate(rows)]


def _parts(name: str, columns: list[str], number: int, row: tuple[Any, ...]) -> list[str]:
    parts = [part for value in row for part in (value if isinstance(value, list) else [value]) if part is not None]
    if not all(isinstance(part, str) for part in parts):
        raise ScoreError(
            f"Question {number} of {name!r} has {row!r} in {columns}, which is no text. Name columns with text."
        )
    return parts


def _prompts(name: str, dataset: Dataset) -> list[str]:
    """Return the prompt of each row of a dataset in a supported row format."""
    advice = f"Name the columns with the question, as in columns: [question]; there are {dataset.column_names}."
    try:
        pool = Pool(dataset, setting=None)  # its setting `columns` lists the columns with the text of a question
    except FormatError as error:
        raise ScoreError(f"The questions of {name!r} are in no supported row format. {advice}") from error
    if pool.format == "tokenized":
        raise ScoreError(f"The questions of {name!r} are tokenized already. {advice}")
    if pool.details:
        number, detail = next(iter(pool.details.items()))
        raise ScoreError(f"Question {number} of {name!r} cannot be read as a row ({detail}). {advice}")
    return pool.texts("both" if pool.format == "text" else "prompt")
