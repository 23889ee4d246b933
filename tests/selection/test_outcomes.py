"""What became of every row, told from what a selection contains."""

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import select
from hf_datasel.selection.outcomes import descending_ranks, row_outcomes
from hf_datasel.selectors import Chain, InRange, NoTextDuplicates, Random, Top, Weighted


@pytest.fixture
def rows():
    texts = [f"answer {'abcdefghijkl'[row]} " * (row + 1) for row in range(12)]
    texts[4], texts[9] = "", texts[8]  # nothing to train on, and a copy
    return Dataset.from_dict(
        {
            "prompt": ["How?"] * 8 + ["What now?"] * 2 + ["How?"] * 2,
            "completion": texts,
            "ifd": [0.1, None, 0.3, 0.9, 0.5, 1.2, 0.7, 0.7, 0.2, 0.4, 1.5, 0.6],
        }
    )


def outcomes_of(selection, dataset):
    return row_outcomes(selection, selection.pool(dataset))


def by_reason(outcomes):
    return {reason: np.flatnonzero(outcomes.codes == code).tolist() for code, reason in enumerate(outcomes.reasons)}


def test_every_row_has_one_outcome(rows):
    chain = Chain([NoTextDuplicates(), InRange("ifd", high=1.0)], Top(by="ifd"))
    outcomes = outcomes_of(select(rows, chain, size=3), rows)
    assert by_reason(outcomes) == {
        "empty_response": [4],
        "exact duplicates by text": [9],
        "without ifd": [1],
        "with ifd >= 1": [5, 10],
    }
    assert outcomes.unresolved == {}
    assert outcomes.ranks.tolist() == [-1, -1, -1, 0, -1, -1, 1, 2, -1, -1, -1, -1]
    assert (outcomes.ranked_by, outcomes.highest_first) == ("ifd", True)
    assert outcomes.following.tolist() == [11, 2, 8, 0]  # candidates alone, highest first


def test_reasons_of_a_weighted_and_of_a_loaded_selection(rows, tmp_path):
    weighted = rows.add_column("quality", [0.5] * 12)
    selection = select(weighted, Weighted(Chain([InRange("ifd", low=0.3)], Random()), by="quality"), size=3)
    selection.save(tmp_path / "s")
    outcomes = outcomes_of(type(selection).load(tmp_path / "s"), weighted)
    assert by_reason(outcomes)["with ifd < 0.3"] == [0, 8]
    assert outcomes.ranked_by is None and outcomes.following.size == 0  # drawn at random


def test_counts_that_do_not_fit_stay_unresolved(rows):
    selection = select(rows, Top(by="ifd"), size=3)
    selection.provenance["exclusions"] |= {"near-duplicates of a better row": 2, "with ifd >= 1.4": 3}
    outcomes = outcomes_of(selection, rows)
    assert outcomes.unresolved == {"near-duplicates of a better row": 2, "with ifd >= 1.4": 3}
    assert by_reason(outcomes) == {"empty_response": [4], "without ifd": [1]}


def test_ranks_are_those_of_a_slow_count():
    values = np.random.default_rng(0).integers(0, 9, 60).astype(float)
    values[::7] = np.nan
    slow = [0 if np.isnan(value) else int(sum(values > value)) + 1 for value in values]
    assert descending_ranks(values).tolist() == slow
    below = [int(sum((values > value) & (values < 7))) + 1 for value in values[values < 7]]
    assert descending_ranks(values, bound=7.0)[values < 7].tolist() == below
