"""Embeddings of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ConfigError, check_option
from hf_datasel.scoring.base import Columns
from hf_datasel.scoring.row_vectors import RowVectors, VectorScore
from hf_datasel.scoring.runner import ModelRunner
from hf_datasel.scoring.vector_files import list_array, row_blocks
from hf_datasel.tokens import TokenRows

__all__ = ["Embedding"]

_VECTORS_DTYPES = {"float32": pa.float32(), "float16": pa.float16()}


@dataclass(frozen=True)
class Embedding(VectorScore):
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
        pooling: `"mean"` over all tokens except padding; `"weighted_mean"`, in which token i of n has the weight i /
            (1 + ... + n), as in RDS+ and SGPT (2202.08904); or the state of the `"last"` token.
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

    normalize: bool = field(default=True, kw_only=True)
    vectors_dtype: Literal["float32", "float16"] = field(default="float32", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option(f"Embedding(vectors_dtype={self.vectors_dtype!r})", self.vectors_dtype, _VECTORS_DTYPES)
        if type(self.normalize) is not bool:
            raise ConfigError(f"Embedding(normalize={self.normalize!r}): it has to be True or False.")

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        return {"embedding": pa.list_(_VECTORS_DTYPES[self.vectors_dtype]), "embedding_reason": pa.string()}

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        results = self.row_vectors(rows, runner)
        vectors, reasons = results.vectors, results.reasons
        dtype, num_bytes = self.columns()["embedding"], len(rows) * vectors.shape[1] * vectors.itemsize
        column = runner.column_files.write(
            f"{self.column_prefix}embedding", lambda: self._arrays(results), dtype, num_bytes, runner.processes
        )
        return {"embedding": column, "embedding_reason": pa.array(reasons.tolist(), pa.string())}

    def _arrays(self, results: RowVectors) -> Iterator[pa.Array]:
        """Yield the column in blocks of rows. Sets the reasons of rows whose vector is not finite."""
        vectors, index, reasons = results
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

    def check_space(self, rows: TokenRows, dimensions: int, runner: ModelRunner) -> None:
        """Raise an error if there is no space for the vectors and their column on the disk."""
        runner.column_files.check_space(len(rows), dimensions, self.vectors_dtype, runner.processes)
