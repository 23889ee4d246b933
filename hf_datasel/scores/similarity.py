"""Similarity of a row to the rows of a target task, by the states of a model (RDS+)."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ConfigError, ScoreError, reason_counts
from hf_datasel.scoring.base import Columns, null_counts
from hf_datasel.scoring.models import tokenizer_identity
from hf_datasel.scoring.row_vectors import RowVectors, VectorScore
from hf_datasel.scoring.runner import ModelRunner
from hf_datasel.scoring.target_rows import TargetSettings, cached
from hf_datasel.scoring.vector_files import list_array, row_blocks
from hf_datasel.tokens import TokenRows

__all__ = ["Similarity"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Similarity(TargetSettings, VectorScore):
    """Highest cosine of the row's embedding with those of the rows of a target task.

    Target rows are embedded like the rows, by the same model. The embeddings of RDS+ are `as_trained=True` and
    `pooling="weighted_mean"`: the last hidden states of a causal LM over the row exactly as training reads it, prompt
    and response, averaged with weights that rise with the position. The defaults are those of `Embedding`, for a
    sentence encoder. The selectors `RDSPlus` and `MostSimilar` select by the similarities with single target rows or
    subtasks in turn.

    Reads any supported row format. Writes `similarity` (float32, -1 to 1); `similarity_match`, the number of the
    target row with the highest cosine, from 0 (`"17"`, with subtasks `"algebra:17"`), "" for a row without a value;
    and `similarity_reason` ("" for a row with a value), as `Embedding` does. Cost: one forward pass per row without
    the LM head; with `as_trained` it is shared with `Loss` and `IFD`. With a score store the embeddings are stored,
    so that other target rows cost only their own.

    Reference: Ivison et al. 2025 (2503.01807), section 3 and appendix G; the code is theirs in
    `compute_influence_cosinesim.py`. They render rows with the template of Tulu, truncate them to 2,048 tokens and run
    the model in bfloat16; here rows are rendered and truncated as in training, and the sums are float32.

    Args:
        model: Name or path of the model, or its name at the endpoint. None uses the model of the round, or the `model`
            of `hf_datasel.score`.
        revision: Commit, branch or tag of a Hub model.
        validation: Rows of the target task: a file, a folder or a name on the Hub.
        validation_config: Configuration of a dataset on the Hub.
        validation_split: Split of the target rows.
        validation_columns: Names of the columns of a row format, or `role` and `content` of messages, and the names
            that the target rows have for them: `{"prompt": "question", "completion": "answer"}`.
        subtask: Column of the target rows with the subtask of each; by default they are one task.
        by_target: Whether `similarity_by_target` is written too, a list of float32 in each row: with `subtask` the
            highest cosine with a row of each subtask, in the order of their names, otherwise the cosine with each
            target row that has an embedding. Above 256 MiB the column is a memory-mapped file.
        max_length: Maximum number of tokens of a text; see `Embedding`.
        part: Part of the row: `"prompt"`, `"response"` or `"both"`.
        pooling: `"mean"`, `"weighted_mean"` or `"last"`; see `Embedding`.
        as_trained: Whether the row is read with the tokens of training, which needs a causal LM.
        base_url: Address of an OpenAI-compatible endpoint; see `Embedding`.
        dimensions: Number of dimensions, if the endpoint's model can shorten its vectors.
        concurrency: Maximum number of simultaneous requests to the endpoint in each process.
        limits: Limits of a request to the endpoint, as in `Judge`.
        api_key_env: Environment variable with the endpoint's token.
        dtype: Data type of the weights: "auto" or the name of a floating-point type.
        model_init_kwargs: Further arguments of `from_pretrained`, as in `SFTConfig`.
        column_prefix: Prefix of the name of every column that the score writes.

    >>> Similarity(validation="gsm8k.jsonl", as_trained=True, pooling="weighted_mean").value_column
    'similarity'
    """

    by_target: bool = field(default=False, kw_only=True)

    citation: ClassVar[str] = (
        "@misc{ivison2025rdsplus, title={Large-Scale Data Selection for Instruction Tuning}, author={Ivison, Hamish "
        "and Zhang, Muru and Brahman, Faeze and Koh, Pang Wei and Dasigi, Pradeep}, year={2025}, "
        "eprint={2503.01807}, archivePrefix={arXiv}}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_target()
        if type(self.by_target) is not bool:
            raise ConfigError(f"Similarity(by_target={self.by_target!r}): it has to be True or False.")

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        by_target = {"similarity_by_target": pa.list_(pa.float32())} if self.by_target else {}
        texts = {"similarity_match": pa.string(), "similarity_reason": pa.string()}
        return {"similarity": pa.float32(), **texts, **by_target}

    def check(self, rows: int) -> None:
        """Raise an error if the target rows cannot be read."""
        self.target()

    def spec(self) -> dict[str, Any]:
        """Return the settings for the record, with the model and the target rows resolved to digests."""
        return {**super().spec(), "resolved_validation": self.target().digest}

    def _identity(self) -> str:
        return f"{super()._identity()}:{self.target().digest}"

    def check_inputs(self, rows: TokenRows, runner: ModelRunner) -> None:
        """Raise an error if `compute` would fail for any rows of this format with this model."""
        super().check_inputs(rows, runner)
        if self.as_trained:
            self._target_rows(rows).training()

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        results = self.row_vectors(rows, runner)
        if not len(rows):  # the settings are checked, and no model is run
            return {name: pa.array([], dtype) for name, dtype in self.columns().items()}
        directions = self._directions(rows, runner)
        best = np.zeros(len(rows), dtype=np.float32)
        match = np.full(len(rows), "", dtype=object)

        def lists() -> Iterator[pa.Array]:
            return self._compare(results, directions, best, match)

        width, name = len(directions.lists), f"{self.column_prefix}similarity_by_target"
        by_target: Columns = {}
        if self.by_target:
            dtype = self.columns()["similarity_by_target"]
            column = runner.column_files.write(name, lists, dtype, 4 * len(rows) * width, runner.processes)
            by_target = {"similarity_by_target": column}
        else:
            for _ in lists():
                continue
        return {
            "similarity": pa.array(best, pa.float32(), mask=results.reasons != ""),
            "similarity_match": pa.array(match.tolist(), pa.string()),
            "similarity_reason": pa.array(results.reasons.tolist(), pa.string()),
            **by_target,
        }

    def _compare(
        self, results: RowVectors, directions: _Directions, best: np.ndarray, match: np.ndarray
    ) -> Iterator[pa.Array]:
        """Yield the similarities with each list in blocks of rows, and set the highest one and the reason of each."""
        vectors, positions, reasons = results
        names = np.array(directions.names, dtype=object)
        bytes_per_row = 8 * (vectors.shape[1] + len(names))
        for block in row_blocks(len(positions), bytes_per_row):
            rows = block.start + np.flatnonzero(positions[block] >= 0)
            cosines, is_usable = directions.cosines(vectors[positions[rows]])
            reasons[rows[~is_usable]] = "not_finite"
            rows, cosines = rows[is_usable], cosines[is_usable]
            first = cosines.argmax(axis=1) if len(rows) else np.empty(0, dtype=np.int64)
            best[rows] = cosines[np.arange(len(rows)), first]
            match[rows] = names[first]
            is_valid = np.zeros(block.stop - block.start, dtype=bool)
            is_valid[rows - block.start] = True
            yield list_array(np.maximum.reduceat(cosines, directions.lists, axis=1), is_valid)

    def _target_rows(self, rows: TokenRows) -> TokenRows:
        plain = replace(rows.settings, completion_only_loss=None)  # the trainer's is for the pool's format
        return TokenRows(self.target().pool, rows.tokenizer, plain)

    def _directions(self, rows: TokenRows, runner: ModelRunner) -> _Directions:
        """Return the directions of the target rows, which a process computes once for a model loaded by name."""

        def compute() -> _Directions:
            target_rows, labels = self._target_rows(rows), self.target().labels
            results = self.row_vectors(target_rows, runner)
            return _Directions.of(results, labels, self.validation, target_rows.messages)

        if runner.model is not None and runner.loading is None:
            return compute()
        model = None if runner.loading is None else [runner.loading.identity(), str(runner.autocast)]
        tokenizer = None if rows.tokenizer is None else tokenizer_identity(rows.tokenizer)
        key = json.dumps([self.spec(), model, tokenizer, asdict(rows.settings.content)], default=str)
        directions: _Directions = cached(("directions", key), compute)
        return directions


@dataclass(frozen=True, eq=False)
class _Directions:
    """Embeddings of the usable target rows, scaled to length 1, in the order of their subtasks.

    Args:
        vectors: Float64 of shape (targets, dimensions).
        names: Name of each target row.
        lists: Position of the first target row of each list of similarities, int64.
    """

    vectors: np.ndarray
    names: list[str]
    lists: np.ndarray

    @classmethod
    def of(cls, results: RowVectors, labels: np.ndarray, name: str, messages: dict[str, str]) -> _Directions:
        """Scale the embeddings of target rows. Rows without one are excluded, and logged."""
        rows = np.flatnonzero(results.positions >= 0)
        vectors = results.vectors[results.positions[rows]].astype(np.float64)
        norms = np.linalg.norm(vectors, axis=1)
        is_usable = np.isfinite(norms) & (norms > 0)
        reasons = results.reasons.copy()
        reasons[rows[~is_usable]] = "not_finite"
        rows, vectors = rows[is_usable], vectors[is_usable] / norms[is_usable, None]
        nulls = null_counts(reasons)
        counts = reason_counts(nulls, messages)
        if not len(rows):
            raise ScoreError(f"None of the {len(labels):,} rows of {name!r} can be used: {counts}.")
        order = np.argsort(labels[rows], kind="stable")
        rows, vectors = rows[order], vectors[order]
        subtasks = labels[rows]
        if nulls:
            empty = sorted(set(labels.tolist()) - set(subtasks.tolist()))
            more = f" Subtasks without any row: {', '.join(empty)}." if empty else ""
            logger.warning(
                "%d of the %d validation rows %r are excluded: %s.%s", nulls.total(), len(labels), name, counts, more
            )
        if not (labels != "").any():
            return cls(vectors, [str(row) for row in rows.tolist()], np.arange(len(rows)))
        names = [f"{subtask}:{row}" for subtask, row in zip(subtasks.tolist(), rows.tolist(), strict=True)]
        return cls(vectors, names, np.flatnonzero(np.append(True, subtasks[1:] != subtasks[:-1])))

    def cosines(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the cosines of vectors with the target rows, and whether each vector has any.

        Products are float64, so that the float32 cosines do not depend on how rows are divided into blocks.

        Args:
            vectors: Float32 of shape (rows, dimensions).

        Returns:
            Float32 of shape (rows, targets), and bool of shape (rows,).
        """
        values = vectors.astype(np.float64)
        norms = np.linalg.norm(values, axis=1)
        is_usable = np.isfinite(norms) & (norms > 0)
        scaled = values / np.where(is_usable, norms, 1.0)[:, None]
        scaled[~is_usable] = 0.0
        return (scaled @ self.vectors.T).astype(np.float32), is_usable
