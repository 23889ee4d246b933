"""Losses of rows times their weights: against a loop written by hand, without weights, and resumed."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig

from hf_datasel import SelectiveSFTTrainer, select
from hf_datasel.errors import ConfigError, DataselError
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import Selector
from hf_datasel.scores import Length
from hf_datasel.selectors import All, Chain, InRange, IterIT, Random, Weighted
from hf_datasel.training import row_weights
from hf_datasel.training.row_weights import check_row_losses
from tests.training.hand_written import (
    SGD,
    Recorded,
    assert_close,
    fresh_model,
    needs_row_losses,
    train_by_hand,
)

pytestmark = needs_row_losses

PLAIN = {"loss_type": "nll", "selection_size": 12, "num_train_epochs": 2}
LORA = LoraConfig(r=4, target_modules=["q_proj", "up_proj"])
WEIGHTS = [round(0.04 * row, 2) for row in range(24)]


@pytest.fixture
def rated(pool_rows):
    return pool_rows.add_column("weight", WEIGHTS).add_column("one", [1.0] * 24)


@dataclass(frozen=True)
class Own(Selector):
    """The first rows, the first of which has a weight that no selector announced."""

    weight: float = 0.0

    def select(self, context: RoundContext) -> np.ndarray:
        context.set_weights(np.array([0]), np.array([self.weight]))
        return np.arange(context.budget)


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_weights_of_one_change_nothing(train, rated, assert_equal_weights):
    weighted = train(Weighted(Random(), by="one"), rows=rated, name="weighted", **PLAIN)
    plain = train(Random(), rows=rated, name="plain", **PLAIN)
    assert_equal_weights(weighted, plain)
    assert losses(weighted) == losses(plain)
    assert weighted.selections[0].weights.tolist() == [1.0] * 12


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
def test_equals_a_loop_by_hand(train, rated, tiny_model_dir, adapter):
    settings = {**PLAIN, **SGD, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}
    more = {} if adapter is None else {"peft_config": adapter, "selection_order": "selected"}
    trainer = train.make(Weighted(Random(), by="weight"), "run", rated, Recorded, **settings, **more)
    trainer.train()
    assert len({len(ids) for ids, _ in trainer.batches[0]}) > 1, "the rows of a batch differ in length"
    numbers = iter([[trainer.number_of(row) for row in batch] for batch in trainer.batches])

    def loss(update: list[list[torch.Tensor]]) -> torch.Tensor:
        tokens = sum(len(row) for batch in update for row in batch)
        weighted = [
            WEIGHTS[row] * each.sum() for batch in update for row, each in zip(next(numbers), batch, strict=True)
        ]
        return sum(weighted) / tokens

    model = fresh_model(trainer, tiny_model_dir, adapter)
    assert_close(trainer, train_by_hand(model, trainer.batches, 2, loss))
    assert trainer.state.log_history[0]["selection_weight_mean"] == pytest.approx(
        np.mean([WEIGHTS[row] for row in trainer.selections[0].indices]), abs=1e-4
    )


def test_weight_zero_is_the_batch_without_the_row(train, rated):
    one = {**PLAIN, **SGD, "per_device_train_batch_size": 4, "max_steps": 1, "train_sampling_strategy": "sequential"}
    weighted = train(Own(0.0), rows=rated, name="weighted", base=Recorded, **{**one, "selection_size": 4})
    others = rated.select(range(1, 24))
    without = train(Own(1.0), rows=others, name="without", base=Recorded, **{**one, "selection_size": 3})
    tokens = [sum(label != -100 for row in each.batches[0] for label in row[1][1:]) for each in (without, weighted)]
    for (name, weight), (_, other) in zip(weighted.trainable(), without.trainable(), strict=True):
        steps = (weight - weighted.before[name]).detach(), (other - without.before[name]).detach()
        torch.testing.assert_close(steps[0], steps[1] * tokens[0] / tokens[1], rtol=1e-3, atol=1e-6, msg=name)


def test_resume(train, rated, resumed):
    selector = Weighted(IterIT(), by="weight", scale="rank")
    saved = {**PLAIN, "selection_size": 8, "save_strategy": "steps", "save_steps": 1}
    whole = train(selector, rows=rated, **saved)
    assert len(whole.selections) == 2
    for again in resumed(whole, selector, rows=rated, **saved):
        assert again.selections == whole.selections
    shutil.rmtree(Path(whole.args.output_dir) / "selections")
    again = train(selector, rows=rated, name="alone", resume=f"{whole.args.output_dir}/checkpoint-3", **saved)
    for found, expected in zip(again.selections, whole.selections, strict=True):  # from the checkpoint
        np.testing.assert_array_equal(found.weights, expected.weights)


def test_resume_needs_the_weights(train, rated, tmp_path):
    saved = {**PLAIN, "save_strategy": "steps", "save_steps": 2}
    train(Weighted(Random(), by="weight"), rows=rated, **saved)
    state = np.load(tmp_path / "run" / "checkpoint-2" / "selection_state.npz")
    np.testing.assert_array_equal(state["weights/0"], np.array(WEIGHTS, dtype=np.float32)[np.cumsum(state["rows/0"])])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"packing": True}, "packing=True puts several rows into one sequence. Use packing=False"),
        ({"padding_free": True, "max_length": None}, "padding_free=True concatenates the rows of a batch"),
        ({"loss_type": "dft"}, "loss_type='dft' weights tokens by itself. Use loss_type='nll'"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor computes the loss of a batch as a whole"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*label_smoothing_factor:FutureWarning", "ignore:.*padding-free:UserWarning")
def test_refused(train, rated, settings, message):
    selector = Chain([InRange("weight", low=0)], Weighted(Random(), by=Length()))
    with pytest.raises(ConfigError, match=rf"A selection with row weights needs the loss of each row, but {message}"):
        train.make(selector, "run", rated, **{**PLAIN, **settings})
    with pytest.raises(ConfigError, match=rf"A selection with row weights needs .* {message}"):
        train(Own(0.5), rows=rated, **{**PLAIN, **settings})
    train(Own(1.0), rows=rated, name="ones", **{**PLAIN, **settings, "max_steps": 1})


@pytest.mark.parametrize(("by", "message"), [("big", "or set scale='rank'"), ("wieght", "Did you mean 'weight'")])
def test_columns_are_checked_before_training(train, rated, by, message):
    with pytest.raises(DataselError, match=message):
        train.make(Weighted(Random(), by=by), "run", rated.add_column("big", [5] * 24), **PLAIN)


def test_refused_on_several_gpus_in_one_process(train, rated):
    trainer = train.make(Weighted(Random(), by="weight"), "run", rated, **PLAIN)
    trainer.args._n_gpu = 2
    with pytest.raises(ConfigError, match=r"split over 2 GPUs in one process \(DataParallel\)\. Start one process"):
        check_row_losses(trainer, "Weighted")


class OneRow(SelectiveSFTTrainer):
    """Gives the model the first row of a batch only."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(model, {name: values[:1] for name, values in inputs.items()}, *args, **kwargs)


def test_part_of_a_batch(train, rated):
    with pytest.raises(ConfigError, match=r"the model was given 1 rows of a batch of 4\. Pass it all rows"):
        train(Weighted(Random(), by="weight"), rows=rated, base=OneRow, **PLAIN)


def test_refused_by_earlier_versions_of_trl(train, rated, monkeypatch):
    monkeypatch.setattr(row_weights, "_HAS_LOG_PROBS", False)
    with pytest.raises(ConfigError, match=r"does not compute the loss of each row\. Install trl>=1\.16"):
        train.make(Weighted(Random(), by="weight"), "run", rated, **PLAIN)


def test_published_rows_are_trained_with_their_weights(train, rated):
    selection = select(rated, Weighted(Random(), by="weight"), size=8)
    trainer = train(Weighted(All(), by="selection_weight"), rows=selection.apply(rated), **{**PLAIN, "max_steps": 1})
    np.testing.assert_array_equal(np.sort(trainer.selections[0].weights), np.sort(selection.weights))


def test_recipe_and_state_are_json(train, rated, tmp_path):
    trainer = train(Weighted(Random(), by="weight"), rows=rated, **{**PLAIN, "max_steps": 1})
    provenance = json.loads((tmp_path / "run" / "selections" / "round-0" / "selection.json").read_text())
    assert provenance["selector"]["method"] == {"selector": "random"}
    assert provenance["weights"] == trainer.selections[0].provenance["weights"]
