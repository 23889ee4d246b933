"""A vector for each row: where its text lies among others."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch

from hf_datasel.errors import ConfigError, FormatError, ModelError, ScoreError, did_you_mean
from hf_datasel.formats import Batch, Part, Pool, Row
from hf_datasel.scores.base import Columns, ModelScore
from hf_datasel.scores.context import ModelContext
from hf_datasel.scores.models import load_tokenizer, model_identity
from hf_datasel.scores.nll import plan_batches
from hf_datasel.scores.quiet import inference, preserved_rng
from hf_datasel.tokens import TokenRows

if TYPE_CHECKING:
    from datasets import Dataset, Features

__all__ = ["Embedding"]

_ROWS_AT_ONCE = 10_000
"""Rows whose tokens are held in memory."""
_OPTIONS = {"part": ["prompt", "response", "both"], "pooling": ["mean", "last"]}


@dataclass(frozen=True)
class Embedding(ModelScore):
    """The last hidden states of a model over a row's text, pooled into one vector.

    A named model is loaded without a head: a sentence encoder such as `sentence-transformers/all-MiniLM-L6-v2`, or a
    causal LM. Without a name it is the causal LM of the round, or that of `hf_datasel.score`. The text goes in as it
    is, with the tokenizer's own special tokens and without a chat template, and what is beyond `max_length` is cut
    off. Layers that sentence-transformers puts on top of its models, such as a projection, are not run.

    Reads any supported row format. Writes `embedding` (list of float32) and `embedding_reason` ("" for a row with a
    vector). Cost: one forward pass without the LM head.

    >>> Embedding(part="prompt").columns()
    {'embedding': ListType(list<item: float>), 'embedding_reason': DataType(string)}
    """

    max_length: int | None = field(default=None, kw_only=True)
    """Tokens a text is cut to; None is what training uses, and 1,024 outside a trainer, or what the model takes where
    that is less."""
    part: Part = field(default="both", kw_only=True)
    """Of the row; both are joined by a newline."""
    pooling: Literal["mean", "last"] = field(default="mean", kw_only=True)
    """The mean over all tokens but the padding, or the state of the last token."""
    normalize: bool = field(default=True, kw_only=True)
    """Scale each vector to length 1."""

    convention: ClassVar[str] = "text"
    """Texts are embedded as they are and not as training cuts rows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, options in _OPTIONS.items():
            value = getattr(self, name)
            if value not in options:
                hint = did_you_mean(str(value), options)
                raise ConfigError(f"Embedding({name}={value!r}): it has to be one of {options}.{hint}")
        if type(self.normalize) is not bool:
            raise ConfigError(f"Embedding(normalize={self.normalize!r}): it has to be True or False.")

    @property
    def needs_tokenizer(self) -> bool:
        return self.model is None  # a named one is loaded here, since it may be no causal LM

    def columns(self) -> dict[str, pa.DataType]:
        return {"embedding": pa.list_(pa.float32()), "embedding_reason": pa.string()}

    def features(self, dataset: Dataset) -> Features:
        from datasets import Features, List, Value

        kinds = {"embedding": List(Value("float32")), "embedding_reason": Value("string")}
        return Features({**dataset.features, **self._named(kinds)})

    def __call__(self, batch: Batch) -> dict[str, list[Any]]:
        """New columns for a batch: vectors as float32 arrays, None where there is none, and reasons."""
        columns = super().__call__(batch)
        name = f"{self.column_prefix}embedding"
        columns[name] = [None if each is None else np.asarray(each, dtype=np.float32) for each in columns[name]]
        return columns

    def _rows_of(self, dataset: Dataset) -> tuple[TokenRows, ModelContext | None]:
        if self.model is None:
            return super()._rows_of(dataset)
        context = ModelContext(_load_encoder(*self._source()), progress=False)
        tokenizer = load_tokenizer(self.model, self.revision)
        return TokenRows(Pool(dataset), tokenizer, self.token_settings()), context

    def _source(self) -> tuple[str, str | None, str, str]:
        assert self.model is not None
        return self.model, self.revision, self.dtype, model_identity(self.model, self.revision)

    def compute(self, rows: TokenRows, context: ModelContext | None) -> Columns:
        if rows.pool.format == "text" and self.part != "both":
            raise FormatError(
                f"Rows with only a text column have no {self.part} to embed. Embedding(part='both') takes all of it."
            )
        tokenizer = rows.tokenizer
        if context is None:
            assert self.model is not None
            context = ModelContext(_read_encoder(*self._source()))
            tokenizer = load_tokenizer(self.model, self.revision)
        encoder = _Encoder(context, tokenizer, self._length(tokenizer, context.model, rows), self.pooling)
        vectors, reasons = self._vectors(rows, encoder, context)
        return {"embedding": _list_array(vectors, reasons == ""), "embedding_reason": pa.array(reasons, pa.string())}

    def _length(self, tokenizer: Any, model: Any, rows: TokenRows) -> int:
        """Tokens that a text is cut to."""
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        room = int(min(tokenizer.model_max_length, positions or tokenizer.model_max_length))
        if self.max_length is not None and self.max_length > room:
            raise ModelError(
                f"Embedding(max_length={self.max_length}) is more than the {room:,} tokens that "
                f"{model.config.name_or_path!r} takes. Lower it, or leave it out."
            )
        return min(self.max_length or rows.settings.max_length or room, room)

    def _vectors(self, rows: TokenRows, encoder: _Encoder, context: ModelContext) -> tuple[np.ndarray, np.ndarray]:
        """Float32 of shape (rows, dimensions), zeros where there is a reason, and the reasons."""
        from tqdm.auto import tqdm

        vectors = np.zeros((len(rows), 0), dtype=np.float32)
        reasons = np.full(len(rows), "", dtype=object)
        hidden = None if context.progress else True  # None: off where stderr is no terminal
        with tqdm(total=len(rows), desc="embedding", unit="row", disable=hidden) as bar, inference(context.model):
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                read = list(rows.pool.rows(rows.indices[start : start + _ROWS_AT_ONCE]))
                texts = [self._text(row) for row in read]
                ids = encoder.tokens(texts)
                for at, (row, text, tokens) in enumerate(zip(read, texts, ids, strict=True), start):
                    reasons[at] = row.reason or ("" if text.strip() and len(tokens) else "empty_text")
                usable = start + np.flatnonzero(reasons[start : start + len(read)] == "")
                bar.update(len(read) - len(usable))
                for batch in plan_batches(np.array([len(ids[at - start]) for at in usable]), context.tokens_per_batch):
                    pooled = encoder.pooled([ids[at - start] for at in usable[batch]])
                    pooled = torch.nn.functional.normalize(pooled, dim=-1) if self.normalize else pooled
                    if not vectors.shape[1]:
                        vectors = _room_for(len(rows), pooled.shape[1])
                    vectors[usable[batch]] = pooled.cpu().numpy()
                    bar.update(len(batch))
        reasons[(reasons == "") & ~np.isfinite(vectors).all(axis=1)] = "not_finite"
        return vectors, reasons

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
        self.device = model.get_input_embeddings().weight.device
        self.autocast = context.autocast
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
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
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


def _room_for(rows: int, dimensions: int) -> np.ndarray:
    most = np.iinfo(np.int32).max // dimensions
    if rows > most:
        raise ScoreError(
            f"{rows:,} vectors of {dimensions:,} numbers are more than one column can hold: embed at most {most:,} "
            "rows at once, with dataset.select(...) or in map."
        )
    return np.zeros((rows, dimensions), dtype=np.float32)


def _list_array(vectors: np.ndarray, valid: np.ndarray) -> pa.Array:
    """Rows as lists, null where they are not valid."""
    offsets = np.concatenate([[0], np.cumsum(valid * vectors.shape[1])]).astype(np.int32)
    values = pa.array(vectors[valid].reshape(-1), pa.float32())
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, mask=pa.array(~valid))


@functools.lru_cache(maxsize=1)
def _load_encoder(model: str, revision: str | None, dtype: str, identity: str) -> Any:
    """As `_read_encoder`, for `Dataset.map`: the last one is kept, since every batch asks for it again."""
    return _read_encoder(model, revision, dtype, identity)


def _read_encoder(model: str, revision: str | None, dtype: str, identity: str) -> Any:
    """The model without a head, on the first accelerator, else the CPU, in evaluation mode.

    Raises:
        ModelError: there is none, it cannot be loaded, or it is of a kind that cannot be used.
    """
    from safetensors import SafetensorError
    from transformers import AutoModel
    from transformers.utils import find_adapter_config_file

    commit = None if identity.startswith("files:") else identity.rsplit("@", 1)[-1]
    if find_adapter_config_file(model, revision=commit) is not None:
        raise ModelError(
            f"Embedding({model!r}) is an adapter, and it is made for a model with its head. Pass it as the model of "
            "hf_datasel.score, or merge it."
        )
    try:
        with preserved_rng():  # weights that the files lack are drawn
            loaded = AutoModel.from_pretrained(model, revision=commit, dtype=dtype)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"The model {model!r} cannot be loaded: {error}") from error
    if loaded.config.is_encoder_decoder:
        raise ModelError(f"{model!r} is an encoder-decoder model. Embedding takes an encoder or a causal LM.")
    if getattr(loaded, "hf_device_map", None) is None and not getattr(loaded, "is_quantized", False):
        loaded = loaded.to(torch.accelerator.current_accelerator() or "cpu")
    return loaded.eval()
