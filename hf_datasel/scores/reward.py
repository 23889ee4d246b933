"""Score of a reward model."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_datasel._lazy import torch
from hf_datasel.errors import ConfigError, FormatError, ModelError, ScoreError
from hf_datasel.formats import Row
from hf_datasel.scoring.base import Columns, ModelScore, finite_or_null, null_counts
from hf_datasel.scoring.logprobs import tolerance
from hf_datasel.scoring.models import Kind, Loading, load_config
from hf_datasel.tokens import TokenRows
from hf_datasel.tokens.chat import ChatTokenizer
from hf_datasel.tokens.prompts import resolve_max_length
from hf_datasel.tokens.sequences import RaggedArray

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelRunner

__all__ = ["Reward", "RewardRunner"]

logger = logging.getLogger(__name__)

_CHUNK_ROWS = 10_000
"""Rows whose text is in memory at the same time."""
_HEADLESS = re.compile(r"(For(CausalLM|MaskedLM|PreTraining|ConditionalGeneration)|LMHeadModel)$")
"""Names of classes whose checkpoints have no reward head."""


@dataclass(frozen=True)
class Reward(ModelScore):
    """The score that a reward model, a sequence classifier with one output, gives to a row.

    The model reads the conversation up to the last response in its own chat template, with tools, tool calls and
    thoughts where the template shows them. Without a chat template it reads the turns as text, one per line. A row of
    more than `max_length` tokens is truncated at the end of its last response, and the tokens that the template adds
    after a response are kept, because these models read their score off the end. If that leaves no response, the
    reason is `prompt_fills_window`.

    The scores equal those of the model for each row alone. Decoders read the score off the last token that is not the
    padding token of the model's configuration: a model whose padding token ends each turn scores the token before.
    Batches are padded so that this does not change, which each run checks at its start.

    Reads any supported row format that has a response. Writes `reward` (float32) and `reward_reason` ("" for a scored
    row). Cost: one forward pass per row. Rewards of different models are on different scales.

    Args:
        model: Name or path of the model. None uses the model of the round, or the `model` of `hf_datasel.score`.
        revision: Commit, branch or tag of a Hub model.
        max_length: Maximum number of tokens of a row. By default that of training, 1,024 outside a trainer, or what
            the model takes if that is less.
        label: Index of the logit that is the score, for a classifier with several outputs.
        dtype: Data type of the weights: "auto" or the name of a floating-point type.
        model_init_kwargs: Further arguments of `from_pretrained`, as in `SFTConfig`.
        column_prefix: Prefix of the name of every column that the score writes.

    >>> Reward("Skywork/Skywork-Reward-V2-Qwen3-0.6B").columns()
    {'reward': DataType(float), 'reward_reason': DataType(string)}
    """

    max_length: int | None = field(default=None, kw_only=True)
    label: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label is not None and (type(self.label) is not int or self.label < 0):
            raise ConfigError(f"Reward(label={self.label!r}): it has to be an int of at least 0, or None.")

    @property
    def kind(self) -> Kind:
        """Head that the model is loaded with."""
        return "reward"

    @property
    def convention(self) -> str:
        """Convention of the tokens: the reward model's chat template."""
        return "chat"

    @property
    def needs_text(self) -> bool:
        """Whether the score reads the text of rows."""
        return True

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        return {"reward": pa.float32(), "reward_reason": pa.string()}

    def check_inputs(self, rows: TokenRows, runner: ModelRunner) -> None:
        """Raise an error if `compute` would fail for any rows of this format with this model."""
        _check_format(rows)
        super().check_inputs(rows, runner)
        if runner.loading is not None:
            self.check_model(runner.loading)

    def check_model(self, loading: Loading) -> None:
        """Raise an error if the model's configuration is not that of a reward model.

        Args:
            loading: Name of the model, and how it is loaded.

        Raises:
            ModelError: There is no such model, it has no head, or it has several outputs and none is named.
        """
        loading.tokenizer()
        config = load_config(loading)
        if loading.base()[0] == loading.name:  # an adapter may hold the head
            _check_head(config)
        _output(config, self.label)

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        _check_format(rows)
        parts = (rows.indices[start : start + _CHUNK_ROWS] for start in range(0, len(rows), _CHUNK_ROWS))
        parsed = (list(rows.pool.rows(part)) for part in parts)
        rewards, reasons = self.rate(parsed, rows.tokenizer, runner, rows.settings.max_length, rows.messages)
        values, reason_array = finite_or_null([rewards], reasons)
        return {"reward": values[0], "reward_reason": reason_array}

    def rate(
        self,
        parts: Iterable[Sequence[Row]],
        tokenizer: Any,
        runner: ModelRunner,
        default_length: int | None = None,
        messages: dict[str, str] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute the rewards of rows in chunks.

        Args:
            parts: Chunks of rows; the text of one chunk is in memory at a time.
            tokenizer: Tokenizer of the reward model.
            runner: Runs the reward model.
            default_length: Maximum number of tokens of a row if `max_length` is None and the model takes as many.
            messages: Mapping that receives the message of the first error of the chat template; see `TokenRows`.

        Returns:
            Rewards, float64, NaN for a row without one, and for each row "" or the reason.
        """
        forwards = RewardRunner(runner, self)
        chats = ChatTokenizer(
            tokenizer, resolve_max_length(runner.model, tokenizer, self.max_length, "Reward", default_length)
        )
        reasons: list[str] = []
        texts = RaggedArray(_tokens(parts, chats, reasons))
        if messages is not None:
            messages |= chats.messages
        reason_array = np.array(reasons, dtype=np.str_) if reasons else np.empty(0, dtype="U1")
        runner.check_tokens(texts)
        rewards = np.full(len(reason_array), np.nan)
        rewards[reason_array == ""] = runner.run(
            lambda batch: forwards([texts[position] for position in batch]),
            texts.lengths,
            1,
            label="reward",
            keys=texts.digests,
            spec={"computed": "reward", "version": 1, "label": self.label},
            nulls=null_counts(reason_array),
        )[:, 0]
        return rewards, reason_array


def _check_format(rows: TokenRows) -> None:
    if rows.pool.format == "text":
        raise FormatError(
            "Rows with only a text column have no response to rate. Make prompt and completion columns of them."
        )


def _check_head(config: Any) -> None:
    architectures = getattr(config, "architectures", None) or []
    if any(_HEADLESS.search(name) for name in architectures):
        raise ModelError(
            f"{config.name_or_path!r} is a {architectures[0]} without the head of a reward model, which would be "
            "initialized at random. Take a reward model: a sequence classifier that was trained to score answers."
        )


def _output(config: Any, label: int | None) -> int:
    """Return the index of the classifier's output that is the score."""
    outputs, name = int(config.num_labels), config.name_or_path
    if label is None and outputs != 1:
        raise ModelError(
            f"{name!r} has {outputs} outputs, and a reward model has one. Use another model, or name the output "
            "that is the score, such as label=0."
        )
    if label is not None and label >= outputs:
        raise ModelError(f"label={label} is not among the {outputs} outputs of {name!r}, counted from 0.")
    return label or 0


def _tokens(parts: Iterable[Sequence[Row]], chats: ChatTokenizer, reasons: list[str]) -> Iterator[list[np.ndarray]]:
    """Yield the token ids of each chunk of rows. Appends "" or a reason for every row."""
    for part in parts:
        encoded, chat_reasons = chats.encode([row for row in part if not row.reason])
        remaining = iter(chat_reasons)
        reasons += [row.reason or next(remaining) for row in part]
        yield [ids for ids in encoded if ids is not None]


class RewardRunner:
    """Runner of a sequence classifier over token sequences: one logit each, equal to that of the sequence alone.

    Args:
        runner: Holds the model, with or without PEFT adapters.
        score: Score whose settings select the logit.

    Raises:
        ScoreError: The model is not a sequence classifier.
        ModelError: It has several outputs and none is named, or its files have no head.
    """

    def __init__(self, runner: ModelRunner, score: Reward):
        model = runner.model
        self.model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._check_kind(score, named=runner.identity is not None)
        self.label = _output(self.model.config, score.label)
        self.padding = getattr(self.model.config.get_text_config(), "pad_token_id", None)
        embeddings = self.model.get_input_embeddings().weight
        self.device = embeddings.device
        if not isinstance(self.padding, int) or not 0 <= self.padding < embeddings.shape[0]:
            self.padding = None
        self._backend: Callable[[list[np.ndarray]], torch.Tensor] | None = None

    def _check_kind(self, score: Reward, named: bool) -> None:
        name = type(self.model).__name__
        if self.model.get_output_embeddings() is not None or self.model.base_model is self.model:
            raise ScoreError(
                f"{type(score).__name__}() needs a reward model, and this model is a {name}. Name one: "
                f"{type(score).__name__}('name or path')."
            )
        if named and not getattr(self.model, "_hf_peft_config_loaded", False):  # an adapter may hold the head
            _check_head(self.model.config)

    def __call__(self, batch: list[np.ndarray]) -> np.ndarray:
        """Return the logit of each sequence, float64 of shape (len(batch), 1)."""
        if self._backend is None:
            self._backend = self._select_backend(min(batch, key=len))
        logits: np.ndarray = self._backend(batch).double().numpy()[:, None]
        return logits

    def _select_backend(self, ids: np.ndarray) -> Callable[[list[np.ndarray]], torch.Tensor]:
        """Return the padded backend, or the unpadded one if padding changes logits."""
        padded, half = self._padded_backend(), ids[: (len(ids) + 1) // 2]
        expected = self._run_unpadded([half])
        actual = padded([half], len(ids)) if padded is not None else None  # no longer than the model takes
        near = tolerance(self.model.dtype, self.device)
        if padded is not None and actual is not None and torch.allclose(actual, expected, near, near, equal_nan=True):
            return padded
        logger.warning(
            "Padding changes the logits of %s: it is run one row at a time, which is slower.",
            type(self.model).__name__,
        )
        return self._run_unpadded

    def _padded_backend(self) -> Callable[..., torch.Tensor] | None:
        if self.model.config.is_encoder_decoder:
            return None
        if self.padding is not None:
            return self._run_model
        return self._run_head if isinstance(getattr(self.model, "score", None), torch.nn.Module) else None

    def _inputs(self, batch: list[np.ndarray], width: int | None = None) -> dict[str, torch.Tensor]:
        """Return the ids, right-padded with the model's padding token, and the attention mask."""
        lengths = np.array([len(ids) for ids in batch])
        padded = np.full((len(batch), width or int(lengths.max())), self.padding or 0, dtype=np.int64)
        for row, ids in enumerate(batch):
            padded[row, : len(ids)] = ids
        mask = np.arange(padded.shape[1]) < lengths[:, None]
        inputs = {"input_ids": torch.from_numpy(padded), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
        return {name: value.to(self.device) for name, value in inputs.items()}

    def _run_model(self, batch: list[np.ndarray], width: int | None = None) -> torch.Tensor:
        logits: torch.Tensor = self.model(**self._inputs(batch, width), **_no_cache(self.model)).logits
        return logits[:, self.label].float().cpu()

    def _run_head(self, batch: list[np.ndarray], width: int | None = None) -> torch.Tensor:
        """Run the backbone, then the head on the last token of each row: the model itself takes no batches."""
        backbone = self.model.base_model
        states = backbone(**self._inputs(batch, width), **_no_cache(backbone)).last_hidden_state
        last = torch.tensor([len(ids) - 1 for ids in batch], device=states.device)
        logits: torch.Tensor = self.model.score(states[torch.arange(len(batch), device=states.device), last])
        return logits[:, self.label].float().cpu()

    def _run_unpadded(self, batch: list[np.ndarray]) -> torch.Tensor:
        return torch.cat([self._run_model([ids]) for ids in batch])


def _no_cache(module: torch.nn.Module) -> dict[str, bool]:
    """Return the argument that turns off the cache of a decoder; encoders do not take it."""
    return {"use_cache": False} if "use_cache" in inspect.signature(type(module).forward).parameters else {}
