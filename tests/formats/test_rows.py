"""Every row format, and every way in which a row can be malformed."""

from __future__ import annotations

from collections import Counter

import pytest

from hf_datasel.errors import FormatError
from hf_datasel.formats import Turn, canonical_rows, detect_format

USER = {"role": "user", "content": "Is it slow?"}
ANSWER = {"role": "assistant", "content": "Yes."}
SYSTEM = {"role": "system", "content": "Be brief."}
MORE = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "It is old."}]
TURNS = (Turn("user", "Is it slow?"), Turn("assistant", "Yes."))


def row_of(**columns):
    [row] = canonical_rows({name: [value] for name, value in columns.items()})
    return row


def sharegpt(*turns):
    """Turns of ShareGPT from alternating names and texts."""
    return [{"from": name, "value": text} for name, text in zip(turns[::2], turns[1::2], strict=True)]


SAME = {
    "alpaca": {"instruction": "Is it slow?", "input": "", "output": "Yes."},
    "alpaca, null input": {"instruction": "Is it slow?", "input": None, "output": "Yes."},
    "alpaca, no input column": {"instruction": "Is it slow?", "output": "Yes."},
    "alpaca, with the text column of tatsu-lab": {
        "instruction": "Is it slow?", "input": "", "output": "Yes.", "text": "Below is an instruction ...",
    },
    "prompt-completion, text": {"prompt": "Is it slow?", "completion": "Yes."},
    "prompt-completion, conversational": {"prompt": [USER], "completion": [ANSWER]},
    "messages": {"messages": [USER, ANSWER]},
    "messages, content parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Is it "}, {"type": "text", "text": "slow?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
        ]
    },
    "messages, fields that others have": {"messages": [{**USER, "tool_calls": None, "name": None}, ANSWER]},
    "sharegpt": {"conversations": sharegpt("human", "Is it slow?", "gpt", "Yes.")},
    "sharegpt, fields of messages": {"conversations": [USER, ANSWER]},
    "LIMA": {"conversations": ["Is it slow?", "Yes."]},
    "preference, sharegpt": {
        "conversations": sharegpt("human", "Is it slow?"), "chosen": sharegpt("gpt", "Yes.")[0], "rejected": None,
    },
    "preference, text": {"prompt": "Is it slow?", "chosen": "Yes.", "rejected": "No."},
    "preference, conversational": {"prompt": [USER], "chosen": [ANSWER], "rejected": [ANSWER]},
}  # fmt: skip


@pytest.mark.parametrize("columns", SAME.values(), ids=SAME.keys())
def test_one_row_in_all_formats(columns):
    row = row_of(**columns)
    assert (row.turns, row.reason) == (TURNS, "")
    assert (row.prompt, row.response, row.text("both")) == ("Is it slow?", "Yes.", "Is it slow?\nYes.")
    assert row.single_turn
    assert row.digest() == row_of(**SAME["alpaca"]).digest()


def test_alpaca_input():
    row = row_of(instruction="Add.", input="4 and 9", output="13")
    assert (row.prompt, row.instruction, row.input) == ("Add.\n\n4 and 9", "Add.", "4 and 9")
    assert row.digest() != row_of(instruction="Add. 4 and 9", input="", output="13").digest()


def test_alpaca_whitespace_input():
    assert row_of(instruction="Add.", input=" \n", output="13").prompt == "Add."


def test_multi_turn_responses():
    row = row_of(messages=[SYSTEM, USER, ANSWER, *MORE])
    assert row.reason == ""
    assert row.response == "Yes.\nIt is old."
    assert row.prompt == "Be brief.\nIs it slow?\nWhy?"
    assert not row.single_turn


def test_assistant_turns_in_prompt():
    row = row_of(prompt=[USER, ANSWER, MORE[0]], completion=[MORE[1]])
    assert row.response == "It is old."
    assert row.prompt == "Is it slow?\nYes.\nWhy?"
    assert row.digest() != row_of(messages=[USER, ANSWER, *MORE]).digest()


def test_digest_depends_on_roles():
    one, other = row_of(prompt="a b", completion="c"), row_of(prompt="a", completion="b c")
    assert one.digest() != other.digest()


@pytest.mark.parametrize(
    ("name", "role"),
    [("gpt", "assistant"), ("model", "assistant"), ("chatgpt", "assistant"), ("bot", "assistant")],
)
def test_assistant_role_names(name, role):
    assert row_of(conversations=sharegpt("human", "Hi", name, "Hello")).turns[1] == Turn(role, "Hello")


def test_tool_turns():
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "now", "arguments": {}}}]}
    row = row_of(
        messages=[USER, call, {"role": "tool", "content": "12:04"}, {"role": "tool", "content": "UTC"}, ANSWER]
    )
    assert row.reason == ""
    assert [turn.role for turn in row.turns] == ["user", "assistant", "tool", "tool", "assistant"]
    assert "now" in row.turns[1].content
    assert row.response.endswith("\nYes.")


def test_tool_turns_of_sharegpt():
    turns = sharegpt("human", "Time?", "function_call", "now()", "observation", "12:04", "gpt", "Four past noon.")
    assert [turn.role for turn in row_of(conversations=turns).turns] == ["user", "assistant", "tool", "assistant"]


def test_developer_and_system_turns_come_first():
    assert row_of(messages=[{"role": "developer", "content": "x"}, SYSTEM, USER, ANSWER]).reason == ""


def test_text_row():
    row = row_of(text="Once upon a time")
    assert (row.reason, row.response, row.prompt) == ("", "", "Once upon a time")


MALFORMED = {
    "empty output": ({"instruction": "a", "output": ""}, "empty_response"),
    "white-space output": ({"instruction": "a", "output": " \n\t"}, "empty_response"),
    "null output": ({"instruction": "a", "output": None}, "empty_response"),
    "number as output": ({"instruction": "a", "output": 5}, "wrong_type"),
    "null instruction": ({"instruction": None, "output": "b"}, "wrong_type"),
    "number as input": ({"instruction": "a", "input": 5, "output": "b"}, "wrong_type"),
    "empty completion": ({"prompt": "a", "completion": ""}, "empty_response"),
    "null completion": ({"prompt": "a", "completion": None}, "empty_response"),
    "null prompt": ({"prompt": None, "completion": "b"}, "wrong_type"),
    "null prompt of a chat": ({"prompt": None, "completion": [ANSWER]}, "wrong_type"),
    "null completion of a chat": ({"prompt": [USER], "completion": None}, "empty_response"),
    "no completion message": ({"prompt": [USER], "completion": []}, "no_response"),
    "null messages": ({"messages": None}, "wrong_type"),
    "no messages": ({"messages": []}, "no_response"),
    "messages as text": ({"messages": "Is it slow?"}, "wrong_type"),
    "message is a number": ({"messages": [1, 2]}, "wrong_type"),
    "empty assistant turn": ({"messages": [USER, {"role": "assistant", "content": " "}]}, "empty_response"),
    "null assistant turn": ({"messages": [USER, {"role": "assistant", "content": None}]}, "empty_response"),
    "null user turn": ({"messages": [{"role": "user", "content": None}, ANSWER]}, "wrong_type"),
    "number as content": ({"messages": [{"role": "user", "content": 5}, ANSWER]}, "wrong_type"),
    "image part": ({"messages": [{"role": "user", "content": [{"type": "image"}]}, ANSWER]}, "wrong_type"),
    "null text part": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}, ANSWER]}, "wrong_type",
    ),
    "unknown role": ({"messages": [{"role": "wizard", "content": "a"}, ANSWER]}, "unknown_role"),
    "null role": ({"messages": [{"role": None, "content": "a"}, ANSWER]}, "unknown_role"),
    "user turns only": ({"messages": [USER]}, "no_response"),
    "null conversations": ({"conversations": None}, "wrong_type"),
    "LIMA with a null": ({"conversations": ["a", None]}, "wrong_type"),
    "null chosen": ({"conversations": [USER], "chosen": None}, "empty_response"),
    "chosen by the user": ({"conversations": [USER], "chosen": MORE[0]}, "no_response"),
    "empty chosen": ({"prompt": "a", "chosen": "", "rejected": "b"}, "empty_response"),
    "empty text": ({"text": " "}, "empty_text"),
    "null text": ({"text": None}, "empty_text"),
    "number as text": ({"text": 1.5}, "wrong_type"),
}  # fmt: skip


@pytest.mark.parametrize(("columns", "reason"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_row_reason(columns, reason):
    row = row_of(**columns)
    assert row.reason == reason
    assert row.response == ""
    assert len(row.digest()) == 32


def test_malformed_row_among_others():
    rows = canonical_rows({"instruction": ["a", None, "c"], "output": ["x", "y", ""]})
    assert [row.reason for row in rows] == ["", "wrong_type", "empty_response"]
    assert rows[0].response == "x"


def test_malformed_row_digest():
    digests = Counter(row.digest() for row in canonical_rows({"instruction": ["a", "b", "a"], "output": [""] * 3}))
    assert sorted(digests.values()) == [1, 2]


@pytest.mark.parametrize(
    ("columns", "row_format"),
    [
        (["instruction", "input", "output", "text"], "alpaca"),
        (["prompt", "completion", "messages"], "prompt-completion"),
        (["conversations", "chosen", "rejected"], "preference"),
        (["prompt", "chosen", "rejected"], "preference"),
        (["conversations", "id"], "sharegpt"),
        (["messages", "text"], "messages"),
        (["text", "label"], "text"),
    ],
)
def test_detect_format(columns, row_format):
    assert detect_format(columns) == row_format


def test_unknown_columns_have_hint():
    with pytest.raises(
        FormatError, match=r"\['promt', 'answer'\] match none.*Did you mean 'prompt'\?.*columns=.*promt"
    ):
        detect_format(["promt", "answer"])
