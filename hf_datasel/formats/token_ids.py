"""Rows that are tokenized already: `input_ids`, with labels or masks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from hf_datasel.formats.messages import MalformedRowError, describe
from hf_datasel.formats.rows import TOKENS, Row, Turn

__all__ = ["tokenized_row"]


def tokenized_row(columns: Mapping[str, str], values: Mapping[str, Any]) -> Row:
    """Return a tokenized row, which has no text: its id is that of the token ids and of the labels or masks.

    With labels, masks are not part of it, because `SFTTrainer` does not read them then.

    Args:
        columns: Fields that the dataset has, and its column of each.
        values: Value of each field; fields whose value is null are missing.

    Raises:
        MalformedRowError: A column holds something other than integers, or differs in length from `input_ids`.
    """
    names = [name for name in columns if "labels" not in columns or not name.endswith(("_mask", "_masks"))]
    digests, size = [], -1
    for name in names:
        place, value = f"column {columns[name]!r}", values.get(name)
        numbers = np.asarray(value) if isinstance(value, list) else None
        if numbers is None or numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iub"):
            raise MalformedRowError("wrong_type", f"{place} is {describe(value)}, and has to be a list of integers")
        size = len(numbers) if name == "input_ids" else size
        if name != "seq_lengths" and len(numbers) != size:
            raise MalformedRowError("wrong_type", f"{place} has {len(numbers)} values for {size} tokens")
        digests.append(f"{name}:{hashlib.sha256(numbers.astype('<i8').tobytes()).hexdigest()}")
    if not size:
        raise MalformedRowError("empty_text", f"column {columns['input_ids']!r} has no token")
    return Row((Turn(TOKENS, " ".join(digests)),))
