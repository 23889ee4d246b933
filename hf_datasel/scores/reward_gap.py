"""Score of a row's response, compared with the model's own answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from hf_datasel._lazy import torch
from hf_datasel.errors import ConfigError, check_option, did_you_mean
from hf_datasel.formats import Row
from hf_datasel.scores.judge import Judge
from hf_datasel.scores.reward import Reward
from hf_datasel.scoring.base import Columns, finite_or_null, null_counts
from hf_datasel.scoring.endpoint.answers import EndpointAnswers, check_format
from hf_datasel.scoring.endpoint.limits import check_endpoint_settings
from hf_datasel.scoring.endpoint.score import EndpointScore
from hf_datasel.scoring.generation import Decoding, Generator, Prompts
from hf_datasel.scoring.logprobs import Forward, LogprobRunner
from hf_datasel.scoring.models import model_identity
from hf_datasel.spec import changed_settings
from hf_datasel.tokens import TokenRows
from hf_datasel.tokens.chat import prompt_and_response, replace_response, strip_response
from hf_datasel.tokens.sequences import RaggedArray, Sequence as TokenSequence

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelRunner

__all__ = ["RewardGap"]

_CHUNK_ROWS = 10_000
"""Rows whose text is in memory at the same time."""
_SCORERS = ["reward", "perplexity", "judge"]
_SCORER_OF_SETTING = {
    "reward_model": "reward",
    "reward_revision": "reward",
    "reward_init_kwargs": "reward",
    "judge": "judge",
}
_LOCAL = ("revision", "model_init_kwargs", "use_transformers_continuous_batching")
"""Settings of a local model that answers."""
_REWARD = ("dtype", "max_length")
"""Settings of the reward model too, besides those that have its name."""
_REMOTE = ("concurrency", "timeout", "limits", "max_tokens_spent", "api_key_env")
"""Settings of an endpoint, other than its URL."""

ScoresAndReasons = tuple[np.ndarray, np.ndarray]
"""Scores, float64, NaN for a row without one, and reasons."""


@dataclass(frozen=True)
class RewardGap(EndpointScore):
    """The score of a row's response minus that of the answer that the model itself generates for the prompt.

    The model, by default that of the round, first answers every prompt. Then `scorer` rates both. `"reward"` is a
    reward model, loaded by name after all answers are generated; it reads responses and answers as `Reward` reads
    rows, stripped of white space. `"judge"` is a chat model behind an endpoint, as in `Judge`. `"perplexity"` is the
    model itself: log perplexity of the row's tokens minus that of the prompt with the answer, without end tokens. The
    gap is above 0 if the response is the better one or, with `"perplexity"`, if the model expects it less than its own
    answer.

    Prompts are the tokens of training up to the last response, including earlier turns, and answers are generated
    greedily unless `temperature` is set. Empty answers are rated too, except with `"perplexity"`, where the reason is
    `empty_generation`. The reason is `prompt_fills_window` if the prompt leaves no room for the response in the window
    of training, or for `max_new_tokens` in the model.

    With `base_url` the answers come from an OpenAI-compatible endpoint (vLLM, text-generation-inference, OpenAI), and
    `model` is its name there: a fixed model, so not one for rounds that ask the model in training. The endpoint gets
    the messages before the last response, with the tools and template arguments of the row, and applies its own chat
    template; plain text is one message of the user. Each distinct prompt is requested once. The token is read from
    `OPENAI_API_KEY`, or from the variable `api_key_env`. The reasons of rows without an answer are `refused` (the
    endpoint rejects the prompt, which may be too long, or filters the answer), `empty_generation` (all tokens were
    spent before the answer began), `no_answer` and `budget_spent`; with a score store, later runs request only rows
    with the last two, and rows that were not requested before. Whether a request with the same `seed` is answered
    alike is up to the server.

    Reads any supported row format that has a response. Writes `reward_gap` (float32) and `reward_gap_reason` ("" for a
    scored row). Cost: up to `max_new_tokens` forward passes of one token per row, or one request, and two forward
    passes or requests of the scorer. Use it with `hf_datasel.score`: in `Dataset.map` both models are loaded again for
    each batch.

    Reference: Yu et al. 2024 (2409.11378), Eq. 4, and Eq. 7 for perplexity, with its sign.

    Args:
        model: Name or path of the model that answers the prompts, or its name at the endpoint. None uses the model of
            the round, or the `model` of `hf_datasel.score`.
        revision: Commit, branch or tag of a Hub model.
        scorer: Method that rates responses and answers: `"reward"`, `"perplexity"` or `"judge"`.
        reward_model: Hub id or local path of the reward model, which is loaded with `dtype`.
        reward_revision: Commit, branch or tag of the reward model on the Hub.
        reward_init_kwargs: Further arguments of `from_pretrained` for the reward model.
        judge: Settings of `Judge`, such as `{"model": "gpt-4.1-mini", "base_url": "https://api.openai.com/v1"}`.
        max_new_tokens: Maximum number of tokens of an answer; longer ones are truncated.
        temperature: Temperature of sampling the answers; 0 is greedy decoding.
        top_p: Probability of the most likely tokens that are sampled from; 1 samples from all.
        seed: Random seed of sampling. The samples of a prompt are the same in any batch.
        use_transformers_continuous_batching: Whether a local model answers with the continuous batching of
            transformers (5.23 or newer), for greedy decoding: as soon as an answer ends, the next prompt takes its
            place, so that no prompt waits for the longest answer of a batch. Attention is computed in another order,
            so that answers differ where two tokens are equally likely up to rounding. The cache has room for
            `scoring_tokens_per_batch` tokens. Not for mixed precision, and not for models with other than attention
            layers. It is tested on a CPU.
        base_url: Address of an OpenAI-compatible endpoint, such as `http://localhost:8000/v1`; by default the model
            runs locally.
        concurrency: Maximum number of simultaneous requests to the endpoint in each process.
        timeout: Seconds without a response of the endpoint after which a request is retried.
        limits: Limits of a request to the endpoint, as in `Judge`.
        max_tokens_spent: Maximum number of tokens, including prompts, that the answers of a run may cost in each
            process, as the endpoint counts them; no limit by default. The requests of a judge have their own.
        api_key_env: Environment variable with the endpoint's token.
        dtype: Data type of the weights: "auto" or the name of a floating-point type.
        model_init_kwargs: Further arguments of `from_pretrained`, as in `SFTConfig`.
        max_length: Number of tokens that rows are truncated to; with `base_url`, only where the reward model reads
            them. None uses the `max_length` of the training arguments, and 1,024 outside a trainer.
        column_prefix: Prefix of the name of every column that the score writes.

    >>> RewardGap(scorer="perplexity").columns()
    {'reward_gap': DataType(float), 'reward_gap_reason': DataType(string)}
    """

    scorer: Literal["reward", "perplexity", "judge"] = field(default="reward", kw_only=True)
    reward_model: str | None = field(default=None, kw_only=True)
    reward_revision: str | None = field(default=None, kw_only=True)
    reward_init_kwargs: dict[str, Any] | None = field(default=None, kw_only=True)
    judge: dict[str, Any] | None = field(default=None, kw_only=True)
    max_new_tokens: int = field(default=256, kw_only=True)
    temperature: float = field(default=0.0, kw_only=True)
    top_p: float = field(default=1.0, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    use_transformers_continuous_batching: bool = field(default=False, kw_only=True)
    base_url: str | None = field(default=None, kw_only=True)
    concurrency: int = field(default=8, kw_only=True)
    timeout: float = field(default=120.0, kw_only=True)
    limits: dict[str, Any] | None = field(default=None, kw_only=True)
    max_tokens_spent: int | None = field(default=None, kw_only=True)
    api_key_env: str | None = field(default=None, kw_only=True)

    version = 2
    citation = (
        "@article{yu2024diversify, title={Diversify and Conquer: Diversity-Centric Data Selection with Iterative "
        "Refinement}, author={Yu, Simon and Chen, Liangyu and Ahmadian, Sara and Fadaee, Marzieh}, "
        "journal={arXiv:2409.11378}, year={2024}}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option(f"RewardGap(scorer={self.scorer!r})", self.scorer, _SCORERS)
        for name, scorer in _SCORER_OF_SETTING.items():
            if getattr(self, name) is not None and self.scorer != scorer:
                raise ConfigError(f"RewardGap({name}=...) is for scorer={scorer!r}, and scorer is {self.scorer!r}.")
        self._decoding()
        self._check_endpoint()
        if self.scorer == "reward":
            if self.reward_model is None:
                raise ConfigError(
                    "RewardGap(scorer='reward') needs a reward model: reward_model='name or path'. Or use "
                    "scorer='perplexity' or scorer='judge'."
                )
            self._reward()
        if self.scorer == "judge":
            self._judge()

    def _check_endpoint(self) -> None:
        local = _LOCAL if self.scorer == "reward" else _LOCAL + _REWARD
        check_endpoint_settings("RewardGap", changed_settings(self), local, _REMOTE)
        if self.base_url is None:
            return
        if self.scorer == "perplexity":
            raise ConfigError(
                "RewardGap(base_url=..., scorer='perplexity') compares perplexities of the model that answers, which "
                "an endpoint does not give. Use scorer='reward' or scorer='judge', or omit base_url."
            )
        self._endpoint()

    def _decoding(self) -> Decoding:
        continuous = self.use_transformers_continuous_batching
        return Decoding(self.max_new_tokens, self.temperature, self.seed, self.top_p, continuous)

    def _reward(self) -> Reward:
        return Reward(
            self.reward_model,
            revision=self.reward_revision,
            dtype=self.dtype,
            model_init_kwargs=self.reward_init_kwargs,
        )

    def _judge(self) -> Judge:
        settings = self.judge if isinstance(self.judge, dict) else {}
        options = [field.name for field in fields(Judge)]
        if "model" not in settings:
            raise ConfigError(
                "RewardGap(judge=...): scorer='judge' needs the settings of Judge, its model at least, such as "
                "judge={'model': 'gpt-4.1-mini'}."
            )
        for name in settings:
            if name not in options:
                raise ConfigError(
                    f"RewardGap(judge=...) has {name!r}: Judge has {options}.{did_you_mean(name, options)}"
                )
        return Judge(**settings)

    @property
    def needs_text(self) -> bool:
        """Whether the score reads the text of rows."""
        return True

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        return {"reward_gap": pa.float32(), "reward_gap_reason": pa.string()}

    def spec(self) -> dict[str, Any]:
        """Return the settings for the record, with the models resolved to digests, except one behind an endpoint."""
        resolved = {} if self.reward_model is None else {"resolved_reward_model": self._reward_identity()}
        return {**super().spec(), **resolved}

    def _reward_identity(self) -> str:
        return "" if self.reward_model is None else model_identity(self.reward_model, self.reward_revision)

    def _identity(self) -> str:
        return f"{super()._identity()}:{self._reward_identity()}"

    def check_inputs(self, rows: TokenRows, runner: ModelRunner) -> None:
        """Raise an error if `compute` would fail for any rows of this format with this model."""
        if self.base_url is not None:
            check_format(rows)
            self._endpoint().check_token()
        elif runner.loading is None:
            Prompts.from_rows(rows, Generator(runner, rows.tokenizer, self._decoding()).max_prompt_length)
        if self.scorer == "reward":
            self._reward().check_model(self._reward().loading())
        elif self.scorer == "judge":
            self._judge().check_token()

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        if self.base_url is not None:
            check_format(rows)
            endpoint = self._endpoint()
            try:
                answers = EndpointAnswers(rows, endpoint)
                texts, owner, reasons = answers.compute(runner, self._decoding(), "reward_gap answers")
            finally:
                endpoint.log_summary()
            compared = self._compare_texts(rows, owner, texts, runner)
        else:
            generator = Generator(runner, rows.tokenizer, self._decoding())
            prompts = Prompts.from_rows(rows, generator.max_prompt_length)
            generated = generator.answers(prompts.prompt_ids, "reward_gap answers", null_counts(prompts.reasons))
            owner, reasons = prompts.owner, prompts.reasons.astype(object)
            if self.scorer == "perplexity":
                compared = self._compare_by_perplexity(prompts, generated, runner)
            else:
                texts = list(generator.texts(generated))
                del generator  # frees the model before the scorer's is loaded
                compared = self._compare_texts(rows, owner, texts, runner)
        gap = np.full(len(rows), np.nan)
        gap[owner], reasons[owner] = compared
        values, reason_array = finite_or_null([gap], reasons.astype(np.str_))
        return {"reward_gap": values[0], "reward_gap_reason": reason_array}

    def _compare_texts(
        self, rows: TokenRows, owner: np.ndarray, answers: list[str], runner: ModelRunner
    ) -> ScoresAndReasons:
        compare = self._compare_by_reward if self.scorer == "reward" else self._compare_by_judge
        return compare(rows, owner, answers, runner)

    def _compare_by_reward(
        self, rows: TokenRows, owner: np.ndarray, answers: list[str], runner: ModelRunner
    ) -> ScoresAndReasons:
        reward = self._reward()
        loading = reward.loading()
        length = rows.settings.max_length if self.base_url is None or self.max_length is None else self.max_length
        length = None if length is None else length + self.max_new_tokens  # room for the longest answer
        parts = _rows_then_answers(rows, owner, answers)
        rewards = reward.rate(parts, loading.tokenizer(), runner.with_model(loading), length, rows.messages)
        return _difference(*rewards)

    def _compare_by_judge(
        self, rows: TokenRows, owner: np.ndarray, answers: list[str], runner: ModelRunner
    ) -> ScoresAndReasons:
        pairs = [prompt_and_response(row) for part in _rows_then_answers(rows, owner, answers) for row in part]
        ratings, reasons = self._judge().rate(pairs, runner)
        return _difference(ratings, np.array(reasons, dtype=np.str_))

    def _compare_by_perplexity(self, prompts: Prompts, answers: RaggedArray, runner: ModelRunner) -> ScoresAndReasons:
        """Return Eq. 7: -log(perplexity with the answer / perplexity with the response)."""
        empty = answers.lengths == 0
        present = np.flatnonzero(~empty)
        generated = RaggedArray(
            [
                np.concatenate([prompts.prompt_ids[index], answers[index]])
                for index in present[start : start + _CHUNK_ROWS]
            ]
            for start in range(0, len(present), _CHUNK_ROWS)
        )
        gap = np.full(len(empty), np.nan)
        gap[present] = log_perplexities(runner, prompts.full_ids, "reward_gap response")[present]
        gap[present] -= log_perplexities(runner, generated, "reward_gap answer")
        return gap, np.where(empty, "empty_generation", "")


def log_perplexities(runner: ModelRunner, texts: RaggedArray, label: str) -> np.ndarray:
    """Compute the mean NLL, in nats, of all tokens of each text except the first.

    Args:
        runner: Runs the causal LM.
        texts: Token ids.
        label: Label of the progress bar.

    Returns:
        Float64 of shape (texts,).
    """
    runner.check_tokens(texts)
    forwards = LogprobRunner(runner.model)

    def compute(batch: np.ndarray) -> np.ndarray:
        sequences = [TokenSequence(ids, np.arange(1, len(ids))) for ids in (texts[index] for index in batch)]
        losses: Sequence[torch.Tensor] = forwards.losses(Forward(forwards, sequences))
        return np.array([[row_losses.double().mean().item()] for row_losses in losses])

    spec = {"computed": "log_perplexity", "version": 1}
    return runner.run(compute, texts.lengths, 1, label=label, keys=texts.digests, spec=spec)[:, 0]


def _rows_then_answers(rows: TokenRows, owner: np.ndarray, answers: list[str]) -> Iterator[list[Row]]:
    """Yield chunks of the rows with their own responses, then with the answers, both stripped of white space."""
    for own_response in (True, False):
        for start in range(0, len(owner), _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
            parsed = rows.pool.rows(rows.indices[owner[part]])
            pairs = zip(parsed, answers[part], strict=True)
            yield [strip_response(row) if own_response else replace_response(row, answer) for row, answer in pairs]


def _difference(scores: np.ndarray, reasons: np.ndarray) -> ScoresAndReasons:
    """Return the first half of the scores minus the second, and the reason of either."""
    response_scores, answer_scores = np.split(scores, 2)
    response_reasons, answer_reasons = np.split(reasons, 2)
    reasons = np.where(response_reasons == "", answer_reasons, response_reasons)
    return response_scores - answer_scores, reasons
