"""A vector for each row: where its text lies among others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import torch

from hf_datasel.errors import ConfigError, FormatError, ScoreError, did_you_mean
from hf_datasel.formats import Batch, Part, Row
from hf_datasel.scoring.base import Columns, ModelScore, Score, null_counts
from hf_datasel.scoring.endpoint.client import Endpoint
from hf_datasel.scoring.endpoint.embeddings import EndpointVectors, check_settings
from hf_datasel.scoring.logprobs import PooledStates
from hf_datasel.scoring.models import Kind, read_config
from hf_datasel.scoring.runner import ModelContext
from hf_datasel.tokens import Sequences, TokenRows
from hf_datasel.tokens.prompts import window
from hf_datasel.tokens.sequences import Ragged, ragged

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Embedding"]

_ROWS_AT_ONCE = 10_000
"""Rows whose text is held in memory."""
_OPTIONS = {"part": ["prompt", "response", "both"], "pooling": ["mean", "last"]}


@dataclass(frozen=True)
class Embedding(ModelScore):
    """The last hidden states of a model over a row's text, pooled into one vector.

    A named model is loaded without a head: a sentence encoder such as `sentence-transformers/all-MiniLM-L6-v2`, or a
    causal LM. Without a name it is the causal LM of the round, or that of `hf_datasel.score`. The text goes in as it
    is, with the tokenizer's own special tokens and without a chat template, and what is beyond `max_length` is cut
    off. Layers that sentence-transformers puts on top of its models, such as a projection, are not run.

    With `as_trained` a causal LM reads the row exactly as training does, chat template and all, and `part` says which
    of those tokens are pooled: the forward pass is then the one that `Loss` and `IFD` need, and is shared with them.

    With `base_url` the vectors are those of an OpenAI-compatible endpoint (vLLM, text-embeddings-inference, OpenAI),
    where `model` is a name. Nothing is loaded here, each distinct text is sent once, and what a text is cut to is the
    server's business. The token is that of `OPENAI_API_KEY`, or of what `api_key_env` names. Rows without a vector
    then are `refused` (the endpoint does not take the text, which may be too long), or `no_answer`; with a score store
    a further run asks only about the latter, and about those that it had not come to.

    Reads any supported row format. Writes `embedding` (list of float32) and `embedding_reason` ("" for a row with a
    vector). Cost: one forward pass without the LM head, or none of its own with `as_trained`.
    Reference: the last token's state over prompt and completion is what Yu et al. 2024 (2409.11378) take of Llama 2;
    Wu et al. 2023 (2311.08182, DiverseEvol) take the mean over all tokens of the current model.

    >>> Embedding(part="prompt").columns()
    {'embedding': ListType(list<item: float>), 'embedding_reason': DataType(string)}
    """

    max_length: int | None = field(default=None, kw_only=True)
    """Tokens a text is cut to; None is what training uses, and 1,024 outside a trainer, or what the model takes where
    that is less."""
    part: Part = field(default="both", kw_only=True)
    """Of the row; as text, both are joined by a newline."""
    pooling: Literal["mean", "last"] = field(default="mean", kw_only=True)
    """The mean over all tokens but the padding, or the state of the last token."""
    normalize: bool = field(default=True, kw_only=True)
    """Scale each vector to length 1."""
    as_trained: bool = field(default=False, kw_only=True)
    """Read the row with the tokens that training gives it. Takes a causal LM."""
    base_url: str | None = field(default=None, kw_only=True)
    """Address of an OpenAI-compatible endpoint, such as `http://localhost:8000/v1`; None runs the model here."""
    dimensions: int | None = field(default=None, kw_only=True)
    """Numbers of a vector, where the endpoint's model can shorten them; None is its own."""
    concurrency: int = field(default=8, kw_only=True)
    """Requests to the endpoint under way at once, at most, in each process: the rows are dealt to all of them."""
    api_key_env: str | None = field(default=None, kw_only=True)
    """Environment variable with the endpoint's token."""

    @property
    def kind(self) -> Kind:
        """A model is loaded without a head, unless its pass is shared with scores that need one."""
        return "causal" if self.as_trained else "encoder"

    @property
    def convention(self) -> str:
        """Texts are embedded as they are, and are not cut as training cuts rows."""
        return "sft" if self.as_trained else "text"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, options in _OPTIONS.items():
            value = getattr(self, name)
            if value not in options:
                hint = did_you_mean(str(value), options)
                raise ConfigError(f"Embedding({name}={value!r}): it has to be one of {options}.{hint}")
        if type(self.normalize) is not bool:
            raise ConfigError(f"Embedding(normalize={self.normalize!r}): it has to be True or False.")
        changed = {each.name for each in fields(self) if getattr(self, each.name) != each.default}
        check_settings({name: value for name, value in self.settings().items() if name in changed})
        if self.base_url is not None:
            self._endpoint()

    def _endpoint(self) -> Endpoint:
        model: Any = self.model  # None is refused there
        return Endpoint(model, self.base_url, api_key_env=self.api_key_env, concurrency=self.concurrency)

    @property
    def needs_tokenizer(self) -> bool:
        return self.base_url is None

    def spec(self) -> dict[str, Any]:
        return super().spec() if self.base_url is None else {**Score.spec(self), "resolved_model": None}

    def _identity(self) -> str:
        return super()._identity() if self.base_url is None else Score._identity(self)

    def _rows_of(self, dataset: Dataset) -> tuple[TokenRows, ModelContext]:
        return super()._rows_of(dataset) if self.base_url is None else Score._rows_of(self, dataset)

    def columns(self) -> dict[str, pa.DataType]:
        return {"embedding": pa.list_(pa.float32()), "embedding_reason": pa.string()}

    def __call__(self, batch: Batch) -> dict[str, list[Any]]:
        """New columns for a batch: vectors as float32 arrays, None where there is none, and reasons."""
        columns = super().__call__(batch)
        name = f"{self.column_prefix}embedding"
        columns[name] = [None if each is None else np.asarray(each, dtype=np.float32) for each in columns[name]]
        return columns

    def announce(self, rows: TokenRows, context: ModelContext) -> None:
        if self.as_trained:
            context.announce(rows.training().conditional, PooledStates(self.part, self.pooling))

    def check_inputs(self, rows: TokenRows, context: ModelContext) -> None:
        self._check_format(rows)
        super().check_inputs(rows, context)
        if self.base_url is not None:
            self._endpoint().check_token()
        elif context.loading is not None:
            read_config(context.loading)

    def _check_format(self, rows: TokenRows) -> None:
        if rows.pool.format == "text" and (self.part != "both" or self.as_trained):
            raise FormatError(
                f"Rows with only a text column have no {'response' if self.as_trained else self.part} to embed. "
                "Embedding(part='both') takes all of the text."
            )

    def compute(self, rows: TokenRows, context: ModelContext) -> Columns:
        self._check_format(rows)
        if self.base_url is not None:
            vectors = EndpointVectors(rows, self._text, self._endpoint(), self.dimensions)
            found, owner, reasons = vectors.found(context, lambda dimensions: _check_room(len(rows), dimensions))
        else:
            found, owner, reasons = self._states(rows, context) if self.as_trained else self._encoded(rows, context)
        if self.normalize:
            lengths = np.linalg.norm(found, axis=1, keepdims=True)
            found /= np.maximum(lengths, 1e-12)
        reasons[owner[~np.isfinite(found).all(axis=1)]] = "not_finite"
        kept = reasons[owner] == ""
        return {
            "embedding": _list_array(found[kept], owner[kept], len(rows)),
            "embedding_reason": pa.array(reasons.tolist(), pa.string()),
        }

    def _states(self, rows: TokenRows, context: ModelContext) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Vectors of shape (sequences, dimensions), the row of each, and the reason of each row."""
        _check_room(len(rows), _hidden_size(context))
        tokens = rows.training()
        sequences: Sequences = tokens.conditional
        reduction = PooledStates(self.part, self.pooling)
        found = context.reduced(sequences, reduction, "embedding", null_counts(tokens.reasons)).copy()
        reasons = tokens.reasons.astype(object)
        if self.part == "prompt":
            reasons[sequences.owner[_first_scored(sequences) == 0]] = "empty_text"
        return found, sequences.owner, reasons

    def _encoded(self, rows: TokenRows, context: ModelContext) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same, of the rows' texts as they are."""
        dimensions = _hidden_size(context)
        _check_room(len(rows), dimensions)
        length = window(context.model, rows.tokenizer, self.max_length, "Embedding", rows.settings.max_length)
        encoder = _Encoder(context, rows.tokenizer, length, self.pooling)
        reasons = np.full(len(rows), "", dtype=object)
        texts = Ragged(self._tokens(rows, encoder, reasons))
        found = context.run(
            lambda batch: encoder.pooled([texts[at] for at in batch]).cpu().numpy(),
            texts.lengths,
            dimensions,
            label="embedding",
            keys=texts.digests,
            spec={"computed": "text_states", "version": 1, "pooling": self.pooling},
            dtype=np.float32,
            nulls=null_counts(reasons),
        )
        return found, np.flatnonzero(reasons == ""), reasons

    def _tokens(self, rows: TokenRows, encoder: _Encoder, reasons: np.ndarray) -> Iterator[list[np.ndarray]]:
        """The tokens of each row that has a text, part by part; the reasons of the others are put in."""
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            read = list(rows.pool.rows(rows.indices[start : start + _ROWS_AT_ONCE]))
            texts = [self._text(row) for row in read]
            ids = encoder.tokens(texts)
            for at, (row, text, tokens) in enumerate(zip(read, texts, ids, strict=True), start):
                reasons[at] = row.reason or ("" if text.strip() and len(tokens) else "empty_text")
            yield [tokens for at, tokens in enumerate(ids, start) if reasons[at] == ""]

    def _text(self, row: Row) -> str:
        if row.reason:
            return ""
        parts = [row.prompt, row.response] if self.part == "both" else [row.text(self.part)]
        return "\n".join(part for part in parts if part.strip())


class _Encoder:
    """Texts to pooled states, with one model and its tokenizer."""

    def __init__(self, context: ModelContext, tokenizer: Any, max_length: int, pooling: str):
        model = context.model.get_base_model() if hasattr(context.model, "get_base_model") else context.model
        self.backbone = model.base_model  # itself, where there is no head
        self.device = context.device
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.pooling = pooling
        padding = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self.padding = next(each for each in padding if each is not None)

    def tokens(self, texts: list[str]) -> list[np.ndarray]:
        """Ids of each text, cut to `max_length` with its special tokens kept."""
        with _settings_kept(self.tokenizer):
            ids = self.tokenizer(texts, truncation=True, max_length=self.max_length, padding=False)["input_ids"]
        return [np.asarray(each, dtype=np.int64) for each in ids]

    def pooled(self, batch: list[np.ndarray]) -> torch.Tensor:
        """One forward pass, right-padded: float32 of shape (batch, dimensions)."""
        lengths = torch.tensor([len(each) for each in batch])
        ids = np.full((len(batch), int(lengths.max())), self.padding, dtype=np.int64)
        for row, each in enumerate(batch):
            ids[row, : len(each)] = each
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
def _settings_kept(tokenizer: Any) -> Iterator[None]:
    """Put the truncation and padding of a fast tokenizer back: they are part of its identity."""
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
    """Where the first response of each sequence starts, int64; 0 where nothing stands before it."""
    view = sequences.data.select_columns([sequences.spans]).with_format("arrow")
    tables = view.iter(batch_size=_ROWS_AT_ONCE)
    starts = [[each[0] for each in ragged(table, sequences.spans)] for table in tables]
    return np.concatenate([np.empty(0, dtype=np.int64), *starts]).astype(np.int64)


def _hidden_size(context: ModelContext) -> int:
    size: int = context.model.config.get_text_config().hidden_size
    return size


def _check_room(rows: int, dimensions: int) -> None:
    """Refuse vectors that are more than one column can hold."""
    most = np.iinfo(np.int32).max // max(dimensions, 1)
    if rows > most:
        raise ScoreError(
            f"{rows:,} vectors of {dimensions:,} numbers are more than one column can hold: embed at most {most:,} "
            "rows at once, with dataset.select(...) or in map."
        )


def _list_array(vectors: np.ndarray, owner: np.ndarray, rows: int) -> pa.Array:
    """Each vector as the list of the row that it belongs to, float32; null for the other rows."""
    valid = np.zeros(rows, dtype=bool)
    valid[owner] = True
    ordered = vectors[np.argsort(owner, kind="stable")]
    offsets = np.concatenate([[0], np.cumsum(valid * vectors.shape[1])]).astype(np.int32)
    values = pa.array(ordered.reshape(-1), pa.float32())
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, mask=pa.array(~valid))
