"""What a reward model makes of a row."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from hf_datasel.errors import ConfigError, FormatError, ModelError, ScoreError
from hf_datasel.formats import Row
from hf_datasel.scoring.base import Columns, ModelScore, finite_or_null, null_counts
from hf_datasel.scoring.logprobs import tolerance
from hf_datasel.scoring.models import Kind, Loading, read_config
from hf_datasel.tokens import TokenRows
from hf_datasel.tokens.chat import Chats
from hf_datasel.tokens.prompts import window
from hf_datasel.tokens.sequences import Ragged

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelContext

__all__ = ["Reward", "RewardForwards"]

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 10_000
"""Rows whose text is held in memory."""
_HEADLESS = re.compile(r"(For(CausalLM|MaskedLM|PreTraining|ConditionalGeneration)|LMHeadModel)$")
"""Classes whose checkpoints hold no head of a reward model."""


@dataclass(frozen=True)
class Reward(ModelScore):
    """The score that a reward model, a sequence classifier with one output, gives to a row.

    The model reads the whole conversation as its own chat template renders it, all turns of several. Without a chat
    template it reads the turns as text, one a line: prompt, newline, response. A row of more than `max_length` tokens
    loses the end of its last response, and what the template puts behind a response is kept, since these models read
    their score off the end; a row of which that leaves no response has the reason `prompt_fills_window`.

    Every number is what the model itself gives to the row alone. Decoders read it off the last token that is not the
    padding token of the model's configuration, of the row itself too: a model whose padding token ends each turn
    scores the token before. Rows are padded so that this stays as it is, which each run checks at its start.

    Reads any supported row format that has a response. Writes `reward` (float32) and `reward_reason` ("" for a scored
    row). Cost: one forward pass. Rewards of different models are on different scales.

    >>> Reward("Skywork/Skywork-Reward-V2-Qwen3-0.6B").columns()
    {'reward': DataType(float), 'reward_reason': DataType(string)}
    """

    max_length: int | None = field(default=None, kw_only=True)
    """Tokens a row is cut to; None is what training uses, and 1,024 outside a trainer, or what the model takes where
    that is less."""
    label: int | None = field(default=None, kw_only=True)
    """Of a classifier with several outputs, the one (from 0) whose logit is the score."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label is not None and (type(self.label) is not int or self.label < 0):
            raise ConfigError(f"Reward(label={self.label!r}): it has to be an int of at least 0, or None.")

    @property
    def kind(self) -> Kind:
        return "reward"

    @property
    def convention(self) -> str:
        """Rows are shown by another model's template, and are not cut as training cuts them."""
        return "chat"

    def columns(self) -> dict[str, pa.DataType]:
        return {"reward": pa.float32(), "reward_reason": pa.string()}

    def check_inputs(self, rows: TokenRows, context: ModelContext) -> None:
        _check_format(rows)
        super().check_inputs(rows, context)
        if context.loading is not None:
            self.check_model(context.loading)

    def check_model(self, loading: Loading) -> None:
        """Refuse a model that is no reward model, going by its configuration.

        Raises:
            ModelError: there is none, its files hold no head, or it has several outputs and none is named.
        """
        loading.tokenizer()
        config = read_config(loading)
        if loading.source()[0] == loading.name:  # an adapter may hold the head
            _check_head(config)
        _output(config, self.label)

    def compute(self, rows: TokenRows, context: ModelContext) -> Columns:
        _check_format(rows)
        parts = (rows.indices[start : start + _ROWS_AT_ONCE] for start in range(0, len(rows), _ROWS_AT_ONCE))
        read = (list(rows.pool.rows(part)) for part in parts)
        rewards, reasons = self.rate(read, rows.tokenizer, context, rows.settings.max_length)
        values, why = finite_or_null([rewards], reasons)
        return {"reward": values[0], "reward_reason": why}

    def rate(
        self, parts: Iterable[Sequence[Row]], tokenizer: Any, context: ModelContext, usual_length: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rewards of rows that come part by part.

        Args:
            parts: the rows; of each part the text is held in memory.
            tokenizer: of the reward model.
            context: with the reward model.
            usual_length: tokens a row is cut to where `max_length` is None and the model takes that many.

        Returns:
            Rewards, float64 and NaN where there is none, and for each row "" or the reason why there is none.
        """
        forwards = RewardForwards(context, self)
        chats = Chats(tokenizer, window(context.model, tokenizer, self.max_length, "Reward", usual_length))
        reasons: list[str] = []
        texts = Ragged(_tokens(parts, chats, reasons))
        why = np.array(reasons, dtype=np.str_) if reasons else np.empty(0, dtype="U1")
        rewards = np.full(len(why), np.nan)
        rewards[why == ""] = context.run(
            lambda batch: forwards([texts[at] for at in batch]),
            texts.lengths,
            1,
            label="reward",
            keys=texts.digests,
            spec={"computed": "reward", "version": 1, "label": self.label},
            nulls=null_counts(why),
        )[:, 0]
        return rewards, why


def _check_format(rows: TokenRows) -> None:
    if rows.pool.format == "text":
        raise FormatError(
            "Rows with only a text column have no response to rate. Make prompt and completion columns of them."
        )


def _check_head(config: Any) -> None:
    saved = getattr(config, "architectures", None) or []
    if any(_HEADLESS.search(each) for each in saved):
        raise ModelError(
            f"{config.name_or_path!r} is a {saved[0]} without the head of a reward model, which would be drawn at "
            "random. Take a reward model: a sequence classifier that was trained to score answers."
        )


def _output(config: Any, label: int | None) -> int:
    """Which of a classifier's outputs is the score."""
    outputs, name = int(config.num_labels), config.name_or_path
    if label is None and outputs != 1:
        raise ModelError(
            f"{name!r} has {outputs} outputs, and a reward model has one. Take another model, or say which output is "
            "the score: label=0, say."
        )
    if label is not None and label >= outputs:
        raise ModelError(f"label={label} is not among the {outputs} outputs of {name!r}, counted from 0.")
    return label or 0


def _tokens(parts: Iterable[Sequence[Row]], chats: Chats, reasons: list[str]) -> Iterator[list[np.ndarray]]:
    """The tokens of each row that has some, part by part; "" or a reason is put in for every row."""
    for part in parts:
        found, why = chats.tokens([row for row in part if not row.reason])
        outcomes = iter(why)
        reasons += [row.reason or next(outcomes) for row in part]
        yield [ids for ids in found if ids is not None]


class RewardForwards:
    """Runs a sequence classifier over token sequences: one logit each, the same as for the sequence alone.

    Args:
        context: with the model, bare or with PEFT adapters.
        score: whose settings say which logit.

    Raises:
        ScoreError: the model is no sequence classifier.
        ModelError: it has several outputs and none is named, or its files hold no head.
    """

    def __init__(self, context: ModelContext, score: Reward):
        model = context.model
        self.model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._check_kind(score, named=context.identity is not None)
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
                f"{type(score).__name__}() needs a reward model, and the model it is given is a {name}. Name one: "
                f"{type(score).__name__}('name or path')."
            )
        if named and not getattr(self.model, "_hf_peft_config_loaded", False):  # an adapter may hold the head
            _check_head(self.model.config)

    def __call__(self, batch: list[np.ndarray]) -> np.ndarray:
        """The logit of each sequence, float64 of shape (len(batch), 1)."""
        if self._backend is None:
            self._backend = self._choose(min(batch, key=len))
        found: np.ndarray = self._backend(batch).double().numpy()[:, None]
        return found

    def _choose(self, ids: np.ndarray) -> Callable[[list[np.ndarray]], torch.Tensor]:
        """Padded batches, if padding leaves the logit of the first half of a sequence as it is."""
        padded, half = self._padded_backend(), ids[: (len(ids) + 1) // 2]
        own = self._alone([half])
        found = padded([half], len(ids)) if padded is not None else None  # not longer than the model takes
        near = tolerance(self.model.dtype, self.device)
        if padded is not None and found is not None and torch.allclose(found, own, near, near, equal_nan=True):
            return padded
        logger.warning(
            "Padding changes what %s gives to a row: it is run one row at a time, which is slower.",
            type(self.model).__name__,
        )
        return self._alone

    def _padded_backend(self) -> Callable[..., torch.Tensor] | None:
        if self.model.config.is_encoder_decoder:
            return None
        if self.padding is not None:
            return self._by_model
        return self._by_head if isinstance(getattr(self.model, "score", None), torch.nn.Module) else None

    def _inputs(self, batch: list[np.ndarray], width: int | None = None) -> dict[str, torch.Tensor]:
        """Right-padded with the token that the model knows as padding, and the mask."""
        lengths = np.array([len(ids) for ids in batch])
        padded = np.full((len(batch), width or int(lengths.max())), self.padding or 0, dtype=np.int64)
        for row, ids in enumerate(batch):
            padded[row, : len(ids)] = ids
        mask = np.arange(padded.shape[1]) < lengths[:, None]
        inputs = {"input_ids": torch.from_numpy(padded), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
        return {name: value.to(self.device) for name, value in inputs.items()}

    def _by_model(self, batch: list[np.ndarray], width: int | None = None) -> torch.Tensor:
        logits: torch.Tensor = self.model(**self._inputs(batch, width), **_no_cache(self.model)).logits
        return logits[:, self.label].float().cpu()

    def _by_head(self, batch: list[np.ndarray], width: int | None = None) -> torch.Tensor:
        """Without a padding token the model takes no batch, and a row's score is that of its last token."""
        backbone = self.model.base_model
        states = backbone(**self._inputs(batch, width), **_no_cache(backbone)).last_hidden_state
        last = torch.tensor([len(ids) - 1 for ids in batch], device=states.device)
        logits: torch.Tensor = self.model.score(states[torch.arange(len(batch), device=states.device), last])
        return logits[:, self.label].float().cpu()

    def _alone(self, batch: list[np.ndarray]) -> torch.Tensor:
        return torch.cat([self._by_model([ids]) for ids in batch])


def _no_cache(module: torch.nn.Module) -> dict[str, bool]:
    """The argument that keeps a decoder from keeping states for tokens to come; encoders do not take it."""
    return {"use_cache": False} if "use_cache" in inspect.signature(type(module).forward).parameters else {}
