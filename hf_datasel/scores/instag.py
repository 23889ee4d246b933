"""Tags of the questions of a row, by a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ConfigError, ModelError, check_option
from hf_datasel.formats import Row
from hf_datasel.formats.tags import Normalization, distinct_tags, parse_tags
from hf_datasel.scoring.base import Columns, null_counts
from hf_datasel.scoring.endpoint.answers import EndpointAnswers, check_format
from hf_datasel.scoring.endpoint.limits import check_endpoint_settings
from hf_datasel.scoring.endpoint.ratings import without_thoughts
from hf_datasel.scoring.endpoint.score import EndpointScore
from hf_datasel.scoring.generation import Decoding, Generator
from hf_datasel.spec import changed_settings
from hf_datasel.tokens import TokenRows
from hf_datasel.tokens.prompts import encode_prompts
from hf_datasel.tokens.sequences import RaggedArray

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelRunner

__all__ = ["INSTAGGER_PROMPT", "TAG_PROMPT", "InsTag"]

INSTAGGER_PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions. USER: Please identify tags of user intentions in the following user "
    "query and provide an explanation for each tag. Please respond in the JSON format "
    '{"tag": str, "explanation": str}.\nUser query: {instruction} ASSISTANT:'
)
"""Prompt with which public scorers run the published tagger, in the template of Vicuna; always plain text."""
TAG_PROMPT = """\
Below is a request to an AI assistant. Name the intentions behind it as short tags, such as "Translation", \
"Data Analysis" or "Role Play": every task, subject and constraint that the request consists of, and nothing that it \
does not ask for. Do not answer the request.

<request>
{instruction}
</request>

Answer with a JSON list and nothing else, in English:
[{"tag": "...", "explanation": "..."}, ...]"""
"""Default prompt of other models."""

_TAGGER = "OFA-Sys/InsTagger"
_CHUNK_ROWS = 10_000
"""Rows whose tokens are in memory at the same time."""
_LOCAL = ("revision", "model_init_kwargs", "dtype", "max_length")
"""Settings of a local model."""
_REMOTE = ("concurrency", "timeout", "limits", "max_tokens_spent", "api_key_env")
"""Settings of an endpoint, other than its URL."""


@dataclass(frozen=True)
class InsTag(EndpointScore):
    """Tags of the intentions in a row's questions, which a model names, and their number, the row's complexity.

    The model, the published tagger by default, is asked for the tags of each question with its greedy answer. The tags
    of a conversation are those of all of its questions. System messages and tools are ignored; two messages without a
    response between them are one question. Tags are normalized, and each is written once.

    The answer is a JSON list of objects with a `tag`, objects alone, or a list of texts; see
    `hf_datasel.formats.tags.parse_tags`. If one question of a row has no readable answer, the row has no tags: the
    reason is `unreadable_answer`. A list that ends at `max_new_tokens` is not readable.

    Of the paper's normalization (section 3.2), `"rules"` is exact: lower case, and special characters become spaces.
    The paper then stems with NLTK without naming the stemmer; `"porter"` is Porter's, and published tags such as
    "problem solve" are no stems of it. Not included are the clustering of tags by PhraseBERT and DBSCAN, and
    association rules. Rare tags are ignored by the selectors, `InsTagDiverse(min_count=20)` and `MIG(min_count=20)`,
    because their number depends on all rows; in the paper this comes first.

    Reads any supported row format that has a response. Writes `tags` (list of str), `tag_count` (int32) and
    `tags_reason` ("" for a row with an answer, which may have no tag). Cost: one answer per distinct question at an
    endpoint; locally, up to `max_new_tokens` forward passes of one token per question.

    With `base_url` the tags come from an OpenAI-compatible endpoint, as in `RewardGap`: each distinct question is
    requested once, answers are stored when they come, and the reasons are `refused`, `empty_generation`, `no_answer`
    and `budget_spent`; with a score store, later runs request only rows with the last two.

    Reference: Lu et al. 2023 (2308.07074). The prompt for models other than the published tagger is our own wording.

    Args:
        model: Name or path of a causal language model, or its name at the endpoint. None uses the model of the round,
            or the `model` of `hf_datasel.score`.
        revision: Commit, branch or tag of a Hub model.
        prompt: Text in which `{instruction}` is replaced by the question: one message of the user, or plain text if
            the tokenizer has no chat template. By default `TAG_PROMPT`, and `INSTAGGER_PROMPT` for the published
            tagger on the Hub; set it for a copy elsewhere.
        normalization: `"none"`, `"rules"`: lower case, special characters become spaces; or `"porter"`: also stems.
        max_new_tokens: Maximum number of tokens of an answer.
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
        max_length: Maximum number of tokens of a prompt with its question; by default what the model takes. The reason
            of a row with a longer one is `prompt_fills_window`.
        column_prefix: Prefix of the name of every column that the score writes.

    >>> InsTag().columns()
    {'tags': ListType(list<item: string>), 'tag_count': DataType(int32), 'tags_reason': DataType(string)}
    """

    model: str | None = _TAGGER
    prompt: str | None = field(default=None, kw_only=True)
    normalization: Normalization = field(default="rules", kw_only=True)
    max_new_tokens: int = field(default=512, kw_only=True)
    base_url: str | None = field(default=None, kw_only=True)
    concurrency: int = field(default=8, kw_only=True)
    timeout: float = field(default=120.0, kw_only=True)
    limits: dict[str, Any] | None = field(default=None, kw_only=True)
    max_tokens_spent: int | None = field(default=None, kw_only=True)
    api_key_env: str | None = field(default=None, kw_only=True)

    citation = (
        "@inproceedings{lu2024instag, title={\\#InsTag: Instruction Tagging for Analyzing Supervised Fine-tuning of "
        "Large Language Models}, author={Lu, Keming and Yuan, Hongyi and Yuan, Zheng and Lin, Runji and Lin, Junyang "
        "and Tan, Chuanqi and Zhou, Chang and Zhou, Jingren}, booktitle={ICLR}, year={2024}}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt is not None and (not isinstance(self.prompt, str) or "{instruction}" not in self.prompt):
            raise ConfigError("InsTag(prompt=...) has to hold {instruction}, where the question goes.")
        check_option(f"InsTag(normalization={self.normalization!r})", self.normalization, get_args(Normalization))
        self._decoding()
        check_endpoint_settings("InsTag", changed_settings(self), _LOCAL, _REMOTE)
        if self.base_url is not None:
            self._endpoint()

    def _decoding(self) -> Decoding:
        return Decoding(self.max_new_tokens)

    @property
    def convention(self) -> str:
        """Convention of the tokens: those of the plain text."""
        return "text"

    @property
    def needs_text(self) -> bool:
        """Whether the score reads the text of rows."""
        return True

    @property
    def value_column(self) -> str:
        """Name of the column that selectors rank rows by."""
        return f"{self.column_prefix}tag_count"

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        return {"tags": pa.list_(pa.string()), "tag_count": pa.int32(), "tags_reason": pa.string()}

    def check_inputs(self, rows: TokenRows, runner: ModelRunner) -> None:
        """Raise an error if `compute` would fail for any rows of this format with this model."""
        check_format(rows, "tag")
        if self.base_url is not None:
            self._endpoint().check_token()
        elif runner.loading is None:
            Generator(runner, rows.tokenizer, self._decoding())

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        check_format(rows, "tag")
        if self.base_url is not None:
            endpoint = self._endpoint()
            try:
                answers = EndpointAnswers(rows, endpoint, requests_of=self._requests)
                texts, owner, reasons = answers.compute(runner, self._decoding(), "tags")
            finally:
                endpoint.log_summary()
        else:
            texts, owner, reasons = self._generate(rows, runner)
        tags: list[list[str] | None] = [[] if reason == "" else None for reason in reasons]
        for text, row in zip(texts, owner.tolist(), strict=True):
            new, known = parse_tags(without_thoughts(text)), tags[row]
            if new is None:
                reasons[row] = "unreadable_answer"
            tags[row] = None if new is None or known is None else known + new
        distinct = [None if row is None else distinct_tags(row, self.normalization) for row in tags]
        return {
            "tags": pa.array(distinct, pa.list_(pa.string())),
            "tag_count": pa.array([None if row is None else len(row) for row in distinct], pa.int32()),
            "tags_reason": pa.array(reasons.tolist(), pa.string()),
        }

    @property
    def _prompt(self) -> str:
        if self.prompt is not None:
            return self.prompt
        return INSTAGGER_PROMPT if self.model == _TAGGER and self.base_url is None else TAG_PROMPT

    def _texts(self, row: Row) -> list[str]:
        """Return the text of the request for each question of a row."""
        questions = [question for question, _ in row.questions_and_responses()]
        return [self._prompt.replace("{instruction}", question) for question in questions if question.strip()]

    def _requests(self, row: Row) -> list[dict[str, Any]]:
        return [{"messages": [{"role": "user", "content": text}]} for text in self._texts(row)]

    def _generate(self, rows: TokenRows, runner: ModelRunner) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Return the answers of the local model as `EndpointAnswers.compute` does."""
        generator = Generator(runner, rows.tokenizer, self._decoding())
        max_length = min(self.max_length or generator.max_prompt_length, generator.max_prompt_length)
        reasons = rows.pool.reasons[rows.indices].astype(object)
        owners = [np.empty(0, dtype=np.int64)]
        prompts = RaggedArray(self._encoded(rows, max_length, reasons, owners))
        answers = generator.answers(prompts, "tags", null_counts(reasons))
        return list(generator.texts(answers)), np.concatenate(owners), reasons

    def _encoded(
        self, rows: TokenRows, max_length: int, reasons: np.ndarray, owners: list[np.ndarray]
    ) -> Iterator[list[np.ndarray]]:
        """Yield the prompts of each chunk of rows. Sets the reasons of rows without any, and appends to `owners`."""
        for start in range(0, len(rows), _CHUNK_ROWS):
            texts = list[str]()
            owner = list[int]()
            for index, row in enumerate(rows.pool.rows(rows.indices[start : start + _CHUNK_ROWS]), start):
                if reasons[index]:
                    continue
                questions = self._texts(row)
                reasons[index] = "" if questions else "empty_prompt"
                texts += questions
                owner += [index] * len(questions)
            encoded = _encode(rows.tokenizer, texts, self._prompt == INSTAGGER_PROMPT)
            for index, ids in zip(owner, encoded, strict=True):
                if len(ids) > max_length:
                    reasons[index] = "prompt_fills_window"
            kept = [(index, ids) for index, ids in zip(owner, encoded, strict=True) if reasons[index] == ""]
            owners.append(np.array([index for index, _ in kept], dtype=np.int64))
            yield [np.array(ids, dtype=np.int64) for _, ids in kept]


def _encode(tokenizer: Any, texts: list[str], is_plain: bool) -> list[list[int]]:
    """Return the token ids of texts: as messages of the user, or as they are if there is no chat template."""
    if is_plain or tokenizer.chat_template is None or not texts:
        return encode_prompts(tokenizer, texts)
    from jinja2 import TemplateError

    chats = [[{"role": "user", "content": text}] for text in texts]
    try:
        rendered = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, tokenize=True, return_dict=True, tokenizer_kwargs={"verbose": False}
        )
    except TemplateError as error:
        raise ModelError(
            f"The chat template of {tokenizer.name_or_path!r} cannot render a message of the user, so that the model "
            f"cannot be asked for tags ({error})."
        ) from error
    return list(rendered["input_ids"])
