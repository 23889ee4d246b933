"""A dataset as a pool: identity of rows, unusable rows, loading."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, IterableDataset, Value

from hf_datasel import load_pool, select
from hf_datasel.errors import FormatError
from hf_datasel.formats import Pool
from hf_datasel.formats.messages import ROLES
from hf_datasel.scores import Length
from hf_datasel.scoring.score_rows import score
from hf_datasel.selectors import Longest

ROWS = {
    "instruction": ["Name a colour.", "Add.", "Say nothing.", "Odd."],
    "input": ["", "4 and 9", None, ""],
    "output": ["Blue.", "13", "", " \n"],
}


def test_summary():
    pool = Pool(Dataset.from_dict(ROWS))
    assert len(pool) == 4
    assert pool.reasons.tolist() == ["", "", "empty_response", "empty_response"]
    assert (
        pool.summary()
        == "4 rows (alpaca), 2 of them unusable: 2 empty_response (rows 2, 3: column 'output' is no text)"
    )
    assert Pool(Dataset.from_dict(ROWS).select([0])).summary() == "1 rows (alpaca)"


@pytest.mark.parametrize(
    "use",
    [Pool, lambda rows: select(rows, Longest(), size=1), lambda rows: score(rows, [Length()])],
    ids=["pool", "select", "score"],
)
def test_transformed_dataset_is_an_error(use):
    plain = Dataset.from_dict({"prompt": ["Is it slow?"], "completion": ["No."]})
    shown = plain.with_transform(lambda batch: {name: [text.upper() for text in batch[name]] for name in batch})
    assert shown[0]["completion"] == "NO."
    with pytest.raises(
        FormatError, match=r"passed to with_transform .* Apply the function to the stored rows instead: dataset\."
    ):
        use(shown)
    assert Pool(shown.with_format(None)).texts("response") == ["No."]


def test_reason_counts():
    messages = [None, None, [{"role": "wizard", "content": "a"}]]
    assert Pool(Dataset.from_dict({"messages": messages})).summary() == (
        "3 rows (messages), 3 of them unusable: 2 wrong_type (rows 0, 1: column 'messages' is null, and has to be a "
        "list of messages), 1 unknown_role (row 2: message 0 of column 'messages' has the role 'wizard'; known roles "
        f"are {', '.join(ROLES)})"
    )


def test_wrong_types_and_nulls_are_malformed_rows():
    assert Pool(Dataset.from_dict({"prompt": ["a", "b"], "completion": [1, 2]})).reasons.tolist() == ["wrong_type"] * 2
    assert Pool(Dataset.from_dict({"prompt": ["a"], "completion": [None]})).reasons.tolist() == ["empty_response"]
    assert Pool(Dataset.from_dict({"conversations": [None]})).reasons.tolist() == ["wrong_type"]


def test_rows_order():
    pool = Pool(Dataset.from_dict(ROWS))
    assert pool.texts("response", [1, 0]) == ["13", "Blue."]
    assert pool.texts("prompt", np.array([1])) == ["Add.\n\n4 and 9"]
    assert pool.texts("both", [0]) == ["Name a colour.\nBlue."]


def test_row_ids_across_file_formats(tmp_path):
    data = Dataset.from_dict(ROWS)
    data.to_json(tmp_path / "rows.jsonl")
    data.to_json(tmp_path / "rows.json", lines=False)
    data.to_parquet(tmp_path / "rows.parquet")
    data.to_csv(tmp_path / "rows.csv")
    data.save_to_disk(tmp_path / "folder")
    names = ["rows.jsonl", "rows.json", "rows.parquet", "folder", next((tmp_path / "folder").glob("*.arrow"))]
    ids = {Pool(load_pool(str(tmp_path / name))).id for name in names}
    assert ids == {Pool(data).id}
    usable = Pool(load_pool(str(tmp_path / "rows.csv"))).row_ids[:2]  # csv has no null: it becomes empty text
    assert np.array_equal(usable, Pool(data).row_ids[:2])


def test_row_ids_ignore_other_columns():
    data = Dataset.from_dict(ROWS)
    pool = Pool(data)
    more = data.add_column("ifd", [0.1] * 4).add_column("text", ["x"] * 4).with_format("numpy")
    assert Pool(more).id == pool.id
    assert Pool(more).row_ids.shape == (4, 32)
    assert Pool(data.select([0, 1, 3, 2])).id != pool.id
    assert np.array_equal(Pool(data.select([2, 0])).row_ids, pool.row_ids[[2, 0]])


def test_row_ids_across_row_formats():
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


def test_large_strings():
    data = Dataset.from_dict({"prompt": ["a"], "completion": ["b"], "score": [0.5]})
    assert Pool(data.cast_column("completion", Value("large_string"))).texts("response") == ["b"]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (
            DatasetDict({"train": Dataset.from_dict(ROWS)}),
            r"is a DatasetDict .* Pick a split: dataset\['train'\]",
        ),
        (IterableDataset.from_generator(lambda: iter([{"text": "a"}])), "IterableDataset.*streaming=False"),
        ([{"text": "a"}], "has to be a datasets.Dataset, but this is list"),
        (Dataset.from_dict({"messages": [[]], "image": [None]}), "Rows with images"),
        (Dataset.from_dict({"frage": ["a"], "antwort": ["b"]}), "match none of the supported formats"),
    ],
)
def test_invalid_pool(dataset, message):
    with pytest.raises(FormatError, match=message):
        Pool(dataset)


def test_text_rows_have_no_response():
    pool = Pool(Dataset.from_dict({"text": ["a", ""]}))
    assert pool.reasons.tolist() == ["", "empty_text"]
    assert pool.texts("both", [0])[0].startswith("a")
    with pytest.raises(FormatError, match="only a text column have no response"):
        pool.texts("response")


@pytest.mark.parametrize(
    ("name", "row_format", "rows", "reasons"),
    [
        ("alpaca_random_5200.json", "alpaca", 5200, {"empty_response": 2}),
        ("code_alpaca_2017.json", "alpaca", 2017, {"empty_response": 2}),
        ("gsm8k_train_7473.json", "alpaca", 7473, {}),
        ("lima_1030.jsonl", "sharegpt", 1030, {}),
        ("dpo_300.json", "preference", 300, {}),
    ],
)
def test_load_reference_files(shared, name, row_format, rows, reasons):
    data = load_pool(str(shared / "data" / name))
    pool = Pool(data)
    assert (pool.format, len(pool)) == (row_format, rows)
    names, counts = np.unique(pool.reasons[pool.reasons != ""], return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == reasons


@pytest.mark.parametrize("shuffled", [False, True])
def test_rows_close_together_are_read_without_an_index(shuffled, monkeypatch):
    """`Dataset.select` takes time for every chunk of the dataset, and readers of blocks call it for every block."""
    size = 2_600
    data = Dataset.from_dict({"prompt": [f"p{row}" for row in range(size)], "completion": ["c"] * size})
    order = np.random.default_rng(0).permutation(size) if shuffled else np.arange(size)
    pool = Pool(data.select(order) if shuffled else data)
    blocks = [np.arange(1_000, 2_500), np.delete(np.arange(size), [0, 999, 1_000, 1_700]), np.array([5])]
    others = [np.array([7, 3, 2_000]), np.array([4, 4, 5]), np.array([1, 2_500]), np.array([], dtype=np.int64)]
    expected = [[f"p{order[row]}" for row in rows] for rows in (*blocks, *others)]
    of_others = [pool.texts("prompt", rows) for rows in others]
    monkeypatch.setattr(Dataset, "select", None)
    assert [pool.texts("prompt", rows) for rows in blocks] + of_others == expected
