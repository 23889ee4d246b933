"""Tokens made outside a trainer are those of a real `SFTTrainer`, id for id and label for label."""

from __future__ import annotations

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer, chat_template_utils

from hf_datasel.errors import FormatError, ModelError
from hf_datasel.formats import Pool, convert_pool
from hf_datasel.tokens import TokenRows, TokenSettings

pytestmark = pytest.mark.filterwarnings("ignore:The `'keep_end'` truncation mode is deprecated:FutureWarning")

WITH_MARKERS = (
    "{{%- for message in messages %}}<|im_start|>{{{{ message['role'] }}}}\n{{% if message['role'] == 'assistant' %}}"
    "{start}{{{{ message['content'] }}}}<|im_end|>{end}{{% else %}}{{{{ message['content'] }}}}<|im_end|>"
    "{{% endif %}}{{{{ '\n' }}}}{{% endfor %}}{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)


def turn(role, content):
    return {"role": role, "content": content}


CHATS = [
    [turn("user", "Is it slow?"), turn("assistant", "Yes.")],
    [turn("system", "Be brief."), turn("user", "Name a fruit."), turn("assistant", "A quince.")],
    [
        turn("user", "Hi"),
        turn("assistant", "Hello!"),
        turn("user", "Two lamps?"),
        turn("assistant", "A pair of lamps."),
    ],
    [turn("user", "a long question " * 20), turn("assistant", "No.")],
]
PAIRS = [
    ("Is it slow?", "Yes."),
    ("Name a fruit.\n", "A quince."),
    ("Two numbers: ", "4 and 9"),  # the space joins the first word of the answer in one token
    ("Ends in a word", "ing, so that the two may merge"),
    ("a long question " * 20, "No."),
]

DATA = {
    "prompt-completion, text": {"prompt": [p for p, _ in PAIRS], "completion": [c for _, c in PAIRS]},
    "preference, text": {"prompt": [p for p, _ in PAIRS], "chosen": [c for _, c in PAIRS], "rejected": ["x"] * 5},
    "text": {"text": [p + c for p, c in PAIRS]},
    "prompt-completion, conversational": {"prompt": [c[:-1] for c in CHATS], "completion": [c[-1:] for c in CHATS]},
    "several completion turns": {"prompt": [c[:1] for c in CHATS[2:3]], "completion": [c[1:] for c in CHATS[2:3]]},
    "messages": {"messages": CHATS},
    "sharegpt": {"conversations": [[{"from": t["role"], "value": t["content"]} for t in c] for c in CHATS]},
    "LIMA": {"conversations": [[t["content"] for t in c if t["role"] != "system"] for c in CHATS]},
    "preference, sharegpt": {
        "conversations": [[{"from": t["role"], "value": t["content"]} for t in c[:-1]] for c in CHATS],
        "chosen": [{"from": "gpt", "value": c[-1]["content"]} for c in CHATS],
    },
    "preference, conversational": {"prompt": [c[:-1] for c in CHATS], "chosen": [c[-1:] for c in CHATS]},
}
TEXT_DATA = [name for name in DATA if "text" in name]
SETTINGS = {
    "default": {},
    "cut": {"max_length": 48},
    "cut at the start": {"max_length": 48, "truncation_mode": "keep_end"},
    "uncut": {"max_length": None},
    "whole row": {"completion_only_loss": False},
    "whole row, cut": {"completion_only_loss": False, "max_length": 48},
}


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir)


@pytest.fixture
def trained_on(model, tmp_path):
    """Give a function from a pool, or rows as they are, to the (pool row, ids, labels) of a real trainer."""

    def rows(pool, tokenizer, settings):
        data = pool if isinstance(pool, Dataset) else convert_pool(pool, tokenizer.chat_template is not None)
        config = SFTConfig(
            output_dir=str(tmp_path),
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            **settings,
        )
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=data,
            processing_class=tokenizer,
        )
        return triples(trainer.train_dataset)

    return rows


def triples(data):
    return [(row["pool_row"], row["input_ids"], row["labels"]) for row in data]


def offline(pool, tokenizer, settings):
    return triples(TokenRows(pool, tokenizer, TokenSettings(**settings)).prepared)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("name", DATA)
def test_chat_tokenizer(trained_on, tiny_model_dir, name, settings):
    pool, tokenizer = Pool(Dataset.from_dict(DATA[name])), AutoTokenizer.from_pretrained(tiny_model_dir)
    expected = trained_on(pool, tokenizer, settings)
    assert expected
    assert offline(pool, tokenizer, settings) == expected


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("name", TEXT_DATA)
def test_text_tokenizer_without_bos(trained_on, tiny_text_model_dir, name, settings):
    pool, tokenizer = Pool(Dataset.from_dict(DATA[name])), AutoTokenizer.from_pretrained(tiny_text_model_dir)
    expected = trained_on(pool, tokenizer, settings)
    assert expected
    assert offline(pool, tokenizer, settings) == expected


@pytest.mark.parametrize(("folder", "max_length"), [("tiny_model_dir", 48), ("tiny_text_model_dir", 190)])
def test_alpaca(trained_on, request, pool_rows, folder, max_length):
    pool, tokenizer = Pool(pool_rows), AutoTokenizer.from_pretrained(request.getfixturevalue(folder))
    expected = trained_on(pool, tokenizer, {"max_length": max_length})
    assert 0 < len(expected) < 24
    assert offline(pool, tokenizer, {"max_length": max_length}) == expected


def test_rows_without_label_are_dropped(tiny_model_dir):
    pool = Pool(Dataset.from_dict(DATA["prompt-completion, conversational"]))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    assert [row for row, _, _ in offline(pool, tokenizer, {"max_length": 64})] == [0, 1, 2]
    rows = TokenRows(pool, tokenizer, TokenSettings(max_length=64))
    assert rows.training().reasons.tolist() == ["", "", "", "prompt_fills_window"]


def test_single_eos(tiny_text_model_dir):
    pool = Pool(Dataset.from_dict({"prompt": ["a", "a"], "completion": ["b", "b</s>"]}))
    tokenizer = AutoTokenizer.from_pretrained(tiny_text_model_dir)
    for _, ids, labels in offline(pool, tokenizer, {}):
        assert ids.count(tokenizer.eos_token_id) == 1
        assert ids[-1] == labels[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("name", ["messages", "sharegpt", "prompt-completion, conversational"])
@pytest.mark.parametrize("dash", ["", "-"])
def test_assistant_only_loss_with_markers(trained_on, tiny_model_dir, name, dash):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    marks = {"start": "{%" + dash + " generation %}", "end": "{%" + dash + " endgeneration %}"}
    tokenizer.chat_template = WITH_MARKERS.format(**marks)
    pool, settings = Pool(Dataset.from_dict(DATA[name])), {"assistant_only_loss": True}
    expected = trained_on(pool, tokenizer, settings)
    assert offline(pool, tokenizer, settings) == expected
    trained_texts = [tokenizer.decode([label for label in labels if label != -100]) for _, _, labels in expected]
    assert trained_texts[0] == "Yes.<|im_end|>"


@pytest.mark.parametrize("name", ["messages", "prompt-completion, conversational"])
def test_assistant_only_loss_with_replaced_template(trained_on, tiny_model_dir, name):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.chat_template = chat_template_utils.qwen3_chat_template
    pool, settings = Pool(Dataset.from_dict(DATA[name])), {"assistant_only_loss": True}
    assert offline(pool, tokenizer, settings) == trained_on(pool, tokenizer, settings)
    rows = TokenRows(pool, tokenizer, TokenSettings(**settings))
    assert rows.training().reasons.tolist() == ["", "", "", ""]


def test_tools_and_chat_template_kwargs(trained_on, tiny_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.chat_template = "{{ tools | tojson }}{{ mood }}" + tokenizer.chat_template
    data = {
        "messages": CHATS[:2],
        "tools": ['[{"type": "function", "function": {"name": "now"}}]'] * 2,
        "chat_template_kwargs": [{"mood": "calm"}] * 2,
    }
    pool = Pool(Dataset.from_dict(data))
    expected = trained_on(Dataset.from_dict({**data, "pool_row": [0, 1]}), tokenizer, {})
    assert offline(pool, tokenizer, {}) == expected
    assert "now" in tokenizer.decode(expected[0][1])
    assert "calm" in tokenizer.decode(expected[0][1])
    assert TokenRows(pool, tokenizer).training().reasons.tolist() == ["", ""]


def test_missing_chat_template(tiny_text_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_text_model_dir)
    with pytest.raises(ModelError, match="has no chat template"):
        offline(Pool(Dataset.from_dict(DATA["messages"])), tokenizer, {})


def test_text_rows_have_no_response(tiny_model_dir):
    rows = TokenRows(Pool(Dataset.from_dict(DATA["text"])), AutoTokenizer.from_pretrained(tiny_model_dir))
    with pytest.raises(FormatError, match="only a text column have no response"):
        rows.training()
