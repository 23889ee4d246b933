from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest

from hf_datasel import select
from hf_datasel.errors import ConfigError, Interrupted, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.rounds.cache import RoundCache
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.incremental_selector import IncrementalSelector, _warn_less_than_one_epoch
from hf_datasel.rounds.run import run_round, run_selector
from hf_datasel.rounds.state import first_round_values
from hf_datasel.scores import RewardGap
from hf_datasel.scoring.base import Score
from hf_datasel.selectors import DiverseEvol, IterativeKMQ, Within
from hf_datasel.testing import contract


@dataclass(frozen=True)
class Growing(IncrementalSelector):
    """The first rows that are left."""

    rounds: int = field(default=3, kw_only=True)
    restart_each_round: bool = field(default=False, kw_only=True)

    def __post_init__(self):
        self.check_rounds()

    def add(self, context, rows):
        return np.setdiff1d(np.flatnonzero(context.eligible), context.selected)[:rows]


@contract(Growing(), Growing(rounds=5, restart_each_round=True))
def test_contract(check, selector, full):
    check(selector, full.select(range(8)))


@pytest.mark.parametrize("rounds", [1, 2, 3, 7, 10])
def test_budget_is_divided_evenly(rounds):
    for budget in range(rounds, 60):
        totals = [step.budget for step in Growing(rounds=rounds).plan(budget, 3.0, 1000)]
        new = np.diff(totals, prepend=0)
        assert totals[-1] == budget
        assert len(totals) == rounds
        assert set(new) <= {budget // rounds, -(-budget // rounds)}


def test_rounds_share_epochs():
    plan = Growing(rounds=3).plan(10, 3.0, 100)
    assert [(step.budget, step.epochs, step.restart) for step in plan] == [(3, 1.0, 0), (6, 1.0, 0), (10, 1.0, 0)]
    assert [step.epochs for step in Growing(rounds=4).plan(10, 1.0, 100)] == [0.25] * 4
    assert [step.epochs for step in Growing(rounds=3).plan(10, 1.1, 100)] == [0.366666667] * 3


def test_restarted_rounds_have_all_epochs():
    plan = Growing(rounds=3, restart_each_round=True).plan(10, 2.5, 100)
    assert [(step.epochs, step.restart) for step in plan] == [(2.5, False), (2.5, True), (2.5, True)]
    assert not any(step.checkpoints for step in plan)


@pytest.mark.parametrize(
    "selector_class",
    [
        Growing,
        lambda **more: DiverseEvol(**{"rounds": 3, "restart_each_round": False, **more}),
        lambda **more: IterativeKMQ(quality="q", gap=RewardGap(scorer="perplexity"), **more),
    ],
    ids=["Growing", "DiverseEvol", "IterativeKMQ"],
)
def test_less_than_one_epoch_warns_once(caplog, selector_class):
    _warn_less_than_one_epoch.cache_clear()
    for settings, epochs in (({}, 3.0), ({"restart_each_round": True}, 1.0), ({"rounds": 1}, 0.5)):
        selector_class(**settings).plan(9, epochs, 20)
    assert caplog.messages == []
    for _ in range(2):
        selector_class().plan(9, 2.5, 20)
    [sentences] = caplog.messages
    assert sentences.startswith(
        f"{type(selector_class()).__name__}: num_train_epochs=2.5 is less than the 3 rounds, so that "
    )
    assert "some are selected and never trained on" in sentences
    assert "Raise num_train_epochs to 3," in sentences


def test_fewer_rows_than_rounds_is_refused():
    with pytest.raises(
        ConfigError, match=r"Growing\(rounds=3\) adds at least one row in each round, and the budget is 2\."
    ):
        Growing().plan(2, 3.0, 100)
    assert [step.budget for step in Growing().plan(3, 3.0, 100)] == [1, 2, 3]


def test_select_is_refused(full):
    with pytest.raises(SelectionError, match="Growing selects in 3 rounds with training between them"):
        select(full, Growing(), size=6)
    assert select(full, Growing(rounds=1), size=6).indices.tolist() == list(range(6))


def a_round(full, budget, selected=(), index=1, eligible=None, compute=None, state=None, **more):
    usable = np.ones(len(full), dtype=bool) if eligible is None else eligible
    selected = np.array(selected, dtype=np.int64)
    saved_state = {} if state is None else state
    return RoundContext(
        RoundCache(Pool(full), compute),
        budget=budget,
        index=index,
        eligible=usable,
        selected=selected,
        state=saved_state,
        **more,
    )


@pytest.mark.parametrize(
    ("budget", "expected"), [(5, [7, 4, 0, 1, 2]), (3, [7, 4, 0]), (2, [7, 4]), (1, [7])], ids="budget {}".format
)
def test_earlier_rows_come_first(full, budget, expected):
    context = a_round(full, budget, [7, 4])
    assert run_selector(Growing(), context).tolist() == expected
    assert context.record.notes["rows_before"] == min(budget, 2)


def test_shortfall_selects_remaining_rows(full, caplog):
    few = np.arange(12) < 5
    assert run_round(Growing(), a_round(full, 9, [3], eligible=few), strict=False).tolist() == [3, 0, 1, 2, 4]
    assert "A budget of 9 is more than the 5 of 12 rows that can be selected" in caplog.text
    with pytest.raises(SelectionError, match="the 5 of 12 rows"):
        run_round(Growing(), a_round(full, 9, [3], eligible=few))


@dataclass(frozen=True)
class Stopped(Growing):
    def add(self, context, rows):
        raise Interrupted(np.array([5, 1]))


def test_interruption_keeps_earlier_rows(full):
    with pytest.raises(Interrupted, match="4 rows had been selected") as stop:
        Stopped().select(a_round(full, 9, [3, 8]))
    assert stop.value.selected.tolist() == [3, 8, 5, 1]


@dataclass(frozen=True)
class Half(Score):
    """A number for each row but the third."""

    def columns(self):
        return {"half": pa.float32(), "half_reason": pa.string()}

    def compute(self, rows, runner):
        raise AssertionError("the test computes it")


def computed(calls):
    def compute(score, rows):
        calls.append(rows)
        values = [None if row == 2 else row / 2 for row in range(12)]
        reasons = ["no_answer" if value is None else "" for value in values]
        return {"half": pa.array(values, pa.float32()), "half_reason": pa.array(reasons)}

    return compute


def test_first_round_values(full):
    calls, state, expected = [], {}, np.array([np.nan if row == 2 else row / 2 for row in range(12)])
    for index in range(3):
        context = a_round(full, 3, index=index, compute=computed(calls), state=state)
        result = first_round_values(context, "half", pa.float32(), lambda context=context: context.values(Half()))
        np.testing.assert_array_equal(result, expected)
        rows, recorded = context.record.scored["half"]
        assert rows.tolist() == list(range(12))
        assert recorded.type == pa.float32()
        assert recorded.to_pylist() == [None if row == 2 else row / 2 for row in range(12)]
        assert context.record.score_specs == [Half().spec()]
        assert sum(context.record.exclusions.values()) == 1
    assert len(calls) == 1


@pytest.mark.parametrize("rounds", [0, 1.5, True, "3"])
def test_invalid_rounds(rounds):
    with pytest.raises(ConfigError, match=r"Growing\(rounds=.*\): it has to be an int of at least 1"):
        Growing(rounds=rounds)


def test_groups_grow_separately(full):
    selector, state, selected = Within(DiverseEvol("embedding", rounds=3), "cluster_id", "equal"), {}, []
    ids = np.array(full["cluster_id"][:])
    plan = selector.plan(9, 1.0, 12)
    for index, step in enumerate(plan):
        context = a_round(full, step.budget, selected, index=index, state=state, plan=plan)
        rows = run_selector(selector, context).tolist()
        assert set(selected) <= set(rows)
        assert all((ids[rows] == group).sum() >= index + 1 for group in (0, 1))
        assert len(rows) == step.budget
        selected = rows
    context.record.notes.clear()
    sentences = selector.explain(context, np.array(selected), selected[0])
    assert len(sentences) == 1
    assert sentences[0].startswith("Group ")
