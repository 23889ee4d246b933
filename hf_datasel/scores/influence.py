"""Gradient-based influence of a row on a target task (LESS)."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ConfigError, FormatError, ScoreError, check_option, reason_counts
from hf_datasel.scoring.base import Columns, ModelScore, Score, finite_or_null, null_counts
from hf_datasel.scoring.models import Loading, model_identity, tokenizer_identity
from hf_datasel.scoring.optimizer_checkpoints import Checkpoint, CheckpointGradients
from hf_datasel.scoring.runner import ModelRunner
from hf_datasel.scoring.target_rows import TargetRows, TargetSettings, cached, check_texts
from hf_datasel.tokens import Sequences, TokenRows, TokenSettings

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Influence"]

logger = logging.getLogger(__name__)

_AGGREGATES = ["code", "paper", "mean"]


@dataclass(frozen=True)
class Influence(TargetSettings, ModelScore):
    """Cosine of a training step on the row with the gradients of a target task, averaged over checkpoints.

    For each checkpoint of a warm-up run the Adam update computed from the row's gradient is compared with the
    gradients of the validation rows: the cosine of the two after a random projection to `projection_dim` dimensions.
    Checkpoints are averaged, weighted by the mean learning rate of the epoch before each. The weights are normalized,
    so that a score lies between -1 and 1: the paper's sum is this number times the sum of the learning rates, which
    does not change the order. With several subtasks the score is that of the best one. The warm-up is not part of this
    score: it is an ordinary run of `SFTTrainer`, for example LoRA on a random 5 % for four epochs with one checkpoint
    each, that saves its optimizer (`save_only_model=False`, AdamW in full precision).

    Reads any supported row format that has a response. Writes `influence` (float32, between -1 and 1) and
    `influence_reason` ("" for a scored row). Cost: one forward and one backward pass per row and checkpoint, and a
    product of each gradient with a matrix of `projection_dim` columns. In `Dataset.map` the validation gradients are
    computed once, but several checkpoints are loaded again for each batch: use `hf_datasel.score`.

    Reference: Xia et al. 2024 (2402.04333, LESS); `aggregate="mean"` is Xia et al. 2024 (2410.09335).

    Args:
        model: Not supported and has to be None: the models are those of `checkpoints`.
        revision: Not supported and has to be None, like `model`.
        checkpoints: Folders that `SFTTrainer` saved: adapters, whose parameters are used, or full models, of which all
            parameters are used.
        validation: Rows of the target task: a file, a folder or a name on the Hub.
        validation_config: Configuration of a dataset on the Hub.
        validation_split: Split of the validation rows.
        validation_columns: Names of the columns of a row format, or `role` and `content` of messages, and the names
            that the validation rows have for them: `{"prompt": "question", "completion": "answer"}`.
        subtask: Column of the validation rows with the subtask of each; by default they are one task.
        aggregate: `"code"` is the mean of the cosines with a subtask's rows, for the best subtask, as in the authors'
            code. `"paper"` is the cosine with the mean of the subtask's gradients, for the best subtask. `"mean"` is
            the mean of the cosines with all validation rows.
        projection_dim: Number of dimensions that gradients are projected to. With at least as many as there are
            parameters, nothing is projected.
        seed: Random seed of the projection.
        learning_rates: Weights of the checkpoints; by default read from each `trainer_state.json`.
        gradients: Folder where the projected training gradients are stored, so that another validation set needs only
            its own. They are rounded to float16: 16 KiB per row and checkpoint for 8,192 dimensions.
        dtype: Data type of the weights at the checkpoints: "auto" or the name of a floating-point type.
        model_init_kwargs: Further arguments of `from_pretrained` for the checkpoints, as in `SFTConfig`.
        max_length: Number of tokens that rows are truncated to. None uses the `max_length` of the training arguments,
            and 1,024 outside a trainer.
        column_prefix: Prefix of the name of every column that the score writes.

    >>> Influence(checkpoints=("out/checkpoint-9",), validation="bbh.jsonl", subtask="task").aggregate
    'code'
    """

    checkpoints: tuple[str, ...] = field(kw_only=True)
    aggregate: Literal["code", "paper", "mean"] = field(default="code", kw_only=True)
    projection_dim: int = field(default=8192, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    learning_rates: tuple[float, ...] | None = field(default=None, kw_only=True)
    gradients: str | None = field(default=None, kw_only=True)

    version: ClassVar[int] = 1
    as_trained: ClassVar[bool] = True  # in a trainer, rows are truncated as in training
    citation = (
        "@inproceedings{xia2024less, title={LESS: Selecting Influential Data for Targeted Instruction Tuning}, "
        "author={Xia, Mengzhou and Malladi, Sadhika and Gururangan, Suchin and Arora, Sanjeev and Chen, Danqi}, "
        "booktitle={ICML}, year={2024}}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is not None or self.revision is not None:
            raise ConfigError("Influence runs the models of its checkpoints: remove model and revision.")
        object.__setattr__(self, "checkpoints", _check_checkpoints(self.checkpoints))
        self.check_target()
        check_texts(self, "aggregate")
        check_texts(self, "gradients", optional=True)
        check_option(f"Influence(aggregate={self.aggregate!r})", self.aggregate, _AGGREGATES)
        if self.aggregate == "mean" and self.subtask is not None:
            raise ConfigError("Influence(aggregate='mean') takes all validation rows as one task: remove subtask.")
        if type(self.projection_dim) is not int or self.projection_dim < 1:
            raise ConfigError(f"projection_dim={self.projection_dim!r}: it has to be an int of at least 1.")
        if type(self.seed) is not int or not 0 <= self.seed < 1 << 63:
            raise ConfigError(f"seed={self.seed!r}: it has to be an int from 0 to 2**63 - 1.")
        object.__setattr__(self, "learning_rates", _check_rates(self.learning_rates, len(self.checkpoints)))

    @property
    def needs_tokenizer(self) -> bool:
        """Whether the score needs tokenized rows."""
        return False  # the checkpoints have their own

    def check(self, rows: int) -> None:
        """Raise an error if the validation rows cannot be read, or gradients cannot be stored."""
        self._source()
        if self.gradients is not None:
            _check_folder(self.gradients)

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        return {"influence": pa.float32(), "influence_reason": pa.string()}

    def spec(self) -> dict[str, Any]:
        """Return the settings for the record, with model and file names resolved to digests."""
        tokens = {**asdict(self.token_settings()), "tokenizer": tokenizer_identity(self._tokenizer())}
        return {**super().spec(), **self._resolved(), "tokens": tokens}

    def _resolved(self) -> dict[str, Any]:
        """Return digests of what the names in the settings stand for."""
        points = [Checkpoint(folder) for folder in self.checkpoints]
        return {
            "resolved_checkpoints": [model_identity(str(point.path)) for point in points],
            "resolved_optimizers": [point.digest() for point in points],
            "resolved_learning_rates": self._weights(),
            "resolved_validation": self._source().digest,
        }

    def _identity(self) -> str:
        return f"{super()._identity()}:{json.dumps(self._resolved())}"

    def _rows_of(self, dataset: Dataset) -> tuple[TokenRows, ModelRunner]:
        rows, runner = Score._rows_of(self, dataset)
        return TokenRows(rows.pool, None, self.token_settings()), runner

    def _weights(self) -> list[float]:
        """Return the learning rate of each checkpoint."""
        points = [Checkpoint(folder) for folder in self.checkpoints]
        previous = [None, *points[:-1]]
        return list(self.learning_rates or map(Checkpoint.learning_rate, points, previous))

    def _tokenizer(self) -> Any:
        """Return the tokenizer of the first checkpoint, which all have to share."""
        tokenizers = [Checkpoint(folder).tokenizer() for folder in self.checkpoints]
        for name, tokenizer in zip(self.checkpoints, tokenizers, strict=True):
            if tokenizer_identity(tokenizer) != tokenizer_identity(tokenizers[0]):
                raise ScoreError(
                    f"The tokenizer or chat template of {name!r} differs from that of {self.checkpoints[0]!r}: "
                    "checkpoints have to come from one run."
                )
        return tokenizers[0]

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        if not len(rows):  # the checkpoints may not exist yet
            rows.training()  # raises for formats without a response
            return {name: pa.array([], kind) for name, kind in self.columns().items()}
        tokenizer, settings = self._tokenizer(), rows.settings
        own_rows = TokenRows(rows.pool, tokenizer, settings, indices=rows.indices, collective=rows.collective)
        tokens = own_rows.training()
        rows.messages |= own_rows.messages
        sequences, influence = tokens.conditional, np.full(len(rows), np.nan)
        if len(sequences):
            task = self._task(tokenizer, settings.content)
            weights = np.array(self._weights()) / sum(self._weights())
            total = np.zeros((len(sequences), len(task.names)))
            for index, weight in enumerate(weights):
                total += weight * self._cosines(index, runner, sequences, task, null_counts(tokens.reasons))
            influence[sequences.owner] = total.max(axis=1)
        values, reasons = finite_or_null([influence], tokens.reasons)
        return {"influence": values[0], "influence_reason": reasons}

    def _cosines(
        self, index: int, runner: ModelRunner, sequences: Sequences, task: _Task, nulls: Counter[str]
    ) -> np.ndarray:
        """Return the cosines with each subtask at one checkpoint, whose model is freed at the end."""
        path, label = str(Checkpoint(self.checkpoints[index]).path), f"influence {index + 1}/{len(self.checkpoints)}"
        loading = Loading(path, None, self.dtype, init_kwargs=self.model_init_kwargs)
        point = CheckpointGradients(loading, runner, self.projection_dim, self.seed, label, self.gradients)
        spec = {"aggregate": self.aggregate, "task": task.digest}
        return point.cosines(sequences, self._targets(point, task), spec, nulls)

    def _task(self, tokenizer: Any, settings: TokenSettings) -> _Task:
        target = self._source()
        key = ("task", target.digest, tokenizer_identity(tokenizer), settings)
        task: _Task = cached(key, lambda: _Task.read(self.validation, target, tokenizer, settings))
        return task

    def _source(self) -> TargetRows:
        target = self.target()
        if target.pool.format == "text":
            raise FormatError(
                f"The validation rows {self.validation!r} have only a text column, and no response to learn from."
            )
        return target

    def _targets(self, point: CheckpointGradients, task: _Task) -> np.ndarray:
        """Return the direction of each subtask, float32 of shape (subtasks, projection_dim)."""
        key = ("targets", json.dumps([point.spec(), task.digest, self.aggregate], default=str))
        as_paper = self.aggregate == "paper"
        directions: np.ndarray = cached(key, lambda: task.directions(point.plain(task.sequences), as_paper))
        return directions


@dataclass(frozen=True)
class _Task:
    """Tokens of the usable validation rows, the index of the subtask of each, and a digest of both."""

    sequences: Sequences
    groups: np.ndarray
    names: list[str]
    digest: str

    @classmethod
    def read(cls, name: str, target: TargetRows, tokenizer: Any, settings: TokenSettings) -> _Task:
        """Tokenize the validation rows. Unusable rows are excluded, and logged."""
        pool, labels = target.pool, target.labels
        plain = replace(settings, completion_only_loss=None)  # the trainer's is for the pool's format
        rows = TokenRows(pool, tokenizer, plain)
        tokens = rows.training()
        sequences, nulls = tokens.conditional, null_counts(tokens.reasons)
        counts = reason_counts(nulls, rows.messages)
        if not len(sequences):
            raise ScoreError(f"None of the {len(pool):,} rows of {name!r} can be used: {counts}.")
        names, groups = np.unique(labels[sequences.owner], return_inverse=True)
        if nulls:
            empty = sorted(set(labels.tolist()) - set(names.tolist()))
            more = f" Subtasks without any row: {', '.join(empty)}." if empty else ""
            logger.warning(
                "%d of the %d validation rows %r are excluded: %s.%s", nulls.total(), len(pool), name, counts, more
            )
        digest = hashlib.sha256(sequences.digests().tobytes() + groups.astype("<i8").tobytes()).hexdigest()
        return cls(sequences, groups, names.tolist(), digest)

    def directions(self, gradients: np.ndarray, as_paper: bool) -> np.ndarray:
        """Return the mean of each subtask's normalized gradients, or as in the paper the normalized mean."""
        norms = np.linalg.norm(gradients, axis=1, keepdims=True)
        usable = np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)
        if not usable.all():
            logger.warning("%d validation rows are excluded: their gradient is 0 or not finite.", (~usable).sum())
        rows, groups = gradients[usable] / (1 if as_paper else norms[usable]), self.groups[usable]
        for missing in set(range(len(self.names))) - set(groups.tolist()):
            name = f" of subtask {self.names[missing]!r}" if self.names[missing] else ""
            raise ScoreError(f"No validation row{name} has a usable gradient.")
        means = np.stack([rows[groups == number].mean(axis=0) for number in range(len(self.names))])
        return means / np.linalg.norm(means, axis=1, keepdims=True) if as_paper else means


def _check_folder(folder: str) -> None:
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ScoreError(f"gradients={folder!r} cannot be written to: {error.strerror}.") from error


def _check_checkpoints(names: Any) -> tuple[str, ...]:
    if not isinstance(names, tuple | list) or not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"Influence(checkpoints={names!r}): it has to be a list of folders, at least one.")
    if len(set(names)) < len(names):
        raise ConfigError(f"Influence(checkpoints=...) names a folder twice: {list(names)}.")
    return tuple(names)


def _check_rates(rates: Any, num_checkpoints: int) -> tuple[float, ...] | None:
    if rates is None:
        return None
    values = list(rates) if isinstance(rates, tuple | list) else []
    valid = all(isinstance(value, int | float) and math.isfinite(value) and value >= 0 for value in values)
    if len(values) != num_checkpoints or not valid or not sum(values) > 0:
        raise ConfigError(
            f"learning_rates={rates!r}: it has to be one number of at least 0 for each of the {num_checkpoints} "
            "checkpoints, not all of them 0."
        )
    return tuple(float(value) for value in values)
