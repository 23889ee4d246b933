import numpy as np
import pytest

from hf_datasel import select
from hf_datasel.errors import ColumnError, SelectionError
from hf_datasel.selectors import Top
from hf_datasel.testing import contract


@contract(Top(by="ifd"), Top(by="loss"))
def test_contract(check, selector, rows):
    check(selector, rows)


def test_highest_first_and_ties_to_the_lower_row(rows):
    assert select(rows, Top(by="ifd"), size=5).indices.tolist() == [1, 5, 9, 2, 4]


def test_all_equal_is_dataset_order(rows):
    same = rows.add_column("same", [7] * 12)
    assert select(same, Top(by="same"), size=3).indices.tolist() == [0, 1, 2]


def test_takes_negative_numbers_and_whole_ones(rows):
    data = rows.add_column("depth", [-at for at in range(12)])
    assert select(data, Top(by="depth"), size=2).indices.tolist() == [0, 1]


def test_nulls_and_nan_are_never_taken_and_are_counted(rows):
    gaps = rows.add_column("gaps", [None, float("nan"), *[float(at) for at in range(10)]])
    assert sorted(select(gaps, Top(by="gaps"), size=10).indices.tolist()) == list(range(2, 12))
    with pytest.raises(
        SelectionError, match=r"size=11 is more than the 10 of 12 rows that can be selected \(2 without gaps\). Lower"
    ):
        select(gaps, Top(by="gaps"), size=11)


def test_a_column_of_nulls_alone(rows):
    gaps = rows.add_column("gaps", [None] * 12)
    with pytest.raises(SelectionError, match=r"^None of the 12 rows can be selected \(12 without gaps\)\.$"):
        select(gaps, Top(by="gaps"), size=1)


def test_a_misspelt_column_gets_a_suggestion(rows):
    with pytest.raises(ColumnError, match=r"Top needs column 'idf', but .*Did you mean 'ifd'\? Scores are added with"):
        select(rows, Top(by="idf"), size=1)


def test_a_column_name_that_is_none(rows):
    with pytest.raises(ColumnError, match="Top needs column 5, but the dataset has"):
        select(rows, Top(by=5), size=1)


@pytest.mark.parametrize("values", [["3"] * 12, [[1.0]] * 12, [{"a": 1}] * 12])
def test_a_column_without_numbers_is_refused(rows, values):
    with pytest.raises(ColumnError, match=r"Column 'odd' holds .*, and a choice needs numbers"):
        select(rows.add_column("odd", values), Top(by="odd"), size=1)


def test_stays_inside_the_eligible_rows(rows, make_round):
    eligible = np.arange(12) > 5
    assert Top(by="ifd").choose(make_round(rows, 3, eligible=eligible)).tolist() == [9, 8, 6]
