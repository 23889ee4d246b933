import numpy as np
import pyarrow as pa
import pytest
from datasets import Value

from hf_datasel import score, select
from hf_datasel.errors import ConfigError, SelectionError
from hf_datasel.scores import Loss, Nuggets
from hf_datasel.selectors import NuggetsTop, get_selector
from hf_datasel.testing import contract

GOLDEN = [0.9, 0.85, None, 0.3, 0.86, 0.85, 1.0, 0.0, 0.9, 0.2, 0.84, 0.5]


@pytest.fixture
def golden(full):
    return full.remove_columns("golden").add_column("golden", GOLDEN)


@contract(NuggetsTop(), NuggetsTop(threshold=0.5), NuggetsTop(by="deita"))
def test_contract(check, selector, full):
    check(selector, full)


def test_the_highest_golden_scores(golden):
    assert select(golden, NuggetsTop(), size=7).indices.tolist() == [6, 0, 8, 4, 1, 5, 10]
    with pytest.raises(SelectionError, match=r"size=12 .*more than the 11 of 12 .*\(1 without golden\)"):
        select(golden, NuggetsTop(), size=12)


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_rows_at_the_threshold_are_excluded_however_the_score_is_kept(golden, kind):
    data = golden.cast_column("golden", Value(kind))
    selected = select(data, NuggetsTop(threshold=0.85), size=4)
    assert selected.indices.tolist() == [6, 0, 8, 4]
    assert selected.provenance["exclusions"] == {"with golden <= 0.85": 7, "without golden": 1}
    with pytest.raises(SelectionError, match=r"size=5 .*the 4 of 12 .*7 with golden <= 0\.85, 1 without golden"):
        select(data, NuggetsTop(threshold=0.85), size=5)


def test_only_rows_that_can_be_trained_on_are_counted(golden, make_round):
    context = make_round(golden, 3, eligible=np.arange(12) >= 6)
    assert NuggetsTop(threshold=0.85).select(context).tolist() == [6, 8]
    assert context.record.exclusions == {"with golden <= 0.85": 4}


def test_no_row_above_the_threshold(golden):
    with pytest.raises(SelectionError, match=r"None of the 12 rows can be selected \(11 with golden <= 1, 1 without"):
        select(golden, NuggetsTop(threshold=1), size=1)


def test_computed_with_anchors(rows, tiny_model_dir, tmp_path):
    model, anchors = str(tiny_model_dir), str(tmp_path / "anchors.jsonl")
    nuggets = Nuggets(anchors=3, by="random").fit(rows, anchors)
    values = np.array(score(rows, [nuggets], model=model)["golden"][:])
    expected = np.argsort(-values, kind="stable")[:4].tolist()
    assert select(rows, NuggetsTop(by=nuggets), size=4, model=model).indices.tolist() == expected


def test_scores_of_equal_rows_keep_dataset_order(golden):
    same = golden.remove_columns("golden").add_column("golden", pa.array([0.9] * 12, pa.float32()).to_pylist())
    assert select(same, NuggetsTop(threshold=0.85), size=3).indices.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1.5}, r"NuggetsTop\(threshold=1.5\): it has to be a number from 0 to 1"),
        ({"threshold": "0.85"}, r"NuggetsTop\(threshold='0.85'\)"),
        ({"threshold": True}, r"NuggetsTop\(threshold=True\)"),
        ({"by": Loss()}, r"NuggetsTop\(by=Loss.*a column, or Nuggets\(\.\.\.\)"),
        ({"by": Nuggets()}, r"needs anchors: pass what Nuggets\(\.\.\.\)\.fit\(dataset\) returns"),
    ],
)
def test_impossible_settings_are_found_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        NuggetsTop(**settings)


def test_in_a_recipe():
    made = get_selector("nuggets_top", {"by": {"score": "nuggets", "anchor_file": "a.jsonl"}, "threshold": 0.85})
    assert made == NuggetsTop(by=Nuggets(anchor_file="a.jsonl"), threshold=0.85)
    with pytest.raises(ConfigError, match="needs anchors"):
        get_selector("nuggets_top", {"by": {"score": "nuggets"}})
