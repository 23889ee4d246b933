"""Reading a run back from its output folder."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from hf_datasel.cards.build import read_run
from hf_datasel.cards.sections.training import training_facts
from hf_datasel.errors import PublishError
from hf_datasel.scores import RewardGap
from hf_datasel.scoring.generation import Generator
from hf_datasel.selectors import All, Chain, InRange, IterIT, Random


def test_read_run(train, tmp_path, pool_rows):
    few = pool_rows.select(range(4))
    more = {
        "selection_size": 4,
        "save_strategy": "epoch",
        "eval_strategy": "epoch",
        "num_train_epochs": 11,
        "max_length": 64,
    }
    trainer = train(IterIT(), name="run", eval_dataset=few, **more)
    live = training_facts(trainer.state.log_history, trainer.selections[-1].provenance)
    assert live["model"].startswith("tiny_model")
    assert live["settings"]["learning_rate"] == 1e-2
    assert (live["steps"], live["epochs"]) == (11, 11.0)
    assert [step for step, _ in live["loss"]] == [step for step, _ in live["eval_loss"]] == list(range(1, 12))
    assert live["selection_time_share"] is not None
    assert 0 < live["selection_time_share"] < 1
    selections, training = read_run(tmp_path / "run")
    assert selections == trainer.selections  # round-10 after round-9
    assert training is not None  # of the last checkpoint, which was written before the run had its wall time
    costs = training.pop("costs")
    assert costs == {phase: dict(cost) for phase, cost in trainer.costs.items()}
    assert {**training, "selection_time_share": live["selection_time_share"]} == live
    live["costs"] = costs
    trainer.save_state()
    assert read_run(tmp_path / "run") == (selections, live)
    assert read_run(tmp_path / "run" / "selections" / "round-3") == ([selections[3]], None)
    for state in (tmp_path / "run").rglob("trainer_state.json"):
        state.unlink()
    assert read_run(tmp_path / "run") == (selections, None)
    (tmp_path / "run" / "trainer_state.json").write_text("[]")
    with pytest.raises(PublishError, match="is not the log of a training run"):
        read_run(tmp_path / "run")


@pytest.mark.parametrize("name", ["", "gone"])
def test_read_run_without_selections(tmp_path, name):
    with pytest.raises(PublishError, match="holds no selection"):
        read_run(tmp_path / name)


def test_all_rows_that_pass_filters(train, pool_rows):
    rows = pool_rows.add_column("value", [float(number) for number in range(len(pool_rows))])
    trainer = train(Chain([InRange("value", high=6)], All()), rows=rows, num_train_epochs=2)
    assert [selection.indices.tolist() for selection in trainer.selections] == [list(range(6))]
    assert trainer.state.global_step == trainer.state.max_steps == 4  # two batches of at most four rows in each epoch


def test_number_of_steps(train, tmp_path):
    train(IterIT(), name="run", save_strategy="epoch", logging_steps=2, num_train_epochs=3, selection_size=4)
    training = read_run(tmp_path / "run")[1]
    assert (training["steps"], training["epochs"], training["loss"][-1][0]) == (3, 3.0, 2)


def test_selection_time_share():
    log = [
        {"step": 1, "selection_seconds": 30.0},
        {"step": 2, "loss": 1, "epoch": 1.0},
        {"step": 2, "train_runtime": 100.0, "selection_time_share": 0.2},  # since it was resumed
    ]
    facts = training_facts(log, json.loads("{}"))
    assert facts == {
        "model": "a model",
        "settings": {},
        "steps": 2,
        "epochs": 1.0,
        "loss": [(2, 1.0)],
        "eval_loss": [],
        "selection_time_share": 0.2,
    }
    assert training_facts(log[:2], {})["selection_time_share"] is None


class Asks(Random):
    """Random rows, of which it asks for a gap, whether they have one or not."""

    new_tokens = 4

    def select(self, context):
        rows = super().select(context)
        context.score(RewardGap(scorer="perplexity", max_new_tokens=self.new_tokens), rows, optional=True)
        return rows


class AsksInVain(Asks):
    new_tokens = 1000

    def select(self, context):
        context.record.logs["nothing"] = math.nan
        return super().select(context)


def test_mean_of_no_values_is_not_logged(train, tmp_path):
    more = {"save_strategy": "epoch", "num_train_epochs": 1, "selection_size": 4}
    [entry] = [each for each in train(Asks(), **more).state.log_history if "selection_round" in each]
    assert math.isfinite(entry["selection_reward_gap_mean"])
    [entry] = [each for each in train(AsksInVain(), **more).state.log_history if "selection_round" in each]
    assert entry["selection_rows"] == 4
    assert not {"selection_reward_gap_mean", "selection_nothing"} & set(entry)
    [state] = Path(tmp_path / "run").glob("checkpoint-*/trainer_state.json")
    json.loads(state.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize(("asked", "expected"), [(None, torch.float32), ("bfloat16", torch.bfloat16)])
def test_generation_in_scoring_dtype(train, monkeypatch, asked, expected):
    seen, write = set(), Generator._generate

    def watched(self, prompts):
        head = self.model.get_output_embeddings()
        hook = head.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
        try:
            return write(self, prompts)
        finally:
            hook.remove()

    monkeypatch.setattr(Generator, "_generate", watched)
    train(Asks(), bf16=True, scoring_dtype=asked, num_train_epochs=1, selection_size=4)
    assert seen == {expected}
