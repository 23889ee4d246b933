import numpy as np
import pytest

from hf_datasel import score, select
from hf_datasel.errors import ConfigError, SelectionError
from hf_datasel.scores import IFD
from hf_datasel.scoring import measure_cost
from hf_datasel.selectors import Superfiltering
from hf_datasel.testing import contract


@contract(Superfiltering(quality="ifd"), Superfiltering(), Superfiltering(convention="superfiltering"))
def test_contract(check, selector, pool_rows, rows, tiny_model_dir):
    check(selector, rows if selector.quality else pool_rows, tiny_model_dir)


def test_highest_below_one_first(rows):
    selected = select(rows, Superfiltering(quality="ifd"), size=10).indices
    assert selected.tolist() == [9, 2, 4, 8, 6, 0, 11, 10, 3, 7]


def test_ifd_above_one_is_excluded(rows):
    with pytest.raises(
        SelectionError, match=r"size=11 is more than the 10 of 12 rows that can be selected \(2 with ifd >= 1\)"
    ):
        select(rows, Superfiltering(quality="ifd"), size=11)


@pytest.mark.parametrize("convention", ["sft", "superfiltering"])
def test_scores_as_the_score_alone_does(pool_rows, tiny_model_dir, convention):
    model = str(tiny_model_dir)
    selection = select(pool_rows, Superfiltering(convention=convention), size=2, model=model)
    alone = np.array(score(pool_rows, [IFD(convention=convention)], model=model)["ifd"][:])
    assert np.allclose(selection.scores("ifd"), alone, atol=1e-5)
    below = np.where(alone < 1, alone, -1)
    assert selection.indices.tolist() == np.argsort(-below, kind="stable")[:2].tolist()


def test_a_misspelt_convention_is_found_at_once():
    with pytest.raises(ConfigError, match="Did you mean 'superfiltering'"):
        Superfiltering(convention="superfilter")


def test_each_row_is_scored_once(pool_rows, model, tokenizer):
    """Rows with an IFD of 1 or more are excluded, and the others are not scored again."""
    with measure_cost() as meter:
        score(pool_rows, IFD(), model, tokenizer)
    selection = select(pool_rows, Superfiltering(), size=2, model=model, processing_class=tokenizer)
    assert 0 < sum(selection.provenance["exclusions"].values()) < len(pool_rows)
    assert selection.provenance["cost"]["tokens_forward"] == meter.cost["tokens_forward"]
