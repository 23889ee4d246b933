"""Token sequences with scored positions, read in batches from Arrow."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence as SequenceOf
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hf_datasel._lazy import pc

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["RaggedArray", "Sequence", "Sequences", "highest_token_id", "list_column"]

_READ_BATCH_SIZE = 10_000


@dataclass(frozen=True)
class Sequence:
    """One token sequence.

    Args:
        ids: Token ids, int64 of shape (length,).
        scored: Positions of the scored tokens, each at least 1.
    """

    ids: np.ndarray
    scored: np.ndarray


def list_column(table: pa.Table, column: str) -> list[np.ndarray]:
    """Return a list column of an Arrow table as one numpy array per row, without creating Python lists."""
    lists = table.column(column).combine_chunks()
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    return np.split(lists.flatten().to_numpy(zero_copy_only=False), np.cumsum(lengths)[:-1])


def highest_token_id(column: pa.ChunkedArray) -> int:
    """Return the highest token id in a list column; -1 without tokens."""
    highest = (pc.max(chunk.flatten()).as_py() for chunk in column.chunks)
    return max((token_id for token_id in highest if token_id is not None), default=-1)


@dataclass(eq=False)
class Sequences:
    """Token sequences to score, in any order.

    Args:
        data: Dataset with a column of token ids and a column of scored spans, flattened as (start, stop, start, stop,
            ...), at least one span per row.
        owner: Output row of each row of `data`, int64 of shape (len(data),); after construction, of each sequence.
        ids: Name of the column of token ids.
        spans: Name of the column of spans.
        skip_first: Whether to exclude the first token of each span, because it has no context.
        prefix: If set, each span becomes a separate sequence after these tokens: the prior of a turn.
        without_prompt: Rows of `data` for which the prefix is its first token only, bool; none by default.

    Attributes:
        lengths: Number of tokens in each sequence, int64.
        scored: Number of tokens in the spans of each sequence, int64.
        highest_id: Highest token id; -1 without tokens.
    """

    data: Dataset
    owner: np.ndarray
    ids: str = "input_ids"
    spans: str = "spans"
    skip_first: bool = False
    prefix: np.ndarray | None = None
    without_prompt: np.ndarray | None = None
    lengths: np.ndarray = field(init=False)
    scored: np.ndarray = field(init=False)
    highest_id: int = field(init=False, default=-1)

    def __post_init__(self) -> None:
        self._view = self.data.select_columns([self.ids, self.spans]).with_format("arrow")
        rows, turns, lengths, scored = [], [], [], []
        start = 0
        for table in self._view.iter(batch_size=_READ_BATCH_SIZE):
            self.highest_id = max(self.highest_id, highest_token_id(table.column(self.ids)))
            n_spans = pc.list_value_length(table.column(self.spans)).to_numpy() // 2
            all_spans = np.concatenate(list_column(table, self.spans)).reshape(-1, 2).astype(np.int64)
            span_lengths = all_spans[:, 1] - all_spans[:, 0]
            if self.prefix is None:
                rows.append(np.arange(start, start + len(n_spans)))
                turns.append(np.zeros(len(n_spans), dtype=np.int64))
                lengths.append(pc.list_value_length(table.column(self.ids)).to_numpy().astype(np.int64))
                scored.append(np.add.reduceat(span_lengths, np.cumsum(n_spans) - n_spans))
            else:
                rows.append(np.repeat(np.arange(start, start + len(n_spans)), n_spans))
                turns.append(np.concatenate([np.arange(n) for n in n_spans]))
                sizes = [len(self._prefix(row)) for row in range(start, start + len(n_spans))]
                lengths.append(span_lengths + np.repeat(np.array(sizes, dtype=np.int64), n_spans))
                scored.append(span_lengths)
            start += len(n_spans)
        if self.prefix is not None:
            self.highest_id = max(self.highest_id, int(self.prefix.max(initial=-1)))
        empty = np.empty(0, dtype=np.int64)
        self._rows, self._turns = np.concatenate([empty, *rows]), np.concatenate([empty, *turns])
        self.lengths, self.scored = np.concatenate([empty, *lengths]), np.concatenate([empty, *scored])
        self.owner = self.owner[self._rows]

    def __len__(self) -> int:
        return len(self.lengths)

    def first_positions(self) -> np.ndarray:
        """Return the start of the first span of each row of `data`, int64."""
        if not len(self.data):  # an empty dataset has no column types
            return np.empty(0, dtype=np.int64)
        spans = self.data.select_columns([self.spans]).with_format("arrow")[:].column(self.spans)
        starts: np.ndarray = pc.list_element(spans, 0).cast("int64").to_numpy()
        return starts

    def fetch(self, indices: np.ndarray) -> list[Sequence]:
        """Read the sequences at these indices."""
        rows, inverse = np.unique(self._rows[indices], return_inverse=True)
        table = self._view[rows]
        ids = [row.astype(np.int64) for row in list_column(table, self.ids)]
        spans = [row.reshape(-1, 2) for row in list_column(table, self.spans)]
        if self.prefix is None:
            return [self._full_row(ids[row], spans[row]) for row in inverse]
        turns = zip(inverse, self._turns[indices], strict=True)
        return [self._turn(ids[row], spans[row][turn], self._prefix(rows[row])) for row, turn in turns]

    def digests(self) -> np.ndarray:
        """Return a digest of the tokens and scored positions of each sequence, uint8 of shape (sequences, 16)."""
        digests = bytearray()
        for start in range(0, len(self), _READ_BATCH_SIZE):
            for sequence in self.fetch(np.arange(start, min(start + _READ_BATCH_SIZE, len(self)))):
                digest = hashlib.blake2b(sequence.ids.astype("<i8").tobytes(), digest_size=16)
                digest.update(b"scored")
                digest.update(sequence.scored.astype("<i8").tobytes())
                digests += digest.digest()
        return np.frombuffer(bytes(digests), dtype=np.uint8).reshape(-1, 16)

    def _first(self, start: int) -> int:
        return max(start + 1, 1) if self.skip_first else max(start, 1)

    def _prefix(self, row: int) -> np.ndarray:
        assert self.prefix is not None
        return self.prefix if self.without_prompt is None or not self.without_prompt[row] else self.prefix[:1]

    def _full_row(self, ids: np.ndarray, spans: np.ndarray) -> Sequence:
        return Sequence(ids, np.concatenate([np.arange(self._first(start), stop) for start, stop in spans]))

    def _turn(self, ids: np.ndarray, span: np.ndarray, prefix: np.ndarray) -> Sequence:
        start, stop = span
        unscored = self._first(start) - start
        sequence = np.concatenate([prefix, ids[start:stop]])
        return Sequence(sequence, np.arange(len(prefix) + unscored, len(sequence)))


class RaggedArray:
    """Token ids of many texts in one flat array of int32.

    Args:
        parts: Batches of texts as token ids.

    Attributes:
        lengths: Number of tokens of each text, int64.
        highest_id: Highest token id; -1 without tokens.
    """

    def __init__(self, parts: Iterable[SequenceOf[SequenceOf[int] | np.ndarray]]):
        flat, lengths = [np.empty(0, dtype=np.int32)], [np.empty(0, dtype=np.int64)]
        for part in parts:
            flat.append(np.concatenate([flat[0], *(np.asarray(ids, dtype=np.int32) for ids in part)]))
            lengths.append(np.array([len(ids) for ids in part], dtype=np.int64))
        self._flat = np.concatenate(flat)
        self.lengths = np.concatenate(lengths)
        self.highest_id = int(self._flat.max(initial=-1))
        self._starts = np.cumsum(self.lengths) - self.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the token ids of one text, int64."""
        start = self._starts[index]
        return self._flat[start : start + self.lengths[index]].astype(np.int64)

    def digests(self) -> np.ndarray:
        """Return a digest of the tokens of each text, uint8 of shape (texts, 16)."""
        texts = (self[index].astype("<i8").tobytes() for index in range(len(self)))
        digests = b"".join(hashlib.blake2b(text, digest_size=16).digest() for text in texts)
        return np.frombuffer(digests, dtype=np.uint8).reshape(-1, 16)
