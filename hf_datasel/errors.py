"""Every error that hf_datasel raises on purpose, and the wording they share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    "ColumnError",
    "ConfigError",
    "DataselError",
    "DatasetMismatchError",
    "FormatError",
    "Interrupted",
    "ModelError",
    "PublishError",
    "ResumeError",
    "ScoreError",
    "SelectionError",
    "ShortfallError",
    "did_you_mean",
    "reason_counts",
]


class DataselError(ValueError):
    """Base class: catch this to catch everything that hf_datasel refuses."""


class FormatError(DataselError):
    """The dataset is in no format that can be read as instruction rows."""


class ColumnError(DataselError):
    """A column that was asked for is missing, or is not of the type it has to be."""


class ModelError(DataselError):
    """A model or tokenizer cannot be loaded, or cannot do what was asked of it."""


class ScoreError(DataselError):
    """A score cannot be computed with these settings on this dataset."""


class SelectionError(DataselError):
    """The selection that was asked for does not exist, for example a budget above the rows that can be chosen."""


class ShortfallError(SelectionError):
    """Fewer rows than the budget can be chosen, which shows only once all of them have been.

    Attributes:
        chosen: int64 positions of these rows, best first.
    """

    def __init__(self, message: str, chosen: Any):
        super().__init__(message)
        self.chosen = chosen

    def __reduce__(self) -> tuple[Any, ...]:  # from one process to another
        return ShortfallError, (str(self), self.chosen)


class DatasetMismatchError(SelectionError):
    """A selection is applied to another dataset than the one it was made from."""


class ConfigError(DataselError):
    """A setting is misspelt, of the wrong type, or at odds with another one."""


class ResumeError(DataselError):
    """A checkpoint belongs to another pool, selector or version than the run that wants to go on from it."""


class PublishError(DataselError):
    """The Hub, a token or the licence of the rows does not permit what was asked, or there is nothing to publish."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a greedy choice: nothing is wrong with what had been chosen by then.

    Attributes:
        chosen: int64 positions or row numbers, best first; fewer than the budget.
        selection: of these rows, where `select` was interrupted.
    """

    def __init__(self, chosen: Any):
        super().__init__(f"{len(chosen):,} rows had been chosen")
        self.chosen = chosen
        self.selection: Any = None

    def __reduce__(self) -> tuple[Any, ...]:  # from one process to another
        return Interrupted, (self.chosen,)


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """The nearest of `options` as a sentence with a leading space, or an empty string.

    >>> did_you_mean("selektor", ["selector", "seed"])
    " Did you mean 'selector'?"
    >>> did_you_mean("xyz", ["selector"])
    ''
    """
    near = difflib.get_close_matches(name, list(options), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def reason_counts(counts: Mapping[str, int]) -> str:
    """Counts by reason, most frequent first.

    >>> reason_counts({"empty_response": 2, "prompt_fills_window": 217})
    '217 prompt_fills_window, 2 empty_response'
    """
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {reason}" for reason, count in ordered)
