"""Embeddings of rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from hf_datasel._lazy import torch
from hf_datasel.errors import ConfigError, FormatError, check_option
from hf_datasel.formats import Part, Row
from hf_datasel.scoring.base import Columns, null_counts
from hf_datasel.scoring.endpoint.embeddings import EndpointEmbeddings, check_settings
from hf_datasel.scoring.endpoint.score import EndpointScore
from hf_datasel.scoring.logprobs import PooledStates
from hf_datasel.scoring.models import Kind, load_config
from hf_datasel.scoring.runner import ModelRunner
from hf_datasel.scoring.vector_files import list_array, row_blocks
from hf_datasel.spec import changed_settings
from hf_datasel.tokens import Sequences, TokenRows
from hf_datasel.tokens.prompts import resolve_max_length
from hf_datasel.tokens.sequences import RaggedArray, list_column

if TYPE_CHECKING:
    pass

__all__ = ["Embedding"]

_CHUNK_ROWS = 10_000
"""Rows whose text is in memory at the same time."""
_VECTORS_DTYPES = {"float32": pa.float32(), "float16": pa.float16()}
_OPTIONS = {
    "part": ["prompt", "response", "both"],
    "pooling": ["mean", "last"],
    "vectors_dtype": list(_VECTORS_DTYPES),
}


@dataclass(frozen=True)
class Embedding(EndpointScore):
    """The last hidden states of a model over a row's text, pooled into one vector.

    A named model is loaded without a head: a sentence encoder such as `sentence-transformers/all-MiniLM-L6-v2`, or a
    causal LM. By default it is the causal LM of the round, or that of `hf_datasel.score`. The text is encoded with the
    tokenizer's special tokens, without a chat template, and truncated to `max_length`. Layers that
    sentence-transformers adds to its models, such as a projection, are not run.

    With `as_trained` a causal LM reads the row exactly as training does, including the chat template, and `part`
    selects the tokens that are pooled. This is the forward pass of `Loss` and `IFD`, and is shared with them.

    With `base_url` the vectors come from an OpenAI-compatible endpoint (vLLM, text-embeddings-inference, OpenAI), and
    `model` is its name there. No model is loaded, each distinct text is sent once, and the server truncates texts. The
    token is read from `OPENAI_API_KEY`, or from the variable `api_key_env`. The reason of a row without a vector is
    `refused` (the endpoint rejects the text, which may be too long) or `no_answer`; with a score store, later runs
    request only the latter, and rows that were not requested before.

    Reads any supported row format. Writes `embedding` (list of float32) and `embedding_reason` ("" for a row with a
    vector). A column above 256 MiB is a memory-mapped file: in the folder of the score store, or where `Dataset.map`
    writes. Cost: one forward pass per row without the LM head, or none of its own with `as_trained`.

    Reference: Yu et al. 2024 (2409.11378) use the last token's state of Llama 2 over prompt and completion; Wu et al.
    2023 (2311.08182, DiverseEvol) use the mean over all tokens of the current model.

    Args:
        model: Name or path of the model, or its name at the endpoint. None uses the model of the round, or the `model`
            of `hf_datasel.score`.
        revision: Commit, branch or tag of a Hub model.
        max_length: Maximum number of tokens of a text. By default that of training, 1,024 outside a trainer, or what
            the model takes if that is less.
        part: Part of the row: `"prompt"`, `"response"`, or `"both"`, which are joined by a newline.
        pooling: `"mean"` over all tokens except padding, or the state of the `"last"` token.
        normalize: Whether vectors are scaled to length 1.
        vectors_dtype: Data type of the column: `"float32"`, or `"float16"`, which takes half of the space. The reason
            of a row with a number above 65,504, the largest of float16, is `not_finite`.
        as_trained: Whether the row is read with the tokens of training, which needs a causal LM.
        base_url: Address of an OpenAI-compatible endpoint, such as `http://localhost:8000/v1`; by default the model
            runs locally.
        dimensions: Number of dimensions, if the endpoint's model can shorten its vectors; its own by default.
        concurrency: Maximum number of simultaneous requests to the endpoint in each process.
        limits: Limits of a request to the endpoint, as in `Judge`.
        api_key_env: Environment variable with the endpoint's token.
        dtype: Data type of the weights: "auto" or the name of a floating-point type.
        model_init_kwargs: Further arguments of `from_pretrained`, as in `SFTConfig`.
        column_prefix: Prefix of the name of every column that the score writes.

    >>> Embedding(part="prompt").columns()
    {'embedding': ListType(list<item: float>), 'embedding_reason': DataType(string)}
    """

    max_length: int | None = field(default=None, kw_only=True)
    part: Part = field(default="both", kw_only=True)
    pooling: Literal["mean", "last"] = field(default="mean", kw_only=True)
    normalize: bool = field(default=True, kw_only=True)
    vectors_dtype: Literal["float32", "float16"] = field(default="float32", kw_only=True)
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
        for name, options in _OPTIONS.items():
            check_option(f"Embedding({name}={getattr(self, name)!r})", getattr(self, name), options)
        if type(self.normalize) is not bool:
            raise ConfigError(f"Embedding(normalize={self.normalize!r}): it has to be True or False.")
        check_settings(changed_settings(self))
        if self.base_url is not None:
            self._endpoint()

    @property
    def needs_text(self) -> bool:
        """Whether the score reads the text of rows: not with `as_trained`."""
        return not self.as_trained

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        return {"embedding": pa.list_(_VECTORS_DTYPES[self.vectors_dtype]), "embedding_reason": pa.string()}

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
                "Embedding(part='both') takes all of the text."
            )

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        self._check_format(rows)
        if self.base_url is not None:
            endpoint = EndpointEmbeddings(rows, self._text, self._endpoint(), self.dimensions)
            results = endpoint.compute(runner, lambda dimensions: self._check_space(rows, dimensions, runner))
        elif self.as_trained:
            results = self._pool_training_tokens(rows, runner)
        else:
            results = self._encode_texts(rows, runner)
        vectors, index, reasons = results
        dtype, num_bytes = self.columns()["embedding"], len(rows) * vectors.shape[1] * vectors.itemsize
        column = runner.column_files.write(
            f"{self.column_prefix}embedding",
            lambda: self._arrays(vectors, index, reasons),
            dtype,
            num_bytes,
            runner.processes,
        )
        return {"embedding": column, "embedding_reason": pa.array(reasons.tolist(), pa.string())}

    def _arrays(self, vectors: np.ndarray, index: np.ndarray, reasons: np.ndarray) -> Iterator[pa.Array]:
        """Yield the column in blocks of rows. Sets the reasons of rows whose vector is not finite."""
        for block in row_blocks(len(index), vectors.shape[1] * vectors.itemsize):
            rows = block.start + np.flatnonzero(index[block] >= 0)
            values = vectors[index[rows]]
            if self.normalize:
                values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
            with np.errstate(over="ignore"):
                values = values.astype(self.vectors_dtype, copy=False)
            is_finite = np.isfinite(values).all(axis=1)
            reasons[rows[~is_finite]] = "not_finite"
            is_valid = np.zeros(block.stop - block.start, dtype=bool)
            is_valid[rows[is_finite] - block.start] = True
            yield list_array(values[is_finite], is_valid)

    def _check_space(self, rows: TokenRows, dimensions: int, runner: ModelRunner) -> None:
        runner.column_files.check_space(len(rows), dimensions, self.vectors_dtype, runner.processes)

    def _pool_training_tokens(self, rows: TokenRows, runner: ModelRunner) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return vectors, float32; the index of each row's vector, -1 for none; and the reason of each row."""
        self._check_space(rows, _hidden_size(runner), runner)
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
        self._check_space(rows, dimensions, runner)
        length = resolve_max_length(
            runner.model, rows.tokenizer, self.max_length, "Embedding", rows.settings.max_length
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

    def __init__(self, runner: ModelRunner, tokenizer: Any, max_length: int, pooling: str):
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
        total = states.float().masked_fill(~mask[..., None], 0.0).sum(dim=1)
        return total / lengths[:, None]


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
