"""Ratings that a model gives to rows, weighed by how sure it is of them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ConfigError, FormatError, ScoreError, did_you_mean
from hf_datasel.scoring.base import Columns, ModelScore, Score, finite_or_null, null_counts
from hf_datasel.scoring.models import Loading, model_identity
from hf_datasel.scoring.rating_prompts import RATING_PROMPTS, RatingLogits, RatingRequest
from hf_datasel.scoring.runner import ModelContext
from hf_datasel.tokens import TokenRows, TokenSettings
from hf_datasel.tokens.sequences import Ragged

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["SelectIT", "model_scores", "rating_probabilities", "sentence_scores", "token_scores"]

_ROWS_AT_ONCE = 10_000
"""Rows whose tokens are held in memory."""
_LEVELS = ["token", "sentence", "model"]


@dataclass(frozen=True)
class SelectIT(ModelScore):
    """The rating that a model gives to a row, times how much surer it is of that rating than of the others.

    The model is asked for a rating of the row, and the probabilities of the rating tokens make the score. At the level
    `"token"` the first of `prompts` is asked; at `"sentence"` all are, and a score that depends on the wording counts
    for less; at `"model"` several models are asked, and larger ones count for more. `"model"` loads them by name, one
    after the other, at each call: use `hf_datasel.score` for it and not `Dataset.map`.

    Reads any supported row format that has a response; of several turns the last response is rated, with the turns
    before it as the task. Writes `selectit` (float32) and `selectit_reason` ("" for a scored row). A row that does not
    fit into `max_length` tokens with the question is rated without the end of its response. Cost: one forward pass
    over the row per prompt and model.
    Reference: Liu et al. 2024 (2402.16705); the prompts are worded anew.

    >>> SelectIT(level="token", ratings=7).columns()
    {'selectit': DataType(float), 'selectit_reason': DataType(string)}
    """

    level: Literal["token", "sentence", "model"] = field(default="sentence", kw_only=True)
    prompts: tuple[str, ...] = field(default=RATING_PROMPTS, kw_only=True)
    """What is asked about a row and its response, which stand before it; `{ratings}` becomes the highest rating."""
    ratings: int = field(default=5, kw_only=True)
    """The highest rating; the lowest is 1."""
    alpha: float = field(default=0.2, kw_only=True)
    """How much less a row counts whose score depends on the prompt."""
    parameters: float | None = field(default=None, kw_only=True)
    """Size of `model`, in the unit of `models`; for `level="model"`."""
    models: tuple[tuple[str, float], ...] = field(default=(), kw_only=True)
    """Further models for `level="model"`, each a name or path and its size: `(("Qwen/Qwen3-4B", 4.0),)`."""

    citation = (
        "@inproceedings{liu2024selectit, title={SelectIT: Selective Instruction Tuning for LLMs via "
        "Uncertainty-Aware Self-Reflection}, author={Liu, Liangxin and Liu, Xuebo and Wong, Derek F. and Li, Dongfang "
        "and Wang, Ziyi and Hu, Baotian and Zhang, Min}, booktitle={NeurIPS}, year={2024}}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.level not in _LEVELS:
            hint = did_you_mean(str(self.level), _LEVELS)
            raise ConfigError(f"SelectIT(level={self.level!r}): it has to be one of {_LEVELS}.{hint}")
        if type(self.ratings) is not int or not 2 <= self.ratings <= 9:
            raise ConfigError(f"SelectIT(ratings={self.ratings!r}): it has to be an int from 2 to 9.")
        if not _is_number(self.alpha) or self.alpha < 0:
            raise ConfigError(f"SelectIT(alpha={self.alpha!r}): it has to be a number of at least 0.")
        object.__setattr__(self, "level", sys.intern(self.level))  # "model" is a field too: one object in each pickle
        object.__setattr__(self, "prompts", _prompts(self.prompts, self.level))
        object.__setattr__(self, "models", _models(self.models))
        self._check_models()

    def _check_models(self) -> None:
        if self.level != "model":
            if self.models or self.parameters is not None:
                raise ConfigError(f"models and parameters are for level='model', and level is {self.level!r}.")
            return
        if not self.models:
            raise ConfigError("SelectIT(level='model') needs further models: models=(('name or path', size), ...).")
        if not _is_number(self.parameters) or not self.parameters or self.parameters < 0:
            raise ConfigError(
                f"SelectIT(parameters={self.parameters!r}): level='model' weighs models by their size, so it has to "
                "be that of model, above 0 and in the unit of models."
            )
        names = [self.model, *(name for name, _ in self.models)]
        if len(set(names)) < len(names):
            raise ConfigError(f"SelectIT(level='model') names a model twice: {names}.")

    @property
    def needs_tokenizer(self) -> bool:
        return self.level != "model"  # there each model brings its own, and nothing is loaded before it is its turn

    def columns(self) -> dict[str, pa.DataType]:
        return {"selectit": pa.float32(), "selectit_reason": pa.string()}

    def spec(self) -> dict[str, Any]:
        further = [model_identity(name) for name, _ in self.models]
        return {**super().spec(), **({"resolved_models": further} if further else {})}

    def _identity(self) -> str:
        return ":".join([super()._identity(), *(model_identity(name) for name, _ in self.models)])

    def _rows_of(self, dataset: Dataset) -> tuple[TokenRows, ModelContext]:
        return super()._rows_of(dataset) if self.level != "model" else Score._rows_of(self, dataset)

    def compute(self, rows: TokenRows, context: ModelContext) -> Columns:
        if rows.pool.format == "text":
            raise FormatError(
                "Rows with only a text column have no response to rate. Make prompt and completion columns of them."
            )
        if self.level == "model":
            score, reasons = self._of_models(rows, context)
        else:
            score, reasons = self._of_model(rows, rows.tokenizer, context, rows.settings)
        values, why = finite_or_null([score], reasons)
        return {"selectit": values[0], "selectit_reason": why}

    def _of_models(self, rows: TokenRows, context: ModelContext) -> tuple[np.ndarray, np.ndarray]:
        if self.model is None or self.parameters is None:
            raise ScoreError(
                "SelectIT(level='model') loads its models one after the other, by name, and its first has none. Pass "
                "SelectIT('name or path', level='model', ...)."
            )
        models = ((self.model, self.revision), *((name, None) for name, _ in self.models))
        scores, reasons = zip(
            *(self._of_named(rows, context, name, revision) for name, revision in models), strict=True
        )
        first = reasons[0]
        for other in reasons[1:]:
            first = np.where(first == "", other, first)
        return model_scores(np.array(scores), [self.parameters, *(size for _, size in self.models)]), first

    def _of_named(
        self, rows: TokenRows, context: ModelContext, name: str, revision: str | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The sentence scores of one model, which takes the place of the one before it."""
        loading = Loading(name, revision, self.dtype, init_kwargs=self.model_init_kwargs)
        return self._of_model(rows, loading.tokenizer(), context.other(loading), self.token_settings())

    def _of_model(
        self, rows: TokenRows, tokenizer: Any, context: ModelContext, settings: TokenSettings
    ) -> tuple[np.ndarray, np.ndarray]:
        """The token or sentence score of each row by one model, float64 and NaN where there is none, and reasons."""
        request = RatingRequest(tokenizer, self.ratings)
        logits = RatingLogits(context, request.tokens)
        prompts = self.prompts[:1] if self.level == "token" else self.prompts
        scores = np.full((len(rows), len(prompts)), np.nan)
        reasons = np.full(len(rows), "", dtype=object)
        max_length = self.max_length or settings.max_length
        for column, prompt in enumerate(prompts):
            asked = Ragged(_requests(request, rows, prompt, max_length, reasons))
            at = np.flatnonzero(reasons == "")
            label = f"selectit {column + 1}/{len(prompts)}"
            rated = logits.rate(asked, label, null_counts(reasons))
            scores[at, column] = token_scores(rating_probabilities(rated))
        score = scores[:, 0] if self.level == "token" else sentence_scores(scores, self.alpha)
        return np.where(reasons == "", score, np.nan), reasons.astype(np.str_)


def _requests(
    request: RatingRequest, rows: TokenRows, prompt: str, max_length: int | None, reasons: np.ndarray
) -> Iterator[list[np.ndarray]]:
    """The tokens of the request for each row that has no reason yet, part by part; new reasons are put in."""
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        read = list(rows.pool.rows(rows.indices[part]))
        reasons[part] = [why or row.reason for why, row in zip(reasons[part], read, strict=True)]
        at = start + np.flatnonzero(reasons[part] == "")
        asked, why = request.contexts([read[each - start] for each in at], prompt, max_length)
        reasons[at] = why
        yield [each for each in asked if each is not None]


def rating_probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the rating tokens alone (last axis), float64. Logits and log-probabilities give the same.

    >>> rating_probabilities(np.log([0.1, 0.3])).round(2).tolist()
    [0.25, 0.75]
    """
    logits = np.asarray(logits, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    total: np.ndarray = raised / raised.sum(axis=-1, keepdims=True)
    return total


def token_scores(probabilities: np.ndarray) -> np.ndarray:
    """The likeliest rating, 1 to K, times its mean distance from the others. Of equal ones the lowest counts.

    The distances are between `exp(p) / sum(exp(p))`, an exponential of probabilities (the paper's Eq. 3, and its
    code), which is flatter than the probabilities are: with K = 5 it lies between 0.149 and 0.405.

    Args:
        probabilities: of the K ratings, shape (..., K), each summing to 1.

    Returns:
        Shape (...), float64.
    """
    flat = np.exp(np.asarray(probabilities, dtype=np.float64))
    flat /= flat.sum(axis=-1, keepdims=True)
    best = probabilities.argmax(axis=-1)
    distance = np.abs(flat.max(axis=-1, keepdims=True) - flat).sum(axis=-1) / (flat.shape[-1] - 1)
    scores: np.ndarray = (best + 1) * distance
    return scores


def sentence_scores(tokens: np.ndarray, alpha: float) -> np.ndarray:
    """Mean over prompts (last axis), divided by 1 + alpha times their population standard deviation.

    >>> sentence_scores(np.array([[1.0, 3.0]]), alpha=1.0).tolist()
    [1.0]
    """
    scores: np.ndarray = tokens.mean(axis=-1) / (1 + alpha * tokens.std(axis=-1))
    return scores


def model_scores(sentences: np.ndarray, parameters: Sequence[float]) -> np.ndarray:
    """Mean over models (first axis), weighed by their sizes, whatever the unit of these is.

    >>> model_scores(np.array([[1.0], [2.0]]), [7, 21]).tolist()
    [1.75]
    """
    sizes = np.asarray(parameters, dtype=np.float64)
    scores: np.ndarray = np.tensordot(sizes / sizes.sum(), sentences, axes=1)
    return scores


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _prompts(prompts: Any, level: str) -> tuple[str, ...]:
    if not isinstance(prompts, tuple | list) or not all(isinstance(each, str) and each.strip() for each in prompts):
        raise ConfigError(f"SelectIT(prompts={prompts!r}): it has to be a list of texts that are not empty.")
    if len(set(prompts)) < len(prompts):
        raise ConfigError("SelectIT(prompts=...) holds a prompt twice.")
    least = 1 if level == "token" else 2
    if len(prompts) < least:
        raise ConfigError(
            f"SelectIT(level={level!r}) needs at least {least} of prompts, and has {len(prompts)}. level='token' asks "
            "one alone."
        )
    return tuple(prompts)


def _models(models: Any) -> tuple[tuple[str, float], ...]:
    pairs = [each if isinstance(each, tuple | list) else () for each in models] if _is_list(models) else [()]
    for pair in pairs:
        if len(pair) != 2 or not isinstance(pair[0], str) or not _is_number(pair[1]) or pair[1] <= 0:
            raise ConfigError(
                f"SelectIT(models={models!r}): it has to hold pairs of a name or path and a size above 0, such as "
                "(('Qwen/Qwen3-4B', 4.0),)."
            )
    return tuple((name, size) for name, size in pairs)


def _is_list(value: object) -> bool:
    return isinstance(value, tuple | list)
