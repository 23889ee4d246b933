"""What every selector is checked for.

A selector that plans several rounds chooses in each of them, one after the other, with the model as it is: what holds
of a choice holds of that of each round, and what is said of a whole choice is said of that of the last round.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import ConfigError, DataselError, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.run import run_round
from hf_datasel.rounds.selector import Selector
from hf_datasel.scoring.engine import Engine
from hf_datasel.selection import select
from hf_datasel.selectors import by_name
from hf_datasel.testing.guards import offline, random_state_kept, require, require_round_trip, with_unusable_row

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["CHECKS"]


def _choice(subject: Selector, rows: Dataset, model: str | None) -> None:
    """Distinct row numbers, at most the budget, all of them eligible; `round.eligible` itself stays as it is."""
    data = with_unusable_row(rows)
    for size in sorted({_least(subject, data, each) for each in (1, len(data) // 2, len(rows))}):
        _played(subject, data, size, model)


def _eligible(subject: Selector, rows: Dataset, model: str | None) -> None:
    """Where half of the rows are not eligible, the choice is among the others."""
    for part in (0, 1):
        half = np.arange(len(rows)) % 2 == part
        _played(subject, rows, _least(subject, rows, len(rows) // 3), model, half)


def _budget(subject: Selector, rows: Dataset, model: str | None) -> None:
    """As many rows as can be chosen, whenever that many are asked for; above that a SelectionError that says so."""
    data = with_unusable_row(rows)
    most = len(_played(subject, data, len(rows), model)[1])
    require(most > 0, "none of the rows is ever chosen: pass rows that it can choose from")
    for size in sorted({_least(subject, data, each) for each in (1, (most + 1) // 2, most)}):
        round, chosen = _played(subject, data, size, model)
        found = len(chosen)
        require(found == min(round.budget, most), f"a budget of {round.budget} gives {found} of {most} rows")
    *_, round = _rounds(subject, data, len(rows), model)
    if round.index + 1 < len(round.plan):
        return  # the rows of a warm-up, of which there is a fixed number
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
    round, most = _played(subject, rows, len(rows), model)
    for size in range(_least(subject, rows), min(round.budget, len(most))):
        fewer = _played(subject, rows, size, model)[1].tolist()
        require(
            fewer == most[: len(fewer)].tolist(),
            f"it is said to be nested, but a budget of {size} gives {fewer}, and a larger one begins with "
            f"{most[: len(fewer)].tolist()}",
        )


def _nulls(subject: Selector, rows: Dataset, model: str | None) -> None:
    """A row whose value is null in a column that the selector names is never chosen."""
    round, chosen = _played(subject, rows, len(rows), model)
    first = int(chosen[0])
    for name in round.columns_used:
        values = [None if at == first else value for at, value in enumerate(rows[name][:])]
        data = rows.remove_columns([name]).add_column(name, values)
        chosen = _played(subject, data, len(rows), model)[1]
        require(first not in chosen, f"row {first} is chosen, and has no {name}")


def _missing_column(subject: Selector, rows: Dataset, model: str | None) -> None:
    """A column that the selector names and that is not there is named by the error."""
    size = _least(subject, rows)
    round, _ = _played(subject, rows, size, model)
    for name in round.columns_used:
        try:
            _played(subject, rows.remove_columns([name]), size, model)
        except DataselError as error:
            require(repr(name) in str(error), f"the error does not name the missing column {name!r}: {error}")
        else:
            raise AssertionError(f"the column {name!r} is not missed when it is not there")


def _seeded(subject: Selector, rows: Dataset, model: str | None) -> None:
    """The same rows in the same order twice, and from a copy, with the same seed."""
    size = _least(subject, rows, len(rows) // 2)
    first, second, third = (
        _played(each, rows, size, model)[1].tolist()
        for each in (subject, subject, pickle.loads(pickle.dumps(subject)))
    )
    require(first == second == third, f"the choice is {first}, then {second}, and {third} by a copy")


def _kept(subject: Selector, rows: Dataset, model: str | None) -> None:
    """What a round keeps for the next one in `round.state` is arrays, and comes back from a checkpoint as it was."""
    size = _least(subject, rows, len(rows) // 2)
    through = _played(subject, rows, size, model, epochs=2.0, restored=True)[1].tolist()
    without = _played(subject, rows, size, model, epochs=2.0)[1].tolist()
    require(through == without, f"the choice is {without}, and {through} when each round begins from a checkpoint")


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
    _played(subject, rows, _least(subject, rows), model, np.zeros(len(rows), dtype=bool))


def _one_row(subject: Selector, rows: Dataset, model: str | None) -> None:
    """A dataset of one row: that row, or an error of ours that says why not."""
    try:
        *_, round = _rounds(subject, rows.select([0]), 1, model)
        chosen = run_round(subject, round).tolist()
    except DataselError:
        return
    require(chosen == [0], f"the choice from one row is {chosen}")


def _global_state(subject: Selector, rows: Dataset, model: str | None) -> None:
    """The random state of torch, numpy and Python stays as it is: randomness comes from `round.rng`."""
    with random_state_kept():
        _played(subject, rows, _least(subject, rows), model)


def _no_network(subject: Selector, rows: Dataset, model: str | None) -> None:
    """No connection to another machine."""
    with offline():
        _played(subject, rows, _least(subject, rows), model)


def _least(subject: Selector, rows: Dataset, wanted: int = 1) -> int:
    """The smallest budget from `wanted` on, and from one row, that the selector makes a plan for."""
    refused = ""
    for size in range(max(wanted, 1), len(rows) + 1):
        try:
            subject.plan(size, 1.0, len(rows))
        except ConfigError as error:  # fewer rows than rounds, say
            refused = str(error)
            continue
        return size
    raise AssertionError(f"it makes no plan for {len(rows)} rows, so pass more: {refused}")


def _rounds(
    subject: Selector,
    rows: Dataset,
    size: int,
    model: str | None,
    eligible: np.ndarray | None = None,
    epochs: float = 1.0,
    restored: bool = False,
) -> Iterator[Round]:
    """The rounds of a run with a budget of `size`, in which the model stays as it is.

    The selector chooses in each of them but the last, once the next one is asked for. There is no round after one that
    is planned with checkpoints, which nobody writes here.

    Args:
        restored: what is kept from round to round is written and read, as into a checkpoint.
    """
    pool = Pool(rows)
    usable = pool.reasons == "" if eligible is None else (pool.reasons == "") & eligible
    plan = subject.plan(size, epochs, int(usable.sum()))
    chosen, state = np.empty(0, dtype=np.int64), dict[str, np.ndarray]()
    compute = Engine(pool, model).compute
    for index, each in enumerate(plan):
        round = Round(index, pool, usable, each.budget, compute, chosen=chosen, state=state, plan=plan)
        yield round
        if index + 1 == len(plan) or each.checkpoints:
            return
        answer = _chosen(subject, round)
        chosen = np.array(list(dict.fromkeys([*chosen.tolist(), *answer.tolist()])), dtype=np.int64)
        state = _through_a_file(round.state) if restored else round.state


def _played(
    subject: Selector,
    rows: Dataset,
    size: int,
    model: str | None,
    eligible: np.ndarray | None = None,
    epochs: float = 1.0,
    restored: bool = False,
) -> tuple[Round, np.ndarray]:
    """The last of the rounds, and what the selector chooses in it."""
    *_, last = _rounds(subject, rows, size, model, eligible, epochs, restored)
    return last, _chosen(subject, last)


def _through_a_file(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    file = io.BytesIO()
    arrays: dict[str, Any] = {f"state/{name}": values for name, values in state.items()}
    np.savez(file, **arrays)
    file.seek(0)
    with np.load(file) as stored:
        return {name.removeprefix("state/"): stored[name] for name in stored}


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
    "kept": _kept,
    "round_trips": _round_trips,
    "empty": _empty,
    "one_row": _one_row,
    "global_state": _global_state,
    "no_network": _no_network,
}
