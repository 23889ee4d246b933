import numpy as np
import pytest

from hf_datasel import select
from hf_datasel.errors import ColumnError, ConfigError, ScoreError, SelectionError
from hf_datasel.scores import Cluster
from hf_datasel.selectors import KMClosest, get_selector
from hf_datasel.strategies.clusters import nearest_per_cluster
from hf_datasel.testing import contract


@contract(KMClosest(), KMClosest(shares="equal", distance="reward"), KMClosest(clusters=Cluster(k=3)))
def test_contract(check, selector, full):
    check(selector, full)


@pytest.mark.parametrize("shares", ["proportional", "equal"])
@pytest.mark.parametrize("budget", [1, 4, 9])
def test_the_nearest_to_each_centre(gaps, shares, budget):
    distance = np.array(gaps["cluster_distance"][:], dtype=float)
    ids = np.array(gaps["cluster_id"][:], dtype=float)
    ids[2] = np.nan
    expected = nearest_per_cluster(distance, ids, budget, shares)
    assert select(gaps, KMClosest(shares=shares), size=budget).indices.tolist() == expected.tolist()


def test_clusters_fitted_here_bring_their_distances(gaps):
    cluster = Cluster(k=3)
    selected = select(gaps.remove_columns(["cluster_id", "cluster_distance"]), KMClosest(clusters=cluster), size=6)
    vectors = np.array([[np.nan] * 4 if each is None else each for each in gaps["embedding"][:]], dtype=np.float32)
    usable = np.array([row for row in range(12) if row not in (2, 8)])
    _, centroids = cluster.find(vectors[usable])
    apart = np.linalg.norm(vectors[usable][:, None] - centroids, axis=2)
    expected = usable[nearest_per_cluster(apart.min(axis=1), apart.argmin(axis=1), 6)]
    assert selected.indices.tolist() == expected.tolist()
    assert selected.provenance["exclusions"] == {"in no cluster": 1}


def test_a_fitted_cluster_gives_the_same(full, tmp_path):
    bare = full.remove_columns(["cluster_id", "cluster_distance"])
    fitted = Cluster(k=3).fit(bare, tmp_path / "centroids.npy")
    here = select(bare, KMClosest(clusters=Cluster(k=3)), size=5).indices.tolist()
    assert select(bare, KMClosest(clusters=fitted), size=5).indices.tolist() == here


def test_why_there_are_no_more(gaps):
    message = r"size=10 .*the 9 of 12 .*1 empty_response, 1 in no cluster, 1 without cluster_distance"
    with pytest.raises(SelectionError, match=message):
        select(gaps, KMClosest(), size=10)


def test_more_clusters_than_rows(full):
    with pytest.raises(ScoreError, match=r"Cluster\(k=20\) has only 12 vectors"):
        select(full, KMClosest(clusters=Cluster(k=20)), size=3)


def test_equal_vectors_are_different_rows(full):
    same = full.remove_columns("embedding").add_column("embedding", [[1.0, 2.0]] * 6 + [[5.0, 0.0]] * 6)
    selected = select(same, KMClosest(clusters=Cluster(k=2)), size=6).indices
    assert sorted(selected.tolist()) == [0, 1, 2, 6, 7, 8]


def test_clusters_in_a_column_need_their_distances(full):
    with pytest.raises(ColumnError, match="KMClosest needs column 'cluster_distance'"):
        select(full.remove_columns("cluster_distance"), KMClosest(), size=3)


@pytest.mark.parametrize("distance", [None, "", 3])
def test_an_impossible_distance_is_found_at_once(distance):
    with pytest.raises(ConfigError, match=r"KMClosest\(distance=.*the name of a column"):
        KMClosest(distance=distance)


def test_in_a_recipe():
    assert get_selector("km_closest", {"clusters": {"score": "cluster", "k": 3}}) == KMClosest(Cluster(k=3))
