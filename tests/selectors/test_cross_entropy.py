import numpy as np
import pytest

from hf_datasel import score, select
from hf_datasel.errors import ConfigError, ScoreError, SelectionError
from hf_datasel.scores import IFD, Loss
from hf_datasel.selectors import CrossEntropy, Top, get_selector
from hf_datasel.testing import contract


@contract(CrossEntropy(), CrossEntropy(by="loss"))
def test_contract(check, selector, rows, tiny_model_dir):
    check(selector, rows.select(range(6)), tiny_model_dir)


def test_the_hardest_rows_of_the_model(rows, tiny_model_dir):
    model = str(tiny_model_dir)
    bare = rows.remove_columns("loss")
    loss = np.array(score(bare, [Loss()], model=model)["loss"][:])
    expected = np.argsort(-loss, kind="stable")[:5].tolist()
    assert select(bare, CrossEntropy(), size=5, model=model).indices.tolist() == expected
    assert select(bare, CrossEntropy(by=Loss(model)), size=5).indices.tolist() == expected


def test_without_a_model_the_column_is_read(rows):
    found = select(rows, CrossEntropy(), size=3)
    assert found.indices.tolist() == select(rows, Top(by="loss"), size=3).indices.tolist() == [7, 3, 10]
    assert found.provenance["columns_unverified"] == ["loss"]


def test_over_the_pair_summed(rows, tiny_model_dir):
    by = Loss(str(tiny_model_dir), over="pair", reduction="sum")
    expected = select(rows, Top(by=by), size=12).indices.tolist()
    assert select(rows, CrossEntropy(by=by), size=12).indices.tolist() == expected
    assert expected != select(rows, CrossEntropy(by=Loss(by.model)), size=12).indices.tolist()


def test_rows_that_cannot_be_scored_are_excluded(gaps, tiny_model_dir):
    selected = select(gaps, CrossEntropy(), size=11, model=str(tiny_model_dir)).indices
    assert sorted(selected.tolist()) == [row for row in range(12) if row != 2]
    with pytest.raises(SelectionError, match=r"size=12 is more than the 11 of 12 rows .*1 empty_response"):
        select(gaps, CrossEntropy(), size=12, model=str(tiny_model_dir))


def test_no_model_and_no_column(rows):
    with pytest.raises(ScoreError, match="Loss has no model to run"):
        select(rows.remove_columns("loss"), CrossEntropy(), size=3)


@pytest.mark.parametrize("by", [IFD(), None, ""])
def test_another_score_is_refused_at_once(by):
    with pytest.raises(ConfigError, match=r"CrossEntropy\(by=.*the name of a column, or Loss\(\.\.\.\)"):
        CrossEntropy(by=by)


def test_in_a_recipe(tiny_model_dir):
    model = str(tiny_model_dir)
    made = get_selector("cross_entropy", {"by": {"score": "loss", "model": model, "over": "pair"}})
    assert made == CrossEntropy(by=Loss(model, over="pair"))
    assert get_selector("cross_entropy") == CrossEntropy() == CrossEntropy(by=Loss())
