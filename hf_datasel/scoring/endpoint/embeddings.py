"""Vectors of rows' texts from an endpoint: each distinct text is asked about once, and kept in the score store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import ConfigError, ScoreError
from hf_datasel.formats import Row
from hf_datasel.scoring.base import null_counts
from hf_datasel.scoring.endpoint.client import Endpoint
from hf_datasel.scoring.endpoint.requests import embed
from hf_datasel.scoring.runner import ModelContext

if TYPE_CHECKING:
    from hf_datasel.tokens import TokenRows

__all__ = ["EndpointVectors", "check_settings"]

_AT_ONCE = 2048
"""Texts that are asked about before their vectors are kept."""
_FINAL = ["", "refused"]
"""Outcomes that are kept in the score store, by their code behind the vector."""
_LOCAL = ("revision", "dtype", "model_init_kwargs", "max_length", "pooling", "as_trained")
"""Settings of a model that runs here."""
_REMOTE = ("dimensions", "concurrency", "api_key_env")
"""Settings of an endpoint, besides where it is."""
_WIDTH_KEY = np.ones((1, 16), dtype=np.uint8)


def check_settings(changed: Mapping[str, Any]) -> None:
    """Refuse settings that do nothing: those of an endpoint without one, and those of a model here beside one.

    Args:
        changed: the settings that are not at their defaults.

    Raises:
        ConfigError: names the first of them, or `dimensions` that cannot be.
    """
    remote = "base_url" in changed
    for name in _LOCAL if remote else _REMOTE:
        if name in changed and remote:
            raise ConfigError(
                f"Embedding(base_url=..., {name}={changed[name]!r}): the server decides how its model is loaded and "
                f"run. Leave {name} out."
            )
        if name in changed:
            raise ConfigError(f"Embedding({name}={changed[name]!r}) is for an endpoint: it needs base_url.")
    dimensions = changed.get("dimensions", 1)
    if type(dimensions) is not int or dimensions < 1:
        raise ConfigError(f"Embedding(dimensions={dimensions!r}): it has to be an int above 0, or None.")


class EndpointVectors:
    """The vectors that an endpoint gives to the texts of some rows.

    Args:
        rows: which rows.
        text: makes a row's text; a row without one gets the reason `empty_text`.
        endpoint: what is asked.
        dimensions: of the vectors, where the model can shorten them.
    """

    def __init__(self, rows: TokenRows, text: Callable[[Row], str], endpoint: Endpoint, dimensions: int | None = None):
        self.rows, self.text = rows, text
        self.endpoint, self.dimensions = endpoint, dimensions
        self.reasons = np.full(len(rows), "", dtype=object)
        self._number = np.full(len(rows), -1, dtype=np.int64)  # of each row's text among the distinct ones
        self._read()

    def _read(self) -> None:
        """Find the distinct texts: their digests, the row where each stands first, and its length."""
        numbers: dict[bytes, int] = {}
        first, lengths = list[int](), list[int]()
        for at, row in enumerate(self.rows.pool.rows(self.rows.indices)):
            text = self.text(row)
            self.reasons[at] = row.reason or ("" if text.strip() else "empty_text")
            if self.reasons[at]:
                continue
            digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
            self._number[at] = numbers.setdefault(digest, len(numbers))
            if len(numbers) > len(first):
                first.append(at)
                lengths.append(len(text))
        self._first, self._lengths = np.array(first, dtype=np.int64), np.array(lengths, dtype=np.int64)
        self._digests = np.frombuffer(b"".join(numbers), dtype=np.uint8).reshape(-1, 16)

    def found(
        self, context: ModelContext, check: Callable[[int], object]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Vectors, float32; the row of each; and "" or the reason for each row.

        Args:
            context: of the scoring call, with its score store; its model is not used.
            check: takes the numbers of a vector as soon as they are known, and raises where these are too many.

        Raises:
            ScoreError: as `Endpoint.ask`, or the vectors are not as long as they should be.
        """
        found = np.empty((0, 1), dtype=np.float32)
        if len(self._first):
            width, found = self._width(context)
            check(width)
            if width:
                found = self._vectors(context, width)
            self.endpoint.log_summary()
            self.endpoint.raise_failure()
        outcomes = ["no_answer" if np.isnan(code) else _FINAL[int(code)] for code in found[:, -1]]
        held = np.flatnonzero(self._number >= 0)
        self.reasons[held] = [outcomes[number] for number in self._number[held]]
        owner = np.flatnonzero(self.reasons == "")
        return found[self._number[owner], :-1], owner, self.reasons

    def _width(self, context: ModelContext) -> tuple[int, np.ndarray]:
        """The numbers of a vector: of the shortest text that gets one, unless they are known.

        0 where no text gets any; what came of each text is then the second value, of shape (texts, 1).
        """
        codes = np.zeros((len(self._first), 1), dtype=np.float32)
        if self.dimensions is not None:
            return self.dimensions, codes

        def compute(_: np.ndarray) -> list[list[float]]:
            for number in np.argsort(self._lengths, kind="stable"):
                vectors, reasons = self._embed(number[None])
                if not reasons[0]:
                    return [[vectors.shape[1]]]
                codes[number] = _code(reasons[0])
            return [[np.nan]]

        kept = context.without_model()
        kept.progress = False
        one = np.ones(1, dtype=np.int64)
        [[width]] = kept.run(
            compute, one, 1, label="width", keys=lambda: _WIDTH_KEY, spec=self._spec("endpoint_width")
        )
        return (0, context.ranks.total(codes)) if np.isnan(width) else (int(width), codes)

    def _vectors(self, context: ModelContext, width: int) -> np.ndarray:
        """The vectors of the distinct texts, and behind each what came of it: all NaN where to ask again."""
        nulls = null_counts(self.reasons)

        def compute(batch: np.ndarray) -> np.ndarray:
            vectors, reasons = self._embed(batch)
            nulls.update(reason for reason in reasons if reason)
            found = np.full((len(batch), width + 1), np.nan, dtype=np.float32)
            if vectors.shape[1]:
                self._check_width(vectors.shape[1], width)
                found[:, :-1] = vectors
            found[:, -1] = [_code(reason) for reason in reasons]
            return found

        return context.without_model().run(
            compute,
            np.ones(len(self._first), dtype=np.int64),
            width + 1,
            label="embedding",
            keys=lambda: self._digests,
            spec=self._spec("endpoint_vectors"),
            dtype=np.float32,
            batch_size=_AT_ONCE,
            nulls=nulls,
        )

    def _embed(self, numbers: np.ndarray) -> tuple[np.ndarray, list[str]]:
        read = self.rows.pool.rows(self.rows.indices[self._first[numbers]])
        return embed(self.endpoint, [self.text(row) for row in read], dimensions=self.dimensions)

    def _check_width(self, found: int, wanted: int) -> None:
        if found != wanted:
            hint = (
                f"it has given vectors of {wanted:,} before. Is it another model now? Then use another store."
                if self.dimensions is None
                else f"dimensions={wanted} was asked for. Leave it out where a model cannot shorten its vectors."
            )
            raise ScoreError(f"{self.endpoint.place} gives vectors of {found:,} numbers, and {hint}")

    def _spec(self, computed: str) -> dict[str, Any]:
        where = {"model": self.endpoint.model, "base_url": self.endpoint.base_url, "dimensions": self.dimensions}
        return {"computed": computed, "version": 1, **where}


def _code(reason: str) -> float:
    return _FINAL.index(reason) if reason in _FINAL else np.nan
