"""Golden score: how often a row helps as a one-shot example on a set of tasks."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ConfigError, FormatError, ScoreError, check_option
from hf_datasel.formats import Pool
from hf_datasel.formats.mapping import checked_mapping
from hf_datasel.scores.cluster import Cluster
from hf_datasel.scoring.base import Columns, ModelScore, finite_or_null, null_counts
from hf_datasel.scoring.few_shot_prompts import AnchorTokens, OneShotPrompts
from hf_datasel.scoring.prefix_cache import PrefixCacheRunner
from hf_datasel.scoring.runner import ModelRunner
from hf_datasel.scoring.setting_files import FILE
from hf_datasel.scoring.task_sets import (
    check_anchor_path,
    check_rows,
    read_anchors,
    sample_rows,
    select_medoids,
    write_anchors,
)
from hf_datasel.tokens import Sequences, TokenRows
from hf_datasel.tokens.prompts import resolve_max_length
from hf_datasel.tokens.sequences import RaggedArray

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Nuggets"]

logger = logging.getLogger(__name__)

_CHUNK_ROWS = 10_000
"""Rows whose text is in memory at the same time."""
_BY = ["kmeans", "random"]


@dataclass(frozen=True)
class Nuggets(ModelScore):
    """The share of anchor tasks whose answer is more probable with this row as a one-shot example than without.

    More probable means a strictly higher sum of the log-probabilities of the answer's tokens. The anchors have to be
    selected first. `fit` returns a score that names their file:

        nuggets = Nuggets(anchors=100).fit(dataset, "anchors.jsonl")
        dataset = score(dataset, [nuggets], model="Qwen/Qwen3-0.6B")

    Any file of rows can be used instead (`Nuggets(anchor_file="my_tasks.jsonl")`), or rows of the dataset that you
    name (`fit(dataset, "anchors.jsonl", rows=[3, 17])`). A row that is an anchor itself easily wins its own task.

    An anchor whose question and answer exceed `max_length` tokens is excluded for all rows, with a warning, and the
    number is recorded in the score store. An anchor that does not fit after a long example counts as not won by it:
    all rows are compared on the same number of anchors, so that a long row is not scored on a few short tasks. A row
    that leaves no room for any anchor has no score (`prompt_fills_window`).

    Reads any supported row format that has a response and, to select anchors by k-means, a column of vectors as
    `Embedding` writes it. Writes `golden` (float32, 0 to 1) and `golden_reason` ("" for a scored row). Cost: one
    forward pass per row, whose keys and values are cached, and one over each anchor after it.

    Reference: Li et al. 2023 (2312.10302), whose script runs each row again for each anchor.

    Args:
        model: Name or path of the model. None uses the model of the round, or the `model` of `hf_datasel.score`.
        revision: Commit, branch or tag of a Hub model.
        max_length: Maximum number of tokens of an example and an anchor together; as many as the model takes by
            default.
        anchors: Number of anchors that `fit` selects. An anchor file is used in full.
        by: How `fit` selects: `"kmeans"` takes the row nearest to each centroid of as many clusters, `"random"` a
            random sample.
        column: Name of the column of vectors that are clustered.
        seed: Random seed of the clusters or the sample.
        anchor_file: File of the anchors (.jsonl, .json or .parquet), in any supported row format; `fit` writes one.
        anchor_columns: Names of the columns of a row format, or `role` and `content` of messages, and the names that
            the file has for them: `{"prompt": "question", "completion": "answer"}`.
        dtype: Data type of the weights: "auto" or the name of a floating-point type.
        model_init_kwargs: Further arguments of `from_pretrained`, as in `SFTConfig`.
        column_prefix: Prefix of the name of every column that the score writes.

    >>> Nuggets(anchor_file="anchors.jsonl").columns()
    {'golden': DataType(float), 'golden_reason': DataType(string)}
    """

    anchors: int = field(default=100, kw_only=True)
    by: Literal["kmeans", "random"] = field(default="kmeans", kw_only=True)
    column: str = field(default="embedding", kw_only=True)
    seed: int = field(default=42, kw_only=True)
    anchor_file: str | None = field(default=None, kw_only=True, metadata=FILE)
    anchor_columns: dict[str, str] | None = field(default=None, kw_only=True)
    max_length: int | None = field(default=None, kw_only=True)

    version: ClassVar[int] = 2
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
        check_option(f"Nuggets(by={self.by!r})", self.by, _BY)
        if not isinstance(self.column, str) or not self.column:
            raise ConfigError(f"Nuggets(column={self.column!r}): it has to be the name of a column.")
        if self.anchor_file is not None and not isinstance(self.anchor_file, str):
            raise ConfigError(f"Nuggets(anchor_file={self.anchor_file!r}): it has to be the path of a file, or None.")
        checked_mapping(self.anchor_columns, "anchor_columns")

    @property
    def convention(self) -> str:
        """Convention of the tokens: rows are examples in a prompt, not training rows."""
        return "oneshot"

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the columns that the score reads."""
        return (self.column,) if self.needs_fit and self.by == "kmeans" else ()

    def check(self, rows: int) -> None:
        """Raise `ScoreError` if there are too few rows."""
        if self.needs_fit and self.anchors > rows:
            raise ScoreError(f"Nuggets(anchors={self.anchors}) has only {rows:,} rows to select from. Lower anchors.")

    @property
    def needs_fit(self) -> bool:
        """Whether the score has to be fitted first."""
        return self.anchor_file is None

    @property
    def needs_text(self) -> bool:
        """Whether the score reads the text of rows."""
        return True

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        return {"golden": pa.float32(), "golden_reason": pa.string()}

    # -- anchors ------------------------------------------------------------------------------------------------------
    def fit(
        self,
        dataset: Dataset,
        path: str | os.PathLike[str],
        rows: Sequence[int] | np.ndarray | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> Nuggets:
        """Select the anchors among the rows of a dataset, and write them to a file.

        Args:
            dataset: Rows in any supported format that has a response, with the column of vectors for `by="kmeans"`.
            path: File to write, with the suffix .jsonl, .json or .parquet.
            rows: Numbers of the rows to use as anchors, instead of selecting them.
            columns: Names of the columns of a row format and those of the dataset, as in `hf_datasel.score`.

        Returns:
            This score with `anchor_file` and `anchor_columns` set, and `anchors` set to their number.

        Raises:
            ColumnError: The column is missing, or does not hold vectors of one length.
            ScoreError: There are fewer distinct rows than anchors, or one of `rows` cannot be an anchor.
        """
        target = check_anchor_path(Path(path).expanduser())
        pool = Pool(dataset, columns)
        selected = self._select_anchors(pool) if rows is None else check_rows(pool, rows)
        write_anchors(pool, selected, target)
        return replace(self, anchors=len(selected), anchor_file=str(target.resolve()), anchor_columns=pool.mapping)

    def fitted(self, dataset: Dataset, folder: Path) -> Nuggets:
        """Return this score with the anchors of a dataset, in a file of the folder named by a hash of its content."""
        if not self.needs_fit:
            return self
        draft = folder / f"anchors.{os.getpid()}.jsonl"
        fitted = self.fit(dataset, draft)
        named = draft.replace(folder.resolve() / f"anchors-{str(fitted._digest())[5:17]}.jsonl")
        return replace(fitted, anchor_file=str(named))

    def _select_anchors(self, pool: Pool) -> np.ndarray:
        if self.by == "random":
            return sample_rows(pool, self.anchors, self.seed)
        return select_medoids(pool, self.anchors, *self._clusters(pool))

    def _clusters(self, pool: Pool) -> tuple[np.ndarray, np.ndarray]:
        """Return the cluster ids of the rows (-1 for a row without a vector) and the distances to the centroids."""
        usable = np.flatnonzero(pool.usable)
        part = pool.subset(usable)
        with tempfile.TemporaryDirectory() as folder:
            cluster = Cluster(self.anchors, column=self.column, seed=self.seed)
            fitted = cluster.fit(part.dataset, Path(folder) / "centroids.npy")
            columns = fitted.compute(TokenRows(part, None), ModelRunner(progress=False))
        ids, distances = np.full(len(pool), -1, dtype=np.int64), np.full(len(pool), np.inf)
        ids[usable] = columns["cluster_id"].fill_null(-1).to_numpy(zero_copy_only=False)
        distances[usable] = columns["cluster_distance"].fill_null(np.inf).to_numpy(zero_copy_only=False)
        return ids, distances

    def _file(self) -> Path:
        if self.anchor_file is None:
            raise ScoreError(
                f"Nuggets(anchors={self.anchors}) is not fitted: it has no anchors yet. Use the score that "
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
        """Return the settings for the record, with the anchors resolved to a digest."""
        return {**super().spec(), "resolved_anchors": self._digest()}

    def _identity(self) -> str:
        return f"{super()._identity()}:{self._digest() or ''}"

    # -- scores -------------------------------------------------------------------------------------------------------
    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        path = self._file()
        if rows.pool.format == "text":
            raise FormatError(
                "Rows with only a text column have no response, and cannot be examples. Make prompt and completion "
                "columns of them."
            )
        tokens = OneShotPrompts(rows.tokenizer)
        window = resolve_max_length(runner.model, rows.tokenizer, self.max_length, "Nuggets")
        anchor_rows, row_format = read_anchors(path, checked_mapping(self.anchor_columns))
        all_anchors = [tokens.anchor(row, row_format) for row in anchor_rows]
        anchors = self._fitting_anchors(all_anchors, window)
        shots = PrefixCacheRunner(runner.model, anchors, runner.tokens_per_batch)
        reasons = np.full(len(rows), "", dtype=object)
        examples = RaggedArray(_encode_examples(rows, tokens, window - int(shots.lengths.min()), reasons))
        if (num_long := int((examples.lengths + shots.lengths.max() > window).sum())) > 0:
            logger.warning(
                "Nuggets: after %d rows not every anchor fits into %d tokens; such anchors count as not won.",
                num_long,
                window,
            )
        runner.check_tokens(examples)
        zero_shot = _zero_shot(anchors, runner)

        def wins(batch: np.ndarray) -> np.ndarray:
            before = shots.num_tokens
            counts = np.array([_wins(shots, examples[index], zero_shot, window) for index in batch])
            runner.count_tokens(shots.num_tokens - before)
            return counts

        counts = runner.run(
            wins,
            examples.lengths,
            2,
            label="nuggets",
            keys=examples.digests,
            spec=_run_spec(anchors, len(all_anchors), window),
            batch_size=1,  # the anchors of an example are a batch
            nulls=null_counts(reasons),
        )
        golden = np.full(len(rows), np.nan)
        golden[reasons == ""] = counts[:, 0] / counts[:, 1]
        values, reason_array = finite_or_null([golden], reasons)
        return {"golden": values[0], "golden_reason": reason_array}

    def _fitting_anchors(self, anchors: list[AnchorTokens], window: int) -> list[AnchorTokens]:
        """Return the anchors that fit into the window without an example.

        Raises:
            ScoreError: None of them fits.
        """
        fitting = [
            anchor for anchor in anchors if len(anchor.alone) + len(anchor.answer) <= window and len(anchor.answer)
        ]
        if not fitting:
            raise ScoreError(
                f"None of the {len(anchors):,} anchors in {self.anchor_file!r} fits into {window:,} tokens."
            )
        if len(fitting) < len(anchors):
            logger.warning(
                "Nuggets: %d of %d anchors do not fit into %d tokens even without an example. They are excluded for "
                "all rows.",
                len(anchors) - len(fitting),
                len(anchors),
                window,
            )
        return fitting


def _encode_examples(
    rows: TokenRows, tokens: OneShotPrompts, max_length: int, reasons: np.ndarray
) -> Iterator[list[np.ndarray]]:
    """Yield the token ids of the examples of each chunk of rows. Sets the reasons of excluded rows."""
    for start in range(0, len(rows), _CHUNK_ROWS):
        parsed = list(enumerate(rows.pool.rows(rows.indices[start : start + _CHUNK_ROWS]), start))
        reasons[[position for position, _ in parsed]] = [row.reason for _, row in parsed]
        usable = [(position, row) for position, row in parsed if not row.reason]
        examples = tokens.examples([row for _, row in usable], rows.pool.format)
        for (position, _), example in zip(usable, examples, strict=True):
            reasons[position] = "" if len(example) <= max_length else "prompt_fills_window"
        yield [example for example in examples if len(example) <= max_length]


def _zero_shot(anchors: list[AnchorTokens], runner: ModelRunner) -> np.ndarray:
    """Compute the summed log-probability of each anchor's answer without an example, float64."""
    from datasets import Dataset

    data = Dataset.from_dict(
        {
            "input_ids": [np.concatenate([anchor.alone, anchor.answer]) for anchor in anchors],
            "spans": [[len(anchor.alone), len(anchor.alone) + len(anchor.answer)] for anchor in anchors],
        }
    )
    sequences = Sequences(data, np.arange(len(anchors)))
    return -runner.summed_nll(sequences, len(anchors), "nuggets zero-shot")[0]


def _wins(shots: PrefixCacheRunner, example: np.ndarray, zero_shot: np.ndarray, window: int) -> tuple[float, float]:
    """Return the number of anchors that the example improves, and of all; NaN if a log-probability is not finite."""
    fitting = np.flatnonzero(len(example) + shots.lengths <= window)
    one_shot = shots.answer_logprobs(example, fitting)
    if not np.isfinite(one_shot).all() or not np.isfinite(zero_shot[fitting]).all():
        return np.nan, np.nan
    return float((one_shot > zero_shot[fitting]).sum()), float(len(zero_shot))


def _run_spec(anchors: list[AnchorTokens], num_all: int, window: int) -> dict[str, Any]:
    """Return what the number of wins depends on, other than the model and the example: the key in the score store."""
    digest = hashlib.blake2b(b"".join(anchor.digest() for anchor in anchors), digest_size=16).hexdigest()
    counts = {"number": len(anchors), "left_out": num_all - len(anchors)}
    return {"computed": "one_shot_wins", "version": 1, "anchors": digest, **counts, "window": window}
