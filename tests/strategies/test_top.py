from decimal import Decimal

import numpy as np
import pytest

from hf_datasel import strategies
from hf_datasel.errors import SelectionError
from hf_datasel.strategies.top import top


def plain_top(scores, budget):
    present = [(-float(score), position) for position, score in enumerate(scores) if not np.isnan(score)]
    return [position for _, position in sorted(present)[:budget]]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_equals_sorted(dtype):
    rng = np.random.default_rng(0)
    for _ in range(100):
        scores = rng.choice(
            [np.nan, np.inf, -np.inf, -1.5, 0.0, -0.0, 2.0, *rng.normal(size=3)], size=rng.integers(1, 30)
        )
        scores = scores.astype(dtype)
        for budget in range((~np.isnan(scores)).sum() + 1):
            assert top(scores, budget).tolist() == plain_top(scores, budget)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
def test_integer_scores(dtype):
    scores = np.array([0, 1, np.iinfo(dtype).max, 0, 1], dtype=dtype)
    assert top(scores, 5).tolist() == [2, 1, 4, 0, 3]


def test_boolean_scores():
    assert top([False, True, False, True], 3).tolist() == [1, 3, 0]


def test_large_integers_are_not_rounded():
    assert top([2**53, 2**53 + 1, -(2**63)], 3).tolist() == [1, 0, 2]
    assert top([2**53, None, 2**53 + 1, float("nan"), 2**70], 3).tolist() == [4, 2, 0]
    assert top([2**53, 1.5, 2**53 + 1, float("inf")], 4).tolist() == [3, 2, 0, 1]


def test_decimals_are_not_rounded():
    scores = [Decimal("0.1000000000000000000001"), None, Decimal("0.1000000000000000000002"), 0]
    assert top(scores, 3).tolist() == [2, 0, 3]


def test_infinity_is_the_highest_and_nan_is_missing():
    assert top([1.0, np.inf, np.nan, -np.inf, np.inf], 4).tolist() == [1, 4, 0, 3]


def test_none_is_never_selected():
    assert top([None, 0.5, None, 0.7], 2).tolist() == [3, 1]


def test_equal_scores_keep_order():
    assert top(np.ones(1000), 1000).tolist() == list(range(1000))


@pytest.mark.parametrize("scores", [[], [1.0, np.nan], [np.nan]])
def test_result_is_int64(scores):
    selected = top(scores, 0)
    assert selected.dtype == np.int64
    assert selected.shape == (0,)


def test_scores_are_not_modified():
    scores = np.array([0.1, np.nan, 0.3])
    top(scores, 2)
    np.testing.assert_array_equal(scores, [0.1, np.nan, 0.3])


def test_budget_above_rows_with_a_score():
    message = r"^top: budget=3 is more than the 2 rows that can be selected \(2 of 4 are without a score\)\. Lower it"
    with pytest.raises(SelectionError, match=message):
        top([0.1, np.nan, None, 0.2], 3)


def test_budget_above_all_rows():
    with pytest.raises(SelectionError, match=r"budget=3 is more than the 2 rows that can be selected\. Lower it"):
        top([0.1, 0.2], 3)


@pytest.mark.parametrize("budget", [-1, 2.0, "2", None, True, np.True_])
def test_invalid_budget(budget):
    with pytest.raises(SelectionError, match="must be a whole number of rows, 0 or more"):
        top([0.1, 0.2], budget)


def test_ratio_as_budget_has_hint():
    with pytest.raises(SelectionError, match=r"budget=0\.05 .* pass int\(ratio \* rows\)"):
        top([0.1, 0.2], 0.05)


def test_numpy_budget():
    assert top([0.1, 0.2], np.int32(1)).tolist() == [1]


def test_invalid_score_shape():
    with pytest.raises(SelectionError, match=r"shape \(n,\), but got shape \(2, 2\)"):
        top(np.ones((2, 2)), 1)


def test_lazy_modules():
    assert strategies.top.top([1, 2], 1).tolist() == [1]
    assert {"ngram", "top"} <= set(dir(strategies))


def test_unknown_module():
    with pytest.raises(AttributeError, match=r"no attribute 'nonsense'; it has .*ngram"):
        strategies.nonsense  # noqa: B018
