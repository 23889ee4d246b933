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
def cached_png() -> Any:
    """Return `png` with a cache: equal facts give equal bytes."""
    from hf_datasel.cards.figures import png

    cache: dict[tuple[str, str, bool], bytes] = {}

    def draw(facts: Any, name: str, dark: bool) -> bytes:
        drawn_from = {key: facts[key] for key in ("sections", "training", "rounds")}
        key = json.dumps(drawn_from, sort_keys=True), name, dark
        if key not in cache:
            cache[key] = png(facts, name, dark)
        return cache[key]

    return draw


@pytest.fixture
def hub(local_hub: Any, pool_rows: Any, cached_png: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a Hub with the dataset `tester/parent`: the pool and a card."""
    monkeypatch.setattr("hf_datasel.hub.retry.WAIT", 0.01)
    monkeypatch.setattr("hf_datasel.cards.repository_files.png", cached_png)
    local_hub.commit("tester/parent", {"README.md": CARD, "data/train-00000-of-00001.parquet": parquet(pool_rows)})
    return local_hub


@pytest.fixture
def parent(hub: Any) -> Any:
    """Return the parent dataset, loaded from the Hub."""
    from datasets import load_dataset

    return load_dataset("tester/parent", split="train")


def parquet(rows: Any) -> bytes:
    """Return a dataset as the content of a Parquet file."""
    buffer = io.BytesIO()
    rows.to_parquet(buffer)
    return buffer.getvalue()
