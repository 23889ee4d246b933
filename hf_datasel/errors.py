"""Errors raised by hf_datasel, and helpers for their messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    "ColumnError",
    "ConfigError",
    "DataselError",
    "DatasetMismatchError",
    "EvaluationError",
    "FormatError",
    "Interrupted",
    "ModelError",
    "PublishError",
    "ResumeError",
    "ScoreError",
    "SelectionError",
    "ShortfallError",
    "check_option",
    "did_you_mean",
    "reason_counts",
]


class DataselError(ValueError):
    """Base class of the errors raised by hf_datasel.

    `str(error)` is the message followed by the hint.

    Args:
        message: What is wrong.
        hint: How to solve it in Python, such as "Pass model=...".
        cli_hint: How to solve it on the command line, such as "Pass --model_name_or_path NAME"; `hint` by default.

    Attributes:
        cli_message: The message followed by the command line's hint, which `hf-datasel` prints.

    >>> error = DataselError("There is no token.", hint="Pass a token.", cli_hint="Set HF_TOKEN.")
    >>> str(error), error.cli_message
    ('There is no token. Pass a token.', 'There is no token. Set HF_TOKEN.')
    """

    def __init__(self, message: str = "", hint: str = "", cli_hint: str | None = None):
        super().__init__(f"{message} {hint}".strip())
        self.cli_message = f"{message} {hint if cli_hint is None else cli_hint}".strip()


class FormatError(DataselError):
    """The dataset is in none of the supported row formats."""


class ColumnError(DataselError):
    """A required column is missing or has the wrong type."""


class ModelError(DataselError):
    """A model or tokenizer cannot be loaded, or does not support the requested operation."""


class ScoreError(DataselError):
    """A score cannot be computed with these settings on this dataset."""


class SelectionError(DataselError):
    """The requested selection is impossible, for example because the budget exceeds the eligible rows."""


class ShortfallError(SelectionError):
    """Fewer rows than the budget can be selected, which is only known after all of them have been selected.

    Args:
        message: What is wrong.
        selected: Positions of the selected rows, int64, best first.
        hint: How to solve it in Python.
        cli_hint: How to solve it on the command line; `hint` by default.
    """

    def __init__(self, message: str, selected: Any, hint: str = "", cli_hint: str | None = None):
        super().__init__(message, hint, cli_hint)
        self.selected = selected

    def __reduce__(self) -> tuple[Any, ...]:  # by default, pickle would call the class without `selected`
        return ShortfallError, (str(self), self.selected), self.__dict__


class DatasetMismatchError(SelectionError):
    """A selection is applied to a dataset other than the one it was made from."""


class ConfigError(DataselError):
    """A setting is unknown, has an invalid value, or contradicts another setting."""


class EvaluationError(DataselError):
    """Rows, settings or results do not allow an evaluation, for example because no held-out row can be scored."""


class ResumeError(DataselError):
    """A checkpoint is incomplete or damaged, or belongs to a run with other rows, models or settings."""


class PublishError(DataselError):
    """The Hub, the token or the licence of the rows forbids publishing, or there is nothing to publish."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a greedy selection; the rows selected so far are valid.

    Args:
        selected: Positions or row numbers of the rows selected so far, int64, best first.

    Attributes:
        selection: The `Selection` of these rows, if `select` was interrupted, else None.
    """

    def __init__(self, selected: Any):
        super().__init__(f"{len(selected):,} rows had been selected")
        self.selected = selected
        self.selection: Any = None

    def __reduce__(self) -> tuple[Any, ...]:  # by default, pickle would pass the message as `selected`
        return Interrupted, (self.selected,)


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return the option most similar to `name` as a sentence with a leading space, or an empty string.

    >>> did_you_mean("selektor", ["selector", "seed"])
    " Did you mean 'selector'?"
    >>> did_you_mean("xyz", ["selector"])
    ''
    """
    matches = difflib.get_close_matches(name, list(options), n=1, cutoff=0.6)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def check_option(
    setting: str, value: object, options: Iterable[object], error: type[DataselError] = ConfigError
) -> None:
    """Raise an error that lists the options and names the most similar one, unless the value is one of them.

    Args:
        setting: The setting with its value; the message begins with it.
        value: The value.
        options: All possible values.
        error: Class of the error.

    >>> check_option("Loss(over='pare')", "pare", ("response", "pair"))
    Traceback (most recent call last):
    hf_datasel.errors.ConfigError: Loss(over='pare'): it has to be 'response' or 'pair'. Did you mean 'pair'?
    """
    possible = list(options)
    if value not in possible:
        *others, last = map(repr, possible)
        listed = f"{', '.join(others)} or {last}" if others else last
        hint = did_you_mean(str(value), [option for option in possible if isinstance(option, str)])
        if value is False and "no" in possible:
            hint = ' YAML reads no as false: write "no", with quotes.'
        raise error(f"{setting}: it has to be {listed}.{hint}")


def reason_counts(counts: Mapping[str, int], details: Mapping[str, str] | None = None) -> str:
    """Return counts by reason as text, the most frequent reason first.

    Args:
        counts: Number of rows by reason.
        details: What to add to a reason, in parentheses.

    >>> reason_counts({"empty_response": 2, "prompt_fills_window": 217}, {"empty_response": "rows 3, 8"})
    '217 prompt_fills_window, 2 empty_response (rows 3, 8)'
    """
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    added = {reason: f" ({detail})" for reason, detail in (details or {}).items()}
    return ", ".join(f"{count:,} {reason}{added.get(reason, '')}" for reason, count in ordered)
