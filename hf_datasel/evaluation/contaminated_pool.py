"""The pool of an experiment without the rows that repeat items of its tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.atomic import write_file
from hf_datasel.errors import ConfigError, EvaluationError, did_you_mean
from hf_datasel.evaluation.heldout_rows import rows_in_pool
from hf_datasel.formats import Pool
from hf_datasel.scoring.contamination import contaminated_rows

if TYPE_CHECKING:
    from hf_datasel.evaluation.task import Task

__all__ = ["CleanPool"]

_SETTINGS = ("n", "threshold", "part")


@dataclass(frozen=True, eq=False)
class CleanPool:
    """Rows of a pool that share no n-gram of words with items of the tasks, and what the runs need to use only them.

    Methods that select run after the filter `Decontaminate`, so that their selections are of the original dataset. The
    whole pool is trained on from a copy without the excluded rows.

    Args:
        pool: All rows.
        rows: Numbers of the rows that are not excluded, int64.
        questions: Texts of the items of each task.
        settings: Settings of `contaminated_rows`.
        record: Counts of the excluded rows, in all and `by_task`, what was `checked`, the `settings`, and a `summary`
            in words; None if nothing is excluded on purpose.
        folder: Folder of the experiment.
    """

    pool: Pool
    rows: np.ndarray
    questions: Mapping[str, Sequence[str]]
    settings: Mapping[str, Any]
    record: dict[str, Any] | None
    folder: Path

    @classmethod
    def of(cls, pool: Pool, tasks: Sequence[Task], settings: bool | Mapping[str, Any], folder: Path) -> CleanPool:
        """Find the rows that repeat items of the tasks.

        Args:
            pool: The rows.
            tasks: The tasks.
            settings: Settings of `contaminated_rows`; True for its defaults, False to exclude nothing.
            folder: Folder of the experiment.

        Raises:
            ConfigError: There is no such setting.
            EvaluationError: No row is left, or nothing is excluded though held-out rows are in the pool.
        """
        everything = np.arange(len(pool))
        if settings is False:
            _check_heldout(pool, tasks)
            return cls(pool, everything, {}, {}, None, folder)
        own = {} if settings is True else dict(settings)
        for key in own:
            if key not in _SETTINGS:
                raise ConfigError(f"decontaminate has no setting {key!r}.{did_you_mean(str(key), _SETTINGS)}")
        questions = {task.name: texts for task in tasks if (texts := task.questions())}
        if pool.format == "tokenized" or not questions:
            raise EvaluationError(
                "The pool cannot be compared with the items of the tasks, since one of them has no text.",
                "Set decontaminate: false, and say so where you publish the results.",
            )
        contaminated = contaminated_rows(pool, questions, **own)
        rows = np.setdiff1d(everything, contaminated.rows)
        if not len(rows):
            raise EvaluationError(f"No row of the pool is left. {contaminated}")
        clean = pool.subset(rows) if len(contaminated.rows) else pool
        _check_heldout(clean, tasks)
        record = {
            "rows": len(contaminated.rows),
            "by_task": {name: len(numbers) for name, numbers in contaminated.by_set.items()},
            "checked": contaminated.checked,
            "settings": {"n": contaminated.n, "threshold": contaminated.threshold, **own},
            "summary": str(contaminated),
        }
        return cls(pool, rows, questions, own, record, folder)

    @property
    def excludes(self) -> bool:
        """Whether any row is excluded."""
        return len(self.rows) < len(self.pool)

    @property
    def num_usable(self) -> int:
        """Number of rows that can be read and are not excluded."""
        return int(self.pool.usable[self.rows].sum())

    def identity(self) -> dict[str, Any]:
        """Return the id of the pool, its number of rows, and the record of what is excluded, as plain values."""
        return {"id": self.pool.id, "rows": len(self.pool), "contaminated": self.record}

    def keys(self, keys: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keys of a training run that excludes these rows.

        Args:
            keys: Keys of `hf-datasel train` for the whole pool.
        """
        if not self.excludes:
            return dict(keys)
        if keys["selector"] == "all":
            source = ("dataset_config", "dataset_train_split", "dataset_revision")
            return {
                **{key: value for key, value in keys.items() if key not in source},
                "dataset_name": str(self._copy),
            }
        questions = {name: {"dataset_name": str(self._file(name)), "columns": ["question"]} for name in self.questions}
        score = {"score": "contamination", "questions": questions}
        score |= {key: value for key, value in self.settings.items() if key in ("n", "part")}
        row_filter = {"filter": "decontaminate", "by": score}
        row_filter |= {key: value for key, value in self.settings.items() if key == "threshold"}
        then = {"selector": keys["selector"], **keys.get("selector_kwargs", {})}
        return {**keys, "selector": "chain", "selector_kwargs": {"filters": [row_filter], "then": then}}

    def write(self) -> None:
        """Write the files that the keys name."""
        if not self.excludes:
            return
        for name, texts in self.questions.items():
            lines = "".join(json.dumps({"question": text}, ensure_ascii=False) + "\n" for text in texts)
            write_file(self._file(name), lines, EvaluationError)
        if not self._copy.is_file():
            rows = self.pool.dataset.select(self.rows)
            write_file(self._copy, lambda draft: rows.to_parquet(draft), EvaluationError)

    @property
    def _copy(self) -> Path:
        from hf_datasel.evaluation.cells import digest

        return self.folder / "pool" / f"clean-{digest([self.pool.id, self.record])}.parquet"

    def _file(self, task: str) -> Path:
        from hf_datasel.evaluation.cells import slug

        return self.folder / "questions" / f"{slug(task)}.jsonl"


def _check_heldout(pool: Pool, tasks: Sequence[Task]) -> None:
    """Raise if held-out rows of a task are in the pool."""
    from hf_datasel.evaluation.task import DatasetTask

    for task in tasks:
        if isinstance(task, DatasetTask) and len(rows := rows_in_pool(task.pool, pool)):
            raise EvaluationError(
                f"{len(rows):,} of {len(task.pool):,} held-out rows of the task {task.name!r} are in the pool (the "
                f"first is row {rows[0]:,}), so that their values say nothing about new rows.",
                "Split the rows before the experiment, so that each is in one of the two.",
            )
