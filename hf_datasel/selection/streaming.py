"""Selection from a streaming dataset."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import ColumnError, ConfigError, FormatError, SelectionError, did_you_mean, reason_counts
from hf_datasel.formats import canonical_rows
from hf_datasel.formats.mapping import checked_mapping, rename_batch
from hf_datasel.rounds.selector import Selector
from hf_datasel.scoring.cost import log_cost, measure_cost
from hf_datasel.scoring.score_tables import REASON_COLUMN, ScoreTables
from hf_datasel.selectors import Random, RankedSelector
from hf_datasel.strategies.streaming import TopHeap

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

__all__ = ["select_streaming"]

logger = logging.getLogger(__name__)

_COLUMNS = ("selection_rank", "selection_row")
"""Columns that `select_streaming` adds."""


def select_streaming(
    stream: IterableDataset | ScoreTables,
    selector: Selector,
    size: int,
    seed: int = 0,
    batch_size: int = 1000,
    *,
    columns: Mapping[str, str] | None = None,
) -> Dataset:
    """Select rows of a streaming dataset in one pass, with at most about `2 x size` rows in memory.

    Works with `Random` and with selectors that take the rows with the highest values of a score, such as `Top`,
    `Longest` and `Superfiltering`. These select the same rows as `select` does. `Random` draws uniformly, but other
    rows than `select`. Other selectors need all rows at once. To keep all rows above or below a value, use
    `stream.filter(Between(...), batched=True)`. What scoring cost is logged at the level INFO.

    Args:
        stream: Rows in any supported format, or score tables, of which only the column of the selector is read.
        selector: Selector such as `Top(by="ifd")`, `Top(by=Loss("name or path"))` or `Random()`.
        size: Number of rows to select. If the stream has fewer, all are returned, and a warning is logged.
        seed: Random seed of `Random`.
        batch_size: Number of rows that are read, and scored, at once.
        columns: Names of the columns of a row format, or `role` and `content` of messages, and the names that the
            stream has for them.

    Returns:
        The selected rows, best first, with `selection_rank` (0 for the best row) and `selection_row` (row number in
        the stream). From score tables these are row numbers and ids, and `ScoreTables.rows_of` returns the rows.

    Raises:
        SelectionError: The selector needs all rows, or no row of the stream can be selected.
        ColumnError: A column that the selector names is missing, or holds no numbers.
        ConfigError: A setting has a value that is not possible.
    """
    from datasets import Dataset, IterableDataset, IterableDatasetDict, Value

    if isinstance(stream, IterableDatasetDict):
        splits = ", ".join(map(repr, stream))
        raise FormatError(f"The stream is an IterableDatasetDict with the splits {splits}. Pick one: stream[SPLIT].")
    if not isinstance(stream, IterableDataset | ScoreTables):
        raise FormatError(
            f"select_streaming takes an IterableDataset, and this is {type(stream).__name__}: use select."
        )
    for name, value, minimum in (("size", size, 1), ("seed", seed, 0), ("batch_size", batch_size, 1)):
        if type(value) is not int or value < minimum:
            raise ConfigError(f"{name}={value!r} has to be an int of at least {minimum}.")
    overrides = isinstance(selector, RankedSelector) and type(selector).select is not RankedSelector.select
    if not isinstance(selector, Random | RankedSelector) or overrides:
        raise SelectionError(
            f"{type(selector).__name__} has to see all rows before it selects one. Load the dataset without "
            "streaming, or thin it out first with Top, Longest, Superfiltering, Random or a filter."
        )
    best = _BestRows(selector, size, seed, checked_mapping(columns), isinstance(stream, ScoreTables))
    if isinstance(stream, ScoreTables):
        stream.check_mapping(columns)
        stream = _table_stream(stream, selector)
        batches = (table.to_pydict() for table in stream.with_format("arrow").iter(batch_size=batch_size))
    else:
        batches = stream.iter(batch_size=batch_size)
    with measure_cost() as meter:
        for batch in batches:
            best.add(batch)
    log_cost(f"Selecting from {best.num_rows:,} streamed rows", meter.cost)
    selected = best.heap.positions.tolist()
    reasons = f" ({reason_counts(best.exclusions)})" if best.exclusions else ""
    if not selected:
        raise SelectionError(f"None of the {best.num_rows:,} rows of the stream can be selected{reasons}.")
    if len(selected) < size:
        logger.warning(
            "size=%d is more than the %d of %d rows that can be selected%s.",
            *(size, len(selected), best.num_rows, reasons),
        )
    subset = Dataset.from_list([best.rows[number] for number in selected], features=stream.features)
    replaced = [name for name in subset.column_names if name in _COLUMNS]
    if replaced:
        logger.warning("The stream has columns of an earlier selection, which are replaced: %s.", ", ".join(replaced))
    ranks = np.arange(len(selected), dtype=np.int32)
    subset = subset.remove_columns(replaced).add_column("selection_rank", ranks, feature=Value("int32"))
    return subset.add_column("selection_row", selected)


class _BestRows:
    """The best rows of a stream so far, and rows that they have replaced since the last clean-up."""

    def __init__(
        self,
        selector: Random | RankedSelector,
        size: int,
        seed: int,
        columns: Mapping[str, str] | None = None,
        from_tables: bool = False,
    ):
        self.selector, self.size, self.columns, self.from_tables = selector, size, columns, from_tables
        self.heap = TopHeap(size)
        self.rng = np.random.default_rng([seed, 0])
        self.rows: dict[int, dict[str, Any]] = {}
        self.num_rows = 0
        self.exclusions: Counter[str] = Counter()

    def add(self, batch: dict[str, list[Any]]) -> None:
        num_rows = len(next(iter(batch.values())))
        for position in self.heap.add(self._sort_keys(batch, num_rows)).tolist():
            self.rows[self.num_rows + position] = {name: values[position] for name, values in batch.items()}
        self.num_rows += num_rows
        if len(self.rows) > 2 * self.size + num_rows:
            self.rows = {number: self.rows[number] for number in self.heap.positions.tolist()}

    def _sort_keys(self, batch: dict[str, list[Any]], num_rows: int) -> Any:
        """Return the numbers that rows are ranked by, missing for excluded rows, which are counted."""
        if self.from_tables:
            reasons = np.array(batch[REASON_COLUMN], dtype=object)
        else:
            reasons = np.array([row.reason for row in canonical_rows(batch, columns=self.columns)], dtype=object)
        usable = reasons == ""
        self.exclusions.update(reasons[~usable].tolist())
        if isinstance(self.selector, Random):
            return np.where(usable, self.rng.random(num_rows), np.nan)
        numbers = _numbers(self.selector, batch, self.columns, self.from_tables)
        values = np.array(numbers, dtype=np.float64)
        excluded, reason = self.selector.excluded(values)
        for text, mask in ((reason, excluded), (f"without {self.selector.value_column}", np.isnan(values))):
            if count := int((usable & mask).sum()):
                self.exclusions[text] += count
        present = usable & ~excluded & ~np.isnan(values)
        return [number if kept else None for number, kept in zip(numbers, present, strict=True)]


def _table_stream(tables: ScoreTables, selector: Random | RankedSelector) -> IterableDataset:
    """Return the rows of score tables, with the column that the selector ranks by."""
    if isinstance(selector, Random):
        return tables.stream([])
    if not isinstance(selector.ranks_by, str):
        tables.check_score(selector.ranks_by)
    elif selector.value_column not in tables.columns:
        raise ColumnError(
            f"{type(selector).__name__} needs column {selector.value_column!r}, but the score tables have "
            f"{tables.columns}.{did_you_mean(selector.value_column, tables.columns)} Name one of these, or score the "
            "dataset again with all scores."
        )
    return tables.stream([selector.value_column])


def _no_column(selector: RankedSelector, names: list[str]) -> ColumnError:
    return ColumnError(
        f"{type(selector).__name__} needs column {selector.value_column!r}, but the stream has {names}."
        f"{did_you_mean(selector.value_column, names)} Scores are added with stream.map(IFD(...), batched=True)."
    )


def _numbers(
    selector: RankedSelector, batch: dict[str, list[Any]], mapping: Mapping[str, str] | None, is_scored: bool
) -> list[Any]:
    """Return the numbers of the column that the selector ranks by, or that its score writes; NaN for null."""
    source, name = selector.ranks_by, selector.value_column
    if is_scored or isinstance(source, str):
        columns: Mapping[str, list[Any]] = batch
    else:
        columns = source(rename_batch(batch, mapping) if mapping else batch)
    if name not in columns:
        raise _no_column(selector, list(batch))
    values = columns[name]
    if any(isinstance(value, str) for value in values):
        raise ColumnError(f"Column {name!r} holds text such as {values[0]!r}, and a selection needs numbers.")
    numbers = [np.nan if value is None else value for value in values]
    try:
        np.array(numbers, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ColumnError(f"Column {name!r} holds {values[0]!r}, and a selection needs numbers.") from error
    return numbers
