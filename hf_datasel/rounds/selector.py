"""Base classes of selectors and row filters, and checks of their settings."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hf_datasel.errors import ConfigError, SelectionError
from hf_datasel.formats import Part
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.spec import HasSpec, Kind, object_key, to_spec

if TYPE_CHECKING:
    from hf_datasel.scoring.base import Score

__all__ = [
    "RowFilter",
    "Selector",
    "check_number",
    "check_quality",
    "check_source",
    "column_name",
    "distinct_scores",
    "round_epochs",
]


def round_epochs(epochs: float) -> float:
    """Round a number of epochs to nine decimals, so that 1.1 epochs leave 0.1 and not 0.10000000000000009."""
    return round(epochs, 9)


@dataclass(frozen=True)
class Selector(HasSpec, ABC):
    """Method that selects the rows to train on. Base class of all selectors.

    A selector is a frozen dataclass whose fields are its settings. A subclass implements `select`. It overrides `plan`
    if it has a warm-up, rounds that grow, or rounds that restart from the base model.

    Attributes:
        reselects: Whether the selection depends on the model in training, and is repeated before every epoch.
        nested: Whether a smaller budget selects the first rows of a larger one, in the same order. Weights may differ.
        keeps_all: Whether it selects all rows that it can, whatever the budget.
        shortfall_hint: What to do if fewer rows can be selected than requested, for the error.
        title: Name of the method in reports and cards; by default the name of the class.
        citation: BibTeX entry of the paper, for dataset cards.
    """

    spec_kind: ClassVar[Kind] = "selector"
    reselects: ClassVar[bool] = False
    nested: ClassVar[bool] = False
    keeps_all: ClassVar[bool] = False
    shortfall_hint: ClassVar[str] = "Lower it."
    title: ClassVar[str] = ""
    citation: ClassVar[str] = ""

    def plan(self, total_budget: int, num_epochs: float, pool_size: int) -> tuple[RoundPlan, ...]:
        """Return the rounds of a run: one per epoch for a selector that reselects, otherwise one for all epochs.

        Args:
            total_budget: Number of rows that the user requested; here, of each round.
            num_epochs: `num_train_epochs` of `TrainingArguments`. A fraction of an epoch is a round of its own.
            pool_size: Number of rows that can be selected.
        """
        if not self.reselects:
            return (RoundPlan(total_budget, num_epochs),)
        full_epochs = math.floor(num_epochs)
        fraction = round_epochs(num_epochs - full_epochs)
        epochs = [1.0] * full_epochs + ([fraction] if fraction > 0 else [])
        return tuple(RoundPlan(total_budget, value) for value in epochs)

    @abstractmethod
    def select(self, context: RoundContext) -> np.ndarray:
        """Return the row numbers to train on in this round.

        Args:
            context: Dataset, budget and scores of the round.

        Returns:
            Distinct row numbers, best first, all of them eligible and at most `context.budget`. Return fewer only if
            no more rows can be selected.
        """

    def check_training(self, args: Any) -> None:
        """Raise if the method cannot work with these training arguments. Called before training; by default passes.

        Args:
            args: `TrainingArguments` or a subclass.

        Raises:
            ConfigError: Names the argument and the values that are possible.
        """
        return

    def later_scores(self) -> tuple[Score, ...]:
        """Return the scores that rounds after the first compute; by default those of selectors among the settings."""
        settings = (getattr(self, field.name) for field in fields(self))
        return tuple(score for value in settings if isinstance(value, Selector) for score in value.later_scores())

    def scores(self) -> tuple[Score, ...]:
        """Return the scores that any round computes: by default those among the settings, and `later_scores`."""
        return distinct_scores([*_scores_of(self), *self.later_scores()])

    def sets_weights(self) -> bool:
        """Return whether the rows get weights: by default whether a selector among the settings says so."""
        return any(value.sets_weights() for value in _settings_of(self) if isinstance(value, Selector))

    def reads_text(self) -> tuple[Part, ...]:
        """Return the parts of the rows whose text is read other than by scores."""
        inner = [value for value in _settings_of(self) if isinstance(value, Selector | RowFilter)]
        return tuple(part for value in inner for part in value.reads_text())

    def check_later_rounds(self, context: RoundContext) -> None:
        """Raise an error that would occur in a later round, before the first round. No model is loaded or run.

        Args:
            context: Context of the first round.

        Raises:
            DataselError: The error that the score would raise in that round.
        """
        for score in self.later_scores():
            context.check_score(score)

    def check_columns(self, context: RoundContext) -> None:
        """Raise an error about a column that is only read after other work, before any work is done.

        By default, the errors of selectors among the settings. Called before rows are selected or a model is trained.

        Args:
            context: Context over the rows, of which only columns are read, and nothing is recorded. The check of their
                values is for its eligible rows.

        Raises:
            ColumnError: The column is missing, or holds no numbers.
            SelectionError: The column has values that are not possible.
        """
        for value in _settings_of(self):
            if isinstance(value, Selector):
                value.check_columns(context)

    def unused_settings(self) -> tuple[str, ...]:
        """Return the names of the settings that have no effect beside the others, which cards do not list."""
        return ()

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return sentences on what decided on a row besides its scores, such as its neighbors; by default none.

        Args:
            context: Context of the round, as it was when the rows were selected.
            selected: Row numbers that were selected, best first.
            row: Row number to explain, selected or not.
        """
        return []

    def spec(self) -> dict[str, Any]:
        """Return name and settings, for the record."""
        return to_spec(self)


@dataclass(frozen=True)
class RowFilter(HasSpec, ABC):
    """Filter of the rows that a selector may select from, for `Chain`. Base class of all row filters.

    A filter is a frozen dataclass whose fields are its settings. A subclass implements `keep`.

    Attributes:
        citation: BibTeX entry of the paper, for dataset cards.
    """

    spec_kind: ClassVar[Kind] = "filter"
    citation: ClassVar[str] = ""

    def scores(self) -> tuple[Score, ...]:
        """Return the scores that the filter computes: by default those among its settings."""
        return tuple(_scores_of(self))

    def reads_text(self) -> tuple[Part, ...]:
        """Return the parts of the rows whose text is read other than by scores."""
        return ()

    def describe(self) -> str:
        """Return which rows are kept in a few words, such as `"ifd < 1"`; by default the name and the settings."""
        name, *settings = (f"{key}={value}" for key, value in self.spec().items())
        return f"{name.partition('=')[2]} ({', '.join(settings)})" if settings else name.partition("=")[2]

    @abstractmethod
    def keep(self, context: RoundContext, rows: np.ndarray) -> np.ndarray:
        """Return the rows to keep.

        Rows that are not kept are counted as excluded under the name of the filter, unless `context.exclude` was
        called for them with a more precise reason.

        Args:
            context: Dataset and scores of the round. Request scores for `rows` only, so that none is computed for
                other rows.
            rows: Eligible row numbers that the previous filters kept, int64, ascending.

        Returns:
            Row numbers from `rows`.
        """

    def explain(self, context: RoundContext, kept_rows: np.ndarray, row: int) -> list[str]:
        """Return sentences on why a row is not kept, besides the reason it was excluded for; by default none.

        Args:
            context: Context of the round, as it was when the rows were filtered.
            kept_rows: Row numbers that `keep` returned, int64, ascending.
            row: Row number that is not kept.
        """
        return []

    def spec(self) -> dict[str, Any]:
        """Return name, and the settings that differ from their defaults, for the record."""
        return to_spec(self)


def _settings_of(owner: Selector | RowFilter) -> list[Any]:
    """Return the values of the fields, and those in lists."""
    values = [getattr(owner, field.name) for field in fields(owner)]
    return [item for value in values for item in (value if isinstance(value, list | tuple) else (value,))]


def distinct_scores(scores: Sequence[Score]) -> tuple[Score, ...]:
    """Return the scores without those that are equal to an earlier one, and the parts of a mix in its place.

    Args:
        scores: The scores.
    """
    from hf_datasel.scores.mix import Mix
    from hf_datasel.scoring.base import with_parts

    expanded = with_parts(scores) if any(score.parts for score in scores) else scores
    return tuple({object_key(score): score for score in expanded if not isinstance(score, Mix)}.values())


def _scores_of(owner: Selector | RowFilter) -> list[Score]:
    from hf_datasel.scoring.base import Score

    scores: list[Score] = []
    for value in _settings_of(owner):
        if isinstance(value, Score):
            scores.append(value)
        elif isinstance(value, Selector | RowFilter):
            scores += value.scores()
    clusters = getattr(owner, "clusters", getattr(owner, "groups", None))
    if clusters is not None and not getattr(clusters, "needs_fit", False):  # nothing is fitted to the vectors
        scores = [score for score in scores if score is not getattr(owner, "vectors", None)]
    return scores


def column_name(source: str | Score) -> str:
    """Return the name of the column that a setting names, or that its score writes."""
    return source if isinstance(source, str) else source.value_column


def check_quality(selector: Selector, name: str, values: np.ndarray) -> None:
    """Raise if a quality is negative.

    Args:
        selector: Selector, which needs numbers of 0 or more.
        name: Name of the column of the quality.
        values: Float64, those of the rows to select from.

    Raises:
        SelectionError: Names the column, and says how to shift it.
    """
    negative = int((values < 0).sum())
    if negative:
        lowest = values.min()
        raise SelectionError(
            f"{type(selector).__name__} needs a quality of 0 or more, and column {name!r} is negative in {negative:,} "
            f"of {len(values):,} rows: the lowest is {lowest:g}, with which a row would take from what others add. "
            f"Shift it: values = np.array(dataset[{name!r}][:], dtype=float), then dataset.add_column("
            f"'{name}_shifted', values - np.nanmin(values))."
        )


def check_source(selector: Selector | RowFilter, setting: str, kind: str = "Score") -> None:
    """Raise if a setting is neither the name of a column nor a score.

    Args:
        selector: Selector or filter.
        setting: Name of the setting.
        kind: Class in `hf_datasel.scores` that the score has to be.

    Raises:
        ConfigError: Names the values that are possible.
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
    integer: bool = False,
    exclude_low: bool = False,
) -> None:
    """Raise if a setting is not a number from `low` to `high`, both included.

    Args:
        selector: Selector or filter.
        setting: Name of the setting.
        low: Lowest value.
        high: Highest value.
        integer: Whether it has to be an int.
        exclude_low: Whether `low` itself is excluded.

    Raises:
        ConfigError: Names the values that are possible.
    """
    value = getattr(selector, setting)
    types = (int,) if integer else (int, float)
    in_range = low <= value <= high if type(value) in types else False
    if in_range and math.isfinite(value) and not (exclude_low and value == low):
        return
    noun = "an int" if integer else "a number"
    if high == math.inf:
        allowed = f"{noun} above {low:g}" if exclude_low else f"{noun} of at least {low:g}"
    else:
        allowed = f"{noun} above {low:g} and at most {high:g}" if exclude_low else f"{noun} from {low:g} to {high:g}"
    raise ConfigError(f"{type(selector).__name__}({setting}={value!r}): it has to be {allowed}.")
