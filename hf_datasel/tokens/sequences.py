"""Token sequences with marked positions, read batch by batch from Arrow."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence as SequenceOf
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Ragged", "Sequence", "Sequences", "ragged"]

_READ = 10_000


@dataclass(frozen=True)
class Sequence:
    """Token ids of shape (length,), and the positions in them that are scored, each at least 1."""

    ids: np.ndarray
    scored: np.ndarray


def ragged(table: pa.Table, column: str) -> list[np.ndarray]:
    """A list column of an Arrow table as one numpy array a row, without Python lists."""
    lists = table.column(column).combine_chunks()
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    return np.split(lists.flatten().to_numpy(zero_copy_only=False), np.cumsum(lengths)[:-1])


@dataclass(eq=False)
class Sequences:
    """Sequences to score, in no particular order; `owner` says which output row each one belongs to.

    Attributes:
        data: rows with a column `ids` of token ids and a column `spans` of scored stretches, flattened
            (start, stop, start, stop, ...), at least one a row.
        owner: output row of each row of `data`, int64 of shape (len(data),).
        skip_first: leave the first token of each stretch out, for lack of anything before it.
        prefix: if given, each stretch becomes a sequence of its own behind these tokens: the prior of a turn.
    """

    data: Dataset
    owner: np.ndarray
    ids: str = "input_ids"
    spans: str = "spans"
    skip_first: bool = False
    prefix: np.ndarray | None = None
    lengths: np.ndarray = field(init=False)
    """Tokens in each sequence, int64."""
    scored: np.ndarray = field(init=False)
    """Tokens in the scored stretches of each sequence, int64."""

    def __post_init__(self) -> None:
        self._view = self.data.select_columns([self.ids, self.spans]).with_format("arrow")
        rows, turns, lengths, scored = [], [], [], []
        start = 0
        for table in self._view.iter(batch_size=_READ):
            n_spans = pc.list_value_length(table.column(self.spans)).to_numpy() // 2
            stretches = np.concatenate(ragged(table, self.spans)).reshape(-1, 2).astype(np.int64)
            inside = stretches[:, 1] - stretches[:, 0]
            if self.prefix is None:
                rows.append(np.arange(start, start + len(n_spans)))
                turns.append(np.zeros(len(n_spans), dtype=np.int64))
                lengths.append(pc.list_value_length(table.column(self.ids)).to_numpy().astype(np.int64))
                scored.append(np.add.reduceat(inside, np.cumsum(n_spans) - n_spans))
            else:
                rows.append(np.repeat(np.arange(start, start + len(n_spans)), n_spans))
                turns.append(np.concatenate([np.arange(n) for n in n_spans]))
                lengths.append(inside + len(self.prefix))
                scored.append(inside)
            start += len(n_spans)
        empty = np.empty(0, dtype=np.int64)
        self._rows, self._turns = np.concatenate([empty, *rows]), np.concatenate([empty, *turns])
        self.lengths, self.scored = np.concatenate([empty, *lengths]), np.concatenate([empty, *scored])
        self.owner = self.owner[self._rows]

    def __len__(self) -> int:
        return len(self.lengths)

    def fetch(self, at: np.ndarray) -> list[Sequence]:
        """The sequences at these positions: the only place where tokens are read."""
        rows, inverse = np.unique(self._rows[at], return_inverse=True)
        table = self._view[rows]
        ids = [row.astype(np.int64) for row in ragged(table, self.ids)]
        spans = [row.reshape(-1, 2) for row in ragged(table, self.spans)]
        make = self._whole if self.prefix is None else self._turn
        return [make(ids[row], spans[row], turn) for row, turn in zip(inverse, self._turns[at], strict=True)]

    def digests(self) -> np.ndarray:
        """16 bytes that stand for each sequence's tokens and scored positions, uint8 of shape (sequences, 16)."""
        found = bytearray()
        for start in range(0, len(self), _READ):
            for each in self.fetch(np.arange(start, min(start + _READ, len(self)))):
                whole = hashlib.blake2b(each.ids.astype("<i8").tobytes(), digest_size=16)
                whole.update(b"scored")
                whole.update(each.scored.astype("<i8").tobytes())
                found += whole.digest()
        return np.frombuffer(bytes(found), dtype=np.uint8).reshape(-1, 16)

    def _first(self, start: int) -> int:
        return max(start + 1, 1) if self.skip_first else max(start, 1)

    def _whole(self, ids: np.ndarray, spans: np.ndarray, turn: int) -> Sequence:
        return Sequence(ids, np.concatenate([np.arange(self._first(start), stop) for start, stop in spans]))

    def _turn(self, ids: np.ndarray, spans: np.ndarray, turn: int) -> Sequence:
        assert self.prefix is not None
        start, stop = spans[turn]
        unscored = self._first(start) - start
        sequence = np.concatenate([self.prefix, ids[start:stop]])
        return Sequence(sequence, np.arange(len(self.prefix) + unscored, len(sequence)))


class Ragged:
    """Token ids of many texts in one flat array, 4 bytes each.

    Attributes:
        lengths: tokens of each text, int64.
    """

    def __init__(self, parts: Iterable[SequenceOf[SequenceOf[int] | np.ndarray]]):
        flat, lengths = [np.empty(0, dtype=np.int32)], [np.empty(0, dtype=np.int64)]
        for part in parts:
            flat.append(np.concatenate([flat[0], *(np.asarray(ids, dtype=np.int32) for ids in part)]))
            lengths.append(np.array([len(ids) for ids in part], dtype=np.int64))
        self._flat = np.concatenate(flat)
        self.lengths = np.concatenate(lengths)
        self._starts = np.cumsum(self.lengths) - self.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, at: int) -> np.ndarray:
        """The ids of one text, int64."""
        start = self._starts[at]
        return self._flat[start : start + self.lengths[at]].astype(np.int64)

    def digests(self) -> np.ndarray:
        """16 bytes that stand for the tokens of each text, uint8 of shape (texts, 16)."""
        found = [hashlib.blake2b(self[at].astype("<i8").tobytes(), digest_size=16).digest() for at in range(len(self))]
        return np.frombuffer(b"".join(found), dtype=np.uint8).reshape(-1, 16)
