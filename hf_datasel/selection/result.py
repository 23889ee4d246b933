"""What was chosen, in what order, from what, and why."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_datasel.errors import DatasetMismatchError, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.selection.filters import Keep
from hf_datasel.selectors.base import Round, Selector

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Selection"]

_FORMAT = 1
_PACKAGES = ("hf-datasel", "datasets", "transformers", "trl", "peft", "torch", "numpy")


@dataclass(repr=False, eq=False)
class Selection:
    """Row numbers, best first, and where they come from. Never holds rows.

    Attributes:
        indices: int64 row numbers of the parent dataset, best first.
        provenance: plain values: the dataset's id and length, the selector and its settings, the scores and theirs,
            seed, budget, shortfall, rows left out by reason, seconds, package versions.
        table: `row_id` (sha256 of the row's content) of the whole pool, and the scores as far as they were computed.
    """

    indices: np.ndarray
    provenance: dict[str, Any]
    table: pa.Table = field(repr=False)

    @classmethod
    def from_round(cls, round: Round, selector: Selector, rows: np.ndarray, **more: Any) -> Selection:
        """What a selector chose in a round, with everything the round recorded."""
        pool = round.rows
        provenance = {
            "format_version": _FORMAT,
            "dataset": {"id": pool.id, "rows": len(pool), "format": pool.format, **_origin(pool.dataset)},
            "selector": selector.spec(),
            "scores": round.specs,
            "columns_unverified": round.columns_used,
            "round": round.index,
            "seed": round.seed,
            "budget": round.budget,
            "chosen": len(rows),
            "shortfall": round.budget - len(rows),
            "rows_scored": max(
                (len(at) for name, (at, _) in round.scored.items() if name not in round.columns_used), default=0
            ),
            "not_eligible": _counts(pool.reasons[~round.eligible]),
            "left_out": dict(round.left_out),
            "versions": _versions(),
            **more,
        }
        return cls(rows, provenance, _table(pool, round.scored))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Selection):
            return NotImplemented
        return (
            np.array_equal(self.indices, other.indices)
            and self.provenance == other.provenance
            and bool(self.table.equals(other.table))
        )

    def __repr__(self) -> str:
        about, name = self.provenance, self.provenance["selector"]["selector"]
        return (
            f"Selection({len(self.indices):,} of {about['dataset']['rows']:,} rows by {name}, round {about['round']})"
        )

    @property
    def keep(self) -> Keep:
        """For `dataset.filter(selection.keep, with_indices=True)`: the same rows, in dataset order.

        Each row that it keeps is checked against the row that was chosen, where the dataset still has the columns.
        """
        ids = self.table.column("row_id").take(pa.array(self.indices)).to_pylist()
        return Keep(dict(zip(self.indices.tolist(), ids, strict=True)), self.provenance["dataset"]["format"])

    def apply(self, dataset: Dataset) -> Dataset:
        """The chosen rows of the parent dataset, best first, with `selection_rank` (0 is best) and `selection_round`.

        Raises:
            DatasetMismatchError: the dataset is not the one the selection was made from; says what differs.
        """
        self._check(Pool(dataset))
        ours = {"selection_rank": np.arange(len(self.indices), dtype=np.int32)}
        ours["selection_round"] = np.full(len(self.indices), self.provenance["round"], dtype=np.int32)
        subset = dataset.select_columns([name for name in dataset.column_names if name not in ours])
        subset = subset.select(self.indices)
        for name, values in ours.items():
            subset = subset.add_column(name, values)
        return subset

    def scores(self, column: str) -> np.ndarray:
        """A score of the whole pool, float64 of shape (rows,); NaN where it was not computed."""
        if column not in self.table.column_names:
            raise SelectionError(f"The selection has no score {column!r}: it has {self.table.column_names[1:]}.")
        return np.asarray(self.table.column(column).cast(pa.float64()).to_numpy())

    def overlap(self, other: Selection) -> float:
        """Jaccard similarity of the two sets of rows, 0 to 1.

        Raises:
            DatasetMismatchError: the selections are of different datasets.
        """
        if self.provenance["dataset"]["id"] != other.provenance["dataset"]["id"]:
            raise DatasetMismatchError("The two selections were made from different datasets.")
        union = np.union1d(self.indices, other.indices).size
        return np.intersect1d(self.indices, other.indices).size / union if union else 1.0

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write `selection.json`, `indices.npy` and `scores.parquet`, each whole or not at all."""
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        _atomically(path / "indices.npy", lambda part: _save_npy(part, self.indices))
        _atomically(path / "scores.parquet", lambda part: pq.write_table(self.table, part))
        text = json.dumps(self.provenance, indent=2, ensure_ascii=False, default=str)
        _atomically(path / "selection.json", lambda part: part.write_text(f"{text}\n", encoding="utf-8"))

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Selection:
        """Read what `save` wrote.

        Raises:
            SelectionError: a file is missing, or from a later version.
        """
        path = Path(directory)
        missing = [name for name in ("selection.json", "indices.npy", "scores.parquet") if not (path / name).is_file()]
        if missing:
            raise SelectionError(f"{str(path)!r} holds no selection: {', '.join(missing)} not found.")
        try:
            provenance = json.loads((path / "selection.json").read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise SelectionError(f"{str(path / 'selection.json')!r} is no valid JSON: {error}") from error
        if provenance["format_version"] > _FORMAT:
            raise SelectionError(f"{str(path)!r} was written by a later version of hf_datasel. Upgrade to read it.")
        return cls(np.load(path / "indices.npy"), provenance, pq.read_table(path / "scores.parquet"))

    def _check(self, pool: Pool) -> None:
        expected = self.provenance["dataset"]
        if len(pool) != expected["rows"]:
            raise DatasetMismatchError(
                f"The selection was made from {expected['rows']:,} rows, and this dataset has {len(pool):,}. "
                "Apply it to the same split and revision, before any filtering."
            )
        if pool.id == expected["id"]:
            return
        ours = np.frombuffer(b"".join(self.table.column("row_id").to_pylist()), dtype=np.uint8).reshape(-1, 32)
        differs = np.flatnonzero((ours != pool.row_ids).any(axis=1))
        shuffled = np.array_equal(np.unique(ours, axis=0), np.unique(pool.row_ids, axis=0))
        hint = "the same rows in another order" if shuffled else f"the first that differs is row {differs[0]:,}"
        raise DatasetMismatchError(
            f"The selection was made from another dataset: {len(differs):,} of {len(pool):,} rows differ ({hint})."
        )


def _table(pool: Pool, scored: dict[str, tuple[np.ndarray, pa.Array]]) -> pa.Table:
    columns: dict[str, pa.Array] = {"row_id": pa.array([row.tobytes() for row in pool.row_ids], pa.binary(32))}
    for name, (at, values) in scored.items():
        position = np.full(len(pool), -1, dtype=np.int64)
        position[at] = np.arange(len(at))
        columns[name] = values.take(pa.array(position, mask=position < 0))
    return pa.table(columns)


def _origin(dataset: Dataset) -> dict[str, str]:
    """Name, configuration, split and commit of a dataset from the Hub, as far as it knows them."""
    sources = [re.match(r"hf://datasets/(.+?)@(\w+)/", source) for source in dataset.info.download_checksums or {}]
    found = next((match for match in sources if match), None)
    if found is None:
        return {}
    config, split = dataset.info.config_name, dataset.split
    return {"name": found[1], "revision": found[2], "config": str(config), "split": str(split)}


def _counts(reasons: np.ndarray) -> dict[str, int]:
    names, counts = np.unique(np.where(reasons == "", "no_label_after_truncation", reasons), return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _save_npy(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, values)


def _atomically(path: Path, write: Any) -> None:
    part = path.with_name(f".{path.name}.part")
    write(part)
    os.replace(part, path)
