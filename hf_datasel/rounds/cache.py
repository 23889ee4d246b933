"""Cache of columns and score outputs shared by the rounds of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_datasel.formats import Pool
from hf_datasel.scoring.base import is_text_list
from hf_datasel.scoring.column_provenance import provenance_in
from hf_datasel.scoring.cost import Cost, measure_cost, total_cost
from hf_datasel.scoring.distributed import Processes
from hf_datasel.scoring.numbers import read_numbers
from hf_datasel.scoring.vector_files import row_blocks, take_vectors, zeros
from hf_datasel.spec import object_key

if TYPE_CHECKING:
    from hf_datasel.scores import Cluster, Embedding
    from hf_datasel.scoring.base import Columns, Score
    from hf_datasel.scoring.outputs import ResultStore
    from hf_datasel.scoring.target_rows import TargetRows

__all__ = ["ClusterAssignment", "RoundCache", "ScoreOutput", "as_numpy", "take_rows"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


class ScoreOutput(NamedTuple):
    """Output of a score for some rows.

    Attributes:
        table: Columns as they were computed, without vectors and lists of texts.
        columns: All columns as numpy arrays.
        spec: Spec to record.
    """

    table: Columns
    columns: dict[str, np.ndarray]
    spec: dict[str, Any]


class ClusterAssignment(NamedTuple):
    """Clusters found in vectors.

    Attributes:
        ids: Cluster of each row, int64, -1 for none.
        distance: Distance of each row to the centroid of its cluster, float64, NaN for none.
        k: Number of clusters.
    """

    ids: np.ndarray
    distance: np.ndarray
    k: int


@dataclass
class RoundCache:
    """Cache of the columns of a pool and of the scores of its rows, for rounds that share one model.

    Args:
        pool: Dataset, read as instruction rows.
        compute: Function `(score, rows) -> columns` that computes a score, for all rows where `rows` is None.
            `Engine.compute` is one.
        describe: Function that returns the spec to record of a score that was computed; by default `score.spec()`.
        has_model: Whether `compute` has a model for scores that name none. Without one, such a score is read from its
            column where the dataset has it.
        holds: Function of a score and a column that returns whether the column is known to be what the score would
            compute, so that it is read instead; by default none is.
        store: Score store for vectors of texts that are no rows.
    """

    pool: Pool
    compute: Callable[[Score, np.ndarray | None], Columns]
    describe: Callable[[Score], dict[str, Any]] | None = None
    has_model: bool = True
    holds: Callable[[Score, str], bool] | None = None
    store: ResultStore | None = None
    _results: dict[Hashable, tuple[Any, Cost]] = field(default_factory=dict, init=False)
    """Results, and the cost of computing each."""
    _requested: set[Hashable] = field(default_factory=set, init=False)
    _warnings: set[str] = field(default_factory=set, init=False)

    def warn_once(self, message: str) -> None:
        """Log a warning by the main process, unless it was logged before.

        Args:
            message: The warning.
        """
        if message not in self._warnings and Processes.current().is_main_process:
            logger.warning("%s", message)
        self._warnings.add(message)

    def score(self, score: Score, rows: np.ndarray | None) -> ScoreOutput:
        """Return the columns of a score, one value per row of `rows`; all rows if None."""

        def compute() -> ScoreOutput:
            table = self.compute(score, rows)
            spec = self.describe(score) if self.describe is not None else score.spec()
            columns = {name: _read_only(as_numpy(column)) for name, column in table.items()}
            scalars = {name: values for name, values in table.items() if not pa.types.is_nested(values.type)}
            return ScoreOutput(scalars, columns, spec)

        return self._cached(("score", object_key(score), None if rows is None else rows.tobytes()), compute)

    def values(self, score: Score, rows: np.ndarray) -> np.ndarray:
        """Return the number that a score gives each of some rows, computed for those only that have none yet.

        Args:
            score: The score.
            rows: Row numbers, int64.

        Returns:
            Shape (rows,), NaN where a row has no value.
        """
        values, is_known = np.full(len(self.pool), np.nan), np.zeros(len(self.pool), dtype=bool)
        for key, (output, _) in self._results.items():
            if isinstance(key, tuple) and key[:2] == ("score", object_key(score)):
                known = slice(None) if key[2] is None else np.frombuffer(key[2], dtype=np.int64)
                values[known], is_known[known] = output.columns[score.value_column], True
        missing = rows[~is_known[rows]]
        if missing.size:
            values[missing] = self.score(score, missing).columns[score.value_column]
        selected: np.ndarray = values[rows]
        return selected

    def numbers(self, name: str) -> np.ndarray:
        """Return a numeric column of the dataset, float64 of shape (rows,); NaN where it is null.

        Raises:
            ColumnError: The column holds no numbers.
        """
        return self._cached(("numbers", name), lambda: _read_only(read_numbers(self.pool.dataset, name)))

    def sort_keys(self, name: str) -> np.ndarray:
        """Return numbers in the order of a numeric column of the dataset, without rounding.

        Args:
            name: Name of the column.

        Returns:
            The values, float64 of shape (rows,); for integers and decimals, which float64 may round, their dense
            ranks, int64. What a row without a value has means nothing.
        """

        def rank() -> np.ndarray:
            values = self.pool.dataset.select_columns([name]).with_format("arrow")[:].column(name)
            is_exact = not pa.types.is_decimal(values.type) and not pa.types.is_integer(values.type)
            if is_exact or values.type.bit_width < 64:
                return self.numbers(name)
            ranks = pc.rank(values.combine_chunks(), sort_keys="ascending", tiebreaker="dense")
            return _read_only(ranks.to_numpy(zero_copy_only=False).astype(np.int64))

        return self._cached(("sort_keys", name), rank)

    def vectors(self, name: str) -> np.ndarray:
        """Return a column of vectors, float32 of shape (rows, dimensions); a row of NaN where it is null.

        Above 256 MiB it is mapped from a temporary file.

        Raises:
            ColumnError: The column holds no vectors of one length.
        """
        from hf_datasel.scoring.vectors import load_vectors

        return self._cached(("vectors", name), lambda: _read_only(load_vectors(self.pool.dataset, name)))

    def text_vectors(self, texts: tuple[str, ...], embedding: Embedding) -> np.ndarray:
        """Return the vectors of texts that are no rows, such as tags, float32 of shape (texts, dimensions).

        Args:
            texts: Distinct texts that are not empty.
            embedding: How they are embedded; it names a model.
        """

        def embed() -> np.ndarray:
            from datasets import Dataset

            from hf_datasel.scoring.engine import Engine

            engine = Engine(Pool(Dataset.from_dict({"text": list(texts)})), store=self.store)
            return _read_only(as_numpy(engine.compute(embedding)[embedding.value_column]))

        return self._cached(("text_vectors", texts, object_key(embedding)), embed)

    def provenance(self, name: str) -> dict[str, Any] | None:
        """Return the spec that a column of the dataset was computed with, or None if it is unknown.

        Args:
            name: Name of the column.
        """
        return self._cached(("provenance", name), lambda: provenance_in(self.pool.dataset, name))

    def clusters(
        self, cluster: Cluster, vectors: np.ndarray, name: Hashable, eligible: np.ndarray
    ) -> ClusterAssignment:
        """Fit clusters to the vectors of the eligible rows and return the cluster of each row.

        Args:
            cluster: Score without centroids.
            vectors: Float32 of shape (rows, dimensions).
            name: Name of the vectors, equal only for equal ones.
            eligible: Bool of shape (rows,).

        Raises:
            ScoreError: There are fewer vectors than clusters.
        """

        def fit() -> ClusterAssignment:
            return Processes.current().run_on_main_process(lambda: _fit_clusters(cluster, vectors, eligible))

        return self._cached(("clusters", repr(cluster), name, eligible.tobytes()), fit)

    def target_copies(self, target: TargetRows) -> np.ndarray:
        """Return the target row that each row repeats, int64 of shape (rows,), -1 for none; see `TargetRows.copies`.

        Args:
            target: The target rows.
        """

        def find() -> np.ndarray:
            rows = np.arange(len(self.pool))
            return _read_only(Processes.current().run_on_main_process(lambda: target.copies(self.pool, rows)))

        return self._cached(("target_copies", target.digest), find)

    def start_recording(self) -> frozenset[Hashable]:
        """Start to record which results are requested, and return the keys of those that are cached by now."""
        self._requested.clear()
        return frozenset(self._results)

    def reused_cost(self, cached: Collection[Hashable]) -> Cost | None:
        """Return what the requested results cost that were cached when recording started; None without any.

        Args:
            cached: Keys that `start_recording` returned.
        """
        costs = [self._results[key][1] for key in self._requested if key in cached]
        return total_cost(costs) if costs else None

    def _cached(self, key: Hashable, compute: Callable[[], T]) -> T:
        self._requested.add(key)
        if key not in self._results:
            with measure_cost() as meter:
                value = compute()
            self._results[key] = value, meter.cost
        result: T = self._results[key][0]
        return result


def _fit_clusters(cluster: Cluster, vectors: np.ndarray, eligible: np.ndarray) -> ClusterAssignment:
    from hf_datasel.scoring.kmeans import nearest_centroids
    from hf_datasel.scoring.vector_sample import finite_rows

    rows = np.flatnonzero(finite_rows(vectors) & bool(vectors.shape[1]))
    fit_rows = rows[eligible[rows]]
    ids, distance = np.full(len(vectors), -1, dtype=np.int64), np.full(len(vectors), np.nan)
    if not len(fit_rows):
        return ClusterAssignment(ids, distance, 0)
    k, centroids = cluster.find(vectors, fit_rows)
    ids[rows], distance[rows] = nearest_centroids(vectors, centroids, rows)
    return ClusterAssignment(_read_only(ids), _read_only(distance), k)


def _read_only(values: np.ndarray) -> np.ndarray:
    values.flags.writeable = False
    return values


def as_numpy(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Convert a column of a score to numpy.

    Args:
        column: Column of numbers, strings, lists of strings or vectors.

    Returns:
        Shape (rows,), NaN for null numbers, and a list or None for each list of strings; of vectors, float32 of shape
        (rows, dimensions), with a row of NaN for null ones. Vectors above 256 MiB are mapped from a temporary file.
    """
    types = pa.types
    if is_text_list(column.type):
        lists = np.empty(len(column), dtype=object)
        lists[:] = column.to_pylist()
        return lists
    if not any(is_type(column.type) for is_type in (types.is_list, types.is_large_list, types.is_fixed_size_list)):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    width = next((len(vector) for chunk in chunks for vector in chunk.drop_null()[:1]), 0)
    vectors, start = zeros((len(column), width), np.float32), 0
    for chunk in chunks:
        for block in row_blocks(len(chunk), width * vectors.itemsize):
            part = chunk.slice(block.start, block.stop - block.start)
            is_valid = part.is_valid().to_numpy(zero_copy_only=False)
            rows = start + np.flatnonzero(is_valid)
            vectors[rows] = part.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(len(rows), width)
            vectors[start + np.flatnonzero(~is_valid)] = np.nan
            start += len(part)
    return vectors


def take_rows(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the values of some rows; without a copy where these are all rows in order."""
    if values.ndim > 1:
        return take_vectors(values, rows)
    if len(rows) == len(values) and np.array_equal(rows, np.arange(len(rows))):
        return values
    subset: np.ndarray = values[rows]
    return subset
