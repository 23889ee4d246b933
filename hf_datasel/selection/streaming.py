"""Selecting from a dataset that is read once, in batches, and never held."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import ColumnError, ConfigError, FormatError, SelectionError, did_you_mean, reason_counts
from hf_datasel.formats import canonical_rows, detect_format
from hf_datasel.selectors import Random, Ranked, Selector
from hf_datasel.strategies.streaming import TopHeap

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

__all__ = ["select_streaming"]

logger = logging.getLogger(__name__)


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
    rng = np.random.default_rng([seed, 0])
    heap, held, seen, left_out = TopHeap(size), dict[int, dict[str, Any]](), 0, Counter[str]()
    for batch in stream.iter(batch_size=batch_size):
        rows = _rows(batch)
        values = rng.random(len(rows)) if isinstance(selector, Random) else _values(selector, batch)
        for at, reason in enumerate(_reasons(batch)):
            if reason:
                values[at] = np.nan
                left_out[reason] += 1
        heap.add(values)
        held.update((seen + at, rows[at]) for at in np.flatnonzero(~np.isnan(values)).tolist())
        seen += len(rows)
        if len(held) > 2 * size + batch_size:
            held = {at: held[at] for at in heap.positions.tolist()}
    chosen = heap.positions.tolist()
    why = f" ({reason_counts(left_out)})" if left_out else ""
    if not chosen:
        raise SelectionError(f"None of the {seen:,} rows of the stream can be selected{why}.")
    if len(chosen) < size:
        logger.warning("size=%d is more than the %d of %d rows that can be selected%s.", size, len(chosen), seen, why)
    subset = Dataset.from_list([held[at] for at in chosen], features=stream.features)
    ranks = np.arange(len(chosen), dtype=np.int32)
    return subset.add_column("selection_rank", ranks, feature=Value("int32")).add_column("selection_row", chosen)


def _rows(batch: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]


def _reasons(batch: dict[str, list[Any]]) -> Iterator[str]:
    format = detect_format(list(batch))
    return (row.reason for row in canonical_rows(batch, format))


def _values(selector: Ranked, batch: dict[str, list[Any]]) -> np.ndarray:
    """What the selector ranks by, float64 of shape (rows,); NaN for rows that it leaves out."""
    source, name = selector.ranks_by, selector.value_column
    columns = batch if isinstance(source, str) else source(batch)
    if name not in columns:
        raise ColumnError(
            f"{type(selector).__name__} needs column {name!r}, but the stream has {list(batch)}."
            f"{did_you_mean(name, list(batch))} Scores are added with stream.map(IFD(...), batched=True)."
        )
    try:
        values = np.array([np.nan if each is None else each for each in columns[name]], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ColumnError(f"Column {name!r} holds {columns[name][0]!r}, and a choice needs numbers.") from error
    values[selector.refused(values)[0]] = np.nan
    return values
