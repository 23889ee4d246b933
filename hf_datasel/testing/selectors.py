"""What every selector is checked for."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.errors import DataselError, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.scores.engine import Engine
from hf_datasel.selection import select
from hf_datasel.selectors import Round, Selector, by_name, run_round
from hf_datasel.testing.guards import offline, random_state_kept, require, require_round_trip, with_unusable_row

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["CHECKS"]


def _choice(subject: Selector, rows: Dataset, model: str | None) -> None:
    """Distinct row numbers, at most the budget, all of them eligible; `round.eligible` itself stays as it is."""
    data = with_unusable_row(rows)
    for size in (1, len(data) // 2, len(rows)):
        _chosen(subject, _round(subject, data, size, model))


def _eligible(subject: Selector, rows: Dataset, model: str | None) -> None:
    """Where half of the rows are not eligible, the choice is among the others."""
    for part in (0, 1):
        half = np.arange(len(rows)) % 2 == part
        _chosen(subject, _round(subject, rows, len(rows) // 3, model, half))


def _budget(subject: Selector, rows: Dataset, model: str | None) -> None:
    """As many rows as can be chosen, whenever that many are asked for; above that a SelectionError that says so."""
    data = with_unusable_row(rows)
    most = len(_chosen(subject, _round(subject, data, len(rows), model)))
    require(most > 0, "none of the rows is ever chosen: pass rows that it can choose from")
    for size in sorted({1, (most + 1) // 2, most}):
        round = _round(subject, data, size, model)
        found = len(_chosen(subject, round))
        require(found == min(round.budget, most), f"a budget of {round.budget} gives {found} of {most} rows")
    round = _round(subject, data, len(rows), model)
    round.budget = most + 1
    try:
        run_round(subject, round)
    except SelectionError as error:
        require(str(most) in str(error), f"the error does not say how many rows there are: {error}")
    else:
        raise AssertionError(f"a budget of {most + 1} is met, and one of {len(rows)} gives {most} rows")


def _nested(subject: Selector, rows: Dataset, model: str | None) -> None:
    """Where it says so, a smaller budget chooses the first rows of a larger one."""
    if not subject.nested:
        return
    round = _round(subject, rows, len(rows), model)
    most = _chosen(subject, round)
    for size in range(1, min(round.budget, len(most))):
        fewer = _chosen(subject, _round(subject, rows, size, model)).tolist()
        require(
            fewer == most[: len(fewer)].tolist(),
            f"it is said to be nested, but a budget of {size} gives {fewer}, and a larger one begins with "
            f"{most[: len(fewer)].tolist()}",
        )


def _nulls(subject: Selector, rows: Dataset, model: str | None) -> None:
    """A row whose value is null in a column that the selector names is never chosen."""
    round = _round(subject, rows, len(rows), model)
    first = int(_chosen(subject, round)[0])
    for name in round.columns_used:
        values = [None if at == first else value for at, value in enumerate(rows[name][:])]
        data = rows.remove_columns([name]).add_column(name, values)
        chosen = _chosen(subject, _round(subject, data, len(rows), model))
        require(first not in chosen, f"row {first} is chosen, and has no {name}")


def _missing_column(subject: Selector, rows: Dataset, model: str | None) -> None:
    """A column that the selector names and that is not there is named by the error."""
    round = _round(subject, rows, 1, model)
    _chosen(subject, round)
    for name in round.columns_used:
        try:
            _chosen(subject, _round(subject, rows.remove_columns([name]), 1, model))
        except DataselError as error:
            require(repr(name) in str(error), f"the error does not name the missing column {name!r}: {error}")
        else:
            raise AssertionError(f"the column {name!r} is not missed when it is not there")


def _seeded(subject: Selector, rows: Dataset, model: str | None) -> None:
    """The same rows in the same order twice, and from a copy, with the same seed."""
    first, second, third = (
        _chosen(each, _round(each, rows, max(len(rows) // 2, 1), model)).tolist()
        for each in (subject, subject, pickle.loads(pickle.dumps(subject)))
    )
    require(first == second == third, f"the choice is {first}, then {second}, and {third} by a copy")


def _round_trips(subject: Selector, rows: Dataset, model: str | None) -> None:
    """Pickle, and the spec through JSON and `by_name`, give the same selector."""
    spec = json.loads(json.dumps(subject.spec()))
    require_round_trip(subject, by_name(spec.pop("selector"), spec, allow_imports=True), "by_name of the spec")


def _empty(subject: Selector, rows: Dataset, model: str | None) -> None:
    """An empty dataset is refused with a SelectionError; where no row is eligible, none is chosen."""
    try:
        select(rows.select([]), subject, model=model)
    except SelectionError as error:
        require("empty" in str(error), f"the error on an empty dataset does not say that it is empty: {error}")
    else:
        raise AssertionError("an empty dataset is not refused")
    _chosen(subject, _round(subject, rows, 1, model, np.zeros(len(rows), dtype=bool)))


def _one_row(subject: Selector, rows: Dataset, model: str | None) -> None:
    """A dataset of one row: that row, or an error of ours that says why not."""
    try:
        chosen = run_round(subject, _round(subject, rows.select([0]), 1, model)).tolist()
    except DataselError:
        return
    require(chosen == [0], f"the choice from one row is {chosen}")


def _global_state(subject: Selector, rows: Dataset, model: str | None) -> None:
    """The random state of torch, numpy and Python stays as it is: randomness comes from `round.rng`."""
    with random_state_kept():
        _chosen(subject, _round(subject, rows, 1, model))


def _no_network(subject: Selector, rows: Dataset, model: str | None) -> None:
    """No connection to another machine."""
    with offline():
        _chosen(subject, _round(subject, rows, 1, model))


def _round(
    subject: Selector, rows: Dataset, size: int, model: str | None, eligible: np.ndarray | None = None
) -> Round:
    """The selector's first round for a budget of `size`."""
    pool = Pool(rows)
    usable = pool.reasons == ""
    if eligible is not None:
        usable = usable & eligible
    budget = subject.plan(size, 1.0, int(usable.sum()))[0].budget
    return Round(0, pool, usable, budget, Engine(pool, model).compute)


def _chosen(subject: Selector, round: Round) -> np.ndarray:
    """What the selector chooses, held against everything that holds for any choice."""
    eligible = round.eligible.copy()
    rows = np.asarray(subject.choose(round))
    integers = rows.ndim == 1 and (rows.size == 0 or np.issubdtype(rows.dtype, np.integer))
    require(integers, f"the choice is not row numbers but {rows.dtype} of shape {rows.shape}")
    require(np.array_equal(round.eligible, eligible), "round.eligible is changed")
    require(len(np.unique(rows)) == len(rows), f"rows are chosen twice: {rows.tolist()}")
    require(len(rows) <= round.budget, f"{len(rows)} rows are chosen for a budget of {round.budget}")
    inside = rows.size == 0 or (rows.min() >= 0 and rows.max() < len(eligible) and eligible[rows].all())
    require(inside, f"rows that are not eligible are chosen: {rows.tolist()}")
    return rows.astype(np.int64)


CHECKS = {
    "choice": _choice,
    "eligible": _eligible,
    "budget": _budget,
    "nested": _nested,
    "nulls": _nulls,
    "missing_column": _missing_column,
    "seeded": _seeded,
    "round_trips": _round_trips,
    "empty": _empty,
    "one_row": _one_row,
    "global_state": _global_state,
    "no_network": _no_network,
}
