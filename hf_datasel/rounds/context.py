"""Context of a round: what a selector is given, and the methods it reads scores and columns with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ColumnError, Interrupted, SelectionError, did_you_mean
from hf_datasel.formats import Part
from hf_datasel.rounds.cache import RoundCache, as_numpy, take_rows
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.rounds.record import RoundRecord
from hf_datasel.scores.mix import Mix
from hf_datasel.scoring.base import has_default_numbers
from hf_datasel.scoring.column_provenance import provenance_of
from hf_datasel.scoring.distributed import Processes
from hf_datasel.scoring.numbers import at_least
from hf_datasel.scoring.progress import progress_bar
from hf_datasel.scoring.vector_sample import finite_rows
from hf_datasel.spec import current_name, object_key, spec_name

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_datasel.scores import Cluster, Embedding
    from hf_datasel.scoring.base import Score
    from hf_datasel.scoring.target_rows import TargetRows

__all__ = ["RoundContext"]

logger = logging.getLogger(__name__)


class RoundContext:
    """Everything that a selector is given in a round, by `select`, by `SelectiveSFTTrainer` or by a test.

    Row numbers are positions in `pool`. Scores, columns and vectors that a selector reads through the methods are
    computed or read once, and recorded in `record`.

    Args:
        cache: Cache over the pool, which computes scores. Share it between rounds whose model stays the same.
        budget: Number of rows to select.
        index: Number of the round, from 0.
        eligible: Rows that can be trained on, bool of shape (rows,); by default those with a prompt and a response.
        seed: Random seed of the run.
        selected: Row numbers selected in earlier rounds.
        checkpoints: Checkpoint folders of earlier rounds.
        state: Arrays that earlier rounds stored. Changed in place.
        plan: All rounds of the run.
        show_progress: Whether to show progress bars where stderr is a terminal.

    Attributes:
        index: Number of the round, from 0.
        pool: The user's dataset, as it was passed in. Do not modify it.
        eligible: Rows that can be trained on, bool of shape (rows,). Only these may be selected. Do not modify it.
        budget: Number of rows to select; fewer where there are no more.
        selected: Row numbers selected in earlier rounds, int64, each once, in the order of their first selection.
        checkpoints: Checkpoint folders (`pathlib.Path`), in order, of the earlier rounds that are planned with
            `checkpoints=True`.
        rng: `numpy.random.Generator` seeded with the seed of the run and `index`. Use no other source of randomness.
        state: Arrays by name that are kept for the next round and saved in training checkpoints.
        plan: All rounds of the run, as `Selector.plan` returned them.
        record: What the round leaves behind: read `seed` and `caller` for messages, add to `notes` and `logs`.
    """

    def __init__(
        self,
        cache: RoundCache,
        *,
        budget: int,
        index: int = 0,
        eligible: np.ndarray | None = None,
        seed: int = 0,
        selected: np.ndarray | None = None,
        checkpoints: Sequence[Path] = (),
        state: dict[str, np.ndarray] | None = None,
        plan: tuple[RoundPlan, ...] = (),
        show_progress: bool = True,
    ):
        self.index = index
        self.pool: Dataset = cache.pool.dataset
        self.eligible = cache.pool.usable if eligible is None else eligible
        self.budget = budget
        self.selected = np.empty(0, dtype=np.int64) if selected is None else selected
        self.checkpoints = list(checkpoints)
        self.rng = np.random.default_rng([seed, index])
        self.state = {} if state is None else state
        self.plan = plan
        self.record = RoundRecord(cache.pool, seed)
        self._cache = cache
        self._show_progress = show_progress
        self._spawn_key: tuple[int, ...] = ()
        self._recorded_scores: set[str] = set()

    # -- Scores, columns, vectors and clusters -------------------------------------------------------------------
    def values(
        self,
        source: str | Score,
        rows: np.ndarray | None = None,
        column: str | None = None,
        optional: bool = False,
    ) -> np.ndarray:
        """Return one number per row, from a column of the dataset or from a score.

        A score that needs the model of the round is read from its column where the round has no model and the dataset
        has the column, if its settings are the defaults or those that the column is known to be computed with; so is
        every score that score tables are known to have.

        Args:
            source: Name of a column, or a score.
            rows: Row numbers; all rows by default.
            column: Which column of a score that writes several; by default the one that the score is named after.
            optional: Whether rows without a value stay candidates; see `score`.

        Returns:
            Float64 of shape (rows,), NaN where a row has no value.

        Raises:
            ColumnError: The column is missing, or holds no numbers.
        """
        if isinstance(source, str):
            return self.column(source, rows)
        name = column or source.value_column
        if self.reads_column(source, name):
            self._check_origin(source, name)
            logger.info("%s: no model is given, so the column %r is used.", self.record.caller, name)
            return self.column(name, rows)
        return self.score(source, rows, optional)[name].astype(np.float64)

    def sort_keys(self, source: str | Score, rows: np.ndarray | None = None, column: str | None = None) -> np.ndarray:
        """Return numbers to sort rows by, in the order of the values of a column or score without rounding.

        Args:
            source: Name of a column, or a score, as in `values`.
            rows: Row numbers; all rows by default.
            column: As in `values`.

        Returns:
            Shape (rows,): what `values` returns, or the int64 ranks of integers and decimals, which float64 rounds. A
            row without a value may have any number.
        """
        name = source if isinstance(source, str) else column or source.value_column
        if not isinstance(source, str) and not self.reads_column(source, name):
            return self.values(source, rows, column)
        self._check_column(name)
        return take_rows(self._sort_keys(name), np.arange(len(self.pool)) if rows is None else rows)

    def _sort_keys(self, name: str) -> np.ndarray:
        return self._cache.sort_keys(name)

    def vectors(self, source: str | Embedding, rows: np.ndarray | None = None) -> np.ndarray:
        """Return one vector per row, from a column of the dataset or from an embedding score.

        Args:
            source: Name of a column, or `Embedding(...)`.
            rows: Row numbers; all rows by default.

        Returns:
            Float32 of shape (rows, dimensions); a row of NaN where a row has no vector. Do not modify it. Above
            256 MiB it is mapped from a file: read it in blocks.

        Raises:
            ColumnError: The column is missing, or holds no vectors of one length.
        """
        if not isinstance(source, str) and not self.reads_column(source, source.value_column):
            return self.score(source, rows)[source.value_column]
        name = source if isinstance(source, str) else source.value_column
        self._check_column(name)
        spec = self._cache.provenance(name)
        self.record.add_column(name, verified=spec is not None)
        if spec is not None:
            self.record.add_spec(spec)
        vectors = self._cache.vectors(name)
        return vectors if rows is None else take_rows(vectors, rows)

    def text_vectors(self, texts: tuple[str, ...], embedding: Embedding) -> np.ndarray:
        """Return the vectors of texts that are no rows, such as tags; the same texts are embedded once per run.

        In a distributed run every process has to call this.

        Args:
            texts: Distinct texts that are not empty.
            embedding: How they are embedded; it names a model.

        Returns:
            Float32 of shape (texts, dimensions). Do not modify it.
        """
        self.record.add_spec(embedding.spec())
        return self._cached_text_vectors(texts, embedding)

    def _cached_text_vectors(self, texts: tuple[str, ...], embedding: Embedding) -> np.ndarray:
        return self._cache.text_vectors(texts, embedding)

    def clusters(
        self, source: str | Cluster, vectors: str | Embedding = "embedding"
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the cluster of each row, and the distance to its centroid where that is known.

        Args:
            source: Name of a column of cluster numbers, below 0 for rows in no cluster; or `Cluster(...)`. One without
                centroids is fitted to the vectors of the eligible rows.
            vectors: What such a `Cluster` is fitted to: a column, or `Embedding(...)`. A `column` set in the `Cluster`
                takes precedence over a column named here.

        Returns:
            Cluster numbers, int64 of shape (rows,), -1 for rows in no cluster; and distances, float64 of shape
            (rows,), or None where a column holds the cluster numbers.

        Raises:
            ColumnError: The column is missing, or its numbers are not integers.
            ScoreError: There are fewer vectors than clusters.
        """
        if isinstance(source, str):
            ids = self.column(source)
            finite = np.isfinite(ids)
            if (ids[finite] != np.floor(ids[finite])).any():
                raise ColumnError(f"Column {source!r} must contain cluster numbers, which are integers.")
            return np.where(finite & (ids >= 0), np.where(finite, ids, 0), -1).astype(np.int64), None
        if source.needs_fit:
            return self._fit_clusters(source, vectors)
        prefix, columns = source.column_prefix, self.score(source)
        ids = columns[f"{prefix}cluster_id"].astype(np.float64)
        distance = columns[f"{prefix}cluster_distance"].astype(np.float64)
        return np.where(np.isnan(ids), -1, ids).astype(np.int64), distance

    def _fit_clusters(self, cluster: Cluster, vectors: str | Embedding) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(vectors, str) and cluster.column != "embedding":
            vectors = cluster.column
        assignment = self._cache.clusters(cluster, self.vectors(vectors), repr(vectors), self.eligible)
        self.record.add_spec({**cluster.spec(), "k": assignment.k or cluster.k})
        rows, missing, prefix = np.arange(len(assignment.ids)), assignment.ids < 0, cluster.column_prefix
        ids = pa.array(assignment.ids, pa.int32(), mask=missing)
        distance = pa.array(assignment.distance, pa.float32(), mask=missing)
        self.record.add_values(f"{prefix}cluster_id", rows, ids)
        self.record.add_values(f"{prefix}cluster_distance", rows, distance)
        return assignment.ids, assignment.distance

    def score(self, score: Score, rows: np.ndarray | None = None, optional: bool = False) -> dict[str, np.ndarray]:
        """Compute a score and return its columns.

        In a distributed run every process has to call this, in the same order.

        Args:
            score: Score to compute.
            rows: Row numbers; all rows by default.
            optional: Whether rows without a value stay candidates; otherwise they are counted as excluded, by the
                reason that the score gives.

        Returns:
            Columns by name, aligned with `rows`; NaN where a row has no value.
        """
        if isinstance(score, Mix):
            columns = self._mixed(score, optional)
            return columns if rows is None else {name: values[rows] for name, values in columns.items()}
        all_rows = np.arange(len(self.pool))
        row_numbers = all_rows if rows is None else np.asarray(rows, dtype=np.int64)
        complete = rows is None or np.array_equal(row_numbers, all_rows)
        output = self._cache.score(score, None if complete else row_numbers)
        if complete and object_key(score) in self._recorded_scores:
            return output.columns
        if complete and not optional:
            self._recorded_scores.add(object_key(score))
        self.record.add_spec(output.spec)
        for name, values in output.table.items():
            self.record.add_values(name, row_numbers, values)
            if name.endswith("_reason") and not optional:
                reasons = output.columns[name]
                for reason in np.unique(reasons[reasons != ""]).tolist():
                    self.exclude(reason, row_numbers[reasons == reason])
        return output.columns

    def describe_mix(self, mix: Mix, row: int) -> str:
        """Return a sentence on what a mix of scores is made of in a row; empty if the row has none.

        Args:
            mix: The mix.
            row: Row number.
        """
        return mix.describe([self.values(part) for part in mix.by], self.eligible, row)

    def _mixed(self, mix: Mix, optional: bool) -> dict[str, np.ndarray]:
        """Return the columns of a mix of all rows, whose ranks are among the eligible ones."""
        parts, all_rows = [self.values(part, optional=optional) for part in mix.by], np.arange(len(self.pool))
        columns = {f"{mix.column_prefix}{name}": column for name, column in mix.mixed(parts, self.eligible).items()}
        self.record.add_spec(mix.spec())
        for name, column in columns.items():
            self.record.add_values(name, all_rows, column)
        for part, values in zip(mix.by, parts, strict=True):
            if isinstance(part, str) and not optional:
                self.exclude(f"without {part}", all_rows[np.isnan(values)])
        return {name: as_numpy(column) for name, column in columns.items()}

    def check_score(self, score: Score) -> None:
        """Raise the error that computing a score would raise for its settings, without running or loading a model.

        Args:
            score: Score that a later round computes.

        Raises:
            DataselError: As the score would raise it.
        """
        self._cache.compute(score, np.empty(0, dtype=np.int64))

    def column(self, name: str, rows: np.ndarray | None = None) -> np.ndarray:
        """Return a numeric column of the dataset.

        Args:
            name: Name of the column.
            rows: Row numbers; all rows by default.

        Returns:
            Float64 of shape (rows,), NaN where it is null.

        Raises:
            ColumnError: The column is missing, or holds no numbers.
        """
        self._check_column(name)
        all_numbers = self._cache.numbers(name)
        numbers: np.ndarray = all_numbers if rows is None else all_numbers[rows]
        if name not in self.record.columns_used:
            spec = provenance_of(name, all_numbers)
            self.record.add_column(name, verified=spec is not None)
            if spec is not None:
                self.record.add_spec(spec)
            if name not in self.record.scored:
                row_numbers = np.arange(len(self.pool)) if rows is None else rows
                self.record.add_values(name, row_numbers, pa.array(numbers, pa.float64(), mask=np.isnan(numbers)))
        return numbers

    def read_columns(self, names: Sequence[str], record: Sequence[str] = ()) -> Dataset:
        """Return the dataset with these columns only.

        Args:
            names: Names of the columns.
            record: Names to record as used by the selection, unless they are part of the row format.

        Raises:
            ColumnError: A column is missing.
        """
        for name in names:
            self._check_column(name)
        for name in record:
            if name not in self.row_columns():
                self.record.add_column(name)
        return self.pool.select_columns(list(names))

    def reads_column(self, score: Score, column: str) -> bool:
        """Return whether a score is read from its column: there is no model, or it is known to be in the column.

        Args:
            score: The score.
            column: Column that it writes.
        """
        if self._cache.holds is not None and self._cache.holds(score, column):
            return True
        needs_model = score.needs_tokenizer and getattr(score, "model", "") is None
        is_column = column in self.record.pool.column_names
        return needs_model and not self._cache.has_model and is_column and has_default_numbers(score)

    def _check_origin(self, score: Score, column: str) -> None:
        """Raise if a column that would replace a score is known to be the output of another score."""
        origin = provenance_of(column, self._cache.numbers(column))
        if origin is None or current_name("score", str(origin.get("score"))) == spec_name(score):
            return
        raise ColumnError(
            f"{self.record.caller} needs {spec_name(score)}, but column {column!r} was computed by {origin['score']}.",
            f"Pass a model to compute {spec_name(score)}, or name the column, as in Top(by={column!r}).",
            f"Pass --model_name_or_path to compute {spec_name(score)}, or name the column, as in --selector top "
            f'--selector_kwargs \'{{"by": "{column}"}}\'.',
        )

    def _check_column(self, name: str) -> None:
        existing = self.record.pool.column_names
        if name in existing:
            return
        from hf_datasel.scores import list_scores, score_for_column

        writer = score_for_column(name)
        if writer:
            hint = f"It is added with hf_datasel.score(dataset, [{list_scores()[writer].__name__}(...)])."
            cli_hint = f"It is added with hf-datasel score --scores {writer} (see hf-datasel list for its settings)."
        else:
            hint = "Scores are added with dataset.map(IFD(...), batched=True) or hf_datasel.score(dataset, IFD(...))."
            cli_hint = "Scores are added with hf-datasel score."
        raise ColumnError(
            f"{self.record.caller} needs column {name!r}, but the dataset has {existing}."
            f"{did_you_mean(str(name), existing)}",
            hint,
            cli_hint,
        )

    # -- Texts and rows ------------------------------------------------------------------------------------------
    def texts(self, part: Part, rows: np.ndarray | None = None) -> list[str]:
        """Return the prompt, the response or both of each row as plain text.

        Args:
            part: `"prompt"`, `"response"` or `"both"`.
            rows: Row numbers; all rows by default.
        """
        return self.record.pool.texts(part, rows)

    def target_copies(self, target: TargetRows) -> np.ndarray:
        """Return the target row that each row repeats, int64 of shape (rows,), -1 for none; see `TargetRows.copies`.

        In a distributed run every process has to call this.

        Args:
            target: The target rows.
        """
        return self._cache.target_copies(target)

    def row_columns(self) -> list[str]:
        """Return the columns of the dataset that hold the row in its format, such as `prompt` and `completion`."""
        return self.record.pool.columns

    def row_number(self, row: int) -> int:
        """Return the number of a row in the user's dataset, for messages; inside a group it differs from `row`."""
        return int(row)

    def is_growing(self) -> bool:
        """Return whether this round trains on the rows of the earlier rounds again, and on new ones."""
        return bool(self.plan) and self.plan[min(self.index, len(self.plan) - 1)].kind == "growing"

    # -- Candidates and exclusions -------------------------------------------------------------------------------
    def candidates(
        self,
        values: np.ndarray,
        rows: np.ndarray,
        high: float | None = None,
        name: str = "",
        infinite: bool = False,
    ) -> np.ndarray:
        """Return the eligible rows with a finite value below `high`; the others are counted as excluded.

        Args:
            values: One number or one vector for each of `rows`.
            rows: Row numbers.
            high: Values from here on are excluded.
            name: Name of the column, for the record.
            infinite: Whether an infinite number is a value.

        Returns:
            Int64 row numbers, in the order of `rows`.
        """
        if values.ndim > 1:
            missing = ~finite_rows(values) | (values.shape[1] == 0)
        else:
            missing = np.isnan(values) if infinite else ~np.isfinite(values)
        if name in self.record.columns_used:
            self.exclude(f"without {name}", rows[missing])
        excluded = missing
        if high is not None:
            too_high = ~missing & at_least(values, high)
            self.exclude(f"with {name} >= {high:g}", rows[too_high])
            excluded = missing | too_high
        candidates: np.ndarray = rows[self.eligible[rows] & ~excluded]
        return candidates

    def exclude(self, reason: str, rows: np.ndarray) -> None:
        """Count the eligible rows among these as excluded from the selection, each only for the first reason.

        Args:
            reason: Reason, such as `"near-duplicates of a better row"`.
            rows: Row numbers.
        """
        self.record.exclude(reason, rows[self.eligible[rows]])

    def excluded_rows(self) -> dict[str, np.ndarray]:
        """Return the row numbers (int64, ascending) that are excluded for each reason."""
        return self.record.excluded_rows()

    # -- Warnings --------------------------------------------------------------------------------------------------
    def warn_once(self, message: str) -> None:
        """Log a warning once, not again in each group, each round and each selection that a budget of tokens tries.

        Args:
            message: The warning.
        """
        self._cache.warn_once(message)

    # -- Weights ---------------------------------------------------------------------------------------------------
    def set_weights(self, rows: np.ndarray, weights: np.ndarray) -> None:
        """Set the weights that training multiplies the losses of rows by; rows without one have weight 1.

        Weights of rows that are not selected in the end are dropped. Setting the weight of a row again replaces it.

        Args:
            rows: Row numbers, int64.
            weights: One number for each of them, from 0 to 1.

        Raises:
            SelectionError: A weight is not finite, below 0 or above 1, or there is not one for each row.
        """
        values = np.asarray(weights, dtype=np.float64)
        if values.shape != (len(rows),):
            raise SelectionError(
                f"{self.record.caller} set weights of shape {values.shape} for {len(rows):,} rows: each row needs one."
            )
        wrong = np.flatnonzero(~((values >= 0) & (values <= 1)))
        if len(wrong):
            raise SelectionError(
                f"{self.record.caller} set weight {values[wrong[0]]:g} for row {self.row_number(rows[wrong[0]]):,}"
                f"{f', and {len(wrong) - 1:,} more weights like it' if len(wrong) > 1 else ''}: a weight is a number "
                "from 0 to 1."
            )
        self._record_weights(rows, values)

    def _record_weights(self, rows: np.ndarray, weights: np.ndarray) -> None:
        self.record.set_weights(rows, weights)

    # -- Greedy selections ---------------------------------------------------------------------------------------
    def pick(self, rows: np.ndarray, select: Callable[[Callable[[int], object]], np.ndarray]) -> np.ndarray:
        """Run a greedy strategy with a progress bar and return the rows at the positions that it selects.

        In a distributed run only the main process runs it, and broadcasts the result.

        Args:
            rows: Row numbers, one for each position.
            select: Function that is called with the strategy's `progress` argument and returns positions in `rows`.
                It must not call the methods of the context that compute scores.

        Returns:
            Int64 row numbers, best first.

        Raises:
            Interrupted: Ctrl-C was pressed; holds the rows selected so far.
        """

        def run() -> tuple[np.ndarray, bool]:
            with self.progress_bar(self.budget, "row") as bar:
                try:
                    return select(lambda done: bar.update(done - bar.n)), True
                except Interrupted as stop:
                    return stop.selected, False

        positions, finished = Processes.current().run_on_main_process(run)
        if not finished:
            raise Interrupted(rows[positions])
        selected: np.ndarray = rows[positions]
        return selected

    def progress_bar(self, total: int, unit: str) -> Any:
        """Return a `tqdm` progress bar that appears after two seconds; where none can be drawn, one line a minute.

        Args:
            total: Number of steps.
            unit: Name of a step, in the singular.
        """
        return progress_bar(total, self.record.caller, unit, shown=self._show_progress, delay=2)
