from dataclasses import dataclass, field

import numpy as np
import pytest

from hf_datasel import select
from hf_datasel.errors import ConfigError, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.rounds.context import Round, RoundPlan
from hf_datasel.rounds.run import ask
from hf_datasel.rounds.warmup_selector import WarmedSelector
from hf_datasel.scoring.engine import Engine
from hf_datasel.selectors import Longest, Random, by_name
from hf_datasel.testing import contract


@dataclass(frozen=True)
class Warm(WarmedSelector):
    """Random rows, then the longest."""

    rows: int = field(default=4, kw_only=True)

    def warmup_budget(self, pool_size):
        return self.rows

    def warmup(self, round):
        return Random()

    def final(self, round):
        return Longest()


@contract(Warm(), Warm(rows=1, warmup_epochs=0.5))
def test_contract(check, selector, rows):
    check(selector, rows)


def test_a_warm_up_and_then_one_choice_from_the_base_model():
    assert Warm(warmup_epochs=2.5).plan(260, 3.0, 5200) == (
        RoundPlan(4, 2.5, kind="warm-up"),
        RoundPlan(260, 3.0, restart=True),
    )


def test_each_round_has_a_chooser_of_its_own(rows):
    pool, eligible = Pool(rows), np.ones(12, dtype=bool)
    compute = Engine(pool).compute
    first = Round(0, pool, eligible, 4, compute)
    drawn = ask(Warm(), first)
    assert drawn.tolist() == ask(Random(), Round(0, pool, eligible, 4, compute)).tolist()
    second = Round(1, pool, eligible, 6, compute, chosen=drawn)
    chosen = ask(Warm(), second)
    assert chosen.tolist() == select(rows, Longest(), size=6).indices.tolist()
    assert set(chosen.tolist()) & set(drawn.tolist()), "which may be chosen again"
    assert second.specs, "what the second round rests on is its own"
    assert not first.specs
    said = Warm().explain(first, drawn, int(drawn[0]))
    assert said == ["These are the rows of the warm-up.", *Random().explain(first, drawn, int(drawn[0]))]
    row = int(chosen[-1])
    assert Warm().explain(second, chosen, row) == Longest().explain(second, chosen, row)


def test_a_warm_up_above_the_pool_is_refused_with_both_figures():
    with pytest.raises(ConfigError, match=r"Warm warms up on 4 rows, and only 3 can be trained on\. Lower"):
        Warm().plan(2, 1.0, 3)


def test_there_is_no_training_between_the_rounds_of_select(rows):
    with pytest.raises(SelectionError, match="Warm chooses in 2 rounds with training between them"):
        select(rows, Warm(), size=3)


@pytest.mark.parametrize("epochs", [0, -1.0, float("inf"), "1", True])
def test_epochs_that_cannot_be(epochs):
    with pytest.raises(ConfigError, match=r"Warm\(warmup_epochs=.*\): it has to be a number above 0"):
        Warm(warmup_epochs=epochs)


def test_the_base_is_no_selector_by_name():
    with pytest.raises(ConfigError, match="There is no selector 'warmed'"):
        by_name("warmed")
