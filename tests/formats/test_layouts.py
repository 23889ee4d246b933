"""The layouts of columns that hold rows, and the mapping for all others."""

from __future__ import annotations

import json
import logging

import pyarrow as pa
import pytest
from datasets import Dataset, Features, Json, Value

from hf_datasel.errors import FormatError
from hf_datasel.formats import Pool, canonical_rows, convert_pool, detect_format, pool as pool_module
from hf_datasel.formats.json_values import json_array
from hf_datasel.formats.mapping import rename_dataset

Q, A = "Which planet is the largest?", "Jupiter."
USER, ANSWER = {"role": "user", "content": Q}, {"role": "assistant", "content": A}
WORSE = {"role": "assistant", "content": "Mars."}
SYSTEM = {"role": "system", "content": "Be brief."}


def one(**columns):
    [row] = canonical_rows({name: [value] for name, value in columns.items()})
    return row


PLAIN = {
    "Dolly": {"instruction": Q, "context": "", "response": A, "category": "open_qa"},
    "GSM8K": {"question": Q, "answer": A},
    "question and response": {"question": Q, "response": A},
    "prompt and response": {"prompt": Q, "response": A},
    "query and response": {"query": Q, "response": A},
    "inputs and targets": {"inputs": Q, "targets": A},
    "instruct and output": {"instruct": Q, "output": A},
    "problem and solution": {"problem": Q, "solution": A, "answer": "Jupiter"},
    "input and output": {"input": Q, "output": A},
    "user and assistant": {"user": Q, "assistant": A},
    "capitals": {"Instruction": Q, "Response": A},
    "capitals of other names": {"Question": Q, "Answer": A},
    "OpenOrca without a system prompt": {"system_prompt": "", "question": Q, "response": A},
    "WildChat": {"conversation": [USER, ANSWER], "model": "m"},
    "UltraChat": {"id": "0", "data": [Q, A]},
    "dialog": {"dialog": [Q, A]},
    "messages as JSON text": {
        "messages": f'[{{"role": "user", "content": "{Q}"}}, {{"from": "gpt", "value": "{A}"}}]'
    },
    "messages of JSON texts": {
        "messages": [json.dumps({"role": "user", "content": Q}), json.dumps({"role": "assistant", "content": A})]
    },
    "roles in capitals": {"conversations": [{"from": "User", "value": Q}, {"from": "Assistant", "value": A}]},
    "explicit prompt": {"prompt": [USER], "chosen": [ANSWER], "rejected": [WORSE]},
    "explicit prompt, repeated": {"prompt": [USER], "chosen": [USER, ANSWER], "rejected": [USER, WORSE]},
    "implicit prompt": {"chosen": [USER, ANSWER], "rejected": [USER, WORSE]},
    "implicit prompt, equal answers": {"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]},
    "argilla": {"prompt": Q, "chosen": [USER, ANSWER], "rejected": [USER, WORSE]},
    "argilla, answers alone": {"prompt": Q, "chosen": [ANSWER], "rejected": [WORSE]},
    "HH": {"chosen": f"\n\nHuman: {Q}\n\nAssistant: {A}", "rejected": f"\n\nHuman: {Q}\n\nAssistant: Mars."},
    "Orca pairs": {"system": "", "question": Q, "chosen": A, "rejected": "Mars."},
    "input and chosen": {"input": Q, "chosen": A, "rejected": "Mars."},
    "prompt as text, completion as messages": {"prompt": Q, "completion": [ANSWER]},
    "prompt as messages, completion as text": {"prompt": [USER], "completion": A},
    "no tools and no arguments": {"messages": [USER, ANSWER], "tools": "", "chat_template_kwargs": {}},
}


@pytest.mark.parametrize("columns", PLAIN.values(), ids=PLAIN.keys())
def test_layout_of_a_question_and_an_answer(columns):
    row = one(**columns)
    assert (row.reason, row.detail) == ("", "")
    assert [(turn.role, turn.content) for turn in row.turns] == [("user", Q), ("assistant", A)]
    assert row.prompt == Q and row.response == A and row.only_text


PAIRS = [name for name in PLAIN if "messages" not in PLAIN[name] and "conversation" not in " ".join(PLAIN[name])]


@pytest.mark.parametrize("name", [name for name in PAIRS if name not in ("UltraChat", "dialog")])
def test_pairs_have_the_id_of_a_prompt_and_completion(name):
    assert one(**PLAIN[name]).digest() == one(prompt=Q, completion=A).digest()


@pytest.mark.parametrize(
    "name", ["Dolly", "GSM8K", "capitals", "HH", "Orca pairs", "implicit prompt", "argilla", "input and output"]
)
def test_layouts_convert_to_a_prompt_and_completion(name):
    data = Dataset.from_dict({column: [value] for column, value in PLAIN[name].items()})
    [row] = convert_pool(Pool(data), chat_template=True).to_list()
    assert row == {"pool_row": 0, "prompt": [USER], "completion": [ANSWER]}


@pytest.mark.parametrize(
    ("columns", "prompt", "completion"),
    [
        ({"instruction": Q, "context": "Think.", "response": A}, "### Input:\nThink.", A),
        ({"system": "Be brief.", "question": Q, "chosen": A, "rejected": "x"}, "Be brief.\n\nBelow is", A),
        ({"prompt": Q, "completion": A, "system": "Be brief."}, f"Be brief.\n\n{Q}", A),
        (PLAIN["HH"], f"\n\nHuman: {Q}\n\nAssistant:", f" {A}"),
        ({"chosen": "The sky is blue.", "rejected": "The sky is green."}, "The sky is", " blue."),
    ],
)
def test_layouts_without_a_chat_template(columns, prompt, completion):
    data = Dataset.from_dict({column: [value] for column, value in columns.items()})
    [row] = convert_pool(Pool(data), chat_template=False).to_list()
    assert prompt in row["prompt"] and row["completion"] == completion


def test_context_is_the_input():
    row = one(instruction="Where does it nest?", context="Herons nest in trees.", response="In trees.")
    assert (row.instruction, row.input) == ("Where does it nest?", "Herons nest in trees.")
    assert row.prompt == "Where does it nest?\n\nHerons nest in trees."
    assert one(question="Where?", context="In trees.", answer="There.").prompt == "Where?\n\nIn trees."


@pytest.mark.parametrize("name", ["system", "system_prompt", "System"])
@pytest.mark.parametrize(
    "columns",
    [
        {"instruction": Q, "output": A},
        {"question": Q, "response": A},
        {"conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": A}]},
        {"prompt": [USER], "completion": [ANSWER]},
        {"prompt": Q, "completion": A},
        {"chosen": [USER, ANSWER], "rejected": [USER, WORSE]},
    ],
)
def test_system_column_is_first_turn(columns, name):
    row = one(**columns, **{name: "Be brief."})
    assert row.messages == [SYSTEM, USER, ANSWER]
    assert row.response == A
    assert row.digest() != one(**columns).digest()
    assert one(**columns, **{name: ""}).digest() == one(**columns).digest()


def test_system_column_that_repeats_the_first_turn():
    assert one(messages=[SYSTEM, USER, ANSWER], system="Be brief.").messages == [SYSTEM, USER, ANSWER]


@pytest.mark.parametrize(
    "history",
    [
        [["Hi", "Hello."]],
        '[["Hi", "Hello."]]',
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}],
    ],
)
def test_history_comes_before_as_context(history):
    row = one(instruction=Q, output=A, history=history, system="Be brief.")
    assert [turn.content for turn in row.turns] == ["Be brief.", "Hi", "Hello.", Q, A]
    assert row.response == A
    assert one(instruction=Q, output=A, history=[]).digest() == one(instruction=Q, output=A).digest()


def test_implicit_prompt_of_several_turns():
    before = [USER, ANSWER, {"role": "user", "content": "And the smallest?"}]
    row = one(chosen=[*before, {"role": "assistant", "content": "Mercury."}], rejected=[*before, WORSE])
    assert (row.context, row.response) == (3, "Mercury.")


def test_argilla_prompt_of_several_turns():
    before = [SYSTEM, USER, ANSWER, {"role": "user", "content": "And the smallest?"}]
    row = one(prompt=Q, chosen=[*before, {"role": "assistant", "content": "Mercury."}], rejected=[*before, WORSE])
    assert (row.context, row.response) == (4, "Mercury.")


@pytest.mark.parametrize(
    ("prompt", "chosen"),
    [(f"{Q} ", [USER, ANSWER]), ([{**USER, "content": f"{Q}\n"}], [USER, ANSWER]), ([SYSTEM, USER], [USER, ANSWER])],
    ids=["text", "messages", "without the system turn"],
)
def test_prompt_that_the_chosen_repeats_with_other_white_space(prompt, chosen):
    row = one(prompt=prompt, chosen=chosen)
    assert [turn.role for turn in row.turns][-2:] == ["user", "assistant"]
    assert [turn.role for turn in row.turns].count("user") == 1
    assert (row.response, row.context) == (A, len(row.turns) - 1)


def test_hh_dialogue_of_several_turns():
    start = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Bye\n\nAssistant:"
    row = one(chosen=f"{start} Ciao.", rejected=f"{start} No.")
    assert [turn.content for turn in row.turns] == ["Hi", "Hello.", "Bye", "Ciao."]
    assert row.response == "Ciao."


def test_text_beside_lists():
    features = Features({"prompt": Json(), "completion": Json()})
    prompts, completions = [Q, [USER], 5, Q], [A, [ANSWER], A, [ANSWER]]
    data = Dataset.from_dict({"prompt": prompts, "completion": completions}, features=features)
    pool = Pool(data)
    assert pool.reasons.tolist() == ["", "", "wrong_type", ""]
    rows = convert_pool(pool, chat_template=True).to_list()
    assert [row["prompt"][0]["role"] for row in rows] == ["text", "user", "user"]
    alone = convert_pool(Pool(data.select([0, 2])), chat_template=True).to_list()
    assert alone == [{"pool_row": 0, "prompt": Q, "completion": A}]


@pytest.mark.parametrize(
    ("columns", "row_format"),
    [
        (["text", "question", "answer"], "text"),
        (["prompt", "completion", "question", "answer"], "prompt-completion"),
        (["messages", "prompt", "chosen", "rejected"], "messages"),
        (["messages", "problem", "solution"], "messages"),
        (["prompt", "chosen", "rejected", "question"], "preference"),
        (["instruction", "output", "response"], "alpaca"),
        (["question", "answer", "dialogue"], "instruction-response"),
        (["system", "question", "chosen", "rejected"], "preference"),
        (["Messages"], "messages"),
        (["Text", "question", "answer"], "instruction-response"),
    ],
)
def test_most_explicit_layout(columns, row_format):
    assert detect_format(columns) == row_format


# -- mapping ----------------------------------------------------------------------------------------------------------
def test_mapping_of_columns():
    data = Dataset.from_dict({"frage": [Q], "antwort": [A], "rolle": ["Be brief."], "messages": [[USER]]})
    pool = Pool(data, {"prompt": "frage", "completion": "antwort", "system": "rolle"})
    assert (pool.format, pool.columns) == ("prompt-completion", ["frage", "antwort", "rolle"])
    assert next(pool.rows()).messages == [SYSTEM, USER, ANSWER]
    assert pool.id == Pool(Dataset.from_dict({"prompt": [Q], "completion": [A], "system": ["Be brief."]})).id
    assert pool.subset([0]).mapping == pool.mapping
    assert pool.subset([0]).id == pool.id


def test_mapping_of_message_keys():
    data = Dataset.from_dict({"dialog": [[{"speaker": "human", "utterance": Q}, {"speaker": "bot", "utterance": A}]]})
    pool = Pool(data, {"messages": "dialog", "role": "speaker", "content": "utterance"})
    assert next(pool.rows()).messages == [USER, ANSWER]
    assert convert_pool(pool, True).to_list() == [{"pool_row": 0, "messages": [USER, ANSWER]}]
    assert Pool(data).reasons.tolist() == ["unknown_role"]


def test_rows_under_the_names_of_the_format_are_the_same():
    call = {"function": {"name": "sum", "arguments": {"numbers": [0.12345678901234567, 52.37, "7"]}}}
    turns = [{"who": "user", "said": Q}, {"who": "assistant", "said": A, "tool_calls": [call]}]
    data = Dataset(pa.table({"dialog": json_array([turns])}))
    mapping = {"messages": "dialog", "role": "who", "content": "said"}
    named = Pool(rename_dataset(data, mapping))
    assert named.id == Pool(data, mapping).id
    assert named.reasons.tolist() == [""]


def test_mapping_is_more_explicit_than_the_columns():
    data = Dataset.from_dict({"prompt": ["x"], "completion": ["y"], "talk": [[USER, ANSWER]]})
    assert Pool(data, {"messages": "talk"}).format == "messages"
    alpaca = Dataset.from_dict({"instruction": ["Add."], "output": ["13"], "numbers": ["4 and 9"]})
    assert next(Pool(alpaca, {"input": "numbers"}).rows()).prompt == "Add.\n\n4 and 9"


def test_mapped_plain_rows_convert_to_text():
    data = Dataset.from_dict({"frage": [Q, None], "antwort": [A, A]})
    pool = Pool(data, {"prompt": "frage", "completion": "antwort"})
    assert convert_pool(pool, True).to_list() == [{"pool_row": 0, "prompt": Q, "completion": A}]
    assert pool.details[1] == "column 'frage' is null, and has to be text or a list of messages"


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"promt": "frage"}, r"maps 'promt', which is no column.*Did you mean 'prompt'"),
        ({"prompt": "frag"}, r"maps 'prompt' to 'frag', but the columns are.*Did you mean 'frage'"),
        ({"prompt": "frage"}, r'columns=\{"prompt": "frage", "completion": "antwort"\}'),
        ({"text": "frage", "system": "antwort"}, "maps 'system' to 'antwort', which rows of the format text do not"),
        ({"instruction": "frage", "output": "antwort", "role": "who"}, r"maps \['role'\], the keys of a message"),
        (
            {"prompt": "frage", "completion": "antwort", "system": "frage"},
            r"\['prompt', 'system'\] to the same column",
        ),
        ({"prompt": "frage", "completion": "frage"}, r"\['prompt', 'completion'\] to the same column 'frage'"),
        ({"prompt": 5}, "has to map names to the names of the dataset's columns"),
    ],
)
def test_mapping_that_does_not_fit(mapping, message):
    with pytest.raises(FormatError, match=message):
        Pool(Dataset.from_dict({"frage": [Q], "antwort": [A]}), mapping)


def test_unknown_columns_suggest_a_mapping():
    with pytest.raises(
        FormatError, match=r'columns=\{"prompt": "user_request", "completion": "model_reply"\}'
    ) as error:
        Pool(Dataset.from_dict({"request_id": [1], "model_reply": [A], "user_request": [Q]}))
    assert """--columns '{"prompt": "user_request", "completion": "model_reply"}'""" in error.value.cli_message


# -- columns that are not read ----------------------------------------------------------------------------------------
def test_one_warning_about_columns_that_are_not_read(caplog, monkeypatch):
    monkeypatch.setattr(pool_module, "_warned", set())
    data = Dataset.from_dict(
        {"messages": [[USER, ANSWER]], "functions": [[{"name": "f"}]], "thinking": ["Hm."], "source": ["web"]}
    )
    with caplog.at_level(logging.WARNING):
        Pool(data)
        Pool(data.select([0]))
    [record] = caplog.records
    assert "made of the columns messages; functions, thinking are not read" in record.message
    assert 'columns={"tools": "functions"}' in record.message
    assert next(Pool(data, {"tools": "functions"}).rows()).tools == [{"name": "f"}]


def test_warning_about_columns_of_other_trainers(caplog, monkeypatch):
    monkeypatch.setattr(pool_module, "_warned", set())
    data = Dataset.from_dict({"messages": [[USER, ANSWER]], "tool_defs": ["[]"], "enable_thinking": [False]})
    with caplog.at_level(logging.WARNING):
        Pool(data)
    [record] = caplog.records
    assert "tool_defs, enable_thinking are not read" in record.message
    assert 'columns={"tools": "tool_defs"} reads tool_defs' in record.message


def test_text_column_that_hides_a_prompt_and_a_response(caplog, monkeypatch):
    monkeypatch.setattr(pool_module, "_warned", set())
    data = Dataset.from_dict({"text": ["..."], "Question": [Q], "answer": [A]})
    with caplog.at_level(logging.WARNING):
        assert Pool(data).format == "text"
    [record] = caplog.records
    assert 'columns={"question": "Question", "answer": "answer"} reads' in record.message
    assert next(Pool(data, {"question": "Question", "answer": "answer"}).rows()).response == A
    caplog.clear()
    monkeypatch.setattr(pool_module, "_warned", set())
    Pool(data, {"text": "text"})
    assert not caplog.records


def test_token_ids_that_hide_text(caplog, monkeypatch):
    monkeypatch.setattr(pool_module, "_warned", set())
    data = Dataset.from_dict({"messages": [[USER, ANSWER]], "input_ids": [[1, 2]], "attention_mask": [[1, 1]]})
    with caplog.at_level(logging.WARNING):
        assert Pool(data).format == "tokenized"
        Pool(data.remove_columns("messages"))
    [record] = caplog.records
    assert (
        'messages is not read, though the name suggests a part of the row: columns={"messages": "messages"} reads'
        in record.message
    )
    assert next(Pool(data, {"messages": "messages"}).rows()).response == A


def test_no_warning_about_columns_of_nulls(caplog, monkeypatch):
    monkeypatch.setattr(pool_module, "_warned", set())
    data = Dataset.from_dict({"prompt": [Q], "completion": [A], "history": [None], "meta": ["x"]})
    with caplog.at_level(logging.WARNING):
        Pool(data.cast_column("history", Value("string")))
    assert not caplog.records
