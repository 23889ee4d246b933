"""What a selector is, and all that it may see and do."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ColumnError, SelectionError, did_you_mean, reason_counts
from hf_datasel.formats import Part, Pool

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_datasel.scores import Columns, Score

__all__ = ["Round", "RoundPlan", "Selector", "check_budget", "run_round"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundPlan:
    """One round of training.

    Attributes:
        budget: rows trained on in this round.
        epochs: passes over them before the next round.
        restart: begin this round from the base model, with a fresh optimizer.
    """

    budget: int
    epochs: float = 1.0
    restart: bool = False


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

    def spec(self) -> dict[str, Any]:
        """Name and settings, for the record."""
        kind = type(self)
        home = kind.__module__
        name = home.rsplit(".", 1)[-1] if home.startswith("hf_datasel.selectors.") else f"{home}:{kind.__name__}"
        return {"selector": name, **{each.name: getattr(self, each.name) for each in fields(self)}}


@dataclass
class Round:
    """All that a selector may see and do, whoever calls it.

    Attributes:
        index: number of the round, from 0.
        pool: the user's dataset, untouched, with whatever columns it has.
        eligible: bool of shape (rows,): rows that can be trained on. A selector stays inside.
        budget: rows to choose.
        chosen: rows chosen in earlier rounds, each once, in the order of their first choice, int64.
        checkpoints: of earlier rounds, where training has happened.
        rng: random numbers from (seed, index); use no others.
        state: arrays kept for the next round and in checkpoints.
        plan: the rounds of the run.
        describe: what to record of a score that was computed; its spec by default.
    """

    index: int
    rows: Pool
    eligible: np.ndarray
    budget: int
    compute: Callable[[Score, np.ndarray | None], Columns]
    seed: int = 0
    chosen: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    checkpoints: list[Path] = field(default_factory=list)
    state: dict[str, np.ndarray] = field(default_factory=dict)
    plan: tuple[RoundPlan, ...] = ()
    describe: Callable[[Score], dict[str, Any]] | None = None
    scored: dict[str, tuple[np.ndarray, pa.Array]] = field(default_factory=dict, init=False)
    """What the choice is based on: column -> (row numbers, values). Computed in this round, or read from a column."""
    specs: list[dict[str, Any]] = field(default_factory=list, init=False)
    """Of the scores computed, for the record."""
    columns_used: list[str] = field(default_factory=list, init=False)
    """Columns of the dataset that the choice relied on."""
    columns_known: list[str] = field(default_factory=list, init=False)
    """Those of them that a score is known to have computed, whose specs are among `specs`."""
    left_out: Counter[str] = field(default_factory=Counter, init=False)
    """Eligible rows that were not candidates, by reason."""

    asker: str = field(default="The selector", init=False)
    """Who asks, for messages."""

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng([self.seed, self.index])

    @property
    def pool(self) -> Dataset:
        return self.rows.dataset

    def score(self, score: Score, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The score's columns for these rows (all by default), aligned with them; NaN where a row has none.

        Every process has to call it, in the same order.
        """
        everything = np.arange(len(self.rows))
        at = everything if rows is None else np.asarray(rows, dtype=np.int64)
        computed = self.compute(score, None if np.array_equal(at, everything) else at)
        self.specs.append(self.describe(score) if self.describe is not None else score.spec())
        columns = {name: as_numpy(column) for name, column in computed.items()}
        for name, values in computed.items():
            self.scored[name] = (at, values)
            if name.endswith("_reason"):
                self.left_out.update(reason for reason in columns[name][self.eligible[at]].tolist() if reason)
        return columns

    def column(self, name: str, rows: np.ndarray | None = None) -> np.ndarray:
        """A numeric column that the dataset already has, float64; NaN where it is null.

        Raises:
            ColumnError: there is no such column, or it holds no numbers.
        """
        present = self.pool.column_names
        if name not in present:
            raise ColumnError(
                f"{self.asker} needs column {name!r}, but the dataset has {present}."
                f"{did_you_mean(str(name), present)} Scores are added with dataset.map(IFD(...), batched=True) or "
                "hf_datasel.score(dataset, [...])."
            )
        values = self.pool.select_columns([name]).with_format("arrow")[:].column(name)
        try:
            if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
                raise ValueError("a cast would read text as numbers")
            whole = np.asarray(values.cast("double").to_numpy(), dtype=np.float64)
        except (ValueError, NotImplementedError) as error:  # pyarrow raises both for types it cannot cast
            raise ColumnError(f"Column {name!r} holds {values.type}, and a choice needs numbers.") from error
        numbers: np.ndarray = whole if rows is None else whole[rows]
        if name not in self.columns_used:
            self._note_column(name, whole)
            everything = np.arange(len(self.rows)) if rows is None else rows
            self.scored.setdefault(name, (everything, pa.array(numbers, pa.float64(), mask=np.isnan(numbers))))
        return numbers

    def _note_column(self, name: str, values: np.ndarray) -> None:
        from hf_datasel.scores.origins import origin_of

        self.columns_used.append(name)
        spec = origin_of(name, values)
        if spec is not None:
            self.columns_known.append(name)
            self.specs += [spec] if spec not in self.specs else []

    def texts(self, part: Part, rows: np.ndarray | None = None) -> list[str]:
        """Prompt, response or both of these rows (all by default), as plain text."""
        return self.rows.texts(part, rows)

    def candidates(
        self, values: np.ndarray, rows: np.ndarray, high: float | None = None, name: str = ""
    ) -> np.ndarray:
        """Those of `rows` that are eligible and have a value below `high`; the others are counted as left out."""
        inside = self.eligible[rows]
        missing = inside & np.isnan(values)
        if name in self.columns_used and missing.any():
            self.left_out[f"without {name}"] += int(missing.sum())
        inside &= ~np.isnan(values)
        if high is not None:
            above = inside & (values >= high)
            if above.any():
                self.left_out[f"with {name} >= {high:g}"] += int(above.sum())
            inside &= ~above
        kept: np.ndarray = rows[inside]
        return kept


def as_numpy(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A score's column as numpy: NaN for null numbers, one row a vector for vectors, NaN throughout for null ones."""
    if not pa.types.is_list(column.type) and not pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    present = column.drop_null()
    parts = present.chunks if isinstance(present, pa.ChunkedArray) else [present]
    flat = np.concatenate(
        [np.empty(0, np.float32), *(part.flatten().to_numpy(zero_copy_only=False) for part in parts)]
    )
    vectors = np.full((len(column), len(flat) // max(len(present), 1)), np.nan, dtype=np.float32)
    vectors[column.is_valid().to_numpy(zero_copy_only=False)] = flat.reshape(len(present), -1) if len(present) else 0
    return vectors


def run_round(selector: Selector, round: Round, strict: bool = True, asked: str = "") -> np.ndarray:
    """Let the selector choose, and hold the answer against its contract.

    Args:
        strict: refuse a shortfall; otherwise it is logged, and what there is comes back.
        asked: how the user asked for the budget, for the message: `"selection_size=5200"`.

    Returns:
        int64 row numbers, best first, distinct and eligible.

    Raises:
        SelectionError: a shortfall under `strict`, or rows that no selector may return.
    """
    name = type(selector).__name__
    round.asker = f"Round {round.index} of {name}" if round.index else name
    answer = np.asarray(selector.choose(round))
    if answer.ndim != 1 or (answer.size and not np.issubdtype(answer.dtype, np.integer)):
        raise SelectionError(f"{name}.choose returned {answer.dtype} of shape {answer.shape}, not row numbers.")
    rows = answer.astype(np.int64)
    if rows.size and (rows.min() < 0 or rows.max() >= len(round.rows)):
        raise SelectionError(f"{name}.choose returned row numbers outside the {len(round.rows):,} rows of the pool.")
    if len(np.unique(rows)) < len(rows):
        raise SelectionError(f"{name}.choose returned {len(rows) - len(np.unique(rows)):,} rows twice.")
    if not round.eligible[rows].all():
        bad = int((~round.eligible[rows]).sum())
        raise SelectionError(f"{name}.choose returned {bad:,} rows that cannot be trained on (see round.eligible).")
    if len(rows) > round.budget:
        raise SelectionError(f"{name}.choose returned {len(rows):,} rows for a budget of {round.budget:,}.")
    if len(rows) < round.budget:
        asked = asked or f"A budget of {round.budget:,}"
        message = _shortfall(round.rows, round.eligible, round.left_out, len(rows), asked)
        if strict:
            raise SelectionError(f"{message} Lower it." if len(rows) else message)
        logger.warning("Round %d: %s The round goes on with these.", round.index, message)
    return rows


def check_budget(budget: int, pool: Pool, eligible: np.ndarray, asked: str) -> None:
    """Refuse a budget above the rows that can be trained on, or no such row at all, before anything is scored.

    Raises:
        SelectionError: says why rows are left out.
    """
    found = int(eligible.sum())
    if budget > found or not found:
        message = _shortfall(pool, eligible, Counter(), found, asked)
        raise SelectionError(f"{message} Lower it." if found else message)


def _shortfall(pool: Pool, eligible: np.ndarray, left_out: Counter[str], found: int, asked: str) -> str:
    why = Counter(left_out)
    why.update(reason for reason in pool.reasons[~eligible].tolist() if reason)
    unexplained = int((~eligible & (pool.reasons == "")).sum())
    if unexplained:
        why["without a label after truncation"] += unexplained
    explained = f" ({reason_counts(why)})" if why else ""
    if not found:
        return f"None of the {len(pool):,} rows can be selected{explained}."
    return f"{asked} is more than the {found:,} of {len(pool):,} rows that can be selected{explained}."
