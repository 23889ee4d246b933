"""Reading a run back from its output folder."""

from __future__ import annotations

import json

import pytest

from hf_datasel.errors import PublishError
from hf_datasel.publish.run import read_run, training_facts
from hf_datasel.selectors import IterIT


def test_a_run_is_read_from_its_folder_as_the_trainer_has_it(train, tmp_path, pool_rows):
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
    assert live["selecting"] is not None
    assert 0 < live["selecting"] < 1
    selections, training = read_run(tmp_path / "run")
    assert selections == trainer.selections  # round-10 after round-9
    assert training is not None  # of the last checkpoint, which was written before the run had its wall time
    assert {**training, "selecting": live["selecting"]} == live
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
def test_a_folder_without_selections_is_refused(tmp_path, name):
    with pytest.raises(PublishError, match="holds no selection"):
        read_run(tmp_path / name)


def test_steps_are_counted_to_the_end_and_not_to_the_last_line_of_the_log(train, tmp_path):
    train(IterIT(), name="run", save_strategy="epoch", logging_steps=2, num_train_epochs=3, selection_size=4)
    training = read_run(tmp_path / "run")[1]
    assert (training["steps"], training["epochs"], training["loss"][-1][0]) == (3, 3.0, 2)


def test_the_share_of_selecting_is_what_the_run_logged_at_its_end():
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
        "selecting": 0.2,
    }
    assert training_facts(log[:2], {})["selecting"] is None
