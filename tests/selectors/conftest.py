"""Rows with columns to select by, and rounds without a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

IFD = [0.61, 1.2, 0.93, 0.35, 0.93, 1.0, 0.72, 0.18, 0.88, 0.97, 0.41, 0.55]


@pytest.fixture(scope="session")
def rows(pool_rows: Any) -> Any:
    """Give 12 rows with `ifd` (two of them 1 or more, two equal) and `loss`."""
    data = pool_rows.select(range(len(IFD))).add_column("ifd", IFD)
    return data.add_column("loss", [round(3 - 2 * value, 2) for value in IFD])


@pytest.fixture
def make_round() -> Callable[..., Any]:
    """Give a function that makes a round over a dataset, with no model to score with."""

    def make(dataset: Any, budget: int, index: int = 0, seed: int = 0, eligible: Any = None, state: Any = None) -> Any:
        from hf_datasel.formats import Pool
        from hf_datasel.scores.engine import Engine
        from hf_datasel.selectors import Round

        pool = Pool(dataset)
        usable = pool.reasons == "" if eligible is None else np.asarray(eligible)
        return Round(index, pool, usable, budget, Engine(pool).compute, seed, state={} if state is None else state)

    return make
