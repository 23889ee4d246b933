from fractions import Fraction

import numpy as np
import pytest

from hf_datasel.errors import SelectionError
from hf_datasel.strategies.curriculum import (
    by_value,
    folded,
    segment_numbers,
    segments_of_equal,
    shuffled_within,
)


@pytest.mark.parametrize("descending", [False, True])
def test_by_value_equals_sorted(descending):
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = rng.choice([np.nan, -np.inf, np.inf, -1.0, 0.0, 2.5], size=rng.integers(0, 30))
        present = [position for position, value in enumerate(values) if not np.isnan(value)]
        expected = sorted(present, key=lambda position: -values[position] if descending else values[position])
        assert by_value(values, descending).tolist() == expected


def test_by_value_compares_exactly():
    assert by_value([2**53 + 1, None, 2**53], descending=True).tolist() == [0, 2]
    assert by_value(np.array([250, 3], dtype=np.uint8), descending=True).tolist() == [0, 1]
    with pytest.raises(SelectionError, match="by_value takes one score per row"):
        by_value([[1.0]])


@pytest.mark.parametrize(("size", "folds"), [(0, 2), (1, 3), (7, 1), (7, 3), (12, 4)])
def test_folded_deals_rows(size, folds):
    rows = np.arange(100, 100 + size)
    hands: list[list[int]] = [[] for _ in range(folds)]
    for index, row in enumerate(rows.tolist()):
        hands[index % folds].append(row)
    assert folded(rows, folds).tolist() == [row for hand in hands for row in hand]


@pytest.mark.parametrize(("size", "segments"), [(0, 2), (2, 5), (10, 3), (12, 4)])
def test_segments_have_equal_sizes(size, segments):
    numbers = segment_numbers(size, segments)
    assert numbers.tolist() == sorted(numbers)
    sizes = np.bincount(numbers, minlength=segments)
    assert sizes.sum() == size
    assert sizes.tolist() == sorted(sizes, reverse=True)
    assert sizes.max() <= Fraction(size, segments) + 1 and sizes.max() - sizes.min() <= 1


def test_segments_of_equal_values():
    assert segments_of_equal([]).tolist() == []
    assert segments_of_equal([1.0, 1.0, 2.0, 5.0, 5.0]).tolist() == [0, 0, 1, 2, 2]


def test_shuffled_within_segments():
    segments = np.repeat(np.arange(40), 25)
    positions = shuffled_within(segments, np.random.default_rng(3))
    assert (segments[positions] == segments).all()
    assert sorted(positions) == list(range(1000))
    assert (positions == np.arange(1000)).mean() < 0.1
    firsts = [shuffled_within(np.zeros(4), np.random.default_rng(seed))[0] for seed in range(400)]
    assert np.bincount(firsts, minlength=4).min() > 70  # every position comes first as often
