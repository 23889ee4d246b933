from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from hf_datasel import score, select, select_streaming
from hf_datasel.errors import ColumnError, ConfigError, ScoreError, SelectionError
from hf_datasel.scores import Length, Loss
from hf_datasel.selectors import Chain, InRange, Random, Top, get_selector, per_source
from hf_datasel.testing import contract


@contract(Top(by="ifd"), Top(by="loss"), Top(by=Length()))
def test_contract(check, selector, rows):
    check(selector, rows)


def test_highest_first_and_ties_to_the_lower_row(rows):
    assert select(rows, Top(by="ifd"), size=5).indices.tolist() == [1, 5, 9, 2, 4]


def test_all_equal_is_dataset_order(rows):
    same = rows.add_column("same", [7] * 12)
    assert select(same, Top(by="same"), size=3).indices.tolist() == [0, 1, 2]


def test_a_column_that_separates_no_rows_is_a_warning(rows, caplog):
    equal = rows.add_column("equal", [7.0] * len(rows)).add_column("group", ["a", "b"] * (len(rows) // 2))
    select(equal, Top(by="equal"), size=4)
    (message,) = caplog.messages
    assert message.startswith(f"equal is 7 for all {len(rows)} rows that Top selects from: ")
    caplog.clear()
    select(equal, per_source(Top(by="equal"), "group"), size=4)
    select(equal, Top(by="equal"), size=len(rows))
    assert not [each for each in caplog.messages if "selects from" in each]


def test_negative_and_integer_values(rows):
    data = rows.add_column("depth", [-at for at in range(12)])
    assert select(data, Top(by="depth"), size=2).indices.tolist() == [0, 1]


def test_null_and_nan_are_excluded(rows):
    gaps = rows.add_column("gaps", [None, float("nan"), *[float(at) for at in range(10)]])
    assert sorted(select(gaps, Top(by="gaps"), size=10).indices.tolist()) == list(range(2, 12))
    with pytest.raises(
        SelectionError, match=r"size=11 is more than the 10 of 12 rows that can be selected \(2 without gaps\). Lower"
    ):
        select(gaps, Top(by="gaps"), size=11)


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ([2**53 + 1, 2**53, None, 2**53 + 2], pa.int64()),
        ([2**62 + 1, 2**62, None, 2**63 - 1], pa.uint64()),
        ([Decimal(f"0.1{'0' * 18}2"), Decimal(f"0.1{'0' * 18}1"), None, Decimal(1)], pa.decimal128(25, 20)),
        ([1.0, -float("inf"), float("nan"), float("inf")], pa.float64()),
    ],
)
def test_large_and_infinite_values_are_ranked_exactly(values, type_):
    texts = [str(number) for number in range(4)]
    data = Dataset(pa.table({"prompt": texts, "completion": texts, "big": pa.array(values, type_)}))
    selection = select(data, Top(by="big"), size=3)
    assert selection.indices.tolist() == [3, 0, 1]
    within = select(data.add_column("source", ["a"] * 4), per_source(Top(by="big"), "source"), size=3)
    assert within.indices.tolist() == [3, 0, 1]
    filtered = select(data, Chain([InRange("big")], Top(by="big")), size=2)
    assert filtered.indices.tolist() == [3, 0]
    streamed = select_streaming(data.to_iterable_dataset(), Top(by="big"), size=3, batch_size=1)
    assert streamed["selection_row"][:] == [3, 0, 1]
    with pytest.raises(SelectionError, match=r"\(1 without big\)"):
        select(data, Top(by="big"), size=4)


def test_true_is_above_false(rows):
    data = rows.select(range(3)).add_column("good", [False, True, None])
    assert select(data, Top(by="good"), size=2).indices.tolist() == [1, 0]


def test_a_column_of_nulls_alone(rows):
    gaps = rows.add_column("gaps", [None] * 12)
    with pytest.raises(SelectionError, match=r"^None of the 12 rows can be selected \(12 without gaps\)\.$"):
        select(gaps, Top(by="gaps"), size=1)


def test_a_misspelt_column_gets_a_suggestion(rows):
    with pytest.raises(ColumnError, match=r"Top needs column 'idf', but .*Did you mean 'ifd'\? Scores are added with"):
        select(rows, Top(by="idf"), size=1)


@pytest.mark.parametrize("by", [5, None, "", Random()])
def test_by_of_wrong_type(by):
    with pytest.raises(ConfigError, match=r"Top\(by=.*the name of a column, or a score such as IFD"):
        Top(by=by)


def test_by_a_score(rows):
    expected = select(score(rows, [Length()]), Top(by="response_words"), size=5)
    found = select(rows, Top(by=Length()), size=5)
    assert found.indices.tolist() == expected.indices.tolist()
    assert [spec["score"] for spec in found.provenance["scores"]] == ["length"]
    assert found.provenance["columns_unverified"] == []


def test_a_score_in_a_recipe(rows, tiny_model_dir):
    selector = get_selector("top", {"by": {"score": "loss", "model": str(tiny_model_dir)}})
    assert selector == Top(by=Loss(str(tiny_model_dir)))
    assert selector.spec() == {"selector": "top", "by": {"score": "loss", "model": str(tiny_model_dir)}}
    with pytest.raises(ConfigError, match=r"There is no score 'los'. Did you mean 'loss'\?"):
        get_selector("top", {"by": {"score": "los"}})


def test_a_token_is_in_no_record():
    selector = Top(by=Loss("org/private", model_init_kwargs={"token": "hf_secret", "device_map": "auto"}))
    assert selector.spec()["by"]["model_init_kwargs"] == {"device_map": "auto"}


def test_the_column_of_a_score_stands_in_for_a_model(rows, tiny_model_dir):
    column = select(rows, Top(by=Loss()), size=4)
    assert column.indices.tolist() == select(rows, Top(by="loss"), size=4).indices.tolist()
    assert column.provenance["columns_unverified"] == ["loss"]
    computed = select(rows, Top(by=Loss()), size=4, model=str(tiny_model_dir))
    assert computed.provenance["columns_unverified"] == []
    with pytest.raises(ScoreError, match="Loss has no model to run"):
        select(rows, Top(by=Loss(over="pair")), size=4)


def test_a_missing_column_is_named_with_the_score_that_writes_it(rows):
    with pytest.raises(
        ColumnError, match=r"Top needs column 'reward', .* It is added with hf_datasel\.score\(dataset, \[R"
    ):
        select(rows, Top(by="reward"), size=1)


@pytest.mark.parametrize("values", [["3"] * 12, [[1.0]] * 12, [{"a": 1}] * 12])
def test_a_column_without_numbers_is_refused(rows, values):
    with pytest.raises(ColumnError, match=r"Column 'odd' holds .*, and a selection needs numbers"):
        select(rows.add_column("odd", values), Top(by="odd"), size=1)


def test_stays_inside_the_eligible_rows(rows, make_round):
    eligible = np.arange(12) > 5
    assert Top(by="ifd").select(make_round(rows, 3, eligible=eligible)).tolist() == [9, 8, 6]
