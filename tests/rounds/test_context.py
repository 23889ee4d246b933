"""What a round hands to a selector."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from hf_datasel.errors import Interrupted
from hf_datasel.formats import Pool
from hf_datasel.rounds.cache import as_numpy
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.run import ask
from hf_datasel.scores import RewardGap
from hf_datasel.scoring.distributed import Ranks
from hf_datasel.selectors import IterativeKMQ, Within

GAP = RewardGap(scorer="perplexity", max_new_tokens=2)


@pytest.mark.parametrize("chunked", [False, True])
def test_vectors_are_rows_and_null_ones_are_nan(chunked):
    column = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32()))
    found = as_numpy(pa.chunked_array([column[:1], column[1:]]) if chunked else column)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[1, 2], [np.nan, np.nan], [3, 4]])


def test_numbers_and_no_vector_at_all():
    np.testing.assert_array_equal(as_numpy(pa.array([1.5, None], pa.float32())), [1.5, np.nan])
    assert as_numpy(pa.array([None, None], pa.list_(pa.float32()))).shape == (2, 0)


def test_vectors_in_pieces_of_which_some_have_none():
    vectors, none = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32())), [None, None]
    column = pa.chunked_array([pa.array(none, vectors.type), vectors[:0], vectors[1:], vectors])
    nan = [np.nan, np.nan]
    np.testing.assert_array_equal(as_numpy(column), [nan, nan, nan, [3, 4], [1, 2], nan, [3, 4]])


# -- several processes ------------------------------------------------------------------------------------------------
class SecondOfTwo:
    """What the second process sees: the first one has made what it asks for."""

    def __init__(self, made):
        self.made = made

    def made_by_first(self, make):
        return self.made


def test_the_first_process_chooses_for_all(play, monkeypatch):
    def choose(progress):
        raise AssertionError("the second process does not choose")

    round, rows = play()[0], np.array([3, 5, 7, 9])
    monkeypatch.setattr(Ranks, "current", lambda: SecondOfTwo((np.array([2, 0]), True)))
    assert round.pick(rows, choose).tolist() == [7, 3]
    monkeypatch.setattr(Ranks, "current", lambda: SecondOfTwo((np.array([1]), False)))
    with pytest.raises(Interrupted, match="1 rows had been chosen") as stop:
        round.pick(rows, choose)
    assert stop.value.chosen.tolist() == [5]


# -- rows without a value ---------------------------------------------------------------------------------------------
@pytest.fixture
def play():
    """Give a function for a round over 12 rows, in whose odd ones the model has no answer; and what it is asked."""
    asked = []

    def compute(score, rows):
        rows = np.arange(12) if rows is None else rows
        asked.append(rows.tolist())
        found = [None if row % 2 else float(row) for row in rows.tolist()]
        reasons = ["empty_generation" if each is None else "" for each in found]
        return {"reward_gap": pa.array(found, pa.float32()), "reward_gap_reason": pa.array(reasons)}

    def make(index=0, budget=4, **more):
        data = {"prompt": [f"Say {at}." for at in range(12)], "completion": [f"It is {at}." for at in range(12)]}
        columns = {"q": [float(at) for at in range(12)], "cluster_id": [0, 1] * 6, "source": [0] * 5 + [1] * 6 + [2]}
        rows = Pool(Dataset.from_dict(data | columns))
        return Round(index, rows, np.ones(12, dtype=bool), budget, compute, **more), asked

    return make


def test_rows_without_a_value_are_left_out_unless_it_is_optional(play):
    round, asked = play()
    values = round.values(GAP, np.array([1, 2, 3]), optional=True)
    np.testing.assert_array_equal(values, [np.nan, 2, np.nan])
    assert not round.left_out
    assert not round.rows_left_out()
    round.values(GAP, np.array([3, 4]))
    assert round.left_out == {"empty_generation": 1}
    assert {why: rows.tolist() for why, rows in round.rows_left_out().items()} == {"empty_generation": [3]}
    assert asked == [[1, 2, 3], [3, 4]]


def test_an_optional_score_of_all_rows_can_be_asked_for_again(play):
    round, asked = play()
    round.score(GAP, optional=True)
    assert not round.left_out
    round.score(GAP)
    round.score(GAP, optional=True)
    assert round.left_out == {"empty_generation": 6}
    assert asked == [list(range(12))], "computed once"
    assert round.scored["reward_gap"][1].null_count == 6


@pytest.mark.parametrize("chosen", [[0, 1, 2, 3, 4, 5, 6, 11], [3, 1, 8, 5, 11]])
def test_in_groups_the_model_is_asked_about_the_rows_chosen_and_none_is_left_out(play, chosen):
    selector = Within(IterativeKMQ(quality="q", gap=GAP, rounds=2), "source")
    plan = selector.plan(11, 1.0, 12)
    clusters = np.array([0.5, 0.5])
    state = {"0/cluster_weights": clusters, "1/cluster_weights": clusters, "2/cluster_weights": np.ones(1)}
    round, asked = play(1, 11, chosen=np.array(chosen), state=state, plan=plan)
    found = ask(selector, round)
    assert len(found) == 11
    assert set(found.tolist()) >= set(chosen)
    assert sorted(row for rows in asked for row in rows) == sorted(chosen), "each once, and no other"
    assert round.left_out == {}
    assert round.rows_left_out() == {}
    assert sorted(round.scored["reward_gap"][0].tolist()) == sorted(chosen)
