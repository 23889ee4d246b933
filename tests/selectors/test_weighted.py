"""Weights of selected rows: from a column or a score, in selections, in groups and after filters."""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from hf_datasel import Selection, select
from hf_datasel.analysis.comparison import compare
from hf_datasel.cards.build import gather
from hf_datasel.cards.card import page
from hf_datasel.cards.comparison import notes, overview_table
from hf_datasel.errors import ColumnError, ConfigError, SelectionError
from hf_datasel.rounds.selector import Selector
from hf_datasel.scores import Length
from hf_datasel.scoring import Score
from hf_datasel.selection import explain
from hf_datasel.selectors import Chain, InRange, IterIT, Random, Top, Weighted, Within, get_selector
from hf_datasel.strategies.weights import row_weights
from hf_datasel.testing import contract

QUALITY = [0.5, 0.1, 0.9, 0.3, 0.3, 1.0, 0.0, 0.7, 0.2, 0.6, 0.8, 0.4]


@pytest.fixture
def rated(rows):
    return rows.add_column("quality", QUALITY).add_column("source", ["a", "b"] * 6)


@contract(
    Weighted(Top(by="ifd"), by="quality"),
    Weighted(Random(), by=Length(), scale="rank", low=0.3),
    Chain([InRange("quality", low=0.2)], Weighted(Top(by="ifd"), by="quality", scale="minmax")),
    Within(Weighted(Random(), by="quality"), "source"),
)
def test_contract(check, selector, rated):
    check(selector, rated)


def test_rows_are_those_of_the_method(rated):
    plain, weighted = (select(rated, each, size=5) for each in (Top(by="ifd"), Weighted(Top(by="ifd"), by="quality")))
    assert plain.weights is None
    np.testing.assert_array_equal(weighted.indices, plain.indices)
    np.testing.assert_array_equal(weighted.weights, np.array(QUALITY, dtype=np.float32)[plain.indices])


@pytest.mark.parametrize(("scale", "by"), [("none", "quality"), ("rank", "quality"), ("minmax", Length())])
def test_budget_of_tokens(rated, scale, by):
    counted = rated.add_column("num_tokens", [40, 10, 25, 5, 60, 30, 15, 20, 35, 50, 45, 10])
    selector = Weighted(Top(by="ifd"), by=by, scale=scale)
    within = select(counted, selector, tokens=150)
    assert 1 < len(within.indices) < 9
    expected = select(counted, selector, size=len(within.indices))
    np.testing.assert_array_equal(within.indices, expected.indices)
    np.testing.assert_array_equal(within.weights, expected.weights)
    assert within.provenance["weights"] == expected.provenance["weights"]
    assert within.table["selection_weight"].null_count == len(rated) - len(within.indices)


@dataclass(frozen=True)
class Grade(Score):
    """A score that is no weight for the row with 20 tokens."""

    def columns(self):
        return {"grade": pa.float32()}

    def compute(self, rows, runner):
        tokens = np.array(rows.pool.dataset["num_tokens"][:], dtype=np.float32)[rows.indices]
        return {"grade": pa.array(np.where(tokens == 20, 20, tokens / 60).astype(np.float32))}


def test_only_the_last_selection_within_a_budget_of_tokens_is_weighed(rated, monkeypatch):
    tokens = [10, 25, 5, 30, 15, 20, 35, 40, 60, 50, 45, 10]
    counted = rated.remove_columns("ifd").add_column("ifd", list(range(12, 0, -1))).add_column("num_tokens", tokens)
    sizes, select_top = [], Top.select
    monkeypatch.setattr(Top, "select", lambda own, context: sizes.append(context.budget) or select_top(own, context))
    for settings in ({"by": Grade()}, {"by": "quality", "scale": "rank"}, {"by": "quality", "scale": "minmax"}):
        selector = Weighted(Top(by="ifd"), **settings)
        sizes.clear()
        selection = select(counted, selector, tokens=85)
        assert selection.indices.tolist() == [0, 1, 2, 3, 4]
        assert sizes == [3, 6, 5]
        np.testing.assert_array_equal(selection.weights, select(counted, selector, size=5).weights)
    with pytest.raises(SelectionError, match="row 5 has 20, but a weight is a number from 0 to 1"):
        select(counted, Weighted(Top(by="ifd"), by=Grade()), tokens=105)


@pytest.mark.parametrize("scale", ["minmax", "rank"])
def test_scaled_weights(rated, scale):
    selection = select(rated, Weighted(Random(), by="quality", scale=scale, low=0.25), size=7)
    values = np.array(QUALITY)[selection.indices]
    if scale == "rank":
        values = np.array([np.sum(values < each) + np.sum(values <= each) for each in values])
    expected = 0.25 + 0.75 * (values - values.min()) / (values.max() - values.min())
    np.testing.assert_allclose(selection.weights, expected, rtol=1e-6)


def test_equal_numbers_have_weight_one():
    assert row_weights(np.full(3, 0.2), "minmax", 0.5).tolist() == [1, 1, 1]


def test_groups_are_scaled_by_themselves(rated):
    selection = select(rated, Within(Weighted(Top(by="quality"), by="quality", scale="minmax"), "source"), size=6)
    for group in (0, 1):
        own = selection.indices % 2 == group
        values = np.array(QUALITY)[selection.indices[own]]
        expected = (values - values.min()) / (values.max() - values.min())
        np.testing.assert_allclose(selection.weights[own], expected, rtol=1e-6)


def test_weights_after_filters(rated):
    chain = Chain([InRange("quality", low=0.25)], Weighted(Top(by="ifd"), by="quality"))
    selection = select(rated, chain, size=4)
    np.testing.assert_array_equal(selection.weights, np.array(QUALITY, dtype=np.float32)[selection.indices])
    assert (selection.weights >= 0.25).all()


def test_saved_and_applied(rated, tmp_path):
    selection = select(rated, Weighted(Top(by="ifd"), by="quality"), size=5)
    selection.save(tmp_path / "saved")
    loaded = Selection.load(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.weights, selection.weights)
    subset = loaded.apply(rated)
    assert subset["selection_weight"][:] == selection.weights.tolist()
    mean = np.mean(selection.weights, dtype=np.float64)
    assert loaded.provenance["weights"]["mean"] == pytest.approx(mean)

    again = select(subset, Weighted(Top(by="quality"), by="selection_weight"), size=3)  # of rows that have weights
    assert again.apply(subset)["selection_weight"][:] == again.weights.tolist()
    unweighted = select(subset, Top(by="selection_weight"), size=3)
    assert unweighted.weights is None
    assert "selection_weight" not in unweighted.apply(subset).column_names


def test_missing_weights_are_damage(rated, tmp_path):
    selection = select(rated, Weighted(Random(), by="quality"), size=5)
    selection.table = selection.table.drop_columns(["selection_weight"])
    selection.save(tmp_path / "saved")
    with pytest.raises(SelectionError, match="its selected rows have weights, but not all of them are there"):
        Selection.load(tmp_path / "saved")


def test_explanation_and_page(rated):
    selection = select(rated, Weighted(Top(by="ifd"), by="quality"), size=5)
    first = int(selection.indices[0])
    assert explain(selection, rated, first)["weight"] == pytest.approx(QUALITY[first])
    others = np.setdiff1d(np.arange(12), selection.indices)
    assert explain(selection, rated, int(others[0]))["weight"] is None
    assert explain(select(rated, Top(by="ifd"), size=5), rated, first)["weight"] is None
    text = page(gather([selection], rated, title="Rows"))
    low, high = selection.weights.min(), selection.weights.max()
    assert f"| **row weights** | {low:.3g} to {high:.3g}, mean" in text
    assert "Top by ifd weighted by quality" in text


def test_comparisons_say_that_rows_have_weights(rated):
    plain, weighted = (select(rated, each, size=5) for each in (Random(), Weighted(Random(), by="quality")))
    comparison = compare({"plain": plain, "weighted": weighted})
    head, cells = overview_table(comparison)
    assert [row[head.index("mean weight")] for row in cells][:2] == ["", ""]
    assert comparison["selections"][1]["weight_mean"] == pytest.approx(weighted.weights.mean(), rel=1e-4)
    assert "the overlap compares rows, not their weights" in " ".join(notes(comparison))
    facts = gather([weighted], rated, title="Rows")
    assert "The overlap compares rows, not their weights" in page(facts)


class Own(Selector):
    """Weights of its own, for some of its rows only."""

    weights = (0.5, 2.0)

    def select(self, context):
        context.set_weights(np.array([1, 2]), np.array(self.weights))
        return np.arange(4)


def test_own_selector(rated):
    with pytest.raises(SelectionError, match="Own set weight 2 for row 2: a weight is a number from 0 to 1"):
        select(rated, Own(), size=4)
    Own.weights = (0.5, 0.25)
    assert select(rated, Own(), size=4).weights.tolist() == [1, 0.5, 0.25, 1]
    Own.weights = (0.5,)
    with pytest.raises(SelectionError, match=r"weights of shape \(1,\) for 2 rows"):
        select(rated, Own(), size=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "random", "by": "quality"}, r"Weighted\(method='random'\): it has to be a selector"),
        ({"method": Random(), "by": 3}, r"Weighted\(by=3\): it has to be the name of a column"),
        ({"method": Random(), "by": "quality", "scale": "ranks"}, "Did you mean 'rank'"),
        ({"method": Random(), "by": "quality", "low": 0.5}, r"Weighted\(low=0.5\) is the lowest weight of scaled"),
        ({"method": Random(), "by": "quality", "scale": "rank", "low": 2}, "a number from 0 to 1"),
    ],
)
def test_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        Weighted(**settings)


def test_numbers_that_are_no_weights(rated):
    rated = rated.remove_columns("quality").add_column("quality", [None, 1.5, *QUALITY[2:]])
    for method in (Random(), Chain([InRange("quality", low=0.9)], Weighted(Random(), by="quality"))):
        with pytest.raises(SelectionError, match=r"row 1 has 1.5, but a weight is .* or set scale='rank'"):
            select(rated, method if isinstance(method, Chain) else Weighted(method, by="quality"), size=3)
    kept = Chain([InRange("quality", high=1)], Weighted(Random(), by="quality"))
    assert select(rated, kept, size=3).weights.max() <= 1
    rated = rated.remove_columns("quality").add_column("quality", [None, *QUALITY[1:]])
    with pytest.raises(SelectionError, match=r"more than the 11 of 12 rows that can be selected \(1 without quality"):
        select(rated, Weighted(Random(), by="quality"), size=12)


def test_plan_and_spec():
    selector = Weighted(IterIT(decay=0.2), by="quality")
    assert selector.reselects
    assert selector.plan(10, 2, 100) == IterIT(decay=0.2).plan(10, 2, 100)
    assert selector.sets_weights() and Chain([InRange("a", low=1)], selector).sets_weights()
    assert not Chain([InRange("a", low=1)], Random()).sets_weights()
    spec = json.loads(json.dumps(selector.spec()))
    assert get_selector(spec.pop("selector"), spec) == selector


def test_columns_are_checked_before_the_method_runs(rated, monkeypatch):
    monkeypatch.setattr(Random, "select", lambda *_: pytest.fail("rows were selected"))
    monkeypatch.setattr(InRange, "keep", lambda *_: pytest.fail("rows were filtered"))
    rated = rated.add_column("big", [5.0] * 12).add_column("none", [None] * 12)
    for method, error, message in (
        (Weighted(Random(), by="big"), SelectionError, "row 0 has 5, .* and 11 more rows are outside this range"),
        (Weighted(Random(), by="none"), SelectionError, "none of the 12 rows that can be selected has a number"),
        (Chain([InRange("ifd", low=0)], Weighted(Random(), by="qualty")), ColumnError, "Did you mean 'quality'"),
        (Chain([InRange("ifd", low=0)], Weighted(Random(), by="source")), ColumnError, "'source' holds string"),
    ):
        with pytest.raises(error, match=message):
            select(rated, method, size=3)


def test_weights_that_are_all_zero(rated):
    rated = rated.add_column("zero", [0.0] * 12)
    with pytest.raises(SelectionError, match="all 3 selected rows have weight 0"):
        select(rated, Within(Weighted(Random(), by="zero"), "source"), size=3)
