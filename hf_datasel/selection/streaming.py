"""Selecting from a dataset that is read once, in batches, and never held."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import ColumnError, ConfigError, FormatError, SelectionError, did_you_mean, reason_counts
from hf_datasel.formats import canonical_rows, detect_format
from hf_datasel.rounds.selector import Selector
from hf_datasel.selectors import Random, Ranked
from hf_datasel.strategies.streaming import TopHeap

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

__all__ = ["select_streaming"]

logger = logging.getLogger(__name__)

_OURS = ("selection_rank", "selection_row")


def select_streaming(
    stream: IterableDataset, selector: Selector, size: int, seed: int = 0, batch_size: int = 1000
) -> Dataset:
    """Choose rows of a streaming dataset in one pass, holding no more than about twice the rows to be chosen.

    Works for a uniform draw (`Random`) and for selectors that take the highest values of a score (`Top`, `Longest`,
    `Superfiltering` ...), and chooses the rows that `select` does of the same rows; the draw of `Random` is another
    one, just as uniform. Greedy choices and shares of clusters depend on the last rows, so that they cannot be made
    here. A threshold is `stream.filter(Between(...), batched=True)`.

    Args:
        stream: rows in any supported format.
        selector: such as `Top(by="ifd")`, `Top(by=Loss("name or path"))` or `Random()`.
        size: rows to choose. With fewer in the stream, all of them come back, and a warning is logged.
        seed: of `Random`.
        batch_size: rows read, and scored, at once.

    Returns:
        The chosen rows, best first, with `selection_rank` (0 is best) and `selection_row` (number in the stream).

    Raises:
        SelectionError: a selector that needs all rows, or a stream without a row that can be chosen.
        ColumnError: a column that the selector names is not there, or holds no numbers.
        ConfigError: settings that cannot be.
    """
    from datasets import Dataset, IterableDataset, Value

    if not isinstance(stream, IterableDataset):
        raise FormatError(
            f"select_streaming takes an IterableDataset, and this is {type(stream).__name__}: use select."
        )
    for name, value, least in (("size", size, 1), ("seed", seed, 0), ("batch_size", batch_size, 1)):
        if type(value) is not int or value < least:
            raise ConfigError(f"{name}={value!r} has to be an int of at least {least}.")
    own = isinstance(selector, Ranked) and type(selector).choose is not Ranked.choose
    if not isinstance(selector, Random | Ranked) or own:
        raise SelectionError(
            f"{type(selector).__name__} has to see all rows before it chooses one. Load the dataset without "
            "streaming, or thin it out first with Top, Longest, Superfiltering, Random or a filter."
        )
    held = _Held(selector, size, seed)
    for batch in stream.iter(batch_size=batch_size):
        held.add(batch)
    chosen = held.best.positions.tolist()
    why = f" ({reason_counts(held.left_out)})" if held.left_out else ""
    if not chosen:
        raise SelectionError(f"None of the {held.seen:,} rows of the stream can be selected{why}.")
    if len(chosen) < size:
        found = len(chosen), held.seen, why
        logger.warning("size=%d is more than the %d of %d rows that can be selected%s.", size, *found)
    subset = Dataset.from_list([held.rows[at] for at in chosen], features=stream.features)
    before = [name for name in subset.column_names if name in _OURS]
    if before:
        logger.warning("The stream has columns of an earlier selection, which are replaced: %s.", ", ".join(before))
    ranks = np.arange(len(chosen), dtype=np.int32)
    subset = subset.remove_columns(before).add_column("selection_rank", ranks, feature=Value("int32"))
    return subset.add_column("selection_row", chosen)


class _Held:
    """The best rows so far, and some others that no better ones have taken the place of yet."""

    def __init__(self, selector: Random | Ranked, size: int, seed: int):
        self.selector, self.size = selector, size
        self.best = TopHeap(size)
        self.rng = np.random.default_rng([seed, 0])
        self.rows: dict[int, dict[str, Any]] = {}
        self.seen = 0
        self.left_out: Counter[str] = Counter()

    def add(self, batch: dict[str, list[Any]]) -> None:
        rows = [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]
        values = self._values(batch, len(rows))
        self.best.add(values)
        self.rows.update((self.seen + at, rows[at]) for at in np.flatnonzero(np.isfinite(values)).tolist())
        self.seen += len(rows)
        if len(self.rows) > 2 * self.size + len(rows):
            self.rows = {at: self.rows[at] for at in self.best.positions.tolist()}

    def _values(self, batch: dict[str, list[Any]], count: int) -> np.ndarray:
        """What the selector ranks by, NaN for rows that it leaves out, which are counted."""
        reasons = np.array([row.reason for row in canonical_rows(batch, detect_format(list(batch)))] or [""])[:count]
        usable = reasons == ""
        self.left_out.update(reasons[~usable].tolist())
        if isinstance(self.selector, Random):
            return np.where(usable, self.rng.random(count), np.nan)
        values = _numbers(self.selector, batch)
        refused, why = self.selector.refused(values)
        for reason, rows in ((why, refused), (f"without {self.selector.value_column}", ~np.isfinite(values))):
            if number := int((usable & rows).sum()):
                self.left_out[reason] += number
        return np.where(usable & ~refused, values, np.nan)


def _numbers(selector: Ranked, batch: dict[str, list[Any]]) -> np.ndarray:
    """The column that the selector ranks by, or that its score writes, float64 of shape (rows,)."""
    source, name = selector.ranks_by, selector.value_column
    columns = batch if isinstance(source, str) else source(batch)
    if name not in columns:
        raise ColumnError(
            f"{type(selector).__name__} needs column {name!r}, but the stream has {list(batch)}."
            f"{did_you_mean(name, list(batch))} Scores are added with stream.map(IFD(...), batched=True)."
        )
    held = columns[name]
    if any(isinstance(each, str) for each in held):
        raise ColumnError(f"Column {name!r} holds text such as {held[0]!r}, and a choice needs numbers.")
    try:
        return np.array([np.nan if each is None else each for each in held], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ColumnError(f"Column {name!r} holds {held[0]!r}, and a choice needs numbers.") from error
