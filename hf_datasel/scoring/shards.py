"""Scoring a dataset in shards: independent jobs write tables of scores, which are put together afterwards."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_datasel.atomic import write_file
from hf_datasel.errors import ScoreError
from hf_datasel.formats import Pool
from hf_datasel.formats.digest import column_digest
from hf_datasel.hub.parents import parents_of
from hf_datasel.scoring.base import ModelScore, Score
from hf_datasel.scoring.column_provenance import provenance_of_columns, record_provenance
from hf_datasel.scoring.distributed import Processes
from hf_datasel.scoring.engine import Engine
from hf_datasel.scoring.score_rows import check_own_columns, checked_scores, replace_columns, score, summary
from hf_datasel.scoring.score_tables import (
    KEYS,
    REASON_COLUMN,
    ROW_COLUMN,
    ROW_ID_COLUMN,
    TABLE_VERSION,
    table_features,
    table_record,
    with_record,
)
from hf_datasel.scoring.store.store import ScoreStore

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Shard", "ShardedScores", "score_table"]

logger = logging.getLogger(__name__)

_MAX_NAMED = 10  # shards
_FILE = re.compile(r"shard-(\d{5,})-of-(\d{5,})\.parquet")


def _check_batches(scores: Sequence[Score]) -> None:
    """Raise an error for scores that are computed for all rows at once."""
    for item in scores:
        if item.not_in_batches:
            raise ScoreError(
                f"{type(item).__name__} is computed for all rows at once, and not in shards: {item.not_in_batches}.",
                hint="Score what it reads in shards, gather the scores, and then compute it.",
                cli_hint="Score what it reads in shards, and then run hf-datasel score for it without --shard, on the "
                "scored.parquet that they were gathered in.",
            )


@dataclass(frozen=True)
class Shard:
    """Contiguous rows of a dataset: those of `Dataset.shard(num_shards, index)`.

    Args:
        index: Index of the shard, from 0.
        num_shards: Number of shards.

    Raises:
        ScoreError: There is no such shard.

    >>> Shard(1, 3).rows(10), Shard.parse("1/3").file_name
    (range(4, 7), 'shard-00001-of-00003.parquet')
    """

    index: int
    num_shards: int

    def __post_init__(self) -> None:
        if type(self.index) is not int or type(self.num_shards) is not int or self.num_shards < 1:
            raise ScoreError(f"A shard has an index and a number of shards above 0, and this is {self}.")
        if not 0 <= self.index < self.num_shards:
            raise ScoreError(
                f"There is no shard {self.index}/{self.num_shards}: shards are counted from 0, so that the last of "
                f"{self.num_shards} is {self.num_shards - 1}/{self.num_shards}."
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that "INDEX/NUMBER" names.

        Args:
            text: Such as "0/64", the first of 64 shards.

        Raises:
            ScoreError: The text has another form, or there is no such shard.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", str(text))
        if match is None:
            raise ScoreError(f"A shard is INDEX/NUMBER, such as 0/64 for the first of 64, and not {text!r}.")
        return cls(int(match[1]), int(match[2]))

    def rows(self, total: int) -> range:
        """Return the row numbers of the shard.

        Args:
            total: Number of rows of the dataset.

        Raises:
            ScoreError: There are more shards than rows.
        """
        if self.num_shards > total:
            raise ScoreError(f"{total:,} rows cannot be split into {self.num_shards:,} shards.")
        size, longer = divmod(total, self.num_shards)
        start = size * self.index + min(self.index, longer)
        return range(start, start + size + (self.index < longer))

    @property
    def file_name(self) -> str:
        """Name of the file with the scores of the shard."""
        return f"shard-{self.index:05d}-of-{self.num_shards:05d}.parquet"


def score_table(
    rows: Dataset,
    scores: Score | str | Mapping[str, Any] | Sequence[Score | str | Mapping[str, Any]],
    model: str | os.PathLike[str] | None = None,
    *,
    store: ScoreStore | str | os.PathLike[str] | None = None,
    first_row: int = 0,
    **options: Any,
) -> pa.Table:
    """Score rows, and return the scores without the rows.

    Args:
        rows: Rows in any supported format, such as a part of a dataset.
        scores: As in `hf_datasel.score`.
        model: Name or path of the model of the scores that name none.
        store: Folder that every batch is written to, and that results are read from; see `hf_datasel.score`.
        first_row: Number of the first row in the dataset that the rows are a part of.
        **options: Further arguments of `hf_datasel.score`.

    Returns:
        A table with `row` (int64), `row_id` (SHA-256 of the content of the row, 32 bytes), `row_reason` (why the row
        cannot be used; empty if it can) and the columns of the scores. Its metadata has JSON under `hf_datasel`: the
        row numbers, the row format, and what the columns were computed with. `ScoreTables` reads such tables.

    Raises:
        ScoreError: As in `hf_datasel.score`; a score writes a column with the name of one of the first three, or is
            computed for all rows of a dataset at once.
    """
    scores = checked_scores(scores)
    _check_batches(scores)
    names = _columns(scores)
    store = None if store is None else store if isinstance(store, ScoreStore) else ScoreStore(store)
    with nullcontext() if store is None else store.temporary_columns(Processes.current()):  # the table still maps them
        columns = score(rows, scores, model, store=store, **options).select_columns(names).with_format("arrow")[:]
    pool = Pool(rows, options.get("columns"))
    arrays: dict[str, Any] = {
        ROW_COLUMN: pa.array(np.arange(first_row, first_row + len(rows))),
        ROW_ID_COLUMN: pool.arrow_ids,
        REASON_COLUMN: pa.array(pool.reasons, pa.string()),
        **{name: columns.column(name) for name in names},
    }
    record = _row_record(pool, range(first_row, first_row + len(rows)))
    return with_record(pa.table(arrays), {**record, "specs": provenance_of_columns(columns)})


@dataclass(eq=False)
class ShardedScores:
    """Scores of a dataset that are computed in shards: in any order, by any number of jobs, on any machines.

    Each shard is one file in the folder `scores` of the output folder. It has the row numbers, the ids of the rows,
    why rows cannot be used, and the scores, and no text, so that the files of several machines may be copied into one
    folder, which `ScoreTables` reads. A shard that is interrupted continues from the store. The scores are those of
    `hf_datasel.score` for all rows, up to the rounding of the data type, because the rows of a batch come from one
    shard.

    Args:
        dataset: All rows, in any supported format.
        scores: As in `hf_datasel.score`.
        output_dir: Folder that the files are written to.
        model: Name or path of the model of the scores that name none.
        store: As in `hf_datasel.score`. Jobs may share a folder, or have one each; see `ScoreStore.merge`.
        columns: As in `hf_datasel.score`.
        overwrite: As in `hf_datasel.score`.
        scoring_tokens_per_batch: As in `hf_datasel.score`.
        num_proc: As in `hf_datasel.score`.
        on_summary: As in `hf_datasel.score`.

    Raises:
        ScoreError: A score depends on more than its own row, or the model is not loaded by name.
    """

    dataset: Dataset
    scores: Any
    output_dir: str | os.PathLike[str]
    model: str | os.PathLike[str] | None = None
    store: ScoreStore | str | os.PathLike[str] | None = None
    columns: Mapping[str, str] | None = None
    overwrite: bool = False
    scoring_tokens_per_batch: int | None = None
    num_proc: int | None = None
    on_summary: Callable[[str], Any] | None = None
    _digests: dict[Shard, str] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.scores = checked_scores(self.scores)
        if self.model is not None and not isinstance(self.model, str | os.PathLike):
            raise ScoreError(
                f"Shards are recognized by the name and files of the model, and this is a loaded "
                f"{type(self.model).__name__}. Save the model and pass its folder."
            )

    def path(self, shard: Shard) -> Path:
        """Return the file of a shard."""
        return Path(self.output_dir).expanduser() / "scores" / shard.file_name

    def score(self, shard: Shard) -> bool:
        """Score the rows of a shard and write its file, unless it is there.

        Under a launcher every process must call this; the main process writes the file.

        Args:
            shard: The shard.

        Returns:
            Whether anything was done: False if the file has the scores of these rows already.

        Raises:
            ScoreError: As in `hf_datasel.score`; or a score depends on more than its own row.
        """
        rows, processes = shard.rows(len(self.dataset)), Processes.current()
        self._check()
        if processes.run_on_main_process(lambda: self._is_complete(shard)):
            return False
        if processes.is_main_process:
            self._warn_of_other_tables(shard)
        table = score_table(
            self.dataset.select(rows),
            self.scores,
            self.model,
            store=self.store,
            first_row=rows.start,
            on_summary=self.on_summary,
            columns=self.columns,
            overwrite=True,  # all columns of the dataset have been checked
            scoring_tokens_per_batch=self.scoring_tokens_per_batch,
            num_proc=self.num_proc,
        )
        if processes.is_main_process:
            identity = {**self._known_identity(shard), "content": self._content(shard)}
            record = {**table_record(table.schema), **identity}
            table = with_record(table, {**record, "parents": parents_of(self.dataset).with_state().record()})
            write_file(self.path(shard), partial(pq.write_table, table), ScoreError)
        processes.wait_for_everyone()
        return True

    def gather(self) -> Dataset | None:
        """Return the dataset with the scores of all shards. Shards that are missing are scored first.

        The rows of shards that have a file are not tokenized. The output folder has to be visible to all processes.

        Returns:
            The dataset with the new columns; None if there is no file of a shard with these scores of these rows.

        Raises:
            ScoreError: As in `score`.
        """
        processes = Processes.current()
        num_shards = processes.run_on_main_process(self._num_shards)
        if num_shards is None:
            return None
        shards = [Shard(index, num_shards) for index in range(num_shards)]
        if processes.is_main_process:
            self._name_missing(shards)
        for shard in shards:
            self.score(shard)
        scored = replace_columns(self.dataset, [self._read([self.path(shard) for shard in shards])])
        if processes.is_main_process:
            for item in self.scores:
                columns = {name: scored.data.column(name) for name in _columns([item])}
                line = summary(item, columns)
                if self.on_summary is not None:
                    self.on_summary(line)
        return scored

    def _name_missing(self, shards: Sequence[Shard]) -> None:
        missing = [f"{shard.index}/{shard.num_shards}" for shard in shards if not self._is_complete(shard)]
        if missing:
            named = ", ".join(missing[:_MAX_NAMED]) + (" ..." if missing[_MAX_NAMED:] else "")
            logger.warning(
                "%d of %d shards have no table with these scores and are scored here: %s. To score them in jobs of "
                "their own, run these with --shard.",
                *(len(missing), len(shards), named),
            )

    def _warn_of_other_tables(self, shard: Shard) -> None:
        """Warn of a table that is replaced, and of tables of another number of shards."""
        path = self.path(shard)
        if path.is_file():
            logger.warning("%s has other scores, settings or rows, and is replaced.", path)
        counts = {int(match[2]) for file in path.parent.glob("*.parquet") if (match := _FILE.fullmatch(file.name))}
        if others := sorted(counts - {shard.num_shards}):
            logger.warning(
                "%s also has tables of %s shards. A selection from tables takes those of one number of shards: delete "
                "the others, or use another folder.",
                *(path.parent, " and ".join(map(str, others))),
            )

    def _num_shards(self) -> int | None:
        """Return into how many shards the dataset is split, of which most have a file; None without any."""
        counts: dict[int, int] = {}
        for file in sorted(self.path(Shard(0, 1)).parent.glob("shard-*.parquet")):
            match = _FILE.fullmatch(file.name)
            if match is None or not int(match[1]) < int(match[2]) <= len(self.dataset):
                continue
            shard = Shard(int(match[1]), int(match[2]))
            if self._is_complete(shard):
                counts[shard.num_shards] = counts.get(shard.num_shards, 0) + 1
        return max(counts, key=lambda num_shards: (counts[num_shards], -num_shards), default=None)

    def _check(self) -> None:
        """Raise an error for scores that depend on other rows of the dataset than those of a shard."""
        _check_batches(self.scores)
        for item in self.scores:
            name = type(item).__name__
            if item.needs_fit:
                raise ScoreError(
                    f"{name} is not fitted, which needs the whole dataset, and not a shard.",
                    hint=f"Score what it reads in shards, gather the scores, and call {name}(...).fit(scored, path): "
                    "the score that it returns is computed row by row.",
                    cli_hint="Score what it reads in shards, and then run hf-datasel score for it without --shard, on "
                    "the scored.parquet that they were gathered in.",
                )
            if isinstance(item, ModelScore) and self._pool.format == "tokenized":
                raise ScoreError(
                    "The rows are tokenized already, and whether their responses follow the generation prompt of the "
                    f"chat template is read from all of them. {name} can score shards of the rows as text, or the "
                    "tokenized rows without shards."
                )
        if not self.overwrite:
            check_own_columns(self.dataset, self.scores)

    def _is_complete(self, shard: Shard) -> bool:
        """Return whether the file of a shard has these scores of these rows."""
        path = self.path(shard)
        if not path.is_file():
            return False
        try:
            record = table_record(pq.read_schema(path))
        except (pa.ArrowException, OSError, ValueError) as error:
            logger.warning("%s is damaged and is written again: %s", path, " ".join(str(error).split()))
            return False
        if any(record.get(key) != value for key, value in self._known_identity(shard).items()):
            return False
        return bool(record.get("content") == self._content(shard))

    def _known_identity(self, shard: Shard) -> dict[str, Any]:
        """Return what the file of a shard records of its scores and rows, as far as no row has to be read for it."""
        record = _row_record(self._pool, shard.rows(len(self.dataset)))
        return {**record, "dataset_rows": len(self.dataset), "scores": self._score_identities}

    def _content(self, shard: Shard) -> str:
        """Return a digest of the rows of a shard, and of the columns of the dataset that the scores read."""
        if shard in self._digests:
            return self._digests[shard]
        part = self.dataset.select(shard.rows(len(self.dataset)))
        digest = hashlib.blake2b(Pool(part, self.columns).row_ids.tobytes(), digest_size=16)
        written = set(_columns(self.scores))
        for name in sorted({name for item in self.scores for name in item.reads} - written):
            digest.update(column_digest(part, name).encode())
        self._digests[shard] = digest.hexdigest()
        return self._digests[shard]

    @cached_property
    def _pool(self) -> Pool:
        return Pool(self.dataset, self.columns)

    @cached_property
    def _score_identities(self) -> list[dict[str, Any]]:
        engine = Engine(self._pool, self.model)
        identities = [engine.identity(item) for item in self.scores]
        plain: list[dict[str, Any]] = json.loads(json.dumps(identities, default=str))
        return plain

    def _read(self, paths: Sequence[Path]) -> Dataset:
        """Return the scores in these files, and record what they were computed with."""
        from datasets import Dataset, concatenate_datasets

        names = _columns(self.scores)
        parts, specs = [], dict[str, Any]()
        for path in paths:
            schema = pq.read_schema(path)
            parts.append(Dataset.from_parquet(str(path), features=table_features(schema, names), columns=names))
            for name, spec in table_record(schema).get("specs", {}).items():
                specs.setdefault(name, spec)
        scores = concatenate_datasets(parts)
        for name, spec in specs.items():
            record_provenance(name, scores.data.column(name), spec)
        return scores


def _columns(scores: Sequence[Score]) -> list[str]:
    """Return the columns that scores write."""
    names = list(dict.fromkeys(f"{item.column_prefix}{name}" for item in scores for name in item.columns()))
    for name in names:
        if name in KEYS:
            raise ScoreError(f"A table of scores has a column {name!r} of its own. Give the score a column_prefix.")
    return names


def _row_record(pool: Pool, rows: range) -> dict[str, Any]:
    """Return what a table records of its rows: how they were read, and their numbers in the dataset."""
    return {
        "version": TABLE_VERSION,
        "rows": [rows.start, rows.stop],
        "format": pool.format,
        "columns": pool.mapping,
    }
