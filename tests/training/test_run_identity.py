"""A run resumes only a checkpoint of its own: the same arguments, base model, adapter, and models of the selector."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig

from hf_datasel.errors import ResumeError
from hf_datasel.scores import Loss
from hf_datasel.selectors import LESS, DiverseEvol, IterIT, Longest, Random, Top
from hf_datasel.training.run_identity import _models_of

SAVED = {"save_strategy": "steps", "save_steps": 1, "selection_size": 8}


@pytest.fixture
def resume(train, tmp_path):
    """Return a function that trains one run, and resumes from a checkpoint of it with other settings."""

    def run(more: dict[str, Any], step: int = 1, selector: Any = None, resumed_with: Any = None, **saved: Any) -> Any:
        selector = selector or Random()
        if not (tmp_path / "run").exists():
            train(selector, name="run", **SAVED | {"num_train_epochs": 1} | saved)
        checkpoint = str(tmp_path / "run" / f"checkpoint-{step}")
        settings = SAVED | {"num_train_epochs": 1, "save_strategy": "no"} | saved | more
        return train(resumed_with or selector, name="resumed", resume=checkpoint, **settings)

    return run


def test_other_arguments(resume):
    changes = {
        "learning_rate": (0.01, 0.02),
        "lr_scheduler_type": ("linear", "cosine"),
        "lr_scheduler_kwargs": (None, {"num_cycles": 2}),
        "warmup_steps": (0, 1),
        "optim": ("adamw_torch_fused", "sgd"),
        "weight_decay": (0.0, 0.1),
        "max_grad_norm": (1.0, 0.5),
        "neftune_noise_alpha": (None, 5.0),
        "loss_type": ("(?:chunked_)?nll", "dft"),  # the default of TRL 1.9 is chunked
        "max_length": (128, 256),
        "train_sampling_strategy": ("random", "group_by_length"),
    }
    for name, (before, now) in changes.items():
        said = rf"arguments differ \({name}: {before} in the checkpoint, {now} in this run\)".replace("{", r"\{")
        with pytest.raises(ResumeError, match=said):
            resume({name: now})
    with pytest.raises(ResumeError, match=r"\(learning_rate: 0.01 .*; optim: .*\)\. Resume it with the settings of"):
        resume({"learning_rate": 0.02, "optim": "sgd"})


def test_arguments_that_do_not_decide_the_weights(resume, caplog):
    caplog.clear()
    resume({"logging_steps": 5, "save_steps": 7, "dataloader_num_workers": 0, "report_to": "none", "run_name": "b"})
    assert "in the checkpoint" not in "".join(record.message for record in caplog.records if "datasel" in record.name)


def test_same_rows_in_other_batches(resume, caplog):
    resume({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2})
    for name in (
        "per_device_train_batch_size is 4 in the checkpoint and 2",
        "gradient_accumulation_steps is 1 in the",
    ):
        assert name in caplog.text
    assert "do not equal those of an uninterrupted one exactly" in caplog.text


def test_objects_in_python(train, tmp_path):
    settings = {"name": "run", "num_train_epochs": 1, **SAVED}
    train(Random(), **settings)
    trainer = train.make(Random(), **settings)
    trainer._run_config.objects = {}  # as without any
    assert trainer._run_identity(trainer.model)["in_python"] == {}
    from hf_datasel.training.run_config import _describe_object

    optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    described = _describe_object((optimizer, None))
    assert described[0]["SGD"]["lr"] == 0.1
    trainer._run_config.objects = {"optimizers": described}
    with pytest.raises(ResumeError, match=r"in_python differ .*optimizers: None in the checkpoint, .*'SGD'"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))


def test_another_adapter(resume):
    def lora(**more: Any) -> LoraConfig:
        return LoraConfig(**{"r": 2, "target_modules": ["q_proj", "v_proj"], "lora_alpha": 4} | more)

    assert resume({"peft_config": lora()}, peft_config=lora()).state.global_step == 2
    for more, said in (({"r": 4}, "default.r: 2"), ({"lora_alpha": 8}, "default.lora_alpha: 4")):
        with pytest.raises(ResumeError, match=rf"model differ \({said} in the checkpoint, "):
            resume({"peft_config": lora(**more)})
    with pytest.raises(ResumeError, match=r"model differ \(.*adapters: \['default'\] in the checkpoint, \[\] in this"):
        resume({"peft_config": None})


@pytest.fixture
def copy_of_model(tiny_model_dir, tmp_path) -> Path:
    return shutil.copytree(tiny_model_dir, tmp_path / "scorer")


def change(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = {name: weight * 1.5 for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def test_another_base_model(train, tmp_path, copy_of_model):
    from transformers import AutoModelForCausalLM

    def trainer() -> Any:
        made = train.make(Random(), "run", num_train_epochs=1, **SAVED)
        made.model.config.name_or_path = str(copy_of_model)
        return made

    trainer().train()
    checkpoint = str(tmp_path / "run" / "checkpoint-1")
    trainer().train(resume_from_checkpoint=checkpoint)
    change(copy_of_model)
    assert AutoModelForCausalLM.from_pretrained(copy_of_model)
    with pytest.raises(ResumeError, match=r"model differ .weights: files:.* in the checkpoint, files:.* in this run"):
        trainer().train(resume_from_checkpoint=checkpoint)


def test_changed_model_of_later_rounds(resume, copy_of_model, tmp_path):
    selector = IterIT(model=str(copy_of_model))
    assert resume({}, selector=selector, num_train_epochs=2).state.global_step == 4
    elsewhere = shutil.copytree(copy_of_model, tmp_path / "elsewhere" / "scorer")
    moved = resume({}, selector=selector, resumed_with=IterIT(model=str(elsewhere)), num_train_epochs=2)
    assert moved.state.global_step == 4
    assert "elsewhere" not in (tmp_path / "run" / "checkpoint-1" / "selection_state.json").read_text()
    change(copy_of_model)
    with pytest.raises(ResumeError, match=r"a model or file that ifd reads has changed since .* later rounds would"):
        resume({}, selector=selector, num_train_epochs=2)


def test_changed_model_of_a_round_that_has_begun(resume, copy_of_model, caplog):
    selector = Top(by=Loss(str(copy_of_model)))
    before = resume({}, selector=selector)
    change(copy_of_model)
    after = resume({}, selector=selector)
    assert "a model or file that loss reads has changed since the checkpoint was saved. The rows of" in caplog.text
    assert np.array_equal(after.selections[0].indices, before.selections[0].indices)


def test_changed_rows_of_the_target_task(tmp_path):
    target = tmp_path / "target.jsonl"
    target.write_text('{"prompt": "Two and two?", "completion": "Four."}\n')
    selector = LESS(validation=str(target))
    before = _models_of(selector.scores())
    assert before == _models_of(selector.scores())
    target.write_text('{"prompt": "Two and two?", "completion": "Five."}\n')
    assert [name for name, _ in before] == ["influence"]
    assert _models_of(selector.scores()) != before


def test_longer_run(resume, caplog):
    assert resume({"num_train_epochs": 2}, step=2, selector=IterIT()).state.global_step == 4
    assert "num_train_epochs: 1 in the checkpoint, 2 in this run. The learning rate of the remaining" in caplog.text


def test_longer_run_with_other_rounds(resume):
    selector = DiverseEvol(rounds=2)
    with pytest.raises(ResumeError, match=r"of another length \(num_train_epochs: 1 in the checkpoint, 2 in this run"):
        resume({"num_train_epochs": 2}, step=3, selector=selector)


def test_shorter_run(resume):
    with pytest.raises(ResumeError, match=r"has 6 updates, more than the 2 of this run \(num_train_epochs: 3 in the"):
        resume({"num_train_epochs": 1}, step=6, num_train_epochs=3)
    with pytest.raises(ResumeError, match=r"has 6 updates, more than the 4 of this run \(max_steps: -1 in the"):
        resume({"max_steps": 4}, step=6, num_train_epochs=3)


def test_selections_of_another_folder(resume, tmp_path, caplog):
    resumed = resume({}, step=5, selector=IterIT(), num_train_epochs=3)
    rows = [selection.indices.tolist() for selection in resumed.selections]
    assert len(rows) == 3
    assert (tmp_path / "resumed" / "selections" / "round-0" / "scores.parquet").is_file()
    assert "no scores" not in caplog.text
    for folder in ("run/selections", "resumed"):
        shutil.rmtree(tmp_path / folder)
    alone = resume({}, step=5, selector=IterIT(), num_train_epochs=3)
    assert [selection.indices.tolist() for selection in alone.selections] == rows
    assert [selection.provenance["round"] for selection in alone.selections] == [0, 1, 2]
    assert "the selection of round 2 has the row numbers of the checkpoint, but no scores" in caplog.text
    alone.create_model_card("tester/model")
    assert len(alone.selections[0].apply(alone._pool.dataset)) == 8


def test_checkpoint_without_arguments(resume, tmp_path, caplog):
    resume({}, selector=Longest())
    checkpoint = tmp_path / "run" / "checkpoint-1"
    (checkpoint / "checkpoint_digests.json").unlink()
    path = checkpoint / "selection_state.json"
    content = json.loads(path.read_text())
    for name in ("arguments", "model", "in_python", "selector_models"):
        del content["identity"][name]
    for name in ("plan", "selections"):
        del content[name]
    path.write_text(json.dumps(content | {"version": 4}))
    assert resume({}, selector=Longest()).state.global_step == 2
    assert "was written by a release that recorded no training arguments and no digests of models" in caplog.text
