"""Answers that a causal language model writes to the prompts of rows."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_datasel.errors import ConfigError, ModelError
from hf_datasel.scoring.logprobs import Forwards
from hf_datasel.tokens import TokenRows
from hf_datasel.tokens.chat import ending_tokens
from hf_datasel.tokens.sequences import Ragged, ragged

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelContext

__all__ = ["Decoding", "Generator", "Prompts"]

_ROWS_AT_ONCE = 10_000
"""Rows whose tokens are read at once."""
_PADDING = 0
"""Put before a prompt, where the mask hides it, and behind an answer, where it is cut off: any token will do."""


@dataclass(frozen=True)
class Decoding:
    """How answers are written.

    Attributes:
        max_new_tokens: of an answer, its end included.
        temperature: 0 takes the likeliest token each time; above that tokens are drawn, 1 being the model's own odds.
        seed: of the draws. They belong to the prompt: other rows and batches do not change them.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if type(self.max_new_tokens) is not int or self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens={self.max_new_tokens!r}: it has to be an int above 0.")
        heat = self.temperature
        if isinstance(heat, bool) or not isinstance(heat, int | float) or not math.isfinite(heat) or heat < 0:
            raise ConfigError(f"temperature={heat!r}: it has to be a number of at least 0.")
        if type(self.seed) is not int:
            raise ConfigError(f"seed={self.seed!r}: it has to be an int.")


@dataclass(frozen=True)
class Prompts:
    """What stands before the last response of rows, in the tokens of training.

    Attributes:
        asked: tokens up to the response, generation prompt included.
        answered: the same with the response behind them, as far as training sees it and without what ends it.
        owner: row of each, int64.
        reasons: why a row has none, strings of shape (rows,); empty where it has one.
    """

    asked: Ragged
    answered: Ragged
    owner: np.ndarray
    reasons: np.ndarray

    @classmethod
    def of(cls, rows: TokenRows, room: float = math.inf) -> Prompts:
        """The prompts of rows.

        Of several turns the prompt is everything before the last response, with the earlier responses as they are in
        the row. A row whose last response begins behind the window of training has none, and neither has one whose
        prompt is longer than `room`, the tokens that leave space for an answer: `prompt_fills_window`. With nothing
        before the response the reason is `empty_prompt`, and where the template shows none `no_response_token`.
        """
        tokens = rows.training(prior_context="bos", end_token=False)
        data, owner = tokens.conditional.data, tokens.conditional.owner
        reasons = tokens.reasons.astype(object)
        shown, begins = _shown(rows)
        keeps_start = rows.settings.truncation_mode == "keep_start"
        asked, answered, kept = list[list[np.ndarray]](), list[list[np.ndarray]](), list[np.ndarray]()
        view = data.select_columns(["input_ids", "spans"]).with_format("arrow")
        for at, table in enumerate(view.iter(batch_size=_ROWS_AT_ONCE)):
            part = owner[at * _ROWS_AT_ONCE : (at + 1) * _ROWS_AT_ONCE]
            ids, spans = ragged(table, "input_ids"), [each.reshape(-1, 2) for each in ragged(table, "spans")]
            turns = _responses(rows, part) if keeps_start else [0] * len(part)
            last = [span[-1] for span in spans]
            outside = (shown[part] < turns) | (begins[part] > room)
            missing = np.array([start for start, _ in last]) != begins[part]
            reasons[part] = np.select(
                [outside, missing, begins[part] == 0],
                ["prompt_fills_window", "no_response_token", "empty_prompt"],
                default="",
            )
            good = np.flatnonzero(reasons[part] == "")
            kept.append(part[good])
            asked.append([ids[each][: last[each][0]] for each in good])
            answered.append([ids[each][: last[each][1]] for each in good])
        empty = np.empty(0, dtype=np.int64)
        return cls(Ragged(asked), Ragged(answered), np.concatenate([empty, *kept]), reasons.astype(np.str_))


def _shown(rows: TokenRows) -> tuple[np.ndarray, np.ndarray]:
    """How many responses of each row are in the window of training, and where the last of them begins, int64.

    A response counts here if nothing but what ends it is shown: a call of a tool, say, that the template leaves out.
    """
    sequences = rows.training(prior_context="bos").conditional
    counts, begins = np.zeros(len(rows), dtype=np.int64), np.full(len(rows), -1, dtype=np.int64)
    view = sequences.data.select_columns(["spans"]).with_format("arrow")
    for at, table in enumerate(view.iter(batch_size=_ROWS_AT_ONCE)):
        part = sequences.owner[at * _ROWS_AT_ONCE : (at + 1) * _ROWS_AT_ONCE]
        spans = ragged(table, "spans")
        counts[part] = [len(each) // 2 for each in spans]
        begins[part] = [each[-2] for each in spans]
    return counts, begins


def _responses(rows: TokenRows, part: np.ndarray) -> list[int]:
    """How many responses each row has."""
    read = rows.pool.rows(rows.indices[part])
    return [sum(turn.role == "assistant" for turn in row.turns[row.context :]) for row in read]


class Generator:
    """Writes answers with a causal language model.

    Prompts of a batch are padded on the left, whatever the tokenizer does, and hidden by a mask: but for rounding, an
    answer does not depend on what else is in the batch. It ends at EOS, at whatever else the model's generation config
    names, and at what the chat template puts behind an answer. Nothing else of that config is used.

    Args:
        context: of the model that answers.
        tokenizer: of that model.
        decoding: how answers are written.

    Raises:
        ModelError: the model cannot write, or not that many tokens.
    """

    def __init__(self, context: ModelContext, tokenizer: Any, decoding: Decoding):
        self.context = context
        self.tokenizer = tokenizer
        self.decoding = decoding
        self.forwards = Forwards(context.model)
        self.model = self.forwards.causal
        if not hasattr(self.model, "generate") or not self.model.can_generate():
            raise ModelError(f"{type(self.model).__name__} cannot write answers. Take a causal language model.")
        named = self.model.generation_config.eos_token_id
        of_model = [] if named is None else [named] if isinstance(named, int) else list(named)
        self.ends = sorted({*of_model, *ending_tokens(tokenizer)})
        if self.room < 1:
            raise ModelError(
                f"max_new_tokens={decoding.max_new_tokens} is all that {self.model.config.name_or_path!r} takes, or "
                "more, which leaves no room for a prompt. Lower it."
            )

    @property
    def room(self) -> int:
        """Tokens of the longest prompt that leaves space for an answer."""
        config = self.model.config.get_text_config()
        positions = getattr(config, "max_position_embeddings", None) or np.iinfo(np.int64).max
        return int(positions) - self.decoding.max_new_tokens

    def answers(self, prompts: Ragged, label: str = "answers", nulls: Counter[str] | None = None) -> Ragged:
        """The tokens of the answer to each prompt, without what ends it.

        Args:
            prompts: none of them empty.
            label: for the progress bar.
            nulls: rows that are not asked, by reason, for the progress bar.
        """
        found = self.context.run(
            lambda batch: self._write([prompts[at] for at in batch]),
            prompts.lengths + self.decoding.max_new_tokens,
            self.decoding.max_new_tokens,
            label=label,
            keys=prompts.digests,
            spec=self._spec(),
            dtype=np.float32,  # exact for every token id
            nulls=nulls,
        )
        parts = range(0, len(found), _ROWS_AT_ONCE)
        return Ragged([self._trimmed(ids) for ids in found[start : start + _ROWS_AT_ONCE]] for start in parts)

    def texts(self, answers: Ragged) -> Iterator[str]:
        """Each answer as text, without special tokens and white space around it."""
        for at in range(len(answers)):
            text = self.tokenizer.decode(
                answers[at].tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            yield str(text).strip()

    def _spec(self) -> dict[str, Any]:
        how = self.decoding
        drawn = {"temperature": float(how.temperature), "seed": how.seed} if how.temperature else {}
        return {"computed": "answers", "version": 1, "ends": self.ends, "tokens": how.max_new_tokens, **drawn}

    def _trimmed(self, ids: np.ndarray) -> np.ndarray:
        ids = ids.astype(np.int64)
        over = np.flatnonzero((ids < 0) | np.isin(ids, self.ends))
        return ids[: over[0]] if len(over) else ids

    def _write(self, prompts: list[np.ndarray]) -> np.ndarray:
        """Token ids of the answers, ended by one of `ends` or cut, then -1: shape (prompts, max_new_tokens)."""
        width = max(len(ids) for ids in prompts)
        padded = np.full((len(prompts), width), _PADDING, dtype=np.int64)
        for row, ids in enumerate(prompts):
            padded[row, width - len(ids) :] = ids
        mask = np.arange(width) >= width - np.array([[len(ids)] for ids in prompts])
        inputs = {"input_ids": torch.from_numpy(padded), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
        with _own_settings(self.model, self.decoding.max_new_tokens, self.ends), _own_forward(self.model):
            written = self.model.generate(
                **{name: value.to(self.forwards.device) for name, value in inputs.items()},
                logits_processor=self._draws(prompts),
            )
        new = written[:, width:].cpu().numpy()
        found = np.full((len(prompts), self.decoding.max_new_tokens), -1, dtype=np.float32)
        found[:, : new.shape[1]] = new
        ended = np.isin(new, self.ends)
        behind = np.cumsum(ended, axis=1) - ended > 0
        found[:, : new.shape[1]][behind] = -1
        return found

    def _draws(self, prompts: list[np.ndarray]) -> list[Any]:
        if not self.decoding.temperature:
            return []
        seeds = [hashlib.blake2b(f"{self.decoding.seed}:{ids.tolist()}".encode(), digest_size=7) for ids in prompts]
        return [_Draws([int.from_bytes(each.digest()) for each in seeds], float(self.decoding.temperature))]


class _Draws:
    """Adds noise to the logits so that the likeliest token is a draw from the softmax (Gumbel-max).

    Each row has a random state of its own: drawing from a batch would let a row's tokens depend on the other rows.
    """

    def __init__(self, seeds: list[int], temperature: float):
        self.seeds = seeds
        self.temperature = temperature
        self.states: list[torch.Generator] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self.states:
            self.states = [torch.Generator(scores.device).manual_seed(seed) for seed in self.seeds]
        noise = torch.empty_like(scores, dtype=torch.float32)
        for row, state in zip(noise, self.states, strict=True):
            row.exponential_(generator=state)
        return scores.float() / self.temperature - noise.log()


@contextmanager
def _own_settings(model: Any, max_new_tokens: int, ends: list[int]) -> Iterator[None]:
    """Plain decoding: what the model's generation config says fills in whatever is left open, so ours replaces it."""
    from transformers import GenerationConfig

    kept = model.generation_config
    model.generation_config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=ends or None,
        pad_token_id=_PADDING,
    )
    try:
        yield
    finally:
        model.generation_config = kept


@contextmanager
def _own_forward(model: Any) -> Iterator[None]:
    """The forward pass of the model's class: `generate` calls the instance's, which trainers wrap in autocast."""
    wrapped = vars(model).pop("forward", None)
    try:
        yield
    finally:
        if wrapped is not None:
            model.forward = wrapped
