"""What was chosen, in what order, from what, and why."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_datasel.errors import DatasetMismatchError, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.selector import Selector
from hf_datasel.selection.filters import Keep
from hf_datasel.selection.provenance import origin, versions

if TYPE_CHECKING:
    from datasets import Dataset
    from huggingface_hub import CommitInfo

__all__ = ["Selection", "check_format"]

logger = logging.getLogger(__name__)

_FORMAT = 1
_OURS = ("selection_rank", "selection_round")


@dataclass(repr=False, eq=False)
class Selection:
    """Row numbers, best first, and where they come from. Never holds rows.

    Attributes:
        indices: int64 row numbers of the parent dataset, best first.
        provenance: plain values: the dataset's id and length, the selector and its settings, the scores and theirs,
            seed, budget, shortfall, rows left out by reason, seconds, package versions; of one of several rounds, the
            plan of all, and how many rows had been chosen before.
        table: `row_id` (sha256 of the row's content) of the whole pool, and the scores as far as they were computed.
        dataset: the parent, where it is still at hand; never saved.
    """

    indices: np.ndarray
    provenance: dict[str, Any]
    table: pa.Table = field(repr=False)
    dataset: Dataset | None = field(default=None, repr=False)

    @classmethod
    def from_round(cls, round: Round, selector: Selector, rows: np.ndarray, **more: Any) -> Selection:
        """What a selector chose in a round, with everything the round recorded."""
        pool = round.rows
        known = {*round.columns_used, *round.remembered}
        provenance = {
            "format_version": _FORMAT,
            "dataset": {"id": pool.id, "rows": len(pool), "format": pool.format, **origin(pool.dataset)},
            "selector": selector.spec(),
            "scores": round.specs,
            "columns_unverified": [name for name in round.columns_used if name not in round.columns_known],
            "columns_known": round.columns_known,
            "round": round.index,
            "seed": round.seed,
            "budget": round.budget,
            "chosen": len(rows),
            "shortfall": round.budget - len(rows),
            "rows_scored": max((len(at) for name, (at, _) in round.scored.items() if name not in known), default=0),
            "not_eligible": _counts(pool.reasons[~round.eligible]),
            "left_out": dict(round.left_out),
            "versions": versions(),
            **({"notes": round.notes} if round.notes else {}),
            **_among_rounds(round, rows),
            **more,
        }
        return cls(rows, provenance, _table(pool, round.scored), pool.dataset)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Selection):
            return NotImplemented
        return (
            np.array_equal(self.indices, other.indices)
            and self.provenance == other.provenance
            and bool(self.table.equals(other.table))
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "dataset": None}

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
        """The chosen rows of the parent dataset, best first, with their scores.

        Adds `selection_rank` (0 is best), `selection_round`, and the scores that the choice is based on; a score whose
        name the dataset has taken for a column of its own is called `selection_<score>`.

        Raises:
            DatasetMismatchError: the dataset is not the one the selection was made from; says what differs.
        """
        self.check(dataset)
        return self.rows_of(dataset)

    def rows_of(self, dataset: Dataset) -> Dataset:
        """As `apply`, of a dataset that is known to be the parent: nothing is checked."""
        from datasets.features.features import generate_from_arrow_type

        before = [name for name in dataset.column_names if name in _OURS]
        if before:
            logger.warning(
                "The dataset has columns of an earlier selection, which are replaced: %s.", ", ".join(before)
            )
        subset = dataset.remove_columns(before)
        columns = set(subset.column_names)
        subset = subset.select(self.indices)
        read = {*self.provenance["columns_unverified"], *self.provenance.get("columns_known", ())}
        for name in self.score_columns:
            if name in columns and name in read:
                continue  # the dataset's own, and still there
            free = name
            while free in columns:
                free = f"selection_{free}"
            columns.add(free)
            chosen = self.table.column(name).take(pa.array(self.indices))
            subset = subset.add_column(free, chosen, feature=generate_from_arrow_type(chosen.type))
        rank = np.arange(len(self.indices), dtype=np.int32)
        round = np.full(len(self.indices), self.provenance["round"], dtype=np.int32)
        return subset.add_column("selection_rank", rank).add_column("selection_round", round)

    @property
    def score_columns(self) -> list[str]:
        """Names of the scores that the choice is based on, without the reasons for rows that have none."""
        names = self.table.column_names[1:]
        return [name for name in names if not name.endswith("_reason") and name not in _OURS]

    def push_to_hub(
        self,
        repo_id: str,
        dataset: Dataset | None = None,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        config_name: str | None = None,
    ) -> CommitInfo:
        """Publish the chosen rows, their scores, how they were chosen, a card and its plots, in one commit.

        `load_dataset(repo_id)` then gives what `apply` does, and `from_hub` the selection. Pushing again uploads what
        has changed, and keeps what a person wrote in the card outside its generated part.

        Args:
            repo_id: of the dataset repository; made if it is not there.
            dataset: the parent; may be left out where the selection was made in this process.
            private: whether a repository that is made is private. An existing one stays as it is.
            token: with write permission; by default the one that is logged in.
            revision: branch to push to, made if it is not there; by default the main branch.
            commit_message: by default says what was chosen.
            config_name: configuration that holds the rows; by default the one that `load_dataset(repo_id)` gives.
                Another name puts the selection beside those that are there.

        Raises:
            PublishError: the token, the repository or the parent does not permit it; nothing has been uploaded then.
            DatasetMismatchError: the dataset is not the one the selection was made from.
        """
        from hf_datasel.cards.push import push_selections

        return push_selections(
            [self],
            repo_id,
            dataset,
            private=private,
            token=token,
            revision=revision,
            commit_message=commit_message,
            config_name=config_name,
        )

    @classmethod
    def from_hub(
        cls, repo_id: str, *, config_name: str | None = None, revision: str | None = None, token: str | None = None
    ) -> Selection:
        """Read a published selection.

        Args:
            repo_id: of the dataset repository.
            config_name: which one; by default the one that `load_dataset(repo_id)` gives.
            revision: commit, branch or tag.
            token: for a private repository; by default the one that is logged in.

        Raises:
            PublishError: there is no such repository or no such selection in it.
        """
        from hf_datasel.cards.pull import pull_selection

        return pull_selection(repo_id, config_name=config_name, revision=revision, token=token)

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
        check_format(provenance, repr(str(path)))
        return cls(np.load(path / "indices.npy"), provenance, pq.read_table(path / "scores.parquet"))

    def check(self, dataset: Dataset) -> None:
        """Refuse a dataset that the selection was not made from.

        Raises:
            DatasetMismatchError: says what differs.
        """
        pool = Pool(dataset)
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


def check_format(provenance: Any, where: str) -> None:
    """Refuse what this version cannot read.

    Raises:
        SelectionError: it is from a later version, or no record of a selection.
    """
    found = provenance.get("format_version") if isinstance(provenance, dict) else None
    if not isinstance(found, int):
        raise SelectionError(f"The selection.json in {where} is no record of a selection.")
    if found > _FORMAT:
        raise SelectionError(f"{where} was written by a later version of hf_datasel. Upgrade to read it.")


def _table(pool: Pool, scored: dict[str, tuple[np.ndarray, pa.Array]]) -> pa.Table:
    if "row_id" in scored:
        raise SelectionError(
            "The choice relies on a column called 'row_id', which is what a selection calls the ids of its rows. "
            "Rename the column."
        )
    columns: dict[str, pa.Array] = {"row_id": pa.array([row.tobytes() for row in pool.row_ids], pa.binary(32))}
    for name, (at, values) in scored.items():
        position = np.full(len(pool), -1, dtype=np.int64)
        position[at] = np.arange(len(at))
        columns[name] = values.take(pa.array(position, mask=position < 0))
    return pa.table(columns)


def _among_rounds(round: Round, rows: np.ndarray) -> dict[str, Any]:
    """What is recorded of one of several rounds."""
    if len(round.plan) < 2:
        return {}
    return {
        "plan": [asdict(each) for each in round.plan],
        "chosen_before": int(np.isin(rows, round.chosen).sum()),
    }


def _counts(reasons: np.ndarray) -> dict[str, int]:
    names, counts = np.unique(np.where(reasons == "", "no_label_after_truncation", reasons), return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def _save_npy(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, values)


def _atomically(path: Path, write: Any) -> None:
    part = path.with_name(f".{path.name}.part")
    write(part)
    os.replace(part, path)
