"""How often a row helps as an example: one-shot against zero-shot on a set of tasks."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ConfigError, FormatError, ScoreError, did_you_mean
from hf_datasel.formats import Pool
from hf_datasel.scores.cluster import Cluster
from hf_datasel.scoring.base import Columns, ModelScore, finite_or_null, null_counts
from hf_datasel.scoring.few_shot_prompts import Anchor, OneShotTokens
from hf_datasel.scoring.prefix_cache import OneShot
from hf_datasel.scoring.runner import ModelContext
from hf_datasel.scoring.task_sets import checked_path, given_rows, medoids, random_rows, read_anchors, write_anchors
from hf_datasel.tokens import Sequences, TokenRows
from hf_datasel.tokens.prompts import window
from hf_datasel.tokens.sequences import Ragged

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Nuggets"]

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 10_000
"""Rows whose text is held in memory."""
_BY = ["kmeans", "random"]


@dataclass(frozen=True)
class Nuggets(ModelScore):
    """The share of anchor tasks whose answer is likelier with this row as an example before the task than without.

    Likelier is a strictly higher sum of the log-probabilities of the answer's tokens. The anchors are picked first,
    and what `fit` returns is a score like any other, that names their file:

        nuggets = Nuggets(anchors=100).fit(dataset, "anchors.jsonl")
        dataset = score(dataset, [nuggets], model="Qwen/Qwen3-0.6B")

    Any file of rows will do (`Nuggets(anchor_file="my_tasks.jsonl")`), and so will rows of the dataset that you name
    (`fit(dataset, "anchors.jsonl", rows=[3, 17])`). A row that is an anchor itself wins its own task with ease.

    An anchor that does not fit into `max_length` tokens, question and answer, is left out for all rows, and a warning
    says so; the store's record of the run says how many. One that does not fit behind a long example is not won by
    it: all rows are held against the same number of anchors, so that a long row does not score by a few short tasks.
    A row with no room for any anchor behind it has no score (`prompt_fills_window`).

    Reads any supported row format that has a response, and to pick anchors by k-means a column of vectors, as
    `Embedding` writes it. Writes `golden` (float32, 0 to 1) and `golden_reason` ("" for a scored row). Cost: a forward
    pass over the row, whose keys and values are kept, and one over each anchor behind them.
    Reference: Li et al. 2023 (2312.10302), whose script runs each row anew with each anchor.

    >>> Nuggets(anchor_file="anchors.jsonl").columns()
    {'golden': DataType(float), 'golden_reason': DataType(string)}
    """

    anchors: int = field(default=100, kw_only=True)
    """How many `fit` picks. An anchor file is taken as it is."""
    by: Literal["kmeans", "random"] = field(default="kmeans", kw_only=True)
    """How `fit` picks: the row nearest to the centre of each of as many clusters, or any rows."""
    column: str = field(default="embedding", kw_only=True)
    """With the vectors that are clustered."""
    seed: int = field(default=42, kw_only=True)
    """Of the clusters, or of the draw."""
    anchor_file: str | None = field(default=None, kw_only=True)
    """File of the anchors (.jsonl, .json or .parquet), in any supported row format; `fit` writes one."""
    max_length: int | None = field(default=None, kw_only=True)
    """Tokens of an example and an anchor together; None is as many as the model takes."""

    citation = (
        "@inproceedings{li2024oneshot, title={One-Shot Learning as Instruction Data Prospector for Large Language "
        "Models}, author={Li, Yunshui and Hui, Binyuan and Xia, Xiaobo and Yang, Jiaxi and Yang, Min and Zhang, Lei "
        "and Si, Shuzheng and Chen, Ling-Hao and Liu, Junhao and Liu, Tongliang and Huang, Fei and Li, Yongbin}, "
        "booktitle={ACL}, year={2024}}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("anchors", 1), ("seed", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ConfigError(f"Nuggets({name}={value!r}): it has to be an int of at least {least}.")
        if self.by not in _BY:
            hint = did_you_mean(str(self.by), _BY)
            raise ConfigError(f"Nuggets(by={self.by!r}): it has to be one of {_BY}.{hint}")
        if not isinstance(self.column, str) or not self.column:
            raise ConfigError(f"Nuggets(column={self.column!r}): it has to be the name of a column.")
        if self.anchor_file is not None and not isinstance(self.anchor_file, str):
            raise ConfigError(f"Nuggets(anchor_file={self.anchor_file!r}): it has to be the path of a file, or None.")

    @property
    def convention(self) -> str:
        """Rows are examples here, and are not cut as training cuts rows."""
        return "oneshot"

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.column,) if self.needs_fit and self.by == "kmeans" else ()

    def check(self, rows: int) -> None:
        if self.needs_fit and self.anchors > rows:
            raise ScoreError(f"Nuggets(anchors={self.anchors}) has only {rows:,} rows to pick from. Lower anchors.")

    @property
    def needs_fit(self) -> bool:
        return self.anchor_file is None

    def columns(self) -> dict[str, pa.DataType]:
        return {"golden": pa.float32(), "golden_reason": pa.string()}

    # -- anchors ------------------------------------------------------------------------------------------------------
    def fit(
        self, dataset: Dataset, path: str | os.PathLike[str], rows: Sequence[int] | np.ndarray | None = None
    ) -> Nuggets:
        """Pick the anchors of these rows, and write them into a file.

        Args:
            dataset: rows in any supported format that has a response, with the column of vectors where they are
                picked by k-means.
            path: of the file to write; it has to end in .jsonl, .json or .parquet.
            rows: numbers of the rows to take; picked where they are not given.

        Returns:
            This score with `anchor_file` set, and `anchors` as many as it holds.

        Raises:
            ColumnError: there is no such column, or it holds no vectors of one length.
            ScoreError: fewer distinct rows than anchors; or rows are given that cannot be anchors.
        """
        target = checked_path(Path(path).expanduser())
        picked = self._picked(dataset) if rows is None else given_rows(dataset, rows)
        write_anchors(dataset, picked, target)
        return replace(self, anchors=len(picked), anchor_file=str(target.resolve()))

    def fitted(self, dataset: Dataset, folder: Path) -> Nuggets:
        """This score with the anchors of this dataset, in a file of the folder that is named by its content."""
        if not self.needs_fit:
            return self
        draft = folder / f"anchors.{os.getpid()}.jsonl"
        fitted = self.fit(dataset, draft)
        named = draft.replace(folder.resolve() / f"anchors-{str(fitted._digest())[5:17]}.jsonl")
        return replace(fitted, anchor_file=str(named))

    def _picked(self, dataset: Dataset) -> np.ndarray:
        if self.by == "random":
            return random_rows(dataset, self.anchors, self.seed)
        return medoids(dataset, self.anchors, *self._clusters(dataset))

    def _clusters(self, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """Cluster ids of the rows (-1 for a row without a vector) and distances to the centres."""
        usable = np.flatnonzero(Pool(dataset).reasons == "")
        data = dataset.select(usable)
        with tempfile.TemporaryDirectory() as folder:
            cluster = Cluster(self.anchors, column=self.column, seed=self.seed)
            fitted = cluster.fit(data, Path(folder) / "centroids.npy")
            columns = fitted.compute(TokenRows(Pool(data), None), ModelContext(progress=False))
        ids, distances = np.full(len(dataset), -1, dtype=np.int64), np.full(len(dataset), np.inf)
        ids[usable] = columns["cluster_id"].fill_null(-1).to_numpy(zero_copy_only=False)
        distances[usable] = columns["cluster_distance"].fill_null(np.inf).to_numpy(zero_copy_only=False)
        return ids, distances

    def _file(self) -> Path:
        if self.anchor_file is None:
            raise ScoreError(
                f"Nuggets(anchors={self.anchors}) is not fitted: it has no anchors yet. Take what "
                f"Nuggets(anchors={self.anchors}).fit(dataset, 'anchors.jsonl') returns, or name a file of rows: "
                "anchor_file=..."
            )
        path = Path(self.anchor_file).expanduser()
        if not path.is_file():
            raise ScoreError(f"There is no file {self.anchor_file!r} with the anchors of Nuggets.")
        return path

    def _digest(self) -> str | None:
        import xxhash

        return None if self.anchor_file is None else f"file:{xxhash.xxh3_128(self._file().read_bytes()).hexdigest()}"

    def spec(self) -> dict[str, Any]:
        return {**super().spec(), "resolved_anchors": self._digest()}

    def _identity(self) -> str:
        return f"{super()._identity()}:{self._digest() or ''}"

    # -- scores -------------------------------------------------------------------------------------------------------
    def compute(self, rows: TokenRows, context: ModelContext) -> Columns:
        path = self._file()
        if rows.pool.format == "text":
            raise FormatError(
                "Rows with only a text column have no response, and cannot be examples. Make prompt and completion "
                "columns of them."
            )
        tokens = OneShotTokens(rows.tokenizer)
        room = window(context.model, rows.tokenizer, self.max_length, "Nuggets")
        read, format = read_anchors(path)
        every = [tokens.anchor(row, format) for row in read]
        anchors = self._fitting(every, room)
        shots = OneShot(context.model, anchors, context.tokens_per_batch)
        reasons = np.full(len(rows), "", dtype=object)
        examples = Ragged(_examples(rows, tokens, room - int(shots.lengths.min()), reasons))
        if (crowded := int((examples.lengths + shots.lengths.max() > room).sum())) > 0:
            logger.warning(
                "Nuggets: behind %d rows not every anchor fits into %d tokens; such a one is not won.", crowded, room
            )
        zero = _zero_shot(anchors, context)

        def wins(batch: np.ndarray) -> np.ndarray:
            return np.array([_wins(shots, examples[at], zero, room) for at in batch])

        found = context.run(
            wins,
            examples.lengths,
            2,
            label="nuggets",
            keys=examples.digests,
            spec=_run_spec(anchors, len(every), room),
            batch_size=1,  # the anchors behind an example are a batch already
            nulls=null_counts(reasons),
        )
        golden = np.full(len(rows), np.nan)
        golden[reasons == ""] = found[:, 0] / found[:, 1]
        values, why = finite_or_null([golden], reasons)
        return {"golden": values[0], "golden_reason": why}

    def _fitting(self, every: list[Anchor], room: int) -> list[Anchor]:
        """The anchors that fit without an example.

        Raises:
            ScoreError: none does.
        """
        anchors = [each for each in every if len(each.alone) + len(each.answer) <= room and len(each.answer)]
        if not anchors:
            raise ScoreError(f"None of the {len(every):,} anchors in {self.anchor_file!r} fits into {room:,} tokens.")
        if len(anchors) < len(every):
            logger.warning(
                "Nuggets: %d of %d anchors do not fit into %d tokens even without an example. They are left out for "
                "all rows.",
                len(every) - len(anchors),
                len(every),
                room,
            )
        return anchors


def _examples(rows: TokenRows, tokens: OneShotTokens, most: int, reasons: np.ndarray) -> Iterator[list[np.ndarray]]:
    """The tokens of each row that can be an example, part by part; the reasons of the others are put in."""
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        read = list(enumerate(rows.pool.rows(rows.indices[start : start + _ROWS_AT_ONCE]), start))
        reasons[[at for at, _ in read]] = [row.reason for _, row in read]
        usable = [(at, row) for at, row in read if not row.reason]
        examples = tokens.examples([row for _, row in usable], rows.pool.format)
        for (at, _), example in zip(usable, examples, strict=True):
            reasons[at] = "" if len(example) <= most else "prompt_fills_window"
        yield [example for example in examples if len(example) <= most]


def _zero_shot(anchors: list[Anchor], context: ModelContext) -> np.ndarray:
    """Summed log-probability of each anchor's answer without an example, float64."""
    from datasets import Dataset

    data = Dataset.from_dict(
        {
            "input_ids": [np.concatenate([each.alone, each.answer]) for each in anchors],
            "spans": [[len(each.alone), len(each.alone) + len(each.answer)] for each in anchors],
        }
    )
    sequences = Sequences(data, np.arange(len(anchors)))
    return -context.summed_nll(sequences, len(anchors), "nuggets zero-shot")[0]


def _wins(shots: OneShot, example: np.ndarray, zero: np.ndarray, room: int) -> tuple[float, float]:
    """How many anchors the example wins, and of how many; NaN where a model's numbers are not finite."""
    at = np.flatnonzero(len(example) + shots.lengths <= room)
    one = shots.scores(example, at)
    if not np.isfinite(one).all() or not np.isfinite(zero[at]).all():
        return np.nan, np.nan
    return float((one > zero[at]).sum()), float(len(zero))


def _run_spec(anchors: list[Anchor], given: int, room: int) -> dict[str, Any]:
    """What, besides the model and the example, decides how many anchors it wins."""
    whole = hashlib.blake2b(b"".join(each.digest() for each in anchors), digest_size=16).hexdigest()
    counts = {"number": len(anchors), "left_out": given - len(anchors)}
    return {"computed": "one_shot_wins", "version": 1, "anchors": whole, **counts, "window": room}
