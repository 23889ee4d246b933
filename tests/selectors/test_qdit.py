import numpy as np
import pytest

from hf_datasel import select
from hf_datasel.errors import ConfigError, Interrupted, SelectionError
from hf_datasel.scores import Embedding, Length, Loss
from hf_datasel.selectors import QDIT, Top, get_selector
from hf_datasel.strategies.facility import facility_location
from hf_datasel.testing import contract


@contract(
    QDIT(quality="reward"),
    QDIT(quality="deita", alpha=0.9, normalize=True),
    QDIT(quality="reward", alpha=0.1, neighbors=3),
    QDIT(quality=Loss()),
)
def test_contract(check, selector, full, tiny_model_dir):
    check(selector, full.select(range(8)), tiny_model_dir)


def plain(vectors, quality, budget, alpha):
    """Every gain anew at each step."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    close, best, selected = units @ units.T, None, []
    for _ in range(budget):
        covered = close if best is None else np.maximum(close, best[:, None]) - best[:, None]
        gains = (1 - alpha) * covered.sum(axis=0) + alpha * quality
        gains[np.isnan(gains)] = -np.inf
        gains[selected] = -np.inf
        selected.append(int(gains.argmax()))
        best = close[:, selected].max(axis=1)
    return selected


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.95])
def test_each_row_adds_most_to_coverage_and_quality(gaps, alpha):
    able = np.array([row for row in range(12) if row not in (2, 8)])  # row 5 has no quality, but is to be stood for
    vectors = np.array([gaps["embedding"][int(row)] for row in able])
    quality = np.array(gaps["reward"][:], dtype=float)[able]
    expected = able[plain(vectors, quality, 6, alpha)].tolist()
    assert select(gaps, QDIT(quality="reward", alpha=alpha), size=6).indices.tolist() == expected


@pytest.mark.parametrize("settings", [{"normalize": True}, {"neighbors": 2}, {"neighbors": 2, "normalize": True}])
def test_settings_are_those_of_the_strategy(gaps, settings):
    able = np.array([row for row in range(12) if row not in (2, 8)])
    vectors = np.array([gaps["embedding"][int(row)] for row in able], dtype=np.float32)
    quality = np.array(gaps["reward"][:], dtype=float)[able]
    expected = able[facility_location(vectors, quality, 5, 0.6, **settings)].tolist()
    assert select(gaps, QDIT(quality="reward", alpha=0.6, **settings), size=5).indices.tolist() == expected


def test_quality_alone_is_top(gaps):
    best = select(gaps.select([0, 1, 3, 4, 6, 7, 9, 10, 11]), Top(by="reward"), size=9).indices
    found = select(gaps, QDIT(quality="reward", alpha=1), size=9).indices
    assert found.tolist() == np.array([0, 1, 3, 4, 6, 7, 9, 10, 11])[best].tolist()


def test_normalized_selection_depends_on_pool(full):
    """Why it is not said to be nested: each selection adds quality / budget."""
    assert QDIT(quality="reward").nested
    selector = QDIT(quality="reward", alpha=0.9, normalize=True)
    assert not selector.nested
    choices = [select(full, selector, size=size).indices.tolist() for size in range(1, 13)]
    assert any(few != choices[-1][: len(few)] for few in choices)


@pytest.mark.parametrize("normalize", [False, True])
def test_within_a_token_budget(full, normalize):
    selector, lengths = QDIT(quality="reward", alpha=0.9, normalize=normalize), np.array(full["num_tokens"][:])
    selected = select(full, selector, tokens=150).indices
    assert selected.tolist() == select(full, selector, size=len(selected)).indices.tolist()
    assert lengths[selected].sum() <= 150 < lengths[select(full, selector, size=len(selected) + 1).indices].sum()


def test_why_there_are_no_more(gaps):
    message = r"size=10 .*the 9 of 12 .*1 empty_response, 1 without embedding, 1 without reward"
    with pytest.raises(SelectionError, match=message):
        select(gaps, QDIT(quality="reward"), size=10)


def test_equal_rows_and_zero_vectors_are_dataset_order(full):
    for vectors in ([[0.0, 0.0]] * 12, [[2.0, 1.0]] * 12):
        same = full.remove_columns(["embedding", "reward"]).add_column("embedding", vectors)
        same = same.add_column("reward", [-2.0] * 12)
        assert select(same, QDIT(quality="reward"), size=4).indices.tolist() == [0, 1, 2, 3]


def test_no_row_has_a_vector(full):
    data = full.remove_columns("embedding").add_column("embedding", [None] * 12)
    with pytest.raises(SelectionError, match=r"None of the 12 rows can be selected \(12 without embedding\)"):
        select(data, QDIT(quality="reward"), size=1)


def test_interrupted_with_rows_and_not_positions(gaps, make_round, stop_at):
    whole = QDIT(quality="reward").select(make_round(gaps, 6))
    with pytest.raises(Interrupted, match="4 rows had been selected") as stop:
        QDIT(quality="reward").select(stop_at(make_round(gaps, 6), 4))
    assert stop.value.selected.tolist() == whole[:4].tolist()


def test_explained(gaps, make_round):
    selector = QDIT(quality="reward")
    selected = selector.select(make_round(gaps, 4))
    vectors = np.array([[np.nan] * 4 if each is None else each for each in gaps["embedding"][:]])
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    explained = {row: selector.explain(make_round(gaps, 4), selected, row) for row in range(12)}
    assert explained[selected[0]] == ["It was the first row selected."]
    assert explained[8] == ["It has no vector."]
    for row in set(range(12)) - {8, int(selected[0])}:
        taken = row in selected
        before = selected[: np.flatnonzero(selected == row)[0]] if taken else selected
        close = units[before] @ units[row]
        assert explained[row] == [
            f"Of the rows {'selected before it' if taken else 'selected'}, {before[close.argmax()]} represents it "
            "best, "
            f"with a cosine of {close.max():.4g}."
        ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quality": ""}, r"QDIT\(quality=''\).*a column, or a score such as IFD"),
        ({"quality": "q", "vectors": Length()}, r"QDIT\(vectors=Length.*a column, or Embedding\(\.\.\.\)"),
        ({"quality": "q", "alpha": 1.01}, r"QDIT\(alpha=1.01\): it has to be a number from 0 to 1"),
        ({"quality": "q", "neighbors": 0}, r"QDIT\(neighbors=0\): it has to be an int of at least 1"),
        ({"quality": "q", "neighbors": 2.0}, r"QDIT\(neighbors=2.0\)"),
        ({"quality": "q", "normalize": 1}, r"QDIT\(normalize=1\): it has to be true or false"),
    ],
)
def test_impossible_settings_are_found_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        QDIT(**settings)


def test_in_a_recipe(tiny_model_dir):
    model = str(tiny_model_dir)
    settings = {"quality": {"score": "reward", "model": model}, "vectors": {"score": "embedding", "model": model}}
    made = get_selector("qdit", {**settings, "alpha": 0.7})
    assert made.alpha == 0.7
    assert made.vectors == Embedding(model)
    spec = made.spec()
    assert get_selector(spec.pop("selector"), spec) == made
    with pytest.raises(ConfigError, match="qdit needs the setting 'quality'"):
        get_selector("qdit")
