"""Cache of fitted scores: a score is fitted once, and stays valid while rows are only appended to the dataset."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_datasel.atomic import write_file
from hf_datasel.errors import DataselError, ScoreError
from hf_datasel.formats import Pool
from hf_datasel.scoring.base import Score
from hf_datasel.spec import spec_name, upgraded

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["fit_with_cache"]

logger = logging.getLogger(__name__)

_FILE = "fitted.json"
_ROWS_PER_BLOCK = 10_000


def fit_with_cache(folder: Path, score: Score, data: Dataset) -> Score:
    """Fit a score to a dataset, or load a score that was fitted to the first rows of the dataset.

    A fitted score is reused if the rows that it was fitted to, and the columns that it reads of them, are the first
    rows of the dataset, unchanged. Rows that are appended thus do not change the values of the others. A score without
    values for new rows (`covers_new_rows`) is fitted again.

    Args:
        folder: Folder of the score store, to which the fitted state is written.
        score: Score that has to be fitted.
        data: Dataset with the columns that the score reads.

    Returns:
        The fitted score.
    """
    requested = json.loads(json.dumps({"score": spec_name(score), "version": score.version, **score.settings()}))
    entries = _read(folder / _FILE)
    least = 0 if score.covers_new_rows else len(data)
    candidates = [
        entry for entry in entries if upgraded(entry["wanted"]) == requested and least <= entry["rows"] <= len(data)
    ]
    for entry in sorted(candidates, key=lambda entry: -int(entry["rows"])):
        if entry["content"] == _digest(score, data, entry["rows"]):
            cached = _rebuild(type(score), entry["settings"])
            if cached is not None:
                if entry["rows"] < len(data):
                    logger.info("%s stays as fitted to the first %d rows.", requested["score"], entry["rows"])
                return cached
    fitted = score.fitted(data, folder)
    entry = {"wanted": requested, "rows": len(data), "content": _digest(score, data, len(data))}
    _write(folder / _FILE, [*_read(folder / _FILE), {**entry, "settings": fitted.settings()}])
    return fitted


def _rebuild(cls: type[Score], settings: dict[str, Any]) -> Score | None:
    """Return the fitted score, or None if its files no longer exist."""
    try:
        score = cls(**settings)
        score.spec()
    except DataselError:
        return None
    return score


def _digest(score: Score, data: Dataset, rows: int) -> str:
    """Return a digest of the first rows, and of the columns that the score reads of them."""
    part = data.select(range(rows))
    digest = hashlib.blake2b(Pool(part).row_ids.tobytes(), digest_size=16)
    for name in score.reads:
        column = part.select_columns([name]).with_format("arrow")
        for start in range(0, rows, _ROWS_PER_BLOCK):
            _update(digest, column[start : start + _ROWS_PER_BLOCK].column(name).combine_chunks())
    return digest.hexdigest()


def _update(digest: Any, values: pa.Array) -> None:
    digest.update(np.packbits(values.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    is_nested = pa.types.is_list(values.type) or pa.types.is_large_list(values.type)
    is_nested = is_nested or pa.types.is_fixed_size_list(values.type)
    flat = values.drop_null().flatten() if is_nested else values.drop_null()
    digest.update(np.ascontiguousarray(flat.to_numpy(zero_copy_only=False)).tobytes())


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read (%s): its scores are fitted again.", path, error)
        return []
    return [entry for entry in entries if isinstance(entry, dict) and "wanted" in entry]


def _write(path: Path, entries: list[dict[str, Any]]) -> None:
    write_file(path, json.dumps(entries, indent=1), ScoreError)
