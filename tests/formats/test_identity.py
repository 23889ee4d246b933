"""The id of a row, whatever file it comes from."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset, Features, Json, concatenate_datasets
from hypothesis import given, settings, strategies as st

from hf_datasel import load_pool
from hf_datasel.formats import Pool, canonical_rows

USER, ANSWER = {"role": "user", "content": "Is it wet?"}, {"role": "assistant", "content": "Yes."}


def calling(**arguments):
    call = {"type": "function", "function": {"name": "weather", "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


ROWS = [
    {"messages": [USER, ANSWER], "tools": None, "chat_template_kwargs": None},
    {"messages": [USER, calling(town="Bern", days=2)], "tools": [{"name": "weather"}], "chat_template_kwargs": {}},
    {
        "messages": [USER, calling(exact=True), {"role": "tool", "content": "rain", "tool_call_id": "c1"}, ANSWER],
        "tools": [{"name": "weather", "parameters": {"type": "object"}}],
        "chat_template_kwargs": {"enable_thinking": False},
    },
    {
        "messages": [USER, {**ANSWER, "reasoning_content": "Hm.", "weight": 1}, USER, {**ANSWER, "weight": 0}],
        "tools": [],
        "chat_template_kwargs": {"effort": "low"},
    },
]


def test_ids_of_rows_from_files_and_memory(tmp_path):
    lines = [{name: value for name, value in row.items() if value} for row in ROWS]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    as_json = Dataset.from_dict(columns, features=Features({name: Json() for name in columns}))
    as_text = Dataset.from_dict({name: [json.dumps(value) for value in values] for name, values in columns.items()})
    data = {"list": Dataset.from_list(ROWS), "json": as_json, "text": as_text}
    data["jsonl"] = load_pool(str(tmp_path / "rows.jsonl"))
    for name in ("list", "json", "jsonl"):
        data[name].to_parquet(tmp_path / f"{name}.parquet")
        data[f"parquet of {name}"] = load_pool(str(tmp_path / f"{name}.parquet"))
    expected = [row.digest() for row in canonical_rows(columns)]
    for name, dataset in data.items():
        assert [bytes(row_id) for row_id in Pool(dataset).row_ids] == expected, name
    assert len(set(expected)) == len(ROWS)


def test_ids_of_rows_one_by_one():
    data = Dataset.from_list(ROWS)
    alone = [Pool(Dataset.from_list([row])).row_ids[0].tolist() for row in ROWS]
    assert Pool(data).row_ids.tolist() == alone
    assert Pool(concatenate_datasets([data, data])).row_ids.tolist() == alone * 2


@pytest.mark.parametrize(
    "other",
    [
        {"messages": [USER, calling(town="Bern", days=3)]},
        {"messages": [USER, calling(town="Bern", days="2")]},
        {"messages": [USER, {**calling(town="Bern", days=2), "reasoning_content": "Hm."}]},
        {"messages": [USER, calling(town="Bern", days=2)], "tools": [{"name": "g"}]},
        {"messages": [USER, calling(town="Bern", days=2)], "chat_template_kwargs": {"enable_thinking": False}},
        {"messages": [USER, calling(town="Bern", days=2)], "system": "Be brief."},
        {"messages": [{**USER, "name": "clerk"}, calling(town="Bern", days=2)]},
    ],
)
def test_rows_that_train_differently_have_different_ids(other):
    [row] = canonical_rows({"messages": [[USER, calling(town="Bern", days=2)]]})
    [changed] = canonical_rows({name: [value] for name, value in other.items()})
    assert changed.reason == ""
    assert row.digest() != changed.digest()


def test_a_turn_that_gets_labels_has_another_id_than_one_of_the_prompt():
    answer = {"role": "assistant", "content": "Ahoy."}
    [row] = canonical_rows({"prompt": [[ANSWER, USER]], "completion": [[answer]]})
    [labeled] = canonical_rows({"prompt": [[ANSWER]], "completion": [[USER, answer]]})
    assert row.messages == labeled.messages
    assert row.digest() != labeled.digest()


KEYS = st.sampled_from(["town", "zone", "days", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text("ab 1é", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def padded(value):
    """The value with the nulls that Arrow adds to mappings."""
    if isinstance(value, dict):
        return {**{key: padded(item) for key, item in reversed(value.items())}, "padding": None}
    return [padded(item) for item in value] if isinstance(value, list) else value


@settings(max_examples=60, deadline=None)
@given(arguments=st.dictionaries(KEYS, VALUES, max_size=4), extra=VALUES)
def test_padding_changes_no_id(arguments, extra):
    messages = [USER, calling(**arguments), {**ANSWER, "extra": extra}]
    columns = {
        "messages": messages,
        "tools": [{"name": "f", "parameters": arguments}],
        "chat_template_kwargs": {"a": 1},
    }
    [row] = canonical_rows({name: [value] for name, value in columns.items()})
    [other] = canonical_rows({name: [padded(value)] for name, value in columns.items()})
    [text] = canonical_rows({name: [json.dumps(value)] for name, value in columns.items()})
    assert row.reason == ""
    assert row.digest() == other.digest() == text.digest()
    assert row.messages == other.messages


@settings(max_examples=40, deadline=None)
@given(values=st.lists(VALUES, min_size=1, max_size=4))
def test_values_of_any_kind_are_rows_or_have_a_reason(values):
    rows = canonical_rows(
        {"messages": values, "tools": values[::-1], "chat_template_kwargs": values, "masked": values}
    )
    rows += canonical_rows({"prompt": values, "completion": values[::-1], "system": values, "tools": values})
    rows += canonical_rows({"instruction": values, "output": values, "history": values})
    rows += canonical_rows({"chosen": values, "rejected": values[::-1]})
    rows += canonical_rows({"prompt": values, "chosen": values, "rejected": values[::-1]})
    for row in rows:
        assert bool(row.reason) == bool(row.detail)
        assert len(row.digest()) == 32
