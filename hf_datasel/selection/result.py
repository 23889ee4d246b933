"""Result of a selection: row numbers, scores and provenance."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa

from hf_datasel.errors import DatasetMismatchError, FormatError, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.formats.digest import ids_from_arrow
from hf_datasel.formats.mapping import MESSAGE_KEYS, applicable
from hf_datasel.hub.parents import parents_of
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.record import WEIGHT_COLUMN
from hf_datasel.rounds.selector import Selector
from hf_datasel.scoring.setting_files import named_files
from hf_datasel.selection.filters import Keep
from hf_datasel.selection.html_page import HtmlPage
from hf_datasel.selection.provenance import versions, without_measurements
from hf_datasel.selection.saved_folder import load_folder, save_folder
from hf_datasel.selection.saved_format import FORMAT_VERSION
from hf_datasel.selection.summary import summarize, summary_html

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from datasets import Dataset
    from huggingface_hub import CommitInfo

    from hf_datasel.selection.explanation import Explanation

__all__ = ["Selection", "selection_table"]

logger = logging.getLogger(__name__)

_COLUMNS = ("selection_rank", "selection_round", WEIGHT_COLUMN)
"""Columns that `apply` adds besides the scores."""


@dataclass(repr=False, eq=False)
class Selection:
    """Selected row numbers, best first, with the scores and settings that they are based on. Contains no rows.

    It is a sequence of row numbers: `len(selection)`, `selection[0]` is the best row, `selection[:10]` an array of the
    ten best. A notebook shows its summary.

    Args:
        indices: Row numbers of the parent dataset, int64, best first.
        provenance: Plain JSON values: id and length of the dataset, selector and scores with their settings, random
            seed, budget, shortfall, number of rows excluded for each reason, package versions. With several rounds,
            also the plan of all rounds and the number of rows that were selected before; if the rows have weights,
            their `weights`: `min`, `max` and `mean`. What was measured is no part
            of equality: `cost` of making the selection (see `hf_datasel.scoring.Cost`), `cost_reused`, what results
            cost that an earlier selection of the same session had computed, and `seconds`, the time of both.
        table: `row_id` (sha256 of the row's content) of all rows of the pool, and the scores that were computed.
        dataset: The parent dataset, if the selection was made in this process; never saved.
    """

    indices: np.ndarray
    provenance: dict[str, Any]
    table: pa.Table = field(repr=False)
    dataset: Dataset | None = field(default=None, repr=False)

    @classmethod
    def from_round(cls, context: RoundContext, selector: Selector, rows: np.ndarray, **more: Any) -> Selection:
        """Return the selection that a selector made in a round.

        Args:
            context: Context after the selector ran.
            selector: The selector.
            rows: Row numbers that it returned.
            **more: Further JSON values for the provenance, such as `cost` and `model`.
        """
        record, pool = context.record, context.record.pool
        weights = record.weights_of(rows)
        not_computed = {*record.columns_used, *record.columns_reused}
        computed = [len(numbers) for name, (numbers, _) in record.scored.items() if name not in not_computed]
        provenance = {
            "format_version": FORMAT_VERSION,
            "dataset": {
                **{"id": pool.id, "rows": len(pool), "format": pool.format},
                **({"columns": pool.mapping} if pool.mapping else {}),
                **parents_of(pool.dataset).with_state().record(),
            },
            "selector": selector.spec(),
            "scores": record.score_specs,
            "columns_unverified": [name for name in record.columns_used if name not in record.columns_verified],
            "columns_verified": record.columns_verified,
            "round": context.index,
            "seed": record.seed,
            "budget": context.budget,
            "selected": len(rows),
            "shortfall": context.budget - len(rows),
            "rows_scored": max(computed, default=0),
            "not_eligible": _counts(pool.reasons[~context.eligible]),
            "exclusions": dict(record.exclusions),
            "versions": versions(),
            **({"notes": record.notes} if record.notes else {}),
            **({"files": files} if (files := named_files(selector)) else {}),
            **_among_rounds(context, rows),
            **({} if weights is None else {"weights": _weight_summary(weights)}),
            **more,
        }
        return cls(rows, provenance, selection_table(pool, rows, weights, record.scored), pool.dataset)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Selection):
            return NotImplemented
        return (
            np.array_equal(self.indices, other.indices)
            and without_measurements(self.provenance) == without_measurements(other.provenance)
            and bool(self.table.equals(other.table))
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "dataset": None}

    def __repr__(self) -> str:
        about, name = self.provenance, self.provenance["selector"]["selector"]
        return (
            f"Selection({len(self.indices):,} of {about['dataset']['rows']:,} rows by {name}, round {about['round']})"
        )

    def _repr_html_(self) -> str:
        return summary_html(self)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices.tolist())

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> np.ndarray: ...
    def __getitem__(self, key: int | slice) -> int | np.ndarray:
        """Return the row number of this rank, or those of a slice of ranks as int64."""
        return self.indices[key] if isinstance(key, slice) else int(self.indices[key])

    def summary(self) -> str:
        """Return a few lines: method, number of rows, tokens, excluded rows, and means of scores."""
        return summarize(self)

    @property
    def columns(self) -> dict[str, str] | None:
        """Names of the columns of the row format and those of the dataset, as passed to `select`; None without."""
        mapping = self.provenance["dataset"].get("columns")
        return dict(mapping) if mapping else None

    def pool(self, dataset: Dataset) -> Pool:
        """Return a dataset as a pool, with the columns that the selection was made with, if it has them.

        Args:
            dataset: The dataset that the selection was made from.

        Raises:
            DatasetMismatchError: It lacks columns that the selection was made from, and is in no supported format.
        """
        try:
            return Pool(dataset, applicable(self.columns, dataset.column_names) if self.columns else None)
        except FormatError as error:
            names = getattr(dataset, "column_names", None)
            if isinstance(names, list) and (missing := self._missing_columns(names)):
                raise DatasetMismatchError(f"The selection was made from another dataset.{missing}") from error
            raise

    @property
    def keep(self) -> Keep:
        """Function for `dataset.filter(selection.keep, with_indices=True)`; the result is in dataset order.

        The content of each row is checked against the selected row, if the dataset still has the columns.
        """
        ids = self.table.column("row_id").take(pa.array(self.indices)).to_pylist()
        return Keep(
            dict(zip(self.indices.tolist(), ids, strict=True)), self.provenance["dataset"]["format"], self.columns
        )

    def apply(self, dataset: Dataset) -> Dataset:
        """Return the selected rows of the parent dataset, best first, with their scores.

        Adds the columns `selection_rank` (0 for the best row), `selection_round`, `selection_weight` if the rows have
        weights, and the scores that the selection is based on. If the dataset has another column with the name of a
        score, that score is called `selection_<score>`.

        Args:
            dataset: The dataset that the selection was made from.

        Raises:
            DatasetMismatchError: The selection was not made from this dataset; the message names what differs.
        """
        self.check(dataset)
        return self.rows_of(dataset)

    def rows_of(self, dataset: Dataset) -> Dataset:
        """Return what `apply` returns, without checking that the dataset is the parent."""
        from datasets.features.features import generate_from_arrow_type

        replaced = [name for name in dataset.column_names if name in _COLUMNS]
        if replaced:
            logger.warning(
                "The dataset has columns of an earlier selection, which are replaced: %s.", ", ".join(replaced)
            )
        subset = dataset.remove_columns(replaced)
        columns = set(subset.column_names)
        subset = subset.select(self.indices)
        from_dataset = {*self.provenance["columns_unverified"], *self.provenance["columns_verified"]}
        for name in self.score_columns:
            if name in columns and name in from_dataset:
                continue  # the score was read from this column
            unique_name = name
            while unique_name in columns:
                unique_name = f"selection_{unique_name}"
            columns.add(unique_name)
            values = self.table.column(name).take(pa.array(self.indices))
            subset = subset.add_column(unique_name, values, feature=generate_from_arrow_type(values.type))
        ranks = np.arange(len(self.indices), dtype=np.int32)
        rounds = np.full(len(self.indices), self.provenance["round"], dtype=np.int32)
        subset = subset.add_column("selection_rank", ranks).add_column("selection_round", rounds)
        return subset if self.weights is None else subset.add_column(WEIGHT_COLUMN, self.weights)

    @property
    def weights(self) -> np.ndarray | None:
        """Weights that training multiplies the losses of the rows by, float32 aligned with `indices`; None without."""
        if "weights" not in self.provenance:
            return None
        weights: np.ndarray = self.table.column(WEIGHT_COLUMN).take(pa.array(self.indices)).to_numpy()
        return weights

    @property
    def score_columns(self) -> list[str]:
        """Names of the scores that the selection is based on, without columns of text, such as reasons."""
        fields = list(self.table.schema)[1:]
        return [field.name for field in fields if not pa.types.is_string(field.type) and field.name not in _COLUMNS]

    def browse(
        self,
        dataset: Dataset | None = None,
        path: str | os.PathLike[str] = "browse.html",
        *,
        compare_with: Sequence[Selection] = (),
        title: str = "",
        max_characters: int = 2_000,
        max_rows: int = 100_000,
    ) -> HtmlPage:
        """Write a page with all rows, their scores and what became of them: one HTML file without a network.

        The page sorts, searches and filters rows, and writes filters as Python and YAML. A notebook shows it as the
        last value of a cell, and then saves its rows with the notebook.

        Args:
            dataset: The dataset that the selection was made from; not needed if it was made in this process.
            path: HTML file to write.
            compare_with: Other selections from the dataset, which get a column each.
            title: Title of the page; by default the names of the methods.
            max_characters: Characters at which a prompt or a response is cut.
            max_rows: Largest number of rows. Of a larger dataset, the selected rows are shown, and a random sample of
                the others.

        Returns:
            The file, which `open` and `Path` accept.

        Raises:
            SelectionError: The selection does not contain its dataset, and none is passed.
            DatasetMismatchError: A selection was not made from this dataset.
            PublishError: The file cannot be written.
        """
        from hf_datasel.cards.browse import browse

        return browse(
            [self, *compare_with],
            self._parent(dataset, "browse"),
            path,
            title=title,
            max_characters=max_characters,
            max_rows=max_rows,
        )

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
        allow_secrets: bool = False,
        results: Sequence[Mapping[str, Any]] = (),
        items: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]] | None = None,
    ) -> CommitInfo:
        """Publish the selected rows, their scores and provenance, a dataset card and its plots, in one commit.

        `load_dataset(repo_id)` then returns what `apply` returns, and `from_hub` the selection. Pushing again uploads
        what has changed, and keeps the text that was written into the card outside its generated part.

        Args:
            repo_id: Id of the dataset repository, which is created if it does not exist.
            dataset: The parent dataset; not needed if the selection was made in this process.
            private: Whether a new repository is private; by default, if the origin of the rows is unknown. Rows of a
                private or gated dataset are never published in a public one. An existing one is not changed.
            token: Token with write permission; by default the one that is logged in.
            revision: Branch to push to, which is created if it does not exist; by default the main branch.
            commit_message: Message of the commit; by default describes the selection.
            config_name: Configuration for the rows; by default the one that `load_dataset(repo_id)` returns. With
                another name the repository keeps its other selections.
            allow_secrets: Whether to publish text with the shape of keys and tokens. Values of secret variables of
                the environment are never published.
            results: Evaluation results of models trained on the rows, as for `hf_datasel.cards.push_selections`.
            items: Files with the result of every question, as for `hf_datasel.cards.push_selections`.

        Returns:
            The commit.

        Raises:
            PublishError: The token, the repository or the parent dataset does not permit it, or the rows contain
                secrets. Nothing is uploaded then.
            DatasetMismatchError: The selection was not made from this dataset.
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
            allow_secrets=allow_secrets,
            results=results,
            items=items,
        )

    @classmethod
    def from_hub(
        cls, repo_id: str, *, config_name: str | None = None, revision: str | None = None, token: str | None = None
    ) -> Selection:
        """Load a published selection.

        Args:
            repo_id: Id of the dataset repository.
            config_name: Configuration of the selection; by default the one that `load_dataset(repo_id)` returns.
            revision: Commit, branch or tag.
            token: Token for a private repository; by default the one that is logged in.

        Raises:
            PublishError: The repository does not exist, or has no such selection.
            SelectionError: Its files are damaged or changed, or a later version wrote them.
        """
        from hf_datasel.cards.pull import pull_selection

        return pull_selection(repo_id, config_name=config_name, revision=revision, token=token)

    def scores(self, column: str) -> np.ndarray:
        """Return a score of all rows of the pool, float64 of shape (rows,), NaN where it was not computed.

        Raises:
            SelectionError: The selection has no such score.
        """
        if column not in self.table.column_names:
            raise SelectionError(f"The selection has no score {column!r}: it has {self.table.column_names[1:]}.")
        return np.asarray(self.table.column(column).cast(pa.float64()).to_numpy())

    def explain(
        self, row: int, dataset: Dataset | None = None, model: Any = None, processing_class: Any = None
    ) -> Explanation:
        """Explain why a row was selected, or was not, as `hf_datasel.selection.explain` does; see there.

        Args:
            row: Row number in the dataset, selected or not.
            dataset: The parent dataset; not needed if the selection was made in this process.
            model: Model for vectors that the selection does not contain.
            processing_class: Tokenizer of a `model` that is passed as an object.

        Raises:
            DatasetMismatchError: The selection was not made from this dataset.
            SelectionError: No dataset is passed or known, or it has no such row.
        """
        from hf_datasel.selection.explanation import explain

        return explain(self, self._parent(dataset, "explain"), row, model, processing_class)

    def report(self, directory: str | os.PathLike[str], dataset: Dataset | None = None, *, title: str = "") -> Path:
        """Write a page about the selection, with plots: `report.html`, all in one file, `report.md` and `facts.json`.

        Args:
            directory: Folder to write into; it is created if it does not exist.
            dataset: The parent dataset; not needed if the selection was made in this process. Without it, the page has
                no response lengths and no baselines.
            title: Title of the page; by default the name of the method and of the dataset.

        Returns:
            The path of `report.html`.

        Raises:
            DatasetMismatchError: The selection was not made from this dataset.
            DataselError: matplotlib is not installed.
            PublishError: The folder cannot be written to.
        """
        from hf_datasel.cards.build import gather
        from hf_datasel.cards.report import default_title, write_report

        dataset = self.dataset if dataset is None else dataset
        if dataset is not None:
            self.check(dataset)
        facts = gather([self], dataset, title=title)
        facts["title"] = title or default_title(facts)
        return write_report(facts, directory)[0]

    def _parent(self, dataset: Dataset | None, method: str) -> Dataset:
        """Return the dataset that is passed, or that of this process.

        Raises:
            SelectionError: There is neither.
        """
        dataset = self.dataset if dataset is None else dataset
        if dataset is None:
            raise SelectionError(
                f"A selection contains no rows, and this one was not made in this process. Pass the dataset that it "
                f"was made from: selection.{method}(..., dataset=dataset)."
            )
        return dataset

    def overlap(self, other: Selection) -> float:
        """Return the Jaccard similarity of the two sets of rows, from 0 to 1.

        Raises:
            DatasetMismatchError: The selections were made from different datasets.
        """
        if self.provenance["dataset"]["id"] != other.provenance["dataset"]["id"]:
            raise DatasetMismatchError("The two selections were made from different datasets.")
        union = np.union1d(self.indices, other.indices).size
        return np.intersect1d(self.indices, other.indices).size / union if union else 1.0

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write `selection.json`, `indices.npy` and `scores.parquet` to a folder.

        A selection that the folder holds already is replaced atomically: if the process is killed or the disk is full,
        the folder holds either the earlier one or the new one. `selection.json` contains the SHA-256 of all three
        files, which `load` checks.

        Args:
            directory: The folder; it is created if it does not exist.

        Raises:
            SelectionError: The folder cannot be written to. The selection stays usable, and can be saved elsewhere.
        """
        save_folder(Path(directory), self.indices, self.provenance, self.table)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Selection:
        """Load a selection that `save` wrote, with this or an earlier version of hf_datasel.

        Args:
            directory: The folder.

        Raises:
            SelectionError: A file is missing, damaged or changed, or a later version wrote it.
        """
        return cls(*load_folder(Path(directory)))

    def _missing_columns(self, names: Sequence[str]) -> str:
        """Return a sentence about the columns that the selection was made from and a dataset does not have."""
        read = {column for key, column in (self.columns or {}).items() if key not in MESSAGE_KEYS}
        if not (missing := sorted(read - set(names))):
            return ""
        advice = " Add what formatting_func returned: dataset.map(lambda row: {'text': formatting_func(row)})."
        made_from = f"It was made from the column {', '.join(map(repr, missing))}, which this dataset does not have."
        return f" {made_from}{advice if missing == ['text'] else ''}"

    def check(self, dataset: Dataset) -> None:
        """Raise if the selection was not made from this dataset.

        Raises:
            DatasetMismatchError: Names what differs.
        """
        pool = self.pool(dataset)
        expected = self.provenance["dataset"]
        if len(pool) != expected["rows"]:
            raise DatasetMismatchError(
                f"The selection was made from {expected['rows']:,} rows, and this dataset has {len(pool):,}. "
                "Apply it to the same split and revision, before any filtering."
            )
        if pool.id == expected["id"]:
            return
        ids = ids_from_arrow(self.table.column("row_id"))
        differs = np.flatnonzero((ids != pool.row_ids).any(axis=1))
        shuffled = np.array_equal(np.unique(ids, axis=0), np.unique(pool.row_ids, axis=0))
        hint = "the same rows in another order" if shuffled else f"the first that differs is row {differs[0]:,}"
        raise DatasetMismatchError(
            f"The selection was made from another dataset: {len(differs):,} of {len(pool):,} rows differ ({hint})."
            f"{self._missing_columns(pool.dataset.column_names)}"
        )


def selection_table(
    pool: Pool,
    rows: np.ndarray,
    weights: np.ndarray | None,
    scored: Mapping[str, tuple[np.ndarray, pa.Array]] | None = None,
) -> pa.Table:
    """Return the table of a selection.

    Args:
        pool: Rows that the selection was made from.
        rows: Row numbers that were selected, int64.
        weights: Weight of each of these, or None.
        scored: Column -> row numbers and values of the scores that the selection is based on.

    Raises:
        SelectionError: A score is called `row_id`.
    """
    scored = scored or {}
    if "row_id" in scored:
        raise SelectionError(
            "The selection relies on a column called 'row_id', which is what a selection calls the ids of its rows. "
            "Rename the column."
        )
    columns: dict[str, pa.Array] = {"row_id": pool.arrow_ids}
    if weights is not None:  # also in place of a column of an earlier selection with this name, which was read
        scored = {**scored, WEIGHT_COLUMN: (rows, pa.array(weights))}
    for name, (row_numbers, values) in scored.items():
        position = np.full(len(pool), -1, dtype=np.int64)
        position[row_numbers] = np.arange(len(row_numbers))
        columns[name] = values.take(pa.array(position, mask=position < 0))
    return pa.table(columns)


def _among_rounds(context: RoundContext, rows: np.ndarray) -> dict[str, Any]:
    """Return what is recorded of one round among several."""
    if len(context.plan) < 2:
        return {}
    return {
        "plan": [asdict(step) for step in context.plan],
        "selected_before": int(np.isin(rows, context.selected).sum()),
    }


def _weight_summary(weights: np.ndarray) -> dict[str, float]:
    """Return the lowest, the highest and the mean weight of the selected rows."""
    return {"min": float(weights.min()), "max": float(weights.max()), "mean": float(weights.mean(dtype=np.float64))}


def _counts(reasons: np.ndarray) -> dict[str, int]:
    names, counts = np.unique(np.where(reasons == "", "no_label_after_truncation", reasons), return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))
