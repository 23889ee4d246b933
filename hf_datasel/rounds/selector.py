"""What a selector is, and a filter before it."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.context import Round, RoundPlan
from hf_datasel.spec import spec_name

if TYPE_CHECKING:
    from hf_datasel.scoring.base import Score

__all__ = ["RowFilter", "Selector", "check_number", "check_source", "column_of", "round_off"]


def round_off(epochs: float) -> float:
    """Without the noise of binary fractions: 1.1 epochs are one and a tenth."""
    return round(epochs, 9)


@dataclass(frozen=True)
class Selector(ABC):
    """A published method, or your own: which scores, which strategy, over which rounds.

    A frozen dataclass whose fields are its settings. A subclass writes `choose`; `plan` is there to be overridden by
    methods with warm-up, growing rounds or restarts.
    """

    reselects: ClassVar[bool] = False
    """Whether the choice depends on the model, so that it is made again every epoch."""
    nested: ClassVar[bool] = False
    """Whether a smaller budget chooses the first rows of a larger one, in the same order."""
    title: ClassVar[str] = ""
    """What people call the method; the name of the class by default."""
    citation: ClassVar[str] = ""
    """BibTeX of the paper, for the dataset card."""

    def plan(self, total_budget: int, num_epochs: float, pool_size: int) -> tuple[RoundPlan, ...]:
        """The rounds of a run: one an epoch for a selector that reselects, else one of all epochs.

        Args:
            total_budget: rows that the user asked for, per round here.
            num_epochs: as in `TrainingArguments`; a last part of an epoch is a round of its own.
            pool_size: rows that can be chosen.
        """
        if not self.reselects:
            return (RoundPlan(total_budget, num_epochs),)
        whole = math.floor(num_epochs)
        rest = round_off(num_epochs - whole)
        return tuple(RoundPlan(total_budget, 1.0) for _ in range(whole)) + (
            (RoundPlan(total_budget, rest),) if rest > 0 else ()
        )

    @abstractmethod
    def choose(self, round: Round) -> np.ndarray:
        """Row numbers to train on in this round, best first, at most `round.budget`, all of them eligible."""

    def check_training(self, args: Any) -> None:
        """Refuse settings of training that the method cannot work with, before anything starts; none by default.

        Args:
            args: `TrainingArguments` or a subclass.

        Raises:
            ConfigError: says which setting, and what it has to be.
        """
        return

    def later_scores(self) -> tuple[Score, ...]:
        """Scores that rounds after the first one compute; by default those of the selectors among the settings."""
        settings = (getattr(self, each.name) for each in fields(self))
        return tuple(score for each in settings if isinstance(each, Selector) for score in each.later_scores())

    def check_later(self, round: Round) -> None:
        """Refuse what a later round would come upon after hours of training; asked before the first one chooses.

        No model is run, nor loaded by name.

        Raises:
            DataselError: as the score would in that round.
        """
        for score in self.later_scores():
            round.compute(score, np.empty(0, dtype=np.int64))

    def explain(self, round: Round, chosen: np.ndarray, row: int) -> list[str]:
        """Sentences on what decided on a row besides its scores: its neighbours, its n-grams.

        Args:
            round: as it was when the choice was made.
            chosen: the row numbers that were chosen, best first.
            row: one of them, or another one that could have been.
        """
        return []

    def spec(self) -> dict[str, Any]:
        """Name and settings, for the record."""
        kind = type(self)
        home = kind.__module__
        name = home.rsplit(".", 1)[-1] if home.startswith("hf_datasel.selectors.") else f"{home}:{kind.__name__}"
        settings = {each.name: _as_json(getattr(self, each.name), each.name) for each in fields(self)}
        return {"selector": name, **settings}


@dataclass(frozen=True)
class RowFilter(ABC):
    """Which rows a selector may choose from: a step of `Chain`. A frozen dataclass whose fields are its settings."""

    citation: ClassVar[str] = ""
    """BibTeX of the paper, for the dataset card."""

    @abstractmethod
    def keep(self, round: Round, rows: np.ndarray) -> np.ndarray:
        """Those of `rows` that stay.

        Args:
            round: scores, columns and vectors; asked for `rows` alone, nothing is computed for the others. What
                `round.leave_out` is not told of those that go is counted under the name of the filter.
            rows: numbers of rows that can be chosen and that the filters before have kept, int64, ascending.
        """

    def explain(self, round: Round, kept: np.ndarray, row: int) -> list[str]:
        """Sentences on why a row is none of those kept, besides what `round.leave_out` was told.

        Args:
            round: as it was when the filter was asked.
            kept: what it kept, int64, ascending.
            row: another one that it was asked about.
        """
        return []

    def spec(self) -> dict[str, Any]:
        """Name, and settings that are not the defaults, for the record."""
        kind = type(self)
        ours = kind.__module__.startswith("hf_datasel.selectors.")
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
        return {"filter": name if ours else f"{kind.__module__}:{kind.__name__}", **_changed(self)}


def column_of(source: str | Score) -> str:
    """The name of the column that a setting names, or of the one that its score writes."""
    return source if isinstance(source, str) else source.value_column


def check_source(selector: Selector | RowFilter, setting: str, kind: str = "Score") -> None:
    """Refuse a setting that is neither the name of a column nor a score.

    Args:
        selector: or filter, whose setting it is.
        setting: its name.
        kind: the score that it has to be.

    Raises:
        ConfigError: says what it has to be.
    """
    from hf_datasel import scores

    value = getattr(selector, setting)
    if not (isinstance(value, str) and value) and not isinstance(value, getattr(scores, kind)):
        a_score = "a score such as IFD('name or path')" if kind == "Score" else f"{kind}(...)"
        raise ConfigError(
            f"{type(selector).__name__}({setting}={value!r}): it has to be the name of a column, or {a_score}."
        )


def check_number(
    selector: Selector | RowFilter,
    setting: str,
    low: float,
    high: float = math.inf,
    whole: bool = False,
    open_low: bool = False,
) -> None:
    """Refuse a setting that is no number from `low` to `high`, both included unless `open_low`.

    Raises:
        ConfigError: says what it has to be.
    """
    value = getattr(selector, setting)
    kinds = (int,) if whole else (int, float)
    if type(value) in kinds and low <= value <= high and not (open_low and value == low) and math.isfinite(value):
        return
    least = f"above {low:g}" if open_low else f"of at least {low:g}"
    span = least if high == math.inf else f"{least} and at most {high:g}" if open_low else f"from {low:g} to {high:g}"
    noun = "an int" if whole else "a number"
    raise ConfigError(f"{type(selector).__name__}({setting}={value!r}): it has to be {noun} {span}.")


def _as_json(value: Any, name: str = "") -> Any:
    """A setting as recipes write it: a score by its name and what differs from its defaults; a selector likewise."""
    if isinstance(value, Selector | RowFilter):
        return value.spec()
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in value]
    if name == "model_init_kwargs" and value:
        return {key: value[key] for key in value if key not in ("token", "use_auth_token")}
    if not is_dataclass(value):
        return value
    return {"score": spec_name(value), **_changed(value)}


def _changed(value: Any) -> dict[str, Any]:
    """The settings of a score or filter that differ from its defaults."""
    return {
        each.name: _as_json(getattr(value, each.name), each.name)
        for each in fields(value)
        if getattr(value, each.name) != each.default
    }
