"""Cost of training runs: tokens and FLOPs by phase, across checkpoints, and what is written."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from peft import LoraConfig

from hf_datasel.scoring.cost import Parameters, total_cost
from hf_datasel.selectors import IterIT, Random
from hf_datasel.training.checkpoint_files import STATE_JSON, save_digests
from hf_datasel.training.trainer import SelectiveSFTTrainer

CHOSEN = {"selection_size": 8}
COUNTED = ("tokens_forward", "tokens_backward", "flops")


def counted(costs):
    """Return what two equal runs have in common."""
    return {phase: {key: cost[key] for key in COUNTED} for phase, cost in costs.items()}


def written(trainer):
    return json.loads((Path(trainer.args.output_dir) / "cost.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 3},
        {"packing": True, "per_device_train_batch_size": 1, "max_length": 96},
        {"padding_free": True, "max_length": None},
        {"completion_only_loss": False},
        {"peft_config": LoraConfig(r=2, target_modules=["q_proj"])},
    ],
    ids=["plain", "accumulation", "packing", "padding_free", "whole rows", "lora"],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_training_counts_tokens_as_trl_does(train, more):
    trainer = train(IterIT(), **CHOSEN, **more)
    costs = written(trainer)
    assert costs == trainer.costs
    assert costs.keys() == {"selecting", "training"}
    tokens = next(entry["num_tokens"] for entry in reversed(trainer.state.log_history) if "num_tokens" in entry)
    training, parameters = costs["training"], Parameters.of(trainer.model)
    assert training["tokens_forward"] == training["tokens_backward"] == tokens > 0
    assert training["flops"] == tokens * (4 * parameters.active + 2 * parameters.trainable)
    rounds = [selection.provenance["cost"] for selection in trainer.selections]
    assert costs["selecting"] == total_cost(rounds)
    assert all(cost["tokens_forward"] for cost in rounds)
    runtime = next(entry["train_runtime"] for entry in trainer.state.log_history if "train_runtime" in entry)
    assert training["wall_seconds"] + costs["selecting"]["wall_seconds"] == pytest.approx(runtime, rel=0.2)
    assert training["device"] == "cpu"


def test_evaluation_is_a_phase_of_its_own(train, pool_rows):
    without = train(Random(), name="without", **CHOSEN)
    evaluated = train(Random(), name="evaluated", eval_dataset=pool_rows, eval_strategy="epoch", **CHOSEN)
    costs = written(evaluated)
    assert counted(costs)["training"] == counted(written(without))["training"]
    cost = costs["evaluation"]
    assert cost["tokens_backward"] == 0
    assert cost["tokens_forward"] > 0
    assert cost["tokens_forward"] % 3 == 0  # three equal passes
    assert cost["flops"] == 2 * Parameters.of(evaluated.model).active * cost["tokens_forward"]
    evaluated.evaluate()
    assert evaluated.costs == costs  # not of the run


def test_resumed_runs_report_the_whole_run(train, resumed, tmp_path):
    saved = {"save_strategy": "steps", "save_steps": 1, **CHOSEN}
    whole = train(IterIT(), name="whole", **saved)
    for again in resumed(whole, IterIT(), [1, whole.state.global_step // 2], **saved):
        assert counted(again.costs) == counted(whole.costs)
        assert again.costs["training"]["wall_seconds"] > 0
    shutil.copytree(whole.args.output_dir, tmp_path / "again")
    last = f"checkpoint-{whole.state.global_step}"
    finished = train(IterIT(), name="again", resume=str(tmp_path / "again" / last), **saved)
    assert counted(written(finished)) == counted(whole.costs)


def test_a_second_run_begins_anew(train):
    trainer = train(Random(), **CHOSEN)
    first = counted(trainer.costs)
    trainer.train()
    assert counted(written(trainer))["training"] == first["training"]


def test_checkpoints_without_a_cost(train, tmp_path, caplog):
    saved = {"save_strategy": "steps", "save_steps": 2, **CHOSEN}
    train(Random(), **saved)
    folder = tmp_path / "run" / "checkpoint-2"
    state = json.loads((folder / STATE_JSON).read_text())
    del state["costs"]
    (folder / STATE_JSON).write_text(json.dumps(state))
    save_digests(folder)
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        trainer = train(Random(), resume=str(folder), **saved)
    assert trainer.costs == {}
    assert not (tmp_path / "run" / "cost.json").exists()  # nor that of the run before
    assert "cost.json is not written: the run was resumed from a checkpoint of an earlier release" in caplog.text
    assert json.loads((tmp_path / "run" / "checkpoint-4" / STATE_JSON).read_text())["costs"] is None


def test_a_failed_run_writes_nothing(train, tmp_path):
    class Fails(SelectiveSFTTrainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step == 2:
                raise RuntimeError("stop")
            return super().training_step(*args, **kwargs)

    train(Random(), **CHOSEN)
    with pytest.raises(RuntimeError, match="stop"):
        train(Random(), base=Fails, **CHOSEN)
    assert not (tmp_path / "run" / "cost.json").exists()


def test_model_card_says_what_the_run_cost(train, tmp_path):
    trainer = train(IterIT(), **CHOSEN)
    trainer.create_model_card()
    text = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    tokens = [trainer.costs[phase]["tokens_forward"] for phase in ("selecting", "training")]
    ratio = trainer.costs["selecting"]["flops"] / trainer.costs["training"]["flops"]
    assert f"To select, models processed {tokens[0]:,} tokens and about " in text
    assert f"Training took {tokens[1]:,} tokens and about " in text
    assert f"Selecting took {ratio:.3g} times the FLOPs of training." in text
