"""Scores that learn from the whole dataset first: done once, and kept while the dataset only grows at its end."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_datasel.errors import DataselError
from hf_datasel.formats import Pool
from hf_datasel.scoring.base import Score

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["fitted_in"]

logger = logging.getLogger(__name__)

_FILE = "fitted.json"
_ROWS = 10_000


def fitted_in(folder: Path, score: Score, data: Dataset) -> Score:
    """The score, fitted to the dataset, or to what the dataset was before rows were added behind it.

    What was fitted before is taken when the rows that it was fitted to, and what the score reads of them, are the
    first ones of the dataset as they were: so rows that are added do not change the scores of the others.

    Args:
        folder: of the score store, where what is learnt is kept.
        score: one that has to be fitted.
        data: with the columns that the score reads.
    """
    wanted = json.loads(json.dumps({"score": type(score).__name__, "version": score.version, **score.settings()}))
    known = [each for each in _read(folder / _FILE) if each["wanted"] == wanted and each["rows"] <= len(data)]
    for each in sorted(known, key=lambda each: -int(each["rows"])):
        if each["content"] == _content(score, data, each["rows"]):
            found = _made(type(score), each["settings"])
            if found is not None:
                if each["rows"] < len(data):
                    logger.info("%s stays as it was fitted to the first %d rows.", wanted["score"], each["rows"])
                return found
    found = score.fitted(data, folder)
    entry = {"wanted": wanted, "rows": len(data), "content": _content(score, data, len(data))}
    _write(folder / _FILE, [*_read(folder / _FILE), {**entry, "settings": found.settings()}])
    return found


def _made(kind: type[Score], settings: dict[str, Any]) -> Score | None:
    """The fitted score, or None where what it had learnt is gone."""
    try:
        found = kind(**settings)
        found.spec()
    except DataselError:
        return None
    return found


def _content(score: Score, data: Dataset, rows: int) -> str:
    """A digest of the first rows, and of the columns that the score reads of them."""
    part = data.select(range(rows))
    whole = hashlib.blake2b(Pool(part).row_ids.tobytes(), digest_size=16)
    for name in score.reads:
        column = part.select_columns([name]).with_format("arrow")
        for start in range(0, rows, _ROWS):
            _add(whole, column[start : start + _ROWS].column(name).combine_chunks())
    return whole.hexdigest()


def _add(whole: Any, values: pa.Array) -> None:
    whole.update(np.packbits(values.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    nested = pa.types.is_list(values.type) or pa.types.is_large_list(values.type)
    nested = nested or pa.types.is_fixed_size_list(values.type)
    flat = values.drop_null().flatten() if nested else values.drop_null()
    whole.update(np.ascontiguousarray(flat.to_numpy(zero_copy_only=False)).tobytes())


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read (%s): what was fitted before is fitted again.", path, error)
        return []
    return [each for each in found if isinstance(each, dict) and "wanted" in each]


def _write(path: Path, entries: list[dict[str, Any]]) -> None:
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(entries, indent=1), encoding="utf-8")
    draft.replace(path)
