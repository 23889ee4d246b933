"""Rows that are tokenized already, text columns and formatting functions in the trainer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from peft import PromptTuningConfig

from hf_datasel.errors import ConfigError, DatasetMismatchError, FormatError
from hf_datasel.scores import IFD, Compressibility, Judge, Length, Loss
from hf_datasel.selectors import ZIP, GraphFilter, IterIT, Longest, Random, Top

ONCE = {"selection_size": 3, "num_train_epochs": 1}


@pytest.fixture(scope="module")
def answers(pool_rows) -> dict[str, list[str]]:
    first = pool_rows.select(range(8))
    return {"question": first["instruction"][:], "answer": first["output"][:]}


@pytest.fixture
def tokens(tokenizer, answers) -> Dataset:
    """Give rows as the chat template renders them, with labels for the answers, and a column to rank by."""
    ids, labels = [], []
    for question, answer in zip(answers["question"], answers["answer"], strict=True):
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
        ids.append(tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"])
        labels.append([-100] * len(prompt) + ids[-1][len(prompt) :])
    return Dataset.from_dict({"input_ids": ids, "labels": labels, "quality": [float(row % 5) for row in range(8)]})


@pytest.fixture
def same_rows(answers) -> Dataset:
    """Give the same rows as text."""
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": text}] for text in answers["question"]],
            "completion": [[{"role": "assistant", "content": text}] for text in answers["answer"]],
        }
    )


@pytest.mark.parametrize("score", [Loss(), IFD(), Length("tokens")], ids=["loss", "ifd", "length"])
def test_scores_of_tokens_equal_those_of_text(train, tokens, same_rows, score):
    by_tokens = train(Top(by=score), "tokens", rows=tokens, **ONCE).selections[0]
    by_text = train(Top(by=score), "text", rows=same_rows, **ONCE).selections[0]
    assert by_tokens.indices.tolist() == by_text.indices.tolist()
    names = [name for name in by_text.table.column_names if name != "row_id"]
    assert by_tokens.table.select(names).equals(by_text.table.select(names))


@pytest.mark.parametrize(
    ("selector", "name"),
    [
        (IterIT(), "IterIT reads the text"),
        (GraphFilter(), "GraphFilter reads the text"),
        (ZIP(), "ZIP reads the text"),
        (Longest(), "Length reads the text"),
        (Top(by=Compressibility()), "Compressibility reads the text"),
        (Top(by=IFD(convention="iterit")), "IFD reads the text"),
        (Top(by=Judge("m", base_url="http://127.0.0.1:9/v1")), "Judge reads the text"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_scores_of_text_are_refused_for_tokens(train, tokens, selector, name):
    with pytest.raises(FormatError, match=rf"{name}.*tokenized already"):
        train.make(selector, "bad", rows=tokens, **ONCE)


def test_iterit_without_diversity_selects_tokens(train, tokens):
    trainer = train(IterIT(diversity="none"), rows=tokens, selection_size=1, num_train_epochs=2)
    assert [len(selection.indices) for selection in trainer.selections] == [1, 1]


def test_ifd_needs_a_prompt_before_the_labels(train, tokens):
    unlabelled = tokens.remove_columns("labels")
    with pytest.raises(FormatError, match="no row of these tokenized rows has a prompt: all tokens have a label"):
        train.make(Top(by=IFD()), "bad", rows=unlabelled, **ONCE)
    some = tokens.map(lambda row, at: {"labels": row["input_ids"] if at == 2 else row["labels"]}, with_indices=True)
    table = train(Top(by=IFD()), rows=some, **ONCE).selections[0].table
    assert [reason for reason in table["ifd_reason"].to_pylist() if reason] == ["no_prompt_token"]


def test_mixed_prompts_need_a_prior_context(train, tokens):
    odd = {"input_ids": [9] * 12, "labels": [-100] * 3 + [9] * 9, "quality": 0.0}
    mixed = Dataset.from_list([*tokens, odd])
    with pytest.raises(FormatError, match=r"IFD\(prior_context='bos'\)"):
        train.make(Top(by=IFD()), "bad", rows=mixed, **ONCE)
    assert len(train(Top(by=IFD(prior_context="bos")), rows=mixed, **ONCE).selections) == 1


def test_another_model_cannot_read_tokens(train, tokens, tiny_text_model_dir):
    with pytest.raises(FormatError, match="tokenized already, with another tokenizer"):
        train.make(Top(by=Loss(str(tiny_text_model_dir))), "bad", rows=tokens, **ONCE)


def test_selection_of_tokens_can_be_applied_and_resumed(train, tokens, tmp_path, assert_equal_weights):
    settings = {"rows": tokens, "selection_size": 4, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 1}
    trainer = train(Top(by="quality"), "run", **settings)
    rows = trainer.selections[0].apply(tokens)
    assert sorted(rows["quality"][:]) == [3.0, 3.0, 4.0, 4.0] or len(rows) == 4
    again = train(Top(by="quality"), "again", resume=str(tmp_path / "run" / "checkpoint-1"), **settings)
    assert_equal_weights(again, trainer)


# -- text ------------------------------------------------------------------------------------------------------------
def shout(row: dict[str, Any]) -> str:
    return row["answer"].upper()


@pytest.mark.parametrize("streaming", [False, True], ids=["rows", "stream"])
def test_named_columns_of_text_beside_token_ids(train, answers, streaming):
    text = Dataset.from_dict({"prompt": answers["question"], "completion": answers["answer"]})
    beside = Dataset.from_dict({**answers, "input_ids": [[1, 2]] * 8, "labels": [[-100, 2]] * 8})
    columns = {"prompt": "question", "completion": "answer"}
    settings = {"columns": columns, "eval_dataset": beside.to_iterable_dataset() if streaming else beside}
    trainer = train.make(Longest(), "named", rows=beside, **settings, **ONCE)
    expected = train.make(Longest(), "text", rows=text, eval_dataset=text, **ONCE)
    for name in ("input_ids", "labels"):
        assert trainer.train_dataset[name][:] == expected.train_dataset[name][:]
        assert [row[name] for row in trainer.eval_dataset] == expected.eval_dataset[name][:]


def test_formatting_func_is_recorded(train, answers):
    from hf_datasel import SelectiveSFTTrainer

    def build(*args: Any, **kwargs: Any) -> SelectiveSFTTrainer:
        return SelectiveSFTTrainer(*args, formatting_func=shout, **kwargs)

    trainer = train(Random(), rows=Dataset.from_dict(answers), base=build, **ONCE)
    assert trainer._pool.format == "text"
    notes = trainer.selections[0].provenance["training"]["in_python"]
    assert "the text of each row was returned by formatting_func=shout, a Python function" in notes
    assert np.isfinite(trainer.evaluate(Dataset.from_dict(answers))["eval_loss"])
    selection = trainer.selections[0]
    texts = Dataset.from_dict(answers).map(lambda row: {"text": shout(row)})
    assert selection.apply(texts)["text"][:] == [shout(texts[int(row)]) for row in selection.indices]
    for rows in (Dataset.from_dict(answers), Dataset.from_dict({"reply": answers["answer"]})):
        with pytest.raises(DatasetMismatchError, match=r"made from the column 'text', .* Add what formatting_func"):
            selection.apply(rows)


@pytest.mark.parametrize(
    ("columns", "settings", "match"),
    [
        ({"prompt": ["a"], "completion": ["b"]}, {}, r"trains on 'prompt', 'completion' of these rows instead"),
        ({"messages": [[{"role": "user", "content": "a"}]]}, {}, r"trains on 'messages' of these rows instead"),
        ({"answer": ["b"]}, {"completion_only_loss": True}, "which has no completion, but completion_only_loss=True"),
    ],
    ids=["pair", "messages", "completion"],
)
def test_formatting_func_that_stock_ignores_is_refused(train, columns, settings, match):
    from hf_datasel import SelectiveSFTTrainer

    def build(*args: Any, **kwargs: Any) -> SelectiveSFTTrainer:
        return SelectiveSFTTrainer(*args, formatting_func=shout, **kwargs)

    with pytest.raises(ConfigError, match=match):
        train.make(Random(), "bad", rows=Dataset.from_dict(columns), base=build, selection_size=1, **settings)


# -- checks when the trainer is built ---------------------------------------------------------------------------------
def test_packing_without_max_length(train):
    with pytest.raises(ConfigError, match="packing=True needs max_length"):
        train.make(Random(), "bad", packing=True, max_length=None, selection_size=4)


def test_unknown_packing_strategy(train):
    with pytest.raises(ValueError, match="Invalid packing strategy 'loose'"):
        train.make(Random(), "bad", packing=True, packing_strategy="loose", selection_size=4)


def test_max_length_without_labels(train, same_rows):
    with pytest.raises(ConfigError, match="max_length=2 leaves no token to train on in any of the 8 rows"):
        train.make(Random(), "bad", rows=same_rows, max_length=2, **ONCE)


def test_empty_evaluation_set(train, same_rows):
    with pytest.raises(ConfigError, match="eval_dataset has no rows"):
        train.make(Random(), "bad", eval_dataset=same_rows.select([]), selection_size=4)
    with pytest.raises(ConfigError, match=r"eval_dataset\['dev'\] has no rows"):
        train.make(Random(), "bad", eval_dataset={"dev": same_rows.select([])}, selection_size=4)


def test_evaluation_rows_that_are_no_dataset(train, same_rows):
    for rows, kind in ((same_rows.to_pandas(), "pandas"), (same_rows.to_list(), "list")):
        with pytest.raises(FormatError, match=rf"eval_dataset cannot be read\. .* datasets\.Dataset\.from_{kind}\("):
            train.make(Random(), "bad", eval_dataset=rows, selection_size=4)


def test_prompt_tuning_with_scores_of_the_model(train):
    adapter = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(ConfigError, match=r"Top computes Loss with the model in training, whose prompt-learning"):
        train.make(Top(by=Loss()), "bad", peft_config=adapter, selection_size=4)
    trainer = train(Random(), peft_config=adapter, selection_size=4, num_train_epochs=1)
    assert trainer.state.global_step == 1


def test_packed_rows_are_scored_on_their_first_tokens(train, same_rows):
    """No packed sequence is longer than `max_length`, so neither is what scores read."""
    settings = {"rows": same_rows, "packing": True, "max_length": 60, "packing_strategy": "wrapped", **ONCE}
    lengths = train(Top(by=Length("tokens")), **settings).selections[0].scores("num_tokens")
    assert np.nanmax(lengths) == 60


def test_train_dataset_before_training(train, same_rows):
    """It is as long as that of the first round, so that scripts compute their steps from it."""
    assert len(train.make(Random(), "run", rows=same_rows, **ONCE).train_dataset) == 3
