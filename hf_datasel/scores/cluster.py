"""Groups of rows whose vectors lie close to each other."""

from __future__ import annotations

import functools
import logging
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ColumnError, ConfigError, ScoreError, did_you_mean
from hf_datasel.scoring.base import Columns, Score
from hf_datasel.scoring.kmeans import Fit, fit_each, kmeans, nearest
from hf_datasel.scoring.vectors import vectors_in
from hf_datasel.tokens import TokenRows

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_datasel.scoring.runner import ModelContext

__all__ = ["Cluster"]

logger = logging.getLogger(__name__)

_SAMPLE = 131_072
"""Rows that centroids are fitted to, at most."""
_CHOICES = {"init": ("random", "k-means++"), "backend": ("sklearn", "faiss")}


@dataclass(frozen=True)
class Cluster(Score):
    """The nearest of k centroids, and how far away it is: k-means over a column of vectors.

    It is fitted first, and what `fit` returns is a score like any other, that names the file of its centroids:

        cluster = Cluster(k=1000).fit(dataset, "centroids.npy")
        dataset = score(dataset, [cluster])

    With several k, `fit` tries each and keeps the one of highest silhouette (see `fits`), the lowest of equals:

        cluster = Cluster(k=(512, 1024, 2048)).fit(dataset, "centroids.npy")  # Cluster(k=1024, ...), say

    Other rows, or the same in another order, give other groups with other numbers: keep the file to number the rows of
    a later pool as those of an earlier one.

    Reads the vectors in `column`, as `Embedding` writes them. Writes `cluster_id` (int32, 0 to k - 1),
    `cluster_distance` (float32, Euclidean) and `cluster_reason` ("" for a row with a cluster).
    Reference: k-means as scikit-learn or faiss has it, started once, in at most 20 steps.

    >>> Cluster(k=8).columns()
    {'cluster_id': DataType(int32), 'cluster_distance': DataType(float), 'cluster_reason': DataType(string)}
    """

    k: int | tuple[int, ...] = 1000
    """Centroids, or several numbers of them to try. Published: 512 to 2,048 at 50 to 200 thousand rows, 1,000 at a
    million."""
    seed: int = field(default=42, kw_only=True)
    """Of the first centroids, and of the sample where there are more than 131,072 rows."""
    column: str = field(default="embedding", kw_only=True)
    """With the vectors."""
    init: str = field(default="random", kw_only=True)
    """First centroids: "random" rows, or "k-means++", which finds a few groups far apart, and is slow with large k."""
    backend: str = field(default="sklearn", kw_only=True)
    """Who fits: "sklearn", or "faiss", which has to be installed and finds other centroids of the same quality."""
    centroids: str | None = field(default=None, kw_only=True)
    """File (.npy) of the centroids, which `fit` writes; float32 of shape (k, dimensions)."""

    def __post_init__(self) -> None:
        if isinstance(self.k, list | tuple):
            object.__setattr__(self, "k", tuple(self.k))  # a list where the settings come from JSON
            self._check_ks(tuple(self.k))
            if self.centroids is not None:
                raise ConfigError(f"Cluster(k={self.k!r}, centroids={self.centroids!r}): centroids are of one k.")
        for name, least in (("k", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, tuple) and (type(value) is not int or value < least):
                raise ConfigError(f"Cluster({name}={value!r}): it has to be an int of at least {least}.")
        for name, options in _CHOICES.items():
            value = getattr(self, name)
            if value not in options:
                raise ConfigError(f"Cluster({name}={value!r}): it has to be one of {', '.join(map(repr, options))}.")
        if (self.backend, self.init) == ("faiss", "k-means++"):
            raise ConfigError("Cluster(backend='faiss') starts from random rows: leave out init='k-means++'.")
        if not isinstance(self.column, str) or not self.column:
            raise ConfigError(f"Cluster(column={self.column!r}): it has to be the name of a column.")
        if self.centroids is not None and not isinstance(self.centroids, str):
            raise ConfigError(f"Cluster(centroids={self.centroids!r}): it has to be the path of a file, or None.")

    def _check_ks(self, ks: tuple[int, ...]) -> None:
        if not ks or any(type(each) is not int or each < 2 for each in ks) or len(set(ks)) < len(ks):
            raise ConfigError(f"Cluster(k={ks!r}): k to try have to be different ints of at least 2, one or more.")

    def columns(self) -> dict[str, pa.DataType]:
        return {"cluster_id": pa.int32(), "cluster_distance": pa.float32(), "cluster_reason": pa.string()}

    def fit(self, data: Dataset | np.ndarray, path: str | os.PathLike[str]) -> Cluster:
        """Find the centroids of these rows, and write them into a file.

        Args:
            data: rows with the column of vectors, or vectors of shape (rows, dimensions). Rows without a vector, or
                with one that is not finite, are left out.
            path: of the file to write; it has to end in .npy.

        Returns:
            This score with `centroids` set, and with the k taken where there are several to try.

        Raises:
            ColumnError: there is no such column, or it holds no vectors of one length.
            ScoreError: fewer vectors than centroids, or too many of them equal; or faiss is not installed.
        """
        target = Path(path).expanduser()
        if target.suffix != ".npy":
            raise ConfigError(f"Cluster.fit(path={str(path)!r}): centroids are written as .npy, so it has to end so.")
        k, centroids = self.find(data)
        with open(target, "wb") as file:
            np.save(file, centroids)
        return replace(self, k=k, centroids=str(target.resolve()))

    def find(self, data: Dataset | np.ndarray) -> tuple[int, np.ndarray]:
        """The k taken and its centroids, float32 of shape (k, dimensions), as `fit` writes them.

        Raises:
            ColumnError: as `fit` does.
            ScoreError: as `fit` does.
        """
        if not isinstance(self.k, tuple):
            return self.k, kmeans(self._sample(data), self.k, self.seed, self.init, self.backend)
        fits = self.fits(data)
        logger.info("Silhouette by k: %s", ", ".join(f"{each.k:,}: {each.silhouette:.3f}" for each in fits))
        best = max(fits, key=lambda each: each.silhouette)
        return best.k, best.centroids

    def fits(self, data: Dataset | np.ndarray, sample: int = 10_000) -> list[Fit]:
        """Fit k-means with each k, the lowest first, to the rows that `fit` fits to, and say how well it does.

        Args:
            data: as in `fit`.
            sample: rows that the silhouette is the mean of, at most; each of them is held against all rows fitted to.

        Raises:
            ConfigError: no sample, or k=1.
            ColumnError: as `fit` does.
            ScoreError: as `fit` does, or a k that is not below the number of vectors.
        """
        if type(sample) is not int or sample < 1:
            raise ConfigError(f"The silhouette is taken of sample={sample!r} rows: it has to be an int of at least 1.")
        ks = self.k if isinstance(self.k, tuple) else (self.k,)
        self._check_ks(ks)
        return fit_each(self._sample(data), ks, self.seed, self.init, self.backend, sample)

    def _sample(self, data: Dataset | np.ndarray) -> np.ndarray:
        """Float32 vectors to fit to: all, or as many as are taken, in the order of the rows."""
        rng = np.random.default_rng(self.seed)
        if isinstance(data, np.ndarray):
            if data.ndim != 2:
                raise ScoreError(f"Cluster.fit takes vectors of shape (rows, dimensions), and these are {data.shape}.")
            usable = np.flatnonzero(np.isfinite(data).all(axis=1))
            return np.asarray(data[_some(usable, rng)], dtype=np.float32)
        self._check(data)
        kept = [at + np.flatnonzero(reasons == "") for at, _, reasons in vectors_in(data, self.column)]
        chosen = _some(np.concatenate([np.empty(0, dtype=np.int64), *kept]), rng)
        parts = [vectors for _, vectors, _ in vectors_in(data.select(chosen), self.column)]
        return np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32)

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.column,)

    def check(self, rows: int) -> None:
        most = max(self.k) + 1 if isinstance(self.k, tuple) else self.k
        if self.needs_fit and most > rows:
            raise ScoreError(f"Cluster(k={self.k}) has only {rows:,} rows to fit to. Lower k.")

    @property
    def needs_fit(self) -> bool:
        return self.centroids is None

    def fitted(self, dataset: Dataset, folder: Path) -> Cluster:
        fitted = self.fit(dataset, folder / f"centroids.{os.getpid()}.npy")
        named = Path(str(fitted.centroids)).rename(
            folder.resolve() / f"centroids-{_digest(*fitted._file())[5:17]}.npy"
        )
        return replace(fitted, centroids=str(named))

    def compute(self, rows: TokenRows, context: ModelContext) -> Columns:
        centroids = self._centroids()
        data = rows.pool.dataset
        self._check(data)
        ids, distances = np.zeros(len(rows), dtype=np.int32), np.zeros(len(rows), dtype=np.float32)
        reasons = np.full(len(rows), "", dtype=object)
        for start, vectors, why in vectors_in(data.select(rows.indices), self.column):
            reasons[start : start + len(why)] = why
            at = start + np.flatnonzero(why == "")
            if len(at) and vectors.shape[1] != centroids.shape[1]:
                raise ColumnError(
                    f"Column {self.column!r} holds vectors of {vectors.shape[1]:,} numbers, and the centroids in "
                    f"{self.centroids!r} have {centroids.shape[1]:,}. Fit Cluster to this column."
                )
            if len(at):
                ids[at], distances[at] = nearest(vectors, centroids)
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
                f"{data.column_names}.{did_you_mean(self.column, data.column_names)} Vectors are added with "
                "hf_datasel.score(dataset, [Embedding(...)])."
            )

    def _centroids(self) -> np.ndarray:
        if self.centroids is None:
            raise ScoreError(
                f"Cluster(k={self.k}) is not fitted: it has no centroids yet. Take what Cluster(k={self.k})."
                "fit(dataset, 'centroids.npy') returns."
            )
        centroids = _load(*self._file())
        if centroids.ndim != 2 or len(centroids) != self.k:
            raise ScoreError(
                f"{self.centroids!r} holds an array of shape {centroids.shape}, and not {self.k} centroids."
            )
        return centroids

    def _file(self) -> tuple[str, int, int, int]:
        """The file of the centroids, and what changes when it is written anew."""
        path = Path(str(self.centroids)).expanduser()
        if not path.is_file():
            raise ScoreError(f"There is no file {self.centroids!r} with the centroids of Cluster(k={self.k}).")
        stat = path.stat()
        return str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns

    def spec(self) -> dict[str, Any]:
        return {**super().spec(), "resolved_centroids": None if self.centroids is None else _digest(*self._file())}

    def _identity(self) -> str:
        return f"{super()._identity()}:{'' if self.centroids is None else _digest(*self._file())}"


def _some(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """At most as many of the rows as are fitted to, in their order."""
    return rows if len(rows) <= _SAMPLE else np.sort(rng.choice(rows, _SAMPLE, replace=False))


@functools.lru_cache(maxsize=2)
def _load(path: str, *stat: int) -> np.ndarray:
    try:
        centroids: np.ndarray = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ScoreError(f"{path!r} holds no centroids: {error}") from error
    return centroids


@functools.lru_cache(maxsize=64)
def _digest(path: str, *stat: int) -> str:
    """Hash of the file's bytes; remembered for as long as its inode, size and time stay the same."""
    import xxhash

    return f"file:{xxhash.xxh3_128(Path(path).read_bytes()).hexdigest()}"
