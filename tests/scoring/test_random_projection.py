"""The random projection, and the store of projected gradients."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch

from hf_datasel.errors import ScoreError
from hf_datasel.scoring.random_projection import FeatureStore, RandomProjection


def rows(count, size, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


# -- projection -------------------------------------------------------------------------------------------------------
def test_signs_are_splitmix64():
    """These are the first two numbers of splitmix64 for seed 0."""
    projection = RandomProjection(4, 128, seed=0)
    assert projection.exact
    projection = RandomProjection(400, 128, seed=0)
    bits = ((projection.signs(0, 2) + 1) / 2).long().tolist()
    state, mask = 0, (1 << 64) - 1
    for row in bits:
        for start in (0, 64):
            mixed = state
            mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
            mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
            mixed ^= mixed >> 31
            assert sum(bit << index for index, bit in enumerate(row[start : start + 64])) == mixed
            state = (state + 0x9E3779B97F4A7C15) & mask


def test_blocks_and_parts():
    vectors = rows(3, 1000)
    complete = RandomProjection(1000, 70, seed=5)([vectors])
    assert complete.shape == (3, 70)
    for block in (1, 7, 999, 1000, 5000):
        for cuts in ([1000], [1, 499, 500], [333, 333, 334]):
            result = RandomProjection(1000, 70, seed=5, block=block)(vectors.split(cuts, dim=1))
            torch.testing.assert_close(result, complete, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(RandomProjection(1000, 70, seed=5)([vectors[1:2]]), complete[1:2], rtol=1e-5, atol=1e-5)
    expected = vectors @ RandomProjection(1000, 70, seed=5).signs(0, 1000) / 70**0.5
    torch.testing.assert_close(complete, expected, rtol=1e-5, atol=1e-5)


def test_inner_products_are_preserved():
    vectors = rows(40, 3000) / 3000**0.5
    exact = vectors @ vectors.T
    for seed in range(3):
        result = RandomProjection(3000, 512, seed)([vectors])
        error = (result @ result.T - exact)[np.triu_indices(40, 1)]
        assert abs(error.mean()) < 4 / (512 * len(error)) ** 0.5
        assert 0.8 < error.std() * 512**0.5 < 1.2


def test_signs_are_balanced_and_independent():
    signs = RandomProjection(5000, 256, seed=1).signs(0, 2000)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(signs.mean()) < 4 / signs.numel() ** 0.5
    between = (signs.T @ signs / len(signs)).fill_diagonal_(0)
    assert between.abs().max() < 6 / len(signs) ** 0.5
    between = (signs[:256] @ signs[:256].T / 256).fill_diagonal_(0)
    assert between.abs().max() < 6 / 256**0.5


def test_seeds():
    first, second = (RandomProjection(5000, 64, seed).signs(0, 1000) for seed in (0, 1))
    assert abs((first * second).mean()) < 4 / first.numel() ** 0.5
    assert not set(map(tuple, first.tolist())) & set(map(tuple, second.tolist()))
    assert torch.equal(first, RandomProjection(5000, 64, 0).signs(0, 1000))


def test_no_projection_to_the_same_size():
    vectors = rows(2, 10)
    for dim in (10, 11):
        projection = RandomProjection(10, dim, seed=0)
        assert projection.dim == 10
        assert torch.equal(projection(vectors.split([4, 6], dim=1)), vectors)
        assert projection.spec() == {"size": 10}
    assert RandomProjection(10, 9, seed=3).spec() == {"size": 10, "dim": 9, "seed": 3}


# -- what is kept -----------------------------------------------------------------------------------------------------
SPEC = {"model": "one"}


def keys(*numbers):
    return np.stack([np.full(16, number, dtype=np.uint8) for number in numbers])


def features(*numbers):
    return np.stack([np.full(4, number, dtype=np.float16) for number in numbers])


def built(requested):
    """Return a function that computes features of rows, and the list of rows it was called with."""
    asked = []

    def make(index):
        asked.extend(requested[item] for item in index)
        return features(*(requested[item] for item in index))

    return make, asked


def test_feature_store_roundtrip(tmp_path):
    store = FeatureStore(tmp_path, SPEC, 4, keys(1, 2, 1))
    make, asked = built([1, 2, 1])
    assert np.array_equal(store.read_or_compute(np.array([1, 0]), make), features(2, 1))
    assert asked == [2, 1]
    store.close()
    store = FeatureStore(tmp_path, SPEC, 4, keys(3, 1, 2))
    make, asked = built([3, 1, 2])
    assert np.array_equal(store.read_or_compute(np.arange(3), make), features(3, 1, 2))
    assert asked == [3]
    store.close()
    store = FeatureStore(tmp_path, SPEC, 4, keys(2, 3))
    assert np.array_equal(store.read(np.array([1, 0]))[0], features(3, 2))
    assert len(list(tmp_path.glob("*/*.keys.npy"))) == 2
    other = FeatureStore(tmp_path, {"model": "two"}, 4, keys(2, 3))
    assert other.read(np.arange(2))[1].tolist() == [False, False]
    assert FeatureStore(tmp_path, SPEC, 4, keys(2)[:0]).read(np.arange(0))[0].shape == (0, 4)


def test_resume_after_kill(tmp_path):
    store = FeatureStore(tmp_path, SPEC, 4, keys(1, 2, 3))
    store.write(np.array([1]), features(2))
    before = sorted(tmp_path.glob("*/*.npy"))
    again = FeatureStore(tmp_path, SPEC, 4, keys(1, 2, 3))
    make, asked = built([1, 2, 3])
    assert np.array_equal(again.read_or_compute(np.arange(3), make), features(1, 2, 3))
    assert asked == [1, 3]
    assert sorted(tmp_path.glob("*/*.npy")) == before


def test_non_finite_features_are_not_stored(tmp_path):
    store = FeatureStore(tmp_path, SPEC, 4, keys(1, 2))
    store.write(np.arange(2), features(np.nan, 2))
    assert store.read(np.arange(2))[1].tolist() == [False, True]


@pytest.mark.parametrize("kind", ["features", "checks"])
@pytest.mark.parametrize("how", ["changed", "cut off"])
def test_damaged_feature_is_computed_again(tmp_path, caplog, kind, how):
    store = FeatureStore(tmp_path, SPEC, 4, keys(1, 2))
    store.write(np.arange(2), features(1, 2))
    store.close()
    [file] = tmp_path.glob(f"*/*.{kind}.npy")
    complete = file.read_bytes()
    file.write_bytes(complete[:-1] + bytes([complete[-1] ^ 1]) if how == "changed" else complete[:-3])
    store = FeatureStore(tmp_path, SPEC, 4, keys(1, 2))
    make, asked = built([1, 2])
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        assert np.array_equal(store.read_or_compute(np.arange(2), make), features(1, 2))
    assert asked == [2]
    assert "is damaged, and is computed again" in caplog.text


@pytest.mark.parametrize("kind", ["keys", "features", "checks"])
@pytest.mark.parametrize("left", [0, 100])
def test_truncated_file_is_set_aside(tmp_path, caplog, kind, left):
    store = FeatureStore(tmp_path, SPEC, 4, keys(1, 2))
    store.write(np.arange(2), features(1, 2))
    store.close()
    [file] = tmp_path.glob(f"*/*.{kind}.npy")
    file.write_bytes(file.read_bytes()[:left])
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        store = FeatureStore(tmp_path, SPEC, 4, keys(1, 2))
    assert "it is renamed, and its features are computed again" in caplog.text
    assert len(list(tmp_path.glob("*/*.damaged"))) == 3
    make, asked = built([1, 2])
    assert np.array_equal(store.read_or_compute(np.arange(2), make), features(1, 2))
    assert asked == [1, 2]


@pytest.mark.parametrize("content", ["{", json.dumps({"model": "two"})])
def test_spec_mismatch(tmp_path, content):
    FeatureStore(tmp_path, SPEC, 4, keys(1))
    [file] = tmp_path.glob("*/spec.json")
    file.write_text(content)
    with pytest.raises(ScoreError, match=r"cannot be trusted\. Delete the folder"):
        FeatureStore(tmp_path, SPEC, 4, keys(1))


def test_folder_cannot_be_created(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ScoreError, match="cannot be written to"):
        FeatureStore(tmp_path / "file", SPEC, 4, keys(1))
