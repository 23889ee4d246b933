"""A parent dataset on the local Hub, and selections of it."""

from __future__ import annotations

import hashlib
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


def undrawn(facts: Any, name: str, dark: bool) -> bytes:
    """Return bytes that differ where the image of a figure would: drawing takes longer than the rest of a push."""
    drawn_from = {key: facts[key] for key in ("sections", "training", "rounds")}
    return b"\x89PNG" + hashlib.sha256(json.dumps([drawn_from, name, dark], sort_keys=True).encode()).digest()


@pytest.fixture
def hub(local_hub: Any, pool_rows: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a Hub with the dataset `tester/parent`: the pool and a card."""
    monkeypatch.setattr("hf_datasel.hub.retry.WAIT", 0.01)
    monkeypatch.setattr("hf_datasel.cards.repository_files.png", undrawn)
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
