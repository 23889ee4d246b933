"""A parent dataset on the local Hub, and selections of it."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

CARD = b"""---
license: cc-by-nc-4.0
language: en
task_categories:
- text-generation
pretty_name: Their rows
---

# Their rows
"""


@pytest.fixture(scope="session")
def drawn() -> Any:
    """Give `png`, which draws what it has drawn before from memory: the same facts give the same bytes."""
    from hf_datasel.cards.figures import png

    memory: dict[tuple[str, str, bool], bytes] = {}
    shown = ("distributions", "rounds", "lengths", "overlap", "weights", "map", "training", "choices")

    def draw(facts: Any, name: str, dark: bool) -> bytes:
        key = json.dumps({each: facts[each] for each in shown}, sort_keys=True), name, dark
        if key not in memory:
            memory[key] = png(facts, name, dark)
        return memory[key]

    return draw


@pytest.fixture
def hub(local_hub: Any, pool_rows: Any, drawn: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a Hub with the dataset `tester/parent`: the pool, and what its card says."""
    monkeypatch.setattr("hf_datasel.hub.retry.WAIT", 0.01)
    monkeypatch.setattr("hf_datasel.cards.repository_files.png", drawn)
    local_hub.commit("tester/parent", {"README.md": CARD, "data/train-00000-of-00001.parquet": parquet(pool_rows)})
    return local_hub


@pytest.fixture
def parent(hub: Any) -> Any:
    """Give the rows of the parent as a user has them."""
    from datasets import load_dataset

    return load_dataset("tester/parent", split="train")


def parquet(rows: Any) -> bytes:
    """Give a dataset as the content of a Parquet file."""
    buffer = io.BytesIO()
    rows.to_parquet(buffer)
    return buffer.getvalue()
