import json

import numpy as np
import pytest

from hf_datasel.errors import Interrupted, SelectionError, ShortfallError
from hf_datasel.strategies import near_duplicates as near_duplicates
from hf_datasel.strategies.near_duplicates import has_near_duplicates, near_duplicate_of, skip_near_duplicates

NAN = float("nan")


def cosine(left, right):
    left, right = np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)
    length = np.sqrt((left * left).sum() * (right * right).sum())
    return min((left * right).sum() / length, 1.0) if length else 0.0


def one_at_a_time(vectors, scores, threshold):
    """Compare every row with every row kept."""
    usable = [row for row in range(len(scores)) if np.isfinite(scores[row]) and np.isfinite(vectors[row]).all()]
    selected: list[int] = []
    for row in sorted(usable, key=lambda row: (-scores[row], row)):
        if all(cosine(vectors[row], vectors[other]) <= threshold for other in selected):
            selected.append(row)
    return selected


def random_case(rng):
    """Small whole-number vectors, with copies, multiples, zeros, NaN, and cosines equal to the threshold."""
    n, d = int(rng.integers(1, 40)), int(rng.integers(1, 6))
    vectors = rng.integers(-2, 3, size=(n, d)) * rng.choice([1.0, 3.0, 0.1], size=(n, 1))
    if rng.random() < 0.5:
        vectors = vectors[:1] + 0.3 * rng.normal(size=(n, d))
    if rng.random() < 0.3:
        vectors[rng.integers(n)] = rng.choice([NAN, np.inf])
    scores = rng.choice([1.0, 2.0, NAN, *rng.normal(size=4)], size=n)
    threshold = float(rng.choice([-1.0, -0.5, 0.0, 0.5, 0.6, 0.8, 0.9, 0.99, 1.0]))
    return vectors.astype(rng.choice([np.float32, np.float64])), scores, threshold


@pytest.fixture(params=[1, 3, 512])
def block(request, monkeypatch):
    monkeypatch.setattr(near_duplicates, "_ROWS_PER_BLOCK", request.param)
    monkeypatch.setattr(near_duplicates, "_NUMBERS_PER_BLOCK", 4 * request.param)


# -- the selection ----------------------------------------------------------------------------------------------------
@pytest.mark.shared
@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9, 0.95])
def test_published_selection(shared, threshold):
    published = json.loads((shared / "golden" / "deita_filter.json").read_text(encoding="utf-8"))
    arrays = np.load(shared / "golden" / "deita_filter.npz")
    vectors, scores = arrays["embeddings"], arrays["final_score"]
    everything = published["selected_idx_in_order"][f"thr{threshold}_size-1"]
    assert skip_near_duplicates(vectors, scores, None, threshold).tolist() == everything
    first = published["selected_idx_in_order"][f"thr{threshold}_size100"]
    assert skip_near_duplicates(vectors, scores, len(first), threshold).tolist() == first


@pytest.mark.usefixtures("block")
def test_equals_reference():
    rng = np.random.default_rng(0)
    for _ in range(200):
        vectors, scores, threshold = random_case(rng)
        before = vectors.copy(), scores.copy()
        expected = one_at_a_time(vectors, scores, threshold)
        selected = skip_near_duplicates(vectors, scores, None, threshold)
        assert selected.tolist() == expected
        assert selected.dtype == np.int64
        for budget in {0, 1, len(expected) // 2, len(expected)} & set(range(len(expected) + 1)):
            assert skip_near_duplicates(vectors, scores, budget, threshold).tolist() == expected[:budget]
        np.testing.assert_array_equal(vectors, before[0])
        np.testing.assert_array_equal(scores, before[1])


def test_block_size_with_pairs_at_threshold(monkeypatch):
    rng = np.random.default_rng(1)
    # Signs of 40 numbers: a cosine is a multiple of 1/20, and very often 0.2, in float32 on either side of it.
    vectors = rng.choice([-1.0, 1.0], size=(600, 40)) * rng.uniform(0.1, 9, size=(600, 1))
    vectors, scores = vectors.astype(np.float32), rng.random(600)
    expected = one_at_a_time(vectors, scores, 0.2)
    for size in (1, 7, 100, 600):
        monkeypatch.setattr(near_duplicates, "_ROWS_PER_BLOCK", size)
        assert skip_near_duplicates(vectors, scores, None, 0.2).tolist() == expected


def test_threshold_is_exclusive():
    vectors = [[3.0, 4.0], [4.0, 3.0]]  # 24 / 25
    assert skip_near_duplicates(vectors, [2.0, 1.0], None, 0.96).tolist() == [0, 1]
    assert skip_near_duplicates(vectors, [2.0, 1.0], None, np.nextafter(0.96, 0)).tolist() == [0]


def test_differences_below_float32():
    vectors = [[1.0, 0.0], [1.0, 1e-6]]  # a cosine of 1 - 5e-13
    assert skip_near_duplicates(vectors, [2.0, 1.0], None, 1 - 1e-13).tolist() == [0, 1]
    assert skip_near_duplicates(vectors, [2.0, 1.0], None, 1 - 1e-12).tolist() == [0]


def test_better_copy_is_selected():
    assert skip_near_duplicates([[1.0, 2.0], [2.0, 4.0]], [0.1, 0.2], None).tolist() == [1]
    assert skip_near_duplicates([[1.0, 2.0], [2.0, 4.0]], [0.2, 0.2], None).tolist() == [0]


def test_skipped_rows_do_not_exclude_others():
    angles = np.deg2rad([0, 20, 40])  # neighbours are near at 25 degrees, the ends are not
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert skip_near_duplicates(vectors, [3, 2, 1], None, np.cos(np.deg2rad(25))).tolist() == [0, 2]


def test_zero_vectors():
    vectors = np.zeros((3, 2))
    assert skip_near_duplicates(vectors, [1, 3, 2], 3, 0.0).tolist() == [1, 2, 0]
    assert skip_near_duplicates(vectors, [1, 3, 2], None, -0.1).tolist() == [1]


@pytest.mark.parametrize("scale", [1e-300, 5e-324, 1e-30, 1e30, 1e300])
def test_vector_length_does_not_matter(scale):
    vectors = np.array([[1.0, 1.0], [scale, scale], [scale, 0.0]])
    assert skip_near_duplicates(vectors, [3, 2, 1], None).tolist() == [0, 2]


@pytest.mark.parametrize("dtype", [np.float16, np.int8])
def test_dtypes(dtype):
    vectors = np.array([[100, 1], [1, 100], [99, 1]], dtype=dtype)
    assert skip_near_duplicates(vectors, [3, 2, None], 2).tolist() == [0, 1]
    assert skip_near_duplicates(vectors, np.array([3, 2, 9], dtype=np.uint8), None).tolist() == [2, 1]


def test_threshold_one_selects_all():
    assert skip_near_duplicates(np.ones((4, 7)), [1, 2, 3, 3], 4, 1.0).tolist() == [2, 3, 1, 0]


def test_empty_inputs():
    assert skip_near_duplicates(np.empty((0, 3)), [], None).dtype == np.int64
    assert skip_near_duplicates(np.empty((2, 0)), [1.0, 2.0], None).tolist() == [1, 0]


# -- progress --------------------------------------------------------------------------------------------------------
def test_progress(monkeypatch):
    monkeypatch.setattr(near_duplicates, "_ROWS_PER_BLOCK", 10)
    seen: list[int] = []
    skip_near_duplicates(np.eye(35), np.ones(35), 33, progress=seen.append)
    assert seen == [10, 20, 30, 33]


def test_interrupt_keeps_selected_rows(monkeypatch):
    monkeypatch.setattr(near_duplicates, "_ROWS_PER_BLOCK", 10)
    vectors = np.random.default_rng(2).normal(size=(60, 3))
    full = skip_near_duplicates(vectors, np.arange(60), None)

    def stop(selected):
        if selected >= 12:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"\d+ rows had been selected") as caught:
        skip_near_duplicates(vectors, np.arange(60), None, progress=stop)
    assert 12 <= len(caught.value.selected) < len(full)
    assert caught.value.selected.tolist() == full[: len(caught.value.selected)].tolist()


# -- why a row was skipped -------------------------------------------------------------------------------------------
def test_near_duplicate_of_skipped_rows():
    rng = np.random.default_rng(3)
    for _ in range(100):
        vectors, scores, threshold = random_case(rng)
        selected = skip_near_duplicates(vectors, scores, None, threshold)
        for row in range(len(vectors)):
            why = near_duplicate_of(vectors, selected, row, threshold)
            usable = np.isfinite(vectors[row]).all()
            near = [
                other for other in selected.tolist() if usable and cosine(vectors[row], vectors[other]) > threshold
            ]
            if row in selected or not near:
                assert why is None
                assert row in selected or not usable or np.isnan(scores[row])
            else:
                assert why[0] == near[0]
                assert why[1] == pytest.approx(cosine(vectors[row], vectors[near[0]]), abs=1e-15)


def test_near_duplicate_of_threshold_one():
    rng = np.random.default_rng(4)
    for _ in range(200):
        vector = rng.normal(size=7)
        vectors = np.stack([vector, vector * rng.random()])
        assert near_duplicate_of(vectors, [0], 1)[1] <= 1
        assert near_duplicate_of(vectors, [0], 1, threshold=1) is None


def test_near_duplicate_of_row_beyond_budget():
    assert near_duplicate_of(np.eye(3), [0, 1], 2) is None


def test_near_duplicate_of_returns_python_numbers():
    why = near_duplicate_of(np.ones((2, 4), dtype=np.float32), np.array([1]), np.int64(0))
    assert why == (1, 1.0)
    assert [type(value) for value in why] == [int, float]


# -- which rows have a near-duplicate ---------------------------------------------------------------------------------
@pytest.mark.usefixtures("block")
def test_has_near_duplicates_equals_reference():
    rng = np.random.default_rng(5)
    for _ in range(150):
        vectors, _, threshold = random_case(rng)
        finite_rows = np.flatnonzero(np.isfinite(vectors).all(axis=1)).tolist()
        numbers = rng.permutation(100)[: len(vectors)]
        queried = rng.permutation(len(vectors))[: rng.integers(len(vectors) + 1)]
        near = [
            row in finite_rows
            and any(cosine(vectors[row], vectors[other]) > threshold for other in finite_rows if other != row)
            for row in queried
        ]
        before = vectors.copy()
        cuts = np.sort(rng.integers(len(vectors) + 1, size=rng.integers(4)))
        parts = zip(np.split(numbers, cuts), np.split(vectors, cuts), strict=True)
        result = has_near_duplicates(vectors[queried], numbers[queried], parts, threshold)
        assert result.tolist() == near
        assert result.dtype == np.bool_
        np.testing.assert_array_equal(vectors, before)


def test_has_near_duplicates_excludes_itself():
    vectors = np.ones((3, 2))
    assert has_near_duplicates(vectors, [4, 5, 6], [([4], vectors[:1])]).tolist() == [False, True, True]
    assert has_near_duplicates(vectors, [4, 5, 6], [([4], vectors[:1])], threshold=1).tolist() == [False] * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 2}, r"threshold=2 must be a cosine"),
        ({"numbers": [1]}, r"numbers must be one for each of the 2 vectors, but has shape \(1,\)"),
        ({"batches": [([1, 2], np.eye(3))]}, r"numbers must be one for each of the 3 vectors, but has shape \(2,\)"),
        ({"batches": [([1, 2, 3], np.eye(3))]}, r"vectors of 2 and of 3 numbers"),
        ({"vectors": [1.0, 2.0]}, r"one vector per row, shape \(n, d\), but got shape \(2,\)"),
    ],
)
def test_has_near_duplicates_invalid_settings(settings, message):
    with pytest.raises(SelectionError, match=f"has_near_duplicates.*{message}"):
        has_near_duplicates(**{"vectors": np.eye(2), "numbers": [0, 1], "batches": [], "threshold": 0.5} | settings)


# -- what is refused -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 4}, r"budget=4 is more than the 3 rows .*\(1 of 4 are without a finite score and vector\)"),
        ({"budget": -1}, r"budget=-1 must be a whole number of rows"),
        (
            {"budget": 3},
            r"budget=3 is more than the 2 rows that can be selected: the other 1 of 3 have a cosine above 0\.9 with a "
            r"better row\. Lower the budget, raise the threshold, or pass budget=None",
        ),
        ({"threshold": 1.1}, r"threshold=1\.1 must be a cosine similarity, from -1 to 1"),
        ({"threshold": NAN}, r"threshold=nan must be a cosine similarity"),
        ({"scores": [1.0]}, r"one number for each of the 4 vectors, but has shape \(1,\)"),
        ({"vectors": [1.0, 2.0]}, r"one vector per row, shape \(n, d\), but got shape \(2,\)"),
    ],
)
def test_invalid_settings(settings, message):
    arguments = {"vectors": [[1, 0], [0, 1], [1, 0], [NAN, 0]], "scores": [4.0, 3.0, 2.0, 1.0], "budget": 1}
    with pytest.raises(SelectionError, match=f"skip_near_duplicates.*{message}"):
        skip_near_duplicates(**arguments | settings)


def test_shortfall_has_selected_rows():
    vectors = np.random.default_rng(6).normal(size=(300, 3))
    full = skip_near_duplicates(vectors, np.arange(300), None)
    assert 1 < len(full) < 300
    with pytest.raises(ShortfallError, match=f"budget=300 is more than the {len(full)} rows that can") as caught:
        skip_near_duplicates(vectors, np.arange(300), 300)
    np.testing.assert_array_equal(caught.value.selected, full)
    assert caught.value.selected.dtype == np.int64
    with pytest.raises(SelectionError, match="budget=301 is more than the 300 rows that can be selected") as caught:
        skip_near_duplicates(vectors, np.arange(300), 301)
    assert not isinstance(caught.value, ShortfallError)


@pytest.mark.parametrize(("selected", "position"), [([0], 3), ([0], -1), ([3], 0), ([-1], 0), ([], 3)])
def test_near_duplicate_of_invalid_positions(selected, position):
    with pytest.raises(SelectionError, match=r"near_duplicate_of: positions must be from 0 to 2"):
        near_duplicate_of(np.eye(3), selected, position)


def test_near_duplicate_of_threshold():
    with pytest.raises(SelectionError, match=r"near_duplicate_of: threshold=2 must be a cosine"):
        near_duplicate_of(np.eye(3), [0], 1, threshold=2)
