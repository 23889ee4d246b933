"""Large datasets in windows: scoring begins before all rows are tokenized, and results stay equal."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import multiprocess
import numpy as np
import psutil
import pytest
from datasets import Dataset, Features, Json

from hf_datasel import score
from hf_datasel.scores import IFD, Embedding, Length, Loss, PromptLoss
from hf_datasel.scoring import ScoreStore, windows
from hf_datasel.scoring.column_provenance import provenance_of_columns
from hf_datasel.scoring.logprobs import LogprobRunner
from hf_datasel.tokens import Sequences

SCORES = [IFD(), Loss(), PromptLoss(), IFD(convention="cherry", column_prefix="cherry_"), Length("tokens")]
NAMES = ["ifd", "loss", "loss_prior", "loss_prompt", "cherry_ifd", "response_tokens"]
REASONS = ["ifd_reason", "cherry_ifd_reason"]


@pytest.fixture
def rows(pool_rows):
    """Return the small pool with an empty response in its second and its last window."""
    data = pool_rows.to_list()
    data[9]["output"] = data[22]["output"] = ""
    return Dataset.from_list(data)


@pytest.fixture
def in_windows(monkeypatch):
    """Score in three windows of eight rows, which are tokenized without another process unless `num_proc` is set."""
    monkeypatch.setattr(windows, "MIN_ROWS", 24)
    monkeypatch.setattr(windows, "WINDOW_ROWS", 8)
    monkeypatch.setattr(windows, "_num_proc", lambda: None)


@pytest.fixture
def events(monkeypatch):
    """Return the number of rows of each tokenization, and "pass" for each forward pass, in the order of time."""
    seen, mapped, hidden = [], Dataset.map, LogprobRunner.hidden

    def recorded_map(self, *args, **options):
        result = mapped(self, *args, **options)
        if options.get("desc", "").startswith("Tokenizing"):
            seen.append(len(self))
        return result

    def recorded_pass(self, batch):
        seen.append("pass")
        return hidden(self, batch)

    monkeypatch.setattr(Dataset, "map", recorded_map)
    monkeypatch.setattr(LogprobRunner, "hidden", recorded_pass)
    return seen


def values(dataset, names=(*NAMES, *REASONS)):
    return {name: dataset[name][:] for name in names}


def test_scoring_begins_before_the_last_row_is_tokenized(rows, in_windows, events, tiny_model_dir):
    score(rows, Loss(), model=tiny_model_dir)
    assert [event for event in events if event != "pass"] == [8, 7, 7]  # without the rows that cannot be used
    last_tokenized = len(events) - events[::-1].index(7)
    assert events.index("pass") < last_tokenized


def test_fewer_rows_are_one_window(pool_rows, events, tiny_model_dir):
    score(pool_rows, Loss(), model=tiny_model_dir)
    assert [event for event in events if event != "pass"] == [24]


@pytest.mark.slow
def test_results_are_those_of_one_window(rows, monkeypatch, tiny_model_dir):
    lines, more_lines = [], []
    expected = score(rows, SCORES, model=tiny_model_dir, on_summary=lines.append)
    monkeypatch.setattr(windows, "MIN_ROWS", 24)
    monkeypatch.setattr(windows, "WINDOW_ROWS", 12)
    result = score(rows, SCORES, model=tiny_model_dir, on_summary=more_lines.append)
    assert result.features == expected.features
    assert more_lines == lines
    for name in REASONS:
        assert result[name][:] == expected[name][:]
    for name in NAMES:
        np.testing.assert_allclose(
            result.with_format("numpy")[name][:], expected.with_format("numpy")[name][:], rtol=1e-5
        )
    specs = [provenance_of_columns(scored.with_format("arrow")[:]) for scored in (result, expected)]
    assert specs[0] == specs[1]
    assert set(NAMES) <= set(specs[0])


def test_scores_share_forward_passes(rows, in_windows, passes, tiny_model_dir):
    score(rows, IFD(), model=tiny_model_dir)
    alone = sum(passes)
    passes.clear()
    score(rows, [Loss(), IFD()], model=tiny_model_dir)
    assert sum(passes) == alone


def test_equal_with_a_store(rows, in_windows, passes, tmp_path, tiny_model_dir):
    expected = values(score(rows, SCORES, model=tiny_model_dir))
    assert values(score(rows, SCORES, model=tiny_model_dir, store=tmp_path)) == expected
    passes.clear()
    assert values(score(rows, SCORES, model=tiny_model_dir, store=tmp_path)) == expected
    assert passes == []


@pytest.mark.slow
def test_equal_for_any_number_of_processes(rows, in_windows, monkeypatch, tiny_model_dir):
    monkeypatch.setattr(windows, "WINDOW_ROWS", 12)
    expected = values(score(rows, IFD(), model=tiny_model_dir), ["ifd", "ifd_reason"])
    assert values(score(rows, IFD(), model=tiny_model_dir, num_proc=2), ["ifd", "ifd_reason"]) == expected


def test_resume(rows, in_windows, monkeypatch, passes, tmp_path, tiny_model_dir):
    options = {"model": tiny_model_dir, "scoring_tokens_per_batch": 100}
    expected, total, hidden = values(score(rows, IFD(), **options), ["ifd"]), sum(passes), LogprobRunner.hidden
    passes.clear()

    def killed(self, batch):
        if sum(passes) > total / 2:
            raise KeyboardInterrupt("stopped")
        return hidden(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="stopped"):
        patch.setattr(LogprobRunner, "hidden", killed)
        score(rows, IFD(), store=tmp_path, **options)
    passes.clear()
    assert values(score(rows, IFD(), store=tmp_path, **options), ["ifd"]) == expected
    assert 0 < sum(passes) < total / 2


def test_error_while_the_next_rows_are_tokenized(rows, in_windows, monkeypatch, passes, tmp_path, tiny_model_dir):
    original = Dataset.map
    tokenized = []

    def full(self, *args, **options):
        if options.get("desc", "").startswith("Tokenizing"):
            tokenized.append(len(self))
            if len(tokenized) == 2:
                raise OSError("No space left on device")
        return original(self, *args, **options)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device"):
        patch.setattr(Dataset, "map", full)
        score(rows, Loss(), model=tiny_model_dir, store=tmp_path)
    assert sum(table["rows"] for table in ScoreStore(tmp_path).tables()) == 8
    passes.clear()
    score(rows, Loss(), model=tiny_model_dir, store=tmp_path)
    assert sum(passes) == 14


def test_process_that_cannot_start_others(rows, monkeypatch, tiny_model_dir):
    monkeypatch.setattr(windows, "MIN_ROWS", 24)
    monkeypatch.setattr(windows, "WINDOW_ROWS", 12)
    worker = multiprocess.get_context("fork").Process(
        target=score, args=(rows, Loss()), kwargs={"model": tiny_model_dir}, daemon=True
    )
    worker.start()
    worker.join()
    assert worker.exitcode == 0


def test_two_windows_of_tokens_are_in_memory(pool_rows, in_windows, monkeypatch, tiny_model_dir):
    monkeypatch.setattr(windows, "WINDOW_ROWS", 3)
    created, most = weakref.WeakSet(), []
    init, hidden = Sequences.__post_init__, LogprobRunner.hidden

    def counted(self):
        init(self)
        created.add(self)

    def measured(self, batch):
        gc.collect()
        most.append(sum(len(sequences) for sequences in created))
        return hidden(self, batch)

    monkeypatch.setattr(Sequences, "__post_init__", counted)
    monkeypatch.setattr(LogprobRunner, "hidden", measured)
    score(pool_rows, Loss(), model=tiny_model_dir)
    assert len(most) >= 8
    assert max(most) <= 2 * 2 * 3  # two windows, conditional and prior


def test_vectors_are_one_window(rows, in_windows, events, tiny_model_dir):
    score(rows, [IFD(), Embedding(as_trained=True)], model=tiny_model_dir)  # which share a forward pass
    assert [event for event in events if event != "pass"] == [22]


def test_conversations_without_a_chat_template_beside_text(monkeypatch, tiny_text_model_dir):
    monkeypatch.setattr(windows, "MIN_ROWS", 2)
    monkeypatch.setattr(windows, "WINDOW_ROWS", 1)
    columns = {
        "prompt": ["Is it slow?", [{"role": "user", "content": "Name a lamp."}]],
        "completion": ["No.", [{"role": "assistant", "content": "A red lamp."}]],
    }
    data = Dataset.from_dict(columns, features=Features(dict.fromkeys(columns, Json())))
    scored = score(data, Loss(), model=tiny_text_model_dir)
    assert scored["loss_reason"][:] == ["", "template_error"]


def test_progress_bar_names_the_rows(rows, in_windows, monkeypatch, capsys, tiny_model_dir):
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "250")
    score(rows, Loss(), model=tiny_model_dir)
    shown = capsys.readouterr().err
    assert "loss, rows 9-16 of 24:" in shown
    assert shown.count("Tokenizing") == shown.split("loss, rows 1-8")[0].count("Tokenizing")


@pytest.mark.skipif(sys.platform != "linux", reason="processes that end with a thread are a feature of Linux")
@pytest.mark.parametrize("before_the_fork_has_begun", [False, True])
def test_processes_that_tokenize_end_with_a_killed_process(before_the_fork_has_begun):
    code = (
        "import os, sys, time; from concurrent.futures import ThreadPoolExecutor; from multiprocess import Process\n"
        "wait = {}\n"
        "os.register_at_fork(after_in_child=lambda: time.sleep(wait.get('seconds', 0)))\n"
        "from hf_datasel.scoring import windows\n"
        "def start():\n"
        "    wait['seconds'] = float(sys.argv[1])\n"
        "    process = Process(target=time.sleep, args=(600,)); process.start(); print(process.pid, flush=True)\n"
        "with ThreadPoolExecutor(1, 'tokenize', windows._end_forks_with_thread) as executor:\n"
        "    executor.submit(start).result(); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code, "0.5" if before_the_fork_has_begun else "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    assert not psutil.wait_procs([child], timeout=30)[1]
