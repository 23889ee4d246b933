"""Checkpoints that were not saved completely, and files of a checkpoint that are not as they were saved."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_datasel.errors import DataselError, ResumeError
from hf_datasel.selectors import Random
from hf_datasel.training.checkpoint_files import (
    STATE_ARRAYS,
    check_checkpoint,
    check_run_exists,
    last_complete_checkpoint,
    save_digests,
)
from hf_datasel.training.checkpoint_state import CarriedState, SelectionState
from hf_datasel.training.restart import BaseWeights

SAVED = {"save_strategy": "steps", "save_steps": 1, "selection_size": 8, "num_train_epochs": 1}


class Killed(BaseException):
    """The end of a process, in place of SIGKILL."""


@pytest.fixture
def killed(train, monkeypatch):
    """Return a function that trains until the n-th file of a checkpoint is written, of which it writes one half.

    A file that is written atomically is not there at all.
    """
    import torch

    def run(count: int, **more: Any) -> None:
        written: list[Path] = []
        write_text, save, replace = Path.write_text, torch.save, os.replace

        def stop(path: Any) -> bool:
            if "checkpoint-" in str(path):
                written.append(path)
            return len(written) == count

        def text(path: Path, data: str, **kwargs: Any) -> int:
            if stop(path):
                write_text(path, data[: len(data) // 2], **kwargs)
                raise Killed("killed")
            return write_text(path, data, **kwargs)

        def tensors(value: Any, path: Any, *args: Any, **kwargs: Any) -> None:
            save(value, path, *args, **kwargs)
            if stop(path):
                os.truncate(path, os.path.getsize(path) // 2)
                raise Killed("killed")

        def rename(draft: Any, path: Any, **kwargs: Any) -> None:
            if stop(path):
                raise Killed("killed")
            replace(draft, path, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", text)
            patch.setattr(torch, "save", tensors)
            patch.setattr(os, "replace", rename)
            with pytest.raises(Killed, match="killed"):
                train(Random(), name="run", **SAVED, **more)

    return run


@pytest.mark.parametrize("count", range(1, 8))
def test_killed_while_the_first_checkpoint_is_saved(train, killed, assert_equal_weights, tmp_path, caplog, count):
    whole = train(Random(), name="whole", **SAVED)
    killed(count)
    again = train(Random(), name="run", resume=True, **SAVED)
    assert_equal_weights(again, whole)
    assert f"{tmp_path / 'run' / 'checkpoint-1'} is incomplete: the run ended while it was being saved." in caplog.text
    assert "has no complete checkpoint: its run ended before the first one was saved. Training begins" in caplog.text
    assert (tmp_path / "run" / "checkpoint-1" / "checkpoint_digests.json").is_file()


def test_incomplete_checkpoint_by_name(train, killed, tmp_path):
    killed(3)
    with pytest.raises(ResumeError, match="checkpoint-1' is no complete checkpoint: the run ended while it was being"):
        train(Random(), name="run", resume=str(tmp_path / "run" / "checkpoint-1"), **SAVED)
    with pytest.raises(ResumeError, match="checkpoint-9': there is no such folder"):
        train(Random(), name="run", resume=str(tmp_path / "run" / "checkpoint-9"), **SAVED)


@pytest.fixture
def saved_run(train, tmp_path) -> Path:
    train(Random(), name="run", **SAVED)
    return tmp_path / "run"


def test_flipped_bits(train, saved_run):
    names = sorted(path.name for path in (saved_run / "checkpoint-1").iterdir())
    assert {"model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json"} < {*names}
    draw = random.Random(0)
    for name in names:
        path = saved_run / "checkpoint-1" / name
        before = path.read_bytes()
        changed = bytearray(before)
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(ResumeError, match=r"checkpoint_digests.json" if "digests" in name else f"{name}' is"):
            check_checkpoint(path.parent)
        path.write_bytes(before)
    check_checkpoint(saved_run / "checkpoint-1")


@pytest.mark.parametrize("name", ["selection_state.json", "selection_state.npz", "trainer_state.json", "optimizer.pt"])
def test_truncated_file(train, saved_run, name):
    os.truncate(saved_run / "checkpoint-1" / name, 60)
    with pytest.raises(ResumeError, match=f"{name}' is missing or not as checkpoint_digests.json records it. Restore"):
        train(Random(), name="run", resume=str(saved_run / "checkpoint-1"), **SAVED)


@pytest.mark.parametrize("name", ["selection_state.json", "selection_state.npz"])
def test_truncated_file_without_digests(train, saved_run, name):
    (saved_run / "checkpoint-1" / "checkpoint_digests.json").unlink()
    state = saved_run / "checkpoint-1" / "selection_state.json"
    state.write_text(state.read_text().replace('"version": 5', '"version": 4'))  # of a release that wrote none
    os.truncate(saved_run / "checkpoint-1" / name, 60)
    with pytest.raises(ResumeError, match=r"checkpoint-1' is no complete checkpoint|npz' or .* is damaged: "):
        train(Random(), name="run", resume=str(saved_run / "checkpoint-1"), **SAVED)


def test_damaged_checkpoint_is_skipped(train, saved_run, assert_equal_weights, caplog):
    whole = train(Random(), name="whole", **SAVED)
    os.truncate(saved_run / "checkpoint-2" / "optimizer.pt", 60)
    assert_equal_weights(train(Random(), name="run", resume=True, **{**SAVED, "save_strategy": "no"}), whole)
    assert "checkpoint-2 is damaged: optimizer.pt is missing or not as it was saved. It is skipped." in caplog.text
    os.truncate(saved_run / "checkpoint-1" / "scheduler.pt", 60)
    with pytest.raises(ResumeError, match=r"run' has no other complete checkpoint: .*optimizer.pt' is not as it was"):
        train(Random(), name="run", resume=True, **SAVED)


def test_files_that_change_after_a_checkpoint_is_saved(saved_run):
    checkpoint = saved_run / "checkpoint-1"
    for name in ("README.md", "checkpoint-is-incomplete.txt"):  # the second as `enable_jit_checkpoint` does it
        (checkpoint / name).touch()
    save_digests(checkpoint)
    (checkpoint / "README.md").write_text("A checkpoint.")
    (checkpoint / "checkpoint-is-incomplete.txt").unlink()
    check_checkpoint(checkpoint)


def test_nothing_to_resume(train, tmp_path):
    with pytest.raises(ResumeError, match=r"There is no run in .*run'. Remove resume_from_checkpoint to start one."):
        train(Random(), name="run", resume=True, **SAVED)
    train(Random(), name="run", **{**SAVED, "save_strategy": "no"}).save_model()
    with pytest.raises(ResumeError, match="has saved its model, but has no checkpoint"):
        train(Random(), name="run", resume=True, **SAVED)
    with pytest.raises(ResumeError, match="There is no run in"):
        check_run_exists(tmp_path / "nowhere")


def test_killed_while_the_first_rows_are_selected(train, monkeypatch, tmp_path, caplog):
    def stop(*args: Any) -> None:
        raise Killed("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Random, "select", stop)
        with pytest.raises(Killed, match="killed"):
            train(Random(), name="run", **SAVED)
    assert train(Random(), name="run", resume=True, **SAVED).state.global_step == 2
    assert "Training begins again." in caplog.text


def test_an_older_checkpoint_is_deleted_after_the_new_one_is_complete(train, monkeypatch, tmp_path):
    deleted = []
    rmtree = shutil.rmtree

    def observe(path: Any, *args: Any, **kwargs: Any) -> None:
        if "checkpoint-" in str(path):
            deleted.append(last_complete_checkpoint(tmp_path / "run"))
        rmtree(path, *args, **kwargs)

    monkeypatch.setattr(shutil, "rmtree", observe)
    train(Random(), name="run", save_total_limit=1, **SAVED)
    assert deleted == [str(tmp_path / "run" / "checkpoint-2")]


@contextmanager
def full_disk():
    """Let every write to a file fail, as on a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_one_sentence(tmp_path):
    state = SelectionState({}, [], CarriedState({"window": np.arange(9)}))
    sentence = r"^Cannot write '.*{}': .*File too large.*\.$"
    with full_disk():
        with pytest.raises(DataselError, match=sentence.format(STATE_ARRAYS)):
            state.save(tmp_path / "checkpoint-1")
        with pytest.raises(DataselError, match=sentence.format("00000.safetensors")):
            BaseWeights(str(tmp_path)).save(torch.nn.Linear(4, 4))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    BaseWeights(str(tmp_path)).save(torch.nn.Linear(4, 4))
    with full_disk(), pytest.raises(DataselError, match=r"^Cannot write '.*_base_weights': "):
        BaseWeights(str(tmp_path / "other")).copy_from(BaseWeights(str(tmp_path)))
