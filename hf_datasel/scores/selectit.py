"""Ratings of rows by the model itself, weighted by its certainty."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ConfigError, FormatError, ScoreError, check_option
from hf_datasel.scoring.base import Columns, ModelScore, Score, finite_or_null, null_counts
from hf_datasel.scoring.models import Loading, model_identity
from hf_datasel.scoring.rating_prompts import RATING_PROMPTS, RatingPrompts, RatingRunner
from hf_datasel.scoring.runner import ModelRunner
from hf_datasel.tokens import TokenRows, TokenSettings
from hf_datasel.tokens.sequences import RaggedArray

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["SelectIT", "model_scores", "rating_probabilities", "sentence_scores", "token_scores"]

_CHUNK_ROWS = 10_000
"""Rows whose tokens are in memory at the same time."""
_LEVELS = ["token", "sentence", "model"]


@dataclass(frozen=True)
class SelectIT(ModelScore):
    """The rating that a model gives to a row, times how much more certain it is of that rating than of the others.

    The model is prompted for a rating of the row, and the score is computed from the probabilities of the rating
    tokens. With `level="token"` the first of `prompts` is used; with `"sentence"` all are, and a score that depends on
    the wording is reduced; with `"model"` several models rate, weighted by their size. `"model"` loads them by name,
    one after the other, in each call: use `hf_datasel.score` and not `Dataset.map`.

    Reads any supported row format that has a response; in conversations the last response is rated, with the turns
    before it and the tools as the task; tool calls are read as JSON. Writes `selectit` (float32) and `selectit_reason`
    ("" for a scored row). A row that exceeds `max_length` tokens with the prompt is rated with its response truncated.
    Cost: one forward pass per row, prompt and model.

    Reference: Liu et al. 2024 (2402.16705); the prompts are our own wording.

    Args:
        model: Name or path of the model. None uses the model of the round, or the `model` of `hf_datasel.score`.
        revision: Commit, branch or tag of a Hub model.
        level: `"token"`, `"sentence"` or `"model"`.
        prompts: Prompts that follow a row and its response; `{ratings}` is replaced by the highest rating.
        ratings: Highest rating; the lowest is 1.
        alpha: Weight of the standard deviation over prompts, which reduces the score.
        parameters: Size of `model` in the unit of `models`, for `level="model"`.
        models: Further models for `level="model"`, each a name or path and its size: `(("Qwen/Qwen3-4B", 4.0),)`.
        dtype: Data type of the weights: "auto" or the name of a floating-point type.
        model_init_kwargs: Further arguments of `from_pretrained`, as in `SFTConfig`.
        max_length: Number of tokens that rows are truncated to. None uses the `max_length` of the training arguments,
            and 1,024 outside a trainer.
        column_prefix: Prefix of the name of every column that the score writes.

    >>> SelectIT(level="token", ratings=7).columns()
    {'selectit': DataType(float), 'selectit_reason': DataType(string)}
    """

    level: Literal["token", "sentence", "model"] = field(default="sentence", kw_only=True)
    prompts: tuple[str, ...] = field(default=RATING_PROMPTS, kw_only=True)
    ratings: int = field(default=5, kw_only=True)
    alpha: float = field(default=0.2, kw_only=True)
    parameters: float | None = field(default=None, kw_only=True)
    models: tuple[tuple[str, float], ...] = field(default=(), kw_only=True)

    citation = (
        "@inproceedings{liu2024selectit, title={SelectIT: Selective Instruction Tuning for LLMs via "
        "Uncertainty-Aware Self-Reflection}, author={Liu, Liangxin and Liu, Xuebo and Wong, Derek F. and Li, Dongfang "
        "and Wang, Ziyi and Hu, Baotian and Zhang, Min}, booktitle={NeurIPS}, year={2024}}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option(f"SelectIT(level={self.level!r})", self.level, _LEVELS)
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
                f"SelectIT(parameters={self.parameters!r}): level='model' weights models by their size, so it has to "
                "be the size of model, above 0 and in the unit of models."
            )
        names = [self.model, *(name for name, _ in self.models)]
        if len(set(names)) < len(names):
            raise ConfigError(f"SelectIT(level='model') names a model twice: {names}.")

    @property
    def needs_tokenizer(self) -> bool:
        """Whether the score needs tokenized rows."""
        return self.level != "model"  # there each model has its own, loaded when it runs

    @property
    def needs_text(self) -> bool:
        """Whether the score reads the text of rows."""
        return True

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        return {"selectit": pa.float32(), "selectit_reason": pa.string()}

    def spec(self) -> dict[str, Any]:
        """Return the settings for the record, with model names resolved to digests."""
        further = [model_identity(name) for name, _ in self.models]
        return {**super().spec(), **({"resolved_models": further} if further else {})}

    def _identity(self) -> str:
        return ":".join([super()._identity(), *(model_identity(name) for name, _ in self.models)])

    def _rows_of(self, dataset: Dataset) -> tuple[TokenRows, ModelRunner]:
        return super()._rows_of(dataset) if self.level != "model" else Score._rows_of(self, dataset)

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        if rows.pool.format == "text":
            raise FormatError(
                "Rows with only a text column have no response to rate. Make prompt and completion columns of them."
            )
        if self.level == "model":
            score, reasons = self._score_by_models(rows, runner)
        else:
            score, reasons = self._score_by_model(rows, rows.tokenizer, runner, rows.settings)
        values, reason_array = finite_or_null([score], reasons)
        return {"selectit": values[0], "selectit_reason": reason_array}

    def _score_by_models(self, rows: TokenRows, runner: ModelRunner) -> tuple[np.ndarray, np.ndarray]:
        if self.model is None or self.parameters is None:
            raise ScoreError(
                "SelectIT(level='model') loads its models by name, and the first has none. Pass "
                "SelectIT('name or path', level='model', ...)."
            )
        models = ((self.model, self.revision), *((name, None) for name, _ in self.models))
        scores, reasons = zip(
            *(self._score_by_named_model(rows, runner, name, revision) for name, revision in models), strict=True
        )
        first_reasons = reasons[0]
        for model_reasons in reasons[1:]:
            first_reasons = np.where(first_reasons == "", model_reasons, first_reasons)
        sizes = [self.parameters, *(size for _, size in self.models)]
        return model_scores(np.array(scores), sizes), first_reasons

    def _score_by_named_model(
        self, rows: TokenRows, runner: ModelRunner, name: str, revision: str | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute the sentence scores of one model, which replaces the previous one in memory."""
        loading = Loading(name, revision, self.dtype, init_kwargs=self.model_init_kwargs)
        return self._score_by_model(rows, loading.tokenizer(), runner.with_model(loading), self.token_settings())

    def _score_by_model(
        self, rows: TokenRows, tokenizer: Any, runner: ModelRunner, settings: TokenSettings
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute the token or sentence score of each row by one model, float64, NaN without one, and the reasons."""
        request = RatingPrompts(tokenizer, self.ratings)
        logits = RatingRunner(runner, request.tokens)
        prompts = self.prompts[:1] if self.level == "token" else self.prompts
        scores = np.full((len(rows), len(prompts)), np.nan)
        reasons = np.full(len(rows), "", dtype=object)
        max_length = self.max_length or settings.max_length
        for column, prompt in enumerate(prompts):
            requests = RaggedArray(_encode_requests(request, rows, prompt, max_length, reasons))
            valid = np.flatnonzero(reasons == "")
            label = f"selectit {column + 1}/{len(prompts)}"
            rating_logits = logits.rate(requests, label, null_counts(reasons))
            scores[valid, column] = token_scores(rating_probabilities(rating_logits))
        score = scores[:, 0] if self.level == "token" else sentence_scores(scores, self.alpha)
        return np.where(reasons == "", score, np.nan), reasons.astype(np.str_)


def _encode_requests(
    request: RatingPrompts, rows: TokenRows, prompt: str, max_length: int | None, reasons: np.ndarray
) -> Iterator[list[np.ndarray]]:
    """Yield the token ids of the requests of each chunk of rows. Sets the reasons of excluded rows."""
    for start in range(0, len(rows), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        parsed = list(rows.pool.rows(rows.indices[part]))
        reasons[part] = [reason or row.reason for reason, row in zip(reasons[part], parsed, strict=True)]
        valid = np.flatnonzero(reasons[part] == "")
        encoded, new_reasons = request.encode_rows([parsed[index] for index in valid], prompt, max_length)
        reasons[start + valid] = new_reasons
        yield [ids for ids in encoded if ids is not None]


def rating_probabilities(logits: np.ndarray) -> np.ndarray:
    """Compute the softmax over the rating tokens only (last axis), float64, of logits or log-probabilities.

    >>> rating_probabilities(np.log([0.1, 0.3])).round(2).tolist()
    [0.25, 0.75]
    """
    logits = np.asarray(logits, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    total: np.ndarray = raised / raised.sum(axis=-1, keepdims=True)
    return total


def token_scores(probabilities: np.ndarray) -> np.ndarray:
    """Compute the most probable rating, 1 to K, times its mean distance from the others; ties go to the lowest.

    The distances are between `exp(p) / sum(exp(p))`, an exponential of probabilities (the paper's Eq. 3, and its
    code), which is flatter than the probabilities: with K = 5 it lies between 0.149 and 0.405.

    Args:
        probabilities: Probabilities of the K ratings, shape (..., K), which sum to 1.

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
    """Compute the mean over prompts (last axis), divided by 1 + alpha times their population standard deviation.

    >>> sentence_scores(np.array([[1.0, 3.0]]), alpha=1.0).tolist()
    [1.0]
    """
    scores: np.ndarray = tokens.mean(axis=-1) / (1 + alpha * tokens.std(axis=-1))
    return scores


def model_scores(sentences: np.ndarray, parameters: Sequence[float]) -> np.ndarray:
    """Compute the mean over models (first axis), weighted by their sizes in any unit.

    >>> model_scores(np.array([[1.0], [2.0]]), [7, 21]).tolist()
    [1.75]
    """
    sizes = np.asarray(parameters, dtype=np.float64)
    scores: np.ndarray = np.tensordot(sizes / sizes.sum(), sentences, axes=1)
    return scores


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _prompts(prompts: Any, level: str) -> tuple[str, ...]:
    if not isinstance(prompts, tuple | list) or not all(
        isinstance(prompt, str) and prompt.strip() for prompt in prompts
    ):
        raise ConfigError(f"SelectIT(prompts={prompts!r}): it has to be a list of texts that are not empty.")
    if len(set(prompts)) < len(prompts):
        raise ConfigError("SelectIT(prompts=...) holds a prompt twice.")
    minimum = 1 if level == "token" else 2
    if len(prompts) < minimum:
        raise ConfigError(
            f"SelectIT(level={level!r}) needs at least {minimum} prompts, and has {len(prompts)}. level='token' "
            "needs one."
        )
    return tuple(prompts)


def _models(models: Any) -> tuple[tuple[str, float], ...]:
    pairs: list[Any] = [pair if _is_list(pair) else () for pair in models] if _is_list(models) else [()]
    for pair in pairs:
        if len(pair) != 2 or not isinstance(pair[0], str) or not _is_number(pair[1]) or pair[1] <= 0:
            raise ConfigError(
                f"SelectIT(models={models!r}): it has to hold pairs of a name or path and a size above 0, such as "
                "(('Qwen/Qwen3-4B', 4.0),)."
            )
    return tuple((name, size) for name, size in pairs)


def _is_list(value: object) -> bool:
    return isinstance(value, tuple | list)
