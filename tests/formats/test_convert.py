"""The columns that `SFTTrainer` is given."""

from __future__ import annotations

import pyarrow as pa
import pytest
from datasets import Dataset

from hf_datasel.errors import FormatError
from hf_datasel.formats import Pool, alpaca_prompt, convert_pool

QUESTION, ANSWER = {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}


def rows_of(chat_template=True, **columns):
    return convert_pool(Pool(Dataset.from_dict(columns)), chat_template).to_list()


def test_alpaca_with_chat_template():
    [plain, with_input] = rows_of(instruction=["Hi?", "Add."], input=[None, "4 and 9"], output=["Hello.", "13"])
    assert plain == {"prompt": [QUESTION], "completion": [ANSWER], "pool_row": 0}
    assert with_input["prompt"] == [{"role": "user", "content": "Add.\n\n4 and 9"}]


def test_alpaca_without_chat_template():
    [plain, with_input] = rows_of(False, instruction=["Hi?", "Add."], input=["", "4 and 9"], output=["Hello.", "13"])
    assert plain == {"prompt": f"{alpaca_prompt('Hi?', '')}\n", "completion": "Hello.", "pool_row": 0}
    assert with_input["prompt"].endswith("### Instruction:\nAdd.\n\n### Input:\n4 and 9\n\n### Response:\n")
    assert "### Input" not in plain["prompt"]


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt": ["a"], "completion": ["b"]},
        {"prompt": [[QUESTION]], "completion": [[ANSWER]]},
        {"messages": [[QUESTION, ANSWER]]},
        {"text": ["a"]},
    ],
)
def test_trl_formats_are_unchanged(columns):
    [row] = rows_of(**columns)
    assert row == {**{name: values[0] for name, values in columns.items()}, "pool_row": 0}


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_text_of_every_arrow_type_is_text(kind):
    table = pa.table({"prompt": pa.array(["a"], kind), "completion": pa.array(["b"], kind)})
    assert convert_pool(Pool(Dataset(table)), True).to_list() == [{"prompt": "a", "completion": "b", "pool_row": 0}]


def test_sharegpt():
    turns = [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}]
    assert rows_of(conversations=[turns]) == [{"messages": [QUESTION, ANSWER], "pool_row": 0}]
    assert rows_of(conversations=[["Hi?", "Hello."]]) == [{"messages": [QUESTION, ANSWER], "pool_row": 0}]


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "human", "content": "Hi?"}, {"role": "gpt", "content": "Hello."}],
        [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}],
        ["Hi?", "Hello."],
    ],
)
def test_messages_with_other_role_names(turns):
    assert rows_of(messages=[turns]) == [{"messages": [QUESTION, ANSWER], "pool_row": 0}]
    if isinstance(turns[0], dict):
        expected = [{"prompt": [QUESTION], "completion": [ANSWER], "pool_row": 0}]
        assert rows_of(prompt=[turns[:1]], completion=[turns[1:]]) == expected


def test_preference():
    expected = [{"prompt": [QUESTION], "completion": [ANSWER], "pool_row": 0}]
    sharegpt = {"conversations": [[{"from": "human", "value": "Hi?"}]], "chosen": [{"from": "gpt", "value": "Hello."}]}
    assert rows_of(**sharegpt) == expected
    assert rows_of(prompt=[[QUESTION]], chosen=[[ANSWER]], rejected=[[ANSWER]]) == expected


def test_text_preference_with_malformed_first_row():
    rows = rows_of(prompt=[None, "Hi?"], chosen=["x", "Hello."], rejected=["y", "z"])
    assert rows == [{"prompt": "Hi?", "completion": "Hello.", "pool_row": 1}]


def test_unusable_rows_are_excluded():
    rows = rows_of(prompt=["a", None, "c"], completion=["x", "y", "z"])
    assert [(row["pool_row"], row["prompt"]) for row in rows] == [(0, "a"), (2, "c")]


def test_extra_columns():
    data = {"messages": [[QUESTION, ANSWER]], "tools": ['[{"name": "now"}]'], "source": ["web"]}
    [row] = rows_of(**data)
    assert row.keys() == {"messages", "tools", "pool_row"}


def test_no_usable_rows():
    with pytest.raises(FormatError, match=r"None of the 2 rows can be trained on: 1 empty_response .*, 1 wrong_type"):
        rows_of(prompt=["a", None], completion=["", "b"])
