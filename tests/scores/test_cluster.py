"""k-means over a column of vectors: fitting, rows one by one, samples, and what cannot be."""

from __future__ import annotations

import importlib
import importlib.util
import json
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset, Features, LargeList, List, Value

from hf_datasel import score
from hf_datasel.errors import ColumnError, ConfigError, ScoreError
from hf_datasel.formats import Pool, convert_pool
from hf_datasel.scores import Cluster, Embedding, cluster
from hf_datasel.scoring import silhouettes as silhouettes_module, vectors
from hf_datasel.scoring.engine import Engine
from hf_datasel.scoring.kmeans import nearest_centroids
from hf_datasel.scoring.silhouettes import silhouettes
from hf_datasel.testing import contract
from hf_datasel.testing.guards import unchanged_random_state
from hf_datasel.tokens import PreparedDataset, TokenRows, TokenSettings, prepare_dataset

VECTORS = np.random.default_rng(3).normal(size=(24, 5)).astype(np.float32)
CENTRES = VECTORS[:4] + 0.1
MIDDLES = np.array([[0, 0, 0], [20, 0, 0], [0, 20, 0], [0, 0, 20], [20, 20, 20]])
BLOBS = (MIDDLES[:, None] + np.random.default_rng(5).normal(size=(5, 40, 3))).reshape(200, 3).astype(np.float32)


def overlapping_groups():
    rng = np.random.default_rng(6)
    middles = rng.normal(size=(40, 8)) * 1.2
    return (middles[rng.integers(0, 40, 400)] + rng.normal(size=(400, 8)) * 0.7).astype(np.float32)


@pytest.fixture(scope="module")
def rows(pool_rows):
    column = Dataset.from_dict(
        {"embedding": VECTORS.tolist()}, features=Features({"embedding": List(Value("float32"))})
    )
    return pool_rows.add_column("embedding", column["embedding"][:], feature=column.features["embedding"])


@pytest.fixture(scope="module")
def centroids(tmp_path_factory):
    path = tmp_path_factory.mktemp("centroids") / "centroids.npy"
    np.save(path, CENTRES)
    return str(path)


@contract(Cluster(k=4), Cluster(k=4, column_prefix="old_"))
def test_contract(check, score, rows, centroids):
    check(replace(score, centroids=centroids), rows.select(range(8)))


def test_ids_and_distances(rows, centroids):
    scored = score(rows, [Cluster(k=4, centroids=centroids)])
    distances = np.array([[np.sqrt(((row - centroid) ** 2).sum()) for centroid in CENTRES] for row in VECTORS])
    assert scored["cluster_id"][:] == distances.argmin(axis=1).tolist()
    np.testing.assert_allclose(scored["cluster_distance"], distances.min(axis=1), rtol=1e-5)
    assert scored["cluster_id"][:4] == [0, 1, 2, 3]
    assert scored.features["cluster_id"] == Value("int32")


def test_fit_equals_scikit_learn(rows, tmp_path):
    from sklearn.cluster import KMeans

    for settings in ({}, {"n_init": 1, "max_iter": 2}, {"n_init": 3, "max_iter": 20, "init": "k-means++"}):
        like_paper = {"init": "random", "n_init": 5, "max_iter": 300}
        plain = KMeans(3, random_state=7, **like_paper | settings).fit(VECTORS)
        created = Cluster(k=3, seed=7, **settings).fit(rows, tmp_path / "a.npy")
        assert created == Cluster(k=3, seed=7, **settings, centroids=str(tmp_path / "a.npy"))
        np.testing.assert_allclose(np.load(tmp_path / "a.npy"), plain.cluster_centers_, atol=1e-6)
        assert score(rows, [created])["cluster_id"][:] == plain.predict(VECTORS).tolist()
    apart = np.concatenate([VECTORS[:12], VECTORS[12:] + 100])
    data = rows.remove_columns("embedding").add_column("embedding", apart.tolist())
    ids = score(data, [Cluster(k=2).fit(data, tmp_path / "b.npy")])["cluster_id"][:]
    assert ids in ([0] * 12 + [1] * 12, [1] * 12 + [0] * 12)


def test_seed(rows, tmp_path):
    with unchanged_random_state():
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            Cluster(k=6, seed=seed).fit(rows, tmp_path / f"{name}.npy")
    a, b, c = (np.load(tmp_path / f"{name}.npy") for name in "abc")
    assert a.tolist() == b.tolist()
    assert a.tolist() != c.tolist()


def test_fit_of_dataset_equals_fit_of_vectors(rows, tmp_path):
    Cluster(k=6).fit(rows, tmp_path / "a.npy")
    Cluster(k=6).fit(VECTORS, tmp_path / "b.npy")
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_fit_samples_large_data(monkeypatch, rows, tmp_path):
    monkeypatch.setattr(vectors, "ROWS_PER_BLOCK", 5)
    created = Cluster(k=6, seed=1, max_fit_rows=6).fit(rows, tmp_path / "a.npy")
    # as many centroids as rows in the sample: those rows
    result = np.load(tmp_path / "a.npy")
    distances = np.linalg.norm(result[:, None] - VECTORS[None], axis=-1)
    assert distances.min(axis=1).max() < 1e-5
    assert len(set(distances.argmin(axis=1).tolist())) == 6
    Cluster(k=6, seed=1, max_fit_rows=6).fit(VECTORS, tmp_path / "b.npy")
    assert np.load(tmp_path / "b.npy").tolist() == result.tolist()
    in_parts = score(rows, [created])
    monkeypatch.undo()
    assert score(rows, [created])["cluster_id"][:] == in_parts["cluster_id"][:]


def test_sample_grows_with_k(monkeypatch, rows):
    monkeypatch.setattr(cluster, "_FIT_ROWS", 7)
    monkeypatch.setattr(cluster, "_FIT_ROWS_PER_CENTROID", 3)
    for k, count in ((2, 7), (3, 9), (6, 18), (8, 24), (9, 24)):
        assert Cluster(k=k).fits(rows)[0].rows == count
        assert Cluster(k=k, max_fit_rows=10).fits(rows)[0].rows == 10
    # with several k, each has the rows that it has alone, and all are compared on those of the largest one
    both = Cluster(k=(2, 6)).fits(rows)
    assert [fit.rows for fit in both] == [18, 18]
    assert both[0].centroids.tolist() == Cluster(k=2).find(VECTORS)[1].tolist()
    assert both[0].centroids.tolist() != Cluster(k=2, max_fit_rows=18).find(VECTORS)[1].tolist()


def test_default_sample():
    vectors = np.random.default_rng(0).normal(size=(132_000, 1)).astype(np.float32)
    assert Cluster(k=2, n_init=1, max_iter=1).fits(vectors, sample=1)[0].rows == 131_072
    assert Cluster(k=514, n_init=1, max_iter=1).fits(vectors, sample=1)[0].rows == 514 * 256


def test_fit_reads_the_sample_only(monkeypatch, rows):
    counts = []
    read = vectors.vectors_from_arrow
    monkeypatch.setattr(
        vectors, "vectors_from_arrow", lambda values, *rest: counts.append(len(values)) or read(values, *rest)
    )
    Cluster(k=3, max_fit_rows=6).find(rows)
    assert sum(counts) == 6


def test_sample_of_rows_with_vectors(rows):
    half = [None if number % 2 else vector for number, vector in enumerate(VECTORS.tolist())]
    data = rows.remove_columns("embedding").add_column("embedding", half)
    result = Cluster(k=8, seed=3, max_fit_rows=8).find(data)[1]
    distances = np.linalg.norm(result[:, None] - VECTORS[::2][None], axis=-1)
    assert distances.min(axis=1).max() < 1e-5
    assert len(set(distances.argmin(axis=1).tolist())) == 8
    holes = np.where(np.arange(24)[:, None] % 2, np.nan, VECTORS)
    assert Cluster(k=8, seed=3, max_fit_rows=8).find(holes)[1].tolist() == result.tolist()
    usable = Cluster(k=8, seed=3).find(data)[1]
    assert usable.tolist() == Cluster(k=8, seed=3).find(VECTORS, np.arange(0, 24, 2))[1].tolist()


def test_columns_with_vectors_of_several_lengths(rows, monkeypatch):
    monkeypatch.setattr(vectors, "ROWS_PER_BLOCK", 1)
    data = rows.select(range(2)).remove_columns("embedding").add_column("embedding", [[1.0], [1.0, 2.0]])
    with pytest.raises(ColumnError, match=r"'embedding' holds vectors of 1 and of 2 numbers"):
        Cluster(k=2).find(data)


def test_more_starts_and_steps_lower_the_inertia():
    data = np.random.default_rng(8).normal(size=(400, 3)).astype(np.float32)
    inertia = {
        settings: Cluster(k=12, seed=0, n_init=settings[0], max_iter=settings[1]).fits(data)[0].inertia
        for settings in ((1, 1), (1, 300), (8, 300))
    }
    assert inertia[1, 1] > 1.05 * inertia[1, 300] > 1.05 * inertia[8, 300]
    assert inertia[1, 300] > 1.005 * inertia[8, 300]


def test_vectors_far_from_zero():
    near = np.array([[0, 0, 0], [3, 0, 0], [0, 3, 0]])[np.arange(60) % 3] + np.random.default_rng(1).random((60, 3))
    far = (near + 30_000).astype(np.float32)
    ids, distances = nearest_centroids(far, far[:3])
    assert ids.tolist() == (np.arange(60) % 3).tolist()
    assert distances.max() < 2


def test_subset_of_rows(rows, centroids, tokenizer):
    full = score(rows, [Cluster(k=4, centroids=centroids)])["cluster_id"][:]
    some = np.array([20, 3, 11])
    fitted, pool = Cluster(k=4, centroids=centroids), Pool(rows)
    result = Engine(pool).compute(fitted, some)
    assert result["cluster_id"].to_pylist() == [full[index] for index in some]
    settings = TokenSettings()
    prepared = PreparedDataset(prepare_dataset(convert_pool(pool, True), tokenizer, settings), tokenizer, settings)
    result = fitted.compute(TokenRows(pool, tokenizer, settings, prepared, some), None)
    assert result["cluster_id"].to_pylist() == [full[index] for index in some]


def test_clusters_of_embeddings(pool_rows, model, tokenizer, tmp_path):
    data = score(pool_rows, [Embedding(column_prefix="my_")], model=model, processing_class=tokenizer)
    scored = score(data, [Cluster(k=5, column="my_embedding").fit(data, tmp_path / "a.npy")])
    assert sorted(set(scored["cluster_id"])) == [0, 1, 2, 3, 4]
    assert set(scored["cluster_reason"]) == {""}


@pytest.mark.parametrize(
    "kind",
    [List(Value("float32"), length=5), List(Value("float64")), LargeList(Value("float16")), List(Value("int64"))],
)
def test_vector_column_types(rows, centroids, kind):
    full = (
        [(VECTORS[number] * 2**25).round().tolist() for number in range(4)]
        if "int" in str(kind)
        else VECTORS[:4].tolist()
    )
    data = rows.select(range(6)).remove_columns("embedding")
    data = data.add_column("embedding", [None, *full, None], feature=kind)
    scored = score(data, [Cluster(k=4, centroids=centroids)], on_summary=str)
    expected = [np.linalg.norm(np.float32(row) - CENTRES, axis=1).min() for row in full]
    np.testing.assert_allclose(scored["cluster_distance"][1:5], expected, rtol=1e-2)
    assert scored["cluster_reason"][:] == ["no_vector", "", "", "", "", "no_vector"]


def test_rows_without_a_vector(rows, centroids, tmp_path):
    vectors = [[0.0] * 5, None, [float("nan")] * 5, [None] * 5, [float("inf")] * 5, [1.0] * 5]
    data = rows.select(range(6)).remove_columns("embedding").add_column("embedding", vectors)
    scored = score(data, [Cluster(k=4, centroids=centroids)], on_summary=str)
    assert scored["cluster_reason"][:] == ["", "no_vector", "not_finite", "not_finite", "not_finite", ""]
    assert [value is None for value in scored["cluster_id"]] == [False, True, True, True, True, False]
    assert scored["cluster_distance"][1:5] == [None] * 4
    Cluster(k=2).fit(data, tmp_path / "a.npy")
    assert sorted(np.load(tmp_path / "a.npy").tolist()) == [[0.0] * 5, [1.0] * 5]


def test_changed_centroids_file_changes_identity(rows, tmp_path):
    created = Cluster(k=3, seed=1).fit(rows, tmp_path / "a.npy")
    spec, pickled, before = created.spec(), pickle.dumps(created), score(rows, [created])["cluster_id"][:]
    again = Cluster(k=3, seed=2).fit(rows, tmp_path / "a.npy")
    assert again.centroids == created.centroids
    assert created.spec()["resolved_centroids"] != spec["resolved_centroids"]
    assert pickle.dumps(created) != pickled
    assert score(rows, [created])["cluster_id"][:] != before


# -- several k --------------------------------------------------------------------------------------------------------
def silhouette_by_hand(vectors, row, ids):
    """The definition, word for word."""
    distances = [float(np.linalg.norm(np.float64(vectors[row]) - vector)) for vector in vectors]
    own = [distances[number] for number in range(len(ids)) if ids[number] == ids[row] and number != row]
    others = [np.mean([distances[index] for index in np.flatnonzero(ids == item)]) for item in set(ids) - {ids[row]}]
    if not own:
        return 0.0
    return (min(others) - np.mean(own)) / max(min(others), np.mean(own))


def test_silhouettes(monkeypatch):
    from sklearn.metrics import silhouette_samples

    rng = np.random.default_rng(1)
    groups = [rng.integers(0, 3, 24), np.append(rng.integers(0, 2, 23) * 5, 3)]  # the latter: empty ones, one alone
    rows = np.array([23, 0, 5, 11])
    full = silhouettes(VECTORS, rows, groups)
    for ids, result in zip(groups, full, strict=True):
        assert result == pytest.approx([silhouette_by_hand(VECTORS, row, ids) for row in rows], abs=1e-6)
        assert result == pytest.approx(silhouette_samples(VECTORS, ids)[rows], abs=1e-6)
    assert full[1][0] == 0
    monkeypatch.setattr(silhouettes_module, "_ROWS", 3)
    monkeypatch.setattr(silhouettes_module, "_MAX_VECTORS", 7)
    np.testing.assert_allclose(silhouettes(VECTORS, rows, groups), full, atol=1e-12)


def test_silhouette_of_equal_vectors():
    vectors = np.repeat(np.float32([[1e4, 1e4], [1e4, 1e4 + 1]]), 5, axis=0)
    [result] = silhouettes(vectors, np.arange(10), [np.repeat([0, 1], 5)])
    assert result.tolist() == [1.0] * 10
    [result] = silhouettes(vectors[:4], np.arange(4), [np.array([0, 0, 1, 1])])
    assert result.tolist() == [0.0] * 4


def test_fits_equal_single_fits(rows, tmp_path):
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    fits = Cluster(k=(6, 3), seed=1, n_init=3).fits(rows)
    assert [(fit.k, fit.rows) for fit in fits] == [(3, 24), (6, 24)]
    for fit in fits:
        Cluster(k=fit.k, seed=1, n_init=3).fit(rows, tmp_path / "a.npy")
        assert np.load(tmp_path / "a.npy").tolist() == fit.centroids.tolist()
        distances = np.linalg.norm(VECTORS[:, None] - fit.centroids[None], axis=-1)
        generator = np.random.RandomState(1)
        plain = [KMeans(fit.k, init="random", n_init=1, random_state=generator).fit(VECTORS) for _ in range(3)]
        expected = [silhouette_score(VECTORS, model.labels_) for model in plain]
        assert fit.silhouettes == pytest.approx(expected, abs=1e-6)
        assert fit.silhouette == pytest.approx(np.mean(expected), abs=1e-6)
        assert fit.spread == pytest.approx(np.std(expected, ddof=1), abs=1e-6)
        assert fit.inertia == pytest.approx((distances.min(axis=1) ** 2).mean(), rel=1e-5)


def test_sampled_silhouette():
    from sklearn.metrics import silhouette_score

    vectors = np.random.default_rng(2).normal(size=(600, 4)).astype(np.float32)
    cluster = Cluster(k=(100,), init="k-means++", n_init=1)
    [full], [some] = cluster.fits(vectors), cluster.fits(vectors, sample=200)
    assert some.silhouette != full.silhouette
    assert some.silhouette == pytest.approx(full.silhouette, abs=0.03)
    assert cluster.fits(vectors, sample=200)[0].silhouette == some.silhouette
    # which the rows of the sample among themselves do not tell: two of them a group
    ids = np.linalg.norm(vectors[:200, None] - full.centroids[None], axis=-1).argmin(axis=1)
    assert silhouette_score(vectors[:200], ids) < full.silhouette - 0.06


def test_fit_selects_highest_silhouette(tmp_path, caplog):
    several = Cluster(k=(9, 5, 3), init="k-means++")
    with caplog.at_level("INFO", logger="hf_datasel"):
        created = several.fit(BLOBS, tmp_path / "a.npy")
    three, five, nine = (f"{fit.k}: {fit.silhouette:.3f} ± {fit.spread:.3f}" for fit in several.fits(BLOBS))
    assert caplog.messages == [f"Silhouette by k: {three}, {five}, {nine}"]
    assert created == replace(several, k=5, centroids=str(tmp_path / "a.npy"))
    assert created.spec()["k"] == 5
    Cluster(k=5, init="k-means++").fit(BLOBS, tmp_path / "b.npy")
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    distances = np.linalg.norm(np.load(tmp_path / "a.npy")[:, None] - MIDDLES[None], axis=-1)
    assert sorted(distances.argmin(axis=1)) == [0, 1, 2, 3, 4]
    assert distances.min(axis=1).max() < 1


def test_ks_that_cannot_be_told_apart(caplog):
    data = overlapping_groups()
    several = Cluster(k=(4, 20, 30), n_init=4)
    four, twenty, thirty = several.fits(data)
    assert abs(twenty.silhouette - thirty.silhouette) < max(twenty.spread, thirty.spread)
    assert four.silhouette + 3 * max(four.spread, twenty.spread) < twenty.silhouette
    assert several.find(data)[0] == 20
    assert caplog.messages == [
        "k=20 has the highest silhouette of 4 starts, and k=30 cannot be told apart from it: the silhouettes of other "
        "starts may order them otherwise. Raise n_init, or name the k that you prefer."
    ]
    caplog.clear()
    # one start says nothing about its luck
    assert [fit.spread for fit in replace(several, n_init=1).fits(data)] == [None] * 3
    replace(several, n_init=1).find(data)
    assert "has the highest silhouette of one start" in caplog.text
    caplog.clear()
    assert replace(several, k=(4, 20)).find(data)[0] == 20
    assert caplog.messages == []


def test_more_starts_select_the_same_k_with_every_seed():
    data = overlapping_groups()
    one, many = (
        {Cluster(k=(20, 40), n_init=n_init, seed=seed).find(data)[0] for seed in range(6)} for n_init in (1, 12)
    )
    assert (one, many) == ({20, 40}, {20})


def test_multiple_k():
    several = Cluster(k=[4, 8])
    assert several == Cluster(k=(4, 8))
    assert hash(several) == hash(Cluster(k=(4, 8)))
    assert Cluster(**json.loads(json.dumps(several.settings()))) == several
    assert pickle.loads(pickle.dumps(several)) == several
    assert several.spec()["k"] == (4, 8)


# -- threads ----------------------------------------------------------------------------------------------------------
def test_number_of_threads_changes_nothing():
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(4)
    data = rng.normal(size=(5000, 40)).astype(np.float32)
    labels = [rng.integers(0, 7, 5000), rng.integers(0, 90, 5000)]
    results = []
    for threads in (1, 2, 3):
        with threadpool_limits(limits=threads):
            ids, distances = nearest_centroids(data, data[:300])
            results.append([ids, distances, *silhouettes(data, np.arange(400), labels)])
    for result in results[1:]:
        for values, expected in zip(result, results[0], strict=True):
            assert values.tolist() == expected.tolist()
    some = rng.permutation(5000)[:2500]
    ids, distances = nearest_centroids(data, data[:300], some)
    assert ids.tolist() == results[0][0][some].tolist()
    np.testing.assert_allclose(distances, results[0][1][some], atol=1e-6)


# -- faiss ------------------------------------------------------------------------------------------------------------
@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")
def test_faiss_backend(rows, tmp_path, capfd):
    vectors = np.random.default_rng(2).normal(size=(3000, 8)).astype(np.float32)
    [own_fit] = Cluster(k=(10,)).fits(vectors)
    [reference] = Cluster(k=(10,), backend="faiss").fits(vectors)
    assert reference.inertia == pytest.approx(own_fit.inertia, rel=0.02)
    assert reference.centroids.tolist() != own_fit.centroids.tolist()
    with unchanged_random_state():
        created = Cluster(k=6, backend="faiss", seed=2**40).fit(rows, tmp_path / "a.npy")
    Cluster(k=6, backend="faiss", seed=2**40).fit(VECTORS, tmp_path / "b.npy")
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    assert created.spec()["backend"] == "faiss"
    assert set(score(rows, [created])["cluster_id"]) == set(range(6))
    # one step moves each centroid to the mean of its rows: all 3,000 of them, and not 256
    one = Cluster(k=1, backend="faiss").fit(vectors, tmp_path / "c.npy")
    np.testing.assert_allclose(np.load(one.centroids)[0], vectors.mean(axis=0), atol=1e-5)
    with pytest.raises(ScoreError, match=r"Cluster\(k=3\): so many of the 8 vectors are equal"):
        Cluster(k=3, backend="faiss").fit(np.repeat([[0.0, 1.0], [2.0, 3.0]], 4, axis=0), tmp_path / "d.npy")
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")
def test_faiss_starts_are_those_of_nredo():
    faiss = importlib.import_module("faiss")
    data = np.random.default_rng(2).normal(size=(900, 8)).astype(np.float32)
    plain = faiss.Kmeans(8, 30, niter=7, nredo=4, seed=11, min_points_per_centroid=1, max_points_per_centroid=900)
    plain.train(data)
    settings = {"backend": "faiss", "n_init": 4, "max_iter": 7, "seed": 11}
    assert Cluster(k=30, **settings).find(data)[1].tolist() == plain.centroids.tolist()
    [fit] = Cluster(k=30, **settings).fits(data)
    assert fit.centroids.tolist() == plain.centroids.tolist()
    assert len(set(fit.silhouettes)) == 4


def test_missing_faiss(rows, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ScoreError, match=r"backend='faiss'\) needs faiss, .*pip install faiss-cpu"):
        Cluster(k=3, backend="faiss").fit(rows, tmp_path / "a.npy")
    assert not (tmp_path / "a.npy").exists()


# -- what cannot be ---------------------------------------------------------------------------------------------------
def test_not_fitted(rows):
    with pytest.raises(ScoreError, match=r"Cluster is not fitted.*Cluster\(\.\.\.\)\.fit\(dataset, path\)"):
        score(rows, [Cluster(k=9)])
    with pytest.raises(ScoreError, match=r"Cluster\(k=9\) is not fitted"):
        Cluster(k=9)(rows[:2])
    with pytest.raises(ScoreError, match=r"Cluster\(k=\(4, 9\)\) is not fitted"):
        Cluster(k=(4, 9))(rows[:2])


def test_invalid_centroids_files(rows, centroids, tmp_path):
    with pytest.raises(ScoreError, match=r"There is no file '.*missing.npy' with the centroids of Cluster\(k=4\)"):
        score(rows, [Cluster(k=4, centroids=str(tmp_path / "missing.npy"))])
    with pytest.raises(ScoreError, match=r"shape \(4, 5\), and not 3 centroids"):
        score(rows, [Cluster(k=3, centroids=centroids)])
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(ScoreError, match=r"text.npy' holds no centroids"):
        score(rows, [Cluster(k=3, centroids=str(tmp_path / "text.npy"))])
    with pytest.raises(ConfigError, match=r"Cluster.fit\(path='a.txt'\)"):
        Cluster(k=3).fit(rows, "a.txt")


def test_unfittable_data(rows, tmp_path):
    path = tmp_path / "a.npy"
    with pytest.raises(ScoreError, match=r"Cluster\(k=25\) has only 24 vectors to fit to"):
        Cluster(k=25).fit(rows, path)
    with pytest.raises(ScoreError, match=r"Cluster\(k=3\): so many of the 8 vectors are equal"):
        Cluster(k=3).fit(np.repeat([[0.0, 1.0], [2.0, 3.0]], 4, axis=0), path)
    with pytest.raises(ScoreError, match=r"has only 0 vectors"):
        Cluster(k=3).fit(np.full((5, 2), np.nan), path)
    with pytest.raises(ScoreError, match=r"shape \(rows, dimensions\), and these are \(24,\)"):
        Cluster(k=3).fit(VECTORS[:, 0], path)
    with pytest.raises(ScoreError, match=r"silhouette at k=24 needs more than 24 vectors, and there are 24"):
        Cluster(k=(4, 24)).fit(rows, path)
    with pytest.raises(ScoreError, match=r"Cluster\(k=3\): so many of the 8 vectors are equal"):
        Cluster(k=(2, 3)).fit(np.repeat([[0.0, 1.0], [2.0, 3.0]], 4, axis=0), path)
    with pytest.raises(ConfigError, match=r"sample=0 rows: it has to be an int of at least 1"):
        Cluster(k=(2, 3)).fits(VECTORS, sample=0)
    with pytest.raises(ConfigError, match=r"Cluster\(k=\(1,\)\): k to try have to be different ints of at least 2"):
        Cluster(k=1).fits(VECTORS)
    assert not path.exists()


def test_columns_without_vectors(rows, centroids):
    with pytest.raises(ColumnError, match=r"needs column 'embeding'.*Did you mean 'embedding'\?"):
        score(rows, [Cluster(k=4, column="embeding", centroids=centroids)])
    with pytest.raises(ColumnError, match=r"'output' holds string, and vectors are lists of numbers"):
        score(rows, [Cluster(k=4, column="output", centroids=centroids)])
    bare = rows.select(range(3)).remove_columns("embedding")
    for wrong, message in (
        ([[1.0], [1.0, 2.0], [3.0] * 3], "holds vectors of several lengths"),
        ([[1.0, 2.0]] * 3, r"holds vectors of 2 numbers, and the centroids in '.*' have 5"),
        ([["a"]] * 3, r"holds list<.*string>, and vectors"),
    ):
        with pytest.raises(ColumnError, match=message):
            score(bare.add_column("embedding", wrong), [Cluster(k=4, centroids=centroids)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, r"Cluster\(k=0\): it has to be an int of at least 1"),
        ({"k": 2.0}, r"Cluster\(k=2.0\): it has to be an int"),
        ({"n_init": 0}, r"Cluster\(n_init=0\): it has to be an int of at least 1"),
        ({"n_init": "auto"}, r"Cluster\(n_init='auto'\): it has to be an int"),
        ({"max_iter": (1, 2)}, r"Cluster\(max_iter=\(1, 2\)\): it has to be an int of at least 1"),
        ({"max_fit_rows": True}, r"Cluster\(max_fit_rows=True\): it has to be an int"),
        ({"max_fit_rows": 999}, r"k=1000, max_fit_rows=999\): that many centroids need at least 1,000 rows. Raise"),
        ({"k": (4, 8), "max_fit_rows": 8}, r"k=\(4, 8\), max_fit_rows=8\): that many centroids need at least 9 rows"),
        ({"k": ()}, r"Cluster\(k=\(\)\): k to try have to be different ints of at least 2, one or more"),
        ({"k": [4, 1]}, r"Cluster\(k=\(4, 1\)\): k to try have to be different ints of at least 2"),
        ({"k": (4, 4)}, r"k to try have to be different ints"),
        ({"k": (4, "8")}, r"k to try have to be different ints"),
        ({"k": (4, 8), "centroids": "a.npy"}, r"Cluster\(k=\(4, 8\), centroids='a.npy'\): centroids are of one k"),
        (
            {"init": "kmeans"},
            r"Cluster\(init='kmeans'\): it has to be 'random' or 'k-means\+\+'\. Did you mean 'k-means\+\+'\?",
        ),
        (
            {"backend": "Faiss"},
            r"Cluster\(backend='Faiss'\): it has to be 'sklearn' or 'faiss'\. Did you mean 'faiss'",
        ),
        ({"backend": "faiss", "init": "k-means++"}, r"backend='faiss'\) starts from random rows: remove init"),
        ({"seed": -1}, r"Cluster\(seed=-1\): it has to be an int of at least 0"),
        ({"column": ""}, r"Cluster\(column=''\): it has to be the name of a column"),
        ({"centroids": 3}, r"Cluster\(centroids=3\): it has to be the path of a file"),
    ],
)
def test_invalid_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        Cluster(**settings)


# -- in one command ---------------------------------------------------------------------------------------------------
def test_score_fits_with_a_store(tmp_path, tiny_model_dir, pool_rows):
    scores = [Cluster(k=3), Embedding(as_trained=True)]
    scored = score(pool_rows, scores, model=tiny_model_dir, store=tmp_path)
    (file,) = tmp_path.glob("centroids-*.npy")
    vectors = score(pool_rows, [Embedding(as_trained=True)], model=tiny_model_dir)
    again = score(vectors, [Cluster(k=3, centroids=str(file))])
    assert scored["cluster_id"][:] == again["cluster_id"][:]
    assert [name for name in scored.column_names if "cl" in name or "emb" in name] == [
        "cluster_id",
        "cluster_distance",
        "cluster_reason",
        "embedding",
        "embedding_reason",
    ]
    score(pool_rows, scores, model=tiny_model_dir, store=tmp_path)
    assert list(tmp_path.glob("centroids-*.npy")) == [file]
