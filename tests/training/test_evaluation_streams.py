"""Streaming evaluation rows in every shape: the tokens and labels are those of the same rows loaded in full."""

from __future__ import annotations

import json
from typing import Any

import pytest
from datasets import Dataset, IterableDataset

from hf_datasel.errors import ModelError
from hf_datasel.formats import alpaca_prompt
from hf_datasel.selectors import Random

ONCE = {"selection_size": 4, "num_train_epochs": 1}


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def bot(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


CHAT = [user("Is it wet?"), bot("It is.")]
SHAPES: dict[str, list[dict[str, Any]]] = {
    "system_column": [{"messages": CHAT, "system": "Be brief."}],
    "system_of_pairs": [{"prompt": "Is it wet?", "completion": "It is.", "system": "Be brief."}],
    "masked": [{"messages": [*CHAT, user("Why?"), bot("Rain.")], "masked": [True, True, True, False]}],
    "weights": [
        {"messages": [user("a"), bot("b", weight=0), user("c"), bot("d", weight=1)]},
        {"messages": [user("a"), bot("b", weight=0)]},
    ],
    "other_roles": [{"messages": [{"role": "human", "content": "a"}, {"role": "gpt", "content": "b"}]}],
    "from_and_value": [{"messages": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}],
    "json_text": [{"messages": json.dumps(CHAT)}],
    "content_parts": [{"messages": [user([{"type": "text", "text": "a"}]), bot([{"type": "text", "text": "b"}])]}],
    "null_content": [{"messages": [*CHAT, user("Why?"), bot(None), user("So?"), bot("Rain.")]}, {"messages": CHAT}],
    "bad_rows": [{"messages": [user("a")]}, {"messages": CHAT}, {"messages": [user("a"), bot("")]}],
    "no_tools": [{"messages": CHAT, "tools": ""}, {"messages": CHAT, "tools": "[]"}],
    "no_kwargs": [{"messages": CHAT, "chat_template_kwargs": None}],
    "sharegpt": [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}],
    "preference": [{"prompt": "a", "chosen": [bot("b")], "rejected": [bot("c")]}],
    "preference_of_turns": [{"prompt": "a", "chosen": [user("a"), bot("b")], "rejected": [user("a"), bot("c")]}],
    "alpaca": [{"instruction": "a", "input": "b", "output": "c"}, {"instruction": "a", "input": None, "output": "c"}],
    "alpaca_with_text": [{"instruction": "a", "output": "c", "text": "all of it"}],
    "pairs": [{"prompt": "a", "completion": " b"}, {"prompt": "", "completion": "b"}],
    "mixed_pairs": [{"prompt": [user("a")], "completion": "b"}],
    "capitals": [{"Prompt": "a", "Completion": "b"}],
    "text": [{"text": "a b c"}],
    "cut": [{"messages": [user("a"), bot("long " * 200)]}, {"messages": CHAT}],
}


@pytest.fixture
def evaluated(train):
    """Return a function that gives the rows that each of several evaluation datasets is prepared as."""

    def prepared(datasets: dict[str, Any], **more: Any) -> dict[str, list[tuple[list[int], list[int]]]]:
        trainer = train.make(Random(), "run", eval_dataset=datasets, **ONCE, **more)
        return {
            name: [(row["input_ids"], row["labels"]) for row in rows] for name, rows in trainer.eval_dataset.items()
        }

    return prepared


@pytest.mark.filterwarnings("ignore:The `'keep_end'` truncation mode:FutureWarning")
@pytest.mark.parametrize("settings", [{}, {"truncation_mode": "keep_end", "completion_only_loss": False}])
def test_streams_are_read_as_rows_loaded_in_full(evaluated, settings):
    loaded = {name: Dataset.from_list(rows) for name, rows in SHAPES.items()}
    expected = evaluated(loaded, **settings)
    assert all(expected.values())
    assert evaluated({name: rows.to_iterable_dataset() for name, rows in loaded.items()}, **settings) == expected
    unnamed = {name: IterableDataset.from_generator(lambda rows=rows: iter(rows)) for name, rows in SHAPES.items()}
    assert evaluated(unnamed, **settings) == expected


def test_text_beside_messages_in_a_stream(evaluated):
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": [user("a")], "completion": [bot("b")]}]
    alone = evaluated({str(number): Dataset.from_list([row]) for number, row in enumerate(rows)})
    [found] = evaluated({"both": IterableDataset.from_generator(lambda: iter(rows))}).values()
    assert found == alone["0"] + alone["1"]


@pytest.mark.filterwarnings("ignore:`return_outputs=True`:FutureWarning")
def test_stream_with_packing_and_predictions(train):
    rows = Dataset.from_list(SHAPES["weights"][:1] * 3 + SHAPES["bad_rows"][:1])
    trainer = train.make(Random(), "run", eval_dataset=rows.to_iterable_dataset(), packing=True, **ONCE)
    same = train.make(Random(), "same", eval_dataset=rows, packing=True, **ONCE)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(same.evaluate()["eval_loss"], rel=1e-5)
    assert trainer.predict(rows.to_iterable_dataset()).metrics["test_loss"] == pytest.approx(
        same.predict(rows).metrics["test_loss"], rel=1e-5
    )


def test_streaming_rows_that_are_not_rendered(train, pool_rows, caplog):
    trainer = train.make(Random(), "run", **ONCE)
    trainer._tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ m.role + m.content }}{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
    )
    rows = [{"messages": CHAT, "system": system} for system in ("Be brief.", "")]
    loss = trainer.evaluate(IterableDataset.from_generator(lambda: iter(rows)))["eval_loss"]
    assert loss == pytest.approx(trainer.evaluate(Dataset.from_list(rows[1:]))["eval_loss"], rel=1e-5)
    assert "left out. The first error: no system" in caplog.text
    with pytest.raises(ModelError, match="None of the streaming rows can be read"):
        trainer.evaluate(IterableDataset.from_generator(lambda: iter(rows[:1])))


def test_formatting_func_of_a_stream(train, pool_rows):
    from hf_datasel import SelectiveSFTTrainer

    def text(row: dict[str, Any]) -> str:
        return f"{alpaca_prompt(row['instruction'], row['input'])}{row['output']}"

    def build(*args: Any, **kwargs: Any) -> SelectiveSFTTrainer:
        return SelectiveSFTTrainer(*args, formatting_func=text, **kwargs)

    rows = pool_rows.select(range(3))
    datasets = {"rows": rows, "stream": rows.to_iterable_dataset()}
    prepared = train.make(Random(), "run", base=build, eval_dataset=datasets, **ONCE).eval_dataset
    assert [row["input_ids"] for row in prepared["stream"]] == prepared["rows"]["input_ids"][:]


def test_streams_that_are_tokenized_already(train):
    rows = Dataset.from_list([{"input_ids": [5, 6, 7, 8]}, {"input_ids": [9, 10, 11]}])
    trainer = train.make(Random(), "run", eval_dataset={"ids": rows.to_iterable_dataset()}, **ONCE)
    assert [row["labels"] for row in trainer.eval_dataset["ids"]] == rows["input_ids"][:]
    chats = Dataset.from_list([{"messages": CHAT}])
    streams = {"ids": rows.to_iterable_dataset(), "chats": chats.to_iterable_dataset()}
    losses, expected = trainer.evaluate(streams), trainer.evaluate({"ids": rows, "chats": chats})
    for name in ("eval_ids_loss", "eval_chats_loss"):
        assert losses[name] == pytest.approx(expected[name], rel=1e-5)
