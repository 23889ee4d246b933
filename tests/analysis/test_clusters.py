"""How many clusters, as numbers: known blobs, shares by hand, and what cannot be."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hf_datasel.analysis import cluster_choice, cluster_choices, cluster_quality, draw_cluster_choices
from hf_datasel.analysis.clusters import elbow_of
from hf_datasel.errors import ConfigError, ScoreError
from hf_datasel.scores import Cluster

MIDDLES = np.array([[0, 0, 0], [20, 0, 0], [0, 20, 0], [0, 0, 20], [20, 20, 20]])


@pytest.fixture(scope="module")
def blobs() -> np.ndarray:
    noise = np.random.default_rng(4).normal(size=(5, 60, 3))
    return (MIDDLES[:, None] + noise).reshape(300, 3)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_five_blobs_are_five_clusters(blobs, seed):
    choice = cluster_choice(blobs, [9, 2, 3, 4, 5, 6, 7, 8], seed=seed, sample=100, init="k-means++")
    assert choice["ks"] == [2, 3, 4, 5, 6, 7, 8, 9]
    assert (choice["best"], choice["elbow"]) == (5, 5)
    assert (choice["rows"], choice["sample"]) == (300, 100)
    assert choice["silhouette"][3] == max(choice["silhouette"]) > 0.85
    assert choice["inertia"] == sorted(choice["inertia"], reverse=True)
    assert 2.5 < choice["inertia"][3] < 3.5  # the noise in three dimensions
    assert json.loads(json.dumps(choice)) == choice


def test_it_is_what_cluster_fits(blobs, tmp_path):
    choice = cluster_choice(blobs, [4, 7], seed=3)
    fits = Cluster(k=(4, 7), seed=3).fits(blobs)
    assert choice["inertia"] == pytest.approx([fit.inertia for fit in fits], rel=1e-5)
    assert choice["silhouette"] == pytest.approx([fit.silhouette for fit in fits], rel=1e-5)
    assert Cluster(k=(4, 7), seed=3).fit(blobs, tmp_path / "a.npy").k == choice["best"]
    assert cluster_choice(blobs, [4, 7], seed=3) == choice
    assert cluster_choice(blobs, [4, 7], seed=1)["inertia"] != choice["inertia"]


def test_the_elbow_is_farthest_from_the_chord():
    ks, inertia = [2, 4, 8, 16, 32], [10.0, 7.0, 4.0, 3.0, 2.5]
    start, chord = np.array([2, 10.0]), np.array([30, -7.5])
    # perpendicular distances, both axes scaled to the chord's box
    scaled = (np.array([ks, inertia]).T - start) / chord
    apart = [abs(x - y) / np.sqrt(2) for x, y in scaled]
    assert elbow_of(ks, inertia) == ks[int(np.argmax(apart))] == 8
    assert elbow_of(ks, [1e6 * each for each in inertia]) == 8


@pytest.mark.parametrize(
    ("ks", "inertia"), [([2], [1]), ([2, 3], [2, 1]), ([2, 3, 4], [3, 2.9, 1]), ([2, 3, 4], [1, 0.5, 1])]
)
def test_curves_without_an_elbow(ks, inertia):
    assert elbow_of(ks, inertia) is None


def test_shares_of_low_clusters_by_hand():
    quality = np.array([0.1, 0.3, 0.4, 0.9, np.nan, 0.0])
    ids = {
        4: np.array([0, 0, 1, 1, 2, 3]),  # means 0.2, 0.65, none, 0.0
        2: np.array([0, 0, 0, 1, 1, 1]),  # means 0.8 / 3, 0.45
    }
    found = cluster_quality(ids, quality)
    assert found == {"threshold": 0.3, "ks": [2, 4], "low": [1, 2], "rated": [2, 3], "share": [0.5, 0.666667]}
    assert json.loads(json.dumps(found)) == found
    assert cluster_quality(ids, quality, threshold=0.5)["low"] == [2, 2]
    assert cluster_quality(ids, quality, threshold=-1)["low"] == [0, 0]


def test_rows_without_a_cluster_or_a_quality_and_empty_clusters():
    # as lists from a dataset: null where a row has no vector, or no rating
    found = cluster_quality({9: [0, 0, None, 8, 8]}, [0.2, None, 0.0, 0.5, float("inf")])
    assert (found["low"], found["rated"]) == ([1], [2])


def test_a_mean_at_the_threshold_is_not_below_it():
    for kind in (np.float32, np.float64):
        quality = np.full(7, 0.7, dtype=kind)
        assert cluster_quality({1: np.zeros(7)}, quality, threshold=0.7)["low"] == [0]
    assert cluster_quality({1: np.zeros(1)}, np.array([0.6999]), threshold=0.7)["low"] == [1]


# -- what cannot be ---------------------------------------------------------------------------------------------------
def test_vectors_that_cannot_be_clustered(blobs):
    with pytest.raises(ScoreError, match=r"shape \(rows, dimensions\), and these are \(300,\)"):
        cluster_choice(blobs[:, 0], [2, 3])
    holes = blobs.copy()
    holes[[3, 7], 1] = np.nan, np.inf
    with pytest.raises(ScoreError, match=r"2 of 300 vectors hold numbers that are not finite. Leave those rows out"):
        cluster_choice(holes, [2, 3])
    with pytest.raises(ScoreError, match=r"k=300 needs more than 300 vectors, and there are 300"):
        cluster_choice(blobs, [2, 300])
    with pytest.raises(ScoreError, match=r"Cluster\(k=3\): so many of the 20 vectors are equal"):
        cluster_choice(np.repeat(blobs[:2], 10, axis=0), [2, 3])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ks": [1, 2]}, r"k to try have to be different ints of at least 2"),
        ({"ks": []}, r"k to try have to be different ints of at least 2, one or more"),
        ({"ks": [2, 2]}, r"k to try have to be different ints"),
        ({"ks": [2], "sample": 0}, r"sample=0 rows"),
        ({"ks": [2], "seed": -1}, r"seed=-1"),
        ({"ks": [2], "init": "best"}, r"init='best'"),
        ({"ks": [2], "backend": "cuml"}, r"backend='cuml'"),
    ],
)
def test_settings_that_cannot_be(blobs, settings, message):
    with pytest.raises(ConfigError, match=message):
        cluster_choice(blobs, **settings)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ({}, r"needs the clusters of at least one k"),
        ({2: np.array([0, 1])}, r"shape \(2,\) at k=2 do not go with qualities of shape \(3,\)"),
        ({2: np.array([0, 1, 2])}, r"at k=2 have to be whole numbers from 0 to 1, and go from 0 to 2"),
        ({2: np.array([0, 1, -1])}, r"whole numbers from 0 to 1, and go from -1 to 1"),
        ({2: np.array([0, 0.5, 1])}, r"whole numbers from 0 to 1"),
        ({2: np.array([np.nan, np.nan, 1])}, r"No row has both a quality and a cluster at k=2"),
    ],
)
def test_clusters_that_cannot_be(ids, message):
    with pytest.raises(ScoreError, match=message):
        cluster_quality(ids, np.array([0.5, 0.5, np.nan]))


# -- several embedding models -----------------------------------------------------------------------------------------
def test_each_embedding_is_clustered_as_alone(blobs):
    flat = blobs[:, :1].copy()
    found = cluster_choices({"all": blobs, "first": flat}, [6, 4, 5], seed=2, sample=50, init="k-means++")
    assert json.loads(json.dumps(found)) == found
    assert found["names"] == ["all", "first"]
    alone = [cluster_choice(each, [4, 5, 6], seed=2, sample=50, init="k-means++") for each in (blobs, flat)]
    assert found["choices"] == alone
    assert found["choices"][0]["best"] == 5
    variance = [float(np.square(each - each.mean(axis=0)).sum(axis=1).mean()) for each in (blobs, flat)]
    assert found["variance"] == pytest.approx(variance, rel=1e-5)
    assert all(choice["inertia"][0] < each for choice, each in zip(alone, variance, strict=True))


def test_the_variance_is_read_in_blocks(blobs, monkeypatch):
    whole = cluster_choices({"a": blobs}, [2, 3])["variance"]
    monkeypatch.setattr("hf_datasel.analysis.clusters._BLOCK", 40)
    assert cluster_choices({"a": blobs}, [2, 3])["variance"] == whole


def test_embeddings_of_other_rows(blobs):
    with pytest.raises(ScoreError, match=r"of the same rows, and these have \{'a': 300, 'b': 299\}"):
        cluster_choices({"a": blobs, "b": blobs[1:]}, [2, 3])
    with pytest.raises(ScoreError, match=r"at least one embedding model, and got none"):
        cluster_choices({}, [2, 3])


@pytest.mark.parametrize("count", [1, 2, 6, 9])
def test_a_line_for_each_embedding(blobs, count):
    names = [f"{at} {'W' * 9 * at}" for at in range(count)]
    found = cluster_choices({name: blobs[:, : 1 + at % 3] for at, name in enumerate(names)}, [4, 5, 6], sample=50)
    figure = draw_cluster_choices(found, "W" * 99, dark=count == 2)
    key, left, right = figure.axes
    said = [text.get_text() for text in key.get_legend().get_texts()]
    assert len(said) == count
    choice = found["choices"][0]
    elbow = "none" if choice["elbow"] is None else choice["elbow"]
    assert said[0] == f"0: highest {choice['best']}, elbow {elbow}"
    curves = [line for line in left.lines if len(line.get_xdata()) == 3]
    assert [list(line.get_ydata()) for line in curves] == [each["silhouette"] for each in found["choices"]]
    looks = {(line.get_color(), line.get_marker(), str(line.get_linestyle())) for line in curves}
    assert len(looks) == count
    shares = np.array(choice["inertia"]) / found["variance"][0]
    assert right.lines[0].get_ydata() == pytest.approx(shares)
    box = figure.get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0
    assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()
