from dataclasses import dataclass, field

import numpy as np
import pytest

from hf_datasel import select
from hf_datasel.errors import ConfigError, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.rounds.cache import RoundCache
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.rounds.run import run_selector
from hf_datasel.rounds.warmup_selector import WarmupSelector
from hf_datasel.scoring.engine import Engine
from hf_datasel.selectors import Longest, Random, get_selector
from hf_datasel.testing import contract


@dataclass(frozen=True)
class Warm(WarmupSelector):
    """Random rows, then the longest."""

    rows: int = field(default=4, kw_only=True)

    def warmup_budget(self, pool_size):
        return self.rows

    def warmup(self, context):
        return Random()

    def final(self, context):
        return Longest()


@contract(Warm(), Warm(rows=1, warmup_epochs=0.5))
def test_contract(check, selector, rows):
    check(selector, rows)


def test_plan():
    assert Warm(warmup_epochs=2.5).plan(260, 3.0, 5200) == (
        RoundPlan(4, 2.5, kind="warm-up"),
        RoundPlan(260, 3.0, restart=True),
    )


def test_each_round_has_its_selector(rows):
    pool, eligible = Pool(rows), np.ones(12, dtype=bool)
    compute = Engine(pool).compute
    first = RoundContext(RoundCache(pool, compute), budget=4, eligible=eligible)
    drawn = run_selector(Warm(), first)
    assert (
        drawn.tolist()
        == run_selector(Random(), RoundContext(RoundCache(pool, compute), budget=4, eligible=eligible)).tolist()
    )
    second = RoundContext(RoundCache(pool, compute), budget=6, index=1, eligible=eligible, selected=drawn)
    selected = run_selector(Warm(), second)
    assert selected.tolist() == select(rows, Longest(), size=6).indices.tolist()
    assert set(selected.tolist()) & set(drawn.tolist()), "which may be selected again"
    assert second.record.score_specs, "what the second round rests on is its own"
    assert not first.record.score_specs
    sentences = Warm().explain(first, drawn, int(drawn[0]))
    assert sentences == ["These are the rows of the warm-up.", *Random().explain(first, drawn, int(drawn[0]))]
    row = int(selected[-1])
    assert Warm().explain(second, selected, row) == Longest().explain(second, selected, row)


def test_warmup_larger_than_pool_is_refused():
    with pytest.raises(ConfigError, match=r"Warm warms up on 4 rows, and only 3 can be trained on\. Lower"):
        Warm().plan(2, 1.0, 3)


def test_select_is_refused(rows):
    with pytest.raises(SelectionError, match="Warm selects in 2 rounds with training between them"):
        select(rows, Warm(), size=3)


@pytest.mark.parametrize("epochs", [0, -1.0, float("inf"), "1", True])
def test_invalid_epochs(epochs):
    with pytest.raises(ConfigError, match=r"Warm\(warmup_epochs=.*\): it has to be a number above 0"):
        Warm(warmup_epochs=epochs)


def test_base_class_is_not_listed():
    with pytest.raises(ConfigError, match="There is no selector 'warmed'"):
        get_selector("warmed")
