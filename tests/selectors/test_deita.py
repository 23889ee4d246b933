import json
from itertools import pairwise

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import scores, select
from hf_datasel.errors import ConfigError, Interrupted, SelectionError
from hf_datasel.scores import Embedding, Loss
from hf_datasel.selectors import Deita, Top, get_selector
from hf_datasel.strategies.near_duplicates import skip_near_duplicates
from hf_datasel.testing import contract


@contract(Deita(), Deita(by="reward", threshold=0.2), Deita(vectors=Embedding(), threshold=0.999))
def test_contract(check, selector, full, tiny_model_dir):
    check(selector, full.select(range(8)), tiny_model_dir)


def cosines(data):
    vectors = np.array([[np.nan] * 4 if each is None else each for each in data["embedding"][:]])
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units @ units.T


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.9])
def test_the_best_rows_without_near_duplicates(gaps, threshold):
    able = np.array([row for row in range(12) if row not in (2, 5, 8)])
    vectors = np.array([gaps["embedding"][int(row)] for row in able])
    values = np.array(gaps["deita"][:], dtype=float)[able]
    expected = able[skip_near_duplicates(vectors, values, None, threshold)].tolist()
    most = len(expected)
    assert most < len(able)
    for size in range(1, most + 1):
        assert select(gaps, Deita(threshold=threshold), size=size).indices.tolist() == expected[:size]
    copies = len(able) - most
    message = (
        rf"size={most + 1} is more than the {most} of 12 rows .*{copies} near-dup.*1 without deita, 1 without emb"
    )
    with pytest.raises(SelectionError, match=message):
        select(gaps, Deita(threshold=threshold), size=most + 1)


@pytest.mark.parametrize("size", [2, 12])
def test_how_many_are_near_duplicates(full, make_round, size):
    data = full.remove_columns("embedding").add_column("embedding", [[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 7)
    context = make_round(data, size)
    selected = Deita().select(context)
    deita = np.array(full["deita"][:])
    assert sorted(selected) == sorted([int(deita[:5].argmax()), 5 + int(deita[5:].argmax())])
    assert context.record.exclusions == ({"near-duplicates of a better row": 10} if size == 12 else {})
    with pytest.raises(
        SelectionError, match=r"size=3 .*the 2 of 12 rows .*\(10 near-duplicates of a better row\)\. Low"
    ):
        select(data, Deita(), size=3)


def test_published_selections(shared):
    golden = json.loads((shared / "golden" / "deita_filter.json").read_text(encoding="utf-8"))
    arrays = np.load(shared / "golden" / "deita_filter.npz")
    vectors, values = arrays["embeddings"], arrays["final_score"]
    texts = [f"row {at}" for at in range(len(values))]
    data = Dataset.from_dict({"text": texts, "embedding": vectors.tolist(), "deita": values.tolist()})
    for threshold in (0.5, 0.8, 0.9, 0.95):
        everything = golden["selected_idx_in_order"][f"thr{threshold}_size-1"]
        assert select(data, Deita(threshold=threshold), size=len(everything)).indices.tolist() == everything
        first = golden["selected_idx_in_order"][f"thr{threshold}_size100"]
        assert select(data, Deita(threshold=threshold), size=len(first)).indices.tolist() == first
    message = (
        rf"size=453 is more than the 452 of 1,500 rows .*\({len(values) - 452:,} near-duplicates of a better row\)"
    )
    with pytest.raises(SelectionError, match=message):
        select(data, Deita(), size=453)


def test_zero_vectors_are_near_to_nothing(full):
    data = full.remove_columns("embedding").add_column("embedding", [[0.0, 0.0]] * 12)
    assert select(data, Deita(), size=12).indices.tolist() == select(data, Top(by="deita"), size=12).indices.tolist()


def test_all_equal_is_dataset_order(full):
    data = full.remove_columns("deita").add_column("deita", [3.0] * 12)
    assert select(data, Deita(threshold=1), size=5).indices.tolist() == [0, 1, 2, 3, 4]


def test_no_row_has_a_vector(full):
    data = full.remove_columns("embedding").add_column("embedding", [None] * 12)
    with pytest.raises(SelectionError, match=r"None of the 12 rows can be selected \(12 without embedding\)"):
        select(data, Deita(), size=1)


def test_interrupted_with_rows_and_not_positions(gaps, make_round, stop_at):
    whole = Deita().select(make_round(gaps, 4))
    with pytest.raises(Interrupted, match="rows had been selected") as stop:
        Deita().select(stop_at(make_round(gaps, 4), 1))
    assert len(stop.value.selected)
    assert stop.value.selected.tolist() == whole[: len(stop.value.selected)].tolist()


def test_explained(gaps, make_round):
    selector, close = Deita(threshold=0.8), cosines(gaps)
    selected = selector.select(make_round(gaps, 12))
    explained = {row: selector.explain(make_round(gaps, 12), selected, row) for row in range(12)}
    assert explained[8] == ["It has no vector."]
    for row in selected.tolist():
        assert explained[row] == ["No row that was selected before it has a cosine above 0.8 with it."]
    left = [row for row in range(12) if row not in (2, 5, 8, *selected)]
    assert left
    for row in left:
        better = next(int(each) for each in selected if close[row, each] > 0.8)
        assert explained[row] == [
            f"Row {better}, which was selected, has a cosine of {close[row, better]:.4g} with it: near-duplicates "
            "above 0.8 "
            "are excluded."
        ]


def test_explained_where_the_budget_ended(full, make_round):
    selector = Deita(threshold=0.999)
    selected = selector.select(make_round(full, 2))
    last = int(np.argmin(full["deita"][:]))
    assert selector.explain(make_round(full, 2), selected, last) == [
        "No row that was selected has a cosine above 0.999 with it."
    ]


def test_within_a_token_budget(full):
    lengths = np.array(full["num_tokens"][:])
    selector = Deita(threshold=0.8)
    sizes = [len(select(full, selector, tokens=tokens).indices) for tokens in (60, 120, 240)]
    assert all(a < b for a, b in pairwise(sizes))
    every = select(full, selector, size=sizes[-1]).indices
    assert select(full, selector, tokens=120).indices.tolist() == every[: sizes[1]].tolist()
    assert lengths[every[: sizes[1]]].sum() <= 120 < lengths[every[: sizes[1] + 1]].sum()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": 3}, r"Deita\(by=3\).*a column, or a score such as IFD"),
        ({"vectors": Loss()}, r"Deita\(vectors=Loss.*a column, or Embedding\(\.\.\.\)"),
        ({"threshold": 1.1}, r"Deita\(threshold=1.1\): it has to be a number from -1 to 1"),
        ({"threshold": "0.9"}, r"Deita\(threshold='0.9'\)"),
    ],
)
def test_impossible_settings_are_found_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        Deita(**settings)


def test_in_a_recipe():
    made = get_selector("deita", {"by": {"score": "deita", "turns": "mean"}, "vectors": {"score": "embedding"}})
    assert made == Deita(by=scores.DeitaScore(turns="mean"), vectors=Embedding())
    spec = json.loads(json.dumps(made.spec()))
    assert get_selector(spec.pop("selector"), spec) == made
