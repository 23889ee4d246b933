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
def test_vectors_that_do_not_fit_into_memory(name, monkeypatch):
    monkeypatch.setattr(_checks, "available_memory", lambda: 1024)
    message = rf"{name} needs 0\.0 GB of memory for [35]0 vectors of 16 numbers, and 0"
    with pytest.raises(SelectionError, match=message):
        CALLS[name]()
    monkeypatch.setattr(_checks, "available_memory", lambda: 1 << 30)
    assert len(CALLS[name]())
