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


COLUMNS = ("reward", "golden", "influence", "selectit", "deita", "num_tokens", "cluster_id", "cluster_distance")


def _with(data: Any, **columns: list[Any]) -> Any:
    for name, values in columns.items():
        data = data.remove_columns(name) if name in data.column_names else data
        data = data.add_column(name, values)
    return data


@pytest.fixture(scope="session")
def full(rows: Any) -> Any:
    """Give the 12 rows with columns of the other scores, and vectors in three clusters with two near-duplicates."""
    rng = np.random.default_rng(7)
    ids = [0, 0, 1, 1, 0, 2, 1, 0, 0, 2, 1, 0]
    vectors = (np.eye(4)[ids] * 3 + rng.normal(size=(12, 4))).astype(np.float32)
    vectors[7] = 2 * vectors[0] + np.float32(0.01)
    data = _with(
        rows,
        reward=rng.normal(size=12).round(2).tolist(),
        golden=(rng.integers(40, 101, 12) / 100).tolist(),
        influence=rng.normal(scale=0.1, size=12).round(4).tolist(),
        selectit=rng.uniform(0, 2, 12).round(3).tolist(),
        deita=rng.uniform(1, 36, 12).round(2).tolist(),
        num_tokens=rng.integers(5, 60, 12).tolist(),
        cluster_id=ids,
        cluster_distance=rng.uniform(0, 2, 12).round(3).tolist(),
        embedding=vectors.tolist(),
    )
    return data.cast_column("golden", _float32())


@pytest.fixture(scope="session")
def gaps(full: Any) -> Any:
    """Give the same, where row 2 has no response, row 5 no score and no distance, row 8 no vector and no cluster."""
    scores = [name for name in COLUMNS if not name.startswith("cluster_id")]
    changed = {name: [None if index == 5 else value for index, value in enumerate(full[name][:])] for name in scores}
    for name, row in (("embedding", 8), ("cluster_id", 8)):
        changed[name] = [None if index == row else value for index, value in enumerate(full[name][:])]
    output = ["" if index == 2 else value for index, value in enumerate(full["output"][:])]
    return _with(full, output=output, **changed)


def _float32() -> Any:
    from datasets import Value

    return Value("float32")


@pytest.fixture(scope="session")
def later_model(tiny_model_dir: Any) -> Any:
    """Give the model some training steps on, as far as a selector can tell."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture
def make_round() -> Callable[..., Any]:
    """Give a function that makes a round over a dataset, with no model to score with."""

    def make(dataset: Any, budget: int, index: int = 0, seed: int = 0, eligible: Any = None, state: Any = None) -> Any:
        from hf_datasel.formats import Pool
        from hf_datasel.rounds.cache import RoundCache
        from hf_datasel.rounds.context import RoundContext
        from hf_datasel.scoring.engine import Engine

        pool = Pool(dataset)
        usable = pool.reasons == "" if eligible is None else np.asarray(eligible)
        return RoundContext(
            RoundCache(pool, Engine(pool).compute),
            budget=budget,
            index=index,
            eligible=usable,
            seed=seed,
            state={} if state is None else state,
        )

    return make


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Give a function that makes a round stop, as Ctrl-C does, once so many rows have been selected."""

    class Bar:
        def __init__(self, rows: int):
            self.n, self.rows = 0, rows

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: Any) -> None:
            return None

        def update(self, more: int) -> None:
            self.n += more
            if self.n >= self.rows:
                raise KeyboardInterrupt

    def stop(context: Any, rows: int) -> Any:
        monkeypatch.setattr(context, "progress_bar", lambda total, unit: Bar(rows))
        return context

    return stop
