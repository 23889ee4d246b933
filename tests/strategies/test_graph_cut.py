from collections import Counter

import numpy as np
import pytest

from hf_datasel.errors import Interrupted, SelectionError
from hf_datasel.strategies import graph_cut
from hf_datasel.strategies.graph_cut import graph_cut_bins, sample_bins


def plain(vectors, n_bins):
    """Build the bins from a matrix of all similarities."""
    usable = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    units = vectors[usable].astype(np.float64)
    units = units / np.maximum(np.abs(units).max(axis=1, keepdims=True), 1e-300)
    units = units / np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-300)
    similarity = units @ units.T
    left = list(range(len(usable)))
    bins = []
    for number in range(n_bins):
        pool, selected = list(left), []
        for _ in range(len(usable) // n_bins if number < n_bins - 1 else len(pool)):
            gains = similarity[np.ix_(pool, left)].sum(axis=0) - 2 * similarity[np.ix_(selected, left)].sum(axis=0)
            selected.append(left.pop(int(np.argmax(gains >= gains.max() - 1e-12 * len(usable)))))
        bins.append(usable[selected].tolist())
    return bins


def random_vectors(rng):
    """Ties, copies, copies of another length, zero vectors, opposite vectors, rows with no finite vector."""
    n, d = rng.integers(1, 40), rng.integers(1, 6)
    kinds = [
        rng.normal(size=(n, d)),
        rng.normal(size=(n, d)) + 1,
        rng.integers(-1, 2, size=(n, d)).astype(float),
        np.eye(max(n, d))[:n, :d],
        np.ones((n, d)),
    ]
    vectors = kinds[rng.integers(len(kinds))]
    vectors = vectors[rng.integers(0, n, size=n)] if rng.random() < 0.4 else vectors
    vectors = vectors * rng.choice([1.0, -1.0, 3.0, 1e-3, 0.0], size=(n, 1)) if rng.random() < 0.4 else vectors
    vectors = vectors * rng.choice([1.0, 1.0, 1e-30, 1e30, 1e-250, 1e250])
    vectors[rng.random(n) < rng.choice([0, 0.2])] = rng.choice([np.nan, np.inf])
    return vectors


def lists(bins):
    return [positions.tolist() for positions in bins]


# -- bins ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(4))
def test_equals_similarity_matrix(monkeypatch, seed):
    rng = np.random.default_rng(seed)
    for _ in range(150):
        vectors = random_vectors(rng)
        usable = int(np.isfinite(vectors).all(axis=1).sum())
        monkeypatch.setattr(graph_cut, "_POOL_SIZES", (int(rng.integers(1, 12)),) * 2)
        if usable:
            n_bins = int(rng.integers(1, usable + 1))
            assert lists(graph_cut_bins(vectors, n_bins)) == plain(vectors, n_bins)


@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_large_inputs_and_pool_sizes(monkeypatch, offset):
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(300, 16)) + offset).astype(np.float32)
    vectors[200:240] = 3 * vectors[:40]
    expected = plain(vectors, 7)
    for pool in (1, 30, 1000):
        monkeypatch.setattr(graph_cut, "_POOL_SIZES", (pool, pool))
        assert lists(graph_cut_bins(vectors, 7)) == expected


def test_published_affine_similarity():
    vectors = np.random.default_rng(0).normal(size=(30, 4))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = (1 + units @ units.T) / 2
    left, bins = np.arange(30), []
    for _ in range(3):
        gains, selected = similarity[left].sum(axis=0), []
        for _ in range(10):
            best = max(set(left.tolist()) - set(selected), key=lambda row: gains[row])
            selected.append(best)
            gains = gains - 2 * similarity[best]
        bins.append(selected)
        left = np.setdiff1d(left, selected)
    assert lists(graph_cut_bins(vectors, 3)) == bins


def test_bins_partition_the_rows():
    vectors = np.random.default_rng(0).normal(size=(50, 3))
    vectors[[4, 40]] = np.nan
    bins = graph_cut_bins(vectors, 5)
    assert [len(positions) for positions in bins] == [9, 9, 9, 9, 12]
    assert sorted(np.concatenate(bins)) == [row for row in range(50) if row not in (4, 40)]
    assert all(positions.dtype == np.int64 for positions in bins)


def test_vector_length_does_not_matter():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 5))
    lengths = 10.0 ** rng.integers(-100, 100, size=(60, 1))
    assert lists(graph_cut_bins(vectors * lengths, 4)) == lists(graph_cut_bins(vectors, 4))


def test_zero_vectors():
    vectors = np.array([[0.0, 0.0], [3.0, 0.0], [5.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
    # The sum of all is (1, 0): row 1 has gain 1, and then everything like it -1, everything unlike it 1.
    assert lists(graph_cut_bins(vectors, 1)) == [[1, 4, 2, 0, 3]]


def test_equal_rows_keep_order():
    vectors = np.tile([[1.0, 2.0, 3.0]], (1500, 1)) * np.arange(1.0, 1501.0)[:, None]
    assert np.concatenate(graph_cut_bins(vectors, 3)).tolist() == list(range(1500))


def test_one_row_and_one_bin():
    assert lists(graph_cut_bins([[1.0, 2.0]], 1)) == [[0]]


def test_vectors_are_not_modified():
    vectors = np.random.default_rng(0).normal(size=(30, 3))
    before = vectors.copy()
    graph_cut_bins(vectors, 3)
    np.testing.assert_array_equal(vectors, before)


@pytest.mark.parametrize("n_bins", [0, -1, 1.5, None, True])
def test_invalid_n_bins(n_bins):
    with pytest.raises(SelectionError, match=f"n_bins={n_bins} must be a whole number, 1 or more"):
        graph_cut_bins(np.ones((3, 2)), n_bins)


def test_more_bins_than_rows():
    with pytest.raises(SelectionError, match="n_bins=3 is more than the 2 rows with a finite vector"):
        graph_cut_bins([[1.0], [np.nan], [2.0]], 3)


def test_invalid_vector_shape():
    with pytest.raises(SelectionError, match=r"shape \(n, d\), but got shape \(3,\)"):
        graph_cut_bins(np.ones(3), 1)


def test_interrupt_keeps_selected_rows():
    vectors = np.random.default_rng(0).normal(size=(40, 3))

    def stop(selected):
        if selected == 17:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="17 rows had been selected") as interrupt:
        graph_cut_bins(vectors, 4, progress=stop)
    assert interrupt.value.selected.tolist() == np.concatenate(graph_cut_bins(vectors, 4))[:17].tolist()


def test_progress():
    counts = []
    graph_cut_bins(np.random.default_rng(0).normal(size=(20, 3)), 3, progress=counts.append)
    assert counts == list(range(1, 21))


# -- the draw --------------------------------------------------------------------------------------------------------
def shares(drawn, bins):
    return [int(np.isin(positions, drawn).sum()) for positions in bins]


def test_equal_samples_per_bin():
    bins = [np.arange(0, 10), np.arange(10, 12), np.arange(12, 12), np.arange(20, 30)]
    for budget, expected in [(0, [0, 0, 0, 0]), (3, [1, 1, 0, 1]), (5, [2, 2, 0, 1]), (9, [4, 2, 0, 3])]:
        drawn = sample_bins(bins, budget, np.random.default_rng(0))
        assert drawn.dtype == np.int64
        assert len(set(drawn.tolist())) == budget
        assert shares(drawn, bins) == expected
    assert sorted(sample_bins(bins, 22, np.random.default_rng(0))) == sorted(np.concatenate(bins))


def test_smaller_budget_is_a_prefix():
    bins = [np.arange(0, 30), np.arange(30, 34), np.arange(34, 60)]
    drawn = sample_bins(bins, 50, np.random.default_rng(3)).tolist()
    for budget in range(51):
        assert sample_bins(bins, budget, np.random.default_rng(3)).tolist() == drawn[:budget]


def test_sample_is_uniform_within_bin():
    bins = [np.arange(8), np.arange(8, 12)]
    rng = np.random.default_rng(0)
    counts = Counter(row for _ in range(4000) for row in sample_bins(bins, 4, rng).tolist())
    for row in range(12):
        assert counts[row] == pytest.approx(4000 * (2 / 8 if row < 8 else 2 / 4), rel=0.1)


def test_seed():
    bins = [np.arange(50), np.arange(50, 100)]
    first, again, other = (sample_bins(bins, 20, np.random.default_rng(seed)).tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_bins_are_not_modified():
    bins = [np.arange(5), np.arange(5, 9)]
    sample_bins(bins, 6, np.random.default_rng(0))
    assert lists(bins) == [[0, 1, 2, 3, 4], [5, 6, 7, 8]]


def test_sample_budget_too_large():
    with pytest.raises(SelectionError, match=r"sample_bins: budget=5 is more than the 4 rows"):
        sample_bins([[1, 2], [3, 4]], 5, np.random.default_rng(0))


def test_no_bins():
    assert sample_bins([], 0, np.random.default_rng(0)).shape == (0,)
