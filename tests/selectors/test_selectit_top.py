import numpy as np
import pytest

from hf_datasel import score, select
from hf_datasel.errors import ConfigError, SelectionError
from hf_datasel.scores import Loss, SelectIT
from hf_datasel.selectors import SelectITTop, get_selector
from hf_datasel.testing import contract


@contract(SelectITTop(by="selectit"), SelectITTop(by=SelectIT(level="token")))
def test_contract(check, selector, full, tiny_model_dir):
    check(selector, full.select(range(6)), tiny_model_dir)


def test_the_highest_scores_of_the_model(rows, tiny_model_dir):
    model = str(tiny_model_dir)
    scores = np.array(score(rows, [SelectIT(level="token")], model=model)["selectit"][:])
    expected = np.argsort(-scores, kind="stable")[:5].tolist()
    assert select(rows, SelectITTop(by=SelectIT(level="token")), size=5, model=model).indices.tolist() == expected
    assert select(rows, SelectITTop(by=SelectIT(model, level="token")), size=5).indices.tolist() == expected


def test_a_column_with_gaps(gaps):
    values = np.array(gaps["selectit"][:], dtype=float)
    values[2] = np.nan
    expected = np.argsort(-values, kind="stable")[:10]
    assert select(gaps, SelectITTop(by="selectit"), size=10).indices.tolist() == expected.tolist()
    with pytest.raises(SelectionError, match=r"size=11 .*10 of 12 rows .*1 empty_response, 1 without selectit"):
        select(gaps, SelectITTop(by="selectit"), size=11)


def test_another_score_is_refused_at_once():
    with pytest.raises(ConfigError, match=r"SelectITTop\(by=Loss.*the name of a column, or SelectIT\(\.\.\.\)"):
        SelectITTop(by=Loss())


def test_in_a_recipe(tiny_model_dir):
    model = str(tiny_model_dir)
    models = [[model, 2.0]]
    settings = {"score": "selectit", "level": "model", "model": "a/b", "parameters": 1.0, "models": models}
    made = get_selector("selectit_top", {"by": settings})
    assert made.by == SelectIT("a/b", level="model", parameters=1.0, models=((model, 2.0),))
    assert get_selector("selectit_top") == SelectITTop()
