"""How much better a row's response is than what the model itself would answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import torch

from hf_datasel.errors import ConfigError, did_you_mean
from hf_datasel.formats import Row
from hf_datasel.scores.judge import Judge
from hf_datasel.scores.reward import Reward
from hf_datasel.scoring.base import Columns, ModelScore, finite_or_null, null_counts
from hf_datasel.scoring.generation import Decoding, Generator, Prompts
from hf_datasel.scoring.logprobs import Forward, Forwards
from hf_datasel.scoring.models import model_identity
from hf_datasel.tokens import TokenRows
from hf_datasel.tokens.chat import task_and_answer, with_answer
from hf_datasel.tokens.sequences import Ragged, Sequence as TokenSequence

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelContext

__all__ = ["RewardGap"]

_ROWS_AT_ONCE = 10_000
"""Rows whose text is held in memory."""
_SCORERS = ["reward", "perplexity", "judge"]
_BELONGS = {"reward_model": "reward", "reward_revision": "reward", "reward_init_kwargs": "reward", "judge": "judge"}

Found = tuple[np.ndarray, np.ndarray]
"""Scores, float64 and NaN where there is none, and reasons."""


@dataclass(frozen=True)
class RewardGap(ModelScore):
    """The score of a row's response, less that of the answer which the model itself gives to the prompt.

    The model, by default that of the round, first answers every prompt: `scorer` then says what rates both.
    `"reward"` is a reward model, loaded by name when all answers are written; a response and an answer lose the white
    space around them, and are read as `Reward` reads rows. `"judge"` is a chat model behind an endpoint, as `Judge`
    asks it. `"perplexity"` is the model itself, over all of prompt and response but what ends them: log perplexity of
    the row's own tokens minus that of the prompt with the answer. So the gap is above 0 where the response is the
    better one, or, by perplexity, where it comes less expected than the model's own.

    Prompts are the tokens of training up to the last response, earlier turns as they are in the row, and answers are
    the likeliest token each time unless `temperature` is set. An answer without a token is rated too, but for
    `"perplexity"`, where the reason is `empty_generation`. A row whose prompt leaves no room for its response in the
    window of training, or none for `max_new_tokens` in the model, has the reason `prompt_fills_window`.

    Reads any supported row format that has a response. Writes `reward_gap` (float32) and `reward_gap_reason` ("" for a
    scored row). Cost: up to `max_new_tokens` forward passes of one token each, and two forward passes or requests of
    the scorer. Use it with `hf_datasel.score`: in `Dataset.map` both models are loaded again for each batch.
    Reference: Yu et al. 2024 (2409.11378), Eq. 4, and Eq. 7 for perplexity with the sign that it has there.

    >>> RewardGap(scorer="perplexity").columns()
    {'reward_gap': DataType(float), 'reward_gap_reason': DataType(string)}
    """

    scorer: Literal["reward", "perplexity", "judge"] = field(default="reward", kw_only=True)
    reward_model: str | None = field(default=None, kw_only=True)
    """Hub id or local path of the reward model; loaded with `dtype`."""
    reward_revision: str | None = field(default=None, kw_only=True)
    """Its commit, branch or tag on the Hub."""
    reward_init_kwargs: dict[str, Any] | None = field(default=None, kw_only=True)
    """More arguments of `from_pretrained` for it."""
    judge: dict[str, Any] | None = field(default=None, kw_only=True)
    """Settings of `Judge`: `{"model": "gpt-4.1-mini", "base_url": "https://api.openai.com/v1"}`."""
    max_new_tokens: int = field(default=256, kw_only=True)
    """Tokens of an answer; a longer one is cut."""
    temperature: float = field(default=0.0, kw_only=True)
    """Of the answers: 0 takes the likeliest token each time, 1 draws with the model's own odds."""
    seed: int = field(default=0, kw_only=True)
    """Of the draws, which belong to the prompt: the same in any batch."""

    citation = (
        "@article{yu2024diversify, title={Diversify and Conquer: Diversity-Centric Data Selection with Iterative "
        "Refinement}, author={Yu, Simon and Chen, Liangyu and Ahmadian, Sara and Fadaee, Marzieh}, "
        "journal={arXiv:2409.11378}, year={2024}}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scorer not in _SCORERS:
            hint = did_you_mean(str(self.scorer), _SCORERS)
            raise ConfigError(f"RewardGap(scorer={self.scorer!r}): it has to be one of {_SCORERS}.{hint}")
        for name, scorer in _BELONGS.items():
            if getattr(self, name) is not None and self.scorer != scorer:
                raise ConfigError(f"RewardGap({name}=...) is for scorer={scorer!r}, and scorer is {self.scorer!r}.")
        self._decoding()
        if self.scorer == "reward":
            if self.reward_model is None:
                raise ConfigError(
                    "RewardGap(scorer='reward') needs a reward model: reward_model='name or path'. Without one there "
                    "are scorer='perplexity' and scorer='judge'."
                )
            self._reward()
        if self.scorer == "judge":
            self._judge()

    def _decoding(self) -> Decoding:
        return Decoding(self.max_new_tokens, self.temperature, self.seed)

    def _reward(self) -> Reward:
        return Reward(
            self.reward_model,
            revision=self.reward_revision,
            dtype=self.dtype,
            model_init_kwargs=self.reward_init_kwargs,
        )

    def _judge(self) -> Judge:
        settings = self.judge if isinstance(self.judge, dict) else {}
        known = [each.name for each in fields(Judge)]
        if "model" not in settings:
            raise ConfigError(
                f"RewardGap(judge={self.judge!r}): scorer='judge' needs the settings of Judge, its model at least."
            )
        for name in settings:
            if name not in known:
                raise ConfigError(f"RewardGap(judge=...) has {name!r}: Judge has {known}.{did_you_mean(name, known)}")
        return Judge(**settings)

    def columns(self) -> dict[str, pa.DataType]:
        return {"reward_gap": pa.float32(), "reward_gap_reason": pa.string()}

    def spec(self) -> dict[str, Any]:
        rates = {} if self.reward_model is None else {"resolved_reward_model": self._reward_identity()}
        return {**super().spec(), **rates}

    def _reward_identity(self) -> str:
        return "" if self.reward_model is None else model_identity(self.reward_model, self.reward_revision)

    def _identity(self) -> str:
        return f"{super()._identity()}:{self._reward_identity()}"

    def check_inputs(self, rows: TokenRows, context: ModelContext) -> None:
        if context.loading is None:
            Prompts.of(rows, Generator(context, rows.tokenizer, self._decoding()).room)
        if self.scorer == "reward":
            self._reward().check_model(self._reward().loading())
        elif self.scorer == "judge":
            self._judge().check_token()

    def compute(self, rows: TokenRows, context: ModelContext) -> Columns:
        generator = Generator(context, rows.tokenizer, self._decoding())
        prompts = Prompts.of(rows, generator.room)
        answers = generator.answers(prompts.asked, "reward_gap answers", null_counts(prompts.reasons))
        gap, reasons = np.full(len(rows), np.nan), prompts.reasons.astype(object)
        if self.scorer == "perplexity":
            gap[prompts.owner], reasons[prompts.owner] = self._by_perplexity(prompts, answers, context)
        else:
            texts = list(generator.texts(answers))
            del generator  # and the model with it, before another one comes
            by = self._by_reward if self.scorer == "reward" else self._by_judge
            gap[prompts.owner], reasons[prompts.owner] = by(rows, prompts.owner, texts, context)
        values, why = finite_or_null([gap], reasons.astype(np.str_))
        return {"reward_gap": values[0], "reward_gap_reason": why}

    def _by_reward(self, rows: TokenRows, owner: np.ndarray, answers: list[str], context: ModelContext) -> Found:
        reward = self._reward()
        loading = reward.loading()
        usual = rows.settings.max_length
        usual = None if usual is None else usual + self.max_new_tokens  # so that the longest answer is read whole
        parts = _both(rows, owner, answers)
        return _difference(*reward.rate(parts, loading.tokenizer(), context.other(loading), usual))

    def _by_judge(self, rows: TokenRows, owner: np.ndarray, answers: list[str], context: ModelContext) -> Found:
        pairs = [task_and_answer(row) for part in _both(rows, owner, answers) for row in part]
        ratings, reasons = self._judge().rate(pairs, context)
        return _difference(ratings, np.array(reasons, dtype=np.str_))

    def _by_perplexity(self, prompts: Prompts, answers: Ragged, context: ModelContext) -> Found:
        """Eq. 7: -log(perplexity with the answer / perplexity with the response)."""
        empty = answers.lengths == 0
        there = np.flatnonzero(~empty)
        written = Ragged(
            [np.concatenate([prompts.asked[at], answers[at]]) for at in there[start : start + _ROWS_AT_ONCE]]
            for start in range(0, len(there), _ROWS_AT_ONCE)
        )
        gap = np.full(len(empty), np.nan)
        gap[there] = log_perplexities(context, prompts.answered, "reward_gap response")[there]
        gap[there] -= log_perplexities(context, written, "reward_gap answer")
        return gap, np.where(empty, "empty_generation", "")


def log_perplexities(context: ModelContext, texts: Ragged, label: str) -> np.ndarray:
    """Mean NLL in nats over all tokens of each text but the first one, float64 of shape (texts,)."""
    forwards = Forwards(context.model)

    def compute(batch: np.ndarray) -> np.ndarray:
        sequences = [TokenSequence(ids, np.arange(1, len(ids))) for ids in (texts[at] for at in batch)]
        losses: Sequence[torch.Tensor] = forwards.losses(Forward(forwards, sequences))
        return np.array([[each.double().mean().item()] for each in losses])

    spec = {"computed": "log_perplexity", "version": 1}
    return context.run(compute, texts.lengths, 1, label=label, keys=texts.digests, spec=spec)[:, 0]


def _both(rows: TokenRows, owner: np.ndarray, answers: list[str]) -> Iterator[list[Row]]:
    """First the rows as they are, then with the answers in them, part by part; no white space around either."""
    for given in (True, False):
        for start in range(0, len(owner), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            read = rows.pool.rows(rows.indices[owner[part]])
            pairs = zip(read, answers[part], strict=True)
            yield [with_answer(row, row.turns[-1].content.strip() if given else answer) for row, answer in pairs]


def _difference(scores: np.ndarray, reasons: np.ndarray) -> Found:
    """The first half minus the second; the reason of either where one has none."""
    of_row, of_answer = np.split(scores, 2)
    why, other = np.split(reasons, 2)
    return of_row - of_answer, np.where(why == "", other, why)
