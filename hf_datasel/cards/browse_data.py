"""Columns of the page that `browse` writes: text, scores, ranks, outcomes, groups and sizes of the rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, cast

import numpy as np
import pyarrow as pa

from hf_datasel.analysis.columns import PoolColumns, SizeUnit
from hf_datasel.errors import ConfigError, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.formats.row_texts import row_texts
from hf_datasel.hub.secrets import without_credentials
from hf_datasel.scoring.base import Score
from hf_datasel.scoring.numbers import is_identifier
from hf_datasel.selection import Selection
from hf_datasel.selection.outcomes import Outcomes, descending_ranks, exclusion_bound, row_outcomes
from hf_datasel.spec import HasSpec, changed_settings, find_class, from_spec, to_spec

__all__ = ["BrowseData", "FilterSource", "Groups", "Numbers", "browse_data"]

_MAX_GROUPS = 5_000
"""Distinct values up to which a column is one of groups."""
_FEW_GROUPS = 50
"""Distinct values up to which it is, however few rows there are; above, rows have to be twice as many."""
_ADDED = ("selection_rank", "selection_round", "selection_weight", "row_id")
"""Columns of earlier selections and of the tables of selections, which say nothing about a row by themselves."""


@dataclass(frozen=True)
class FilterSource:
    """How a filter names a column.

    Args:
        python: Python expression: the name of the column, or the score.
        yaml: The same as a value of a recipe, in flow style.
        imports: Names that the expression needs from `hf_datasel.scores`.
        column: Column of the score, if the filter has to name it; otherwise empty.
        in_dataset: Whether the dataset has the column.
    """

    python: str
    yaml: str
    imports: list[str] = field(default_factory=list)
    column: str = ""
    in_dataset: bool = True


@dataclass(frozen=True)
class Numbers:
    """A column of numbers.

    Args:
        name: Name of the column.
        values: Float64 of shape (rows,), NaN where a row has no value.
        ranks: Number of rows with a higher value, plus one; int64 of shape (rows,), 0 where a row has no value.
        source: How a filter names it; None if it cannot.
        is_score: Whether a selection is based on it.
    """

    name: str
    values: np.ndarray
    ranks: np.ndarray
    source: FilterSource | None
    is_score: bool


@dataclass(frozen=True)
class Groups:
    """A column of groups, such as sources or clusters.

    Args:
        name: Name of the column.
        labels: Distinct values, as text.
        codes: Position of the value of each row in `labels`, int64 of shape (rows,); -1 where a row has none.
    """

    name: str
    labels: list[str]
    codes: np.ndarray


@dataclass(frozen=True)
class BrowseData:
    """What the page shows. All arrays are aligned with `rows`.

    Args:
        pool_size: Number of rows of the pool.
        rows: Row numbers, int64, ascending: all rows, or as many as were asked for.
        usable: Whether each row can be used at all, bool.
        outcomes: What became of every row, by name of the selection.
        weights: Weights of the selected rows, by name of the selection, float64 with NaN for others; only of
            selections with weights.
        numbers: Columns of numbers, those that selections are based on first.
        groups: Columns of groups.
        sizes: Size of every row, float64, NaN for rows without text; None if it is not known.
        unit: Unit of the sizes.
        prompts: Prompts, cut.
        responses: Responses, cut.
        cut: Position in `rows` -> characters that the prompt and the response have in full, of the rows with cut text.
        details: Position in `rows` -> why a row cannot be used, in full.
        max_characters: Characters at which a text is cut.
    """

    pool_size: int
    rows: np.ndarray
    usable: np.ndarray
    outcomes: dict[str, Outcomes]
    weights: dict[str, np.ndarray]
    numbers: list[Numbers]
    groups: list[Groups]
    sizes: np.ndarray | None
    unit: SizeUnit | None
    prompts: list[str]
    responses: list[str]
    cut: dict[int, tuple[int, int]]
    details: dict[int, str]
    max_characters: int


def browse_data(
    selections: Mapping[str, Selection], dataset: Any, *, max_characters: int = 2_000, max_rows: int = 100_000
) -> BrowseData:
    """Compute what the page shows.

    Args:
        selections: Selections by name.
        dataset: The dataset that they were made from.
        max_characters: Characters at which a prompt or a response is cut.
        max_rows: Largest number of rows. Of a larger pool, the selected rows are shown, and a random sample of others.

    Raises:
        ConfigError: A limit is no positive integer.
        SelectionError: There is no selection.
        DatasetMismatchError: A selection was not made from this dataset.
    """
    for name, limit in (("max_characters", max_characters), ("max_rows", max_rows)):
        if type(limit) is not int or limit < 1:
            raise ConfigError(f"{name}={limit!r} has to be an int of at least 1.")
    if not selections:
        raise SelectionError("There is no selection to show.")
    for selection in selections.values():
        selection.check(dataset)
    pool = next(iter(selections.values())).pool(dataset)
    rows = _shown_rows(list(selections.values()), len(pool), max_rows)
    numbers, groups = _columns(selections, pool)
    _, sizes, unit = PoolColumns(selections, pool).sizes(None, None)
    prompts, responses, cut = _cut_texts(pool, rows, max_characters)
    positions = {int(row): position for position, row in enumerate(rows)}
    return BrowseData(
        pool_size=len(pool),
        rows=rows,
        usable=pool.usable[rows],
        outcomes={name: _of_rows(row_outcomes(selection, pool), rows) for name, selection in selections.items()},
        weights={
            name: selection.scores("selection_weight")[rows]
            for name, selection in selections.items()
            if selection.weights is not None
        },
        numbers=[
            Numbers(column.name, column.values[rows], column.ranks[rows], column.source, column.is_score)
            for column in numbers
        ],
        groups=[Groups(column.name, column.labels, column.codes[rows]) for column in groups],
        sizes=None if sizes is None else sizes[rows],
        unit=unit,
        prompts=prompts,
        responses=responses,
        cut=cut,
        details={positions[row]: detail for row, detail in pool.details.items() if row in positions and detail},
        max_characters=max_characters,
    )


# -- rows and their text ----------------------------------------------------------------------------------------------
def _shown_rows(selections: Sequence[Selection], pool_size: int, max_rows: int) -> np.ndarray:
    """Return the rows of the page, ascending: all of them, or the selected ones and a sample of the others."""
    if pool_size <= max_rows:
        return np.arange(pool_size)
    rng = np.random.default_rng(0)
    selected = np.unique(np.concatenate([selection.indices for selection in selections]))
    selected = rng.permutation(selected)[:max_rows]
    others = np.setdiff1d(np.arange(pool_size), selected)
    return np.sort(np.concatenate([selected, rng.choice(others, max_rows - len(selected), replace=False)]))


def _of_rows(outcomes: Outcomes, rows: np.ndarray) -> Outcomes:
    """Return the outcomes of some rows, whose following rows are positions in `rows`."""
    shown = outcomes.following[np.isin(outcomes.following, rows)]
    return Outcomes(
        outcomes.ranks[rows],
        outcomes.reasons,
        outcomes.codes[rows],
        outcomes.unresolved,
        outcomes.ranked_by,
        outcomes.highest_first,
        np.searchsorted(rows, shown),
    )


def _cut_texts(pool: Pool, rows: np.ndarray, limit: int) -> tuple[list[str], list[str], dict[int, tuple[int, int]]]:
    prompts, responses, cut = list[str](), list[str](), dict[int, tuple[int, int]]()
    for position, (prompt, response) in enumerate(row_texts(pool, rows)):
        prompts.append(prompt[:limit])
        responses.append(response[:limit])
        if max(len(prompt), len(response)) > limit:
            cut[position] = len(prompt), len(response)
    return prompts, responses, cut


# -- columns ----------------------------------------------------------------------------------------------------------
def _columns(selections: Mapping[str, Selection], pool: Pool) -> tuple[list[Numbers], list[Groups]]:
    """Return the columns of numbers and of groups, of the selections and of the dataset."""
    scores, groups = dict[str, np.ndarray](), dict[str, Groups]()
    sources, bounds = dict[str, FilterSource | None](), dict[str, float]()
    for label, selection in selections.items():
        read = {*selection.provenance["columns_unverified"], *selection.provenance["columns_verified"]}
        for name in selection.table.column_names:
            if name in _ADDED or name.endswith("_reason"):
                continue
            column = selection.table.column(name)
            if is_column := name in pool.column_names and (
                name in read or _agree(column, _dataset_column(pool, name))
            ):
                column = _dataset_column(pool, name)
            if name not in scores and (found := _groups(name, column)) is not None:
                groups.setdefault(name, found)
            elif _is_number(column.type) and not is_identifier(name):
                is_other = not is_column and name in pool.column_names  # computed, although the dataset has one too
                added = _merge(scores, f"{name} of {label}" if is_other else name, _numbers(column), label)
                sources.setdefault(added, _of_dataset(name) if is_column else _of_score(name, selection))
                bounds.setdefault(added, exclusion_bound(selection, name))
    num_scores = len(scores)
    for name in pool.column_names:
        if name in (*pool.columns, *_ADDED) or name in scores or name in groups:
            continue
        column = _dataset_column(pool, name)
        if (found := _groups(name, column)) is not None:
            groups[name] = found
        elif _is_number(column.type) and not is_identifier(name):
            scores[name], sources[name] = _numbers(column), _of_dataset(name)
    numbers = [
        Numbers(name, values, descending_ranks(values, bounds.get(name, np.inf)), sources[name], index < num_scores)
        for index, (name, values) in enumerate(scores.items())
        if np.isfinite(values).any()
    ]
    return numbers, list(groups.values())


def _equal(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether numbers are equal, up to the effect of batches, where both have a value."""
    both = ~np.isnan(first) & ~np.isnan(second)
    return np.allclose(first[both], second[both], rtol=1e-4)


def _agree(first: pa.ChunkedArray, second: pa.ChunkedArray) -> bool:
    are_numbers = _is_number(first.type) and _is_number(second.type)
    return _equal(_numbers(first), _numbers(second)) if are_numbers else bool(first.equals(second))


def _dataset_column(pool: Pool, name: str) -> pa.ChunkedArray:
    return pool.dataset.select_columns([name]).with_format("arrow")[:].column(name)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy())


def _merge(columns: dict[str, np.ndarray], name: str, values: np.ndarray, label: str) -> str:
    """Add a score, or fill in an equal one of another selection; return the name that it has."""
    if name in columns:
        if _equal(columns[name], values):
            columns[name] = np.where(np.isnan(columns[name]), values, columns[name])
            return name
        name = f"{name} of {label}"
    columns[name] = values
    return name


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_floating(type_) or pa.types.is_integer(type_) or pa.types.is_decimal(type_))


def _groups(name: str, column: pa.ChunkedArray) -> Groups | None:
    """Return a column as groups if it is one of text, booleans or ids with few distinct values; None if not."""
    type_ = column.type
    is_text = pa.types.is_string(type_) or pa.types.is_large_string(type_)
    is_id = is_identifier(name) and _is_number(type_)
    if not (is_text or is_id or pa.types.is_boolean(type_)):
        return None
    encoded = column.combine_chunks().dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    values, rows = encoded.dictionary.to_pylist(), len(column)
    if len(values) > _MAX_GROUPS or (len(values) > _FEW_GROUPS and 2 * len(values) > rows):
        return None
    if len(values) + bool(encoded.null_count) < 2:  # it tells no row from another
        return None
    order = sorted(range(len(values)), key=lambda position: values[position])
    places = np.empty(len(values) + 1, dtype=np.int64)
    places[order], places[-1] = np.arange(len(values)), -1
    codes = encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    labels = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    return Groups(name, [labels[position] for position in order], places[codes])


# -- how a filter names a column --------------------------------------------------------------------------------------
def _of_dataset(name: str) -> FilterSource:
    return FilterSource(json.dumps(name), json.dumps(name))


def _of_score(name: str, selection: Selection) -> FilterSource | None:
    """Return how a filter names a score of a selection, by its recorded settings; None if they are not known."""
    for spec in selection.provenance["scores"]:
        try:
            score = _score(spec)
        except ConfigError:  # a score outside hf_datasel, or one that an earlier version had
            continue
        columns = [f"{score.column_prefix}{column}" for column in score.columns()]
        if name in columns:
            imports = list[str]()
            python = _python(score, imports)
            column = "" if name == score.value_column else name
            yaml = json.dumps(to_spec(score), ensure_ascii=False)
            return FilterSource(python, yaml, sorted(set(imports)), column, in_dataset=False)
    return None


def _score(spec: Mapping[str, Any]) -> Score:
    """Return the score of a record, which has more keys than settings, without passwords in addresses."""
    names = [setting.name for setting in fields(cast(Any, find_class("score", str(spec["score"]))))]
    settings = {key: _without_credentials(spec[key]) for key in spec if key == "score" or key in names}
    score: Score = from_spec(settings, "score")
    return score


def _without_credentials(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_credentials(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_credentials(item) for item in value]
    return without_credentials(value) if isinstance(value, str) else value


def _python(value: Any, imports: list[str]) -> str:
    """Return the Python expression of a setting, and add the classes that it needs to `imports`."""
    if isinstance(value, HasSpec):
        imports.append(type(value).__name__)
        settings = changed_settings(value).items()
        return f"{type(value).__name__}({', '.join(f'{name}={_python(item, imports)}' for name, item in settings)})"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_python(item, imports) for item in value)}]"
    return repr(value)
