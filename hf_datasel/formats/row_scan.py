"""Scan of all rows of a pool: their ids, what they have besides text, and which of them cannot be used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from hf_datasel.formats.layouts import row_layout
from hf_datasel.formats.plain_rows import plain_contents
from hf_datasel.formats.readers import canonical_rows
from hf_datasel.formats.rows import Batch, Row, text_digest

__all__ = ["KEYS", "KWARGS", "TOOLS", "UNTRAINED", "RowScan", "scan_rows"]

KEYS, TOOLS, KWARGS, UNTRAINED = 1, 2, 4, 8
"""What a row has besides text, as bits: keys of messages, tools, arguments of the template, untrained turns."""


@dataclass(frozen=True, eq=False)
class RowScan:
    """Ids and contents of rows, and the rows that cannot be used. Its arrays are never written to.

    Args:
        ids: SHA-256 of the canonical content of each row, uint8 of shape (rows, 32).
        reason_codes: Position of the reason of each row in `reasons`, uint8 of shape (rows,); 0 for usable rows.
        contents: What each row has besides text, uint8 of shape (rows,): bits `KEYS`, `TOOLS`, `KWARGS`, `UNTRAINED`.
        reasons: The reasons; the first is "".
        details: For each row that cannot be used, in ascending order: the column or message, what it holds, and what
            to do.
    """

    ids: np.ndarray
    reason_codes: np.ndarray
    contents: np.ndarray
    reasons: tuple[str, ...]
    details: dict[int, str]

    def subset(self, indices: np.ndarray) -> RowScan:
        """Return the scan of these rows, in this order.

        Args:
            indices: Row numbers, int64.
        """
        codes = self.reason_codes[indices]
        details = {int(number): self.details[int(indices[number])] for number in np.flatnonzero(codes)}
        return RowScan(self.ids[indices], codes, self.contents[indices], self.reasons, details)

    def marked(self, indices: np.ndarray, reason: str, detail: str) -> RowScan:
        """Return the scan with another reason for these rows.

        Args:
            indices: Row numbers, int64.
            reason: The reason.
            detail: What it means for these rows.
        """
        reasons = self.reasons if reason in self.reasons else (*self.reasons, reason)
        codes = self.reason_codes.copy()
        codes[indices] = reasons.index(reason)
        details = dict(sorted({**self.details, **dict.fromkeys(indices.tolist(), detail)}.items()))
        return replace(self, reason_codes=codes, reasons=reasons, details=details)

    def row_reasons(self) -> np.ndarray:
        """Return the reason of each row, an object array of strings of shape (rows,)."""
        reasons: np.ndarray = np.array(self.reasons, dtype=object)[self.reason_codes]
        return reasons


def scan_rows(batches: Iterable[Batch], num_rows: int, row_format: str, columns: dict[str, str] | None) -> RowScan:
    """Read rows, and return their ids, contents, and reasons.

    Args:
        batches: The columns of the rows, some rows at a time.
        num_rows: Number of all rows.
        row_format: A key of `FORMATS`.
        columns: Names of columns of the supported formats, and the names that the batches have for them.
    """
    ids = np.empty((num_rows, 32), dtype=np.uint8)
    codes, contents = np.zeros(num_rows, dtype=np.uint8), np.zeros(num_rows, dtype=np.uint8)
    code_of, details, start = {"": 0}, dict[int, str](), 0
    for batch in batches:
        plain = plain_contents(batch, row_layout(list(batch), columns, row_format))
        others = [number for number, content in enumerate(plain) if content is None]
        rows = canonical_rows(_taken(batch, others, len(plain)), row_format, columns) if others else []
        digests = [b"" if content is None else text_digest(content) for content in plain]
        for number, row in zip(others, rows, strict=True):
            digests[number] = row.digest()
            if row.reason:
                codes[start + number] = code_of.setdefault(row.reason, len(code_of))
                details[start + number] = row.detail
            else:
                contents[start + number] = _contents(row)
        ids[start : start + len(plain)] = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32)
        start += len(plain)
    for array in (ids, codes, contents):
        array.flags.writeable = False
    return RowScan(ids, codes, contents, tuple(code_of), details)


def _taken(batch: Batch, numbers: list[int], size: int) -> Batch:
    if len(numbers) == size:
        return batch
    return {name: [values[number] for number in numbers] for name, values in batch.items()}


def _contents(row: Row) -> int:
    contents = (TOOLS if row.tools else 0) | (KWARGS if row.chat_template_kwargs else 0)
    for turn in row.turns:
        if turn.message is not None:
            contents |= KEYS
        if not turn.trained:
            contents |= UNTRAINED
    return contents
