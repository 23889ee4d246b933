"""Checks that strategies share: vectors that do not fit into memory."""

import numpy as np
import pytest

from hf_datasel.errors import SelectionError
from hf_datasel.strategies import _checks
from hf_datasel.strategies.facility import facility_location
from hf_datasel.strategies.farthest import farthest_first
from hf_datasel.strategies.graph_cut import graph_cut_bins
from hf_datasel.strategies.near_duplicates import skip_near_duplicates

VECTORS = np.random.default_rng(0).normal(size=(50, 16))
CALLS = {
    "farthest_first": lambda: farthest_first(VECTORS, 2),
    "facility_location": lambda: facility_location(VECTORS, np.zeros(50), 2),
    "graph_cut_bins": lambda: graph_cut_bins(VECTORS, 2),
    "skip_near_duplicates": lambda: skip_near_duplicates(VECTORS, np.arange(50), 30),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(("available", "limit"), [("1 kB", "max"), ("1000000 kB", "1024")])
def test_vectors_that_do_not_fit_into_memory(name, available, limit, tmp_path, monkeypatch):
    memory, container = tmp_path / "meminfo", tmp_path / "memory.max"
    memory.write_text(f"MemTotal:       1000000 kB\nMemAvailable:   {available}\n")
    container.write_text(f"{limit}\n")
    monkeypatch.setattr(_checks, "_MEMORY_INFO", memory)
    monkeypatch.setattr(_checks, "_CONTAINER_LIMIT", container)
    with pytest.raises(
        SelectionError, match=rf"{name} needs 0\.0 GB of memory for [35]0 vectors of 16 numbers, and 0"
    ):
        CALLS[name]()
    memory.write_text("MemAvailable:   1000000 kB\n")
    container.write_text("max\n")
    assert len(CALLS[name]())
