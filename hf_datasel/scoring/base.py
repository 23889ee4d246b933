"""Base classes of scores: `Score` and `ModelScore`."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import pyarrow as pa

from hf_datasel._lazy import torch
from hf_datasel.errors import ConfigError, ScoreError, did_you_mean
from hf_datasel.formats import Batch
from hf_datasel.scoring.map_batches import check_batch, dataset_of_batch, with_new_columns
from hf_datasel.scoring.models import (
    MAP_MODELS,
    Kind as ModelKind,
    Loading,
    check_max_length,
    load_config,
    model_identity,
)
from hf_datasel.scoring.progress import map_progress_disabled
from hf_datasel.spec import (
    HasSpec,
    Kind,
    changed_settings,
    description,
    interned,
    object_key,
    spec_name,
    without_tokens,
)
from hf_datasel.tokens import TokenRows, TokenSettings

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

    from hf_datasel.scoring.runner import ModelRunner

__all__ = [
    "Columns",
    "ModelScore",
    "Score",
    "finite_or_null",
    "is_number_list",
    "is_text_list",
    "null_counts",
    "with_parts",
]

logger = logging.getLogger(__name__)

Columns: TypeAlias = dict[str, pa.Array | pa.ChunkedArray]
"""New columns by name, one value per row; null where a row has no value."""


@dataclass(frozen=True)
class Score(HasSpec, ABC):
    """A score for each row: a frozen dataclass whose fields are its settings.

    A score is a callable for `Dataset.map(score, batched=True)`, and an argument of `hf_datasel.score`, which is
    faster for scores that run a model. A subclass implements `columns` and `compute`.

    Args:
        column_prefix: Prefix of the name of every column that the score writes.

    Attributes:
        version: Version of the computation. It is increased when equal settings produce different numbers, so that
            values cached under an earlier version are not used.
        citation: BibTeX of the paper that the score comes from, for the dataset card.
        is_flaw: Whether rows with high values are to be excluded, rather than selected.
    """

    column_prefix: str = field(default="", kw_only=True)

    spec_kind: ClassVar[Kind] = "score"
    version: ClassVar[int] = 1
    citation: ClassVar[str] = ""
    is_flaw: ClassVar[bool] = False

    @abstractmethod
    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""

    @abstractmethod
    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows.

        Args:
            rows: The rows, with their token ids if `needs_tokenizer` is true.
            runner: Runs the model in batches, on all processes, and caches results in the score store.
                `runner.model` is None for a score that needs no model.

        Returns:
            The columns by name, without the prefix: one value per row, null where a row has no value.
        """

    @property
    def value_column(self) -> str:
        """Name of the column that selectors rank rows by, with the prefix: the first one by default."""
        return f"{self.column_prefix}{next(iter(self.columns()))}"

    def announce(self, rows: TokenRows, runner: ModelRunner) -> None:
        """Tokenize the rows, and tell the runner which forward passes `compute` will request.

        Several scores share a forward pass then. In a large dataset this is called in a thread, while earlier rows
        are computed.

        Args:
            rows: The rows that `compute` will be called with.
            runner: The runner that `compute` will be called with; see `ModelRunner.announce`.
        """
        return

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the columns that the score reads, other than those that make the row.

        In `map` a score sees only these and the columns of the row.
        """
        return ()

    def check(self, rows: int) -> None:
        """Raise an error if the settings cannot work for this number of rows, before anything is computed.

        Args:
            rows: Number of rows in the dataset.

        Raises:
            ScoreError: The settings cannot work; the message says what to change.
        """
        return

    def check_inputs(self, rows: TokenRows, runner: ModelRunner) -> None:
        """Raise an error if `compute` would fail for any rows of this format with this model.

        The trainer calls this before training starts, because some scores are computed only later. No model is run,
        and none is loaded by name.

        Args:
            rows: No rows, but with the format and the tokenizer of the rows to come.
            runner: As in `compute`.
        """
        if runner.loading is None:
            self.compute(rows, runner)

    @property
    def parts(self) -> tuple[Score, ...]:
        """Scores that are computed before this one, which reads their columns."""
        return ()

    @property
    def not_in_batches(self) -> str:
        """Why a value cannot be computed from a batch of rows, as in `Dataset.map` and in shards; "" if it can.

        Such a score is always computed for all rows of the dataset. The text is the end of a sentence, such as "ranks
        are among all rows".
        """
        return ""

    @property
    def needs_fit(self) -> bool:
        """Whether the score has to be fitted to the whole dataset first, which `fitted` does."""
        return False

    @property
    def covers_new_rows(self) -> bool:
        """Whether the fitted score has values for rows that it was not fitted to."""
        return True

    def fitted(self, dataset: Dataset, folder: Path) -> Score:
        """Fit the score to a dataset.

        Args:
            dataset: All rows, with the columns that the score reads.
            folder: Folder that files with the fitted state are written to; the returned score names them in its
                settings.

        Returns:
            The fitted score.
        """
        return self

    @property
    def needs_tokenizer(self) -> bool:
        """Whether the score reads token ids."""
        return False

    @property
    def needs_text(self) -> bool:
        """Whether the score reads the text of rows, which tokenized rows do not have."""
        return False

    def settings(self) -> dict[str, Any]:
        """Return the values of the fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def spec(self) -> dict[str, Any]:
        """Return everything that determines the values: name, version, settings and the resolved model.

        A score outside hf_datasel also records its description, which dataset cards show.
        """
        name = spec_name(self)
        about = description(type(self)) if ":" in name else {}
        settings = {key: without_tokens(key, value) for key, value in self.settings().items()}
        return {"score": name, "version": self.version, **about, **settings}

    def column_identity(self, column: str) -> Hashable:
        """Return a key that is equal for two scores that write the same values into a column.

        Two scores of one call may write the same column only if their keys are equal.

        Args:
            column: Name of the column, without the prefix.
        """
        return object_key(self)

    def features(self, dataset: Dataset | IterableDataset) -> Features:
        """Return the features of the dataset with the new columns, to pass to `map`.

        They are needed where the first rows have no score, because `map` infers types from them.

        Args:
            dataset: The dataset that the score is mapped over.

        Raises:
            ScoreError: The dataset is streamed and its features are unknown.
        """
        from datasets import Features
        from datasets.features.features import generate_from_arrow_type

        if dataset.features is None:
            raise ScoreError(
                "The features of this streaming dataset are unknown. Pass features= where it is created, or call map "
                "without features."
            )
        new = {name: generate_from_arrow_type(dtype) for name, dtype in self._prefixed(self.columns()).items()}
        return Features({**dataset.features, **new})

    def __call__(self, batch: Batch | pa.Table) -> dict[str, list[Any]] | pa.Table:
        """Compute the columns for a batch of `Dataset.map(score, batched=True)` or `IterableDataset.map`.

        The numbers are those of `hf_datasel.score`, whatever the batch size. Only the columns that make the row and
        those in `reads` are read. As in every function for `map`, a column of the dataset with the name of a new one
        is replaced; `column_prefix` prevents it.

        Args:
            batch: Column name -> values, in any supported row format; a `pa.Table` if the dataset has the format
                "arrow". The formats "numpy", "torch", "jax" and "tf" are supported unless they round a number that is
                part of a row, "pandas" and "polars" are not.

        Returns:
            Column name -> values: float32, int32 or str, None where a row has no value. For a `pa.Table` the table
            with these columns.

        Raises:
            ScoreError: The batch is a single row or in a format that is not supported, the score names no model, or it
                needs all rows at once.
        """
        check_batch(batch, type(self).__name__)
        if self.not_in_batches:
            raise ScoreError(
                f"{type(self).__name__} is computed for all rows at once, and not in batches of map or of a stream: "
                f"{self.not_in_batches}. Use hf_datasel.score(dataset, [{type(self).__name__}(...)])."
            )
        with map_progress_disabled():
            rows, runner = self._rows_of(dataset_of_batch(batch, self.reads))
            columns = self._prefixed(self.compute(rows, runner))
        for name, values in columns.items():
            if len(values) and values.null_count == len(values):
                logger.warning(
                    "No row of this batch has a %s. If the first rows of the dataset have none, pass "
                    "features=%s(...).features(dataset) to map, or use hf_datasel.score.",
                    name,
                    type(self).__name__,
                )
                break
        if isinstance(batch, pa.Table):
            return with_new_columns(batch, columns)
        return {name: _to_python(values) for name, values in columns.items()}

    def _rows_of(self, dataset: Dataset) -> tuple[TokenRows, ModelRunner]:
        """Return the rows of a batch of `Dataset.map` and the runner to compute them with."""
        from hf_datasel.formats import Pool
        from hf_datasel.scoring.runner import ModelRunner

        return TokenRows(Pool(dataset), None), ModelRunner(progress=False, models=MAP_MODELS)

    def _prefixed(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        return {f"{self.column_prefix}{name}": value for name, value in columns.items()}

    def _identity(self) -> str:
        """Return what determines the values apart from the settings; it is pickled, so `datasets` hashes it."""
        return f"v{self.version}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), interned(self.settings()), self._identity())


def _rebuild(cls: type[Score], settings: dict[str, Any], identity: str) -> Score:
    return cls(**settings)


@dataclass(frozen=True)
class ModelScore(Score):
    """A score that runs a model over the rows.

    Args:
        model: Hub id or local path. None uses the model in training, or the `model` of `hf_datasel.score`.
        revision: Commit, branch or tag of a Hub model.
        dtype: Data type of the weights, as in `from_pretrained`: "auto" or the name of a floating-point type.
        model_init_kwargs: Further arguments of `from_pretrained`, as in `SFTConfig`:
            `{"quantization_config": {"load_in_4bit": True}}`, `{"attn_implementation": "flash_attention_2"}`,
            `{"device_map": "auto"}`.
        max_length: Number of tokens that rows are truncated to. None uses the `max_length` of the training arguments,
            and 1,024 outside a trainer, the default of `SFTConfig`.
    """

    model: str | None = None
    revision: str | None = field(default=None, kw_only=True)
    dtype: str = field(default="auto", kw_only=True)
    model_init_kwargs: dict[str, Any] | None = field(default=None, kw_only=True)
    max_length: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.model is not None and not isinstance(self.model, str):
            raise ConfigError(
                f"{name}(model=...) has to be a name or a path, so that the score can be pickled and cached, and is "
                f"a {type(self.model).__name__}. Pass a loaded model to hf_datasel.score(dataset, {name}(), "
                "model=..., processing_class=...)."
            )
        if self.model == "":
            raise ConfigError(f"{name}(model=''): it has to be the name or path of a model.")
        if self.max_length is not None and (not isinstance(self.max_length, int) or self.max_length < 2):
            raise ConfigError(f"max_length has to be an int of at least 2, or None, and is {self.max_length!r}.")
        if self.model_init_kwargs is not None and not isinstance(self.model_init_kwargs, dict):
            raise ConfigError(f"model_init_kwargs has to be a dict or None, and is {self.model_init_kwargs!r}.")
        if not isinstance(self.dtype, str) or not _is_dtype(self.dtype):
            raise ConfigError(
                f"dtype={self.dtype!r}: it has to be 'auto', or the name of a floating-point dtype such as 'bfloat16'."
                f"{did_you_mean(str(self.dtype), ('auto', 'bfloat16', 'float16', 'float32', 'float64'))}"
            )
        for key, value in (self.model_init_kwargs or {}).items():
            if key in ("dtype", "torch_dtype", "revision"):
                raise ConfigError(
                    f"model_init_kwargs[{key!r}]: pass {name}({key.removeprefix('torch_')}=...) instead."
                )
            if not _is_json(value):
                raise ConfigError(
                    f'model_init_kwargs[{key!r}] has to be JSON, such as {{"load_in_4bit": True}} for a '
                    f"quantization_config, and is a {type(value).__name__}."
                )

    @property
    def kind(self) -> ModelKind:
        """Kind of model to load: a causal LM, an encoder or a reward model."""
        return "causal"

    @property
    def needs_tokenizer(self) -> bool:
        """Whether the score reads token ids: true for every score with a model."""
        return True

    def spec(self) -> dict[str, Any]:
        """Return everything that determines the values, with the commit or the digest of the model's files."""
        resolved = model_identity(self.model, self.revision) if self.model is not None else None
        return {**super().spec(), "resolved_model": resolved}

    def loading(self) -> Loading:
        """Return the model that the settings name, and how to load it.

        Raises:
            ScoreError: The settings name no model.
        """
        if self.model is None:
            name = type(self).__name__
            raise ScoreError(
                f"{name}() has no model to run in map. Pass {name}('name or path'), or use "
                "hf_datasel.score(dataset, [...], model=...)."
            )
        return Loading(self.model, self.revision, self.dtype, self.kind, self.model_init_kwargs)

    def model_settings(self) -> tuple[Any, ...]:
        """Return the settings that determine which model runs and how it is loaded."""
        return self.model, self.revision, self.dtype, self.model_init_kwargs

    def token_settings(self) -> TokenSettings:
        """Return how rows are tokenized outside a trainer."""
        return TokenSettings(max_length=self.max_length or 1024)

    def _identity(self) -> str:
        resolved = "" if self.model is None else model_identity(self.model, self.revision)
        return f"{super()._identity()}:{resolved}"

    def _rows_of(self, dataset: Dataset) -> tuple[TokenRows, ModelRunner]:
        from hf_datasel.formats import Pool

        loading = self.loading()
        if self.max_length is not None:
            check_max_length(load_config(loading), self.max_length, type(self).__name__)
        rows = TokenRows(Pool(dataset), loading.tokenizer(), self.token_settings())
        return rows, super()._rows_of(dataset)[1].with_model(loading)


def with_parts(scores: Sequence[Score]) -> list[Score]:
    """Return the scores, each after its parts, and each once.

    Args:
        scores: The scores.
    """
    expanded = [each for score in scores for each in (*with_parts(score.parts), score)]
    return list({object_key(score): score for score in expanded}.values())


def _is_dtype(name: str) -> bool:
    if name == "auto":
        return True
    dtype = getattr(torch, name, None)
    return isinstance(dtype, torch.dtype) and dtype.is_floating_point


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _to_python(values: pa.Array) -> list[Any]:
    """Return a list from which `datasets` infers the type: numpy scalars and arrays, str, lists, None for null."""
    if pa.types.is_string(values.type) or is_text_list(values.type):
        return list(values.to_pylist())
    if pa.types.is_list(values.type):
        item = values.type.value_type.to_pandas_dtype()
        return [None if value is None else np.asarray(value, dtype=item) for value in values.to_pylist()]
    scalar = np.dtype(values.type.to_pandas_dtype()).type
    return [None if value is None else scalar(value) for value in values.to_pylist()]


def is_text_list(dtype: pa.DataType) -> bool:
    """Return whether the values of a column are lists of texts, such as tags.

    Args:
        dtype: Type of the column.
    """
    types = pa.types
    is_list = types.is_list(dtype) or types.is_large_list(dtype)
    return is_list and bool(types.is_string(dtype.value_type) or types.is_large_string(dtype.value_type))


def is_number_list(dtype: pa.DataType) -> bool:
    """Return whether the values of a column are lists of floating-point numbers, such as vectors.

    Args:
        dtype: Type of the column.
    """
    types = pa.types
    return (types.is_list(dtype) or types.is_large_list(dtype)) and bool(types.is_floating(dtype.value_type))


def null_counts(reasons: np.ndarray) -> Counter[str]:
    """Count the rows without a value by reason.

    Args:
        reasons: Reason per row, str; empty for a row with a value.
    """
    return Counter(reasons[reasons != ""].tolist())


def finite_or_null(values: list[np.ndarray], reasons: np.ndarray) -> tuple[list[pa.Array], pa.Array]:
    """Convert values to float32 columns that are null where a value is not finite.

    Args:
        values: One array per column, of shape (rows,).
        reasons: Reason per row, str; empty for a row with a value.

    Returns:
        The columns, and the reasons as a column: "not_finite" is added for rows with a null that had no reason yet.
    """
    with np.errstate(over="ignore"):
        narrow = [value.astype(np.float32) for value in values]
    is_null = [~np.isfinite(value) for value in narrow]
    reasons = np.where(np.logical_or.reduce(is_null) & (reasons == ""), "not_finite", reasons)
    columns = [pa.array(value, mask=null, type=pa.float32()) for value, null in zip(narrow, is_null, strict=True)]
    return columns, pa.array(reasons.tolist(), pa.string())


def has_default_numbers(score: Score) -> bool:
    """Return whether all settings that change the numbers, but not the names of the columns, have their defaults.

    Args:
        score: The score.
    """
    without_effect = ("column_prefix", "unit", "ratio", "over", "reduction", "prior")  # here, in a single round
    return changed_settings(score).keys() <= set(without_effect)
