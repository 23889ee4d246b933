"""Selecting again every so many steps."""

from __future__ import annotations

from typing import Any

import pytest
from trl import SFTTrainer

from hf_datasel.errors import ConfigError
from hf_datasel.formats import Pool, convert_pool
from hf_datasel.selectors import IterIT

from .test_trainer import AllAgain, Seen, Sizes

EVERY = {"reselection_strategy": "steps", "selection_size": 8, "save_strategy": "steps", "save_steps": 1}


def logs_of(trainer: Any, key: str) -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def chosen_at(trainer: Any) -> list[int]:
    return [entry["step"] for entry in trainer.state.log_history if "selection_round" in entry]


@pytest.mark.parametrize(
    ("every", "more", "at", "steps"),
    [
        (1, {}, [0, 1, 2, 3, 4, 5], 6),
        (4, {}, [0, 4], 6),
        (5, {}, [0, 5], 6),
        (3, {"max_steps": 7}, [0, 3, 6], 7),
        (2, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}, [0, 2, 4], 6),
        (2, {"num_train_epochs": 2.5}, [0, 2, 4], 5),
    ],
)
def test_reselection_steps(train, every, more, at, steps):
    trainer = train(IterIT(), reselection_steps=every, **EVERY, **more)
    assert chosen_at(trainer) == at
    assert trainer.state.global_step == trainer.state.max_steps == steps
    assert len(trainer.selections) == len(at)
    assert set(trainer.lr_scheduler.get_last_lr()) == {0.0}


def test_long_round_repeats_rows(train):
    seen = Seen()
    trainer = train(Sizes(), reselection_steps=3, callbacks=[seen], **EVERY)
    assert seen.steps == [8] * 6
    assert chosen_at(trainer) == [0, 3]


def test_steps_of_an_epoch_equal_epochs(train, assert_equal_weights):
    epochs = train(IterIT(), name="epochs", selection_size=8)
    steps = train(IterIT(), name="steps", reselection_steps=2, **EVERY)
    assert [each.indices.tolist() for each in steps.selections] == [
        each.indices.tolist() for each in epochs.selections
    ]
    assert_equal_weights(steps, epochs)


def test_full_pool_by_steps_equals_sfttrainer(train, assert_equal_weights, pool_rows):
    plain = train(base=SFTTrainer, rows=convert_pool(Pool(pool_rows), chat_template=True), name="plain")
    more = {"reselection_strategy": "steps", "reselection_steps": 6, "selection_size": 24}
    ours = train(AllAgain(), name="again", **more)
    assert chosen_at(ours) == [0, 6, 12]
    assert_equal_weights(ours, plain)


@pytest.mark.parametrize(
    ("every", "steps"),
    [(1, [1, 4]), *(pytest.param(every, range(1, 6), marks=pytest.mark.slow) for every in (1, 3))],
)
def test_resume_from_every_checkpoint_is_exact(train, assert_equal_weights, tmp_path, every, steps):
    whole = train(IterIT(), name="whole", reselection_steps=every, **EVERY)
    for step in steps:
        resumed = train(
            IterIT(),
            name=f"from-{step}",
            resume=str(tmp_path / "whole" / f"checkpoint-{step}"),
            reselection_steps=every,
            **EVERY,
        )
        assert_equal_weights(resumed, whole)
        assert logs_of(resumed, "learning_rate") == logs_of(whole, "learning_rate")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reselection_strategy": "steps"}, "needs reselection_steps, an int above 0, but it is None"),
        ({"reselection_strategy": "steps", "reselection_steps": 0.5}, "but it is 0.5"),
        ({"reselection_steps": 2}, "reselection_steps=2 needs reselection_strategy='steps', but it is 'epoch'"),
        (
            {"reselection_strategy": "steps", "reselection_steps": 2, "selection_schedule": [4, 8]},
            "Remove reselection_steps",
        ),
    ],
)
def test_invalid_settings(train, settings, message):
    with pytest.raises(ConfigError, match=message):
        train.make(IterIT(), "bad", **settings)
