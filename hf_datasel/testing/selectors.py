"""Contract checks of selectors.

If a selector plans several rounds, all of them are run in order, with the same model. What has to hold for any
selection is checked in each round, and what has to hold for the complete selection in the last one.
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
from hf_datasel.rounds.cache import RoundCache
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.run import run_round
from hf_datasel.rounds.selector import Selector
from hf_datasel.scoring.engine import Engine
from hf_datasel.selection import select
from hf_datasel.selectors import get_selector
from hf_datasel.testing.guards import (
    no_network,
    require,
    require_round_trip,
    unchanged_random_state,
    with_unusable_row,
)

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["CHECKS"]


def _selection(subject: Selector, rows: Dataset, model: str | None) -> None:
    """Check that row numbers are distinct, eligible and within the budget, and `context.eligible` is unchanged."""
    data = with_unusable_row(rows)
    runs = _Runs(subject, data, model)
    for size in sorted({runs.smallest_budget(size) for size in (1, len(data) // 2, len(rows))}):
        runs.run(size)


def _eligible(subject: Selector, rows: Dataset, model: str | None) -> None:
    """Check that only eligible rows are selected if half of the rows are not eligible."""
    runs = _Runs(subject, rows, model)
    for remainder in (0, 1):
        half = np.arange(len(rows)) % 2 == remainder
        runs.run(runs.smallest_budget(len(rows) // 3), half)


def _budget(subject: Selector, rows: Dataset, model: str | None) -> None:
    """Check that a budget is met if enough rows can be selected, and otherwise a SelectionError names their number."""
    runs = _Runs(subject, with_unusable_row(rows), model)
    most = len(runs.run(len(rows))[1])
    require(most > 0, "none of the rows is ever selected: pass rows that it can select from")
    for size in sorted({runs.smallest_budget(size) for size in (1, (most + 1) // 2, most)}):
        context, selected = runs.run(size)
        message = f"a budget of {context.budget} gives {len(selected)} of {most} rows"
        require(len(selected) == min(context.budget, most), message)
    *_, context = runs.rounds(len(rows))
    if context.index + 1 < len(context.plan):
        return  # a warm-up has a fixed number of rows
    if subject.keeps_all:
        return  # whatever the budget
    context.budget = most + 1
    try:
        run_round(subject, context)
    except SelectionError as error:
        require(str(most) in str(error), f"the error does not say how many rows there are: {error}")
    else:
        raise AssertionError(f"a budget of {most + 1} is met, and one of {len(rows)} gives {most} rows")


def _nested(subject: Selector, rows: Dataset, model: str | None) -> None:
    """Check that a smaller budget selects the first rows of a larger one, if it is nested."""
    if not subject.nested:
        return
    runs = _Runs(subject, rows, model)
    context, most = runs.run(len(rows))
    for size in range(runs.smallest_budget(), min(context.budget, len(most))):
        fewer = runs.run(size)[1]
        first = most[: len(fewer)]
        require(
            np.array_equal(fewer, first),
            f"it declares nested, but a budget of {size} gives {fewer.tolist()}, and a larger one begins with "
            f"{first.tolist()}",
        )


def _nulls(subject: Selector, rows: Dataset, model: str | None) -> None:
    """Check that rows with a null in a column that the selector uses are never selected."""
    context, selected = _Runs(subject, rows, model).run(len(rows))
    first = int(selected[0])
    for name in context.record.columns_used:
        values = [None if row == first else value for row, value in enumerate(rows[name][:])]
        data = rows.remove_columns([name]).add_column(name, values)
        selected = _Runs(subject, data, model).run(len(rows))[1]
        require(first not in selected, f"row {first} is selected, and has no {name}")


def _missing_column(subject: Selector, rows: Dataset, model: str | None) -> None:
    """Check that the error for a missing column names the column."""
    runs = _Runs(subject, rows, model)
    size = runs.smallest_budget()
    context, _ = runs.run(size)
    for name in context.record.columns_used:
        try:
            _Runs(subject, rows.remove_columns([name]), model).run(size)
        except DataselError as error:
            require(repr(name) in str(error), f"the error does not name the missing column {name!r}: {error}")
        else:
            raise AssertionError(f"the column {name!r} is missing, and no error is raised")


def _seeded(subject: Selector, rows: Dataset, model: str | None) -> None:
    """Check that the same seed gives the same rows in the same order, also from a pickled copy."""
    all_runs = [_Runs(each, rows, model) for each in (subject, subject, pickle.loads(pickle.dumps(subject)))]
    first, second, third = (runs.run(runs.smallest_budget(len(rows) // 2))[1].tolist() for runs in all_runs)
    require(first == second == third, f"the selection is {first}, then {second}, and {third} by a copy")


def _state(subject: Selector, rows: Dataset, model: str | None) -> None:
    """Check that `context.state` holds arrays, and that reading them from a checkpoint gives the same selection."""
    size = _Runs(subject, rows, model).smallest_budget(len(rows) // 2)
    restored, expected = (
        _Runs(subject, rows, model).run(size, epochs=2.0, restored=restored)[1].tolist() for restored in (True, False)
    )
    require(
        restored == expected, f"the selection is {expected}, and {restored} if each round starts from a checkpoint"
    )


def _round_trips(subject: Selector, rows: Dataset, model: str | None) -> None:
    """Check that the selector survives pickling, and its spec JSON and `get_selector`."""
    spec = json.loads(json.dumps(subject.spec()))
    require_round_trip(
        subject, get_selector(spec.pop("selector"), spec, allow_imports=True), "get_selector of the spec"
    )


def _empty(subject: Selector, rows: Dataset, model: str | None) -> None:
    """Check that an empty dataset raises a SelectionError, and that no row is selected if none is eligible."""
    try:
        select(rows.select([]), subject, model=model)
    except SelectionError as error:
        require("empty" in str(error), f"the error on an empty dataset does not say that it is empty: {error}")
    else:
        raise AssertionError("an empty dataset is not refused")
    runs = _Runs(subject, rows, model)
    runs.run(runs.smallest_budget(), np.zeros(len(rows), dtype=bool))


def _one_row(subject: Selector, rows: Dataset, model: str | None) -> None:
    """Check that a dataset of one row gives that row, or a `DataselError`."""
    try:
        *_, context = _Runs(subject, rows.select([0]), model).rounds(1)
        selected = run_round(subject, context).tolist()
    except DataselError:
        return
    require(selected == [0], f"the selection from one row is {selected}")


def _global_state(subject: Selector, rows: Dataset, model: str | None) -> None:
    """Check that global random states do not change: random numbers come from `context.rng`."""
    runs = _Runs(subject, rows, model)
    with unchanged_random_state():
        runs.run(runs.smallest_budget())


def _no_network(subject: Selector, rows: Dataset, model: str | None) -> None:
    """Check that no other machine is connected to."""
    runs = _Runs(subject, rows, model)
    with no_network():
        runs.run(runs.smallest_budget())


class _Runs:
    """Runs of a selector over one dataset without training, which share the scores that the model computes.

    Args:
        subject: Selector.
        rows: Dataset.
        model: Path of a local model, or None.
    """

    def __init__(self, subject: Selector, rows: Dataset, model: str | None):
        self._subject = subject
        self._pool = Pool(rows)
        self._compute = Engine(self._pool, model).compute

    def smallest_budget(self, minimum: int = 1) -> int:
        """Return the smallest budget of at least `minimum` rows, and of one, that the selector makes a plan for."""
        refusal, num_rows = "", len(self._pool)
        for size in range(max(minimum, 1), num_rows + 1):
            try:
                self._subject.plan(size, 1.0, num_rows)
            except ConfigError as error:  # fewer rows than rounds, say
                refusal = str(error)
                continue
            return size
        raise AssertionError(f"it makes no plan for {num_rows} rows, so pass more: {refusal}")

    def rounds(
        self, size: int, eligible: np.ndarray | None = None, epochs: float = 1.0, restored: bool = False
    ) -> Iterator[RoundContext]:
        """Yield the contexts of the rounds of a run, and run the selector in all but the last.

        Rounds after one with checkpoints are left out, since there are no checkpoints without training.

        Args:
            size: Total budget.
            eligible: Rows that can be selected, bool of shape (rows,); by default all usable rows.
            epochs: Number of epochs to plan for.
            restored: Whether `context.state` is written to a file and read again between rounds, as in a checkpoint.
        """
        usable = self._pool.usable if eligible is None else self._pool.usable & eligible
        plan = self._subject.plan(size, epochs, int(usable.sum()))
        selected, state = np.empty(0, dtype=np.int64), dict[str, np.ndarray]()
        for index, step in enumerate(plan):
            context = RoundContext(
                RoundCache(self._pool, self._compute),
                budget=step.budget,
                index=index,
                eligible=usable,
                selected=selected,
                state=state,
                plan=plan,
            )
            yield context
            if index + 1 == len(plan) or step.checkpoints:
                return
            new = _checked_select(self._subject, context)
            selected = np.array(list(dict.fromkeys([*selected.tolist(), *new.tolist()])), dtype=np.int64)
            state = _through_file(context.state) if restored else context.state

    def run(
        self, size: int, eligible: np.ndarray | None = None, epochs: float = 1.0, restored: bool = False
    ) -> tuple[RoundContext, np.ndarray]:
        """Return the context of the last round, and the rows that the selector selects in it; see `rounds`."""
        *_, last = self.rounds(size, eligible, epochs, restored)
        return last, _checked_select(self._subject, last)


def _through_file(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    file = io.BytesIO()
    arrays: dict[str, Any] = {f"state/{name}": values for name, values in state.items()}
    np.savez(file, **arrays)
    file.seek(0)
    with np.load(file) as stored:
        return {name.removeprefix("state/"): stored[name] for name in stored}


def _checked_select(subject: Selector, context: RoundContext) -> np.ndarray:
    """Call `subject.select` and check everything that has to hold for any selection."""
    eligible = context.eligible.copy()
    rows = np.asarray(subject.select(context))
    integers = rows.ndim == 1 and (rows.size == 0 or np.issubdtype(rows.dtype, np.integer))
    require(integers, f"the selection is not row numbers but {rows.dtype} of shape {rows.shape}")
    require(np.array_equal(context.eligible, eligible), "context.eligible is changed")
    require(len(np.unique(rows)) == len(rows), f"rows are selected twice: {rows.tolist()}")
    require(len(rows) <= context.budget, f"{len(rows)} rows are selected for a budget of {context.budget}")
    in_pool = rows.size == 0 or (rows.min() >= 0 and rows.max() < len(eligible) and eligible[rows].all())
    require(in_pool, f"rows that are not eligible are selected: {rows.tolist()}")
    return rows.astype(np.int64)


CHECKS = {
    "selection": _selection,
    "eligible": _eligible,
    "budget": _budget,
    "nested": _nested,
    "nulls": _nulls,
    "missing_column": _missing_column,
    "seeded": _seeded,
    "state": _state,
    "round_trips": _round_trips,
    "empty": _empty,
    "one_row": _one_row,
    "global_state": _global_state,
    "no_network": _no_network,
}
