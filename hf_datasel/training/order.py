"""`selection_order`: the order in which a run trains on the rows of a round."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ColumnError, ConfigError, check_option, did_you_mean
from hf_datasel.rounds.cache import RoundCache
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import column_name
from hf_datasel.scores import list_scores
from hf_datasel.spec import HasSpec, from_name, spec_name, to_spec
from hf_datasel.strategies import curriculum

if TYPE_CHECKING:
    from hf_datasel.scoring.base import Score

__all__ = ["ORDER", "RoundOrder", "SelectionOrder", "plain_order"]

logger = logging.getLogger(__name__)

ORDER = "selection_order"
"""Name of the setting."""

_NAMES = ("random", "selected", "reversed")
_PATTERNS = ("sorted", "folded", "segmented")


class RoundOrder(NamedTuple):
    """Order in which a round trains on its rows.

    Attributes:
        rows: Row numbers of the pool in this order, int64 of shape (rows,).
        segments: Segment of each of them, int64, if they are shuffled within segments in every epoch.
    """

    rows: np.ndarray
    segments: np.ndarray | None

    def positions(self, seed: int) -> np.ndarray:
        """Return the positions in `rows` in the order of an epoch, int64.

        Args:
            seed: Random seed of the epoch.
        """
        if self.segments is None:
            return np.arange(len(self.rows))
        return curriculum.shuffled_within(self.segments, np.random.default_rng(seed))


@dataclass(frozen=True)
class SelectionOrder:
    """Order other than a random one.

    Attributes:
        by: Column of numbers or score that rows are sorted by, ascending; None: the selection, best first.
        pattern: `"sorted"`; `"folded"`: the sorted rows are dealt into folds, which are gone through one after the
            other; or `"segmented"`: the sorted rows are cut into segments, within which they are shuffled in every
            epoch.
        descending: Whether the highest value (of the selection: the last row) comes first.
        folds: Number of folds.
        segments: Number of segments, which have equal sizes; None: one for each value of `by`.
    """

    by: str | Score | None = None
    pattern: str = "sorted"
    descending: bool = False
    folds: int | None = None
    segments: int | None = None

    @classmethod
    def of(cls, setting: Any) -> SelectionOrder | None:
        """Return the order that the setting names, None for a random one.

        Args:
            setting: A name, or a mapping of the attributes of this class, where a score is a spec.

        Raises:
            ConfigError: Says what the setting has to be.
        """
        if isinstance(setting, str):
            check_option(f"{ORDER}={setting!r}", setting, _NAMES)
            return None if setting == "random" else cls(descending=setting == "reversed")
        if not isinstance(setting, Mapping):
            raise ConfigError(
                f"{ORDER}={setting!r} has to be one of {', '.join(_NAMES)}, or a mapping such as "
                '{"by": "difficulty", "pattern": "folded", "folds": 3}.'
            )
        options = [field.name for field in dataclasses.fields(cls)]
        for key in setting:
            if key not in options:
                raise ConfigError(f"{ORDER} has no key {key!r}.{did_you_mean(str(key), options)} It has {options}.")
        order = cls(**{**setting, "by": _source(setting.get("by"))})
        order._check_pattern()
        return order

    def _check_pattern(self) -> None:
        check_option(f"{ORDER}: pattern={self.pattern!r}", self.pattern, _PATTERNS)
        if not isinstance(self.descending, bool):
            raise ConfigError(f"{ORDER}: descending={self.descending!r} has to be True or False.")
        for name, pattern in (("folds", "folded"), ("segments", "segmented")):
            value, is_used = getattr(self, name), self.pattern == pattern
            if value is not None and not is_used:
                raise ConfigError(f"{ORDER}: {name}={value!r} needs pattern={pattern!r}, but it is {self.pattern!r}.")
            is_optional = name == "segments" and self.by is not None
            if is_used and not (value is None and is_optional) and (type(value) is not int or value < 1):
                raise ConfigError(f"{ORDER}: pattern={pattern!r} needs {name}, an int above 0, but it is {value!r}.")

    def scores(self) -> tuple[Score, ...]:
        """Return the scores that are computed in each round to order its rows."""
        return () if self.by is None or isinstance(self.by, str) else (self.by,)

    def check_training(self, args: Any) -> None:
        """Raise if training arguments would change the order.

        Args:
            args: Config of the run.

        Raises:
            ConfigError: Names the argument and what is possible.
        """
        setting = f"{ORDER}={args.selection_order!r}"
        if args.packing and args.packing_strategy != "wrapped":
            raise ConfigError(
                f"{setting} cannot be combined with packing_strategy={args.packing_strategy!r}, which sorts rows by "
                "length to pack them. Turn packing off, or use packing_strategy='wrapped', which packs them in order "
                "(and splits rows)."
            )
        if args.packing and self.pattern == "segmented":
            raise ConfigError(
                f"{setting} shuffles rows in every epoch, but packing joins them once per round. Turn packing off, or "
                "use pattern='sorted' or 'folded'."
            )
        if args.shuffle_dataset:
            raise ConfigError(f"{setting} and shuffle_dataset=True contradict each other. Remove one of the two.")
        if args.train_sampling_strategy not in ("random", "sequential"):
            raise ConfigError(
                f"{setting} and train_sampling_strategy={args.train_sampling_strategy!r}, which orders by length, "
                "contradict each other. Remove one of the two."
            )

    def check(self, cache: RoundCache, eligible: np.ndarray, num_rows: int) -> None:
        """Raise if the rows cannot be ordered, before training.

        Args:
            cache: Cache over the pool.
            eligible: Rows that can be trained on, bool of shape (rows,).
            num_rows: Number of rows of the smallest round.

        Raises:
            ColumnError: The column is missing, holds no numbers, or has none for an eligible row.
            ConfigError: There are more folds or segments than rows.
        """
        for name in ("folds", "segments"):
            if (getattr(self, name) or 0) > num_rows:
                raise ConfigError(
                    f"{ORDER}: {name}={getattr(self, name)} is more than the {num_rows:,} rows of a round. Lower it."
                )
        if not isinstance(self.by, str):
            return
        if self.by not in cache.pool.column_names and self.by in list_scores():
            by = json.dumps({"score": self.by})
            raise ColumnError(
                f"{ORDER} needs column {self.by!r}, but the dataset has {cache.pool.column_names}. Did you mean {by}, "
                f'the score? Write {{"by": {by}}}.'
            )
        values = self._context(cache, np.empty(0, dtype=np.int64)).column(self.by)
        if np.isnan(values[eligible]).all():
            raise ColumnError(
                f"{ORDER}: column {self.by!r} has no value in any of the {int(eligible.sum()):,} rows that can be "
                "trained on, so that it orders nothing. Fill it, or name another column."
            )

    def arrange(self, cache: RoundCache, context: RoundContext, rows: np.ndarray) -> RoundOrder:
        """Return the order of the rows of a round. In a distributed run every process has to call this.

        A score is computed for the rows that no score of the round has been computed for. Rows without a value come
        last, in the order of the selection, and a warning says how many these are.

        Args:
            cache: Cache of the round, which computes scores.
            context: Context of the round, after its rows were selected. A column that orders the rows is recorded.
            rows: Row numbers of the pool, best first, int64.
        """
        values = self._values(cache, context, rows)
        order = curriculum.by_value(values, self.descending)
        segments = None
        if self.pattern == "folded":
            assert self.folds is not None
            order = curriculum.folded(order, self.folds)
        elif self.pattern == "segmented" and self.segments is not None:
            segments = curriculum.segment_numbers(len(order), self.segments)
        elif self.pattern == "segmented":
            segments = curriculum.segments_of_equal(values[order])
        missing = np.flatnonzero(np.isnan(values))
        if missing.size:
            logger.warning(
                "Round %d: %d of %d rows have no value of %r to order them by. The round trains on them last.",
                context.index, missing.size, len(rows), "" if self.by is None else column_name(self.by),
            )  # fmt: skip
            context.record.logs["rows_without_order"] = missing.size
        if segments is not None:
            segments = np.concatenate([segments, np.arange(len(order), len(rows))])
        return RoundOrder(rows[np.concatenate([order, missing])], segments)

    def _values(self, cache: RoundCache, context: RoundContext, rows: np.ndarray) -> np.ndarray:
        """Return one number per row in the order of the values of the column or score, float64, NaN without one."""
        if self.by is None:
            return np.arange(len(rows), dtype=np.float64)
        if not isinstance(self.by, str):
            return cache.values(self.by, rows).astype(np.float64)
        reader = self._context(cache, rows)
        values, keys = reader.column(self.by, rows), reader.sort_keys(self.by, rows)
        context.record.include(reader.record)
        ranks, present = np.full(len(rows), np.nan), ~np.isnan(values)
        ranks[present] = np.unique(keys[present], return_inverse=True)[1]
        return ranks

    def _context(self, cache: RoundCache, rows: np.ndarray) -> RoundContext:
        context = RoundContext(cache, budget=len(rows))
        context.record.caller = ORDER
        return context


def plain_order(setting: Any) -> Any:
    """Return the setting in plain values, in which a score that is passed as an object is its spec.

    Args:
        setting: The setting, as a user passes it in Python.
    """
    if isinstance(setting, Mapping) and isinstance(setting.get("by"), HasSpec):
        return {**setting, "by": to_spec(setting["by"])}
    return setting


def _source(by: Any) -> str | Score | None:
    """Return the column or the score that rows are ordered by.

    Raises:
        ConfigError: It is neither, or a score that gives rows no numbers.
    """
    from hf_datasel.scoring.base import Score

    if by is None or (isinstance(by, str) and by):
        return by
    if isinstance(by, Mapping) and ":" in str(by.get("score", next(iter(by), ""))):
        raise ConfigError(f"{ORDER}: by={by!r} is code outside hf_datasel. Compute it, and name its column.")
    score = from_name(by, "score") if isinstance(by, Mapping) else None
    if not isinstance(score, Score):
        raise ConfigError(
            f'{ORDER}: by={by!r} has to be the name of a column, or a score such as {{"score": "loss"}}.'
        )
    dtype = score.columns()[score.value_column.removeprefix(score.column_prefix)]
    if score.needs_fit or not (pa.types.is_floating(dtype) or pa.types.is_integer(dtype)):
        raise ConfigError(f"{ORDER}: {spec_name(score)} gives a row no number of its own to order it by.")
    return score
