import itertools
import tracemalloc

import numpy as np
import pytest

from hf_datasel.errors import Interrupted, SelectionError
from hf_datasel.strategies import facility
from hf_datasel.strategies.facility import facility_location, nearest_by_cosine
from hf_datasel.strategies.top import top


def cosine(a, b):
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b) / lengths if lengths else 0.0


def objective(vectors, quality, selected, alpha, normalized_to=None, covered_by=None):
    """The published sum for a set of rows, computed from scratch; or the normalised one, for that budget."""
    rows = [row for row in range(len(vectors)) if np.isfinite(vectors[row]).all()]
    if covered_by is None:
        coverage = [max(cosine(vectors[row], vectors[site]) for site in selected) for row in rows]
    else:
        coverage = [max([0.0, *(covered_by[row].get(site, 0.0) for site in selected)]) for row in rows]
    if normalized_to is None:
        return (1 - alpha) * sum(coverage) + alpha * sum(quality[site] for site in selected)
    can = [q for q, vector in zip(quality, vectors, strict=True) if np.isfinite(q) and np.isfinite(vector).all()]
    spread = (max(can) - min(can)) or 1.0
    scaled = [(quality[site] - min(can)) / spread for site in selected]
    return (1 - alpha) * np.mean(coverage) + alpha * sum(scaled) / normalized_to


def plain_greedy(vectors, quality, budget, alpha, normalize=False, covered_by=None):
    """Compute the objective for every candidate at each step, and select the first of the best."""
    left = [row for row in range(len(vectors)) if np.isfinite(vectors[row]).all() and np.isfinite(quality[row])]
    selected = []
    for _ in range(budget):
        sums = [
            objective(vectors, quality, [*selected, row], alpha, budget if normalize else None, covered_by)
            for row in left
        ]
        best = next(row for row, value in zip(left, sums, strict=True) if value >= max(sums) - 1e-11)
        selected.append(best)
        left.remove(best)
    return selected


def nearest_lists(vectors, quality, k):
    """For each row the cosines above 0 of the k most similar rows that can be selected, the first of equal ones."""
    sites = [row for row in range(len(vectors)) if np.isfinite(vectors[row]).all() and np.isfinite(quality[row])]
    lists = []
    for vector in vectors:
        if not np.isfinite(vector).all():
            lists.append({})
            continue
        order = sorted(sites, key=lambda site: (-round(cosine(vector, vectors[site]), 9), site))
        cosines = {site: cosine(vector, vectors[site]) for site in order[:k]}
        lists.append({site: value for site, value in cosines.items() if value > 1e-9})
    return lists


def random_case(rng):
    """Vectors with copies, near-duplicates, zeros and NaN; qualities with ties, zeros, negative ones and NaN."""
    n, d = rng.integers(1, 14), rng.integers(1, 5)
    kinds = [
        rng.normal(size=(n, d)),
        rng.integers(-1, 2, size=(n, d)).astype(float),  # many equal, opposite and zero vectors
        np.abs(rng.normal(size=(n, d))),
        np.repeat(rng.normal(size=(1, d)), n, axis=0),
        rng.normal(size=(n, d)) * 1e-2 + rng.normal(size=d),
    ]
    vectors = kinds[rng.integers(len(kinds))]
    if rng.random() < 0.3:
        vectors = vectors[rng.integers(0, n, size=n)] * rng.choice([1.0, 3.0], size=(n, 1))
    vectors[rng.random(n) < rng.choice([0.0, 0.2]), rng.integers(d)] = rng.choice([np.nan, np.inf])
    qualities = [np.zeros(n), rng.choice([-1.0, 0.0, 0.5], size=n), 5 * rng.normal(size=n), 100 - rng.random(n)]
    quality = qualities[rng.integers(len(qualities))]
    quality[rng.random(n) < rng.choice([0.0, 0.3])] = rng.choice([np.nan, np.inf])
    available = int((np.isfinite(vectors).all(axis=1) & np.isfinite(quality)).sum())
    return vectors, quality, available


def clustered(n, d=8, clusters=12, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, d))
    return centres[rng.integers(clusters, size=n)] + 0.5 * rng.normal(size=(n, d)), rng.random(n)


@pytest.fixture
def small_parts(monkeypatch):
    """Let a dozen rows pass through blocks and lists as a hundred thousand would."""
    monkeypatch.setattr(facility, "_NUMBERS_PER_TILE", 7)
    monkeypatch.setattr(facility, "_ROWS_PER_TILE", 3)
    monkeypatch.setattr(facility, "available_memory", lambda: 0)
    monkeypatch.setattr(facility, "_ENTRIES_PER_ROW", 3)


# -- the selection ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_equals_reference(alpha, normalize, seed):
    vectors, quality, available = random_case(np.random.default_rng(seed))
    selected = facility_location(vectors, quality, available, alpha, normalize=normalize)
    assert selected.tolist() == plain_greedy(vectors, quality, available, alpha, normalize)


@pytest.mark.parametrize("seed", range(100, 180))
def test_equals_reference_in_small_blocks(small_parts, seed):
    vectors, quality, available = random_case(np.random.default_rng(seed))
    selected = facility_location(vectors, quality, available, 0.4)
    assert selected.tolist() == plain_greedy(vectors, quality, available, 0.4)


@pytest.mark.parametrize("k", [1, 2, 4, 100])
@pytest.mark.parametrize("seed", range(220, 250))
def test_neighbors_equal_reference(k, seed):
    vectors, quality, available = random_case(np.random.default_rng(seed))
    selected = facility_location(vectors, quality, available, 0.4, neighbors=k)
    lists = nearest_lists(vectors, quality, k)
    assert selected.tolist() == plain_greedy(vectors, quality, available, 0.4, covered_by=lists)


@pytest.mark.parametrize("far", [None, 1e9, -1e9])
def test_large_selection_equals_full_matrix(far):
    vectors, quality = clustered(600)
    if far is not None:
        quality[577] = far  # which must not make ties of all other gains
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines, best, expected = unit @ unit.T, None, []
    for _ in range(300):
        reached = cosines if best is None else np.maximum(cosines, best)
        gains = 0.5 * reached.sum(axis=1) + 0.5 * quality
        gains[expected] = -np.inf
        expected.append(int(gains.argmax()))
        best = reached[expected[-1]]
    assert facility_location(vectors, quality, 300).tolist() == expected


@pytest.mark.parametrize("neighbors", [None, 10])
def test_block_and_list_sizes_do_not_matter(monkeypatch, neighbors):
    vectors, quality = clustered(300)
    vectors[200:] = vectors[rows := np.arange(100)]
    quality[200:] = quality[rows]
    full = facility_location(vectors, quality, 300, neighbors=neighbors)
    memories = [0, 2_000_000, 1 << 30]  # for short lists, for long ones and for the matrix
    for numbers, memory, entries in itertools.product([100, 1000, 7777], memories, [0, 5, 40, 1000]):
        monkeypatch.setattr(facility, "_NUMBERS_PER_TILE", numbers)
        monkeypatch.setattr(facility, "available_memory", lambda memory=memory: memory)
        monkeypatch.setattr(facility, "_ENTRIES_PER_ROW", entries)
        np.testing.assert_array_equal(facility_location(vectors, quality, 300, neighbors=neighbors), full)


def test_lists_replace_vectors(monkeypatch):
    built = []
    original = facility._Lists.__init__
    monkeypatch.setattr(facility._Lists, "__init__", lambda self, *args: built.append(1) or original(self, *args))
    vectors, quality = clustered(400)
    facility_location(vectors, quality, 200)
    assert built == [1]


def test_first_row_counts_negative_cosines():
    # Row 0 is the best of those that only count what is above 0; row 1 has the greatest sum.
    vectors = [[1, 0], [0, 1], [0.8, 0.6], [-1, 0], [-1, 0.1]]
    cosines = np.array([[cosine(np.array(a), np.array(b)) for b in vectors] for a in vectors])
    first = int(cosines.sum(axis=1).argmax())
    assert first != int(np.maximum(cosines, 0).sum(axis=1).argmax())
    assert facility_location(vectors, np.zeros(5), 1, alpha=0).tolist() == [first]


# -- alpha and quality -----------------------------------------------------------------------------------------------
def test_alpha_one_equals_top():
    rng = np.random.default_rng(3)
    quality = np.round(rng.normal(size=50), 1)
    quality[::7] = np.nan
    available = int(np.isfinite(quality).sum())
    selected = facility_location(rng.normal(size=(50, 3)), quality, available, alpha=1)
    np.testing.assert_array_equal(selected, top(quality, available))


def test_alpha_one_excludes_rows_without_vector():
    assert facility_location([[np.nan], [1], [2]], [9.0, 1.0, 2.0], 2, alpha=1).tolist() == [2, 1]


def test_alpha_zero_ignores_quality():
    vectors, quality = clustered(80)
    np.testing.assert_array_equal(
        facility_location(vectors, quality, 40, alpha=0), facility_location(vectors, -100 * quality, 40, alpha=0)
    )


@pytest.mark.parametrize("normalize", [False, True])
def test_quality_offset_does_not_matter(normalize):
    vectors, quality = clustered(80)
    np.testing.assert_array_equal(
        facility_location(vectors, quality, 80, normalize=normalize),
        facility_location(vectors, quality - 1000, 80, normalize=normalize),
    )


def test_normalize_is_scale_invariant():
    vectors, quality = clustered(80)
    selected = facility_location(vectors, quality, 30, normalize=True)
    np.testing.assert_array_equal(selected, facility_location(vectors, 50 * quality + 7, 30, normalize=True))
    many = facility_location(np.tile(vectors, (5, 1)), np.append(quality, np.full(320, np.nan)), 30, normalize=True)
    np.testing.assert_array_equal(selected, many)


def test_normalize_with_equal_qualities():
    vectors, _ = clustered(60)
    np.testing.assert_array_equal(
        facility_location(vectors, np.full(60, 3.0), 30, normalize=True),
        facility_location(vectors, np.zeros(60), 30, alpha=0),
    )


def test_copies_are_last_in_order():
    vectors, _ = clustered(20)
    vectors = np.concatenate([vectors, 3 * vectors, vectors])
    selected = facility_location(vectors, np.zeros(60), 60, alpha=0)
    assert sorted(selected[:20].tolist()) == list(range(20))
    assert selected[20:].tolist() == list(range(20, 60))


def test_outlier_quality():
    # The gains of the first two differ by less than can be told at their size, the others by more than at theirs.
    quality = [1e9, 1e9 + 1e-6, 0.0, 1e-6, 0.0, 0.0]
    assert facility_location(np.eye(6), quality, 6).tolist() == [0, 1, 3, 2, 4, 5]


def test_missing_quality_memory(monkeypatch):
    monkeypatch.setattr(facility, "available_memory", lambda: 0)
    monkeypatch.setattr(facility, "_NUMBERS_PER_TILE", 1 << 12)
    vectors, quality = clustered(3000, d=200)

    def peak():
        tracemalloc.start()
        facility_location(vectors, quality, 1)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    everything = peak()
    quality[4] = np.nan
    assert peak() < everything + vectors.nbytes / 2


# -- rows that cannot be selected, or not be compared -----------------------------------------------------------------
def test_row_without_quality_is_covered():
    vectors = [[1, 0], [0, 1], [0, 1], [0, 1]]
    assert facility_location(vectors, [0, 0, np.nan, None], 1, alpha=0).tolist() == [1]


def test_row_without_vector_is_ignored():
    rng = np.random.default_rng(0)
    vectors, quality = rng.normal(size=(30, 4)), rng.random(30)
    vectors[[3, 11]] = [[np.nan, 0, 0, 0], [0, np.inf, 0, 0]]
    finite_rows = np.delete(np.arange(30), [3, 11])
    selected = facility_location(vectors, quality, 28)
    np.testing.assert_array_equal(
        selected, finite_rows[facility_location(vectors[finite_rows], quality[finite_rows], 28)]
    )


def test_zero_vector():
    vectors = [[0, 0], [0, 0], [0, 0], [1, 1]]
    assert facility_location(vectors, np.zeros(4), 4, alpha=0).tolist() == [3, 0, 1, 2]


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_extreme_vector_lengths(scale):
    vectors, quality = clustered(40)
    np.testing.assert_array_equal(
        facility_location(scale * vectors, quality, 40), facility_location(vectors, quality, 40)
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8])
def test_dtypes(dtype):
    vectors = np.random.default_rng(0).integers(-9, 10, size=(40, 4))
    quality = np.arange(40)
    np.testing.assert_array_equal(
        facility_location(vectors.astype(dtype), quality, 20), facility_location(vectors.astype(float), quality, 20)
    )


@pytest.mark.parametrize("neighbors", [None, 3])
def test_small_budgets_and_one_row(neighbors):
    none = facility_location([[1.0, 2.0]], [0.5], 0, neighbors=neighbors)
    assert none.dtype == np.int64 and none.shape == (0,)
    one = facility_location([[1.0, 2.0]], [-0.5], 1, neighbors=neighbors)
    assert one.dtype == np.int64 and one.tolist() == [0]
    assert facility_location(np.empty((0, 3)), [], 0, neighbors=neighbors).shape == (0,)


def test_arguments_are_not_modified():
    vectors, quality = clustered(50)
    quality[4] = np.nan
    before = vectors.copy(), quality.copy()
    facility_location(vectors, quality, 20, normalize=True)
    facility_location(vectors, quality, 20, neighbors=5)
    np.testing.assert_array_equal(vectors, before[0])
    np.testing.assert_array_equal(quality, before[1])


# -- neighbours ------------------------------------------------------------------------------------------------------
def test_all_neighbors_are_exact():
    vectors, quality = clustered(120)
    vectors = np.abs(vectors)
    np.testing.assert_array_equal(
        facility_location(vectors, quality, 120, neighbors=120), facility_location(vectors, quality, 120)
    )


def test_few_neighbors_objective():
    vectors, quality = clustered(300)
    sums = [objective(vectors, quality, facility_location(vectors, quality, 30, neighbors=k), 0.5) for k in (None, 40)]
    assert 0.97 * sums[0] < sums[1] <= sums[0] + 1e-9


# -- progress and Ctrl-C ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize("neighbors", [None, 5])
def test_progress_ends_at_the_budget(alpha, neighbors):
    seen = []
    vectors, quality = clustered(100)
    facility_location(vectors, quality, 40, alpha, neighbors=neighbors, progress=seen.append)
    assert seen == (list(range(1, 41)) if alpha < 1 else [40])


@pytest.mark.parametrize("neighbors", [None, 5])
@pytest.mark.parametrize("stop", [1, 2, 5, 39])
def test_interrupt_keeps_selected_rows(neighbors, stop):
    vectors, quality = clustered(100)
    quality[0] = np.nan  # so that positions are not places among the candidates

    def interrupt(done):
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=f"^{stop} rows had been selected") as caught:
        facility_location(vectors, quality, 40, neighbors=neighbors, progress=interrupt)
    full = facility_location(vectors, quality, 40, neighbors=neighbors)
    np.testing.assert_array_equal(caught.value.selected, full[:stop])
    assert caught.value.selected.dtype == np.int64


def test_interrupt_before_first_row(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(facility._Greedy, "_most_similar", interrupt)
    with pytest.raises(Interrupted, match=r"^0 rows had been selected") as caught:
        facility_location(*clustered(20), 5, neighbors=3)
    assert caught.value.selected.shape == (0,)


# -- what is refused -------------------------------------------------------------------------------------------------
def test_budget_too_large():
    message = (
        r"budget=3 is more than the 1 rows that can be selected \(2 of 3 are without a finite quality and vector\)"
    )
    with pytest.raises(SelectionError, match=message):
        facility_location([[1.0], [np.nan], [1.0]], [1.0, 1.0, np.nan], 3)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, np.nan])
def test_invalid_alpha(alpha):
    with pytest.raises(SelectionError, match=r"alpha=.* must be from 0 \(coverage alone\) to 1 \(quality alone\)"):
        facility_location([[1.0]], [1.0], 1, alpha)


@pytest.mark.parametrize("neighbors", [0, -1, 2.0, True, "3"])
def test_invalid_neighbors(neighbors):
    with pytest.raises(SelectionError, match=r"neighbors=.* must be a whole number of rows, 1 or more, or None"):
        facility_location([[1.0]], [1.0], 1, neighbors=neighbors)


def test_invalid_shapes():
    with pytest.raises(SelectionError, match=r"one number for each of the 2 vectors, but has shape \(3,\)"):
        facility_location([[1.0], [2.0]], [1.0, 2.0, 3.0], 1)
    with pytest.raises(SelectionError, match=r"^facility_location takes one vector per row, shape \(n, d\)"):
        facility_location([1.0, 2.0], [1.0, 2.0], 1)


# -- what stands for a row -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("numbers", [5, 1 << 18])
def test_nearest_by_cosine_equals_loop(monkeypatch, numbers):
    monkeypatch.setattr(facility, "_NUMBERS_PER_TILE", numbers)
    rng = np.random.default_rng(5)
    for _ in range(50):
        vectors, _, _ = random_case(rng)
        selected = rng.permutation(len(vectors))[: rng.integers(1, len(vectors) + 1)]
        positions = rng.integers(len(vectors), size=rng.integers(0, 20))
        nearest, similarity = nearest_by_cosine(vectors, selected, positions)
        assert nearest.dtype == np.int64 and similarity.dtype == np.float64
        sites = [site for site in selected if np.isfinite(vectors[site]).all()]
        for position, site, value in zip(positions, nearest, similarity, strict=True):
            if not sites or not np.isfinite(vectors[position]).all():
                assert site == -1 and np.isnan(value)
                continue
            cosines = [cosine(vectors[position], vectors[other]) for other in sites]
            assert value == pytest.approx(max(cosines), abs=1e-12)
            assert site == next(s for s, c in zip(sites, cosines, strict=True) if c > max(cosines) - 1e-11)


def test_nearest_by_cosine_without_vectors():
    nearest, similarity = nearest_by_cosine([[1.0], [2.0]], [], [0, 1])
    assert nearest.tolist() == [-1, -1]
    assert np.isnan(similarity).all()


@pytest.mark.parametrize("positions", [[2], [-1], [0.5], [[0]], 0])
def test_nearest_by_cosine_invalid_positions(positions):
    with pytest.raises(SelectionError, match="flat lists of positions from 0 to 1, but got"):
        nearest_by_cosine([[1.0], [2.0]], [0], positions)
