"""One round of choosing: what a selector is told, and what it may ask for."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ColumnError, Interrupted, did_you_mean
from hf_datasel.formats import Part, Pool
from hf_datasel.rounds.cache import Material
from hf_datasel.scoring.distributed import Ranks

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_datasel.scores import Cluster, Embedding
    from hf_datasel.scoring.base import Columns, Score

__all__ = ["Round", "RoundPlan"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundPlan:
    """One round of training.

    Attributes:
        budget: rows trained on in this round.
        epochs: passes over them before the next round.
        restart: begin this round from the base model, with a fresh optimizer and learning rate. Its rows are chosen
            before, with the model as the round before has left it.
        checkpoints: save a checkpoint after each of its epochs, with the state of the optimizer.
        kind: `"choice"` is a choice by itself; `"warm-up"` rows are there for the model to learn from before the next
            choice; `"growing"` rows are those of the rounds before, and new ones. For the record.
    """

    budget: int
    epochs: float = 1.0
    restart: bool = False
    checkpoints: bool = False
    kind: Literal["choice", "warm-up", "growing"] = "choice"


@dataclass
class Round:
    """All that a selector may see and do, whoever calls it.

    Attributes:
        index: number of the round, from 0.
        pool: the user's dataset, untouched, with whatever columns it has.
        eligible: bool of shape (rows,): rows that can be trained on. A selector stays inside.
        budget: rows to choose.
        chosen: rows chosen in earlier rounds, each once, in the order of their first choice, int64.
        checkpoints: of earlier rounds that asked for them in their plan, in order.
        rng: random numbers from (seed, index); use no others.
        state: arrays kept for the next round and in checkpoints.
        plan: the rounds of the run.
        describe: what to record of a score that was computed; its spec by default.
        has_model: whether there is a model of the round, for scores that name none.
        shown: show progress bars where stderr is a terminal.
        material: what is read and computed, where several rounds share it.
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
    has_model: bool = True
    shown: bool = True
    material: Material | None = None
    scored: dict[str, tuple[np.ndarray, pa.Array]] = field(default_factory=dict, init=False)
    """What the choice is based on: column -> (row numbers, values). Computed in this round, or read from a column.
    Vectors are left out."""
    specs: list[dict[str, Any]] = field(default_factory=list, init=False)
    """Of the scores computed, for the record."""
    columns_used: list[str] = field(default_factory=list, init=False)
    """Columns of the dataset that the choice relied on."""
    columns_known: list[str] = field(default_factory=list, init=False)
    """Those of them that a score is known to have computed, whose specs are among `specs`."""
    left_out: Counter[str] = field(default_factory=Counter, init=False)
    """Eligible rows that were not candidates, by reason."""
    notes: dict[str, Any] = field(default_factory=dict, init=False)
    """What else the choice depends on and no setting says, such as the build of a library: plain JSON values."""
    remembered: set[str] = field(default_factory=set, init=False)
    """Columns of `scored` that an earlier round computed."""
    logs: dict[str, float] = field(default_factory=dict, init=False)
    """More numbers for the trainer's log of this round."""
    asker: str = field(default="The selector", init=False)
    """Who asks, for messages."""

    path: tuple[int, ...] = field(default=(), init=False)
    """Of the part of the round that this is."""
    _reason: np.ndarray = field(init=False, repr=False)
    """Why each row is left out, int32 of shape (rows,): the place of the first reason found in `left_out`, from 1."""
    _recorded: set[str] = field(default_factory=set, init=False)
    """Scores of all rows that are recorded."""

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng([self.seed, self.index])
        self._reason = np.zeros(len(self.rows), dtype=np.int32)
        if self.material is None:
            self.material = Material(self.rows, self.compute, self.describe)

    @property
    def _material(self) -> Material:
        assert self.material is not None  # made in __post_init__
        return self.material

    @property
    def pool(self) -> Dataset:
        return self.rows.dataset

    # -- numbers, vectors and groups, from columns or from scores ---------------------------------------------------
    def values(
        self,
        source: str | Score,
        rows: np.ndarray | None = None,
        column: str | None = None,
        optional: bool = False,
    ) -> np.ndarray:
        """One number a row, float64, NaN where there is none: of a column of the dataset, or of a score.

        Of a score that writes several columns it is `column`, by default the one that the score is named for. A score
        that needs the model of the round is read from its column where there is no such model and the dataset has the
        column. For `optional` see `score`.

        Raises:
            ColumnError: there is no such column, or it holds no numbers.
        """
        if isinstance(source, str):
            return self.column(source, rows)
        name = column or source.value_column
        if self._is_there(source, name):
            logger.info("%s: no model is given, so the column %r is used.", self.asker, name)
            return self.column(name, rows)
        return self.score(source, rows, optional)[name].astype(np.float64)

    def vectors(self, source: str | Embedding, rows: np.ndarray | None = None) -> np.ndarray:
        """One vector for each of these rows (all by default), float32 of shape (rows, dimensions).

        NaN throughout where a row has none.

        Raises:
            ColumnError: there is no such column, or it holds no vectors of one length.
        """
        if not isinstance(source, str) and not self._is_there(source, source.value_column):
            return self.score(source, rows)[source.value_column]
        name = source if isinstance(source, str) else source.value_column
        self._check_column(name)
        self.columns_used += [name] if name not in self.columns_used else []
        whole = self._material.vectors(name)
        found: np.ndarray = whole if rows is None else whole[rows]
        return found

    def clusters(
        self, source: str | Cluster, vectors: str | Embedding = "embedding"
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The cluster of each row, int64, -1 where it has none; and its distance to the centre, where that is known.

        Args:
            source: a column of cluster numbers, below 0 for rows in none; or `Cluster(...)`: one that is not fitted is
                fitted to the vectors of the rows that can be trained on.
            vectors: what is clustered then; a `column` that the `Cluster` names goes before a column named here.

        Raises:
            ColumnError: a column that is missing, or numbers that are not whole.
            ScoreError: fewer vectors than clusters.
        """
        if isinstance(source, str):
            ids = self.column(source)
            known = np.isfinite(ids)
            if (ids[known] != np.floor(ids[known])).any():
                raise ColumnError(f"Column {source!r} has to hold the numbers of clusters, which are whole.")
            return np.where(known & (ids >= 0), np.where(known, ids, 0), -1).astype(np.int64), None
        if source.needs_fit:
            return self._clustered(source, vectors)
        found = self.score(source)
        ids, prefix = found[f"{source.column_prefix}cluster_id"].astype(np.float64), source.column_prefix
        return np.where(np.isnan(ids), -1, ids).astype(np.int64), found[f"{prefix}cluster_distance"].astype(np.float64)

    def _clustered(self, cluster: Cluster, vectors: str | Embedding) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(vectors, str) and cluster.column != "embedding":
            vectors = cluster.column
        found = self._material.clusters(cluster, self.vectors(vectors), repr(vectors), self.eligible)
        spec, missing = {**cluster.spec(), "k": found.k or cluster.k}, found.ids < 0
        self.specs += [spec] if spec not in self.specs else []
        every = np.arange(len(missing))
        prefix = cluster.column_prefix
        self.scored[f"{prefix}cluster_id"] = (every, pa.array(found.ids, pa.int32(), mask=missing))
        self.scored[f"{prefix}cluster_distance"] = (every, pa.array(found.distance, pa.float32(), mask=missing))
        return found.ids, found.distance

    def score(self, score: Score, rows: np.ndarray | None = None, optional: bool = False) -> dict[str, np.ndarray]:
        """The score's columns for these rows (all by default), aligned with them; NaN where a row has none.

        Every process has to call it, in the same order.

        Args:
            score: to be computed.
            rows: row numbers.
            optional: rows without a value stay candidates, and are not counted as left out.
        """
        everything = np.arange(len(self.rows))
        at = everything if rows is None else np.asarray(rows, dtype=np.int64)
        whole = rows is None or np.array_equal(at, everything)
        found = self._material.score(score, None if whole else at)
        if whole and repr(score) in self._recorded:
            return found.columns
        self._recorded.update([repr(score)] if whole and not optional else [])
        self.specs += [found.spec] if found.spec not in self.specs else []
        for name, values in found.table.items():
            self.scored[name] = _merged(self.scored.get(name), at, values)
            if name.endswith("_reason") and not optional:
                reasons = found.columns[name]
                for reason in np.unique(reasons[reasons != ""]).tolist():
                    self.leave_out(reason, at[reasons == reason])
        return found.columns

    def column(self, name: str, rows: np.ndarray | None = None) -> np.ndarray:
        """A numeric column that the dataset already has, float64; NaN where it is null.

        Raises:
            ColumnError: there is no such column, or it holds no numbers.
        """
        self._check_column(name)
        whole = self._material.numbers(name)
        numbers: np.ndarray = whole if rows is None else whole[rows]
        if name not in self.columns_used:
            self._note_column(name, whole)
            everything = np.arange(len(self.rows)) if rows is None else rows
            self.scored.setdefault(name, (everything, pa.array(numbers, pa.float64(), mask=np.isnan(numbers))))
        return numbers

    def _is_there(self, score: Score, column: str) -> bool:
        """Whether a score that wants the model of the round has to be, and can be, read from its column."""
        wants = score.needs_tokenizer and getattr(score, "model", "") is None
        return wants and not self.has_model and column in self.pool.column_names and _is_plain(score)

    def _check_column(self, name: str) -> None:
        present = self.pool.column_names
        if name not in present:
            from hf_datasel.scores import available, writer_of

            writer = writer_of(name)
            example = f"{available()[writer].__name__}(...)" if writer else "IFD(...)"
            way = f"hf-datasel score --scores {writer} (and what it needs: see hf-datasel list)"
            way = way if writer else f"dataset.map({example}, batched=True)"
            raise ColumnError(
                f"{self.asker} needs column {name!r}, but the dataset has {present}.{did_you_mean(str(name), present)}"
                f" {'It is' if writer else 'Scores are'} added with {way} or hf_datasel.score(dataset, [{example}])."
            )

    def _note_column(self, name: str, values: np.ndarray) -> None:
        from hf_datasel.scoring.column_provenance import origin_of

        self.columns_used.append(name)
        spec = origin_of(name, values)
        if spec is not None:
            self.columns_known.append(name)
            self.specs += [spec] if spec not in self.specs else []

    def read(self, names: Sequence[str], used: Sequence[str] = ()) -> Dataset:
        """The dataset with these columns alone.

        Args:
            names: of the columns.
            used: those of them that are no part of the row itself, and are recorded.

        Raises:
            ColumnError: one is not there.
        """
        for name in names:
            self._check_column(name)
        rest = [name for name in used if name not in self.columns_used and name not in self.rows.columns]
        self.columns_used += rest
        return self.pool.select_columns(list(names))

    # -- texts and candidates ---------------------------------------------------------------------------------------
    def texts(self, part: Part, rows: np.ndarray | None = None) -> list[str]:
        """Prompt, response or both of these rows (all by default), as plain text."""
        return self.rows.texts(part, rows)

    def row_number(self, row: int) -> int:
        """The number in the user's dataset of one of these rows, for sentences."""
        return int(row)

    def candidates(
        self, values: np.ndarray, rows: np.ndarray, high: float | None = None, name: str = ""
    ) -> np.ndarray:
        """Those of `rows` that are eligible and have a finite value below `high`; the others are counted as left out.

        Args:
            values: one number, or one vector, for each of `rows`.
            rows: row numbers.
            high: values from here on are left out too.
            name: of the column, for the record.
        """
        absent = ~np.isfinite(values)
        if values.ndim > 1:
            absent = absent.any(axis=1) | (values.shape[1] == 0)
        if name in self.columns_used:
            self.leave_out(f"without {name}", rows[absent])
        if high is not None:
            above = ~absent & (values >= high)
            self.leave_out(f"with {name} >= {high:g}", rows[above])
            absent |= above
        kept: np.ndarray = rows[self.eligible[rows] & ~absent]
        return kept

    def leave_out(self, reason: str, rows: np.ndarray) -> None:
        """Count those of the rows that could be trained on but are no candidates, each once, for the first reason."""
        new = rows[self.eligible[rows] & (self._reason[rows] == 0)]
        if len(new):
            self.left_out[reason] += len(new)
            self._reason[new] = 1 + list(self.left_out).index(reason)

    def rows_left_out(self) -> dict[str, np.ndarray]:
        """The rows that are left out for each reason, int64."""
        return {reason: np.flatnonzero(self._reason == at) for at, reason in enumerate(self.left_out, 1)}

    # -- greedy choices ---------------------------------------------------------------------------------------------
    def pick(self, rows: np.ndarray, choose: Callable[[Callable[[int], object]], np.ndarray]) -> np.ndarray:
        """The rows at the positions that a greedy strategy chooses, with a progress bar where it takes a while.

        The first process chooses for all of them, which spares the others the time and the memory.

        Args:
            rows: row numbers, one for each position.
            choose: called with what the strategy takes as `progress`; returns positions. It asks nothing of the round.

        Raises:
            Interrupted: Ctrl-C; with the rows chosen by then.
        """

        def made() -> tuple[np.ndarray, bool]:
            with self.bar(self.budget, "row") as bar:
                try:
                    return choose(lambda done: bar.update(done - bar.n)), True
                except Interrupted as stop:
                    return stop.chosen, False

        at, whole = Ranks.current().made_by_first(made)
        if not whole:
            raise Interrupted(rows[at])
        chosen: np.ndarray = rows[at]
        return chosen

    def bar(self, total: int, unit: str) -> Any:
        """A progress bar that appears after two seconds, where stderr is a terminal."""
        from tqdm.auto import tqdm

        return tqdm(total=total, desc=self.asker, unit=unit, delay=2, disable=None if self.shown else True)


def _is_plain(score: Score) -> bool:
    """Whether no setting decides on the numbers but those that the names of its columns tell."""
    named = ("column_prefix", "unit", "ratio", "over", "reduction")
    return all(getattr(score, each.name) == each.default for each in fields(score) if each.name not in named)


def _merged(
    before: tuple[np.ndarray, pa.Array] | None, rows: np.ndarray, values: pa.Array
) -> tuple[np.ndarray, pa.Array]:
    """Values of rows, with those of other rows that were recorded before."""
    if before is None:
        return rows, values
    kept = ~np.isin(before[0], rows)
    if not kept.any():
        return rows, values
    return np.concatenate([before[0][kept], rows]), pa.concat_arrays([before[1].filter(pa.array(kept)), values])
