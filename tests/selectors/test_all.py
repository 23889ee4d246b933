import pytest

from hf_datasel import select
from hf_datasel.errors import SelectionError
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.selectors import All
from hf_datasel.testing import contract


@contract(All())
def test_contract(check, selector, rows):
    check(selector, rows)


def test_every_row_in_order(rows):
    assert select(rows, All(), size=3).indices.tolist() == list(range(12))


def test_untrainable_rows_are_excluded(rows):
    broken = rows.remove_columns("output").add_column("output", ["", None, *rows["output"][2:]])
    assert select(broken, All()).indices.tolist() == list(range(2, 12))


def test_one_round_of_all_epochs():
    assert All().plan(3, 2.5, 12) == (RoundPlan(12, 2.5),)


def test_no_valid_rows(rows):
    empty = rows.select(range(2)).remove_columns("output").add_column("output", ["", " "])
    with pytest.raises(SelectionError, match=r"None of the 2 rows can be selected \(2 empty_response\)"):
        select(empty, All())
