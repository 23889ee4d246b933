"""Error messages of the trainer."""

from __future__ import annotations

import functools
import inspect
import re
import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Value
from transformers import AutoTokenizer, LlavaProcessor, SiglipImageProcessor
from transformers.utils import chat_template_utils
from trl import SFTConfig, SFTTrainer

from hf_datasel import SelectiveSFTConfig, SelectiveSFTTrainer
from hf_datasel.errors import ConfigError, FormatError, ResumeError, SelectionError
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import Selector
from hf_datasel.selectors import KMQ, Chain, InRange, IterIT, Longest, Random
from hf_datasel.training.checkpoint_state import CarriedState, SelectionState
from hf_datasel.training.private_names import PRIVATE_FUNCTIONS, PRIVATE_NAMES, check_private_names

SAVED = {"save_strategy": "steps", "save_steps": 1, "selection_size": 8}


@dataclass(frozen=True)
class Until(Selector):
    """The first rows, and none from round `end` on."""

    end: int
    reselects = True

    def select(self, context: RoundContext) -> np.ndarray:
        return np.arange(context.budget if context.index < self.end else 0)


def test_empty_first_round(train):
    with pytest.raises(SelectionError, match="None of the 24 rows can be selected"):
        train(Until(0), selection_size=8)


@pytest.mark.parametrize("more", [{}, {"max_steps": 6}, {"num_train_epochs": 2.5}], ids=["epochs", "steps", "part"])
def test_empty_later_round_ends_training(train, caplog, tmp_path, more):
    trainer = train(Until(1), name="run", **SAVED, **more)
    assert trainer.state.global_step == 2
    assert len(trainer.selections) == 1
    assert "Round 1: there are no rows left to train on, so training ends here." in caplog.text
    again = train(Until(1), name="run", resume=str(tmp_path / "run" / "checkpoint-2"), **SAVED, **more)
    assert again.state.global_step == 2


@pytest.mark.parametrize("column", ["image", "images"])
def test_rows_with_images_are_refused(train, pool_rows, column):
    rows = pool_rows.add_column(column, [""] * len(pool_rows))
    with pytest.raises(
        FormatError, match=r"Rows with images cannot be scored or selected yet\. Remove the image column"
    ):
        train.make(Random(), "bad", rows=rows)


def test_unknown_format(train):
    with pytest.raises(FormatError, match=r"\['question', 'reply'\]"):
        train.make(Random(), "bad", rows=Dataset.from_dict({"question": ["Is it slow?"], "reply": ["No."]}))


def test_rows_with_transform(train, pool_rows):
    shown = pool_rows.with_transform(lambda batch: {name: [each.upper() for each in batch[name]] for name in batch})
    with pytest.raises(FormatError, match="transforms its rows with a function passed to with_transform"):
        train.make(Random(), "bad", rows=shown)
    with pytest.raises(FormatError, match="transforms its rows with a function passed to with_transform"):
        train.make(Random(), "bad", eval_dataset=shown)


def test_dataset_text_field_of_other_formats(train, pool_rows):
    trainer = train(Random(), rows=pool_rows, dataset_text_field="content", selection_size=8, num_train_epochs=1)
    assert trainer.state.global_step == 2
    with pytest.raises(FormatError, match=r"The columns \['question'\] match none of the supported formats"):
        train.make(Random(), "bad", rows=Dataset.from_dict({"question": ["Why?"]}), dataset_text_field="content")


@dataclass
class WithField(SFTConfig):
    """A config with an additional field."""

    temperature: float = 1.0


class WithMethod(SFTConfig):
    """A config with an additional method."""

    def summary(self) -> str:
        return "short"


@dataclass
class WithDefault(SFTConfig):
    """A config with another default."""

    learning_rate: float = 3e-4


def test_config_subclass_with_default(tmp_path, tiny_model_dir, pool_rows):
    args = WithDefault(str(tmp_path), bf16=False, report_to="none", use_cpu=True)
    assert SelectiveSFTTrainer(str(tiny_model_dir), args, train_dataset=pool_rows).args.learning_rate == 3e-4


@pytest.mark.parametrize(("kind", "named"), [(WithField, r" \(temperature\)"), (WithMethod, r" \(summary\)")])
def test_config_subclass_with_additions(tmp_path, tiny_model_dir, pool_rows, kind, named):
    args = kind(str(tmp_path), bf16=False, report_to="none", use_cpu=True)
    message = rf"args is a {kind.__name__}, but what that class adds{named} would be lost\. Derive it from Selective"
    with pytest.raises(ConfigError, match=message):
        SelectiveSFTTrainer(str(tiny_model_dir), args, train_dataset=pool_rows)


def _processor(folder: Any) -> Any:
    return LlavaProcessor(
        image_processor=SiglipImageProcessor(),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        patch_size=14,
        image_token="<pad>",
    )


def test_multimodal_processor(tmp_path, tiny_model_dir, pool_rows, monkeypatch):
    @functools.wraps(SFTTrainer._prepare_dataset)
    def tokenised(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("The rows are tokenised.")

    monkeypatch.setattr(SFTTrainer, "_prepare_dataset", tokenised)
    args = SelectiveSFTConfig(str(tmp_path / "run"), bf16=False, report_to="none", use_cpu=True)
    message = r"is a LlavaProcessor, .* Pass its tokenizer: processing_class=processor\.tokenizer"
    with pytest.raises(ConfigError, match=message):
        SelectiveSFTTrainer("none", args, train_dataset=pool_rows, processing_class=_processor(tiny_model_dir))
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    _processor(folder).save_pretrained(folder)
    with pytest.raises(ConfigError, match=message):
        SelectiveSFTTrainer(str(folder), args, train_dataset=pool_rows)


@pytest.mark.parametrize("selector", [IterIT(), Longest()], ids=["iterit", "longest"])
def test_plain_text_with_response_scores(train, pool_rows, selector):
    name = type(selector).__name__
    with pytest.raises(FormatError, match=rf"{name} .*Rows with only a text column have no response"):
        train.make(selector, "bad", rows=Dataset.from_dict({"text": pool_rows["output"]}), selection_size=8)


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
def test_resume_with_another_pool(train, tmp_path, pool_rows, change, differs):
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
        (IterIT(), {"max_length": 40}, "tokens, arguments"),
        (IterIT(), {"packing": True}, "packing"),
    ],
    ids=["selector", "setting", "dtype", "reselection", "tokens", "packing"],
)
def test_resume_with_other_settings(train, tmp_path, selector, more, differs):
    train(IterIT(), name="run", num_train_epochs=1, **SAVED)
    checkpoint = str(tmp_path / "run" / "checkpoint-1")
    with pytest.raises(ResumeError, match=f"belongs to another run: {differs} differ"):
        train(selector, name="run", resume=checkpoint, num_train_epochs=1, **SAVED, **more)


@pytest.mark.parametrize(
    ("name", "was", "now", "said"),
    [
        ("selector", IterIT().spec(), Random().spec(), "iterit in the checkpoint, random in this run"),
        ("selector", IterIT().spec(), IterIT(decay=0.2).spec(), "decay: 0.1 in the checkpoint, 0.2 in this run"),
        (
            "selector",
            Chain([InRange("value", low=2)], IterIT(candidate_factor=2, decay=0)).spec(),
            Chain([InRange("value", low=2)], IterIT()).spec(),
            "then.candidate_factor: 2 in the checkpoint, 3 in this run; "
            "then.decay: 0 in the checkpoint, 0.1 in this run",
        ),
        (
            "pool",
            {"id": "a", "rows": 4000},
            {"id": "b", "rows": 60},
            "another dataset: 4,000 rows in the checkpoint, 60 in this run",
        ),
        ("pool", {"id": "a", "rows": 60}, {"id": "b", "rows": 60}, "other rows"),
        ("tokens", "a", "b", "the same rows have other tokens or labels in this run"),
        ("rows_per_update", 8, 16, "8 in the checkpoint, 16 in this run"),
    ],
)
def test_resume_message(tmp_path, pool_rows, name, was, now, said):
    SelectionState({"seed": 1, name: was}, [], CarriedState()).save(tmp_path)
    message = re.escape(f"belongs to another run: {name} differ ({said}).")
    with pytest.raises(ResumeError, match=message):
        SelectionState.load(tmp_path, {"seed": 1, name: now}, pool_rows)


def test_resume_with_other_column_values(train, tmp_path, pool_rows):
    def rows(quality: Any) -> Any:
        return pool_rows.add_column("cluster_id", [at % 3 for at in range(24)]).add_column("quality", quality)

    values = [None if at == 2 else at / 32 for at in range(24)]
    saved = {"name": "run", "num_train_epochs": 1, **SAVED}
    train(KMQ(quality="quality"), rows=rows(values), **saved)
    checkpoint = str(tmp_path / "run" / "checkpoint-1")
    with pytest.raises(ResumeError, match="selected or ordered by column 'quality', which has other values now"):
        train(KMQ(quality="quality"), rows=rows(values[::-1]), resume=checkpoint, **saved)
    with pytest.raises(ResumeError, match="selected or ordered by column 'quality', which no longer exists"):
        train(KMQ(quality="quality"), rows=rows(values).remove_columns("quality"), resume=checkpoint, **saved)
    of_another_type = rows(values).cast_column("quality", Value("float32"))
    train(KMQ(quality="quality"), rows=of_another_type, resume=checkpoint, **saved)


MOVED = [(name, parameter) for name, parameters in PRIVATE_NAMES.items() for parameter in parameters]


@pytest.mark.parametrize(("name", "parameter"), MOVED)
def test_missing_private_parameter(monkeypatch, name, parameter):
    check_private_names(SelectiveSFTTrainer)

    def other(*args: Any, **kwargs: Any) -> None: ...

    signature = inspect.signature(getattr(SFTTrainer, name))
    kept = [each for each in signature.parameters.values() if each.name != parameter]
    monkeypatch.setattr(other, "__signature__", signature.replace(parameters=kept), raising=False)
    monkeypatch.setattr(SFTTrainer, name, other)
    with pytest.raises(ConfigError, match=rf"SelectiveSFTTrainer does not fit trl .*: {name} has no {parameter}\."):
        check_private_names(SelectiveSFTTrainer)


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_missing_private_method(monkeypatch, name):
    for base in SFTTrainer.__mro__:
        if name in vars(base):
            monkeypatch.delattr(base, name)
    with pytest.raises(ConfigError, match=f": {name} has no {', '.join(PRIVATE_NAMES[name])}"):
        check_private_names(SelectiveSFTTrainer)


def test_private_names_are_checked_first(train, monkeypatch):
    monkeypatch.setattr(SFTTrainer, "save_model", lambda self, output_dir: None)
    with pytest.raises(ConfigError, match="save_model has no _internal_call"):
        SelectiveSFTTrainer()


@pytest.mark.parametrize("name", PRIVATE_FUNCTIONS)
def test_missing_function_of_transformers(monkeypatch, name):
    monkeypatch.delattr(chat_template_utils, name)
    with pytest.raises(ConfigError, match=f": {name} has no {', '.join(PRIVATE_FUNCTIONS[name])}"):
        check_private_names(SelectiveSFTTrainer)
