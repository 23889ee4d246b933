"""Scoring as a step of datatrove: the tables of shards, whatever runs them and however often it is killed."""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import sys

import fsspec
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset
from datatrove.executor import LocalPipelineExecutor

from hf_datasel import score
from hf_datasel.cli import main
from hf_datasel.errors import ConfigError, ScoreError
from hf_datasel.scores import Embedding, Length, Loss
from hf_datasel.scoring import Shard, ShardedScores
from hf_datasel.scoring.datatrove import ScoreShards
from hf_datasel.scoring.logprobs import LogprobRunner

SCORES = [Loss(), Embedding(as_trained=True), Length()]
NAMES = ["loss", "embedding", "response_words"]


@pytest.fixture
def file(pool_rows, tmp_path):
    """Return a file with the small pool."""
    path = tmp_path / "rows.jsonl"
    pool_rows.to_json(path)
    return path


def run(step, folder, tasks=4):
    LocalPipelineExecutor([step], tasks=tasks, workers=1, logging_dir=str(folder / "logs")).run()


def tables(folder):
    return {path.name: pq.read_table(path) for path in sorted((folder / "scores").glob("*.parquet"))}


def run_in_process(function, log, die_at=None):
    """Run a function in a process that logs the rows of every forward pass, and is killed at the start of one."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    os.setsid()  # the manager of datatrove dies with it
    hidden, count = LogprobRunner.hidden, 0

    def logged(self, batch):
        nonlocal count
        count += 1
        if count == die_at:
            os.killpg(0, signal.SIGKILL)
        with log.open("a", encoding="utf-8") as file:
            file.writelines(f"{sequence.ids.tolist()}\n" for sequence in batch)
        return hidden(self, batch)

    LogprobRunner.hidden = logged
    function()
    os._exit(0)


# -- the same tables --------------------------------------------------------------------------------------------------
def test_tables_are_those_of_one_process(file, pool_rows, tmp_path, tiny_model_dir):
    options = {"scoring_tokens_per_batch": 1}  # each row is a batch, so that no bit depends on the shards
    one = score(pool_rows, SCORES, model=tiny_model_dir, **options)
    step = ScoreShards(file, SCORES, tmp_path, tiny_model_dir, **options)
    for rank in (2, 0, 3, 1):
        step.run(None, rank, 4)
    for name in NAMES:
        assert [value for table in tables(tmp_path).values() for value in table[name].to_pylist()] == one[name][:]


def test_killed_tasks_continue(file, pool_rows, tmp_path, tiny_model_dir, passes):
    options = {"scoring_tokens_per_batch": 150}
    sharded = ShardedScores(pool_rows, SCORES, tmp_path / "shards", tiny_model_dir, **options)
    assert all([sharded.score(Shard(index, 4)) for index in (2, 0, 3, 1)])
    expected = tables(tmp_path / "shards")

    folder, log = tmp_path / "scored", tmp_path / "passes"
    step = ScoreShards(file, SCORES, folder, tiny_model_dir, **options)
    for die_at in (4, 2):
        assert run_in_process(lambda: run(step, folder), log, die_at) == -signal.SIGKILL
    assert len(log.read_text().splitlines()) % 6 != 0  # in the middle of a shard
    assert run_in_process(lambda: run(step, folder), log) == 0
    scored = log.read_text().splitlines()
    assert len(scored) == len(set(scored)) == 24
    assert tables(folder) == expected

    passes.clear()
    (folder / "logs" / "completions" / "00002").unlink()  # as if killed between the table and the mark
    run(step, folder)
    assert passes == []
    assert tables(folder) == expected


# -- other folders and rows -------------------------------------------------------------------------------------------
def test_tables_are_those_of_the_command(file, tmp_path, tiny_model_dir, passes, capsys):
    run(ScoreShards(file, Loss(), tmp_path / "scored", tiny_model_dir), tmp_path / "scored", tasks=2)
    assert sum(passes) == 24
    flags = ["--dataset_name", str(file), "--scores", "loss", "--model_name_or_path", str(tiny_model_dir)]
    assert main(["score", *flags, "--output_dir", str(tmp_path / "scored"), "--shard", "1/2"]) == 0
    assert "Nothing to compute" in capsys.readouterr().out
    assert main(["score", *flags, "--output_dir", str(tmp_path / "scored")]) == 0
    assert sum(passes) == 24
    assert len(load_dataset("parquet", data_files=str(tmp_path / "scored" / "scored.parquet"))["train"]["loss"]) == 24


def test_relative_folder_after_a_change_of_directory(file, tmp_path, monkeypatch):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        ScoreShards(file, Length(), "scored").run(None, 0, 2)
        assert len(tables(tmp_path / name / "scored")) == 1


def test_remote_folder(file, pool_rows, tmp_path, tiny_model_dir, passes):
    step = pickle.loads(pickle.dumps(ScoreShards(file, Loss(), "memory://scored", tiny_model_dir)))
    for rank in (1, 0, 1):
        step.run(None, rank, 2)
    assert sum(passes) == 24
    names = ["shard-00000-of-00002.parquet", "shard-00001-of-00002.parquet"]
    remote = fsspec.filesystem("memory")
    assert sorted(remote.ls("/scored/scores", detail=False)) == [f"/scored/scores/{name}" for name in names]
    remote.get("/scored/scores/", str(tmp_path / "copy" / "scores"), recursive=True)
    passes.clear()
    gathered = ShardedScores(pool_rows, Loss(), tmp_path / "copy", tiny_model_dir).gather()
    assert passes == []
    assert len(gathered["loss"][:]) == 24
    assert step.stats.stats["rows"].total == 24
    assert step.stats.stats["rows_scored_before"].total == 12


def test_messages_and_tools(tmp_path, tiny_model_dir):
    tool = {"type": "function", "function": {"name": "weather", "description": "Get the weather."}}
    turns = [{"role": "user", "content": "Is it warm?"}, {"role": "assistant", "content": "Yes, 21 degrees."}]
    rows = Dataset.from_list([{"messages": turns, "tools": [tool], "note": number} for number in range(3)])
    rows.to_parquet(tmp_path / "rows.parquet")
    ScoreShards(tmp_path / "rows.parquet", Loss(), tmp_path / "scored", tiny_model_dir).run(None, 1, 2)
    sharded = ShardedScores(rows, Loss(), tmp_path / "own", tiny_model_dir)
    sharded.score(Shard(1, 2))
    assert tables(tmp_path / "scored") == tables(tmp_path / "own")
    assert not ShardedScores(rows, Loss(), tmp_path / "scored", tiny_model_dir).score(Shard(1, 2))


# -- what is not possible ---------------------------------------------------------------------------------------------
def test_reader_before_the_step(file, tmp_path):
    with pytest.raises(ScoreError, match=r"loads the rows itself\. Make it the first step"):
        ScoreShards(file, Length(), tmp_path).run(iter(()))


def test_settings_are_checked_before_the_tasks(file, tmp_path, model):
    with pytest.raises(ConfigError, match="There is no score 'lenght'"):
        ScoreShards(file, "lenght", tmp_path)
    with pytest.raises(ScoreError, match="this is a loaded LlamaForCausalLM"):
        ScoreShards(file, Loss(), tmp_path, model)
    with pytest.raises(TypeError, match="unexpected keyword argument 'storage'"):
        ScoreShards(file, Length(), tmp_path, storage=tmp_path)


def test_more_tasks_than_rows(file, tmp_path):
    with pytest.raises(ScoreError, match="24 rows cannot be split into 25 shards"):
        ScoreShards(file, Length(), tmp_path).run(None, 24, 25)


def test_datatrove_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "datatrove.io", None)
    monkeypatch.delitem(sys.modules, "hf_datasel.scoring.datatrove")
    with pytest.raises(ImportError, match=r"not installed: pip install 'hf-datasel\[scale\]'"):
        importlib.import_module("hf_datasel.scoring.datatrove")
