"""What a score is."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ConfigError, ScoreError
from hf_datasel.formats import Batch
from hf_datasel.scores.models import load_model, load_tokenizer, model_identity
from hf_datasel.tokens import TokenRows, TokenSettings

if TYPE_CHECKING:
    from datasets import Dataset, Features

    from hf_datasel.scores.context import ModelContext

__all__ = ["Columns", "ModelScore", "Score"]

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
    def compute(self, rows: TokenRows, context: ModelContext | None) -> Columns:
        """The columns for these rows, without the prefix."""

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

    def features(self, dataset: Dataset) -> Features:
        """The dataset's features with the new columns: what to pass to `map` where the first rows have no score."""
        from datasets import Features, Value

        ours = {name: Value(_dtype_name(kind)) for name, kind in self._named(self.columns()).items()}
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

    def _rows_of(self, dataset: Dataset) -> tuple[TokenRows, ModelContext | None]:
        from hf_datasel.formats import Pool

        return TokenRows(Pool(dataset), None), None

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
    """A score that runs a causal language model over the rows' tokens."""

    model: str | None = None
    """Hub id or local path; None is the model of the round, or the `model` of `hf_datasel.score`."""
    revision: str | None = field(default=None, kw_only=True)
    """Commit, branch or tag of a Hub model."""
    dtype: str = field(default="auto", kw_only=True)
    """Of the weights, as in `from_pretrained`."""
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

    @property
    def needs_tokenizer(self) -> bool:
        return True

    def spec(self) -> dict[str, Any]:
        resolved = model_identity(self.model, self.revision) if self.model is not None else None
        return {**super().spec(), "resolved_model": resolved}

    def token_settings(self) -> TokenSettings:
        """How rows are tokenised outside a trainer."""
        return TokenSettings(max_length=self.max_length or 1024)

    def _identity(self) -> str:
        resolved = "" if self.model is None else model_identity(self.model, self.revision)
        return f"{super()._identity()}:{resolved}"

    def _rows_of(self, dataset: Dataset) -> tuple[TokenRows, ModelContext | None]:
        from hf_datasel.formats import Pool
        from hf_datasel.scores.context import ModelContext

        if self.model is None:
            raise ScoreError(
                f"{type(self).__name__}() has no model to run in map. Pass {type(self).__name__}('name or path'), or "
                "use hf_datasel.score(dataset, [...], model=...)."
            )
        rows = TokenRows(Pool(dataset), load_tokenizer(self.model, self.revision), self.token_settings())
        return rows, ModelContext(load_model(self.model, self.revision, self.dtype), progress=False)


def _dtype_name(kind: pa.DataType) -> str:
    return {"float": "float32"}.get(str(kind), str(kind))


def _plain(values: pa.Array) -> list[Any]:
    """As `datasets` infers types from: float32 stays float32, int32 stays int32, null is None."""
    if pa.types.is_string(values.type):
        return list(values.to_pylist())
    kind = np.dtype(values.type.to_pandas_dtype()).type
    return [None if value is None else kind(value) for value in values.to_pylist()]
