from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest

from hf_datasel import select
from hf_datasel.errors import ConfigError, Interrupted, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.incremental_selector import GrowingSelector, _say_less_than_an_epoch
from hf_datasel.rounds.run import ask, run_round
from hf_datasel.rounds.state import from_first
from hf_datasel.scores import RewardGap
from hf_datasel.scoring.base import Score
from hf_datasel.selectors import DiverseEvol, IterativeKMQ, Within
from hf_datasel.testing import contract


@dataclass(frozen=True)
class Growing(GrowingSelector):
    """The first rows that are left."""

    rounds: int = field(default=3, kw_only=True)
    restart_each_round: bool = field(default=False, kw_only=True)

    def __post_init__(self):
        self.check_rounds()

    def add(self, round, rows):
        return np.setdiff1d(np.flatnonzero(round.eligible), round.chosen)[:rows]


@contract(Growing(), Growing(rounds=5, restart_each_round=True))
def test_contract(check, selector, full):
    check(selector, full.select(range(8)))


@pytest.mark.parametrize("rounds", [1, 2, 3, 7, 10])
def test_all_rounds_add_as_much_to_within_a_row_and_all_of_it_together(rounds):
    for budget in range(rounds, 60):
        totals = [each.budget for each in Growing(rounds=rounds).plan(budget, 3.0, 1000)]
        new = np.diff(totals, prepend=0)
        assert totals[-1] == budget
        assert len(totals) == rounds
        assert set(new) <= {budget // rounds, -(-budget // rounds)}


def test_trained_on_the_rounds_share_the_epochs():
    plan = Growing(rounds=3).plan(10, 3.0, 100)
    assert [(each.budget, each.epochs, each.restart) for each in plan] == [(3, 1.0, 0), (6, 1.0, 0), (10, 1.0, 0)]
    assert [each.epochs for each in Growing(rounds=4).plan(10, 1.0, 100)] == [0.25] * 4
    assert [each.epochs for each in Growing(rounds=3).plan(10, 1.1, 100)] == [0.366666667] * 3


def test_trained_anew_each_round_has_all_epochs():
    plan = Growing(rounds=3, restart_each_round=True).plan(10, 2.5, 100)
    assert [(each.epochs, each.restart) for each in plan] == [(2.5, False), (2.5, True), (2.5, True)]
    assert not any(each.checkpoints for each in plan)


@pytest.mark.parametrize(
    "made",
    [
        Growing,
        lambda **more: DiverseEvol(**{"rounds": 3, "restart_each_round": False, **more}),
        lambda **more: IterativeKMQ(quality="q", gap=RewardGap(scorer="perplexity"), **more),
    ],
    ids=["Growing", "DiverseEvol", "IterativeKMQ"],
)
def test_less_than_an_epoch_a_round_is_said_once(caplog, made):
    _say_less_than_an_epoch.cache_clear()
    for settings, epochs in (({}, 3.0), ({"restart_each_round": True}, 1.0), ({"rounds": 1}, 0.5)):
        made(**settings).plan(9, epochs, 20)
    assert caplog.messages == []
    for _ in range(2):
        made().plan(9, 2.5, 20)
    [said] = caplog.messages
    assert said.startswith(f"{type(made()).__name__}: num_train_epochs=2.5 is less than the 3 rounds, so that ")
    assert "some are chosen and never trained on" in said
    assert "Raise num_train_epochs to 3," in said


def test_fewer_rows_than_rounds():
    with pytest.raises(ConfigError, match=r"Growing\(rounds=3\) adds at least one row a round, and the budget is 2\."):
        Growing().plan(2, 3.0, 100)
    assert [each.budget for each in Growing().plan(3, 3.0, 100)] == [1, 2, 3]


def test_without_training_it_cannot_be_used(full):
    with pytest.raises(SelectionError, match="Growing chooses in 3 rounds with training between them"):
        select(full, Growing(), size=6)
    assert select(full, Growing(rounds=1), size=6).indices.tolist() == list(range(6))


def a_round(full, budget, chosen=(), index=1, eligible=None, compute=None, state=None, **more):
    usable = np.ones(len(full), dtype=bool) if eligible is None else eligible
    chosen = np.array(chosen, dtype=np.int64)
    kept = {} if state is None else state
    return Round(index, Pool(full), usable, budget, compute, chosen=chosen, state=kept, **more)


@pytest.mark.parametrize(
    ("budget", "expected"), [(5, [7, 4, 0, 1, 2]), (3, [7, 4, 0]), (2, [7, 4]), (1, [7])], ids="budget {}".format
)
def test_earlier_rows_come_first_and_the_budget_of_the_round_decides(full, budget, expected):
    round = a_round(full, budget, [7, 4])
    assert ask(Growing(), round).tolist() == expected
    assert round.notes["rows_before"] == min(budget, 2)


def test_what_is_left_where_that_is_less(full, caplog):
    few = np.arange(12) < 5
    assert run_round(Growing(), a_round(full, 9, [3], eligible=few), strict=False).tolist() == [3, 0, 1, 2, 4]
    assert "A budget of 9 is more than the 5 of 12 rows that can be selected" in caplog.text
    with pytest.raises(SelectionError, match="the 5 of 12 rows"):
        run_round(Growing(), a_round(full, 9, [3], eligible=few))


@dataclass(frozen=True)
class Stopped(Growing):
    def add(self, round, rows):
        raise Interrupted(np.array([5, 1]))


def test_an_interruption_keeps_the_rows_of_the_rounds_before(full):
    with pytest.raises(Interrupted, match="4 rows had been chosen") as stop:
        Stopped().choose(a_round(full, 9, [3, 8]))
    assert stop.value.chosen.tolist() == [3, 8, 5, 1]


@dataclass(frozen=True)
class Half(Score):
    """A number for each row but the third."""

    def columns(self):
        return {"half": pa.float32(), "half_reason": pa.string()}

    def compute(self, rows, context):
        raise AssertionError("the test computes it")


def computed(calls):
    def compute(score, rows):
        calls.append(rows)
        values = [None if row == 2 else row / 2 for row in range(12)]
        reasons = ["no_answer" if value is None else "" for value in values]
        return {"half": pa.array(values, pa.float32()), "half_reason": pa.array(reasons)}

    return compute


def test_numbers_of_the_first_round_are_computed_once_and_recorded_in_all(full):
    calls, state, expected = [], {}, np.array([np.nan if row == 2 else row / 2 for row in range(12)])
    for index in range(3):
        round = a_round(full, 3, index=index, compute=computed(calls), state=state)
        found = from_first(round, "half", pa.float32(), lambda round=round: round.values(Half()))
        np.testing.assert_array_equal(found, expected)
        rows, recorded = round.scored["half"]
        assert rows.tolist() == list(range(12))
        assert recorded.type == pa.float32()
        assert recorded.to_pylist() == [None if row == 2 else row / 2 for row in range(12)]
        assert round.specs == [Half().spec()]
        assert sum(round.left_out.values()) == 1
    assert len(calls) == 1


@pytest.mark.parametrize("rounds", [0, 1.5, True, "3"])
def test_impossible_rounds_are_found_at_once(rounds):
    with pytest.raises(ConfigError, match=r"Growing\(rounds=.*\): it has to be an int of at least 1"):
        Growing(rounds=rounds)


def test_within_groups_each_grows_by_itself(full):
    selector, state, chosen = Within(DiverseEvol("embedding", rounds=3), "cluster_id", "equal"), {}, []
    ids = np.array(full["cluster_id"][:])
    plan = selector.plan(9, 1.0, 12)
    for index, each in enumerate(plan):
        round = a_round(full, each.budget, chosen, index=index, state=state, plan=plan)
        rows = ask(selector, round).tolist()
        assert set(chosen) <= set(rows)
        assert all((ids[rows] == group).sum() >= index + 1 for group in (0, 1))
        assert len(rows) == each.budget
        chosen = rows
    round.notes.clear()
    said = selector.explain(round, np.array(chosen), chosen[0])
    assert len(said) == 1
    assert said[0].startswith("Group ")
