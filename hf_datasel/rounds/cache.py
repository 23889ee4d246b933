"""What rounds over one pool read and compute, each thing once."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ColumnError
from hf_datasel.formats import Pool
from hf_datasel.scoring.distributed import Ranks

if TYPE_CHECKING:
    from hf_datasel.scores import Cluster
    from hf_datasel.scoring.base import Columns, Score

__all__ = ["Clusters", "Computed", "Material", "as_numpy", "taken"]

Thing = TypeVar("Thing")

_ROWS_AT_ONCE = 10_000


class Computed(NamedTuple):
    """A score of some rows: the columns as they were computed, without vectors; as numpy has them; and the spec."""

    table: Columns
    columns: dict[str, np.ndarray]
    spec: dict[str, Any]


class Clusters(NamedTuple):
    """Clusters that were found in vectors: the cluster of each row (-1: none), the distance to its centre, and k."""

    ids: np.ndarray
    distance: np.ndarray
    k: int


@dataclass
class Material:
    """Columns of a pool and scores of its rows by one model, for as many rounds as that model stays the same.

    Attributes:
        pool: the rows.
        compute: computes a score, for all rows or for some.
        describe: what to record of a score that was computed; its spec by default.
    """

    pool: Pool
    compute: Callable[[Score, np.ndarray | None], Columns]
    describe: Callable[[Score], dict[str, Any]] | None = None
    _kept: dict[Hashable, tuple[Any, float]] = field(default_factory=dict, init=False)
    """Things, and the seconds that it took to make each."""
    _asked: set[Hashable] = field(default_factory=set, init=False)

    def score(self, score: Score, rows: np.ndarray | None) -> Computed:
        """The score's columns for these rows, all by default."""

        def computed() -> Computed:
            table = self.compute(score, rows)
            spec = self.describe(score) if self.describe is not None else score.spec()
            columns = {name: _locked(as_numpy(column)) for name, column in table.items()}
            return Computed({name: table[name] for name in table if columns[name].ndim == 1}, columns, spec)

        return self._once(("score", repr(score), None if rows is None else rows.tobytes()), computed)

    def numbers(self, name: str) -> np.ndarray:
        """A whole column that is there, float64 of shape (rows,); NaN where it is null.

        Raises:
            ColumnError: it holds no numbers.
        """

        def read() -> np.ndarray:
            values = self.pool.dataset.select_columns([name]).with_format("arrow")[:].column(name)
            try:
                if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
                    raise ValueError("a cast would read text as numbers")
                return _locked(np.asarray(values.cast("double").to_numpy(), dtype=np.float64))
            except (ValueError, NotImplementedError) as error:  # pyarrow raises both for types it cannot cast
                raise ColumnError(f"Column {name!r} holds {values.type}, and a choice needs numbers.") from error

        return self._once(("numbers", name), read)

    def vectors(self, name: str) -> np.ndarray:
        """A whole column that is there, float32 of shape (rows, dimensions); NaN throughout where it has no vector.

        Raises:
            ColumnError: it holds no vectors of one length.
        """
        from hf_datasel.scoring.vectors import all_vectors

        return self._once(("vectors", name), lambda: _locked(all_vectors(self.pool.dataset, name)))

    def clusters(self, cluster: Cluster, vectors: np.ndarray, name: Hashable, eligible: np.ndarray) -> Clusters:
        """Clusters fitted to the vectors of the rows that are eligible.

        Args:
            cluster: not fitted.
            vectors: shape (rows, dimensions).
            name: of the vectors, equal only for equal ones.
            eligible: bool of shape (rows,).

        Raises:
            ScoreError: fewer vectors than clusters.
        """
        key = ("clusters", repr(cluster), name, eligible.tobytes())
        return self._once(key, lambda: Ranks.current().made_by_first(lambda: _clustered(cluster, vectors, eligible)))

    def since(self, before: Collection[Hashable]) -> float:
        """Seconds that it took to make what was asked for since `start`, and was there before."""
        return sum(self._kept[key][1] for key in self._asked if key in before)

    def start(self) -> frozenset[Hashable]:
        """Begin to note what is asked for; returns the names of what is there."""
        self._asked.clear()
        return frozenset(self._kept)

    def _once(self, key: Hashable, make: Callable[[], Thing]) -> Thing:
        self._asked.add(key)
        if key not in self._kept:
            start = time.perf_counter()
            self._kept[key] = make(), time.perf_counter() - start
        thing: Thing = self._kept[key][0]
        return thing


def _clustered(cluster: Cluster, vectors: np.ndarray, eligible: np.ndarray) -> Clusters:
    from hf_datasel.scoring.kmeans import nearest

    usable = np.flatnonzero(np.isfinite(vectors).all(axis=1) & bool(vectors.shape[1]))
    fitting = usable[eligible[usable]]
    ids, distance = np.full(len(vectors), -1, dtype=np.int64), np.full(len(vectors), np.nan)
    if not len(fitting):
        return Clusters(ids, distance, 0)
    k, centroids = cluster.find(vectors[fitting])
    for start in range(0, len(usable), _ROWS_AT_ONCE):
        block = usable[start : start + _ROWS_AT_ONCE]
        ids[block], distance[block] = nearest(vectors[block], centroids)
    return Clusters(_locked(ids), _locked(distance), k)


def _locked(values: np.ndarray) -> np.ndarray:
    """The array, which nobody can change for those who get it next."""
    values.flags.writeable = False
    return values


def as_numpy(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A score's column as numpy: NaN for null numbers, one row a vector for vectors, NaN throughout for null ones."""
    if not pa.types.is_list(column.type) and not pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    parts = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    width = next((len(vector) for part in parts for vector in part.drop_null()[:1]), 0)
    vectors = np.full((len(column), width), np.nan, dtype=np.float32)
    start = 0
    for part in parts:  # one after the other, so that no more of them is held twice
        rows = start + np.flatnonzero(part.is_valid().to_numpy(zero_copy_only=False))
        vectors[rows] = part.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(len(rows), width)
        start += len(part)
    return vectors


def taken(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """An array's values of some rows; the array itself, and no copy, where that is all of them in order."""
    if len(rows) == len(values) and np.array_equal(rows, np.arange(len(rows))):
        return values
    part: np.ndarray = values[rows]
    return part
