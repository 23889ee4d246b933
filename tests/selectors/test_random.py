import numpy as np
from scipy.stats import chisquare

from hf_datasel import select
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.selectors import Random
from hf_datasel.testing import contract


@contract(Random())
def test_contract(check, selector, rows):
    check(selector, rows)


def test_every_row_and_every_rank_is_as_likely(rows, make_round):
    counts = np.zeros((4, 12))
    for seed in range(2400):
        selected = Random().select(make_round(rows, 4, seed=seed, eligible=np.ones(12, dtype=bool)))
        counts[np.arange(4), selected] += 1
    assert chisquare(counts.sum(axis=0)).pvalue > 1e-3
    assert min(chisquare(rank).pvalue for rank in counts) > 1e-3


def test_the_seed_decides(rows):
    draws = {tuple(select(rows, Random(), size=6, seed=seed).indices.tolist()) for seed in (0, 0, 1, 2)}
    assert len(draws) == 3


def test_another_round_draws_again(rows, make_round):
    first, second = (Random().select(make_round(rows, 12, index)).tolist() for index in (0, 1))
    assert first != second


def test_uses_no_column(rows):
    assert select(rows, Random(), size=3).provenance["columns_unverified"] == []


def test_draws_once_for_all_epochs():
    assert Random().plan(5, 3.0, 12) == (RoundPlan(5, 3.0),)
