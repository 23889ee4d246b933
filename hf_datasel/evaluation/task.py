"""A task that models are evaluated on, and the tasks on rows of a dataset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hf_datasel.errors import ConfigError, DataselError, EvaluationError, check_option, did_you_mean
from hf_datasel.evaluation.exact_match import MatchedAnswers, match_answers
from hf_datasel.evaluation.heldout import HeldoutLoss, heldout_loss
from hf_datasel.evaluation.row_results import RowResults
from hf_datasel.formats import Pool, Row, load_pool
from hf_datasel.scoring.normalization import Normalization

__all__ = ["DatasetTask", "ExactMatchTask", "HeldoutTask", "Task", "primary_tasks"]

_LOADED: dict[tuple[Any, ...], Pool] = {}
"""The pools of dataset tasks of this process: each is read once."""


@dataclass(frozen=True)
class Task(ABC):
    """What a model is evaluated on, and how; its fields are its settings.

    Args:
        name: Name of the task in tables.
    """

    name: str

    results_type: ClassVar[type[RowResults]]
    """Class of the results, which reads their files."""

    @property
    @abstractmethod
    def metric(self) -> str:
        """Name of the number: `"bits_per_byte"`, `"exact_match"`."""

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher number is better."""
        return True

    @property
    def scale(self) -> float:
        """Factor from the mean of the values of items to the number in tables: 100 for shares, which gives points."""
        return 100.0

    @abstractmethod
    def check(self, allow_code_execution: bool = False) -> None:
        """Raise if something is missing that the evaluation needs, before any work and without a model.

        Args:
            allow_code_execution: Whether programs that a model writes may be run.

        Raises:
            EvaluationError: A package, data or a permission is missing.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what has to be equal for two results to be comparable, as plain values.

        These are settings, versions of the task and of what evaluates it, and an id of its items.
        """

    @abstractmethod
    def questions(self) -> list[str]:
        """Return the texts of the items that rows of a training pool must not contain."""

    @abstractmethod
    def evaluate(
        self,
        model: str,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        model_init_kwargs: dict[str, Any] | None = None,
    ) -> RowResults:
        """Evaluate a model.

        Args:
            model: Name or path of the model, or of an adapter.
            revision: Commit, branch or tag of a Hub model.
            dtype: Data type of the weights: "auto" or the name of a floating-point type.
            model_init_kwargs: Further arguments of `from_pretrained`.

        Returns:
            One value per item; `settings["task"]` is `identity()`.
        """

    def num_items(self) -> int | None:
        """Return the number of items, or None if only evaluating tells it."""
        return None

    def number(self, results: RowResults) -> float:
        """Return the number of a model in tables: the scaled mean over the items with a value.

        Args:
            results: What `evaluate` returned.

        Raises:
            EvaluationError: No item has a value.
        """
        values = results.values[results.reasons == ""]
        if not len(values):
            raise EvaluationError(f"No item of the task {self.name!r} has a value.")
        return float(values.mean()) * self.scale

    def numbers(self, results: RowResults) -> dict[str, float]:
        """Return the numbers of a model in tables, by their names: that of the task, and one for each group of items.

        Args:
            results: What `evaluate` returned.
        """
        numbers = {self.name: self.number(results)}
        for group in sorted(set(results.groups.tolist()) - {""}):
            of_group = results.groups == group
            if (of_group & (results.reasons == "")).any():
                numbers[f"{self.name}/{group}"] = self.number(results.subset(of_group))
        return numbers


@dataclass(frozen=True)
class DatasetTask(Task):
    """A task on held-out rows of a dataset.

    Args:
        name: Name of the task in tables.
        dataset_name: File, folder or id of a Hub dataset with the held-out rows.
        dataset_config: Configuration of a Hub dataset.
        dataset_test_split: Split; by default "test" of a Hub dataset or folder, and "train" of a file.
        dataset_revision: Commit, branch or tag of a Hub dataset.
        columns: Names of the columns of the row format and those of the dataset, as in `hf_datasel.score`.
        group_by: Name of a column whose values group the rows, such as their source; each group is a column of tables.
        scoring_tokens_per_batch: Maximum number of padded tokens in a batch.
    """

    dataset_name: str = ""
    dataset_config: str | None = None
    dataset_test_split: str | None = None
    dataset_revision: str | None = None
    columns: Mapping[str, str] | None = None
    group_by: str | None = None
    scoring_tokens_per_batch: int | None = None

    def __post_init__(self) -> None:
        if not self.dataset_name or not isinstance(self.dataset_name, str):
            raise ConfigError(f"The task {self.name!r} needs dataset_name: a file or a dataset on the Hub.")

    @property
    def pool(self) -> Pool:
        """The held-out rows, which are loaded once per process."""
        key = (*self._source, tuple(sorted((self.columns or {}).items())))
        if key not in _LOADED:
            name, config, split, revision = self._source
            _LOADED[key] = Pool(load_pool(name, split, config, revision, self.columns), self.columns)
        return _LOADED[key]

    @property
    def _source(self) -> tuple[str, str | None, str, str | None]:
        is_file = Path(self.dataset_name).expanduser().is_file()
        split = self.dataset_test_split or ("train" if is_file else "test")
        return self.dataset_name, self.dataset_config, split, self.dataset_revision

    def check(self, allow_code_execution: bool = False) -> None:
        """Raise if the held-out rows cannot be loaded."""
        try:
            names = self.pool.dataset.column_names
        except DataselError as error:
            raise EvaluationError(f"The rows of the task {self.name!r} cannot be loaded: {error}") from error
        if self.group_by is not None and self.group_by not in names:
            raise EvaluationError(
                f"The task {self.name!r} has group_by={self.group_by!r}, but the columns are {names}."
                f"{did_you_mean(self.group_by, names)}"
            )

    def num_items(self) -> int:
        """Return the number of rows."""
        return len(self.pool)

    def identity(self) -> dict[str, Any]:
        """Return the id of the rows and the settings, without where the rows lie."""
        source = {"name", "dataset_name", "dataset_config", "dataset_test_split", "dataset_revision"}
        settings = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in source}
        return {"kind": self.metric, "rows": self.pool.id, **_plain(settings)}

    def questions(self) -> list[str]:
        """Return what the user says in each row; nothing for rows that are tokenized already."""
        if not self.pool.has_responses:
            return []
        return [_question(row) for row in self.pool.rows(np.flatnonzero(self.pool.usable))]

    def _with_identity(self, results: RowResults) -> RowResults:
        return replace(results, settings={**results.settings, "task": self.identity()})


@dataclass(frozen=True)
class HeldoutTask(DatasetTask):
    """The loss of held-out responses in bits per byte, as `heldout_loss`: no harness and no generation is needed.

    Args:
        name: Name of the task in tables.
        dataset_name: File, folder or id of a Hub dataset with the held-out rows.
        dataset_config: Configuration of a Hub dataset.
        dataset_test_split: Split; by default "test" of a Hub dataset or folder, and "train" of a file.
        dataset_revision: Commit, branch or tag of a Hub dataset.
        columns: Names of the columns of the row format and those of the dataset, as in `hf_datasel.score`.
        group_by: Name of a column whose values group the rows, such as their source; each group is a column of tables.
        scoring_tokens_per_batch: Maximum number of padded tokens in a batch.
        max_length: Number of tokens that a row with its responses may have; longer rows have no value.
        weighting: `"rows"` is the mean over rows, `"bytes"` all bits divided by all bytes. The sign of a difference
            may depend on it.
    """

    max_length: int = 1024
    weighting: str = "rows"

    metric: ClassVar[str] = "bits_per_byte"
    higher_is_better: ClassVar[bool] = False
    scale: ClassVar[float] = 1.0
    results_type: ClassVar[type[RowResults]] = HeldoutLoss

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option(f"The task {self.name!r} has weighting={self.weighting!r}", self.weighting, ("rows", "bytes"))

    def evaluate(
        self,
        model: str,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        model_init_kwargs: dict[str, Any] | None = None,
    ) -> RowResults:
        """Compute the loss of the responses; see `heldout_loss`."""
        return self._with_identity(
            heldout_loss(
                self.pool.dataset,
                model,
                group_by=self.group_by,
                columns=self.columns,
                max_length=self.max_length,
                revision=revision,
                dtype=dtype,
                model_init_kwargs=model_init_kwargs,
                scoring_tokens_per_batch=self.scoring_tokens_per_batch,
            )
        )

    def number(self, results: RowResults) -> float:
        """Return bits per byte with the weighting of the task."""
        usable = results.reasons == ""
        if not usable.any():
            raise EvaluationError(f"No row of the task {self.name!r} has a value.")
        key = "bits_per_byte" if self.weighting == "bytes" else "mean_row_bits_per_byte"
        return float(results.summarize(usable)[key])


@dataclass(frozen=True)
class ExactMatchTask(DatasetTask):
    """Generated answers that equal the response of the row, in points, as `match_answers`.

    Args:
        name: Name of the task in tables.
        dataset_name: File, folder or id of a Hub dataset with the held-out rows.
        dataset_config: Configuration of a Hub dataset.
        dataset_test_split: Split; by default "test" of a Hub dataset or folder, and "train" of a file.
        dataset_revision: Commit, branch or tag of a Hub dataset.
        columns: Names of the columns of the row format and those of the dataset, as in `hf_datasel.score`.
        group_by: Name of a column whose values group the rows, such as their source; each group is a column of tables.
        scoring_tokens_per_batch: Maximum number of padded tokens in a batch.
        max_new_tokens: Maximum number of tokens of an answer.
        normalization: Settings of `Normalization`, such as `{"last_number": true}`.
    """

    max_new_tokens: int = 256
    normalization: Mapping[str, Any] = field(default_factory=dict)

    metric: ClassVar[str] = "exact_match"
    results_type: ClassVar[type[RowResults]] = MatchedAnswers

    def __post_init__(self) -> None:
        super().__post_init__()
        Normalization.from_settings(self.normalization, f"The task {self.name!r} has ")

    def evaluate(
        self,
        model: str,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        model_init_kwargs: dict[str, Any] | None = None,
    ) -> RowResults:
        """Generate answers and compare them; see `match_answers`."""
        return self._with_identity(
            match_answers(
                self.pool.dataset,
                model,
                normalization=Normalization(**self.normalization),
                max_new_tokens=self.max_new_tokens,
                group_by=self.group_by,
                columns=self.columns,
                revision=revision,
                dtype=dtype,
                model_init_kwargs=model_init_kwargs,
                scoring_tokens_per_batch=self.scoring_tokens_per_batch,
            )
        )


def primary_tasks(tasks: Sequence[Task], primary: str | None) -> list[Task]:
    """Return the tasks whose mean decides: one of them, or all that are in points.

    Raises:
        ConfigError: `primary` is no task, or tasks of different units would be averaged.
    """
    names = [task.name for task in tasks]
    if primary is not None and primary != "average":
        if primary not in names:
            hint = did_you_mean(primary, [*names, "average"])
            raise ConfigError(
                f"primary={primary!r} is none of the tasks: {', '.join(names)}.{hint}", "Or use 'average'."
            )
        return [tasks[names.index(primary)]]
    if len({(task.scale, task.higher_is_better) for task in tasks}) > 1:
        raise ConfigError(
            f"The tasks {', '.join(names)} have different units, so that their average means nothing.",
            "Name the one that decides: primary: NAME.",
        )
    return list(tasks)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in settings.items()}


def _question(row: Row) -> str:
    """Return what the user says before the last response, without the system prompt that many rows share."""
    before = row.turns[: row.response_turns[-1]] if row.response_turns else row.turns
    return "\n".join(turn.content for turn in before if turn.role == "user")
