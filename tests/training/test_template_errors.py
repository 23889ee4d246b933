"""Rows that the chat template does not render, and turns that loss flags exclude, in training and in scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trl
from datasets import Dataset, Features, Json
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from hf_datasel import SelectiveSFTTrainer, score, select
from hf_datasel.errors import ModelError
from hf_datasel.formats import Pool
from hf_datasel.scores import IFD, Loss
from hf_datasel.selectors import All, IterIT, Random, Top
from hf_datasel.tokens import TokenRows, TokenSettings
from hf_datasel.tokens.chat import ChatTokenizer

pytestmark = pytest.mark.filterwarnings("ignore:The `'keep_end'` truncation mode is deprecated:FutureWarning")

QWEN3 = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()
NEEDS_NAMES = (
    "{%- for message in messages %}{%- if message.role == 'tool' and not message.name %}"
    "{{- raise_exception('A tool result needs a name') }}{%- endif %}{%- endfor %}" + QWEN3
)
TOWNS = ["Bern", "Rome", "Oslo", "Riga", "Graz", "Pisa"]
PLAIN, BAD = slice(0, 6), slice(24, 30)


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


def conversations(towns=TOWNS):
    """A row per town: plain, with tools, with thoughts, with both, and such that the template does not render."""
    shapes = [[], [], [], [], []]
    for town in towns:
        call = [{"type": "function", "function": {"name": "get_weather", "arguments": {"town": town}}}]
        ask, rain = turn("user", f"Is {town} wet?"), turn("tool", "rain", name="get_weather")
        think = {"reasoning_content": f"{town} is far."}
        later = [turn("user", "Sure?"), turn("assistant", f"Yes, {town}.", **think)]
        shapes[0].append([ask, turn("assistant", f"{town} is wet.")])
        shapes[1].append([ask, turn("assistant", None, tool_calls=call), rain, turn("assistant", "It rains.")])
        shapes[2].append([ask, turn("assistant", "Yes.", **think), *later])
        shapes[3].append(
            [ask, turn("assistant", "", tool_calls=call, **think), rain, turn("assistant", "Rain.", **think), *later]
        )
        nameless = turn("tool", "rain")
        shapes[4].append([ask, turn("assistant", "", tool_calls=call), nameless, turn("assistant", f"In {town}.")])
    return [row for shape in shapes for row in shape]


@pytest.fixture(scope="module")
def mixed():
    return Dataset.from_dict({"messages": conversations()})


@pytest.fixture
def template(tmp_path):
    """Path of a chat template that raises an error for tool results without a name."""
    path = tmp_path / "template.jinja"
    path.write_text(NEEDS_NAMES)
    return str(path)


@pytest.fixture
def strict(tiny_model_dir):
    """A tokenizer with that template."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.chat_template = NEEDS_NAMES
    return tokenizer


def stock_rows(data, tiny_model_dir, tokenizer, tmp_path, **settings):
    """Token ids and labels of a stock `SFTTrainer`."""
    config = SFTConfig(
        str(tmp_path / "stock"), report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False, **settings
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    trainer = SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer)
    return [(row["input_ids"], row["labels"]) for row in trainer.train_dataset]


# -- training ---------------------------------------------------------------------------------------------------------
def test_rows_without_rendering_are_excluded_from_training(train, mixed, template, caplog):
    trainer = train(
        IterIT(), rows=mixed, selection_size=4, num_train_epochs=2, max_length=512, chat_template_path=template
    )
    assert np.flatnonzero(~trainer._data.eligible).tolist() == list(range(24, 30))
    entries = [entry for entry in trainer.state.log_history if "selection_round" in entry]
    assert [entry["selection_rows_excluded"] for entry in entries] == [6, 6]
    for selection in trainer.selections:
        assert selection.provenance["not_eligible"] == {"template_error": 6}
        assert max(selection.indices) < 24
    [warning] = [record.getMessage() for record in caplog.records if "cannot be trained on" in record.getMessage()]
    assert warning == (
        "train_dataset: 6 of 30 rows cannot be trained on: 6 template_error (rows 24, 25, 26, ...: A tool result "
        "needs a name)"
    )


def test_labels_equal_those_of_stock_trainer(train, mixed, template, strict, tiny_model_dir, tmp_path):
    messages = [[{**message, "content": message["content"] or ""} for message in row] for row in conversations()]
    data = Dataset.from_dict({"messages": messages}, features=Features({"messages": Json()}))
    with pytest.raises(Exception, match="A tool result needs a name"):
        stock_rows(data, tiny_model_dir, strict, tmp_path, max_length=100)
    expected = stock_rows(data.select(range(24)), tiny_model_dir, strict, tmp_path, max_length=100)
    trainer = train.make(Random(), "run", mixed, selection_size=6, max_length=100, chat_template_path=template)
    assert [(row["input_ids"], row["labels"]) for row in trainer._data.tokens] == expected


def test_labels_of_text_beside_messages(train):
    pairs = [("Slow?", "No."), ([turn("user", "Name a lamp.")], [turn("assistant", "A red lamp.")]), ("Two: ", "4, 9")]
    columns = {"prompt": [prompt for prompt, _ in pairs], "completion": [completion for _, completion in pairs]}
    rows = Dataset.from_dict(columns, features=Features(dict.fromkeys(columns, Json())))
    tokens = train(All(), rows=rows, num_train_epochs=1, selection_size=3)._data.tokens
    for row, (prompt, completion) in enumerate(pairs):
        alone = Dataset.from_dict({"prompt": [prompt], "completion": [completion]})
        [expected] = train.make(None, "alone", alone, base=SFTTrainer).train_dataset
        assert [tokens[row][name] for name in ("input_ids", "labels")] == [expected["input_ids"], expected["labels"]]


def test_resume_with_excluded_rows(train, mixed, template, assert_equal_weights, tmp_path):
    options = {"rows": mixed, "selection_size": 4, "num_train_epochs": 2, "max_length": 256}
    options |= {"chat_template_path": template, "save_strategy": "steps", "save_steps": 1}
    whole = train(IterIT(), name="whole", **options)
    for checkpoint in ("checkpoint-1", "checkpoint-2"):
        again = train(IterIT(), name="whole", resume=str(tmp_path / "whole" / checkpoint), **options)
        assert_equal_weights(again, whole)
        assert [s.indices.tolist() for s in again.selections] == [s.indices.tolist() for s in whole.selections]


@pytest.mark.slow
def test_pool_of_400_rows(train, resumed, template, strict, tiny_model_dir, tmp_path, caplog):
    messages = [row for n in range(80) for row in conversations([f"{TOWNS[n % 6]}-{n}"])]
    bad = np.arange(4, 400, 5)
    rows = Dataset.from_dict({"messages": messages}, features=Features({"messages": Json()}))
    options = {"rows": rows, "selection_ratio": 0.2, "num_train_epochs": 3, "max_length": 512}
    options |= {"per_device_train_batch_size": 8, "logging_steps": 1, "eval_dataset": rows.select(range(10))}
    options |= {"chat_template_path": template, "save_strategy": "steps", "save_steps": 4}
    whole = train(IterIT(), name="whole", **options)
    assert np.flatnonzero(~whole._data.eligible).tolist() == bad.tolist()
    assert "80 of 400 rows cannot be trained on: 80 template_error (rows 4, 9, 14, ...: A tool result" in caplog.text
    entries = [entry for entry in whole.state.log_history if "selection_round" in entry]
    assert [entry["selection_rows_excluded"] for entry in entries] == [80] * 3
    assert [len(selection.indices) for selection in whole.selections] == [80] * 3
    assert not np.isin(np.concatenate([selection.indices for selection in whole.selections]), bad).any()

    renderable = rows.select(np.setdiff1d(np.arange(400), bad))
    labels = [(row["input_ids"], row["labels"]) for row in whole._data.tokens]
    assert labels == stock_rows(renderable, tiny_model_dir, strict, tmp_path, max_length=512)

    assert len(list(resumed(whole, IterIT(), steps=(4, 12, 20, 28), **options))) == 4


def test_one_row_in_a_thousand_gives_no_warning(train, pool_rows, caplog):
    rows = [[turn("user", row["instruction"]), turn("assistant", row["output"])] for row in pool_rows] * 8
    rows = Dataset.from_dict({"messages": [*rows, [turn("system", "Be brief."), *rows[0]]]})
    trainer = train.make(Random(), "run", rows, selection_size=6)
    assert not [record for record in caplog.records if "cannot be trained on" in record.getMessage()]
    assert trainer._data.eligible.all()


def test_evaluation_rows_without_rendering(train, mixed, template, caplog):
    trainer = train.make(
        Random(), "run", mixed, selection_size=6, max_length=512, chat_template_path=template, eval_dataset=mixed
    )
    assert len(trainer.eval_dataset) == 24
    assert any("6 of 30 rows are not used" in record.getMessage() for record in caplog.records)


def test_no_row_can_be_rendered(train, mixed, template, tmp_path):
    with pytest.raises(
        ModelError, match=r"None of the 6 rows can be rendered .* The first error: A tool result needs"
    ):
        train.make(Random(), "run", mixed.select(range(24, 30)), selection_size=2, chat_template_path=template)


def test_tokenizer_without_chat_template(train, mixed, tiny_text_model_dir):
    def build(**settings):
        return SelectiveSFTTrainer(
            **settings | {"processing_class": AutoTokenizer.from_pretrained(tiny_text_model_dir)}
        )

    with pytest.raises(ModelError, match=r"has no chat template.* \(chat_template_path in SFTConfig\)"):
        train.make(Random(), "run", mixed, base=build, selection_size=2)


# -- scores -----------------------------------------------------------------------------------------------------------
def test_summary_has_rows_and_message(model, strict, mixed):
    lines = []
    scored = score(mixed, [IFD(), Loss()], model=model, processing_class=strict, on_summary=lines.append)
    assert lines[0] == (
        "ifd: 24 of 30 rows scored, 6 without: 6 template_error (rows 24, 25, 26, ...: A tool result needs a name)"
    )
    assert scored["ifd_reason"][BAD] == ["template_error"] * 6
    assert np.isfinite(scored["ifd"][:24]).all()
    alone = score(mixed.select(range(24)), IFD(), model=model, processing_class=strict)
    assert alone["ifd"][:] == pytest.approx(scored["ifd"][:24], rel=1e-5)


def test_row_without_rendering_is_not_selected(model, strict, mixed):
    selection = select(mixed, Top(by=IFD()), size=24, model=model, processing_class=strict)
    assert sorted(selection.indices) == list(range(24))


def test_error_in_published_prompts(model, strict):
    strict.chat_template = "{% if 'Oslo' in messages[-1].content %}{{ raise_exception('No Oslo') }}{% endif %}" + QWEN3
    rows = Dataset.from_dict({"prompt": ["A town?"] * 3, "completion": ["Bern.", "Oslo.", "Rome."]})
    lines = []
    score(rows, IFD(convention="iterit"), model=model, processing_class=strict, on_summary=lines.append)
    assert lines == ["ifd: 2 of 3 rows scored, 1 without: 1 template_error (row 1: No Oslo)"]


def test_error_that_no_row_causes(strict, mixed):
    with pytest.raises(ValueError, match="Unsupported truncation mode"):
        TokenRows(Pool(mixed), strict, TokenSettings(truncation_mode="middle", max_length=9)).training()


# -- responses that are tool calls only -------------------------------------------------------------------------------
SMOLLM2 = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def with_call(content, **more):
    call = {"type": "function", "id": "c1", "function": {"name": "tide", "arguments": '{"port": "Vlorë"}'}}
    return [
        turn("user", "Tide?"), turn("assistant", content, tool_calls=[call], **more), turn("tool", "5 pm"),
        turn("assistant", "At five."),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def calling():
    """A row whose first response is a call, the same with a text or as context, and a row without a call."""
    rows = [
        with_call(None),
        with_call("I look."),
        with_call(None, weight=0),
        [turn("user", "a"), turn("assistant", "b")],
    ]
    return Dataset.from_dict({"messages": rows})


@pytest.fixture
def hiding(tiny_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.chat_template = SMOLLM2
    return tokenizer


def test_calls_only_without_template_support(model, hiding, calling):
    lines = []
    scored = score(calling, Loss(), model=model, processing_class=hiding, on_summary=lines.append)
    assert scored["loss_reason"][:] == ["template_error", "", "", ""]
    message = f"The chat template of {hiding.name_or_path!r} does not render tool calls"
    assert lines == [f"loss: 3 of 4 rows scored, 1 without: 1 template_error (row 0: {message})"]
    hiding.chat_template = QWEN3
    assert score(calling, Loss(), model=model, processing_class=hiding)["loss_reason"][:] == [""] * 4
    conditional = TokenRows(Pool(calling), hiding).training().conditional
    assert [len(spans) // 2 for spans in conditional.data["spans"]] == [2, 2, 1, 1]


def test_calls_only_as_completion(hiding, calling):
    rows = calling["messages"][:2]
    split = {
        "prompt": [row[:1] for row in rows] + [rows[0][:3]],
        "completion": [row[1:] for row in rows] + [rows[0][3:]],
    }
    assert TokenRows(Pool(Dataset.from_dict(split)), hiding).training().reasons.tolist() == ["template_error", "", ""]


def test_calls_only_in_training(train, calling, tmp_path, caplog):
    path = tmp_path / "hiding.jinja"
    path.write_text(SMOLLM2)
    trainer = train(IterIT(), rows=calling, selection_size=2, chat_template_path=str(path))
    assert np.flatnonzero(~trainer._data.eligible).tolist() == [0]
    assert trainer.selections[0].provenance["not_eligible"] == {"template_error": 1}
    assert "1 template_error (row 0: The chat template of" in caplog.text


@pytest.mark.parametrize("streaming", [False, True], ids=["rows", "stream"])
def test_batch_without_a_row_that_can_be_rendered(tiny_model_dir, calling, streaming):
    rows = calling.select([0, 3]).to_iterable_dataset() if streaming else calling.select([0, 3])
    loss = Loss(model=str(tiny_model_dir))
    mapped = rows.map(loss, batched=True, batch_size=1, features=loss.features(rows))
    reasons = [row["loss_reason"] for row in mapped]
    assert reasons == ["template_error", ""]


# -- arguments as text ------------------------------------------------------------------------------------------------
DEEPSEEK = (Path(trl.__file__).parent / "chat_templates" / "deepseekv3.jinja").read_text()


def test_template_that_needs_text_arguments(train, tiny_model_dir, tmp_path):
    text = Dataset.from_dict({"messages": [with_call(""), with_call("I look.")]})
    path = tmp_path / "deepseek.jinja"
    path.write_text(DEEPSEEK)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.chat_template = DEEPSEEK
    chats = [[{k: v for k, v in message.items() if v is not None} for message in row] for row in text["messages"]]
    expected = [tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"] for chat in chats]
    trainer = train.make(
        Random(), "run", text, selection_size=1, max_length=None, chat_template_path=str(path), eval_dataset=text
    )
    assert trainer._data.tokens["input_ids"][:] == expected
    assert trainer.eval_dataset["input_ids"][:] == expected
    rows = TokenRows(Pool(text), tokenizer, TokenSettings(max_length=None))
    assert rows.prepared["input_ids"][:] == expected
    assert rows.training().reasons.tolist() == ["", ""]
    encoded, _ = ChatTokenizer(tokenizer).encode(list(Pool(text).rows()))
    assert [ids.tolist() for ids in encoded] == expected


# -- loss flags -------------------------------------------------------------------------------------------------------
def flagged():
    """Conversations of three assistant turns, of which the second is not trained on, nor any of the last row."""
    rows = []
    for town, flags in (("Bern", [1, 0, 1]), ("Rome", [1, 0, 1]), ("Oslo", [0, 0, 1])):
        turns = []
        for number, flag in zip(("one", "two", "three"), flags, strict=True):
            turns += [turn("user", f"{town}?"), turn("assistant", f"{town} {number}.", weight=flag)]
        rows.append(turns)
    return Dataset.from_dict({"messages": rows})


def trained_text(row, tokenizer):
    return tokenizer.decode([label for label in row["labels"] if label != -100])


@pytest.mark.parametrize("settings", [{}, {"assistant_only_loss": True}], ids=["all", "assistant_only_loss"])
def test_flagged_turns_have_no_labels(strict, settings):
    strict.chat_template = QWEN3
    tokens = TokenRows(Pool(flagged()), strict, TokenSettings(max_length=None, **settings))
    for row in tokens.prepared:
        text = trained_text(row, strict)
        assert "two." not in text
        assert "three." in text
        assert ("user" in text) == (not settings)
    conditional = tokens.training().conditional
    assert [len(spans) // 2 for spans in conditional.data["spans"]] == [2, 2, 1]


@pytest.mark.parametrize("settings", [{}, {"truncation_mode": "keep_end"}, {"assistant_only_loss": True}])
def test_flagged_turns_in_training(train, strict, tmp_path, settings):
    path = tmp_path / "qwen3.jinja"
    path.write_text(QWEN3)
    strict.chat_template = QWEN3
    trainer = train.make(
        Random(), "run", flagged(), selection_size=1, max_length=60, chat_template_path=str(path), **settings
    )
    offline = TokenRows(Pool(flagged()), strict, TokenSettings(max_length=60, **settings)).prepared
    assert len(offline)
    for row, other in zip(trainer._data.tokens, offline, strict=True):
        assert (row["input_ids"], row["labels"]) == (other["input_ids"], other["labels"])
        assert "two." not in trained_text(row, strict)
        assert len(row["input_ids"]) <= 60


def test_flagged_turn_of_a_completion(strict):
    turns = flagged()["messages"][0]
    rows = Dataset.from_dict({"prompt": [turns[:1]], "completion": [turns[1:]]})
    [row] = TokenRows(Pool(rows), strict).prepared
    text = trained_text(row, strict)
    assert "one." in text
    assert "three." in text
    assert "two." not in text


def test_row_whose_labels_are_all_flagged_or_cut(strict):
    strict.chat_template = QWEN3
    rows = TokenRows(Pool(flagged()), strict, TokenSettings(max_length=40, assistant_only_loss=True))
    assert rows.training().reasons.tolist()[2] == "prompt_fills_window"
    assert 2 not in rows.prepared["pool_row"][:]
