"""What a score is."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ConfigError, ScoreError
from hf_datasel.formats import Batch
from hf_datasel.scoring.models import KEPT, Kind, Loading, model_identity
from hf_datasel.tokens import TokenRows, TokenSettings

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

    from hf_datasel.scoring.runner import ModelContext

__all__ = ["Columns", "ModelScore", "Score", "finite_or_null", "null_counts"]

logger = logging.getLogger(__name__)

Columns: TypeAlias = dict[str, pa.Array]
"""New columns, each aligned with the rows; null where a row has no value."""


@dataclass(frozen=True)
class Score(ABC):
    """Numbers for rows: a frozen dataclass whose fields are its settings.

    A score is a callable for `Dataset.map(score, batched=True)`, and an argument of `hf_datasel.score`, which is
    faster for scores that run a model. A subclass says what it writes (`columns`) and how (`compute`).
    """

    column_prefix: str = field(default="", kw_only=True)
    """Put before the name of every column written."""

    version: ClassVar[int] = 1
    """Raised when equal settings start giving other numbers."""
    citation: ClassVar[str] = ""
    """BibTeX of the paper the score comes from, for the dataset card."""

    @abstractmethod
    def columns(self) -> dict[str, pa.DataType]:
        """The columns written and their types, without the prefix."""

    @abstractmethod
    def compute(self, rows: TokenRows, context: ModelContext) -> Columns:
        """The columns for these rows, without the prefix. `context.model` is None where the score needs no model."""

    @property
    def value_column(self) -> str:
        """Of the columns written the one that a choice goes by, with the prefix: the first, if not said otherwise."""
        return f"{self.column_prefix}{next(iter(self.columns()))}"

    def announce(self, rows: TokenRows, context: ModelContext) -> None:
        """Tell the context which passes `compute` is going to ask for, so that scores can share them."""
        return

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of the dataset that are read, besides those that hold the row."""
        return ()

    def check(self, rows: int) -> None:
        """Refuse settings that cannot be met by so many rows, before any work is done.

        Raises:
            ScoreError: says what to change.
        """
        return

    def check_inputs(self, rows: TokenRows, context: ModelContext) -> None:
        """Refuse what `compute` would refuse whatever the rows hold: their format, the model, settings beside it.

        It is asked for before training, where the score is computed after some of it. No model is run for it, and none
        is loaded by name.

        Args:
            rows: none, of the format of those to come, with their tokenizer.
            context: as in `compute`.
        """
        if context.loading is None:
            self.compute(rows, context)

    @property
    def needs_fit(self) -> bool:
        """Whether the whole dataset has to be looked at first, which `fitted` does."""
        return False

    def fitted(self, dataset: Dataset, folder: Path) -> Score:
        """This score, fitted to the dataset; what it learns is written into the folder, and named in its settings."""
        return self

    @property
    def needs_tokenizer(self) -> bool:
        """Whether rows have to be tokenised."""
        return False

    def settings(self) -> dict[str, Any]:
        """The fields by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def spec(self) -> dict[str, Any]:
        """Everything that decides the numbers, for the record: settings, version and what the model's name means."""
        return {"score": type(self).__name__, "version": self.version, **self.settings()}

    def meaning(self, column: str) -> Hashable:
        """Equal for two scores that write the same numbers into this column, so that both may."""
        return repr(self)

    def features(self, dataset: Dataset | IterableDataset) -> Features:
        """The dataset's features with the new columns: what to pass to `map` where the first rows have no score.

        Raises:
            ScoreError: a streaming dataset that does not know its features.
        """
        from datasets import Features
        from datasets.features.features import generate_from_arrow_type

        if dataset.features is None:
            raise ScoreError(
                "This streaming dataset does not know its features. Pass features= where it is made, or map without."
            )
        ours = {name: generate_from_arrow_type(kind) for name, kind in self._named(self.columns()).items()}
        return Features({**dataset.features, **ours})

    def __call__(self, batch: Batch) -> dict[str, list[Any]]:
        """New columns for a batch (column name -> values): float32, int32 or str, None where there is no value."""
        from datasets import Dataset, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

        for name in batch:
            if isinstance(batch[name], str) or not hasattr(batch[name], "__len__"):
                raise ScoreError(
                    f"{type(self).__name__} works on batches: pass batched=True to map (and batch_size=1024, say)."
                )
            break
        was_disabled = are_progress_bars_disabled()
        disable_progress_bars()
        try:
            rows, context = self._rows_of(Dataset.from_dict({name: list(batch[name]) for name in batch}))
            computed = self._named(self.compute(rows, context))
        finally:
            if not was_disabled:
                enable_progress_bars()
        for name, values in computed.items():
            if len(values) and values.null_count == len(values):
                logger.warning(
                    "No row of this batch has a %s. If the first rows of the dataset are all like this, pass "
                    "features=%s(...).features(dataset) to map, or use hf_datasel.score.",
                    name,
                    type(self).__name__,
                )
                break
        return {name: _plain(values) for name, values in computed.items()}

    def _rows_of(self, dataset: Dataset) -> tuple[TokenRows, ModelContext]:
        from hf_datasel.formats import Pool
        from hf_datasel.scoring.runner import ModelContext

        return TokenRows(Pool(dataset), None), ModelContext(progress=False, models=KEPT)

    def _named(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        return {f"{self.column_prefix}{name}": value for name, value in columns.items()}

    def _identity(self) -> str:
        """What, besides the settings, decides the numbers: part of the pickle, and so of every cache key."""
        return f"v{self.version}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.settings(), self._identity())


def _rebuild(kind: type[Score], settings: dict[str, Any], identity: str) -> Score:
    return kind(**settings)


@dataclass(frozen=True)
class ModelScore(Score):
    """A score that runs a model over the rows."""

    model: str | None = None
    """Hub id or local path; None is the model of the round, or the `model` of `hf_datasel.score`."""
    revision: str | None = field(default=None, kw_only=True)
    """Commit, branch or tag of a Hub model."""
    dtype: str = field(default="auto", kw_only=True)
    """Of the weights, as in `from_pretrained`."""
    model_init_kwargs: dict[str, Any] | None = field(default=None, kw_only=True)
    """More arguments of `from_pretrained`, as in `SFTConfig`: `{"quantization_config": {"load_in_4bit": True}}`,
    `{"attn_implementation": "flash_attention_2"}`, `{"device_map": "auto"}`."""
    max_length: int | None = field(default=None, kw_only=True)
    """Tokens a row is cut to; None is what training uses, and 1,024 outside a trainer, as in `SFTConfig`."""

    def __post_init__(self) -> None:
        if self.model is not None and not isinstance(self.model, str):
            raise ConfigError(
                f"{type(self).__name__}(model=...) has to be a name or a path, so that the score can be pickled and "
                f"cached, and this is {type(self.model).__name__}. A live model goes to hf_datasel.score(model=...)."
            )
        if self.max_length is not None and (not isinstance(self.max_length, int) or self.max_length < 2):
            raise ConfigError(f"max_length has to be an int of at least 2, or None, and is {self.max_length!r}.")
        if self.model_init_kwargs is not None and not isinstance(self.model_init_kwargs, dict):
            raise ConfigError(f"model_init_kwargs has to be a mapping or None, and is {self.model_init_kwargs!r}.")
        if not isinstance(self.dtype, str) or not _is_dtype(self.dtype):
            raise ConfigError(
                f"dtype={self.dtype!r}: it has to be 'auto', or the name of a floating dtype such as 'bfloat16'."
            )
        for key, value in (self.model_init_kwargs or {}).items():
            if key in ("dtype", "torch_dtype", "revision"):
                field_name = key.removeprefix("torch_")
                raise ConfigError(f"model_init_kwargs[{key!r}]: pass {type(self).__name__}({field_name}=...) instead.")
            if not _is_json(value):
                raise ConfigError(
                    f"model_init_kwargs[{key!r}] has to be written as JSON has it, such as "
                    f'{{"load_in_4bit": True}} for a quantization_config, and is {type(value).__name__}.'
                )

    @property
    def kind(self) -> Kind:
        """With which head the model is loaded."""
        return "causal"

    @property
    def needs_tokenizer(self) -> bool:
        return True

    def spec(self) -> dict[str, Any]:
        resolved = model_identity(self.model, self.revision) if self.model is not None else None
        given = self.model_init_kwargs
        loaded = given and {key: value for key, value in given.items() if key not in _SECRET}
        return {**super().spec(), "model_init_kwargs": loaded, "resolved_model": resolved}

    def loading(self) -> Loading:
        """The model that the settings name, and how it is loaded.

        Raises:
            ScoreError: they name none.
        """
        if self.model is None:
            raise ScoreError(
                f"{type(self).__name__}() has no model to run in map. Pass {type(self).__name__}('name or path'), or "
                "use hf_datasel.score(dataset, [...], model=...)."
            )
        return Loading(self.model, self.revision, self.dtype, self.kind, self.model_init_kwargs)

    def model_settings(self) -> tuple[Any, ...]:
        """The fields that say which model runs, and how it is loaded."""
        return self.model, self.revision, self.dtype, self.model_init_kwargs

    def token_settings(self) -> TokenSettings:
        """How rows are tokenised outside a trainer."""
        return TokenSettings(max_length=self.max_length or 1024)

    def _identity(self) -> str:
        resolved = "" if self.model is None else model_identity(self.model, self.revision)
        return f"{super()._identity()}:{resolved}"

    def _rows_of(self, dataset: Dataset) -> tuple[TokenRows, ModelContext]:
        from hf_datasel.formats import Pool

        loading = self.loading()
        rows = TokenRows(Pool(dataset), loading.tokenizer(), self.token_settings())
        return rows, super()._rows_of(dataset)[1].other(loading)


_SECRET = ("token", "use_auth_token")
"""Arguments of `from_pretrained` that no record may hold."""


def _is_dtype(name: str) -> bool:
    import torch

    found = getattr(torch, name, None)
    return name == "auto" or (isinstance(found, torch.dtype) and found.is_floating_point)


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _plain(values: pa.Array) -> list[Any]:
    """As `datasets` infers types from: float32 stays float32, int32 stays int32, null is None."""
    if pa.types.is_string(values.type):
        return list(values.to_pylist())
    kind = np.dtype(values.type.to_pandas_dtype()).type
    return [None if value is None else kind(value) for value in values.to_pylist()]


def null_counts(reasons: np.ndarray) -> Counter[str]:
    """How many rows have no value, by reason."""
    return Counter(reasons[reasons != ""].tolist())


def finite_or_null(values: list[np.ndarray], reasons: np.ndarray) -> tuple[list[pa.Array], pa.Array]:
    """Float32 columns, null where they are not finite, and a reason for each row with a null that has none yet."""
    with np.errstate(over="ignore"):
        narrow = [value.astype(np.float32) for value in values]
    bad = [~np.isfinite(value) for value in narrow]
    reasons = np.where(np.logical_or.reduce(bad) & (reasons == ""), "not_finite", reasons)
    columns = [pa.array(value, mask=null, type=pa.float32()) for value, null in zip(narrow, bad, strict=True)]
    return columns, pa.array(reasons.tolist(), pa.string())
