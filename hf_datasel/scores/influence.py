"""How much training on a row would help on a target task, by gradients (LESS)."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import sys
import tempfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ColumnError, ConfigError, FormatError, ScoreError, did_you_mean, reason_counts
from hf_datasel.formats import Pool, load_pool
from hf_datasel.scoring.base import Columns, ModelScore, Score, finite_or_null, null_counts
from hf_datasel.scoring.models import Loading, model_identity, tokenizer_identity
from hf_datasel.scoring.optimizer_checkpoints import Checkpoint, CheckpointRows
from hf_datasel.scoring.runner import ModelContext
from hf_datasel.tokens import Sequences, TokenRows, TokenSettings

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Influence"]

logger = logging.getLogger(__name__)

_AGGREGATES = ["code", "paper", "mean"]
_REMEMBERED = 32
"""Validation sets, and their gradients at a checkpoint, that a process remembers for `Dataset.map`."""


@dataclass(frozen=True)
class Influence(ModelScore):
    """How far a training step on the row goes in the direction that lowers the loss on rows of a target task.

    For each checkpoint of a warm-up run the gradient of the row's loss, as the step that Adam would take with it, is
    compared with the gradients of the validation rows: the cosine of the two after a random projection to
    `projection_dim` numbers. The checkpoints are averaged, each with the weight of the mean learning rate of the
    epoch before it. These weights are divided by their sum, so that a score lies between -1 and 1: the paper's sum is
    this number times that of the learning rates, which changes no order. With several subtasks the best one counts.
    Nothing is trained here: the warm-up is an ordinary run of `SFTTrainer`, say with LoRA on a random 5 % for four
    epochs, one checkpoint each, that saves its optimizer (`save_only_model=False`, AdamW in full precision).

    Reads any supported row format that has a response. Writes `influence` (float32, between -1 and 1) and
    `influence_reason` ("" for a scored row). Cost: a forward and a backward pass per row and checkpoint, and a product
    of each gradient with a matrix of `projection_dim` columns. In `Dataset.map` the validation gradients are computed
    once, but several checkpoints are loaded again for each batch: use `hf_datasel.score`.
    Reference: Xia et al. 2024 (2402.04333, LESS); `aggregate="mean"` is Xia et al. 2024 (2410.09335).

    >>> Influence(checkpoints=("out/checkpoint-9",), validation="bbh.jsonl", subtask="task").aggregate
    'code'
    """

    checkpoints: tuple[str, ...] = field(kw_only=True)
    """Folders that `SFTTrainer` saved: adapters, of which the adapter's parameters are looked at, or whole models, of
    which all are."""
    validation: str = field(kw_only=True)
    """Rows of the target task: a file, a folder or a name on the Hub."""
    validation_split: str = field(default="train", kw_only=True)
    subtask: str | None = field(default=None, kw_only=True)
    """Column of the validation rows that says which subtask a row belongs to; None makes all of them one."""
    aggregate: Literal["code", "paper", "mean"] = field(default="code", kw_only=True)
    """`"code"`: the mean of the cosines with a subtask's rows, of the best subtask, as the authors' code has it.
    `"paper"`: the cosine with the mean of the subtask's gradients, of the best subtask. `"mean"`: the mean of the
    cosines with all validation rows, whatever their subtask."""
    projection_dim: int = field(default=8192, kw_only=True)
    """Numbers that a gradient is projected to. With as many as there are parameters, or more, nothing is projected."""
    seed: int = field(default=0, kw_only=True)
    """Of the projection."""
    learning_rates: tuple[float, ...] | None = field(default=None, kw_only=True)
    """Weights of the checkpoints; None reads them from each `trainer_state.json`."""
    gradients: str | None = field(default=None, kw_only=True)
    """Folder where the projected training gradients are kept, so that another validation set needs only its own. They
    are rounded to float16: 16 KiB a row and checkpoint for 8,192 numbers."""

    version: ClassVar[int] = 1
    as_trained: ClassVar[bool] = True
    """In a trainer, rows are cut as there."""
    citation = (
        "@inproceedings{xia2024less, title={LESS: Selecting Influential Data for Targeted Instruction Tuning}, "
        "author={Xia, Mengzhou and Malladi, Sadhika and Gururangan, Suchin and Arora, Sanjeev and Chen, Danqi}, "
        "booktitle={ICML}, year={2024}}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is not None or self.revision is not None:
            raise ConfigError("Influence runs the models of its checkpoints: leave model and revision out.")
        object.__setattr__(self, "checkpoints", _names(self.checkpoints))
        for name in ("validation", "validation_split", "subtask", "gradients", "aggregate"):
            value = getattr(self, name)
            if value is not None or name not in ("subtask", "gradients"):
                if not isinstance(value, str) or not value:
                    raise ConfigError(f"Influence({name}={value!r}): it has to be a text that is not empty.")
                object.__setattr__(self, name, sys.intern(value))  # one object in each pickle, also as a field's name
        if self.aggregate not in _AGGREGATES:
            hint = did_you_mean(self.aggregate, _AGGREGATES)
            raise ConfigError(f"Influence(aggregate={self.aggregate!r}): it has to be one of {_AGGREGATES}.{hint}")
        if self.aggregate == "mean" and self.subtask is not None:
            raise ConfigError("Influence(aggregate='mean') takes all validation rows as one task: leave subtask out.")
        if type(self.projection_dim) is not int or self.projection_dim < 1:
            raise ConfigError(f"projection_dim={self.projection_dim!r}: it has to be an int of at least 1.")
        if type(self.seed) is not int or not 0 <= self.seed < 1 << 63:
            raise ConfigError(f"seed={self.seed!r}: it has to be an int from 0 to 2**63 - 1.")
        object.__setattr__(self, "learning_rates", _rates(self.learning_rates, len(self.checkpoints)))

    @property
    def needs_tokenizer(self) -> bool:
        return False  # the checkpoints bring their own

    def check(self, rows: int) -> None:
        """Read the validation rows, and see that gradients can be kept."""
        self._source()
        if self.gradients is not None:
            _check_folder(self.gradients)

    def columns(self) -> dict[str, pa.DataType]:
        return {"influence": pa.float32(), "influence_reason": pa.string()}

    def spec(self) -> dict[str, Any]:
        tokens = {**asdict(self.token_settings()), "tokenizer": tokenizer_identity(self._tokenizer())}
        return {**super().spec(), **self._resolved(), "tokens": tokens}

    def _resolved(self) -> dict[str, Any]:
        """What the names in the settings stand for now."""
        points = [Checkpoint(each) for each in self.checkpoints]
        return {
            "resolved_checkpoints": [model_identity(str(each.path)) for each in points],
            "resolved_optimizers": [each.digest() for each in points],
            "resolved_learning_rates": self._weights(),
            "resolved_validation": self._source()[2],
        }

    def _identity(self) -> str:
        return f"{super()._identity()}:{json.dumps(self._resolved())}"

    def _rows_of(self, dataset: Dataset) -> tuple[TokenRows, ModelContext]:
        rows, context = Score._rows_of(self, dataset)
        return TokenRows(rows.pool, None, self.token_settings()), context

    def _weights(self) -> list[float]:
        """The learning rate of each checkpoint."""
        points = [Checkpoint(each) for each in self.checkpoints]
        before = [None, *points[:-1]]
        return list(self.learning_rates or map(Checkpoint.learning_rate, points, before))

    def _tokenizer(self) -> Any:
        """The tokenizer of the first checkpoint, which has to be that of all."""
        tokenizers = [Checkpoint(each).tokenizer() for each in self.checkpoints]
        for name, each in zip(self.checkpoints, tokenizers, strict=True):
            if tokenizer_identity(each) != tokenizer_identity(tokenizers[0]):
                raise ScoreError(
                    f"The tokenizer or chat template of {name!r} differs from that of {self.checkpoints[0]!r}: "
                    "checkpoints have to come from one run."
                )
        return tokenizers[0]

    def compute(self, rows: TokenRows, context: ModelContext) -> Columns:
        if not len(rows):  # the checkpoints need not be there yet
            rows.training()  # refuses rows without a response
            return {name: pa.array([], kind) for name, kind in self.columns().items()}
        tokenizer, settings = self._tokenizer(), rows.settings
        tokens = TokenRows(rows.pool, tokenizer, settings, indices=rows.indices).training()
        sequences, influence = tokens.conditional, np.full(len(rows), np.nan)
        if len(sequences):
            task = self._task(tokenizer, settings)
            weights = np.array(self._weights()) / sum(self._weights())
            total = np.zeros((len(sequences), len(task.names)))
            for at, weight in enumerate(weights):
                total += weight * self._cosines(at, context, sequences, task, null_counts(tokens.reasons))
            influence[sequences.owner] = total.max(axis=1)
        values, reasons = finite_or_null([influence], tokens.reasons)
        return {"influence": values[0], "influence_reason": reasons}

    def _cosines(
        self, at: int, context: ModelContext, sequences: Sequences, task: _Task, nulls: Counter[str]
    ) -> np.ndarray:
        """Those with each subtask at one checkpoint, whose model is let go at the end."""
        path, label = str(Checkpoint(self.checkpoints[at]).path), f"influence {at + 1}/{len(self.checkpoints)}"
        loading = Loading(path, None, self.dtype, init_kwargs=self.model_init_kwargs)
        point = CheckpointRows(loading, context, self.projection_dim, self.seed, label, self.gradients)
        spec = {"aggregate": self.aggregate, "task": task.digest}
        return point.cosines(sequences, self._targets(point, task), spec, nulls)

    def _task(self, tokenizer: Any, settings: TokenSettings) -> _Task:
        pool, labels, digest = self._source()
        of = (self.validation, pool, labels, tokenizer, settings)
        found: _Task = _remembered(("task", digest, tokenizer_identity(tokenizer), settings), lambda: _Task.read(*of))
        return found

    def _source(self) -> tuple[Pool, np.ndarray, str]:
        """The validation rows, the subtask of each, and a digest of both."""

        def made() -> tuple[Pool, np.ndarray, str]:
            pool = Pool(load_pool(self.validation, self.validation_split))
            if pool.format == "text":
                raise FormatError(
                    f"The validation rows {self.validation!r} have only a text column, and no response to learn from."
                )
            labels = _labels(pool, self.validation, self.subtask)
            return pool, labels, hashlib.sha256(json.dumps([pool.id, labels.tolist()]).encode()).hexdigest()

        key = ("rows", self.validation, self.validation_split, self.subtask, _stamp(self.validation))
        found: tuple[Pool, np.ndarray, str] = _remembered(key, made)
        return found

    def _targets(self, point: CheckpointRows, task: _Task) -> np.ndarray:
        """What the steps are compared with: one direction a subtask, float32 of shape (subtasks, numbers)."""
        key = ("targets", json.dumps([point.spec(), task.digest, self.aggregate], default=str))
        whole = self.aggregate == "paper"
        found: np.ndarray = _remembered(key, lambda: task.directions(point.plain(task.sequences), whole))
        return found


@dataclass(frozen=True)
class _Task:
    """The tokens of the validation rows that can be used, each one's subtask by number, and a digest of both."""

    sequences: Sequences
    groups: np.ndarray
    names: list[str]
    digest: str

    @classmethod
    def read(cls, name: str, pool: Pool, labels: np.ndarray, tokenizer: Any, settings: TokenSettings) -> _Task:
        """Tokenise them. Rows that cannot be used are left out, which is logged."""
        plain = replace(settings, completion_only_loss=None)  # a trainer has it of the pool, whose format may differ
        tokens = TokenRows(pool, tokenizer, plain).training()
        sequences, nulls = tokens.conditional, null_counts(tokens.reasons)
        if not len(sequences):
            raise ScoreError(f"None of the {len(pool):,} rows of {name!r} can be used: {reason_counts(nulls)}.")
        names, groups = np.unique(labels[sequences.owner], return_inverse=True)
        if nulls:
            empty = sorted(set(labels.tolist()) - set(names.tolist()))
            more = f" Subtasks without any row: {', '.join(empty)}." if empty else ""
            counts = (nulls.total(), len(pool), name, reason_counts(nulls))
            logger.warning("%d of the %d validation rows %r are left out: %s.%s", *counts, more)
        digest = hashlib.sha256(sequences.digests().tobytes() + groups.astype("<i8").tobytes()).hexdigest()
        return cls(sequences, groups, names.tolist(), digest)

    def directions(self, gradients: np.ndarray, as_paper: bool) -> np.ndarray:
        """Of each subtask the mean of its rows' directions, or the direction of the mean of its rows' gradients."""
        lengths = np.linalg.norm(gradients, axis=1, keepdims=True)
        usable = np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)
        if not usable.all():
            logger.warning("%d validation rows are left out: their gradient is 0 or not finite.", (~usable).sum())
        rows, groups = gradients[usable] / (1 if as_paper else lengths[usable]), self.groups[usable]
        for lost in set(range(len(self.names))) - set(groups.tolist()):
            name = f" of subtask {self.names[lost]!r}" if self.names[lost] else ""
            raise ScoreError(f"No validation row{name} has a usable gradient.")
        found = np.stack([rows[groups == number].mean(axis=0) for number in range(len(self.names))])
        return found / np.linalg.norm(found, axis=1, keepdims=True) if as_paper else found


_MEMORY: OrderedDict[Hashable, Any] = OrderedDict()


def _remembered(key: Hashable, make: Callable[[], Any]) -> Any:
    """What was made for the key before, in this process: `Dataset.map` asks for it with each batch."""
    if key not in _MEMORY:
        _MEMORY[key] = make()
    _MEMORY.move_to_end(key)
    while len(_MEMORY) > _REMEMBERED:
        _MEMORY.popitem(last=False)
    return _MEMORY[key]


def _labels(pool: Pool, name: str, subtask: str | None) -> np.ndarray:
    """The subtask of each validation row, as a string."""
    if subtask is None:
        return np.full(len(pool), "")
    columns = pool.dataset.column_names
    if subtask not in columns:
        hint = did_you_mean(subtask, columns)
        raise ColumnError(f"Influence(subtask={subtask!r}): the validation rows {name!r} have {columns}.{hint}")
    values = pool.dataset[subtask][:]
    if any(value is None for value in values):
        raise ColumnError(f"Column {subtask!r} of the validation rows {name!r} has nulls: each needs a subtask.")
    return np.array([str(value) for value in values])


def _check_folder(folder: str) -> None:
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ScoreError(f"gradients={folder!r} cannot be written to: {error.strerror}.") from error


def _stamp(name: str) -> tuple[tuple[str, int, int], ...]:
    """Changes when the files of that name do; empty for a dataset on the Hub."""
    path = Path(name).expanduser()
    files = [each for each in [path, *sorted(path.rglob("*"))] if each.is_file()]
    return tuple((str(each), each.stat().st_size, each.stat().st_mtime_ns) for each in files)


def _names(names: Any) -> tuple[str, ...]:
    if not isinstance(names, tuple | list) or not names or not all(isinstance(each, str) and each for each in names):
        raise ConfigError(f"Influence(checkpoints={names!r}): it has to be a list of folders, at least one.")
    if len(set(names)) < len(names):
        raise ConfigError(f"Influence(checkpoints=...) names a folder twice: {list(names)}.")
    return tuple(names)


def _rates(rates: Any, wanted: int) -> tuple[float, ...] | None:
    if rates is None:
        return None
    given = list(rates) if isinstance(rates, tuple | list) else []
    valid = all(isinstance(each, int | float) and math.isfinite(each) and each >= 0 for each in given)
    if len(given) != wanted or not valid or not sum(given) > 0:
        raise ConfigError(
            f"learning_rates={rates!r}: it has to be one number of at least 0 for each of the {wanted} checkpoints, "
            "not all of them 0."
        )
    return tuple(float(each) for each in given)
