"""Messages with calls, thinking, tools and loss flags."""

from __future__ import annotations

import json
import re

import pytest
from datasets import Dataset, Features, Json

from hf_datasel.formats import Pool, canonical_rows, convert_pool
from hf_datasel.formats.messages import with_text_arguments
from hf_datasel.tokens.row_tokenizer import row_messages, template_kwargs

USER = {"role": "user", "content": "Is it wet in Bern?"}
ANSWER = {"role": "assistant", "content": "Yes, it rains."}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"town": "Bern"}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "rain"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
TEXT_CALL = '{"name": "weather", "arguments": {"town": "Bern"}}'


def one(**columns):
    [row] = canonical_rows({name: [value] for name, value in columns.items()})
    return row


CALLS = {
    "tool_calls": {"role": "assistant", "content": None, "tool_calls": [CALL]},
    "no content": {"role": "assistant", "tool_calls": [CALL]},
    "arguments as JSON text": {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": '{"town": "Bern"}'}}],
    },
    "padded": {
        "role": "assistant", "content": None, "name": None, "function_call": None,
        "tool_calls": [
            {
                "type": "function", "id": None,
                "function": {"name": "weather", "arguments": {"town": "Bern", "zone": None}},
            },
        ],
    },
    "without a type": {"role": "assistant", "content": "", "tool_calls": [CALL["function"]]},
    "JSON text": {"role": "assistant", "content": None, "tool_calls": json.dumps([CALL])},
    "function_call": {"role": "assistant", "content": None, "function_call": CALL["function"]},
    "function_call with JSON text": {
        "role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": '{"town": "Bern"}'},
    },
    "ShareGPT": {"from": "function_call", "value": TEXT_CALL},
    "ShareGPT, a list": {"from": "function_call", "value": f"[{TEXT_CALL}]"},
    "ms-swift": {"role": "tool_call", "content": TEXT_CALL},
}  # fmt: skip


@pytest.mark.parametrize("message", CALLS.values(), ids=CALLS.keys())
def test_calls_in_all_writings(message):
    row = one(messages=[USER, message, RESULT, ANSWER])
    assert row.reason == ""
    assert row.messages == [USER, CALLING, RESULT, ANSWER]
    assert row.response_turns == [1, 3]
    assert row.digest() == one(messages=[USER, CALLING, RESULT, ANSWER]).digest()
    assert row.turns[1].content == json.dumps([CALL], sort_keys=True)


@pytest.mark.parametrize("writing", ["arguments as JSON text", "ShareGPT", "ShareGPT, a list", "ms-swift"])
def test_null_in_the_text_of_arguments_is_an_argument(writing):
    message = json.loads(json.dumps(CALLS[writing]).replace('\\"Bern\\"', '\\"Bern\\", \\"zone\\": null'))
    row = one(messages=[USER, message, RESULT, ANSWER])
    assert row.messages[1]["tool_calls"][0]["function"]["arguments"] == {"town": "Bern", "zone": None}
    assert row.digest() != one(messages=[USER, CALLING, RESULT, ANSWER]).digest()
    assert with_text_arguments(row.messages)[1]["tool_calls"][0]["function"]["arguments"].endswith('"zone": null}')


@pytest.mark.parametrize("text", ["weather(Bern)", '{"name": "weather"}', "{broken", "5", '"weather"', "[]"])
def test_call_that_is_no_json_stays_text(text):
    assert one(conversations=[USER, {"from": "function_call", "value": text}]).messages[1]["content"] == text


def test_all_keys_of_a_message_are_kept():
    message = {**ANSWER, "reasoning_content": "The tool said rain.", "name": "clerk", "citations": [{"page": 3}]}
    row = one(messages=[USER, message, {**RESULT, "tool_call_id": "c1", "name": "weather"}])
    assert row.messages == [USER, message, {**RESULT, "tool_call_id": "c1", "name": "weather"}]
    assert row.response == "The tool said rain.\nYes, it rains."
    assert not row.only_text and not row.single_turn


def test_thinking_alone_is_a_response():
    row = one(messages=[USER, {"role": "assistant", "content": None, "thinking": "Hm."}])
    assert (row.reason, row.response) == ("", "Hm.")


THOUGHT = {"role": "assistant", "content": "Yes, it rains.", "reasoning_content": "The sky is grey."}
PARTS = {
    "text parts of the Responses API": ([{"type": "output_text", "text": "Yes, it rains."}], ANSWER),
    "thinking": (
        [{"type": "thinking", "thinking": "The sky is grey."}, {"type": "text", "text": "Yes, it rains."}],
        THOUGHT,
    ),
    "thinking in parts": (
        [{"type": "thinking", "thinking": [{"type": "text", "text": "The sky is grey."}]}, "Yes, it rains."],
        THOUGHT,
    ),
}


@pytest.mark.parametrize(("parts", "message"), PARTS.values(), ids=PARTS.keys())
def test_content_parts(parts, message):
    row = one(messages=[USER, {"role": "assistant", "content": parts}])
    assert row.messages == [USER, message]
    assert row.digest() == one(messages=[USER, message]).digest()


Q, A, BRIEF = USER["content"], ANSWER["content"], {"role": "system", "content": "Be brief."}
SHAPES = {
    "XTuner": [{"system": "Be brief.", "input": Q, "output": A}, {"system": "", "input": "Sure?", "output": "Yes."}],
    "Firefly": [{"system": "Be brief."}, {"assistant": A, "human": Q}, {"human": "Sure?", "assistant": "Yes."}],
    "speakers": [{"system": "Be brief."}, {"User": Q}, {"Assistant": A}, {"user": "Sure?"}, {"assistant": "Yes."}],
    "padded": [
        {"assistant": None, "human": Q, "system": "Be brief."},
        {"assistant": A, "human": None, "system": None},
        {"assistant": "Yes.", "human": "Sure?", "system": None},
    ],
    "one list per key": {
        "role": ["system", "user", "assistant", "user", "assistant"],
        "content": ["Be brief.", Q, A, "Sure?", "Yes."],
        "name": None,
    },
    "one list per key, ShareGPT": {
        "from": ["system", "human", "gpt", "human", "gpt"], "value": ["Be brief.", Q, A, "Sure?", "Yes."],
    },
}  # fmt: skip


@pytest.mark.parametrize("messages", SHAPES.values(), ids=SHAPES.keys())
def test_messages_in_other_shapes(messages):
    expected = [BRIEF, USER, ANSWER, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]
    for value in (messages, json.dumps(messages)):
        row = one(conversation=value)
        assert (row.reason, row.messages) == ("", expected)
        assert row.digest() == one(messages=expected).digest()


@pytest.mark.parametrize("role", ["function", "observation", "tool_response", "ipython"])
def test_results_of_tools(role):
    assert one(messages=[USER, CALLING, {"role": role, "content": "rain"}, ANSWER]).messages[2] == RESULT


@pytest.mark.parametrize("tools", [[TOOL], [json.dumps(TOOL)], json.dumps([TOOL]), TOOL, [{**TOOL, "strict": None}]])
def test_tools_in_all_writings(tools):
    row = one(messages=[USER, ANSWER], tools=tools)
    assert row.tools == [TOOL]
    assert row.digest() == one(messages=[USER, ANSWER], tools=[TOOL]).digest()
    assert row.digest() != one(messages=[USER, ANSWER]).digest()


@pytest.mark.parametrize("tools", ["", "[]", " ", [], None, "null", {}])
def test_no_tools(tools):
    row = one(messages=[USER, ANSWER], tools=tools)
    assert row.tools is None
    assert row.digest() == one(messages=[USER, ANSWER]).digest()


@pytest.mark.parametrize(
    "kwargs", [{"enable_thinking": False}, '{"enable_thinking": false}', {"enable_thinking": False, "x": None}]
)
def test_chat_template_kwargs(kwargs):
    row = one(messages=[USER, ANSWER], chat_template_kwargs=kwargs)
    assert row.chat_template_kwargs == {"enable_thinking": False}
    assert row.digest() != one(messages=[USER, ANSWER]).digest()


@pytest.mark.parametrize(
    "turns",
    [
        [ANSWER], [ANSWER, USER, ANSWER], [USER, USER, ANSWER], [USER, ANSWER, ANSWER], [USER, ANSWER, USER],
        [RESULT, ANSWER], [USER, ANSWER, {"role": "system", "content": "x"}, ANSWER],
        [USER, {"role": "assistant", "content": ""}, USER, ANSWER],
    ],
)  # fmt: skip
def test_turns_in_any_order_are_rows(turns):
    row = one(messages=turns)
    assert row.reason == ""
    assert row.messages == turns
    assert ANSWER["content"] in row.response


# -- loss flags -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("excluded", "included"),
    [
        ({"weight": 0}, {"weight": 1}),
        ({"weight": 0.0}, {"weight": 1.0}),
        ({"train": False}, {"train": True}),
        ({"training": False}, {"training": None}),
        ({"train_on_turn": "false"}, {"train_on_turn": "true"}),
        ({"trainable": False}, {"trainable": True}),
        ({"loss": False}, {"loss": True}),
        ({"mask": 1}, {"mask": 0}),
        ({"masked": True}, {"masked": False}),
    ],
)
def test_loss_flag_of_a_message(excluded, included):
    row = one(messages=[USER, {**ANSWER, **excluded}, {**USER, **excluded}, {**ANSWER, **included}])
    assert row.response_turns == [3]
    assert row.messages == [USER, ANSWER, USER, ANSWER]
    assert row.only_text
    assert row.digest() == one(prompt=[USER, ANSWER, USER], completion=[ANSWER]).digest()
    assert row.digest() != one(messages=[USER, ANSWER, USER, ANSWER]).digest()


@pytest.mark.parametrize(
    ("columns", "responses"),
    [
        ({"masked": [True, True, True, False]}, [3]),
        ({"masked": [False, True, False, None]}, [3]),
        ({"mask": [0, 0, 0, 1]}, [1]),
        ({"masked": False}, [1, 3]),
        ({"mask": "User"}, [1, 3]),
        ({"message_loss_mask": [0, 0, 0, 1]}, [3]),
        ({"masked": None}, [1, 3]),
    ],
)
def test_masked_column(columns, responses):
    row = one(messages=[USER, ANSWER, USER, ANSWER], system="", **columns)
    assert row.response_turns == responses


def test_masked_column_counts_without_the_system_column():
    row = one(conversations=["a", "b", "c", "d"], masked=[0, 1, 0, 0], system="Be brief.")
    assert row.response_turns == [4]


@pytest.mark.parametrize(
    "columns",
    [
        {"messages": [USER, {**ANSWER, "weight": 0}]},
        {"messages": [USER, ANSWER], "masked": True},
        {"prompt": "a", "completion": "b", "masked": True},
        {"instruction": "a", "output": "b", "mask": [False, True]},
    ],
)
def test_row_with_all_responses_excluded(columns):
    row = one(**columns)
    assert row.reason == "no_trained_response"
    assert "exclude" in row.detail


# -- reasons ----------------------------------------------------------------------------------------------------------
REASONS = {
    "text in another key": (
        {"messages": [USER, {"role": "assistant", "content": None, "refusal": "No."}]},
        "missing_content",
        r"message 1 of column 'messages' has no content, but text in \['refusal'\]",
    ),
    "number as answer": (
        {"question": "a", "answer": 5}, "wrong_type", r"column 'answer' is a number \(5\), and has to be text",
    ),
    "no text in a list": (
        {"messages": [{**USER, "content": 5}, ANSWER]}, "wrong_type", "content of message 0 of column 'messages'",
    ),
    "image": (
        {"messages": [{**USER, "content": [{"type": "image", "image": "x"}]}, ANSWER]},
        "wrong_type", "part of type 'image'",
    ),
    "tool use as a part": (
        {"messages": [USER, {**ANSWER, "content": [{"type": "tool_use", "name": "f", "input": {}}]}]},
        "wrong_type", "part of type 'tool_use'",
    ),
    "thinking twice": (
        {"messages": [USER, {**ANSWER, "thinking": "x", "content": [{"type": "thinking", "thinking": "y"}]}]},
        "wrong_type", "has thinking in its content and in 'thinking'",
    ),
    "a list of answers": (
        {"prompt": "a", "completion": ["b"]}, "wrong_type", r"column 'completion' is a list of 1 texts, and has to be",
    ),
    "lists of other lengths": (
        {"messages": {"role": ["user", "assistant"], "content": ["a"]}}, "unknown_role", "has the role",
    ),
    "broken tools": ({"messages": [USER, ANSWER], "tools": "[{"}, "invalid_json", "column 'tools' is not valid JSON"),
    "tools of numbers": ({"messages": [USER, ANSWER], "tools": [5]}, "wrong_type", "column 'tools' has a number"),
    "broken arguments": (
        {"messages": [USER, {**CALLING, "tool_calls": [{"function": {"name": "f", "arguments": "{a"}}]}]},
        "invalid_json", "arguments of a tool call of message 1",
    ),
    "call without a function": (
        {"messages": [USER, {**CALLING, "tool_calls": [5]}]}, "wrong_type", "a tool call of message 1",
    ),
    "broken arguments of the template": (
        {"messages": [USER, ANSWER], "chat_template_kwargs": "x"}, "invalid_json", "column 'chat_template_kwargs'",
    ),
    "broken messages": ({"messages": "[{'role': 'user'}]"}, "invalid_json", "column 'messages' is not valid JSON"),
    "a weight between": ({"messages": [USER, {**ANSWER, "weight": 0.5}]}, "unsupported_flag", "has to be 0 or 1"),
    "a part that is not trained": (
        {"messages": [USER, {**ANSWER, "train_detail": [{"begin_offset": 0, "end_offset": 3, "train": False}]}]},
        "unsupported_flag", "train_detail of message 1",
    ),
    "a mask of another length": (
        {"messages": [USER, ANSWER], "masked": [True]}, "wrong_type", "1 values for 2 messages",
    ),
    "a number as system prompt": ({"prompt": "a", "completion": "b", "system": 5}, "wrong_type", "column 'system'"),
    "a broken history": ({"instruction": "a", "output": "b", "history": [["a"]]}, "wrong_type", "for a pair of texts"),
    "message without a role": (
        {"messages": [{"speaker": "a", "content": "b"}]}, "unknown_role", r"has no role: its keys are \['speaker',",
    ),
    "chosen about something else": (
        {"prompt": "Name a stone.", "chosen": [USER, ANSWER]},
        "no_prompt",
        "column 'chosen' is a conversation without column 'prompt'",
    ),
    "bytes": (
        {"messages": [{**USER, "content": b"Hi"}, ANSWER]},
        "wrong_type",
        "text part of message 0 of column 'messages'",
    ),
    "nothing in common": ({"chosen": "Yes.", "rejected": "No."}, "no_prompt", "share no beginning"),
    "no turn of the assistant": ({"messages": [USER]}, "no_response", "column 'messages' has no turn"),
    "deep JSON": ({"messages": [USER, ANSWER], "tools": "[" * 100_000}, "invalid_json", "column 'tools'"),
}  # fmt: skip


@pytest.mark.parametrize(("columns", "reason", "detail"), REASONS.values(), ids=REASONS.keys())
def test_reason_with_a_detail(columns, reason, detail):
    row = one(**columns)
    assert row.reason == reason
    assert re.search(detail, row.detail), row.detail
    assert (row.messages, row.response, row.response_turns) == ([], "", [])


def test_details_of_a_pool():
    pool = Pool(Dataset.from_dict({"question": ["a"] * 6, "answer": ["b", None, "", "c", " ", None]}))
    assert pool.summary() == (
        "6 rows (instruction-response), 4 of them unusable: "
        "4 empty_response (rows 1, 2, 4, ...: column 'answer' is null)"
    )
    assert pool.subset([0, 5]).details == {1: "column 'answer' is null"}


# -- conversion -------------------------------------------------------------------------------------------------------
ODD = [
    {"role": "function", "name": "weather", "content": "dry"},
    {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    {"role": "human", "content": "Hi"},
    {"role": "assistant", "content": "x", "weight": 0},
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"town": 5}}}]},
    {"role": "wizard", "content": "Hi"},
    {"role": "assistant", "content": "x", "reasoning_content": "y", "unknown": {"deep": [1, "a"]}},
]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "messages",
    [
        [USER, ANSWER],
        [USER, {**CALLING, "reasoning_content": "Look."}, RESULT, {**ANSWER, "reasoning_content": "Rain."}],
    ],
    ids=["plain", "calls"],
)
def test_odd_row_changes_no_other(odd, messages):
    features = Features({"messages": Json()})
    both = Dataset.from_dict({"messages": [messages, [USER, odd, ANSWER]]}, features=features)
    alone = both.select([0])
    assert Pool(both).row_ids[0].tolist() == Pool(alone).row_ids[0].tolist()
    [row, *_], [expected] = convert_pool(Pool(both), True).to_list(), convert_pool(Pool(alone), True).to_list()
    assert row_messages(row)[0] == row_messages(expected)[0] == messages
    assert row.get("tools") is None and row.get("untrained_turns", []) == []


def test_columns_of_a_conversion():
    messages = [[USER, {**ANSWER, "weight": 0}, USER, ANSWER], [USER, CALLING], [USER, ANSWER]]
    tools, kwargs = [None, [TOOL], ""], [None, None, '{"enable_thinking": false}']
    features = Features({name: Json() for name in ("messages", "tools", "chat_template_kwargs")})
    columns = {"messages": messages, "tools": tools, "chat_template_kwargs": kwargs}
    rows = convert_pool(Pool(Dataset.from_dict(columns, features=features)), True).to_list()
    assert [row_messages(row)[0] for row in rows] == [[USER, ANSWER, USER, ANSWER], [USER, CALLING], [USER, ANSWER]]
    plain = {"chat_template": None, "tools": None}
    options = [plain, plain | {"tools": [TOOL]}, plain | {"enable_thinking": False}]
    assert [template_kwargs(row, None) for row in rows] == options
    assert [row["untrained_turns"] for row in rows] == [[1], [], []]


def test_untrained_turns_of_prompt_and_completion():
    completion = [{**ANSWER, "train": False}, USER, {**ANSWER, "train": True}]
    data = Dataset.from_dict({"prompt": [[USER]], "completion": [completion], "system": ["Be brief."]})
    [row] = convert_pool(Pool(data), True).to_list()
    assert row["untrained_turns"] == [2]
    assert row["prompt"] == [{"role": "system", "content": "Be brief."}, USER]
    assert row["completion"] == [ANSWER, USER, ANSWER]


def test_plain_rows_are_not_written_anew():
    data = Dataset.from_dict({"messages": [[USER, ANSWER]], "source": ["web"]})
    converted = convert_pool(Pool(data), True)
    assert converted.features["messages"] == data.features["messages"]
    assert converted.column_names == ["messages", "pool_row"]


def test_null_content_is_no_text_whatever_the_other_rows_have():
    silent = [USER, {"role": "assistant", "content": None}, USER, ANSWER]
    alone = convert_pool(Pool(Dataset.from_dict({"messages": [silent]})), True)[0]["messages"]
    named = [USER, {**ANSWER, "name": "Ann"}]
    beside = convert_pool(Pool(Dataset.from_dict({"messages": [silent, named]})), True)[0]["messages"]
    contents = [message["content"] for message in alone]
    assert (
        contents
        == [message["content"] for message in beside]
        == [USER["content"], "", USER["content"], ANSWER["content"]]
    )
