"""Resuming from checkpoints gives the weights of an uninterrupted run, and scores nothing twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import Trainer

from hf_datasel.errors import ResumeError
from hf_datasel.scores import IFD
from hf_datasel.scoring.score_rows import score
from hf_datasel.selectors import IterIT, Longest, Random
from hf_datasel.training.checkpoint_files import last_complete_checkpoint
from hf_datasel.training.checkpoint_state import CarriedState, SelectionState

SAVED = {"save_strategy": "steps", "save_steps": 1, "selection_size": 8}


@pytest.fixture
def scored_rounds(monkeypatch) -> list[int]:
    """Give the list of rounds in which anything was scored, as they happen."""
    from hf_datasel.rounds.context import RoundContext

    rounds: list[int] = []
    original = RoundContext.score

    def score(self: RoundContext, *args: Any, **kwargs: Any) -> Any:
        rounds.append(self.index)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(RoundContext, "score", score)
    return rounds


@pytest.mark.parametrize(
    "more",
    [
        {},
        pytest.param({"gradient_accumulation_steps": 3, "per_device_train_batch_size": 2}, marks=pytest.mark.slow),
        {"num_train_epochs": 2.5},
        pytest.param({"train_sampling_strategy": "group_by_length"}, marks=pytest.mark.slow),
        {"packing": True, "per_device_train_batch_size": 1, "max_length": 160},
        pytest.param({"max_steps": 5}, marks=pytest.mark.slow),
    ],
    ids=["plain", "accumulation", "fraction", "group_by_length", "packing", "max_steps"],
)
def test_resume_does_not_rescore(train, assert_equal_weights, scored_rounds, tmp_path, more):
    whole = train(IterIT(), name="whole", **SAVED, **more)
    steps = whole.state.global_step
    assert scored_rounds == list(range(len(whole.selections)))
    starts = [record.start for record in whole._schedule.records]
    for step in sorted({near for start in starts[1:] for near in (start - 1, start, start + 1)} & {*range(1, steps)}):
        scored_rounds.clear()
        shutil.copytree(tmp_path / "whole" / "selections", tmp_path / f"from-{step}" / "selections")
        resumed = train(
            IterIT(), name=f"from-{step}", resume=str(tmp_path / "whole" / f"checkpoint-{step}"), **SAVED, **more
        )
        assert resumed.state.global_step == steps
        assert_equal_weights(resumed, whole)
        assert scored_rounds == [index for index, start in enumerate(starts) if start >= step]
        assert len(resumed.selections) == len(whole.selections)


def test_second_round_scores(train, tmp_path, pool_rows):
    trainer = train(IterIT(), name="run", selection_size=8, save_strategy="epoch")
    first, second = trainer.selections[:2]
    fresh = score(pool_rows, [IFD(str(tmp_path / "run" / "checkpoint-2"), max_length=128)])
    expected = np.array(fresh["ifd"][:], dtype=np.float64)
    window = ~np.isnan(second.scores("ifd"))
    assert window.sum() >= 8
    np.testing.assert_allclose(second.scores("ifd")[window], expected[window], rtol=1e-5)
    assert np.abs(second.scores("ifd") - first.scores("ifd"))[window].min() > 1e-4


def test_resume_of_another_run(train, tmp_path, pool_rows):
    train(IterIT(), name="run", **SAVED)
    checkpoint = str(tmp_path / "run" / "checkpoint-3")
    with pytest.raises(ResumeError, match="selector differ"):
        train(Longest(), name="run", resume=checkpoint, **SAVED)
    with pytest.raises(ResumeError, match="pool, tokens differ"):
        train(IterIT(), name="run", rows=pool_rows.select(range(20)), resume=checkpoint, **SAVED)
    with pytest.raises(ResumeError, match="rows_per_round differ"):
        train(IterIT(), name="run", resume=checkpoint, **{**SAVED, "selection_size": 7})


def test_resume_of_another_trainer(train, tmp_path):
    train(IterIT(), name="run", **SAVED)
    checkpoint = tmp_path / "run" / "checkpoint-3"
    for name in ("selection_state.json", "checkpoint_digests.json"):
        (checkpoint / name).unlink()
    with pytest.raises(ResumeError, match=r"has no selection_state.json: it was not written by SelectiveSFTTrainer"):
        train(IterIT(), name="run", resume=str(checkpoint), **SAVED)


KILLED = """
    import os, signal, sys
    from datasets import load_from_disk
    from transformers import TrainerCallback
    from hf_datasel import SelectiveSFTConfig, SelectiveSFTTrainer
    from hf_datasel.rounds.context import RoundContext
    from hf_datasel.selectors import IterIT

    folder, model, output, kill, resume = sys.argv[1:]

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if kill == f"step-{state.global_step}":
                os.kill(os.getpid(), signal.SIGKILL)

    if kill == "scoring":
        original = RoundContext.score
        def score(self, *args, **kwargs):
            columns = original(self, *args, **kwargs)
            if self.index == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return columns
        RoundContext.score = score

    args = SelectiveSFTConfig(
        output, selection_size=8, num_train_epochs=3, per_device_train_batch_size=2, learning_rate=1e-2, bf16=False,
        gradient_checkpointing=False, report_to="none", save_strategy="steps", save_steps=3, use_cpu=True,
        max_length=128,
    )
    trainer = SelectiveSFTTrainer(
        model=model, args=args, train_dataset=load_from_disk(folder), selector=IterIT(), callbacks=[Kill()]
    )
    trainer.train(resume_from_checkpoint=resume == "resume")
    trainer.save_model(output + "/final")
    print("scored rounds", [s.provenance["round"] for s in trainer.selections])
"""


@pytest.mark.usefixtures("warm_python")
@pytest.mark.parametrize("kill", [pytest.param("step-7", marks=pytest.mark.slow), "scoring"])
def test_resume_after_kill(tmp_path: Path, pool_rows, tiny_model_dir, kill):
    from safetensors.numpy import load_file

    (tmp_path / "script.py").write_text(textwrap.dedent(KILLED))
    pool_rows.save_to_disk(tmp_path / "pool")

    def run(output: str, kill: str, resume: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, tmp_path / "script.py", tmp_path / "pool", tiny_model_dir, tmp_path / output]
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        return subprocess.run(
            [*map(str, command), kill, resume],
            capture_output=True,
            text=True,
            timeout=300,
            env=environment,
            check=False,
        )

    assert run("whole", "never", "fresh").returncode == 0
    assert run("cut", kill, "fresh").returncode == -signal.SIGKILL
    first = (tmp_path / "cut" / "selections" / "round-0" / "indices.npy").stat().st_mtime_ns
    resumed = run("cut", "never", "resume")
    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / "cut" / "selections" / "round-0" / "indices.npy").stat().st_mtime_ns == first
    whole, cut = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(np.array_equal(whole[name], cut[name]) for name in whole)


def test_incomplete_checkpoint_is_skipped(train, tmp_path, assert_equal_weights, caplog):
    saved = {"name": "run", **SAVED}
    whole = train(IterIT(), **saved)
    for step in (5, 6):
        (tmp_path / "run" / f"checkpoint-{step}" / "checkpoint_digests.json").unlink()
    (tmp_path / "run" / "checkpoint-6" / "trainer_state.json").unlink()
    resumed = train(IterIT(), resume=True, **saved)
    assert resumed.state.global_step == whole.state.global_step == 6
    assert_equal_weights(resumed, whole)
    for step in (5, 6):
        assert f"checkpoint-{step} is incomplete: the run ended while it was being saved." in caplog.text
    assert last_complete_checkpoint(tmp_path / "run") == str(tmp_path / "run" / "checkpoint-6")


def test_stale_trainer_state(train, tmp_path, monkeypatch):
    saved = {"name": "run", **SAVED}
    train(IterIT(), max_steps=2, **saved)

    def killed(trainer: Any, checkpoint: str) -> None:
        raise KeyboardInterrupt("killed")

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", killed)
    with pytest.raises(KeyboardInterrupt, match="killed"):
        train(IterIT(), resume=str(tmp_path / "run" / "checkpoint-1"), max_steps=2, **saved)
    assert last_complete_checkpoint(tmp_path / "run") == str(tmp_path / "run" / "checkpoint-1")


def test_resume_with_another_batch_size(train, tmp_path):
    train(IterIT(), name="run", **SAVED)
    with pytest.raises(ResumeError, match=r"rows_per_update differ \(4 in the checkpoint, 2 in this run\)"):
        train(
            IterIT(), name="run", resume=str(tmp_path / "run" / "checkpoint-3"), **SAVED, per_device_train_batch_size=2
        )


def test_resume_for_more_epochs(train, tmp_path):
    train(Random(), name="run", **SAVED)
    longer = train(Random(), name="run", resume=str(tmp_path / "run" / "checkpoint-4"), **SAVED, num_train_epochs=5)
    assert longer.state.global_step == longer.state.max_steps == 10
    assert longer.lr_scheduler.get_last_lr()[0] == 0.0
    assert len(longer._schedule.records) == 1


def test_a_finished_run_is_not_trained_further(train, assert_equal_weights, tmp_path):
    more = {**SAVED, "max_steps": 6, "lr_scheduler_type": "constant"}
    whole = train(IterIT(), name="run", **more)
    again = train(IterIT(), name="run", resume=str(tmp_path / "run" / "checkpoint-6"), **more)
    assert again.state.global_step == 6
    assert_equal_weights(again, whole)


def saved_state(folder: Path, pool: Any, version: int) -> SelectionState:
    record = {"reasons": [], "specs": [{"score": "promptloss"}], "columns_used": [], "columns_known": ["loss"]}
    arrays = {"window": np.arange(3), "then/record": np.array([json.dumps(record)])}
    SelectionState({"selector": {"selector": "random"}}, [], CarriedState(arrays)).save(folder)
    path = folder / "selection_state.json"
    content = json.loads(path.read_text()) | {"version": version}
    del content["hf_datasel"]  # as older releases wrote it
    path.write_text(json.dumps(content))
    return SelectionState.load(folder, {"selector": {"selector": "random"}}, pool)


def test_state_of_an_older_release_is_upgraded(tmp_path, pool_rows):
    arrays = saved_state(tmp_path, pool_rows, version=3).carried.arrays
    assert arrays["window"].tolist() == [0, 1, 2]
    assert json.loads(str(arrays["then/record"][0])) == {
        "reasons": [],
        "columns_used": [],
        "score_specs": [{"score": "prompt_loss"}],
        "columns_verified": ["loss"],
    }


def test_state_of_an_unsupported_version_names_the_release(tmp_path, pool_rows):
    with pytest.raises(ResumeError, match=r"was written by hf_datasel 0\.1\.0 or earlier with version 2 of the state"):
        saved_state(tmp_path, pool_rows, version=2)


def test_another_run_of_an_older_release_names_the_release(tmp_path, pool_rows):
    saved_state(tmp_path, pool_rows, version=3)
    with pytest.raises(ResumeError, match=r"selector differ .* It was written by hf_datasel 0\.1\.0 or earlier"):
        SelectionState.load(tmp_path, {"selector": {"selector": "longest"}}, pool_rows)
