"""Difficulty of a prompt for a model: the share of its answers that are right."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ColumnError, ConfigError, did_you_mean
from hf_datasel.scoring.answer_judge import AnswerJudge, columns_of
from hf_datasel.scoring.base import Columns, finite_or_null, null_counts
from hf_datasel.scoring.endpoint.answers import EndpointAnswers, check_format
from hf_datasel.scoring.endpoint.limits import check_endpoint_settings
from hf_datasel.scoring.endpoint.score import EndpointScore
from hf_datasel.scoring.generation import Decoding, Generator, Prompts
from hf_datasel.scoring.verifiers import Verifier, get_verifier, last_response, reference_text
from hf_datasel.spec import changed_settings
from hf_datasel.tokens import TokenRows

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelRunner

__all__ = ["PassRate"]

logger = logging.getLogger(__name__)

_FEW = 3
"""Number of rows from which on it says something if all rates are 0 or 1."""
_LOCAL = ("revision", "model_init_kwargs", "use_transformers_continuous_batching", "dtype", "max_length")
"""Settings of a local model that answers."""
_REMOTE = ("concurrency", "timeout", "limits", "max_tokens_spent", "api_key_env")
"""Settings of an endpoint, other than its URL."""


@dataclass(frozen=True)
class PassRate(EndpointScore):
    """The share of a model's answers to a prompt that are right: 1 for a prompt that it always solves, 0 for never.

    The model, by default that of the round, samples `num_generations` answers to the prompt of each row, which is
    everything before the last response. A verifier compares each with the row's reference. Prompts with a rate of 0 or
    1 give no signal in reinforcement learning, and those near 0.5 the most: filter with `InRange(by="pass_rate",
    low=0.01, high=1.0)`, or rank with `Closest(by="pass_rate", target=0.5)`.

    `"exact_match"` compares answer and reference as texts after `normalization`. `"math_verify"` compares them as
    mathematics with the package math-verify (`pip install "hf-datasel[math]"`); an answer that it cannot parse, or not
    compare within 5 seconds, is wrong. Both ignore thoughts before `</think>`. `"module:function"` calls
    `function(answer, reference, row)`, which returns a bool or a number from 0 to 1; `row` is a dict of the columns
    that make the row, `reference` and `verifier_columns`. A function has no time limit; the SHA-256 of its source, not
    of what it calls, is recorded.

    Each answer has a seed of its own, made from the prompt, `seed` and the number of the answer. So rates depend on no
    other rows, batches or processes, up to rounding, and a run with a score store that asks for more answers generates
    only those that are missing. Answers are stored, judgements are not. The standard error of a rate is at most 0.5 /
    sqrt(`num_generations`): 0.18 for 8 answers.

    A row has a rate if all of its answers were judged; an answer without text is judged too. Otherwise the reason is
    `empty_reference`, `no_number_in_reference`, `unparsable_reference`, `tool_calls` (the last response is the
    reference and calls tools), `verifier_error` (the function raised an error, or returned something else),
    `prompt_fills_window`, `empty_prompt`, or, at an endpoint, `refused`, `no_answer` or `budget_spent`; later runs
    request the last two again. Before anything is generated, the verifier judges the references and last responses of
    a few rows as if they were answers. If it can judge none of them, that is an error.

    Reads any supported row format that has a response. Writes `pass_rate` (float32, 0 to 1), `pass_rate_answers`
    (int32, the number of answers), with `write_answers` `pass_rate_texts` (their texts, null for a row without any),
    and `pass_rate_reason` ("" for a row with a rate). Cost: up to `num_generations` times `max_new_tokens` forward
    passes of one token per row, or `num_generations` requests. Use it with `hf_datasel.score`.

    Reference: Albalak et al. 2025 (2502.17387, Big-Math), solve rates; Yu et al. 2025 (2503.14476, DAPO), who drop
    prompts with a rate of 0 or 1. The defaults are those of `GRPOConfig` in TRL.

    Args:
        model: Name or path of the model that answers the prompts, or its name at the endpoint. None uses the model of
            the round, or the `model` of `hf_datasel.score`.
        revision: Commit, branch or tag of a Hub model.
        verifier: `"exact_match"`, `"math_verify"`, or the name of a function as `"module:function"`.
        normalization: Settings of `hf_datasel.evaluation.Normalization` for `"exact_match"`, such as `{"last_number":
            True}` or `{"boxed": True}`.
        reference: Name of a column with the reference answers, texts or numbers; by default the last response.
        verifier_columns: Names of further columns in the `row` of a function.
        num_generations: Number of answers per prompt.
        max_new_tokens: Maximum number of tokens of an answer. Longer ones are truncated and judged like others: with a
            low maximum, the last number may be right by chance.
        temperature: Temperature of sampling; 0 is greedy decoding, for `num_generations=1`.
        top_p: Probability of the most likely tokens that are sampled from; 1 samples from all.
        seed: Random seed of sampling.
        write_answers: Whether `hf_datasel.score` and `map` write the answers to a column; selections do not keep it.
        use_transformers_continuous_batching: As in `RewardGap`; for greedy decoding, `num_generations=1`.
        base_url: Address of an OpenAI-compatible endpoint, such as `http://localhost:8000/v1`; by default the model
            runs locally.
        concurrency: Maximum number of simultaneous requests to the endpoint in each process.
        timeout: Seconds without a response of the endpoint after which a request is retried.
        limits: Limits of a request to the endpoint, as in `Judge`.
        max_tokens_spent: Maximum number of tokens, including prompts, that the answers of a run may cost in each
            process, as the endpoint counts them; no limit by default.
        api_key_env: Environment variable with the endpoint's token.
        dtype: Data type of the weights: "auto" or the name of a floating-point type.
        model_init_kwargs: Further arguments of `from_pretrained`, as in `SFTConfig`.
        max_length: Number of tokens that rows are truncated to; a response has to begin before. None uses the
            `max_length` of the training arguments, and 1,024 outside a trainer.
        column_prefix: Prefix of the name of every column that the score writes.

    >>> PassRate("Qwen/Qwen3-0.6B", normalization={"last_number": True}).columns()
    {'pass_rate': DataType(float), 'pass_rate_answers': DataType(int32), 'pass_rate_reason': DataType(string)}
    """

    verifier: str = field(default="exact_match", kw_only=True)
    normalization: dict[str, Any] | None = field(default=None, kw_only=True)
    reference: str | None = field(default=None, kw_only=True)
    verifier_columns: tuple[str, ...] = field(default=(), kw_only=True)
    num_generations: int = field(default=8, kw_only=True)
    max_new_tokens: int = field(default=512, kw_only=True)
    temperature: float = field(default=1.0, kw_only=True)
    top_p: float = field(default=1.0, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    write_answers: bool = field(default=False, kw_only=True)
    use_transformers_continuous_batching: bool = field(default=False, kw_only=True)
    base_url: str | None = field(default=None, kw_only=True)
    concurrency: int = field(default=8, kw_only=True)
    timeout: float = field(default=120.0, kw_only=True)
    limits: dict[str, Any] | None = field(default=None, kw_only=True)
    max_tokens_spent: int | None = field(default=None, kw_only=True)
    api_key_env: str | None = field(default=None, kw_only=True)

    citation = (
        "@article{albalak2025bigmath, title={Big-Math: A Large-Scale, High-Quality Math Dataset for Reinforcement "
        "Learning in Language Models}, author={Albalak, Alon and Phung, Duy and Lile, Nathan and Rafailov, Rafael and "
        "Gandhi, Kanishk and Castricato, Louis and Singh, Anikait and Blagden, Chase and Xiang, Violet and Mahan, "
        "Dakota and Haber, Nick}, journal={arXiv:2502.17387}, year={2025}}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        columns: Any = self.verifier_columns
        object.__setattr__(self, "verifier_columns", tuple(columns) if isinstance(columns, list) else columns)
        verifier = self._verifier()
        for value in (self.reference, *_checked_names(self.verifier_columns)):
            if value is not None and (not isinstance(value, str) or not value):
                raise ConfigError(
                    f"PassRate(reference={self.reference!r}): it has to be the name of a column, or None."
                )
        if self.verifier_columns and not verifier.reads_row:
            raise ConfigError(
                f"PassRate(verifier_columns={self.verifier_columns!r}) is for a function, and verifier is "
                f"{self.verifier!r}."
            )
        if type(self.write_answers) is not bool:
            raise ConfigError(f"PassRate(write_answers={self.write_answers!r}): it has to be True or False.")
        self._decodings()
        check_endpoint_settings("PassRate", changed_settings(self), _LOCAL, _REMOTE)
        if self.base_url is not None:
            self._endpoint()

    def _verifier(self) -> Verifier:
        return get_verifier(self.verifier, self.normalization)

    def _decodings(self) -> list[Decoding]:
        continuous = self.use_transformers_continuous_batching
        decoding = Decoding(self.max_new_tokens, self.temperature, self.seed, self.top_p, continuous)
        return decoding.samples(self.num_generations)

    @property
    def needs_text(self) -> bool:
        """Whether the score reads the text of rows."""
        return True

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the columns that the score reads, other than those that make the row."""
        return (*([] if self.reference is None else [self.reference]), *self.verifier_columns)

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        texts = {"pass_rate_texts": pa.list_(pa.string())} if self.write_answers else {}
        return {
            "pass_rate": pa.float32(),
            "pass_rate_answers": pa.int32(),
            **texts,
            "pass_rate_reason": pa.string(),
        }

    def spec(self) -> dict[str, Any]:
        """Return the settings for the record, with the version of the verifier, or the hash of its source."""
        return {**super().spec(), "resolved_verifier": self._verifier().identity}

    def _identity(self) -> str:
        return f"{super()._identity()}:{self._verifier().identity}"

    def check_inputs(self, rows: TokenRows, runner: ModelRunner) -> None:
        """Raise an error if `compute` would fail for any rows of this format with this model."""
        check_format(rows)
        _ = self._verifier().identity
        self._check_columns(rows)
        if self.base_url is not None:
            self._endpoint().check_token()
        elif runner.loading is None:
            Prompts.from_rows(rows, Generator(runner, rows.tokenizer, self._decodings()[0]).max_prompt_length)

    def _check_columns(self, rows: TokenRows) -> None:
        existing = rows.pool.column_names
        for name in self.reads:
            if name not in existing:
                raise ColumnError(
                    f"PassRate needs column {name!r}, but the dataset has {existing}.{did_you_mean(name, existing)}"
                )

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        check_format(rows)
        self._check_columns(rows)
        verifier = self._verifier()
        _ = verifier.identity  # fails before any answer if the verifier cannot be used
        references, excluded = self._references(rows, verifier)
        judge = AnswerJudge(verifier, references, rows, (*rows.pool.columns, *self.reads), runner)
        judge.check_verifier(f"PassRate(verifier={self.verifier!r})", np.flatnonzero(excluded == ""))
        passed, reasons, texts = np.zeros(len(rows)), excluded.astype(object), _Texts(len(rows), self.write_answers)
        for number, (answers, owner, answer_reasons) in enumerate(self._answers(rows, runner, excluded), start=1):
            reasons = np.where(reasons == "", answer_reasons, reasons)
            values, judged = judge(answers, owner, f"pass_rate judgements {number}/{self.num_generations}")
            passed[owner] += values
            reasons[owner] = np.where(reasons[owner] == "", judged, reasons[owner])
            texts.add(answers, owner)
        rates = np.where(reasons == "", passed / self.num_generations, np.nan)
        if runner.processes.is_main_process:
            self._warn_of_equal(rates[reasons == ""])
        [rate_column], reason_column = finite_or_null([rates], reasons.astype(np.str_))
        counts = pa.array(np.full(len(rows), self.num_generations), pa.int32(), mask=np.isnan(rates))
        columns = {"pass_rate": rate_column, "pass_rate_answers": counts, "pass_rate_reason": reason_column}
        columns |= {"pass_rate_texts": texts.column()} if self.write_answers else {}
        return {name: columns[name] for name in self.columns()}

    def _warn_of_equal(self, rates: np.ndarray) -> None:
        """Warn if all rates are 0, or all are 1."""
        if len(rates) < _FEW or rates[0] not in (0, 1) or (rates != rates[0]).any():
            return
        if rates[0]:
            advice = "Either the prompts are too easy for the model, or the verifier accepts wrong answers: try some."
        else:
            advice = (
                "Either the prompts are too difficult for the model, or its answers are not in the format that the "
                f"verifier reads, or they are truncated at {self.max_new_tokens:,} tokens (max_new_tokens). Compare "
                "some answers with their references: the setting write_answers writes them to a column."
            )
        logger.warning(
            "%s is %d for all %s rows that have one, so it separates no rows. %s",
            self.value_column,
            rates[0],
            f"{len(rates):,}",
            advice,
        )

    def _references(self, rows: TokenRows, verifier: Verifier) -> tuple[list[Any], np.ndarray]:
        """Return the reference of each row, and the reason why it has none, object; "" for a row that has one."""
        reasons = rows.pool.reasons[rows.indices].astype(object)
        references = list[Any]([None]) * len(rows)
        valid = np.flatnonzero(reasons == "")
        if self.reference is None:
            texts: Iterator[Any] = map(last_response, rows.pool.rows(rows.indices[valid]))
        else:
            texts = iter(columns_of(rows, [self.reference]).select(valid)[self.reference][:])
        for index, reference in zip(valid.tolist(), texts, strict=True):
            references[index] = reference
            if reference is None:
                reasons[index] = "tool_calls" if self.reference is None else "empty_reference"
            elif verifier.reads_row or isinstance(reference, str | int | float):
                reasons[index] = verifier.check(reference_text(reference))
            else:
                raise ColumnError(
                    f"PassRate(reference={self.reference!r}): row {int(rows.indices[index]):,} holds a "
                    f"{type(reference).__name__}, and verifier={self.verifier!r} compares texts and numbers. Use a "
                    "function as the verifier, or make a column of texts."
                )
        return references, reasons

    def _answers(
        self, rows: TokenRows, runner: ModelRunner, excluded: np.ndarray
    ) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
        """Yield, for each answer, its text for the rows that have one, these rows, and the reasons of all rows."""
        decodings = self._decodings()
        labels = [f"pass_rate answers {number}/{len(decodings)}" for number in range(1, len(decodings) + 1)]
        if self.base_url is not None:
            endpoint = self._endpoint()
            remote = EndpointAnswers(rows, endpoint, excluded)
            try:
                for decoding, label in zip(decodings, labels, strict=True):
                    answers, owner, reasons = remote.compute(runner, decoding, label)
                    empty = np.flatnonzero(reasons == "empty_generation")  # all tokens were spent on thoughts
                    reasons[empty] = ""
                    yield [*answers, *[""] * len(empty)], np.concatenate([owner, empty]), reasons
            finally:
                endpoint.log_summary()
            return
        length = Generator(runner, rows.tokenizer, decodings[0]).max_prompt_length
        prompts = Prompts.from_rows(rows, length, excluded)
        for decoding, label in zip(decodings, labels, strict=True):
            generator = Generator(runner, rows.tokenizer, decoding)
            generated = generator.answers(prompts.prompt_ids, label, null_counts(prompts.reasons))
            yield list(generator.texts(generated)), prompts.owner, prompts.reasons


class _Texts:
    """Answers to each row, if they are to be written."""

    def __init__(self, rows: int, wanted: bool):
        self.texts: list[list[str]] = [[] for _ in range(rows if wanted else 0)]

    def add(self, answers: list[str], owner: np.ndarray) -> None:
        """Add an answer to each of some rows."""
        if self.texts:
            for answer, row in zip(answers, owner.tolist(), strict=True):
                self.texts[row].append(answer)

    def column(self) -> pa.Array:
        """Return the column: null for a row without answers."""
        return pa.array([texts or None for texts in self.texts], pa.list_(pa.string()))


def _checked_names(names: Any) -> tuple[str, ...]:
    if not isinstance(names, tuple):
        raise ConfigError(f"PassRate(verifier_columns={names!r}): it has to be a list of names of columns.")
    return names
