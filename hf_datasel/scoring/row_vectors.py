"""Base class of scores that pool the last hidden states of a model into one vector per row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

import numpy as np

from hf_datasel._lazy import torch
from hf_datasel.errors import FormatError, check_option
from hf_datasel.formats import Part, Row
from hf_datasel.scoring.base import null_counts
from hf_datasel.scoring.endpoint.embeddings import EndpointEmbeddings, check_settings
from hf_datasel.scoring.endpoint.score import EndpointScore
from hf_datasel.scoring.logprobs import PooledStates, Pooling, position_weights
from hf_datasel.scoring.models import Kind, load_config
from hf_datasel.scoring.runner import ModelRunner
from hf_datasel.spec import changed_settings
from hf_datasel.tokens import Sequences, TokenRows
from hf_datasel.tokens.prompts import resolve_max_length
from hf_datasel.tokens.sequences import RaggedArray, list_column

__all__ = ["RowVectors", "VectorScore"]

_CHUNK_ROWS = 10_000
"""Rows whose text is in memory at the same time."""


class RowVectors(NamedTuple):
    """Vectors of rows.

    Attributes:
        vectors: Float32 of shape (vectors, dimensions), of any length; above 256 MiB mapped from a file.
        positions: Position of the vector of each row, int64 of shape (rows,); -1 for a row without one.
        reasons: Reason of each row, "" for a row with a vector.
    """

    vectors: np.ndarray
    positions: np.ndarray
    reasons: np.ndarray


@dataclass(frozen=True)
class VectorScore(EndpointScore):
    """A score that reads one vector per row. See `Embedding` for what the settings mean.

    Args:
        max_length: Maximum number of tokens of a text.
        part: Part of the row.
        pooling: How the states of the tokens are pooled.
        as_trained: Whether the row is read with the tokens of training, which needs a causal LM.
        base_url: Address of an OpenAI-compatible endpoint.
        dimensions: Number of dimensions, if the endpoint's model can shorten its vectors.
        concurrency: Maximum number of simultaneous requests to the endpoint in each process.
        limits: Limits of a request to the endpoint.
        api_key_env: Environment variable with the endpoint's token.
    """

    max_length: int | None = field(default=None, kw_only=True)
    part: Part = field(default="both", kw_only=True)
    pooling: Pooling = field(default="mean", kw_only=True)
    as_trained: bool = field(default=False, kw_only=True)
    base_url: str | None = field(default=None, kw_only=True)
    dimensions: int | None = field(default=None, kw_only=True)
    concurrency: int = field(default=8, kw_only=True)
    limits: dict[str, Any] | None = field(default=None, kw_only=True)
    api_key_env: str | None = field(default=None, kw_only=True)

    @property
    def kind(self) -> Kind:
        """Head that the model is loaded with: none, unless the forward pass is shared with scores that need it."""
        return "causal" if self.as_trained else "encoder"

    @property
    def convention(self) -> str:
        """Convention of the tokens: those of training, or the plain text."""
        return "sft" if self.as_trained else "text"

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        check_option(f"{name}(part={self.part!r})", self.part, get_args(Part))
        check_option(f"{name}(pooling={self.pooling!r})", self.pooling, get_args(Pooling))
        check_settings(name, changed_settings(self))
        if self.base_url is not None:
            self._endpoint()

    @property
    def needs_text(self) -> bool:
        """Whether the score reads the text of rows: not with `as_trained`."""
        return not self.as_trained

    def announce(self, rows: TokenRows, runner: ModelRunner) -> None:
        """Announce the forward pass that `compute` runs."""
        if self.as_trained:
            runner.announce(rows.training().conditional, PooledStates(self.part, self.pooling))

    def check_inputs(self, rows: TokenRows, runner: ModelRunner) -> None:
        """Raise an error if `compute` would fail for any rows of this format with this model."""
        self._check_format(rows)
        super().check_inputs(rows, runner)
        if self.base_url is not None:
            self._endpoint().check_token()
        elif runner.loading is not None:
            load_config(runner.loading)

    def _check_format(self, rows: TokenRows) -> None:
        if rows.pool.format == "text" and (self.part != "both" or self.as_trained):
            raise FormatError(
                f"Rows with only a text column have no {'response' if self.as_trained else self.part} to embed. "
                f"{type(self).__name__}(part='both') takes all of the text."
            )

    def row_vectors(self, rows: TokenRows, runner: ModelRunner) -> RowVectors:
        """Compute the vectors of some rows.

        Args:
            rows: The rows, with their tokenizer.
            runner: Runs the model.

        Raises:
            FormatError: The rows have only a text column, and a part of the row is needed.
        """
        self._check_format(rows)
        if self.base_url is not None:
            endpoint = EndpointEmbeddings(rows, self._text, self._endpoint(), self.dimensions)
            results = endpoint.compute(runner, lambda dimensions: self.check_space(rows, dimensions, runner))
        elif self.as_trained:
            results = self._pool_training_tokens(rows, runner)
        else:
            results = self._encode_texts(rows, runner)
        return RowVectors(*results)

    def check_space(self, rows: TokenRows, dimensions: int, runner: ModelRunner) -> None:
        """Raise an error if there is no space for the vectors on the disk.

        Args:
            rows: The rows.
            dimensions: Numbers per vector.
            runner: Runner with the files of columns.

        Raises:
            ScoreError: Says how much space is needed and how much there is.
        """
        runner.column_files.check_space(len(rows), dimensions, np.float32, runner.processes)

    def _pool_training_tokens(self, rows: TokenRows, runner: ModelRunner) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return vectors, float32; the index of each row's vector, -1 for none; and the reason of each row."""
        self.check_space(rows, _hidden_size(runner), runner)
        tokens = rows.training()
        sequences: Sequences = tokens.conditional
        reduction = PooledStates(self.part, self.pooling)
        vectors = runner.reduce(sequences, reduction, "embedding", null_counts(tokens.reasons))
        reasons = tokens.reasons.astype(object)
        if self.part == "prompt":
            reasons[sequences.owner[_first_scored(sequences) == 0]] = "empty_text"
        index = np.full(len(rows), -1)
        index[sequences.owner] = np.arange(len(sequences))
        return vectors, np.where(reasons == "", index, -1), reasons

    def _encode_texts(self, rows: TokenRows, runner: ModelRunner) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the same for the plain text of the rows."""
        dimensions = _hidden_size(runner)
        self.check_space(rows, dimensions, runner)
        length = resolve_max_length(
            runner.model, rows.tokenizer, self.max_length, type(self).__name__, rows.settings.max_length
        )
        encoder = _Encoder(runner, rows.tokenizer, length, self.pooling)
        reasons = np.full(len(rows), "", dtype=object)
        texts = RaggedArray(self._tokens(rows, encoder, reasons))
        runner.check_tokens(texts)
        vectors = runner.run(
            lambda batch: encoder.pooled([texts[position] for position in batch]).cpu().numpy(),
            texts.lengths,
            dimensions,
            label="embedding",
            keys=texts.digests,
            spec={"computed": "text_states", "version": 1, "pooling": self.pooling},
            dtype=np.float32,
            nulls=null_counts(reasons),
            part=encoder.backbone,
        )
        has_text = reasons == ""
        return vectors, np.where(has_text, np.cumsum(has_text) - 1, -1), reasons

    def _tokens(self, rows: TokenRows, encoder: _Encoder, reasons: np.ndarray) -> Iterator[list[np.ndarray]]:
        """Yield the token ids of each chunk of rows. Sets the reasons of rows without text."""
        for start in range(0, len(rows), _CHUNK_ROWS):
            parsed = list(rows.pool.rows(rows.indices[start : start + _CHUNK_ROWS]))
            texts = [self._text(row) for row in parsed]
            ids = encoder.tokens(texts)
            for position, (row, text, tokens) in enumerate(zip(parsed, texts, ids, strict=True), start):
                reasons[position] = row.reason or ("" if text.strip() and len(tokens) else "empty_text")
            yield [tokens for position, tokens in enumerate(ids, start) if reasons[position] == ""]

    def _text(self, row: Row) -> str:
        if row.reason:
            return ""
        parts = [row.prompt, row.response] if self.part == "both" else [row.text(self.part)]
        return "\n".join(part for part in parts if part.strip())


class _Encoder:
    """Model and tokenizer that encode texts as pooled hidden states."""

    def __init__(self, runner: ModelRunner, tokenizer: Any, max_length: int, pooling: Pooling):
        model = runner.model.get_base_model() if hasattr(runner.model, "get_base_model") else runner.model
        self.backbone = model.base_model  # the model itself, if it has no head
        self.device = runner.device
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.pooling = pooling
        padding = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self.padding = next(token for token in padding if token is not None)

    def tokens(self, texts: list[str]) -> list[np.ndarray]:
        """Return the ids of each text, truncated to `max_length` including the special tokens."""
        with _preserve_truncation(self.tokenizer):
            ids = self.tokenizer(texts, truncation=True, max_length=self.max_length, padding=False)["input_ids"]
        return [np.asarray(tokens, dtype=np.int64) for tokens in ids]

    def pooled(self, batch: list[np.ndarray]) -> torch.Tensor:
        """Run one right-padded forward pass, and return float32 of shape (batch, dimensions)."""
        lengths = torch.tensor([len(tokens) for tokens in batch])
        ids = np.full((len(batch), int(lengths.max())), self.padding, dtype=np.int64)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = tokens
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": mask.long()}
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        states: torch.Tensor = self.backbone(**inputs).last_hidden_state
        mask, lengths = mask.to(states.device), lengths.to(states.device)
        if self.pooling == "last":
            return states[torch.arange(len(batch), device=states.device), lengths - 1].float()
        # not a product with the mask: a padding state that is not finite would reach the sum
        states = states.float().masked_fill(~mask[..., None], 0.0)
        if self.pooling == "weighted_mean":
            weights = [position_weights(int(length)).to(states.device) for length in lengths]
            return (states * torch.nn.utils.rnn.pad_sequence(weights, batch_first=True)[..., None]).sum(dim=1)
        return states.sum(dim=1) / lengths[:, None]


@contextmanager
def _preserve_truncation(tokenizer: Any) -> Iterator[None]:
    """Restore the truncation and padding of a fast tokenizer, which are part of its identity."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        yield
        return
    truncation, padding = backend.truncation, backend.padding
    try:
        yield
    finally:
        backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)
        backend.no_padding() if padding is None else backend.enable_padding(**padding)


def _first_scored(sequences: Sequences) -> np.ndarray:
    """Return the start of the first response in each sequence, int64; 0 if it has no prompt."""
    view = sequences.data.select_columns([sequences.spans]).with_format("arrow")
    tables = view.iter(batch_size=_CHUNK_ROWS)
    starts = [[spans[0] for spans in list_column(table, sequences.spans)] for table in tables]
    return np.concatenate([np.empty(0, dtype=np.int64), *starts]).astype(np.int64)


def _hidden_size(runner: ModelRunner) -> int:
    size: int = runner.model.config.get_text_config().hidden_size
    return size
