import numpy as np
import pytest

from hf_datasel import select
from hf_datasel.errors import ConfigError, Interrupted, SelectionError
from hf_datasel.scores import Embedding, Length
from hf_datasel.selectors import DQ, get_selector
from hf_datasel.strategies.graph_cut import graph_cut_bins, sample_bins
from hf_datasel.testing import contract


@contract(DQ(), DQ(bins=3), DQ(vectors=Embedding(), bins=2))
def test_contract(check, selector, full, tiny_model_dir):
    check(selector, full.select(range(8)), tiny_model_dir)


@pytest.mark.parametrize("bins", [1, 3, 10, 50])
def test_an_equal_draw_from_the_bins_of_the_rows_that_can_be_selected(gaps, bins):
    able = np.array([row for row in range(12) if row not in (2, 8)])
    vectors = np.array([gaps["embedding"][int(row)] for row in able], dtype=np.float32)
    parts = graph_cut_bins(vectors, min(bins, 10))
    expected = able[sample_bins(parts, 6, np.random.default_rng([4, 0]))]
    assert select(gaps, DQ(bins=bins), size=6, seed=4).indices.tolist() == expected.tolist()


def test_as_many_rows_of_each_bin(full):
    parts = graph_cut_bins(np.array(full["embedding"][:], dtype=np.float32), 3)
    for seed in range(5):
        selected = select(full, DQ(bins=3), size=6, seed=seed).indices
        assert [len(np.intersect1d(part, selected)) for part in parts] == [2, 2, 2]


def test_the_seed_decides_and_no_global_state(full):
    draws = set()
    for seed in (0, 0, 1, 2):
        np.random.seed(len(draws))
        draws.add(tuple(select(full, DQ(bins=3), size=6, seed=seed).indices.tolist()))
    assert len(draws) == 3


def test_copies_and_zero_vectors_are_rows_like_others(full):
    for vectors in ([[1.0, 2.0]] * 12, [[0.0, 0.0]] * 12):
        same = full.remove_columns("embedding").add_column("embedding", vectors)
        assert sorted(select(same, DQ(bins=4), size=12).indices.tolist()) == list(range(12))


def test_why_there_are_no_more(gaps):
    with pytest.raises(SelectionError, match=r"size=11 .*the 10 of 12 .*1 empty_response, 1 without embedding"):
        select(gaps, DQ(), size=11)


def test_no_row_has_a_vector(full):
    data = full.remove_columns("embedding").add_column("embedding", [None] * 12)
    with pytest.raises(SelectionError, match=r"None of the 12 rows can be selected \(12 without embedding\)"):
        select(data, DQ(), size=1)


def test_interrupted_before_anything_is_drawn(gaps, monkeypatch):
    def stopped(vectors, n_bins, progress):
        raise Interrupted(np.array([0, 1]))

    monkeypatch.setattr("hf_datasel.selectors.dq.graph_cut_bins", stopped)
    with pytest.raises(Interrupted, match="0 rows had been selected") as stop:
        select(gaps, DQ(), size=6)
    assert stop.value.selection.indices.tolist() == []


def test_within_a_token_budget(full):
    lengths = np.array(full["num_tokens"][:])
    selected = select(full, DQ(bins=3), tokens=150).indices
    every = select(full, DQ(bins=3), size=12).indices
    assert selected.tolist() == every[: len(selected)].tolist()
    assert lengths[selected].sum() <= 150 < lengths[every[: len(selected) + 1]].sum()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bins": 0}, r"DQ\(bins=0\): it has to be an int of at least 1"),
        ({"bins": True}, r"DQ\(bins=True\)"),
        ({"vectors": Length()}, r"DQ\(vectors=Length.*a column, or Embedding\(\.\.\.\)"),
    ],
)
def test_impossible_settings_are_found_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        DQ(**settings)


def test_in_a_recipe(tiny_model_dir):
    settings = {"vectors": {"score": "embedding", "model": str(tiny_model_dir), "part": "prompt"}, "bins": 5}
    made = get_selector("dq", settings)
    assert made == DQ(Embedding(str(tiny_model_dir), part="prompt"), 5)
    spec = made.spec()
    assert get_selector(spec.pop("selector"), spec) == made
