"""Mix of several scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ColumnError, ConfigError, ScoreError, check_option, did_you_mean
from hf_datasel.scoring.base import Columns, Score
from hf_datasel.spec import to_spec
from hf_datasel.strategies.mixing import Combination, Scale, complete_rows, mix, on_scale
from hf_datasel.tokens import TokenRows

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelRunner

__all__ = ["Mix"]


@dataclass(frozen=True)
class Mix(Score):
    """Weighted sum or product of several scores, by their ranks, z-scores or values.

    It can be used wherever a selector takes a score, such as `Top(by=Mix({"ifd": 0.5, "quality": 0.5}))`, and as a
    column for those that take only a column: `score(dataset, Mix(...))`, then `IterIT(quality="mix")`.

    A rank is (r - 0.5) / n, with r from 1 for the lowest value to n, and the mean of their ranks for equal values. It
    is above 0 and below 1, and so is a sum with positive weights that add up to 1. Ranks and z-scores are among the
    rows that can be selected and have all the scores: of the dataset in `hf_datasel.score`, of the round in a
    selector. After the filters of a `Chain` these are the rows that are kept; in groups (`Within`) they are those of
    all groups. A row without one of the scores is null. In `Dataset.map` and in shards, whose batches do not have all
    rows, ranks and z-scores raise an error; values of columns can be mixed there.

    Reads the columns, or computes the scores, whose own columns `hf_datasel.score` adds too. Writes `mix` (float64)
    and `mix_reason` ("" for a row with a value). Cost: no model but those of the scores; a sort of each column.

    Reference: specific to this library. With `scale="values", combine="product"` it is complexity times quality of
    Deita (2312.15685).

    Args:
        by: Columns and scores, `("ifd", Reward("name or path"))`, or columns with their weights, `{"ifd": 0.7,
            "num_tokens": -0.3}`.
        weights: One number for each of them, negative where lower is better, not all 0. By default they are equal: 1 /
            number in a sum, 1 in a product.
        scale: What is mixed: `"ranks"`, `"zscores"` (standard deviations from the mean), or `"values"`, of which those
            with the widest range decide.
        combine: `"sum"` of weight x score, or `"product"` of score ** weight, which z-scores do not have.
        column_prefix: Prefix of the name of every column that the score writes.

    >>> Mix({"ifd": 0.7, "num_tokens": -0.3})
    Mix(column_prefix='', by=('ifd', 'num_tokens'), weights=(0.7, -0.3), scale='ranks', combine='sum')
    """

    by: tuple[str | Score, ...] | Mapping[str, float]
    weights: tuple[float, ...] | None = None
    scale: Scale = field(default="ranks", kw_only=True)
    combine: Combination = field(default="sum", kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.by, Mapping):
            if self.weights is not None:
                raise ConfigError(f"Mix(by={self.by!r}, weights={self.weights!r}): by has the weights already.")
            object.__setattr__(self, "weights", tuple(self.by.values()))
        check_option(f"Mix(scale={self.scale!r})", self.scale, get_args(Scale))
        check_option(f"Mix(combine={self.combine!r})", self.combine, get_args(Combination))
        names = [] if isinstance(self.by, str) or not isinstance(self.by, Mapping | Sequence) else list(self.by)
        if not names or not all((isinstance(source, str) and source) or isinstance(source, Score) for source in names):
            raise ConfigError(
                f"Mix(by={self.by!r}): it has to be a list of names of columns and of scores such as IFD('name or "
                "path'), or a dict of columns and weights."
            )
        object.__setattr__(self, "by", tuple(names))
        if len(set(self.names)) < len(names):
            raise ConfigError(f"Mix: two of {', '.join(self.names)} have one name. Give a score a column_prefix.")
        if self.weights is None:
            equal = 1.0 if self.combine == "product" else 1 / len(names)
            object.__setattr__(self, "weights", (equal,) * len(names))
        self._check_weights(len(names))
        if (self.scale, self.combine) == ("zscores", "product"):
            raise ConfigError(
                "Mix(scale='zscores', combine='product'): z-scores are negative for half of the rows, so that their "
                "product says nothing. Use scale='ranks', or combine='sum'."
            )

    def _check_weights(self, number: int) -> None:
        weights: Any = self.weights
        if isinstance(weights, Mapping):
            raise ConfigError(
                f"Mix(weights={weights!r}): a grid of weights is for the methods of hf-datasel bench, which tries "
                "each. Here they have to be numbers."
            )
        is_list = isinstance(weights, list | tuple)
        if not is_list or not all(type(weight) in (int, float) and math.isfinite(weight) for weight in weights):
            raise ConfigError(f"Mix(weights={weights!r}): it has to be a list of numbers.")
        if len(weights) != number or not any(weights):
            raise ConfigError(f"Mix(weights={weights!r}): {number} scores need {number} weights, which are not all 0.")
        object.__setattr__(self, "weights", tuple(map(float, weights)))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that are mixed."""
        return tuple(source if isinstance(source, str) else source.value_column for source in self.by)

    @property
    def parts(self) -> tuple[Score, ...]:
        """The scores that are mixed, without the columns."""
        return tuple(source for source in self.by if isinstance(source, Score))

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the columns that are mixed."""
        return self.names

    @property
    def not_in_batches(self) -> str:
        """Why a batch of rows cannot be scored; "" for values of columns, which can."""
        if self.scale != "values":
            kind = "ranks" if self.scale == "ranks" else "z-scores"
            return f"its {kind} are among all rows"
        return "its scores are computed first" if self.parts else ""

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        return {"mix": pa.float64(), "mix_reason": pa.string()}

    def spec(self) -> dict[str, Any]:
        """Return the settings for the record, with those of the scores that are mixed."""
        return {**super().spec(), "by": [source if isinstance(source, str) else to_spec(source) for source in self.by]}

    def check_inputs(self, rows: TokenRows, runner: ModelRunner) -> None:
        """Do nothing: the scores that are mixed check theirs."""

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns from those of the dataset."""
        dataset = rows.pool.dataset
        if missing := [name for name in self.names if name not in dataset.column_names]:
            raise ColumnError(
                f"Mix needs column {missing[0]!r}, but the dataset has {dataset.column_names}."
                f"{did_you_mean(missing[0], dataset.column_names)}",
                "Compute it before, or in the same call: hf_datasel.score(dataset, [IFD(...), Mix(...)]).",
                "Compute it before, or in the same command: --scores ifd mix.",
            )
        table = dataset.select_columns(list(self.names)).with_format("arrow")[:]
        columns = self.mixed([_numbers(name, table.column(name)) for name in self.names], rows.pool.usable)
        return {name: column.take(pa.array(rows.indices)) for name, column in columns.items()}

    def mixed(self, values: Sequence[np.ndarray], eligible: np.ndarray) -> Columns:
        """Return the columns, without the prefix, for rows with these scores.

        Args:
            values: Scores, one array for each of `by`: float64 of shape (rows,), NaN where a row has none.
            eligible: Which rows can be selected, bool of shape (rows,). The others are null.

        Raises:
            ScoreError: A product of values, and some are negative.
        """
        usable = [np.where(eligible, array, np.nan) for array in values]
        self._check_signs(usable)
        assert self.weights is not None
        result = mix(usable, self.weights, self.scale, self.combine)
        reasons = np.full(len(result), "", dtype=object)
        reasons[~np.isfinite(result)] = "not_finite"
        for name, array in reversed(list(zip(self.names, usable, strict=True))):
            reasons[np.isnan(array)] = f"without_{name}"
        reasons[~eligible] = "not_eligible"
        return {
            "mix": pa.array(result, pa.float64(), mask=reasons != ""),
            "mix_reason": pa.array(reasons, pa.string()),
        }

    def _check_signs(self, values: Sequence[np.ndarray]) -> None:
        if (self.scale, self.combine) != ("values", "product"):
            return
        for name, array in zip(self.names, values, strict=True):
            if negative := int((array < 0).sum()):
                raise ScoreError(
                    f"Mix cannot multiply {name}: {negative:,} rows have a value below 0. Use scale='ranks', or "
                    "combine='sum'."
                )

    def describe(self, values: Sequence[np.ndarray], eligible: np.ndarray, row: int) -> str:
        """Return a sentence on what a row's value is made of; empty if it has none.

        Args:
            values: As in `mixed`.
            eligible: As in `mixed`.
            row: Row number.
        """
        complete = eligible & complete_rows(values, self.scale)
        if not complete[row]:
            return ""
        position = int(complete[:row].sum())
        assert self.weights is not None
        terms = [
            f"{on_scale(array[complete], self.scale)[position]:.4g} ({name}{_KINDS[self.scale]})"
            for name, array in zip(self.names, values, strict=True)
        ]
        if self.combine == "product":
            product = " x ".join(f"{term} ** {weight:g}" for term, weight in zip(terms, self.weights, strict=True))
            return f"Its mix is {product}."
        signed = [
            f"{'-' if weight < 0 else '+'} {abs(weight):g} x {term}"
            for term, weight in zip(terms, self.weights, strict=True)
        ]
        return f"Its mix is {' '.join(signed).removeprefix('+ ')}."


_KINDS = {"ranks": ", as a rank", "zscores": ", as a z-score", "values": ""}


def _numbers(name: str, column: pa.ChunkedArray) -> np.ndarray:
    types = pa.types
    kinds = (types.is_floating, types.is_integer, types.is_boolean, types.is_decimal, types.is_null)
    if not any(is_kind(column.type) for is_kind in kinds):
        raise ColumnError(f"Column {name!r} holds {column.type}, and Mix needs numbers.")
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
