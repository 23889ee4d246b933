"""Fits and quality of clusters: synthetic blobs, shares computed by hand, and errors."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hf_datasel.analysis import cluster_fits, cluster_fits_by_model, cluster_quality, draw_cluster_fits_by_model
from hf_datasel.analysis.clusters import elbow_of
from hf_datasel.errors import ConfigError, ScoreError
from hf_datasel.scores import Cluster

MIDDLES = np.array([[0, 0, 0], [20, 0, 0], [0, 20, 0], [0, 0, 20], [20, 20, 20]])


@pytest.fixture(scope="module")
def blobs() -> np.ndarray:
    noise = np.random.default_rng(4).normal(size=(5, 60, 3))
    return (MIDDLES[:, None] + noise).reshape(300, 3)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_cluster_fits_of_five_blobs(blobs, seed):
    fits = cluster_fits(blobs, [9, 2, 3, 4, 5, 6, 7, 8], seed=seed, sample=100, init="k-means++")
    assert fits["ks"] == [2, 3, 4, 5, 6, 7, 8, 9]
    assert (fits["best"], fits["elbow"]) == (5, 5)
    assert (fits["rows"], fits["sample"], fits["starts"], fits["ties"]) == (300, 100, 5, [])
    assert fits["silhouette"][3] == max(fits["silhouette"]) > 0.85
    assert fits["inertia"] == sorted(fits["inertia"], reverse=True)
    assert 2.5 < fits["inertia"][3] < 3.5  # the noise in three dimensions
    assert json.loads(json.dumps(fits)) == fits


def test_cluster_fits_equal_those_of_cluster(blobs, tmp_path):
    fits = cluster_fits(blobs, [4, 7], seed=3)
    reference = Cluster(k=(4, 7), seed=3).fits(blobs)
    assert fits["inertia"] == pytest.approx([fit.inertia for fit in reference], rel=1e-5)
    assert fits["silhouette"] == pytest.approx([fit.silhouette for fit in reference], rel=1e-5)
    assert Cluster(k=(4, 7), seed=3).fit(blobs, tmp_path / "a.npy").k == fits["best"]
    assert cluster_fits(blobs, [4, 7], seed=3) == fits
    assert cluster_fits(blobs, [4, 7], seed=1)["inertia"] != fits["inertia"]


def test_spread_and_ties_of_the_starts():
    rng = np.random.default_rng(6)
    middles = rng.normal(size=(40, 8)) * 1.2
    overlapping = middles[rng.integers(0, 40, 400)] + rng.normal(size=(400, 8)) * 0.7
    fits = cluster_fits(overlapping, [4, 20, 30], n_init=4)
    reference = Cluster(k=(4, 20, 30), n_init=4).fits(overlapping)
    assert (fits["starts"], fits["best"], fits["ties"]) == (4, 20, [30])
    assert fits["spread"] == pytest.approx([np.std(fit.silhouettes, ddof=1) for fit in reference], abs=1e-6)
    single = cluster_fits(overlapping, [4, 20, 30], n_init=1, max_iter=20)
    assert (single["starts"], single["spread"]) == (1, [None] * 3)
    assert {single["best"], *single["ties"]} == {4, 20, 30}
    assert json.loads(json.dumps(single)) == single


def test_elbow_is_farthest_from_the_chord():
    ks, inertia = [2, 4, 8, 16, 32], [10.0, 7.0, 4.0, 3.0, 2.5]
    start, chord = np.array([2, 10.0]), np.array([30, -7.5])
    # perpendicular distances, both axes scaled to the chord's box
    scaled = (np.array([ks, inertia]).T - start) / chord
    distances = [abs(x - y) / np.sqrt(2) for x, y in scaled]
    assert elbow_of(ks, inertia) == ks[int(np.argmax(distances))] == 8
    assert elbow_of(ks, [1e6 * item for item in inertia]) == 8


@pytest.mark.parametrize(
    ("ks", "inertia"), [([2], [1]), ([2, 3], [2, 1]), ([2, 3, 4], [3, 2.9, 1]), ([2, 3, 4], [1, 0.5, 1])]
)
def test_no_elbow(ks, inertia):
    assert elbow_of(ks, inertia) is None


def test_cluster_quality_by_hand():
    quality = np.array([0.1, 0.3, 0.4, 0.9, np.nan, 0.0])
    ids = {
        4: np.array([0, 0, 1, 1, 2, 3]),  # means 0.2, 0.65, none, 0.0
        2: np.array([0, 0, 0, 1, 1, 1]),  # means 0.8 / 3, 0.45
    }
    result = cluster_quality(ids, quality)
    assert result == {"threshold": 0.3, "ks": [2, 4], "low": [1, 2], "rated": [2, 3], "share": [0.5, 0.666667]}
    assert json.loads(json.dumps(result)) == result
    assert cluster_quality(ids, quality, threshold=0.5)["low"] == [2, 2]
    assert cluster_quality(ids, quality, threshold=-1)["low"] == [0, 0]


def test_cluster_quality_with_missing_values():
    # as lists from a dataset: null where a row has no vector, or no rating
    result = cluster_quality({9: [0, 0, None, 8, 8]}, [0.2, None, 0.0, 0.5, float("inf")])
    assert (result["low"], result["rated"]) == ([1], [2])


def test_mean_quality_equal_to_threshold():
    for kind in (np.float32, np.float64):
        quality = np.full(7, 0.7, dtype=kind)
        assert cluster_quality({1: np.zeros(7)}, quality, threshold=0.7)["low"] == [0]
    assert cluster_quality({1: np.zeros(1)}, np.array([0.6999]), threshold=0.7)["low"] == [1]


# -- errors -----------------------------------------------------------------------------------------------------------
def test_invalid_vectors(blobs):
    with pytest.raises(ScoreError, match=r"shape \(rows, dimensions\), and these are \(300,\)"):
        cluster_fits(blobs[:, 0], [2, 3])
    holes = blobs.copy()
    holes[[3, 7], 1] = np.nan, np.inf
    with pytest.raises(ScoreError, match=r"2 of 300 vectors hold numbers that are not finite. Remove those rows"):
        cluster_fits(holes, [2, 3])
    with pytest.raises(ScoreError, match=r"k=300 needs more than 300 vectors, and there are 300"):
        cluster_fits(blobs, [2, 300])
    with pytest.raises(ScoreError, match=r"Cluster\(k=3\): so many of the 20 vectors are equal"):
        cluster_fits(np.repeat(blobs[:2], 10, axis=0), [2, 3])


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
        ({"ks": [2], "n_init": 0}, r"n_init=0"),
    ],
)
def test_invalid_settings(blobs, settings, message):
    with pytest.raises(ConfigError, match=message):
        cluster_fits(blobs, **settings)


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
def test_invalid_clusters(ids, message):
    with pytest.raises(ScoreError, match=message):
        cluster_quality(ids, np.array([0.5, 0.5, np.nan]))


# -- several embedding models -----------------------------------------------------------------------------------------
def test_fits_by_model_equal_separate_fits(blobs):
    flat = blobs[:, :1].copy()
    result = cluster_fits_by_model({"all": blobs, "first": flat}, [6, 4, 5], seed=2, sample=50, init="k-means++")
    assert json.loads(json.dumps(result)) == result
    assert result["names"] == ["all", "first"]
    separate = [cluster_fits(item, [4, 5, 6], seed=2, sample=50, init="k-means++") for item in (blobs, flat)]
    assert result["fits"] == separate
    assert result["fits"][0]["best"] == 5
    variance = [float(np.square(item - item.mean(axis=0)).sum(axis=1).mean()) for item in (blobs, flat)]
    assert result["variance"] == pytest.approx(variance, rel=1e-5)
    assert all(fits["inertia"][0] < item for fits, item in zip(separate, variance, strict=True))


def test_variance_in_blocks(blobs, monkeypatch):
    expected = cluster_fits_by_model({"a": blobs}, [2, 3])["variance"]
    monkeypatch.setattr("hf_datasel.analysis.clusters._BLOCK", 40)
    assert cluster_fits_by_model({"a": blobs}, [2, 3])["variance"] == expected


def test_embeddings_of_different_rows(blobs):
    with pytest.raises(ScoreError, match=r"of the same rows, and these have \{'a': 300, 'b': 299\}"):
        cluster_fits_by_model({"a": blobs, "b": blobs[1:]}, [2, 3])
    with pytest.raises(ScoreError, match=r"at least one embedding model, and got none"):
        cluster_fits_by_model({}, [2, 3])


@pytest.mark.parametrize("count", [1, 2, 6, 9])
def test_draw_cluster_fits_by_model(blobs, count):
    names = [f"{index} {'W' * 9 * index}" for index in range(count)]
    result = cluster_fits_by_model(
        {name: blobs[:, : 1 + index % 3] for index, name in enumerate(names)}, [4, 5, 6], sample=50
    )
    figure = draw_cluster_fits_by_model(result, "W" * 99, dark=count == 2)
    key, left, right = figure.axes
    labels = [text.get_text() for text in key.get_legend().get_texts()]
    assert len(labels) == count
    fits = result["fits"][0]
    elbow = "none" if fits["elbow"] is None else fits["elbow"]
    assert labels[0] == f"0: highest {fits['best']}, elbow {elbow}"
    curves = [line for line in left.lines if len(line.get_xdata()) == 3]
    assert [list(line.get_ydata()) for line in curves] == [item["silhouette"] for item in result["fits"]]
    looks = {(line.get_color(), line.get_marker(), str(line.get_linestyle())) for line in curves}
    assert len(looks) == count
    shares = np.array(fits["inertia"]) / result["variance"][0]
    assert right.lines[0].get_ydata() == pytest.approx(shares)
    box = figure.get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0
    assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()
