"""Complexity of the question times quality of the answer, each rated by a trained scorer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ConfigError, FormatError, ModelError, check_option
from hf_datasel.scores.selectit import rating_probabilities
from hf_datasel.scoring.base import Columns, ModelScore, Score, finite_or_null, null_counts
from hf_datasel.scoring.models import Loading, model_identity
from hf_datasel.scoring.rating_prompts import RatingRunner
from hf_datasel.scoring.runner import ModelRunner
from hf_datasel.tokens import TokenRows
from hf_datasel.tokens.prompts import encode_prompts, resolve_max_length
from hf_datasel.tokens.sequences import RaggedArray

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["COMPLEXITY_PROMPT", "QUALITY_PROMPT", "DeitaScore"]

COMPLEXITY_PROMPT = (
    "You are a helpful assistant. Please identify the complexity score of the following user query. \n"
    "##Query: {instruction}  \n##Complexity: "
)
"""Prompt that the published complexity scorer was trained with."""
QUALITY_PROMPT = (
    "You are a helpful assistant. Please identify the quality score of the Response corresponding to the Question. \n"
    " #Question#:\n{instruction}\n#Response#:\n{output} \n##Quality: "
)
"""Prompt that the published quality scorer was trained with."""

_RATINGS = 6
_CHUNK_ROWS = 10_000
"""Rows whose tokens are in memory at the same time."""
_PLACEHOLDERS = {"complexity_prompt": ("{instruction}",), "quality_prompt": ("{instruction}", "{output}")}
_TURNS = ["sum", "mean"]


@dataclass(frozen=True)
class DeitaScore(ModelScore):
    """Complexity of the question times quality of the answer: the expected ratings, 1 to 6, of two scorers.

    A rating is `sum_i i * p_i` with the probabilities of the tokens "1" to "6" after the scorer's prompt, normalized
    to sum to 1. The two scorers are loaded by name, one after the other, in each call: use `hf_datasel.score` and not
    `Dataset.map`. The model of the round is not used.

    Reads any supported row format that has a response. Each response of a row is rated with the turn that it answers
    (of the user or a tool); system messages and tools are ignored. Tool calls and thoughts are rated as text. Of two
    responses in turn both answer the turn before them; a greeting before the first question is not rated, and the
    reason of a row without any question is `empty_prompt`. Writes `complexity` and `quality` (float32, 1 to 6, the
    mean over several turns), `deita` (float32) and `deita_reason` ("" for a scored row). A turn that exceeds
    `max_length` tokens is rated with its response truncated; if the question alone exceeds them, the row has no score.
    Cost: two forward passes per turn, one by each scorer.

    Reference: Liu et al. 2024 (2312.15685), whose selection then excludes near-duplicates.

    Args:
        model: Not supported and has to be None: name the two scorers with `complexity_model` and `quality_model`.
        revision: Not supported and has to be None: use `complexity_revision` and `quality_revision`.
        complexity_model: Hub id or local path of the causal LM that rates questions.
        quality_model: Hub id or local path of the causal LM that rates answers.
        complexity_revision: Commit, branch or tag of `complexity_model` on the Hub.
        quality_revision: Commit, branch or tag of `quality_model` on the Hub.
        complexity_prompt: Prompt of the first scorer, in which `{instruction}` is replaced by the question. Another
            scorer needs the prompt that it was trained with.
        quality_prompt: Prompt of the second scorer, in which `{instruction}` is replaced by the question, and
            `{output}` by the answer.
        turns: How the products of a row's turns are reduced. The published `"sum"` favours long conversations: one of
            ten mediocre turns ranks above the best single turn. `"mean"` does not.
        max_length: Maximum number of tokens of a prompt with its row; by default as many as the scorer takes.
        dtype: Data type of the weights of both scorers: "auto" or the name of a floating-point type.
        model_init_kwargs: Further arguments of `from_pretrained` for both scorers.
        column_prefix: Prefix of the name of every column that the score writes.

    >>> DeitaScore().columns()["deita"]
    DataType(float)
    """

    complexity_model: str = field(default="hkust-nlp/deita-complexity-scorer", kw_only=True)
    quality_model: str = field(default="hkust-nlp/deita-quality-scorer", kw_only=True)
    complexity_revision: str | None = field(default=None, kw_only=True)
    quality_revision: str | None = field(default=None, kw_only=True)
    complexity_prompt: str = field(default=COMPLEXITY_PROMPT, kw_only=True)
    quality_prompt: str = field(default=QUALITY_PROMPT, kw_only=True)
    turns: Literal["sum", "mean"] = field(default="sum", kw_only=True)
    max_length: int | None = field(default=None, kw_only=True)

    citation = (
        "@inproceedings{liu2024deita, title={What Makes Good Data for Alignment? A Comprehensive Study of Automatic "
        "Data Selection in Instruction Tuning}, author={Liu, Wei and Zeng, Weihao and He, Keqing and Jiang, Yong and "
        "He, Junxian}, booktitle={ICLR}, year={2024}}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is not None or self.revision is not None:
            raise ConfigError(
                "DeitaScore runs two scorers, and no other model: name them with complexity_model=... and "
                "quality_model=..., and their revisions likewise."
            )
        for name in ("complexity_model", "quality_model"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise ConfigError(f"DeitaScore({name}={value!r}): it has to be a name or a path.")
        for name, placeholders in _PLACEHOLDERS.items():
            value = getattr(self, name)
            if not isinstance(value, str) or not all(placeholder in value for placeholder in placeholders):
                raise ConfigError(
                    f"DeitaScore({name}={value!r}): it has to be a text with {' and '.join(placeholders)} in it."
                )
        check_option(f"DeitaScore(turns={self.turns!r})", self.turns, _TURNS)

    @property
    def needs_tokenizer(self) -> bool:
        """Whether the score needs tokenized rows."""
        return False  # each scorer has its own, loaded when it runs

    @property
    def needs_text(self) -> bool:
        """Whether the score reads the text of rows."""
        return True

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        return {**dict.fromkeys(("complexity", "quality", "deita"), pa.float32()), "deita_reason": pa.string()}

    @property
    def value_column(self) -> str:
        """Name of the column that selectors rank rows by."""
        return f"{self.column_prefix}deita"

    def spec(self) -> dict[str, Any]:
        """Return the settings for the record, with model names resolved to digests."""
        complexity, quality = self._identities()
        return {**super().spec(), "resolved_complexity_model": complexity, "resolved_quality_model": quality}

    def _identity(self) -> str:
        return ":".join([super()._identity(), *self._identities()])

    def _identities(self) -> tuple[str, str]:
        return (
            model_identity(self.complexity_model, self.complexity_revision),
            model_identity(self.quality_model, self.quality_revision),
        )

    def _rows_of(self, dataset: Dataset) -> tuple[TokenRows, ModelRunner]:
        return Score._rows_of(self, dataset)

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        if rows.pool.format == "text":
            raise FormatError(
                "Rows with only a text column have no response to rate. Make prompt and completion columns of them."
            )
        reasons = np.full(len(rows), "", dtype=object)
        complexity_owner, complexity = self._ratings("complexity", rows, runner, reasons)
        owner, quality = self._ratings("quality", rows, runner, reasons)
        complexity = complexity[reasons[complexity_owner] == ""]  # the second scorer may exclude more rows
        count = np.maximum(np.bincount(owner, minlength=len(rows)), 1)
        means = [np.bincount(owner, ratings, len(rows)) / count for ratings in (complexity, quality)]
        deita = np.bincount(owner, complexity * quality, len(rows)) / (count if self.turns == "mean" else 1)
        null = reasons != ""
        columns = [np.where(null, np.nan, values) for values in (*means, deita)]
        arrays, reason_array = finite_or_null(columns, reasons)
        return dict(zip(self.columns(), [*arrays, reason_array], strict=True))

    def _ratings(
        self, scorer_name: str, rows: TokenRows, runner: ModelRunner, reasons: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the row of each rated turn, in order, and its rating, float64. Sets the reasons of excluded rows."""
        settings = (getattr(self, f"{scorer_name}_{setting}") for setting in ("model", "revision", "prompt"))
        name, revision, prompt = settings
        loading = Loading(name, revision, self.dtype, init_kwargs=self.model_init_kwargs)
        scorer, tokenizer = runner.with_model(loading), loading.tokenizer()
        template = _PromptTemplate(
            tokenizer, prompt, resolve_max_length(scorer.model, tokenizer, self.max_length, "DeitaScore")
        )
        owners = [np.empty(0, dtype=np.int64)]
        prompts = RaggedArray(_encode_turns(template, rows, reasons, owners))
        logits = RatingRunner(scorer, _rating_tokens(tokenizer)).rate(
            prompts, f"deita {scorer_name}", null_counts(reasons)
        )
        return np.concatenate(owners), rating_probabilities(logits) @ np.arange(1, _RATINGS + 1)


def _encode_turns(
    template: _PromptTemplate, rows: TokenRows, reasons: np.ndarray, owners: list[np.ndarray]
) -> Iterator[list[np.ndarray]]:
    """Yield the token ids of each chunk's turns. Sets the reasons of excluded rows, and appends to `owners`."""
    for start in range(0, len(rows), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        turns = []
        for position, row in enumerate(rows.pool.rows(rows.indices[part]), start):
            reasons[position] = reasons[position] or row.reason
            if reasons[position] == "":
                pairs = row.questions_and_responses()
                turns += [(position, *turn) for turn in pairs]
                reasons[position] = "" if pairs else "empty_prompt"
        contexts = template.encode_rows([(question, answer) for _, question, answer in turns])
        for (position, *_), context in zip(turns, contexts, strict=True):
            if context is None:
                reasons[position] = "prompt_fills_window"
        rated = zip(turns, contexts, strict=True)
        encoded = [(position, ids) for (position, *_), ids in rated if ids is not None and reasons[position] == ""]
        owners.append(np.array([position for position, _ in encoded], dtype=np.int64))
        yield [np.array(ids, dtype=np.int64) for _, ids in encoded]


class _PromptTemplate:
    """Prompt of a scorer: token ids up to the position where the rating is the next token."""

    def __init__(self, tokenizer: Any, prompt: str, max_length: int):
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.max_length = max_length

    def encode_rows(self, turns: Sequence[tuple[str, str]]) -> list[list[int] | None]:
        """Return the ids of the prompt for each question and answer; None if the question leaves no room."""
        full = encode_prompts(self.tokenizer, [self._fill(*turn) for turn in turns])
        return [
            ids if len(ids) <= self.max_length else self._shorten(*turn, len(ids))
            for turn, ids in zip(turns, full, strict=True)
        ]

    def _fill(self, question: str, answer: str) -> str:
        """Return the prompt with both texts, replaced in one pass so that braces in a row stay text."""
        texts = {"{instruction}": question, "{output}": answer}
        return re.sub(r"\{instruction\}|\{output\}", lambda match: texts[match[0]], self.prompt)

    def _shorten(self, question: str, answer: str, length: int) -> list[int] | None:
        """Return the ids with the answer truncated to the window."""
        if "{output}" not in self.prompt:
            return None
        empty = len(encode_prompts(self.tokenizer, [self._fill(question, "")])[0])
        room = self.max_length - empty
        while room > 0 and length > empty:
            answer = answer[: len(answer) * room // (length - empty)]
            if not answer.strip():
                break
            ids = encode_prompts(self.tokenizer, [self._fill(question, answer)])[0]
            if len(ids) <= self.max_length:
                return ids
            length = len(ids)
        return None


def _rating_tokens(tokenizer: Any) -> np.ndarray:
    """Return the token ids of "1" to "6".

    Raises:
        ModelError: One of them is not a single token.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [rating for rating in map(str, range(1, _RATINGS + 1)) if rating not in vocabulary]
    if missing:
        raise ModelError(
            f"The tokenizer of {tokenizer.name_or_path!r} has no single token for {', '.join(map(repr, missing))}, so "
            f"that the probabilities of the ratings 1 to {_RATINGS} cannot be read off the next token. Take another "
            "scorer."
        )
    return np.array([vocabulary[str(rating)] for rating in range(1, _RATINGS + 1)], dtype=np.int64)
