"""Embeddings of the texts of rows from an endpoint; each distinct text is requested once, and stored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import ConfigError, ScoreError
from hf_datasel.formats import Row
from hf_datasel.scoring.base import null_counts
from hf_datasel.scoring.endpoint.client import Endpoint
from hf_datasel.scoring.endpoint.limits import check_endpoint_settings
from hf_datasel.scoring.endpoint.requests import embed
from hf_datasel.scoring.runner import ModelRunner

if TYPE_CHECKING:
    from hf_datasel.tokens import TokenRows

__all__ = ["EndpointEmbeddings", "check_settings"]

_TEXTS_PER_REQUEST = 32
_STORED_REASONS = ["", "refused"]
"""Reasons that are stored, as their index after the numbers of the embedding; others are requested again."""
_LOCAL = ("revision", "dtype", "model_init_kwargs", "max_length", "pooling", "as_trained")
"""Settings of a local model."""
_REMOTE = ("dimensions", "concurrency", "limits", "api_key_env")
"""Settings of an endpoint, other than its URL."""
_DIMENSIONS_KEY = np.ones((1, 16), dtype=np.uint8)


def check_settings(name: str, changed: Mapping[str, Any]) -> None:
    """Raise an error for settings of an endpoint without one, and for settings of a local model with an endpoint.

    Args:
        name: Name of the score.
        changed: Settings that differ from their defaults.

    Raises:
        ConfigError: A setting has no effect, or `dimensions` is invalid.
    """
    check_endpoint_settings(name, changed, _LOCAL, _REMOTE)
    dimensions = changed.get("dimensions", 1)
    if type(dimensions) is not int or dimensions < 1:
        raise ConfigError(f"{name}(dimensions={dimensions!r}): it has to be an int above 0, or None.")


class EndpointEmbeddings:
    """Embeddings that an endpoint computes for the texts of some rows.

    Args:
        rows: The rows.
        text: Function that returns the text of a row; a row with an empty text has the reason `empty_text`.
        endpoint: The endpoint.
        dimensions: Number of dimensions of the embeddings, for models that can shorten them.
    """

    def __init__(self, rows: TokenRows, text: Callable[[Row], str], endpoint: Endpoint, dimensions: int | None = None):
        self.rows, self.text = rows, text
        self.endpoint, self.dimensions = endpoint, dimensions
        self.reasons = np.full(len(rows), "", dtype=object)
        self._text_ids = np.full(len(rows), -1, dtype=np.int64)  # index of each row's text among the distinct ones
        self._find_distinct()

    def _find_distinct(self) -> None:
        """Find the distinct texts: their digests, the first row of each, and its length."""
        text_ids: dict[bytes, int] = {}
        first_rows, lengths = list[int](), list[int]()
        for index, row in enumerate(self.rows.pool.rows(self.rows.indices)):
            text = self.text(row)
            self.reasons[index] = row.reason or ("" if text.strip() else "empty_text")
            if self.reasons[index]:
                continue
            digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
            self._text_ids[index] = text_ids.setdefault(digest, len(text_ids))
            if len(text_ids) > len(first_rows):
                first_rows.append(index)
                lengths.append(len(text))
        self._first_rows, self._lengths = np.array(first_rows, dtype=np.int64), np.array(lengths, dtype=np.int64)
        self._digests = np.frombuffer(b"".join(text_ids), dtype=np.uint8).reshape(-1, 16)

    def compute(
        self, runner: ModelRunner, check: Callable[[int], object]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compute the embeddings.

        Args:
            runner: Runner of the scoring call, with its score store; its model is not used.
            check: Function of the number of dimensions, called as soon as it is known; raises if there are too many.

        Returns:
            The embeddings of the distinct texts, float32; the index of each row's embedding, -1 for none; and the
            reason of each row, "" if it has an embedding.

        Raises:
            ScoreError: As in `Endpoint.answers`, or the embeddings have a wrong number of dimensions.
        """
        results = np.empty((0, 1), dtype=np.float32)
        if len(self._first_rows):
            dimensions, results = self._num_dimensions(runner)
            check(dimensions)
            if dimensions:
                results = self._embeddings(runner, dimensions)
            self.endpoint.log_summary()
            self.endpoint.raise_failure()
        reasons = ["no_answer" if np.isnan(code) else _STORED_REASONS[int(code)] for code in results[:, -1]]
        has_text = np.flatnonzero(self._text_ids >= 0)
        self.reasons[has_text] = [reasons[text_id] for text_id in self._text_ids[has_text]]
        return results[:, :-1], np.where(self.reasons == "", self._text_ids, -1), self.reasons

    def _num_dimensions(self, runner: ModelRunner) -> tuple[int, np.ndarray]:
        """Return the number of dimensions: from the store, or of the shortest text that has an embedding.

        It is 0 if no text has one; the second value then holds the reason code of each text, of shape (texts, 1).
        """
        codes = np.zeros((len(self._first_rows), 1), dtype=np.float32)
        if self.dimensions is not None:
            return self.dimensions, codes

        def compute(_: np.ndarray) -> list[list[float]]:
            for text_id in np.argsort(self._lengths, kind="stable"):
                [answer] = self._embed(text_id[None])
                vectors, reason = answer[1:]
                if vectors is not None:
                    return [[vectors.shape[1]]]
                codes[text_id] = _code(reason)
            return [[np.nan]]

        silent = runner.without_model()
        silent.progress = False
        one = np.ones(1, dtype=np.int64)
        [[dimensions]] = silent.run(
            compute, one, 1, label="width", keys=lambda: _DIMENSIONS_KEY, spec=self._spec("endpoint_width")
        )
        return (0, runner.processes.all_reduce(codes)) if np.isnan(dimensions) else (int(dimensions), codes)

    def _embeddings(self, runner: ModelRunner, dimensions: int) -> np.ndarray:
        """Return the embedding and the reason code of each distinct text; all NaN if it is to be requested again."""
        nulls, request_runner = null_counts(self.reasons), runner.without_model()

        def compute(batch: np.ndarray) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
            counted = self.endpoint.spent
            for part, vectors, reason in self._embed(batch):
                spent = self.endpoint.spent
                request_runner.count_tokens(spent - counted)
                counted = spent
                results = np.full((len(part), dimensions + 1), np.nan, dtype=np.float32)
                results[:, -1] = _code(reason)
                if vectors is None:
                    nulls[reason] += len(part)
                else:
                    self._check_dimensions(vectors.shape[1], dimensions)
                    results[:, :-1] = vectors
                yield batch[part], results

        return request_runner.run_as_completed(
            compute,
            len(self._first_rows),
            dimensions + 1,
            label="embedding",
            keys=lambda: self._digests,
            spec=self._spec("endpoint_vectors"),
            dtype=np.float32,
            nulls=nulls,
        )

    def _embed(self, text_ids: np.ndarray) -> Iterator[tuple[list[int], np.ndarray | None, str]]:
        rows = self.rows.pool.rows(self.rows.indices[self._first_rows[text_ids]])
        return embed(self.endpoint, [self.text(row) for row in rows], _TEXTS_PER_REQUEST, self.dimensions)

    def _check_dimensions(self, received: int, expected: int) -> None:
        if received != expected:
            hint = (
                f"earlier ones have {expected:,}. Is it another model now? Then use another store."
                if self.dimensions is None
                else f"dimensions={expected} was requested. Omit it if the model cannot shorten its vectors."
            )
            raise ScoreError(f"{self.endpoint.name} gives vectors of {received:,} numbers, and {hint}")

    def _spec(self, computed: str) -> dict[str, Any]:
        endpoint, dimensions = self.endpoint, self.dimensions
        settings = {"model": endpoint.model, "base_url": endpoint.base_url, "dimensions": dimensions}
        return {"computed": computed, "version": 1, **settings}


def _code(reason: str) -> float:
    return _STORED_REASONS.index(reason) if reason in _STORED_REASONS else np.nan
