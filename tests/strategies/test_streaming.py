from decimal import Decimal
from itertools import permutations

import numpy as np
import pytest

from hf_datasel.errors import SelectionError
from hf_datasel.strategies import streaming
from hf_datasel.strategies.streaming import Reservoir, TopHeap
from hf_datasel.strategies.top import top


def in_batches(values, rng):
    """Cut into batches of random sizes, empty ones among them."""
    cuts = np.sort(rng.integers(0, len(values) + 1, size=rng.integers(0, 8)))
    return np.split(values, cuts)


# -- the highest scores ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, np.uint8])
def test_top_heap_equals_top(dtype):
    rng = np.random.default_rng(0)
    for _ in range(200):
        scores = rng.choice([0.0, 1.0, 1.0, 7.0, *rng.uniform(0, 9, size=4)], size=rng.integers(0, 80))
        if np.issubdtype(dtype, np.floating):
            scores[rng.random(len(scores)) < 0.2] = rng.choice([np.nan, np.inf, -np.inf])
        scores, budget = scores.astype(dtype), int(rng.integers(0, 20))
        best, seen = TopHeap(budget), 0
        looks = rng.random() < 0.5  # looking on the way changes nothing
        for batch in in_batches(scores, rng):
            best.add(batch)
            seen += len(batch)
            if looks:
                so_far = scores[:seen]
                assert best.positions.tolist() == top(so_far, min(budget, (~np.isnan(so_far)).sum())).tolist()
        assert best.positions.tolist() == top(scores, min(budget, (~np.isnan(scores)).sum())).tolist()
        assert best.positions.dtype == np.int64


def test_batches_of_one_row():
    scores = np.random.default_rng(1).integers(0, 50, size=1000)
    best = TopHeap(30)
    for score in scores:
        best.add([score])
    assert best.positions.tolist() == top(scores, 30).tolist()


def test_equal_scores_keep_order():
    best = TopHeap(3)
    for _ in range(5):
        best.add(np.ones(4))
    assert best.positions.tolist() == [0, 1, 2]


def test_nulls_and_large_integers():
    best = TopHeap(2)
    best.add([None, 0.5, None])
    best.add([float("nan"), 0.7])
    assert best.positions.tolist() == [4, 1]
    best = TopHeap(2)
    best.add([2**53, 2**53 + 1])
    best.add([2**53 + 2])
    assert best.positions.tolist() == [2, 1]


def test_batches_of_different_types():
    best = TopHeap(3)
    best.add([2**53, 5])
    best.add([0.5, float(2**53)])
    best.add([2**53 + 1, None, Decimal(2**53) + Decimal("0.5")])
    best.add([float("nan"), 7])
    assert best.positions.tolist() == [4, 6, 0]


def test_fewer_rows_than_the_budget():
    best = TopHeap(10)
    assert best.positions.tolist() == []
    best.add([1.0, np.nan, 2.0])
    assert best.positions.tolist() == [2, 0]


def test_memory_is_bounded():
    best, sizes = TopHeap(10), []
    for batch in np.arange(10_000.0).reshape(-1, 20):  # rising: every row is better than all before it
        best.add(batch)
        sizes.append(sum(part.nbytes for part in (*best._scores, *best._positions)))
    assert max(sizes) <= 2 * (2 * 10) * 8
    assert best.positions.tolist() == list(range(9999, 9989, -1))


def test_batches_are_copied_and_not_modified():
    batch = np.array([3.0, 1.0, 2.0])
    best = TopHeap(2)
    best.add(batch)
    batch[:] = 0
    best.positions[:] = 7
    best.add([2.5])
    assert best.positions.tolist() == [0, 3]


# -- the uniform draw ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batches", [[5], [1, 1, 1, 1, 1], [2, 0, 3]])
@pytest.mark.parametrize("budget", [1, 2, 3])
def test_reservoir_is_uniform(budget, batches):
    rng, draws = np.random.default_rng(2), 6000
    counts = dict.fromkeys(permutations(range(5), budget), 0)
    for _ in range(draws):
        drawn = Reservoir(budget, rng)
        for rows in batches:
            drawn.add(rows)
        counts[tuple(drawn.positions.tolist())] += 1
    expected = draws / len(counts)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = len(counts) - 1
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom) + 6


def test_batch_size_does_not_change_the_sample(monkeypatch):
    drawn = Reservoir(50, np.random.default_rng(3))
    drawn.add(1000)
    monkeypatch.setattr(streaming, "_ROWS_PER_BLOCK", 7)
    other = Reservoir(50, np.random.default_rng(3))
    for rows in (1, 0, 400, 599):
        other.add(rows)
    np.testing.assert_array_equal(drawn.positions, other.positions)
    assert len(set(drawn.positions.tolist())) == 50
    assert drawn.positions.dtype == np.int64


def test_smaller_budget_is_a_prefix():
    draws = {}
    for budget in (5, 20):
        draws[budget] = Reservoir(budget, np.random.default_rng(4))
        draws[budget].add(300)
    assert draws[5].positions.tolist() == draws[20].positions[:5].tolist()


def test_fewer_rows_than_budget():
    drawn = Reservoir(10, np.random.default_rng(5))
    assert drawn.positions.tolist() == []
    drawn.add(3)
    drawn.add(4)
    assert sorted(drawn.positions.tolist()) == list(range(7))
    empty = Reservoir(0, np.random.default_rng(5))
    empty.add(3)
    assert empty.positions.tolist() == []


# -- what is refused -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("budget", [-1, 0.5, True])
def test_invalid_budget(budget):
    with pytest.raises(SelectionError, match=r"TopHeap: budget=.* must be a whole number of rows"):
        TopHeap(budget)
    with pytest.raises(SelectionError, match=r"Reservoir: budget=.* must be a whole number of rows"):
        Reservoir(budget, np.random.default_rng(0))


@pytest.mark.parametrize("scores", [1.0, [[1.0, 2.0]]])
def test_invalid_score_shape(scores):
    with pytest.raises(SelectionError, match=r"TopHeap takes one score per row, shape \(n,\), but got shape"):
        TopHeap(1).add(scores)


@pytest.mark.parametrize("rows", [-1, 2.0, [1, 2]])
def test_invalid_number_of_rows(rows):
    with pytest.raises(SelectionError, match=r"Reservoir\.add takes the number of the next rows, not the rows"):
        Reservoir(1, np.random.default_rng(0)).add(rows)
