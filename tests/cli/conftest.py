"""A dataset in a file and a saved selection of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def rows_file(tmp_path: Path, pool_rows: Any) -> Path:
    """Give the pool as a file."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pool_rows))
    return path


@pytest.fixture
def selection(tmp_path: Path, pool_rows: Any) -> Path:
    """Give the folder of a selection of the six longest rows."""
    from hf_datasel import select
    from hf_datasel.selectors import Longest

    select(pool_rows, Longest(), size=6).save(tmp_path / "selection")
    return tmp_path / "selection"
