import numpy as np
import pytest
from scipy.stats import chisquare

from hf_datasel import select
from hf_datasel.errors import ConfigError, SelectionError
from hf_datasel.scores import Cluster
from hf_datasel.selectors import KMRandom, get_selector, list_selectors
from hf_datasel.strategies.clusters import quotas
from hf_datasel.testing import contract


@contract(KMRandom(), KMRandom(shares="equal"), KMRandom(clusters=Cluster(k=3)))
def test_contract(check, selector, full):
    check(selector, full)


@pytest.mark.parametrize("shares", ["proportional", "equal"])
@pytest.mark.parametrize("budget", range(1, 11))
def test_each_cluster_gives_its_quota(gaps, shares, budget):
    ids = np.array(gaps["cluster_id"][:], dtype=float)
    ids[2] = np.nan
    selected = select(gaps, KMRandom(shares=shares), size=budget).indices
    found = {cluster: int((ids[selected] == cluster).sum()) for cluster in (0, 1, 2)}
    assert found == quotas(ids, budget, shares)


def test_every_row_of_a_cluster_is_as_likely(full, make_round):
    ids, counts = np.array(full["cluster_id"][:]), np.zeros(12)
    for seed in range(1500):
        counts[KMRandom().select(make_round(full, 6, seed=seed, eligible=np.ones(12, dtype=bool)))] += 1
    assert min(chisquare(counts[ids == cluster]).pvalue for cluster in range(3)) > 1e-3


def test_the_seed_decides_and_no_global_state(full):
    draws = set()
    for seed in (0, 0, 1, 2):
        np.random.seed(len(draws))
        draws.add(tuple(select(full, KMRandom(), size=6, seed=seed).indices.tolist()))
    assert len(draws) == 3


def test_another_round_draws_again(full, make_round):
    first, second = (KMRandom().select(make_round(full, 12, index)).tolist() for index in (0, 1))
    assert first != second


def test_small_clusters(full):
    selected = select(full, KMRandom(shares="equal"), size=11).indices
    assert np.bincount(np.array(full["cluster_id"][:])[selected])[2] == 2


def test_why_there_are_no_more(gaps):
    with pytest.raises(SelectionError, match=r"size=11 .*the 10 of 12 .*1 empty_response, 1 in no cluster"):
        select(gaps, KMRandom(), size=11)


def test_no_row_is_in_a_cluster(full):
    data = full.remove_columns("cluster_id").add_column("cluster_id", [None] * 12)
    with pytest.raises(SelectionError, match=r"None of the 12 rows can be selected \(12 in no cluster\)"):
        select(data, KMRandom(), size=1)


def test_impossible_settings_are_found_at_once():
    with pytest.raises(ConfigError, match=r"KMRandom\(shares=\{0: 1\}\)"):
        KMRandom(shares={0: 1})


def test_in_a_recipe():
    made = get_selector("km_random", {"clusters": {"score": "cluster", "k": [2, 3]}, "shares": "equal"})
    assert made == KMRandom(Cluster(k=(2, 3)), "equal")


def test_what_they_share_is_no_selector():
    assert "clustered" not in list_selectors()
