"""Each row has the tokens, labels and scores that it has alone, whatever the other rows of its columns hold."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset, Features, Json
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_datasel import load_pool, score
from hf_datasel.formats import Pool
from hf_datasel.scores import IFD, Loss
from hf_datasel.tokens import TokenRows, TokenSettings

Q, A = "Is it slow?", "No, it is quick."


def user(text):
    return {"role": "user", "content": text}


def bot(text, **more):
    return {"role": "assistant", "content": text, **more}


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    return AutoTokenizer.from_pretrained(tiny_model_dir)


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir)


# -- text beside lists of messages in one column ----------------------------------------------------------------------
PAIRS = [(Q, A), ([user("Name a lamp.")], [bot("A red lamp.")]), ("Two lamps: ", "red and green"), (Q, [bot(A)])]


def pairs(rows):
    """A dataset whose columns hold text and lists, or only one of the two."""
    columns = {"prompt": [prompt for prompt, _ in rows], "completion": [completion for _, completion in rows]}
    mixed = {type(value) for row in rows for value in row} == {str, list}
    return Dataset.from_dict(columns, features=Features(dict.fromkeys(columns, Json())) if mixed else None)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [1, 0, 3, 2]], ids=["text first", "messages first"])
@pytest.mark.parametrize("settings", [{}, {"completion_only_loss": False}])
def test_text_beside_messages(model, tokenizer, order, settings):
    rows = TokenRows(Pool(pairs([PAIRS[row] for row in order])), tokenizer, TokenSettings(**settings))
    tokens, spans = rows.prepared, rows._prepared.with_spans(True)
    for row, found in zip(order, zip(tokens, spans, strict=True), strict=True):
        alone = TokenRows(Pool(pairs([PAIRS[row]])), tokenizer, TokenSettings(**settings))
        [expected], [span] = alone.prepared, alone._prepared.with_spans(True)
        assert [found[0][name] for name in ("input_ids", "labels")] == [expected["input_ids"], expected["labels"]]
        assert found[1]["spans"] == span["spans"]


def test_scores_of_text_beside_messages(model, tokenizer):
    scored = score(pairs(PAIRS), [IFD(), Loss()], model=model, processing_class=tokenizer)
    for row, pair in enumerate(PAIRS):
        alone = score(pairs([pair]), [IFD(), Loss()], model=model, processing_class=tokenizer)
        assert scored[row]["ifd"] == pytest.approx(alone[0]["ifd"], rel=1e-5)
        assert scored[row]["loss"] == pytest.approx(alone[0]["loss"], rel=1e-5)


def test_text_beside_messages_without_chat_template(tokenizer, tiny_text_model_dir):
    lines = []
    plain = AutoTokenizer.from_pretrained(tiny_text_model_dir)
    scored = score(
        pairs(PAIRS),
        Loss(),
        model=AutoModelForCausalLM.from_pretrained(tiny_text_model_dir),
        processing_class=plain,
        on_summary=lines.append,
    )
    assert scored["loss_reason"][:] == ["", "template_error", "", "template_error"]
    assert "chat template" in lines[0]


# -- numbers ----------------------------------------------------------------------------------------------------------
NUMBERS = [52.37, 1e-12, 0.1 + 0.2, 1.0, 2**53 + 1]


def calling(number):
    call = {"type": "function", "function": {"name": "heat", "arguments": {"degrees": number}}}
    return [user("Heat it."), bot("", tool_calls=[call]), user("Thanks"), bot("Sure.")]


TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}{{ call.function.name }}{{ call.function.arguments | tojson }}"
    "{% endfor %}{{ scale }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def with_calls(tiny_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def sources(tmp_path, numbers):
    rows = [{"messages": calling(number), "chat_template_kwargs": {"scale": number}} for number in numbers]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"messages": [user("a"), bot("b")]}])))
    data = {"jsonl": load_pool(str(tmp_path / "rows.jsonl")).select(range(len(rows)))}
    data["jsonl"].to_parquet(tmp_path / "rows.parquet")
    data["parquet"] = load_pool(str(tmp_path / "rows.parquet"))
    data["text"] = Dataset.from_dict({name: [json.dumps(row[name]) for row in rows] for name in rows[0]})
    return data


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_are_exact(tmp_path, with_calls, number):
    data = sources(tmp_path, [number])
    data["memory"] = Dataset.from_list([{"messages": calling(number), "chat_template_kwargs": {"scale": number}}])
    assert len({json.dumps(Pool(rows).row_ids.tolist()) for rows in data.values()}) == 1
    text = with_calls.apply_chat_template(calling(number), tokenize=False, scale=number)
    for name, rows in data.items():
        tokens = TokenRows(Pool(rows), with_calls, TokenSettings(max_length=None))
        assert with_calls.decode(tokens.prepared[0]["input_ids"]) == text, name
        assert not any(tokens.training().reasons), name
    assert f'"degrees": {number}' in text


def test_numbers_of_json_columns_in_map(tmp_path, model, with_calls):
    with_calls.save_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    rows, ifd = sources(tmp_path, NUMBERS[:3])["jsonl"], IFD(str(tmp_path / "model"))
    expected = score(rows, ifd)["ifd"][:]
    assert rows.map(ifd, batched=True, batch_size=2)["ifd"][:] == pytest.approx(expected, rel=1e-6)
    streamed = rows.to_iterable_dataset().with_format("arrow").map(ifd, batched=True)
    assert [row["ifd"] for row in streamed.with_format(None)] == pytest.approx(expected, rel=1e-6)
