"""K-means clusters of rows."""

from __future__ import annotations

import functools
import io
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from hf_datasel.atomic import write_file
from hf_datasel.errors import ColumnError, ConfigError, ScoreError, check_option, did_you_mean
from hf_datasel.scoring.base import Columns, Score
from hf_datasel.scoring.kmeans import (
    KMeansFit,
    KMeansSettings,
    best_fit,
    fit_all,
    kmeans,
    nearest_centroids,
    tied_ks,
)
from hf_datasel.scoring.setting_files import FILE
from hf_datasel.scoring.vector_sample import VectorSample, sample_vectors
from hf_datasel.scoring.vectors import iter_vectors
from hf_datasel.tokens import TokenRows

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_datasel.scoring.runner import ModelRunner

__all__ = ["Cluster"]

logger = logging.getLogger(__name__)

_FIT_ROWS, _FIT_ROWS_PER_CENTROID = 131_072, 256
"""Number of rows that centroids are fitted to, at least and for each of them; 256 are enough by default in faiss."""
_SILHOUETTE_ROWS = 10_000
"""Number of rows that a silhouette is averaged over."""
_OPTIONS = {"init": ("random", "k-means++"), "backend": ("sklearn", "faiss")}


@dataclass(frozen=True)
class Cluster(Score):
    """The nearest of k centroids, and the distance to it: k-means over a column of vectors.

    The score has to be fitted first. `fit` returns a score that names the file of its centroids:

        cluster = Cluster(k=1000).fit(dataset, "centroids.npy")
        dataset = score(dataset, [cluster])

    With several k, `fit` selects the one with the highest silhouette, averaged over the starts of k-means, and warns
    if it cannot be told apart from another one (see `fits`):

        cluster = Cluster(k=(512, 1024, 2048)).fit(dataset, "centroids.npy")  # for example Cluster(k=1024, ...)

    Other rows, or the same rows in another order, give other clusters with other numbers: reuse the file to assign the
    rows of a later dataset to the same clusters.

    Reads the vectors in `column`, as `Embedding` writes them. Writes `cluster_id` (int32, 0 to k - 1),
    `cluster_distance` (float32, Euclidean) and `cluster_reason` ("" for a row with a cluster).

    Cost: no model but that of the vectors; k-means of a sample of the rows.

    Reference: k-means of scikit-learn or faiss. 5 starts and 300 steps are those of the code of kMQ (Yu et al. 2024,
    arXiv:2409.11378). A fit holds the vectors of `max_fit_rows` rows in memory, twice. Centroids that scikit-learn
    fits with another number of threads differ by rounding errors; given the centroids, clusters do not depend on it.

    Args:
        k: Number of centroids, or several numbers to try. Published: 512 to 2,048 for 50 to 200 thousand rows, 1,000
            for a million.
        seed: Random seed of the initial centroids, and of the sample of rows that they are fitted to.
        column: Name of the column of vectors.
        n_init: Number of starts from other initial centroids; the centroids with the lowest sum of squared distances
            are used. The time is proportional to it. More starts matter most for small k, where the sums of two starts
            differ by a percent or so.
        max_iter: Maximum number of steps of a start. Most starts end after 20 to 200 steps, when the centroids hardly
            move.
        max_fit_rows: Maximum number of rows to fit to. More rows are sampled, and all are assigned. By default 256 for
            each centroid, and at least 131,072.
        init: Initial centroids: `"random"` rows, or `"k-means++"`, which finds a few distant clusters and is slow for
            large k.
        backend: Library that fits: `"sklearn"`, or `"faiss"`, which has to be installed and finds other centroids of
            the same quality.
        centroids: File (.npy) of the centroids, float32 of shape (k, dimensions), which `fit` writes.
        column_prefix: Prefix of the name of every column that the score writes.

    >>> Cluster(k=8).columns()
    {'cluster_id': DataType(int32), 'cluster_distance': DataType(float), 'cluster_reason': DataType(string)}
    """

    version: ClassVar[int] = 2

    k: int | tuple[int, ...] = 1000
    seed: int = field(default=42, kw_only=True)
    column: str = field(default="embedding", kw_only=True)
    n_init: int = field(default=5, kw_only=True)
    max_iter: int = field(default=300, kw_only=True)
    max_fit_rows: int | None = field(default=None, kw_only=True)
    init: str = field(default="random", kw_only=True)
    backend: str = field(default="sklearn", kw_only=True)
    centroids: str | None = field(default=None, kw_only=True, metadata=FILE)

    def __post_init__(self) -> None:
        if isinstance(self.k, list | tuple):
            object.__setattr__(self, "k", tuple(self.k))  # a list where the settings come from JSON
            self._check_ks(tuple(self.k))
            if self.centroids is not None:
                raise ConfigError(f"Cluster(k={self.k!r}, centroids={self.centroids!r}): centroids are of one k.")
        for name, least in (("k", 1), ("seed", 0), ("n_init", 1), ("max_iter", 1), ("max_fit_rows", 1)):
            value = getattr(self, name)
            if (name == "k" and isinstance(value, tuple)) or (name == "max_fit_rows" and value is None):
                continue
            if type(value) is not int or value < least:
                raise ConfigError(f"Cluster({name}={value!r}): it has to be an int of at least {least}.")
        if self.max_fit_rows is not None and self.max_fit_rows < self._least_rows:
            raise ConfigError(
                f"Cluster(k={self.k!r}, max_fit_rows={self.max_fit_rows:,}): that many centroids need at least "
                f"{self._least_rows:,} rows. Raise max_fit_rows or lower k."
            )
        for name, options in _OPTIONS.items():
            check_option(f"Cluster({name}={getattr(self, name)!r})", getattr(self, name), options)
        if (self.backend, self.init) == ("faiss", "k-means++"):
            raise ConfigError("Cluster(backend='faiss') starts from random rows: remove init='k-means++'.")
        if not isinstance(self.column, str) or not self.column:
            raise ConfigError(f"Cluster(column={self.column!r}): it has to be the name of a column.")
        if self.centroids is not None and not isinstance(self.centroids, str):
            raise ConfigError(f"Cluster(centroids={self.centroids!r}): it has to be the path of a file, or None.")

    def _check_ks(self, ks: tuple[int, ...]) -> None:
        if not ks or any(type(k) is not int or k < 2 for k in ks) or len(set(ks)) < len(ks):
            raise ConfigError(f"Cluster(k={ks!r}): k to try have to be different ints of at least 2, one or more.")

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        return {"cluster_id": pa.int32(), "cluster_distance": pa.float32(), "cluster_reason": pa.string()}

    def fit(self, data: Dataset | np.ndarray, path: str | os.PathLike[str]) -> Cluster:
        """Fit centroids to rows, and write them to a file.

        Args:
            data: Rows with the column of vectors, or vectors of shape (rows, dimensions). Rows without a vector, or
                with one that is not finite, are excluded.
            path: File to write, with the suffix .npy.

        Returns:
            This score with `centroids` set, and with the selected k if there are several to try.

        Raises:
            ColumnError: The column is missing, or does not hold vectors of one length.
            ScoreError: There are fewer vectors than centroids, or too many equal ones; or faiss is not installed.
        """
        target = Path(path).expanduser()
        if target.suffix != ".npy":
            raise ConfigError(f"Cluster.fit(path={str(path)!r}): centroids are written as .npy, so it has to end so.")
        k, centroids = self.find(data)
        content = io.BytesIO()
        np.save(content, centroids)
        write_file(target, content.getvalue(), ScoreError)
        return replace(self, k=k, centroids=str(target.resolve()))

    def find(self, data: Dataset | np.ndarray, rows: np.ndarray | None = None) -> tuple[int, np.ndarray]:
        """Fit centroids without writing them.

        Args:
            data: As in `fit`.
            rows: Indices of the rows to fit to, rising; all rows by default.

        Returns:
            The selected k, and its centroids, float32 of shape (k, dimensions).

        Raises:
            ColumnError: As in `fit`.
            ScoreError: As in `fit`.
        """
        if not isinstance(self.k, tuple):
            return self.k, kmeans(self._sample(data, rows).vectors, self.k, self._settings)
        fits = self._fits(data, _SILHOUETTE_ROWS, rows)
        _log_choice(fits)
        best = best_fit(fits)
        return best.k, best.centroids

    def fits(self, data: Dataset | np.ndarray, sample: int = _SILHOUETTE_ROWS) -> list[KMeansFit]:
        """Fit k-means with each k, and compute the silhouette of each of the `n_init` starts.

        The mean over the starts says which k fits best, and their spread how much of it is luck: with one seed or
        another, silhouettes of the same k differ by several percent. With `n_init=1` there is no spread.

        Args:
            data: As in `fit`.
            sample: Maximum number of rows that the silhouette is averaged over; each of them is compared with all
                rows that the centroids are fitted to.

        Returns:
            One fit per k, in ascending order.

        Raises:
            ConfigError: The sample is empty, or k is 1.
            ColumnError: As in `fit`.
            ScoreError: As in `fit`, or a k is not below the number of vectors.
        """
        return self._fits(data, sample)

    def _fits(self, data: Dataset | np.ndarray, sample: int, rows: np.ndarray | None = None) -> list[KMeansFit]:
        if type(sample) is not int or sample < 1:
            raise ConfigError(f"The silhouette is taken of sample={sample!r} rows: it has to be an int of at least 1.")
        ks = self.k if isinstance(self.k, tuple) else (self.k,)
        self._check_ks(ks)
        fit_rows = {k: self._fit_rows(k) for k in ks}
        return fit_all(self._sample(data, rows), fit_rows, self._settings, sample)

    @property
    def _settings(self) -> KMeansSettings:
        return KMeansSettings(self.seed, self.init, self.n_init, self.max_iter, self.backend)

    @property
    def _least_rows(self) -> int:
        """Number of rows that the largest k needs; a silhouette needs one more than there are centroids."""
        return max(self.k) + 1 if isinstance(self.k, tuple) else self.k

    def _fit_rows(self, k: int) -> int:
        return self.max_fit_rows or max(_FIT_ROWS, _FIT_ROWS_PER_CENTROID * k)

    def _sample(self, data: Dataset | np.ndarray, rows: np.ndarray | None) -> VectorSample:
        """Return the vectors to fit to: all, or a sample in the order of the rows."""
        if not isinstance(data, np.ndarray):
            self._check(data)
        elif data.ndim != 2:
            raise ScoreError(f"Cluster.fit takes vectors of shape (rows, dimensions), and these are {data.shape}.")
        count = self._fit_rows(max(self.k) if isinstance(self.k, tuple) else self.k)
        return sample_vectors(data, self.column, count, self.seed, rows)

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the columns that the score reads."""
        return (self.column,)

    def check(self, rows: int) -> None:
        """Raise `ScoreError` if there are too few rows."""
        if self.needs_fit and self._least_rows > rows:
            raise ScoreError(f"Cluster(k={self.k}) has only {rows:,} rows to fit to. Lower k.")

    @property
    def needs_fit(self) -> bool:
        """Whether the score has to be fitted first."""
        return self.centroids is None

    def fitted(self, dataset: Dataset, folder: Path) -> Cluster:
        """Return the score fitted to a dataset; its file in the folder is named by a hash of the content."""
        fitted = self.fit(dataset, folder / f"centroids.{os.getpid()}.npy")
        named = Path(str(fitted.centroids)).rename(
            folder.resolve() / f"centroids-{_digest(*fitted._file())[5:17]}.npy"
        )
        return replace(fitted, centroids=str(named))

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        centroids = self._centroids()
        data = rows.pool.dataset
        self._check(data)
        ids, distances = np.zeros(len(rows), dtype=np.int32), np.zeros(len(rows), dtype=np.float32)
        reasons = np.full(len(rows), "", dtype=object)
        for start, vectors, part_reasons in iter_vectors(data.select(rows.indices), self.column):
            reasons[start : start + len(part_reasons)] = part_reasons
            positions = start + np.flatnonzero(part_reasons == "")
            if len(positions) and vectors.shape[1] != centroids.shape[1]:
                raise ColumnError(
                    f"Column {self.column!r} holds vectors of {vectors.shape[1]:,} numbers, and the centroids in "
                    f"{self.centroids!r} have {centroids.shape[1]:,}. Fit Cluster to this column."
                )
            if len(positions):
                ids[positions], distances[positions] = nearest_centroids(vectors, centroids)
        null = reasons != ""
        return {
            "cluster_id": pa.array(ids, pa.int32(), mask=null),
            "cluster_distance": pa.array(distances, pa.float32(), mask=null),
            "cluster_reason": pa.array(reasons, pa.string()),
        }

    def _check(self, data: Dataset) -> None:
        if self.column not in data.column_names:
            raise ColumnError(
                f"Cluster(column={self.column!r}) needs column {self.column!r}, but the dataset has "
                f"{data.column_names}.{did_you_mean(self.column, data.column_names)}",
                hint="Vectors are added with hf_datasel.score(dataset, Embedding(...)).",
                cli_hint="Vectors are added with hf-datasel score --scores embedding.",
            )

    def _centroids(self) -> np.ndarray:
        if self.centroids is None:
            raise ScoreError(
                f"Cluster(k={self.k}) is not fitted: it has no centroids yet. Use the score that "
                f"Cluster(k={self.k}).fit(dataset, 'centroids.npy') returns."
            )
        centroids = _load(*self._file())
        if centroids.ndim != 2 or len(centroids) != self.k:
            raise ScoreError(
                f"{self.centroids!r} holds an array of shape {centroids.shape}, and not {self.k} centroids."
            )
        return centroids

    def _file(self) -> tuple[str, int, int, int]:
        """Return the path of the centroids' file, and its inode, size and time of modification."""
        path = Path(str(self.centroids)).expanduser()
        if not path.is_file():
            raise ScoreError(f"There is no file {self.centroids!r} with the centroids of Cluster(k={self.k}).")
        stat = path.stat()
        return str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns

    def spec(self) -> dict[str, Any]:
        """Return the settings for the record, with the file of centroids resolved to a digest."""
        return {**super().spec(), "resolved_centroids": None if self.centroids is None else _digest(*self._file())}

    def _identity(self) -> str:
        return f"{super()._identity()}:{'' if self.centroids is None else _digest(*self._file())}"


def _log_choice(fits: Sequence[KMeansFit]) -> None:
    """Log the silhouettes of all k, and warn if the highest one is not clearly the highest."""
    best, ties = best_fit(fits), tied_ks(fits)
    parts = [
        f"{fit.k:,}: {fit.silhouette:.3f}" + ("" if fit.spread is None else f" ± {fit.spread:.3f}") for fit in fits
    ]
    logger.info("Silhouette by k: %s", ", ".join(parts))
    if ties:
        starts = "one start" if best.spread is None else f"{len(best.silhouettes)} starts"
        logger.warning(
            "k=%s has the highest silhouette of %s, and k=%s cannot be told apart from it: the silhouettes of other "
            "starts may order them otherwise. Raise n_init, or name the k that you prefer.",
            f"{best.k:,}",
            starts,
            ", ".join(f"{k:,}" for k in ties),
        )


@functools.lru_cache(maxsize=2)
def _load(path: str, *stat: int) -> np.ndarray:
    try:
        centroids: np.ndarray = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ScoreError(f"{path!r} holds no centroids: {error}") from error
    return centroids


@functools.lru_cache(maxsize=64)
def _digest(path: str, *stat: int) -> str:
    """Return a hash of the file's bytes, cached while its inode, size and time stay the same."""
    import xxhash

    return f"file:{xxhash.xxh3_128(Path(path).read_bytes()).hexdigest()}"
