"""Complexity of the question times quality of the answer, each rated by a model trained for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ConfigError, FormatError, ModelError, did_you_mean
from hf_datasel.formats import Row
from hf_datasel.scores.selectit import rating_probabilities
from hf_datasel.scoring.base import Columns, ModelScore, Score, finite_or_null, null_counts
from hf_datasel.scoring.models import Loading, model_identity
from hf_datasel.scoring.rating_prompts import RatingLogits
from hf_datasel.scoring.runner import ModelContext
from hf_datasel.tokens import TokenRows
from hf_datasel.tokens.prompts import started, window
from hf_datasel.tokens.sequences import Ragged

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["COMPLEXITY_PROMPT", "QUALITY_PROMPT", "DeitaScore"]

COMPLEXITY_PROMPT = (
    "You are a helpful assistant. Please identify the complexity score of the following user query. \n"
    "##Query: {instruction}  \n##Complexity: "
)
"""What the published complexity scorer was trained on."""
QUALITY_PROMPT = (
    "You are a helpful assistant. Please identify the quality score of the Response corresponding to the Question. \n"
    " #Question#:\n{instruction}\n#Response#:\n{output} \n##Quality: "
)
"""What the published quality scorer was trained on."""

_RATINGS = 6
_ROWS_AT_ONCE = 10_000
"""Rows whose tokens are held in memory."""
_PLACES = {"complexity_prompt": ("{instruction}",), "quality_prompt": ("{instruction}", "{output}")}
_TURNS = ["sum", "mean"]


@dataclass(frozen=True)
class DeitaScore(ModelScore):
    """How complex a row's question is, times how good its answer is: the expected ratings, 1 to 6, of two scorers.

    A scorer's rating is `sum_i i * p_i`, with the probabilities of the tokens "1" to "6" behind its prompt, scaled to
    sum to 1. The two scorers are loaded by name, one after the other, at each call: use `hf_datasel.score` for it and
    not `Dataset.map`. The model of the round is not asked.

    Reads any supported row format that has a response. Each response of a row is rated with the turn that it answers
    (the user's, or a tool's); system messages are left out. Writes `complexity` and `quality` (float32, 1 to 6, of
    several turns the mean), `deita` (float32) and `deita_reason` ("" for a scored row). A turn that does not fit into
    `max_length` tokens is rated without the end of its response; where the question alone does not fit, the row has no
    score. Cost: two forward passes a turn, one by each scorer.
    Reference: Liu et al. 2024 (2312.15685), whose selection then leaves out near copies.

    >>> DeitaScore().columns()["deita"]
    DataType(float)
    """

    complexity_model: str = field(default="hkust-nlp/deita-complexity-scorer", kw_only=True)
    """Hub id or local path of the causal LM that rates questions."""
    quality_model: str = field(default="hkust-nlp/deita-quality-scorer", kw_only=True)
    """Hub id or local path of the causal LM that rates answers."""
    complexity_revision: str | None = field(default=None, kw_only=True)
    quality_revision: str | None = field(default=None, kw_only=True)
    complexity_prompt: str = field(default=COMPLEXITY_PROMPT, kw_only=True)
    """`{instruction}` becomes the question; a scorer of your own has to be asked as it was trained."""
    quality_prompt: str = field(default=QUALITY_PROMPT, kw_only=True)
    """`{instruction}` becomes the question, and `{output}` the answer."""
    turns: Literal["sum", "mean"] = field(default="sum", kw_only=True)
    """Of the products of a row's turns. The sum is what is published, and favours long conversations: one of ten
    mediocre turns comes before the best single turn. The mean does not."""
    max_length: int | None = field(default=None, kw_only=True)
    """Tokens of a prompt with its row; None is as many as the scorer takes."""

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
        for name, places in _PLACES.items():
            value = getattr(self, name)
            if not isinstance(value, str) or not all(place in value for place in places):
                raise ConfigError(
                    f"DeitaScore({name}={value!r}): it has to be a text with {' and '.join(places)} in it."
                )
        if self.turns not in _TURNS:
            hint = did_you_mean(str(self.turns), _TURNS)
            raise ConfigError(f"DeitaScore(turns={self.turns!r}): it has to be one of {_TURNS}.{hint}")

    @property
    def needs_tokenizer(self) -> bool:
        return False  # each scorer brings its own, and nothing is loaded before it is its turn

    def columns(self) -> dict[str, pa.DataType]:
        return {**dict.fromkeys(("complexity", "quality", "deita"), pa.float32()), "deita_reason": pa.string()}

    @property
    def value_column(self) -> str:
        return f"{self.column_prefix}deita"

    def spec(self) -> dict[str, Any]:
        complexity, quality = self._identities()
        return {**super().spec(), "resolved_complexity_model": complexity, "resolved_quality_model": quality}

    def _identity(self) -> str:
        return ":".join([super()._identity(), *self._identities()])

    def _identities(self) -> tuple[str, str]:
        return (
            model_identity(self.complexity_model, self.complexity_revision),
            model_identity(self.quality_model, self.quality_revision),
        )

    def _rows_of(self, dataset: Dataset) -> tuple[TokenRows, ModelContext]:
        return Score._rows_of(self, dataset)

    def compute(self, rows: TokenRows, context: ModelContext) -> Columns:
        if rows.pool.format == "text":
            raise FormatError(
                "Rows with only a text column have no response to rate. Make prompt and completion columns of them."
            )
        reasons = np.full(len(rows), "", dtype=object)
        first = self._rated("complexity", rows, context, reasons)
        owner, quality = self._rated("quality", rows, context, reasons)
        complexity = first[1][reasons[first[0]] == ""]  # of the rows that the second scorer could be asked about too
        count = np.maximum(np.bincount(owner, minlength=len(rows)), 1)
        means = [np.bincount(owner, each, len(rows)) / count for each in (complexity, quality)]
        deita = np.bincount(owner, complexity * quality, len(rows)) / (count if self.turns == "mean" else 1)
        null = reasons != ""
        values, why = finite_or_null([np.where(null, np.nan, each) for each in (*means, deita)], reasons)
        return dict(zip(self.columns(), [*values, why], strict=True))

    def _rated(
        self, what: str, rows: TokenRows, context: ModelContext, reasons: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The row of each rated turn, in order, and its rating, float64. The reasons of other rows are put in."""
        name, revision, prompt = (getattr(self, f"{what}_{each}") for each in ("model", "revision", "prompt"))
        loading = Loading(name, revision, self.dtype, init_kwargs=self.model_init_kwargs)
        scorer, tokenizer = context.other(loading), loading.tokenizer()
        request = _Request(tokenizer, prompt, window(scorer.model, tokenizer, self.max_length, "DeitaScore"))
        owners = [np.empty(0, dtype=np.int64)]
        asked = Ragged(_requests(request, rows, reasons, owners))
        logits = RatingLogits(scorer, _rating_tokens(tokenizer)).rate(asked, f"deita {what}", null_counts(reasons))
        return np.concatenate(owners), rating_probabilities(logits) @ np.arange(1, _RATINGS + 1)


def _requests(
    request: _Request, rows: TokenRows, reasons: np.ndarray, owners: list[np.ndarray]
) -> Iterator[list[np.ndarray]]:
    """The tokens of each turn of the rows that have no reason yet, part by part; owners and new reasons are put in."""
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        turns = []
        for at, row in enumerate(rows.pool.rows(rows.indices[part]), start):
            reasons[at] = reasons[at] or row.reason
            turns += [(at, *turn) for turn in _turns(row)] if reasons[at] == "" else []
        contexts = request.contexts([(question, answer) for _, question, answer in turns])
        for (at, *_), context in zip(turns, contexts, strict=True):
            if context is None:
                reasons[at] = "prompt_fills_window"
        pairs = zip(turns, contexts, strict=True)
        kept = [(at, ids) for (at, *_), ids in pairs if ids is not None and reasons[at] == ""]
        owners.append(np.array([at for at, _ in kept], dtype=np.int64))
        yield [np.array(ids, dtype=np.int64) for _, ids in kept]


def _turns(row: Row) -> list[tuple[str, str]]:
    """What each response answers, and the response."""
    found, asked = [], list[str]()
    for at, turn in enumerate(row.turns):
        if turn.role == "assistant":
            found += [("\n".join(asked), turn.content)] if at >= row.context else []
            asked = []
        elif turn.role not in ("system", "developer"):
            asked.append(turn.content)
    return found


class _Request:
    """A scorer's prompt, filled in: as tokens that end where the rating is the next one."""

    def __init__(self, tokenizer: Any, prompt: str, max_length: int):
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.max_length = max_length

    def contexts(self, turns: Sequence[tuple[str, str]]) -> list[list[int] | None]:
        """Ids of the prompt for each question and answer; None where the question leaves no room for an answer."""
        whole = started(self.tokenizer, [self._filled(*turn) for turn in turns])
        return [
            ids if len(ids) <= self.max_length else self._shortened(*turn, len(ids))
            for turn, ids in zip(turns, whole, strict=True)
        ]

    def _filled(self, question: str, answer: str) -> str:
        """In one go, so that braces in a row are text like any other."""
        texts = {"{instruction}": question, "{output}": answer}
        return re.sub(r"\{instruction\}|\{output\}", lambda place: texts[place[0]], self.prompt)

    def _shortened(self, question: str, answer: str, length: int) -> list[int] | None:
        """Ids with as much of the answer as there is room for."""
        if "{output}" not in self.prompt:
            return None
        empty = len(started(self.tokenizer, [self._filled(question, "")])[0])
        room = self.max_length - empty
        while room > 0 and length > empty:
            answer = answer[: len(answer) * room // (length - empty)]
            if not answer.strip():
                break
            ids = started(self.tokenizer, [self._filled(question, answer)])[0]
            if len(ids) <= self.max_length:
                return ids
            length = len(ids)
        return None


def _rating_tokens(tokenizer: Any) -> np.ndarray:
    """Ids of "1" to "6".

    Raises:
        ModelError: one of them is no token.
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
