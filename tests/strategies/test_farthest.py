import numpy as np
import pytest

from hf_datasel.errors import Interrupted, SelectionError
from hf_datasel.strategies import farthest
from hf_datasel.strategies.farthest import farthest_first, nearest_selected


def square(x, y):
    return ((x.astype(np.float64) - y) ** 2).sum()


def plain(vectors, budget, start=()):
    """Measure every row against every selected row at every step, and take the first of the farthest."""
    usable = np.isfinite(vectors).all(axis=1)
    selected = [row for row in start if usable[row]]
    before = len(selected)
    left = [row for row in range(len(vectors)) if usable[row] and row not in selected]
    mean = vectors[usable].mean(axis=0, dtype=np.float64) if usable.any() else None
    for _ in range(budget):
        if selected:
            far = [min(square(vectors[row], vectors[other]) for other in selected) for row in left]
        else:
            far = [square(vectors[row], mean) for row in left]
        selected.append(left.pop(int(np.argmax(far))))
    return selected[before:]


def random_vectors(rng):
    """Ties, copies, near-duplicates, a large common offset, very unequal lengths, very large and small numbers."""
    n, d = rng.integers(1, 24), rng.integers(1, 7)
    kinds = [
        rng.normal(size=(n, d)),
        rng.integers(0, 3, size=(n, d)).astype(float),
        np.eye(max(n, d))[:n, :d],
        rng.normal(size=(n, d)) * 10.0 ** rng.integers(-6, 6, size=(n, 1)),
        np.zeros((n, d)),
    ]
    vectors = kinds[rng.integers(len(kinds))]
    vectors = vectors[rng.integers(0, n, size=n)] if rng.random() < 0.4 else vectors
    vectors = vectors + 1e-6 * rng.normal(size=(n, d)) * (rng.random() < 0.3)
    vectors = (vectors + rng.choice([0, 0, 1e3, 1e6])) * rng.choice([1, 1, 1, 1e-25, 1e25, 1e-60, 1e100])
    vectors[rng.random(n) < rng.choice([0, 0.2])] = rng.choice([np.nan, np.inf])
    return vectors


def small_blocks(monkeypatch, rng):
    monkeypatch.setattr(farthest, "_ROWS_PER_BLOCK", int(rng.integers(1, 6)))
    monkeypatch.setattr(farthest, "_CENTRES_PER_BLOCK", int(rng.integers(1, 6)))
    monkeypatch.setattr(farthest, "_POOL_SIZES", (1, int(rng.integers(1, 6))))


# -- the selection ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(4))
def test_equals_reference(monkeypatch, seed):
    rng = np.random.default_rng(seed)
    for _ in range(150):
        vectors = random_vectors(rng)
        if rng.random() < 0.5 and np.abs(vectors[np.isfinite(vectors)]).max(initial=0) < 1e38:
            vectors = vectors.astype(np.float32)
        start = rng.permutation(len(vectors))[: rng.integers(0, 4)] if rng.random() < 0.6 else []
        available = int(np.isfinite(np.delete(vectors, start, axis=0)).all(axis=1).sum())
        small_blocks(monkeypatch, rng)
        expected = plain(vectors, available, start)
        assert farthest_first(vectors, available, start).tolist() == expected
        budget = int(rng.integers(0, available + 1))
        assert farthest_first(vectors, budget, start).tolist() == expected[:budget]


@pytest.mark.shared
def test_published_selection(shared):
    golden = np.load(shared / "golden" / "diverseevol_kcenter.npz")
    selected = farthest_first(golden["embeddings"], 200, start=golden["labeled"])
    assert selected.tolist() == golden["picks_ordered_by_minvec"].tolist()
    assert sorted(selected) == golden["selected_sorted"].tolist()


@pytest.mark.shared
def test_once_published_selection(shared):
    golden = np.load(shared / "golden" / "diverseevol_kcenter.npz")
    selected = farthest_first(golden["embeddings"], 200, start=golden["labeled"], once=True)
    assert sorted(selected) == golden["one_shot_topn_xia"].tolist()


@pytest.mark.shared
def test_whitened_vectors_published_selection(shared):
    golden = np.load(shared / "golden" / "diverseevol_kcenter.npz")
    vectors = golden["embeddings"].astype(np.float64)
    # Whitening there: the first 8 principal components, each divided by its deviation, and rows of length 1.
    axes, variances, _ = np.linalg.svd(np.cov(vectors.T))
    white = ((vectors - vectors.mean(axis=0)) @ (axes / np.sqrt(variances)))[:, :8]
    white /= np.linalg.norm(white, axis=1, keepdims=True)
    selected = farthest_first(white, 200, start=golden["labeled"])
    assert sorted(selected) == golden["selected_sorted_whiten8"].tolist()


def test_block_sizes_do_not_matter(monkeypatch):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(700, 20)).astype(np.float32)
    vectors[300:400] = vectors[:100]
    vectors[400:500] = vectors[:100] + 1e-6
    expected = farthest_first(vectors, 700)
    for _ in range(3):
        monkeypatch.setattr(farthest, "_ROWS_PER_BLOCK", int(rng.integers(20, 300)))
        monkeypatch.setattr(farthest, "_CENTRES_PER_BLOCK", int(rng.integers(5, 100)))
        monkeypatch.setattr(farthest, "_POOL_SIZES", (int(rng.integers(1, 40)),) * 2)
        assert farthest_first(vectors, 700).tolist() == expected.tolist()


def test_pool_refill(monkeypatch):
    monkeypatch.setattr(farthest, "_POOL_SIZES", (8, 8))
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(12, 5)) * 5
    vectors = centres[rng.integers(0, 12, size=300)] + rng.normal(size=(300, 5)) * rng.random((300, 1))
    assert farthest_first(vectors, 40, start=[7]).tolist() == plain(vectors, 40, start=[7])


def test_common_offset_is_exact():
    rng = np.random.default_rng(0)
    offsets = rng.integers(-8, 8, size=(90, 6)) / 8.0
    vectors = (offsets + 2.0**17).astype(np.float32)  # exact in float32, but not their squares
    assert farthest_first(vectors, 89, start=[3]).tolist() == plain(offsets, 89, start=[3])


def test_near_duplicates_are_ordered_exactly():
    near = np.array([[1.0, 1.0], [1.0, 1.0 + 3e-8], [1.0, 1.0 + 1e-8], [1.0, 1.0 - 2e-8], [9.0, 9.0]])
    assert farthest_first(near, 4, start=[0]).tolist() == [4, 1, 3, 2]


def test_differences_below_float32():
    rng = np.random.default_rng(0)
    vectors = np.concatenate([[[1.0, 0.0], [-1.0, 0.0]], rng.normal(size=(60, 2)) * 1e-22])
    assert farthest_first(vectors, 40, start=[0]).tolist() == plain(vectors, 40, start=[0])


def test_copies_are_last_in_order():
    vectors = np.array([[2.0], [5.0], [2.0], [5.0], [3.0], [2.0]])
    assert farthest_first(vectors, 5, start=[2]).tolist() == [1, 4, 0, 3, 5]


def test_equal_vectors_keep_order():
    assert farthest_first(np.ones((5000, 3)), 5000).tolist() == list(range(5000))


def test_first_row_is_farthest_from_mean():
    vectors = np.random.default_rng(0).normal(size=(50, 4))
    order = np.random.default_rng(1).permutation(50)
    selected = farthest_first(vectors, 20)
    assert selected[0] == np.linalg.norm(vectors - vectors.mean(axis=0), axis=1).argmax()
    assert order[farthest_first(vectors[order], 20)].tolist() == selected.tolist()


def test_start_continues_a_selection():
    vectors = np.random.default_rng(0).normal(size=(80, 4))
    selected = farthest_first(vectors, 30)
    assert farthest_first(vectors, 20, start=selected[:10]).tolist() == selected[10:].tolist()


def test_rows_without_finite_vector():
    vectors = np.array([[0.0], [np.nan], [4.0], [np.inf], [1.0]])
    assert farthest_first(vectors, 2, start=[1, 0]).tolist() == [2, 4]
    assert farthest_first(vectors, 3, start=[1]).tolist() == farthest_first(vectors, 3).tolist()


def test_once():
    vectors = np.array([[0.0], [1.0], [5.0], [5.5], [-4.0]])
    assert farthest_first(vectors, 3, start=[0], once=True).tolist() == [3, 2, 4]
    assert farthest_first(vectors, 3, start=[0]).tolist() == [3, 4, 1]


def test_once_ties():
    assert farthest_first([[1.0], [2.0], [0.0], [2.0], [-2.0]], 4, start=[2], once=True).tolist() == [1, 3, 4, 0]


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.float32])
def test_dtypes(dtype):
    vectors = np.array([[0, 0], [3, 4], [1, 1], [6, 8]], dtype=dtype)
    assert farthest_first(vectors, 3, start=[0]).tolist() == [3, 1, 2]


@pytest.mark.parametrize("vectors", [np.empty((0, 3)), [[1.0, 2.0]], [[np.nan]]])
def test_zero_budget(vectors):
    selected = farthest_first(vectors, 0)
    assert selected.dtype == np.int64
    assert selected.shape == (0,)


def test_largest_numbers():
    assert farthest_first(np.array([[0.0], [1.0], [3.0]]) * 1e149, 2, start=[1]).tolist() == [2, 0]


def test_underflowing_distances_are_equal():
    assert farthest_first(np.array([[0.0], [1.0], [3.0]]) * 1e-300, 2, start=[1]).tolist() == [0, 2]


def test_one_row():
    assert farthest_first([[1.0, 2.0]], 1).tolist() == [0]


def test_arguments_are_not_modified():
    vectors, start = np.random.default_rng(0).normal(size=(30, 3)), np.array([4, 2])
    vectors[7] = np.nan
    before = vectors.copy()
    farthest_first(vectors, 20, start=start)
    nearest_selected(vectors, start)
    np.testing.assert_array_equal(vectors, before)
    assert start.tolist() == [4, 2]


# -- what is refused, and Ctrl-C -------------------------------------------------------------------------------------
def test_budget_too_large():
    with pytest.raises(SelectionError, match=r"budget=3 is more than the 2 rows .* \(1 of 3 are without a finite vec"):
        farthest_first([[1.0], [np.nan], [2.0], [3.0]], 3, start=[0])


def test_duplicate_start_positions():
    with pytest.raises(SelectionError, match=r"budget=3 is more than the 2 rows that can be selected\. Lower"):
        farthest_first([[1.0], [2.0], [3.0]], 3, start=[0, 0])


@pytest.mark.parametrize(("start", "message"), [([3], "start has 3, but the 3 rows"), ([-1], "start has -1")])
def test_start_out_of_range(start, message):
    with pytest.raises(SelectionError, match=message):
        farthest_first(np.ones((3, 2)), 1, start=start)


@pytest.mark.parametrize("start", [[0.5], [[1]], [True], ["a"]])
def test_invalid_start(start):
    with pytest.raises(SelectionError, match=r"start must be whole numbers of shape \(m,\)"):
        farthest_first(np.ones((3, 2)), 1, start=start)


@pytest.mark.parametrize("start", [[], [1]])
def test_once_without_start(start):
    with pytest.raises(SelectionError, match="once=True measures distances to start"):
        farthest_first([[1.0], [np.nan]], 1, start=start, once=True)


def test_invalid_vector_shape():
    with pytest.raises(SelectionError, match=r"shape \(n, d\), but got shape \(3,\)"):
        farthest_first(np.ones(3), 1)


def test_numbers_too_large():
    with pytest.raises(SelectionError, match=r"numbers up to 1e\+200 are too large to be squared"):
        farthest_first([[1e200], [0.0]], 1)


@pytest.mark.parametrize("start", [[], [5]])
def test_interrupt_keeps_selected_rows(start):
    vectors = np.random.default_rng(0).normal(size=(40, 3))

    def stop(selected):
        if selected == 7:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="7 rows had been selected") as interrupt:
        farthest_first(vectors, 30, start=start, progress=stop)
    assert interrupt.value.selected.tolist() == farthest_first(vectors, 30, start=start)[:7].tolist()


def test_progress():
    counts = []
    farthest_first(np.random.default_rng(0).normal(size=(20, 3)), 12, progress=counts.append)
    assert counts == list(range(1, 13))


# -- which selected row is nearest ------------------------------------------------------------------------------------
def test_nearest_selected_equals_reference(monkeypatch):
    rng = np.random.default_rng(0)
    for _ in range(300):
        vectors = random_vectors(rng)
        small_blocks(monkeypatch, rng)
        selected = rng.integers(0, len(vectors), size=rng.integers(0, 9))
        positions = rng.integers(0, len(vectors), size=rng.integers(0, 9)) if rng.random() < 0.5 else None
        rows, distances = nearest_selected(vectors, selected, positions)
        usable = np.isfinite(vectors).all(axis=1)
        centres = [row for row in selected if usable[row]]
        for row, nearest, distance in zip(
            np.arange(len(vectors)) if positions is None else positions, rows, distances, strict=True
        ):
            if not usable[row] or not centres:
                assert nearest == -1
                assert np.isnan(distance)
                continue
            squares = [square(vectors[row], vectors[centre]) for centre in centres]
            assert nearest == centres[int(np.argmin(squares))]
            assert distance == np.sqrt(min(squares))


def test_selected_row_is_nearest_to_itself():
    vectors = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32) + 100
    selected = farthest_first(vectors, 50)
    rows, distances = nearest_selected(vectors, selected, positions=selected)
    assert rows.tolist() == selected.tolist()
    assert not distances.any()


def test_nearest_selected_positions_out_of_range():
    with pytest.raises(SelectionError, match="nearest_selected: positions has 9, but the 3 rows are 0 to 2"):
        nearest_selected(np.ones((3, 2)), [0], positions=[9])
