"""What a round hands to a selector."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from hf_datasel.errors import Interrupted
from hf_datasel.formats import Pool
from hf_datasel.rounds.cache import RoundCache, as_numpy
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.run import run_selector
from hf_datasel.scores import RewardGap
from hf_datasel.scoring.distributed import Processes
from hf_datasel.selectors import IterativeKMQ, Within

GAP = RewardGap(scorer="perplexity", max_new_tokens=2)


@pytest.mark.parametrize("chunked", [False, True])
def test_as_numpy_vectors(chunked):
    column = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32()))
    result = as_numpy(pa.chunked_array([column[:1], column[1:]]) if chunked else column)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, [[1, 2], [np.nan, np.nan], [3, 4]])


def test_as_numpy_numbers_and_null_vectors():
    np.testing.assert_array_equal(as_numpy(pa.array([1.5, None], pa.float32())), [1.5, np.nan])
    assert as_numpy(pa.array([None, None], pa.list_(pa.float32()))).shape == (2, 0)


def test_as_numpy_chunks_of_null_vectors():
    vectors, none = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32())), [None, None]
    column = pa.chunked_array([pa.array(none, vectors.type), vectors[:0], vectors[1:], vectors])
    nan = [np.nan, np.nan]
    np.testing.assert_array_equal(as_numpy(column), [nan, nan, nan, [3, 4], [1, 2], nan, [3, 4]])


# -- several processes ------------------------------------------------------------------------------------------------
class SecondOfTwo:
    """What the second process sees: the first one has made what it asks for."""

    def __init__(self, output):
        self.output = output

    def run_on_main_process(self, function):
        return self.output


def test_pick_runs_on_main_process(play, monkeypatch):
    def select(progress):
        raise AssertionError("the second process does not select")

    context, rows = play()[0], np.array([3, 5, 7, 9])
    monkeypatch.setattr(Processes, "current", lambda: SecondOfTwo((np.array([2, 0]), True)))
    assert context.pick(rows, select).tolist() == [7, 3]
    monkeypatch.setattr(Processes, "current", lambda: SecondOfTwo((np.array([1]), False)))
    with pytest.raises(Interrupted, match="1 rows had been selected") as stop:
        context.pick(rows, select)
    assert stop.value.selected.tolist() == [5]


# -- rows without a value ---------------------------------------------------------------------------------------------
@pytest.fixture
def play():
    """Give a function for a round over 12 rows, in whose odd ones the model has no answer; and what it is asked."""
    computed_rows = []

    def compute(score, rows):
        rows = np.arange(12) if rows is None else rows
        computed_rows.append(rows.tolist())
        result = [None if row % 2 else float(row) for row in rows.tolist()]
        reasons = ["empty_generation" if value is None else "" for value in result]
        return {"reward_gap": pa.array(result, pa.float32()), "reward_gap_reason": pa.array(reasons)}

    def new_context(index=0, budget=4, **more):
        data = {
            "prompt": [f"Say {index}." for index in range(12)],
            "completion": [f"It is {index}." for index in range(12)],
        }
        columns = {
            "q": [float(index) for index in range(12)],
            "cluster_id": [0, 1] * 6,
            "source": [0] * 5 + [1] * 6 + [2],
        }
        rows = Pool(Dataset.from_dict(data | columns))
        return RoundContext(
            RoundCache(rows, compute), budget=budget, index=index, eligible=np.ones(12, dtype=bool), **more
        ), computed_rows

    return new_context


def test_optional_score_excludes_no_rows(play):
    context, computed_rows = play()
    values = context.values(GAP, np.array([1, 2, 3]), optional=True)
    np.testing.assert_array_equal(values, [np.nan, 2, np.nan])
    assert not context.record.exclusions
    assert not context.excluded_rows()
    context.values(GAP, np.array([3, 4]))
    assert context.record.exclusions == {"empty_generation": 1}
    assert {why: rows.tolist() for why, rows in context.excluded_rows().items()} == {"empty_generation": [3]}
    assert computed_rows == [[1, 2, 3], [3, 4]]


def test_optional_score_is_computed_once(play):
    context, computed_rows = play()
    context.score(GAP, optional=True)
    assert not context.record.exclusions
    context.score(GAP)
    context.score(GAP, optional=True)
    assert context.record.exclusions == {"empty_generation": 6}
    assert computed_rows == [list(range(12))], "computed once"
    assert context.record.scored["reward_gap"][1].null_count == 6


@pytest.mark.parametrize("selected", [[0, 1, 2, 3, 4, 5, 6, 11], [3, 1, 8, 5, 11]])
def test_groups_score_only_selected_rows(play, selected):
    selector = Within(IterativeKMQ(quality="q", gap=GAP, rounds=2), "source")
    plan = selector.plan(11, 1.0, 12)
    clusters = np.array([0.5, 0.5])
    state = {"0/cluster_weights": clusters, "1/cluster_weights": clusters, "2/cluster_weights": np.ones(1)}
    context, computed_rows = play(1, 11, selected=np.array(selected), state=state, plan=plan)
    result = run_selector(selector, context)
    assert len(result) == 11
    assert set(result.tolist()) >= set(selected)
    assert sorted(row for rows in computed_rows for row in rows) == sorted(selected), "each once, and no other"
    assert context.record.exclusions == {}
    assert context.excluded_rows() == {}
    assert sorted(context.record.scored["reward_gap"][0].tolist()) == sorted(selected)
