"""A dataset as a pool: identity of rows, unusable rows, loading."""

from __future__ import annotations

import json

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, IterableDataset, Value

from hf_datasel import load_pool, select
from hf_datasel.errors import FormatError
from hf_datasel.formats import Pool
from hf_datasel.scores import Length
from hf_datasel.scoring.score_rows import score
from hf_datasel.selectors import Longest

ROWS = {
    "instruction": ["Name a colour.", "Add.", "Say nothing.", "Odd."],
    "input": ["", "4 and 9", None, ""],
    "output": ["Blue.", "13", "", " \n"],
}


def test_unusable_rows_are_kept_and_counted_in_one_line():
    pool = Pool(Dataset.from_dict(ROWS))
    assert len(pool) == 4
    assert pool.reasons.tolist() == ["", "", "empty_response", "empty_response"]
    assert pool.summary() == "4 rows (alpaca), 2 of them unusable: 2 empty_response"
    assert Pool(Dataset.from_dict(ROWS).select([0])).summary() == "1 rows (alpaca)"


@pytest.mark.parametrize(
    "use",
    [Pool, lambda rows: select(rows, Longest(), size=1), lambda rows: score(rows, [Length()])],
    ids=["pool", "select", "score"],
)
def test_rows_shown_through_a_function_are_refused_by_everything_that_reads_them(use):
    plain = Dataset.from_dict({"prompt": ["Is it slow?"], "completion": ["No."]})
    shown = plain.with_transform(lambda batch: {name: [each.upper() for each in batch[name]] for name in batch})
    assert shown[0]["completion"] == "NO."
    with pytest.raises(FormatError, match=r"given to with_transform .* Store what it makes of them: dataset\."):
        use(shown)
    assert Pool(shown.with_format(None)).texts("response") == ["No."]


def test_reasons_are_counted_most_frequent_first():
    messages = [None, None, [{"role": "wizard", "content": "a"}]]
    assert Pool(Dataset.from_dict({"messages": messages})).summary() == (
        "3 rows (messages), 3 of them unusable: 2 wrong_type, 1 unknown_role"
    )


def test_columns_of_the_wrong_type_and_null_columns_are_read_as_malformed_rows():
    assert Pool(Dataset.from_dict({"prompt": ["a", "b"], "completion": [1, 2]})).reasons.tolist() == ["wrong_type"] * 2
    assert Pool(Dataset.from_dict({"prompt": ["a"], "completion": [None]})).reasons.tolist() == ["empty_response"]
    assert Pool(Dataset.from_dict({"conversations": [None]})).reasons.tolist() == ["wrong_type"]


def test_rows_keep_the_order_of_the_indices():
    pool = Pool(Dataset.from_dict(ROWS))
    assert pool.texts("response", [1, 0]) == ["13", "Blue."]
    assert pool.texts("prompt", np.array([1])) == ["Add.\n\n4 and 9"]
    assert pool.texts("both", [0]) == ["Name a colour.\nBlue."]


def test_row_ids_are_equal_in_every_file_format(tmp_path):
    data = Dataset.from_dict(ROWS)
    data.to_json(tmp_path / "rows.jsonl")
    data.to_json(tmp_path / "rows.json", lines=False)
    data.to_parquet(tmp_path / "rows.parquet")
    data.to_csv(tmp_path / "rows.csv")
    data.save_to_disk(tmp_path / "folder")
    names = ["rows.jsonl", "rows.json", "rows.parquet", "folder", next((tmp_path / "folder").glob("*.arrow"))]
    ids = {Pool(load_pool(str(tmp_path / name))).id for name in names}
    assert ids == {Pool(data).id}
    usable = Pool(load_pool(str(tmp_path / "rows.csv"))).row_ids[:2]  # csv has no empty text: it becomes null
    assert np.array_equal(usable, Pool(data).row_ids[:2])


def test_row_ids_do_not_see_other_columns_formats_and_fingerprints():
    data = Dataset.from_dict(ROWS)
    pool = Pool(data)
    more = data.add_column("ifd", [0.1] * 4).add_column("text", ["x"] * 4).with_format("numpy")
    assert Pool(more).id == pool.id
    assert Pool(more).row_ids.shape == (4, 32)
    assert Pool(data.select([0, 1, 3, 2])).id != pool.id
    assert np.array_equal(Pool(data.select([2, 0])).row_ids, pool.row_ids[[2, 0]])


def test_row_ids_are_equal_across_formats():
    question, answer = "Name a colour.", "Blue."
    ids = {
        Pool(Dataset.from_dict({name: [value] for name, value in columns.items()})).id
        for columns in (
            {"instruction": question, "input": "", "output": answer},
            {"prompt": question, "completion": answer},
            {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]},
            {"conversations": [question, answer]},
            {"conversations": [{"from": "human", "value": question}], "chosen": {"from": "gpt", "value": answer}},
        )
    }
    assert len(ids) == 1


def test_large_strings_and_other_columns_are_read():
    data = Dataset.from_dict({"prompt": ["a"], "completion": ["b"], "score": [0.5]})
    assert Pool(data.cast_column("completion", Value("large_string"))).texts("response") == ["b"]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (DatasetDict({"train": Dataset.from_dict(ROWS)}), r"DatasetDict with splits \['train'\]"),
        (IterableDataset.from_generator(lambda: iter([{"text": "a"}])), "IterableDataset.*streaming=False"),
        ([{"text": "a"}], "has to be a datasets.Dataset, and this is list"),
        (Dataset.from_dict({"messages": [[]], "image": [None]}), "Rows with images"),
        (Dataset.from_dict({"question": ["a"], "response": ["b"]}), "make none of the formats"),
    ],
)
def test_what_is_no_pool_is_refused(dataset, message):
    with pytest.raises(FormatError, match=message):
        Pool(dataset)


def test_text_rows_have_no_response():
    pool = Pool(Dataset.from_dict({"text": ["a", ""]}))
    assert pool.reasons.tolist() == ["", "empty_text"]
    assert pool.texts("both", [0])[0].startswith("a")
    with pytest.raises(FormatError, match="only a text column have no response"):
        pool.texts("response")


@pytest.mark.parametrize(
    ("name", "format", "rows", "reasons"),
    [
        ("alpaca_random_5200.json", "alpaca", 5200, {"empty_response": 2}),
        ("code_alpaca_2017.json", "alpaca", 2017, {"empty_response": 2}),
        ("gsm8k_train_7473.json", "alpaca", 7473, {}),
        ("lima_1030.jsonl", "sharegpt", 1030, {"turn_order": 1}),
        ("dpo_300.json", "preference", 300, {}),
    ],
)
def test_the_reference_files_load_with_one_call(shared, name, format, rows, reasons):
    data = load_pool(str(shared / "data" / name))
    pool = Pool(data)
    assert (pool.format, len(pool)) == (format, rows)
    found, counts = np.unique(pool.reasons[pool.reasons != ""], return_counts=True)
    assert dict(zip(found.tolist(), counts.tolist(), strict=True)) == reasons


def test_a_folder_with_splits(tmp_path):
    DatasetDict({"train": Dataset.from_dict(ROWS), "test": Dataset.from_dict(ROWS).select([0])}).save_to_disk(tmp_path)
    assert len(load_pool(str(tmp_path))) == 4
    assert len(load_pool(str(tmp_path), split="test")) == 1
    with pytest.raises(FormatError, match=r"Cannot load .*split 'valid'"):
        load_pool(str(tmp_path), split="valid")


def test_slices_of_a_file(tmp_path):
    Dataset.from_dict(ROWS).to_json(tmp_path / "rows.jsonl")
    assert len(load_pool(str(tmp_path / "rows.jsonl"), split="train[:3]")) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.xlsx", "a", r"the ending has to be one of \.json, \.jsonl"),
        ("rows.json", "{not json", r"Cannot load .*rows\.json.*split 'train'"),
        ("rows.parquet", "no parquet", r"Cannot load .*rows\.parquet"),
        ("rows.jsonl", "", r"rows\.jsonl' is empty: it holds no rows"),
        ("rows.csv", "prompt,completion\n", r"rows\.csv.*holds no rows"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(FormatError, match=message):
        load_pool(str(tmp_path / name))


@pytest.mark.parametrize("name", ["no/such/folder/rows.json", "typo.json", "./rows", "a/b/c"])
def test_a_path_where_nothing_is_does_not_ask_the_hub(name):
    with pytest.raises(FormatError, match=rf"There is no file or folder '{name}'"):
        load_pool(name)


def test_a_dataset_that_cannot_be_had():
    with pytest.raises(FormatError, match="Cannot load 'nobody/no-such-dataset'"):
        load_pool("nobody/no-such-dataset")


def test_another_split_of_a_single_file(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([{"text": "a"}]))
    with pytest.raises(FormatError, match=r"Cannot load .*split 'test'"):
        load_pool(str(tmp_path / "rows.json"), split="test")
