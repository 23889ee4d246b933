"""Rows of plain text are read without canonical rows, and have the same ids."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings, strategies as st

from hf_datasel.formats import Pool, canonical_rows, row_layout
from hf_datasel.formats.plain_rows import plain_contents
from hf_datasel.formats.rows import text_digest

TEXTS = st.text('a "\\\n\t\x00\x7f\x85\u2028é日😀', max_size=5)
ROLES = st.sampled_from(["user", "assistant", "gpt", "human", "system", "tool", "function_call", "wizard", "User"])
ODD = st.none() | st.integers(0, 1) | st.booleans() | st.lists(TEXTS, max_size=2) | st.just({}) | st.just({"a": "b"})
ODD_VALUES = TEXTS | ODD
CHATS = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": TEXTS}), max_size=4)
ODD_MESSAGES = st.one_of(
    st.fixed_dictionaries({"role": ROLES | ODD, "content": ODD_VALUES}, optional={"weight": ODD, "from": ODD}),
    st.fixed_dictionaries({"from": ROLES | ODD, "value": ODD_VALUES}, optional={"weight": ODD, "role": ODD}),
    st.fixed_dictionaries({"from": ROLES, "value": TEXTS | st.just('{"name": "f", "arguments": {"a": 1}}')}),
    ODD_VALUES,
)
ODD_CHATS = st.lists(ODD_MESSAGES, max_size=4) | ODD_VALUES
TEXT = st.sampled_from([TEXTS, TEXTS, ODD_VALUES])
CHAT = st.sampled_from([CHATS, ODD_CHATS])
EXTRAS = ("system", "tools", "history", "masked", "chat_template_kwargs", "message_loss_mask")
EXTRA = st.sampled_from([st.none(), TEXTS, ODD_VALUES])
LAYOUTS = (
    {"instruction": TEXT, "output": TEXT, "input": TEXT},
    {"instruction": TEXT, "output": TEXT},
    {"question": TEXT, "answer": TEXT, "context": TEXT},
    {"input": TEXT, "output": TEXT},
    {"prompt": TEXT | CHAT, "completion": TEXT | CHAT},
    {"messages": CHAT},
    {"conversations": CHAT},
    {"text": TEXT},
    {"prompt": TEXT, "chosen": TEXT},
)
"""Columns of each layout, and what their values are drawn from: mostly from those that plain rows have."""


@st.composite
def batches(draw):
    layout = draw(st.sampled_from(LAYOUTS))
    extras = dict.fromkeys(draw(st.lists(st.sampled_from(EXTRAS), max_size=2, unique=True)), EXTRA)
    columns = {name: draw(values) for name, values in {**layout, **extras}.items()}
    rows = draw(st.lists(st.tuples(*columns.values()), min_size=1, max_size=6))
    return dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))


@settings(max_examples=400, deadline=None)
@given(batch=batches())
def test_plain_content_is_that_of_the_canonical_row(batch):
    for content, row in zip(plain_contents(batch, row_layout(list(batch))), canonical_rows(batch), strict=True):
        if content is not None:
            assert not row.reason and row.only_text and all(turn.trained for turn in row.turns)
            assert text_digest(content) == row.digest()


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Add.", "input": "4 and 9", "output": "13"},
        {"instruction": "Add.", "input": None, "output": "13", "system": "Be brief.", "history": [], "tools": None},
        {"question": "Wet?", "answer": "Yes."},
        {"prompt": "Wet?", "completion": "Yes.", "system": ""},
        {"messages": [{"role": "user", "content": "Wet?"}, {"role": "assistant", "content": "Yes."}], "tools": ""},
        {"conversations": [{"from": "human", "value": "Wet?"}, {"from": "gpt", "value": "Yes."}]},
        {"text": "Wet."},
    ],
)
def test_usual_rows_are_plain(row):
    [content] = plain_contents({name: [value] for name, value in row.items()}, row_layout(list(row)))
    assert content is not None
    assert text_digest(content) == canonical_rows({name: [value] for name, value in row.items()})[0].digest()


CALL = {"from": "function_call", "value": '{"name": "f", "arguments": {"a": 1}}'}
CHAT_ROW = {"messages": [{"role": "user", "content": "Wet?"}, {"role": "assistant", "content": "Yes."}]}


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": "Wet?"}, CALL]},
        {**CHAT_ROW, "system": "Be brief."},
        {**CHAT_ROW, "masked": False},
        {**CHAT_ROW, "message_loss_mask": 0},
        {**CHAT_ROW, "tools": '[{"name": "f"}]'},
        {**CHAT_ROW, "chat_template_kwargs": {}},
        {"messages": [*CHAT_ROW["messages"], {"role": "assistant", "content": "Yes.", "weight": None}]},
        {"messages": CHAT_ROW["messages"][:1]},
        {"prompt": "Wet?", "completion": " \n"},
        {"prompt": "Wet?", "completion": None},
        {"instruction": "Wet?", "output": "Yes.", "input": 1},
        {"question": "Wet?", "answer": "Yes.", "history": [["a", "b"]]},
        {"text": "\u2028"},
    ],
)
def test_other_rows_are_not_plain(row):
    assert list(plain_contents({name: [value] for name, value in row.items()}, row_layout(list(row)))) == [None]


def test_pool_of_plain_and_other_rows():
    user, answer = {"role": "user", "content": "Wet?"}, {"role": "assistant", "content": "Yes."}
    masked = [user, {**answer, "weight": 0}, user, {**answer, "weight": 1}]
    chats = [[user, answer], masked, [user], [user, answer], None]
    data = Dataset.from_dict({"messages": [[{"weight": None, **message} for message in chat or []] for chat in chats]})
    data = data.add_column("tools", [None, None, None, '[{"name": "f"}]', None])
    pool, rows = Pool(data), canonical_rows(data[:])
    assert pool.row_ids.tolist() == [list(row.digest()) for row in rows]
    assert pool.reasons.tolist() == [row.reason for row in rows]
    assert pool.usable.tolist() == [True, True, False, True, False]
    assert pool.details == {number: row.detail for number, row in enumerate(rows) if row.reason}
    assert pool.contents.tolist() == [0, 8, 0, 2, 0]


def test_subset_with_a_row_twice_keeps_the_detail_of_both():
    pool = Pool(Dataset.from_dict({"prompt": ["a", "b", "c"], "completion": ["d", None, "e"]}))
    assert not pool.usable[1]
    subset = pool.subset([1, 0, 1])
    assert subset.details == {0: "column 'completion' is null", 2: "column 'completion' is null"}
    assert subset.reasons.tolist() == ["empty_response", "", "empty_response"]
    assert np.array_equal(subset.row_ids, pool.row_ids[[1, 0, 1]])


def test_marked_rows_of_a_pool():
    pool = Pool(Dataset.from_dict({"prompt": ["a", "b", "c"], "completion": ["d", None, "e"]}))
    assert pool.reasons.tolist() == ["", "empty_response", ""]
    pool.mark([2, 0], "template_error", "no template")
    assert pool.reasons.tolist() == ["template_error", "empty_response", "template_error"]
    assert pool.usable.tolist() == [False, False, False]
    assert pool.reason_details() == (
        "2 template_error (rows 0, 2: no template), 1 empty_response (row 1: column 'completion' is null)"
    )
