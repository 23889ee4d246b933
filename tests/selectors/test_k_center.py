import re

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import select
from hf_datasel.errors import ColumnError, ConfigError, Interrupted, SelectionError
from hf_datasel.scores import Embedding, Length
from hf_datasel.selectors import KCenter, get_selector
from hf_datasel.strategies.farthest import farthest_first
from hf_datasel.testing import contract


@contract(KCenter(), KCenter(start=3), KCenter(start=3, once=True), KCenter(vectors=Embedding()))
def test_contract(check, selector, full, tiny_model_dir):
    check(selector, full.select(range(8)), tiny_model_dir)


def apart(data, row, others):
    vectors = np.array([[np.nan] * 4 if each is None else each for each in data["embedding"][:]])
    return np.linalg.norm(vectors[others] - vectors[row], axis=1)


def test_each_row_is_the_farthest_of_those_that_can_be_selected(gaps):
    able = np.array([row for row in range(12) if row not in (2, 8)])
    vectors = np.array([gaps["embedding"][int(row)] for row in able])
    expected = able[farthest_first(vectors, 6)]
    selected = select(gaps, KCenter(), size=6).indices
    assert selected.tolist() == expected.tolist()
    assert selected[0] == able[np.linalg.norm(vectors - vectors.mean(axis=0), axis=1).argmax()]
    for at in range(1, 6):
        left = np.setdiff1d(able, selected[:at])
        assert selected[at] == left[np.argmax([apart(gaps, row, selected[:at]).min() for row in left])]


@pytest.mark.parametrize("vector", [None, [float("nan"), 1.0]])
def test_without_a_usable_vector_no_row_can_be_selected(gaps, vector):
    rows = gaps.remove_columns("embedding").add_column("embedding", [vector] * 12)
    with pytest.raises(SelectionError, match=r"None of the 12 rows can be selected \(.*without embedding"):
        select(rows, KCenter(), size=3)


@pytest.mark.parametrize("once", [False, True])
def test_from_rows_drawn_at_random(gaps, once):
    able = np.array([row for row in range(12) if row not in (2, 8)])
    first = np.random.default_rng([5, 0]).permutation(10)[:3]
    vectors = np.array([gaps["embedding"][int(row)] for row in able])
    selected = select(gaps, KCenter(start=3, once=once), size=8, seed=5).indices
    assert selected[:3].tolist() == able[first].tolist()
    assert selected[3:].tolist() == able[farthest_first(vectors, 5, first, once)].tolist()
    assert select(gaps, KCenter(start=3), size=2, seed=5).indices.tolist() == able[first[:2]].tolist()


class Drawn:
    """Draws what it is told to."""

    def __init__(self, first):
        self.first = first

    def permutation(self, n):
        return np.concatenate([self.first, np.setdiff1d(np.arange(n), self.first)])


@pytest.mark.parametrize("once", [False, True])
def test_published_selections(shared, make_round, once):
    golden = np.load(shared / "golden" / "diverseevol_kcenter.npz")
    texts = [f"row {at}" for at in range(len(golden["embeddings"]))]
    data = Dataset.from_dict({"text": texts, "embedding": golden["embeddings"].tolist()})
    context = make_round(data, 220)
    context.rng = Drawn(golden["labeled"])
    selected = KCenter(start=20, once=once).select(context)
    assert selected[:20].tolist() == golden["labeled"].tolist()
    if once:
        assert sorted(selected[20:]) == golden["one_shot_topn_xia"].tolist()
    else:
        assert selected[20:].tolist() == golden["picks_ordered_by_minvec"].tolist()


def test_the_seed_decides_and_no_global_state(full):
    draws = set()
    for seed in (0, 0, 1, 2):
        np.random.seed(len(draws))
        draws.add(tuple(select(full, KCenter(start=4), size=6, seed=seed).indices.tolist()))
    assert len(draws) == 3
    assert len({tuple(select(full, KCenter(), size=6, seed=seed).indices.tolist()) for seed in (0, 1)}) == 1


def test_copies_come_last(full):
    same = full.remove_columns("embedding").add_column("embedding", [[0.0, 0.0]] * 9 + [[3.0, 4.0]] * 2 + [[9.0, 0.0]])
    assert select(same, KCenter(), size=12).indices.tolist() == [11, 0, 9, *range(1, 9), 10]


def test_all_equal_is_dataset_order(full):
    same = full.remove_columns("embedding").add_column("embedding", [[0.0, 0.0]] * 12)
    assert select(same, KCenter(), size=4).indices.tolist() == [0, 1, 2, 3]


def test_why_there_are_no_more(gaps):
    with pytest.raises(SelectionError, match=r"size=11 .*the 10 of 12 .*1 empty_response, 1 without embedding"):
        select(gaps, KCenter(), size=11)


def test_no_row_has_a_vector(full):
    data = full.remove_columns("embedding").add_column("embedding", [None] * 12)
    for selector in (KCenter(), KCenter(start=2, once=True)):
        with pytest.raises(SelectionError, match=r"None of the 12 rows can be selected \(12 without embedding\)"):
            select(data, selector, size=1)


def test_interrupted_with_the_rows_of_the_start(gaps, make_round, stop_at):
    whole = KCenter(start=3).select(make_round(gaps, 9))
    with pytest.raises(Interrupted, match="6 rows had been selected") as stop:
        KCenter(start=3).select(stop_at(make_round(gaps, 9), 6))
    assert stop.value.selected.tolist() == whole[:6].tolist()


@pytest.mark.parametrize("row", range(12))
def test_explained(gaps, make_round, row):
    selected = KCenter().select(make_round(gaps, 5))
    said = KCenter().explain(make_round(gaps, 5), selected, row)
    at = np.flatnonzero(selected == row)
    if row == 8:
        assert said == ["It has no vector."]
    elif row == selected[0]:
        assert said == ["It is the row farthest from the mean, which the selection began with."]
    else:
        before = selected[: at[0]] if len(at) else selected
        far = apart(gaps, row, before)
        kind = "selected before it" if len(at) else "selected"
        assert said[0] == f"The nearest of the rows {kind} is {before[far.argmin()]}, {far.min():.4g} away."
        last = [f"The row selected last was {apart(gaps, selected[-1], selected[:-1]).min():.4g} away."]
        assert said[1:] == ([] if len(at) else last)


def test_explained_from_the_start_at_once(full, make_round):
    selector = KCenter(start=2, once=True)
    selected = selector.select(make_round(full, 6))
    assert selector.explain(make_round(full, 6), selected, int(selected[1])) == [
        "It is one of the rows drawn at random that the selection began with."
    ]
    taken, other = int(selected[3]), int(np.setdiff1d(np.arange(12), selected)[0])
    for row in (taken, other):
        said = selector.explain(make_round(full, 6), selected, row)
        far = apart(full, row, selected[:2])
        nearest = selected[far.argmin()]
        assert said[0] == f"The nearest of the rows that the selection began with is {nearest}, {far.min():.4g} away."
    least = float(re.search(r"was (\S+) away", said[1])[1])
    assert least == pytest.approx(apart(full, selected[-1], selected[:2]).min(), rel=1e-3)
    assert least >= apart(full, other, selected[:2]).min() * (1 - 1e-6)


def test_within_a_token_budget(full):
    lengths = np.array(full["num_tokens"][:])
    selected = select(full, KCenter(), tokens=150).indices
    everything = select(full, KCenter(), size=12).indices
    assert selected.tolist() == everything[: len(selected)].tolist()
    assert lengths[selected].sum() <= 150 < lengths[everything[: len(selected) + 1]].sum()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vectors": Length()}, r"KCenter\(vectors=Length.*a column, or Embedding\(\.\.\.\)"),
        ({"start": -1}, r"KCenter\(start=-1\): it has to be an int of at least 0"),
        ({"start": 0.1}, r"KCenter\(start=0.1\)"),
        ({"once": True}, r"KCenter\(once=True\) measures distances to the rows of the start: pass start=100"),
        ({"start": 9, "once": "yes"}, r"KCenter\(once='yes'\): it has to be true or false"),
    ],
)
def test_impossible_settings_are_found_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        KCenter(**settings)


def test_a_column_that_holds_no_vectors(full):
    with pytest.raises(ColumnError, match="Column 'ifd' holds double, and vectors are lists of numbers"):
        select(full, KCenter(vectors="ifd"), size=2)


def test_in_a_recipe(tiny_model_dir):
    settings = {"vectors": {"score": "embedding", "model": str(tiny_model_dir)}, "start": 100}
    assert get_selector("k_center", settings) == KCenter(Embedding(str(tiny_model_dir)), start=100)
