"""Answers that a causal language model generates for the prompts of rows."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Generator as GeneratorType, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel._lazy import torch
from hf_datasel.errors import ConfigError, ModelError
from hf_datasel.scoring.continuous_batching import ContinuousBatcher
from hf_datasel.scoring.logprobs import LogprobRunner, tolerance
from hf_datasel.tokens import TokenRows
from hf_datasel.tokens.chat import end_token_ids
from hf_datasel.tokens.sequences import RaggedArray, list_column

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelRunner

__all__ = ["Decoding", "Generator", "Prompts"]

logger = logging.getLogger(__name__)

_ROWS_PER_BLOCK = 10_000
"""Number of rows whose tokens are read at once."""
_PROBE_PADDING, _PROBE_TOKENS = 8, 2
"""Number of hidden tokens and of tokens after them, to find out whether a model reads the former."""
_PADDING = 0
"""Token before a prompt, which the attention mask hides, and after an answer, which is cut off: any token will do."""


@dataclass(frozen=True)
class Decoding:
    """How answers are generated.

    Args:
        max_new_tokens: Maximum number of tokens of an answer, including its end.
        temperature: 0 for greedy decoding, else the sampling temperature.
        seed: Random seed for sampling. It is combined with the prompt, so that other rows and the batch do not matter.
        top_p: Probability of the most likely tokens that are sampled from; 1 samples from all.
        continuous_batching: Whether the continuous batching of transformers is used, which is for greedy decoding: its
            samples would depend on the other prompts.
        sample: Number of the answer, if there are several to each prompt, from 0: each has random numbers of its own,
            which do not depend on how many there are.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    top_p: float = 1.0
    continuous_batching: bool = False
    sample: int = 0

    def __post_init__(self) -> None:
        if type(self.max_new_tokens) is not int or self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens={self.max_new_tokens!r}: it has to be an int above 0.")
        value = self.temperature
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise ConfigError(f"temperature={value!r}: it has to be a number of at least 0.")
        if type(self.seed) is not int:
            raise ConfigError(f"seed={self.seed!r}: it has to be an int.")
        value = self.top_p
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise ConfigError(f"top_p={value!r}: it has to be a number above 0, and 1 at most.")
        if value < 1 and not self.temperature:
            raise ConfigError(f"top_p={value!r} is for sampling, and temperature=0 is greedy. Set temperature too.")
        if type(self.continuous_batching) is not bool:
            raise ConfigError(
                f"use_transformers_continuous_batching={self.continuous_batching!r}: it has to be True or False."
            )
        if self.continuous_batching and self.temperature:
            raise ConfigError(
                f"use_transformers_continuous_batching is for greedy decoding, and temperature={self.temperature!r}: "
                "samples of a prompt would depend on the other prompts. Omit one of them."
            )

    def samples(self, number: int) -> list[Decoding]:
        """Return how each of several answers to a prompt is generated.

        Args:
            number: Number of answers.

        Raises:
            ConfigError: It is not an int above 0, or there are several greedy answers, which would be equal.
        """
        if type(number) is not int or number < 1:
            raise ConfigError(f"num_generations={number!r}: it has to be an int above 0.")
        if number > 1 and not self.temperature:
            raise ConfigError(
                f"num_generations={number}: the answers of greedy decoding (temperature={self.temperature!r}) are all "
                "equal. Set a temperature above 0, or num_generations=1."
            )
        return [replace(self, sample=sample) for sample in range(number)]

    @property
    def random_settings(self) -> dict[str, Any]:
        """Settings that random numbers depend on, for the spec of the answers; empty for greedy decoding."""
        sample = {"sample": self.sample} if self.sample else {}
        return {"seed": self.seed, **sample} if self.temperature else {}

    def seed_of(self, prompt: bytes) -> int:
        """Return a seed for one prompt, at most 2^31 - 1, which depends on the prompt, `seed` and `sample` alone.

        Args:
            prompt: Digest of the prompt.
        """
        return self.random_seed(prompt.hex(), num_bytes=4) >> 1

    def random_seed(self, prompt: str, num_bytes: int) -> int:
        """Return a seed of so many bytes, which depends on the prompt, `seed` and `sample` alone.

        Args:
            prompt: Text that identifies the prompt.
            num_bytes: Number of bytes.
        """
        seed = f"{self.seed}.{self.sample}" if self.sample else str(self.seed)
        return int.from_bytes(hashlib.blake2b(f"{seed}:{prompt}".encode(), digest_size=num_bytes).digest())


@dataclass(frozen=True)
class Prompts:
    """Prompts of the last responses of rows, in the tokens of training.

    Args:
        prompt_ids: Tokens up to the response, including the generation prompt.
        full_ids: Tokens up to the end of the response, as truncated in training and without its end token.
        owner: Row of each prompt, int64.
        reasons: Reason why a row has no prompt, str of shape (rows,); empty if it has one.
    """

    prompt_ids: RaggedArray
    full_ids: RaggedArray
    owner: np.ndarray
    reasons: np.ndarray

    @classmethod
    def from_rows(cls, rows: TokenRows, max_length: float = math.inf, excluded: np.ndarray | None = None) -> Prompts:
        """Return the prompts of rows.

        In a row with several turns the prompt is everything before the last response, with the earlier responses of
        the row. The reasons are `prompt_fills_window`, if the last response starts after the window of training or
        the prompt is longer than `max_length`; `empty_prompt`, if there is nothing before the response; and
        `no_response_token`, if the chat template renders no response.

        Args:
            rows: The rows.
            max_length: Maximum number of tokens of a prompt, such as `Generator.max_prompt_length`.
            excluded: Why each row needs no prompt, str of shape (rows,), empty for rows that need one; by default all
                need one.
        """
        tokens = rows.training(prior_context="bos", end_token=False)
        data, owner = tokens.conditional.data, tokens.conditional.owner
        reasons = tokens.reasons.astype(object)
        num_responses, starts = _responses_in_window(rows)
        keeps_start = rows.settings.truncation_mode == "keep_start"
        excluded = np.full(len(rows), "") if excluded is None else excluded
        prompt_ids, full_ids, owners = list[list[np.ndarray]](), list[list[np.ndarray]](), list[np.ndarray]()
        view = data.select_columns(["input_ids", "spans"]).with_format("arrow")
        for block, table in enumerate(view.iter(batch_size=_ROWS_PER_BLOCK)):
            part = owner[block * _ROWS_PER_BLOCK : (block + 1) * _ROWS_PER_BLOCK]
            ids = list_column(table, "input_ids")
            last = [spans.reshape(-1, 2)[-1] for spans in list_column(table, "spans")]
            expected = _num_responses(rows, part) if keeps_start else [0] * len(part)
            is_outside = (num_responses[part] < expected) | (starts[part] > max_length)
            is_missing = np.array([start for start, _ in last]) != starts[part]
            reasons[part] = np.select(
                [excluded[part] != "", is_outside, is_missing, starts[part] == 0],
                [excluded[part], "prompt_fills_window", "no_response_token", "empty_prompt"],
                default="",
            )
            usable = np.flatnonzero(reasons[part] == "")
            owners.append(part[usable])
            prompt_ids.append([ids[row][: last[row][0]] for row in usable])
            full_ids.append([ids[row][: last[row][1]] for row in usable])
        empty = np.empty(0, dtype=np.int64)
        return cls(
            RaggedArray(prompt_ids), RaggedArray(full_ids), np.concatenate([empty, *owners]), reasons.astype(np.str_)
        )


def _responses_in_window(rows: TokenRows) -> tuple[np.ndarray, np.ndarray]:
    """Count the responses of each row in the window of training, and find the start of the last one, int64.

    A response of which only the end token is rendered counts too: a tool call that the template omits, for example.
    """
    sequences = rows.training(prior_context="bos").conditional
    counts, starts = np.zeros(len(rows), dtype=np.int64), np.full(len(rows), -1, dtype=np.int64)
    view = sequences.data.select_columns(["spans"]).with_format("arrow")
    for block, table in enumerate(view.iter(batch_size=_ROWS_PER_BLOCK)):
        part = sequences.owner[block * _ROWS_PER_BLOCK : (block + 1) * _ROWS_PER_BLOCK]
        spans = list_column(table, "spans")
        counts[part] = [len(flat) // 2 for flat in spans]
        starts[part] = [flat[-2] for flat in spans]
    return counts, starts


def _num_responses(rows: TokenRows, part: np.ndarray) -> list[int]:
    """Count all responses of each row."""
    selected = rows.pool.rows(rows.indices[part])
    return [len(row.response_turns) for row in selected]


class Generator:
    """Generates answers with a causal language model.

    Prompts of a batch are left-padded, whatever the tokenizer does, with an attention mask, or packed without padding
    by continuous batching: up to rounding, an answer does not depend on the other prompts of the batch. A model that
    reads padding in spite of the mask, such as RWKV, answers one prompt at a time. An answer ends at EOS, at the other
    end tokens of the model's generation config, and at the tokens with which the chat template ends an answer. Nothing
    else of the generation config is used.

    Args:
        runner: Runner of the model.
        tokenizer: Tokenizer of the model.
        decoding: How answers are generated.

    Attributes:
        end_ids: Token ids that end an answer.

    Raises:
        ModelError: The model cannot generate text, or not as many tokens.
    """

    def __init__(self, runner: ModelRunner, tokenizer: Any, decoding: Decoding):
        self.runner = runner
        self.tokenizer = tokenizer
        self.decoding = decoding
        logprobs = LogprobRunner(runner.model)
        self.model, self.device = logprobs.causal, logprobs.device
        if not hasattr(self.model, "generate") or not self.model.can_generate():
            raise ModelError(f"{type(self.model).__name__} cannot generate text. Use a causal language model.")
        eos = self.model.generation_config.eos_token_id
        model_end_ids = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
        self.end_ids = sorted({*model_end_ids, *end_token_ids(tokenizer)})
        if self.max_prompt_length < 1:
            raise ModelError(
                f"max_new_tokens={decoding.max_new_tokens} is the context length of "
                f"{self.model.config.name_or_path!r} or more, which leaves no room for a prompt. Lower it."
            )
        self._reads_padding: bool | None = None
        self._batcher: ContinuousBatcher | None = None
        if decoding.continuous_batching:
            if runner.autocast is not None:
                raise ModelError(
                    "use_transformers_continuous_batching runs a model in the data type of its weights, and this one "
                    f"is run in {runner.autocast} by autocast. Load it in that data type, or omit the setting."
                )
            tokens = runner.tokens_per_batch
            self._batcher = ContinuousBatcher(self.model, decoding.max_new_tokens, self.end_ids, tokens)

    @property
    def max_prompt_length(self) -> int:
        """Maximum number of tokens of a prompt that leaves room for an answer."""
        config = self.model.config.get_text_config()
        positions = getattr(config, "max_position_embeddings", None) or np.iinfo(np.int64).max
        return int(positions) - self.decoding.max_new_tokens

    def answers(self, prompts: RaggedArray, label: str = "answers", nulls: Counter[str] | None = None) -> RaggedArray:
        """Generate an answer to each prompt.

        Args:
            prompts: Token ids of the prompts, none of them empty.
            label: Label of the progress bar.
            nulls: Number of rows without a prompt by reason, for the progress bar.

        Returns:
            The token ids of each answer, without its end token.
        """
        self.runner.check_tokens(prompts)
        options: dict[str, Any] = {
            "label": label,
            "keys": prompts.digests,
            "spec": self._spec(),
            "dtype": np.float32,  # exact for every token id
            "nulls": nulls,
        }
        new = self.decoding.max_new_tokens
        if self._batcher is None:
            answers = self.runner.run(
                lambda batch: self._generate([prompts[index] for index in batch]),
                prompts.lengths + new,
                new,
                **options,
            )
        else:
            answers = self.runner.run_as_completed(
                lambda batch: self._generate_continuously(prompts, batch), len(prompts), new, **options
            )
        starts = range(0, len(answers), _ROWS_PER_BLOCK)
        return RaggedArray([self._trim(ids) for ids in answers[start : start + _ROWS_PER_BLOCK]] for start in starts)

    def texts(self, answers: RaggedArray) -> Iterator[str]:
        """Decode answers, without special tokens and surrounding white space.

        Args:
            answers: Token ids of the answers.

        Yields:
            The text of each answer.
        """
        for index in range(len(answers)):
            text = self.tokenizer.decode(
                answers[index].tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            yield str(text).strip()

    def _spec(self) -> dict[str, Any]:
        decoding = self.decoding
        sampling = {"temperature": float(decoding.temperature)} if decoding.temperature else {}
        top_p = {} if decoding.top_p == 1 else {"top_p": float(decoding.top_p)}
        tokens = decoding.max_new_tokens
        continuous = {"continuous_batching": True} if decoding.continuous_batching else {}
        settings = {**sampling, **decoding.random_settings, **top_p, **continuous}
        return {"computed": "answers", "version": 1, "ends": self.end_ids, "tokens": tokens, **settings}

    def _trim(self, ids: np.ndarray) -> np.ndarray:
        ids = ids.astype(np.int64)
        ends = np.flatnonzero((ids < 0) | np.isin(ids, self.end_ids))
        return ids[: ends[0]] if len(ends) else ids

    def _generate(self, prompts: list[np.ndarray]) -> np.ndarray:
        """Return the ids of the answers up to an end token, then -1: float32 of shape (prompts, max_new_tokens)."""
        width = max(len(ids) for ids in prompts)
        if any(len(ids) < width for ids in prompts) and self._sees_padding(min(prompts, key=len)):
            return np.concatenate([self._generate([ids]) for ids in prompts])
        padded = np.full((len(prompts), width), _PADDING, dtype=np.int64)
        for row, ids in enumerate(prompts):
            padded[row, width - len(ids) :] = ids
        mask = np.arange(width) >= width - np.array([[len(ids)] for ids in prompts])
        inputs = {"input_ids": torch.from_numpy(padded), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
        config = _generation_config(self.model, self.decoding.max_new_tokens, self.end_ids)
        with config, _class_forward(self.model):
            output = self.model.generate(
                **{name: value.to(self.device) for name, value in inputs.items()},
                logits_processor=self._samplers(prompts),
            )
        new = output[:, width:].cpu().numpy()
        answers = np.full((len(prompts), self.decoding.max_new_tokens), -1, dtype=np.float32)
        answers[:, : new.shape[1]] = new
        is_end = np.isin(new, self.end_ids)
        is_after_end = np.cumsum(is_end, axis=1) - is_end > 0
        answers[:, : new.shape[1]][is_after_end] = -1
        num_new = int(np.count_nonzero(answers >= 0))
        self.runner.count_tokens(sum(map(len, prompts)) + num_new - len(prompts))  # the last ones are not read
        return answers

    def _sees_padding(self, ids: np.ndarray) -> bool:
        """Return whether hidden tokens before the end of a prompt change its logits: two are compared, once."""
        if self._reads_padding is None:
            num_hidden = min(_PROBE_PADDING, self.decoding.max_new_tokens)  # no longer than the model takes
            hidden = np.repeat([[0], [1]], num_hidden, axis=1)
            end = ids[-_PROBE_TOKENS:]
            inputs = torch.from_numpy(np.concatenate([hidden, np.stack([end, end])], axis=1)).to(self.device)
            mask = torch.ones_like(inputs)
            mask[:, :num_hidden] = 0
            with _class_forward(self.model):
                first, second = self.model(input_ids=inputs, attention_mask=mask).logits[:, -1].float()
            near = tolerance(self.model.dtype, self.device)
            self._reads_padding = not torch.allclose(first, second, near, near, equal_nan=True)
            if self._reads_padding:
                logger.warning(
                    "%s reads the padding before a prompt: it answers one prompt at a time, which is slower.",
                    type(self.model).__name__,
                )
        return self._reads_padding

    def _generate_continuously(
        self, prompts: RaggedArray, batch: np.ndarray
    ) -> GeneratorType[tuple[np.ndarray, np.ndarray], None, None]:
        """Yield the index of a prompt and the ids of its answer, then -1: float32 of shape (1, max_new_tokens)."""
        assert self._batcher is not None
        batch = batch[np.argsort(-prompts.lengths[batch], kind="stable")]  # the longest must not be the last to end
        generated = self._batcher.answers([prompts[index] for index in batch])
        with _class_forward(self.model), closing(generated):
            for position, ids in generated:
                answer = np.full((1, self.decoding.max_new_tokens), -1, dtype=np.float32)
                answer[0, : len(ids)] = ids
                part = batch[position : position + 1]
                self.runner.count_tokens(int(prompts.lengths[part[0]]) + len(ids) - 1)  # the last one is not read
                yield part, answer

    def _samplers(self, prompts: list[np.ndarray]) -> list[Any]:
        if not self.decoding.temperature:
            return []
        seeds = [self.decoding.random_seed(str(ids.tolist()), num_bytes=7) for ids in prompts]
        return [_GumbelNoise(seeds, float(self.decoding.temperature), float(self.decoding.top_p))]


class _GumbelNoise:
    """Logits processor that adds Gumbel noise, so that greedy decoding samples from the softmax.

    Each row has its own random generator, so that the tokens of a row do not depend on the other rows of the batch.
    """

    def __init__(self, seeds: list[int], temperature: float, top_p: float = 1.0):
        self.seeds = seeds
        self.temperature = temperature
        self.top_p = top_p
        self.generators: list[torch.Generator] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self.generators:
            self.generators = [torch.Generator(scores.device).manual_seed(seed) for seed in self.seeds]
        noise = torch.empty_like(scores, dtype=torch.float32)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        scores = scores.float() / self.temperature
        if self.top_p < 1:
            from transformers import TopPLogitsWarper

            scores = TopPLogitsWarper(self.top_p)(input_ids, scores)
        return scores - noise.log()


@contextmanager
def _generation_config(model: Any, max_new_tokens: int, end_ids: list[int]) -> Iterator[None]:
    """Replace the model's generation config, from which `generate` takes every option that is not passed."""
    from transformers import GenerationConfig

    original = model.generation_config
    model.generation_config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=end_ids or None,
        pad_token_id=_PADDING,
    )
    try:
        yield
    finally:
        model.generation_config = original


@contextmanager
def _class_forward(model: Any) -> Iterator[None]:
    """Use the forward pass of the model's class: `generate` calls the instance's, which trainers wrap in autocast."""
    wrapped = vars(model).pop("forward", None)
    try:
        yield
    finally:
        if wrapped is not None:
            model.forward = wrapped
