"""Rounds that begin again from the base model."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from peft import LoraConfig
from transformers import TrainerCallback

from hf_datasel.errors import ConfigError, ResumeError, SelectionError
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.rounds.selector import Selector
from hf_datasel.scores import Loss
from hf_datasel.selectors import Random

LORA = {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.1)}


@dataclass(frozen=True)
class Given(Selector):
    """The same rows in the last round, whatever was trained on before, and the highest losses in those before."""

    rows: tuple[int, ...] = (1, 3, 5, 7, 9, 11, 13, 15)
    warmup: int = 6
    warmup_epochs: float = 1.0
    restart: bool = True
    checkpoints: bool = False

    def plan(self, total_budget: int, num_epochs: float, pool_size: int) -> tuple[RoundPlan, ...]:
        first = RoundPlan(self.warmup, self.warmup_epochs, checkpoints=self.checkpoints)
        return (first, RoundPlan(len(self.rows), num_epochs, restart=self.restart))

    def select(self, context: RoundContext) -> np.ndarray:
        loss = context.score(Loss())["loss"]
        if context.index == 0:
            return np.argsort(-loss, kind="stable")[: context.budget]
        context.state["loss"] = loss
        if self.checkpoints:
            context.state["steps"] = np.array([int(path.name.split("-")[1]) for path in context.checkpoints])
        return np.array(self.rows)


def logs_of(trainer: Any, key: str) -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def weights(trainer: Any) -> dict[str, Any]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


@pytest.mark.parametrize("more", [{}, LORA, {"optim": "sgd", "weight_decay": 0.1}], ids=["full", "lora", "sgd"])
def test_restarted_round_equals_fresh_training(train, more):
    """Without dropout, and with the rows in order: then nothing of the first round is left but the random state."""
    import torch

    plain = {**more, "train_sampling_strategy": "sequential"}
    if "peft_config" in more:
        plain["peft_config"] = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    plain |= {"warmup_steps": 1, "max_grad_norm": 0.5}

    def trained(selector: Selector, name: str, **more: Any) -> Any:
        trainer = train.make(selector, name, **plain, **more)
        for module in trainer.model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0
        trainer.train()
        return trainer

    @dataclass(frozen=True)
    class Alone(Selector):
        rows: tuple[int, ...] = Given().rows

        def select(self, context: RoundContext) -> np.ndarray:
            return np.array(self.rows)

    ours, alone = trained(Given(), "ours"), trained(Alone(), "alone", selection_size=8)
    assert ours.state.global_step == alone.state.global_step + 2
    assert logs_of(ours, "learning_rate")[2:] == logs_of(alone, "learning_rate")
    assert logs_of(ours, "loss")[2:] == logs_of(alone, "loss")
    ours, alone = weights(ours), weights(alone)
    assert all(torch.equal(ours[name], alone[name]) for name in alone)


def test_selection_before_restart(train):
    constant = {"lr_scheduler_type": "constant"}
    again, on = train(Given(), "again", **constant), train(Given(restart=False), "on", **constant)
    first, second = again.selections[0].scores("loss"), again._carried.arrays["loss"]
    assert np.abs(first - second).min() > 1e-4
    np.testing.assert_array_equal(second, on._carried.arrays["loss"])
    assert not np.array_equal(*(each.model.lm_head.weight.detach().numpy() for each in (again, on)))


def test_learning_rate_restarts(train):
    trainer = train(Given(), warmup_steps=1, learning_rate=1e-2)
    rates = logs_of(trainer, "learning_rate")
    assert rates == pytest.approx([0, 1e-2, 0, 1e-2, 0.8e-2, 0.6e-2, 0.4e-2, 0.2e-2])
    assert set(trainer.lr_scheduler.get_last_lr()) == {0.0}
    assert trainer.state.global_step == trainer.state.max_steps == 8


@pytest.mark.parametrize("more", [{}, LORA, {"lr_scheduler_type": "cosine"}], ids=["full", "lora", "cosine"])
def test_resume_with_restart(train, assert_equal_weights, tmp_path, more):
    saved = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 2, **more}
    whole = train(Given(), "whole", **saved)
    assert whole.state.global_step == 6
    for step in range(1, 6):
        resumed = train(Given(), f"from-{step}", resume=str(tmp_path / "whole" / f"checkpoint-{step}"), **saved)
        assert_equal_weights(resumed, whole)
        assert logs_of(resumed, "learning_rate") == logs_of(whole, "learning_rate")
        shutil.rmtree(tmp_path / f"from-{step}")


def test_resume_without_base_weights(train, tmp_path):
    saved = {"save_strategy": "steps", "save_steps": 1}
    train(Given(), "run", **saved)
    shutil.rmtree(tmp_path / "run" / "_base_weights")
    with pytest.raises(
        ResumeError, match=r"_base_weights' no longer exists, but later rounds begin from the weights in it"
    ):
        train(Given(), "run", resume=str(tmp_path / "run" / "checkpoint-1"), **saved)


def test_resume_with_other_base_weights(train, tmp_path):
    saved = {"save_strategy": "steps", "save_steps": 1}
    train(Given(), "run", **saved)
    again = train(Given(), "run", resume=str(tmp_path / "run" / "checkpoint-1"), **saved)
    other = train.make(Given(), "run")
    other.model.lm_head.weight.data.mul_(0.5)
    other.train()
    for output in ("run", "elsewhere"):
        with pytest.raises(ResumeError, match=r"_base_weights' holds the base weights of another run"):
            train(Given(), output, resume=str(tmp_path / "run" / "checkpoint-1"), **saved)
    train(Given(), "run")  # the same weights as at first
    resumed = train(Given(), "run", resume=str(tmp_path / "run" / "checkpoint-1"), **saved)
    assert logs_of(resumed, "loss") == logs_of(again, "loss")


@pytest.mark.parametrize(("epochs", "rows"), [(1, 6 + 8), (3, 6 + 3 * 8)])
def test_samples_per_second(train, epochs, rows):
    [end] = [each for each in train(Given(), num_train_epochs=epochs).state.log_history if "train_runtime" in each]
    assert end["train_samples_per_second"] * end["train_runtime"] == pytest.approx(rows, rel=0.02)


def test_no_base_weights_without_restarts(train, tmp_path):
    train(Given(restart=False), "run")
    assert not (tmp_path / "run" / "_base_weights").exists()


@pytest.mark.parametrize("strategy", ["no", "steps"])
def test_requested_checkpoints(train, tmp_path, strategy):
    saved = {"save_strategy": strategy, "save_steps": 3}
    trainer = train(Given(checkpoints=True, warmup_epochs=2.0), "run", **saved)
    assert trainer._carried.arrays["steps"].tolist() == [2, 4]
    assert (tmp_path / "run" / "checkpoint-2" / "optimizer.pt").is_file()
    resumed = train(
        Given(checkpoints=True, warmup_epochs=2.0), "run", resume=str(tmp_path / "run" / "checkpoint-2"), **saved
    )
    assert resumed._carried.arrays["steps"].tolist() == [2, 4]


def test_requested_checkpoints_of_another_folder(train, assert_equal_weights, tmp_path):
    selector = Given(checkpoints=True, warmup_epochs=3.0)
    whole = train(selector, "first")
    shutil.rmtree(tmp_path / "first" / "checkpoint-6")
    resumed = train(selector, "second", resume=str(tmp_path / "first" / "checkpoint-2"))
    assert_equal_weights(resumed, whole)
    (tmp_path / "there").mkdir()
    for name in ("first", "second"):
        shutil.move(tmp_path / name, tmp_path / "there" / name)
    last = str(tmp_path / "there" / "second" / "checkpoint-4")
    resumed = train(selector, "third", resume=last)
    assert resumed._carried.arrays["steps"].tolist() == [2, 4, 6]
    assert_equal_weights(resumed, whole)
    resumed.save_model()
    assert "first" not in (tmp_path / "third" / "selection_state.json").read_text()  # nothing reads them any more
    shutil.rmtree(tmp_path / "there" / "first" / "checkpoint-2")
    with pytest.raises(ResumeError, match=r"first.checkpoint-2' no longer exists, but a later round reads it"):
        train(selector, "fourth", resume=last)


def test_callback_stops_in_warm_up(train, caplog, tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 1

    @dataclass(frozen=True)
    class Warmed(Given):
        def plan(self, total_budget: int, num_epochs: float, pool_size: int) -> tuple[RoundPlan, ...]:
            return (RoundPlan(8, kind="warm-up"), RoundPlan(8, num_epochs, restart=True))

    saved = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 1}
    stopped = train(Warmed(), callbacks=[Stop()], **saved)
    assert (stopped.state.global_step, len(stopped.selections)) == (1, 1)
    assert "A callback stopped training in round 0, which is a warm-up: no rows were selected" in caplog.text
    caplog.clear()
    resumed = train(Warmed(), resume=str(tmp_path / "run" / "checkpoint-1"), **saved)
    assert (resumed.state.global_step, len(resumed.selections)) == (4, 2)
    assert "stopped" not in caplog.text


def test_best_model_after_restart(train, pool_rows):
    trainer = train(
        Given(),
        eval_dataset=pool_rows.select(range(4)),
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
    )
    after = [entry for entry in trainer.state.log_history if entry["step"] > 2 and "eval_loss" in entry]
    assert trainer.state.best_metric == min(entry["eval_loss"] for entry in after)
    assert trainer.state.best_global_step > 2


@pytest.mark.parametrize(
    ("selector", "settings", "message"),
    [
        (Given(), {"max_steps": 5}, "Given has 2 rounds of its own, which are counted in epochs"),
        (Given(), {"reselection_strategy": "no"}, "Given has 2 rounds of its own. Remove it"),
        (Random(), {"reselection_strategy": "steps", "reselection_steps": 2}, "Random selects once. Remove it"),
        (Given(checkpoints=True), {"save_total_limit": 1}, "save_total_limit=1 would delete some of them"),
        (
            Given(checkpoints=True),
            {"save_strategy": "steps", "save_total_limit": 9},
            "with save_strategy='steps' and save_total_limit=9 some of them would be deleted",
        ),
        (
            Given(),
            {"dataloader_drop_last": True, "per_device_train_batch_size": 7},
            "Round 0 has 6 rows, fewer than the 7 of one batch on all processes",
        ),
        (Given(), {"selection_schedule": [4]}, "selection_schedule has 1 rounds, but Given has 2"),
    ],
)
def test_invalid_settings_for_fixed_rounds(train, selector, settings, message):
    with pytest.raises(ConfigError, match=message):
        train.make(selector, "bad", **settings)


def test_warm_up_above_the_pool(train):
    with pytest.raises(SelectionError, match="A round of 30 rows is more than the 24 of 24 rows"):
        train.make(Given(warmup=30), "bad", selection_size=8)


def test_selection_schedule(train):
    trainer = train(Given(), selection_schedule=[4, 8], num_train_epochs=1)
    assert [len(each.indices) for each in trainer.selections] == [4, 8]
    assert trainer.state.global_step == 1 + math.ceil(8 / 4)


def test_save_strategy_best(train, pool_rows):
    best = {"save_strategy": "best", "eval_strategy": "epoch", "eval_dataset": pool_rows.select(range(4))}
    with pytest.raises(ConfigError, match="save_strategy='best' skips some of them"):
        train.make(Given(checkpoints=True), "bad", metric_for_best_model="eval_loss", **best)


def test_no_rows_after_warm_up(train):
    @dataclass(frozen=True)
    class Warmed(Given):
        def plan(self, total_budget: int, num_epochs: float, pool_size: int) -> tuple[RoundPlan, ...]:
            return (RoundPlan(4, kind="warm-up"), RoundPlan(total_budget, num_epochs, restart=True))

        def select(self, context: RoundContext) -> np.ndarray:
            return np.arange(4 if context.index == 0 else 0)

    with pytest.raises(SelectionError, match="None of the 24 rows can be selected"):
        train(Warmed(), selection_size=8)


def test_base_weights_after_last_restart(train, assert_equal_weights, tmp_path):
    saved = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 2}
    whole = train(Given(), "run", **saved)
    shutil.rmtree(tmp_path / "run" / "_base_weights")
    assert_equal_weights(train(Given(), "run", resume=str(tmp_path / "run" / "checkpoint-4"), **saved), whole)


def test_another_seed_is_another_run(train, tmp_path):
    train(Given(), "run", save_strategy="steps", save_steps=1)
    with pytest.raises(ResumeError, match="seed differ"):
        train(Given(), "run", resume=str(tmp_path / "run" / "checkpoint-1"), save_strategy="no", seed=7)


def test_damaged_base_weights(train, tmp_path):
    saved = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 1}
    train(Given(), "run", **saved)
    (path,) = (tmp_path / "run" / "_base_weights").glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ResumeError, match=r"_base_weights' are not as they were saved. Restore them beside the check"):
        train(Given(), "run", resume=str(tmp_path / "run" / "checkpoint-1"), **saved)
    path.write_bytes(content[:60])
    with pytest.raises(ResumeError, match=r"safetensors' is damaged: .* Restore them beside the checkpoint"):
        train(Given(), "run", resume=str(tmp_path / "run" / "checkpoint-1"), **saved)
