"""Fitted scores are reused while rows are only appended, and never for other rows or vectors."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from datasets import concatenate_datasets

from hf_datasel import score
from hf_datasel.scores import Cluster, Embedding, Nuggets
from hf_datasel.scoring.store.fit_cache import fit_with_cache


@pytest.fixture
def vectors(pool_rows):
    rng = np.random.default_rng(0)
    return pool_rows.add_column("embedding", rng.normal(size=(24, 4)).astype(np.float32).tolist())


def grown(vectors, number):
    return concatenate_datasets([vectors, vectors.select([number])])


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".npy")


def test_appended_rows_keep_the_fit(tmp_path, vectors):
    first = score(vectors, [Cluster(k=3)], store=tmp_path)
    second = score(grown(vectors, 5), [Cluster(k=3)], store=tmp_path)
    assert second["cluster_id"][:24] == first["cluster_id"][:]
    assert second["cluster_distance"][:24] == first["cluster_distance"][:]
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("change", ["order", "fewer", "text", "vectors", "settings"])
def test_other_changes_fit_again(tmp_path, vectors, change):
    before = fit_with_cache(tmp_path, Cluster(k=3), vectors)
    cluster, data = Cluster(k=3), vectors
    if change == "order":
        data = vectors.select(range(23, -1, -1))
    elif change == "fewer":
        data = vectors.select(range(20))
    elif change == "text":
        data = vectors.map(lambda row, index: {"output": "Other." if index == 3 else row["output"]}, with_indices=True)
    elif change == "vectors":
        moved = np.array(vectors["embedding"], dtype=np.float32)
        moved[7, 1] += 1e-3
        data = vectors.remove_columns("embedding").add_column("embedding", moved.tolist())
    else:
        cluster = Cluster(k=3, seed=1)
    fit_with_cache(tmp_path, cluster, data)
    assert len(json.loads((tmp_path / "fitted.json").read_text())) == 2
    assert fit_with_cache(tmp_path, Cluster(k=3), vectors) == before  # still cached


def test_deleted_state_is_fitted_again(tmp_path, vectors):
    before = fit_with_cache(tmp_path, Cluster(k=3), vectors)
    (tmp_path / files(tmp_path)[0]).unlink()
    assert fit_with_cache(tmp_path, Cluster(k=3), vectors) == before
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("text", ["{", "[3]", '[{"wanted": 1, "rows": 3}]'])
def test_damaged_cache_file(tmp_path, vectors, text, caplog):
    (tmp_path / "fitted.json").write_text(text)
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        fitted = fit_with_cache(tmp_path, Cluster(k=3), vectors)
    assert (text == "{") == ("scores are fitted again" in caplog.text)
    assert fit_with_cache(tmp_path, Cluster(k=3), vectors) == fitted


def test_appended_rows_keep_anchors(tmp_path, tiny_model_dir, pool_rows):
    scores = [Embedding(as_trained=True), Nuggets(anchors=3)]
    first = score(pool_rows, scores, model=tiny_model_dir, store=tmp_path)
    more = concatenate_datasets([pool_rows, pool_rows.select([2])])
    second = score(more, scores, model=tiny_model_dir, store=tmp_path)
    assert second["golden"][:24] == first["golden"][:]
    assert len(list(tmp_path.glob("anchors-*"))) == 1
