"""What the trainer refuses, and in which words."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Value
from trl import SFTTrainer

from hf_datasel import SelectiveSFTTrainer
from hf_datasel.errors import ConfigError, FormatError, ResumeError, SelectionError
from hf_datasel.selectors import KMQ, IterIT, Longest, Random, Round, Selector
from hf_datasel.training.inputs import PRIVATE_NAMES, check_private_names

SAVED = {"save_strategy": "steps", "save_steps": 1, "selection_size": 8}


@dataclass(frozen=True)
class Until(Selector):
    """The first rows, and from this round on none."""

    end: int
    reselects = True

    def choose(self, round: Round) -> np.ndarray:
        return np.arange(round.budget if round.index < self.end else 0)


def test_a_first_round_without_a_row_is_refused(train):
    with pytest.raises(SelectionError, match="None of the 24 rows can be selected"):
        train(Until(0), selection_size=8)


@pytest.mark.parametrize("more", [{}, {"max_steps": 6}, {"num_train_epochs": 2.5}], ids=["epochs", "steps", "part"])
def test_a_later_round_without_a_row_ends_the_training_and_says_so(train, caplog, tmp_path, more):
    trainer = train(Until(1), name="run", **SAVED, **more)
    assert trainer.state.global_step == 2
    assert len(trainer.selections) == 1
    assert "Round 1: no row is left to train on, so that training ends here." in caplog.text
    again = train(Until(1), name="run", resume=str(tmp_path / "run" / "checkpoint-2"), **SAVED, **more)
    assert again.state.global_step == 2


@pytest.mark.parametrize("column", ["image", "images"])
def test_rows_with_images_are_refused(train, pool_rows, column):
    rows = pool_rows.add_column(column, [""] * len(pool_rows))
    with pytest.raises(
        FormatError, match=r"Rows with images cannot be scored or selected yet\. Remove the image column"
    ):
        train.make(Random(), "bad", rows=rows)


def test_rows_in_no_known_format_are_refused(train):
    with pytest.raises(FormatError, match=r"\['question', 'reply'\]"):
        train.make(Random(), "bad", rows=Dataset.from_dict({"question": ["Is it slow?"], "reply": ["No."]}))


@pytest.mark.parametrize("selector", [IterIT(), Longest()], ids=["iterit", "longest"])
def test_a_score_of_the_response_is_refused_for_plain_text_before_the_first_step(train, pool_rows, selector):
    trainer = train.make(selector, "bad", rows=Dataset.from_dict({"text": pool_rows["output"]}), selection_size=8)
    with pytest.raises(FormatError, match="Rows with only a text column have no response"):
        trainer.train()
    assert trainer.state.global_step == 0


def _changed(rows: Any) -> Any:
    return rows.map(lambda row, at: {"output": row["output"] + "!" * (at == 3)}, with_indices=True)


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (_changed, "pool, tokens"),
        (lambda rows: rows.select(range(23, -1, -1)), "pool, tokens"),
        (lambda rows: rows.select([*range(24), 0]), "pool, tokens"),
    ],
    ids=["text", "order", "length"],
)
def test_another_pool_than_that_of_the_checkpoint_is_refused(train, tmp_path, pool_rows, change, differs):
    train(Random(), name="run", num_train_epochs=1, **SAVED)
    checkpoint = str(tmp_path / "run" / "checkpoint-1")
    with pytest.raises(ResumeError, match=f"belongs to another run: {differs} differ"):
        train(Random(), name="run", rows=change(pool_rows), resume=checkpoint, num_train_epochs=1, **SAVED)


@pytest.mark.parametrize(
    ("selector", "more", "differs"),
    [
        (Longest(), {}, "selector"),
        (IterIT(decay=0.2), {}, "selector"),
        (IterIT(), {"scoring_dtype": "bfloat16"}, "scoring"),
        (IterIT(), {"reselection_strategy": "no"}, "reselection"),
        (IterIT(), {"max_length": 40}, "tokens"),
    ],
    ids=["selector", "setting", "dtype", "reselection", "tokens"],
)
def test_other_settings_than_those_of_the_checkpoint_are_refused(train, tmp_path, selector, more, differs):
    train(IterIT(), name="run", num_train_epochs=1, **SAVED)
    checkpoint = str(tmp_path / "run" / "checkpoint-1")
    with pytest.raises(ResumeError, match=f"belongs to another run: {differs} differ"):
        train(selector, name="run", resume=checkpoint, num_train_epochs=1, **SAVED, **more)


def test_other_values_in_a_column_that_rows_were_chosen_by_are_refused(train, tmp_path, pool_rows):
    def rows(quality: Any) -> Any:
        return pool_rows.add_column("cluster_id", [at % 3 for at in range(24)]).add_column("quality", quality)

    values = [None if at == 2 else at / 32 for at in range(24)]
    saved = {"name": "run", "num_train_epochs": 1, **SAVED}
    train(KMQ(quality="quality"), rows=rows(values), **saved)
    checkpoint = str(tmp_path / "run" / "checkpoint-1")
    with pytest.raises(ResumeError, match="rows were chosen there by column 'quality', which holds other values here"):
        train(KMQ(quality="quality"), rows=rows(values[::-1]), resume=checkpoint, **saved)
    with pytest.raises(ResumeError, match="rows were chosen there by column 'quality', which is gone"):
        train(KMQ(quality="quality"), rows=rows(values).remove_columns("quality"), resume=checkpoint, **saved)
    of_another_type = rows(values).cast_column("quality", Value("float32"))
    train(KMQ(quality="quality"), rows=of_another_type, resume=checkpoint, **saved)


MOVED = [(name, parameter) for name, parameters in PRIVATE_NAMES.items() for parameter in parameters]


@pytest.mark.parametrize(("name", "parameter"), MOVED)
def test_a_private_method_without_a_parameter_that_is_relied_on_is_refused(monkeypatch, name, parameter):
    check_private_names(SelectiveSFTTrainer)

    def other(*args: Any, **kwargs: Any) -> None: ...

    signature = inspect.signature(getattr(SFTTrainer, name))
    kept = [each for each in signature.parameters.values() if each.name != parameter]
    monkeypatch.setattr(other, "__signature__", signature.replace(parameters=kept), raising=False)
    monkeypatch.setattr(SFTTrainer, name, other)
    with pytest.raises(ConfigError, match=rf"SelectiveSFTTrainer does not fit trl .*: {name} has no {parameter}\."):
        check_private_names(SelectiveSFTTrainer)


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_a_private_method_that_is_gone_is_refused(monkeypatch, name):
    for base in SFTTrainer.__mro__:
        if name in vars(base):
            monkeypatch.delattr(base, name)
    with pytest.raises(ConfigError, match=f": {name} has no {', '.join(PRIVATE_NAMES[name])}"):
        check_private_names(SelectiveSFTTrainer)


def test_the_trainer_checks_private_methods_before_anything_else(train, monkeypatch):
    monkeypatch.setattr(SFTTrainer, "save_model", lambda self, output_dir: None)
    with pytest.raises(ConfigError, match="save_model has no _internal_call"):
        SelectiveSFTTrainer()
