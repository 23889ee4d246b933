"""The scripts in recipes/scale, run on toy rows, with a cluster and jobs that are simulated."""

from __future__ import annotations

import io
import os
import re
import runpy
import signal
import sys
import textwrap
import tomllib
import types
from pathlib import Path

import dill
import fsspec
import pyarrow.parquet as pq
import pytest

from hf_datasel import score
from hf_datasel.scores import IFD, Loss

FOLDER = Path(__file__).parents[2] / "recipes" / "scale"
TASKS = 3


@pytest.fixture
def run_script(pool_rows, tmp_path, tiny_model_dir, monkeypatch):
    """Return a function that runs a script on the small pool with the small model, in three tasks and a new folder."""
    pool_rows.to_json(tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)

    def run(name):
        text = (FOLDER / name).read_text(encoding="utf-8")
        for old, new in (
            ('"tatsu-lab/alpaca"', repr(str(tmp_path / "rows.jsonl"))),
            ("Qwen/Qwen3-0.6B", str(tiny_model_dir)),
            ('"outputs/', f'"{tmp_path}/outputs/'),  # datatrove caches folders by their relative paths
            ("tasks=64", f"tasks={TASKS}"),
            ("num_proc=8", "num_proc=1"),
            ("hf://buckets/me/alpaca-scores", f"memory://{tmp_path.name}"),
        ):
            text = text.replace(old, new)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return runpy.run_path(str(tmp_path / name), run_name="__main__")

    return run


@pytest.fixture
def check_tables(pool_rows, tiny_model_dir, passes):
    """Return a function that checks the tables in a folder, and that each row was scored once."""
    expected = score(pool_rows, [Loss(), IFD()], model=tiny_model_dir)
    passes.clear()

    def check(folder, open_file=open):
        assert sum(passes) == 48  # the loss of the response is shared, its loss without the instruction is not
        names = [f"shard-{index:05d}-of-{TASKS:05d}.parquet" for index in range(TASKS)]
        tables = []
        for name in names:
            with open_file(f"{folder}/scores/{name}", "rb") as file:
                tables.append(pq.read_table(io.BytesIO(file.read())))
        assert [row for table in tables for row in table["row"].to_pylist()] == list(range(24))
        for name in ("loss", "ifd"):
            values = [value for table in tables for value in table[name].to_pylist()]
            assert values == pytest.approx(expected[name][:], rel=1e-5)

    return check


def run_pickled(path, open_file, monkeypatch, **variables):
    """Run a pickled executor as `launch_pickled_pipeline` does in a job with these environment variables."""
    with monkeypatch.context() as patch, open_file(path, "rb") as file:
        for name, value in variables.items():
            patch.setenv(name, value)
        dill.load(file).run()


def test_local(run_script, check_tables, tmp_path):
    run_script("local.py")
    check_tables(tmp_path / "outputs" / "alpaca-scores")
    run_script("local.py")
    check_tables(tmp_path / "outputs" / "alpaca-scores")


@pytest.mark.slow
def test_slurm(run_script, check_tables, tmp_path, monkeypatch):
    for name, line in (("sbatch", 'echo "$@" >> sbatch.txt; echo Submitted batch job 7'), ("scontrol", "echo node1")):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    handler = signal.getsignal(signal.SIGUSR1)
    run_script("slurm.py")
    logs = tmp_path / "outputs" / "alpaca-scores" / "logs"
    script = (logs / "launch_script.slurm").read_text()
    for line in ("#SBATCH --array=0-2%16", "#SBATCH --partition=gpu", "#SBATCH --gpus=1", "source .venv/bin/activate"):
        assert f"{line}\n" in script
    assert f"launch_pickled_pipeline {logs / 'executor.pik'}\n" in script
    assert "--qos" not in script
    for index in ("2", "0", "1"):
        run_pickled(logs / "executor.pik", open, monkeypatch, SLURM_ARRAY_TASK_ID=index, SLURM_NODELIST="node1")
    signal.signal(signal.SIGUSR1, handler)
    check_tables(tmp_path / "outputs" / "alpaca-scores")
    submitted = (tmp_path / "sbatch.txt").read_text()
    run_script("slurm.py")
    assert (tmp_path / "sbatch.txt").read_text() == submitted


def test_ray(run_script, check_tables, tmp_path, monkeypatch):
    def run(executor):
        assert (executor.gpus_per_task, executor.cpus_per_task) == (1, 4)
        for rank in range(executor.world_size):
            executor._run_for_rank(rank)

    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(init=lambda: None))
    monkeypatch.setattr("datatrove.executor.RayPipelineExecutor.run", run)
    run_script("ray_cluster.py")
    check_tables(tmp_path / "outputs" / "alpaca-scores")


def test_hf_jobs(run_script, check_tables, tmp_path, monkeypatch):
    jobs, memory = [], fsspec.filesystem("memory")

    def run_uv_job(script, script_args, dependencies, env, flavor, **options):
        assert Path(script).name == "launch_pickled_pipeline.py"
        assert (flavor, dependencies) == ("l4x1", ["hf-datasel[scale]", "datatrove>=0.10"])
        run_pickled(script_args[0], fsspec.open, monkeypatch, **env)
        jobs.append(types.SimpleNamespace(id=str(len(jobs)), url=""))
        return jobs[-1]

    done = types.SimpleNamespace(status=types.SimpleNamespace(stage="COMPLETED"))
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr("huggingface_hub.run_uv_job", run_uv_job)
    monkeypatch.setattr("huggingface_hub.inspect_job", lambda **options: done)
    monkeypatch.setattr("datatrove.executor.jobs.time", types.SimpleNamespace(sleep=lambda seconds: None))
    for _ in range(2):
        run_script("hf_jobs.py")
        assert len(jobs) == 1  # three tasks of at most eight
        check_tables(f"/{tmp_path.name}", memory.open)


def test_score_shard(local_hub, pool_rows, tmp_path, tiny_model_dir, passes, monkeypatch):
    monkeypatch.setattr("hf_datasel.hub.retry.WAIT", 0.01)
    content = io.BytesIO()
    pool_rows.to_parquet(content)
    local_hub.commit("tatsu-lab/alpaca", {"data/train-00000-of-00001.parquet": content.getvalue()})
    text = (FOLDER / "score_shard.py").read_text(encoding="utf-8")
    header = re.match(r"(?m)# /// script\n((?:#(?:| .*)\n)+)# ///\n", text)[1]
    assert tomllib.loads(re.sub("(?m)^# ?", "", header))["dependencies"] == ["hf-datasel"]
    for index in (2, 0, 2, 1):
        shard = ["tatsu-lab/alpaca", f"{index}/{TASKS}", "tester/alpaca-scores"]
        monkeypatch.setattr(sys, "argv", ["score_shard.py", *shard, "--model_name_or_path", str(tiny_model_dir)])
        runpy.run_path(str(FOLDER / "score_shard.py"), run_name="__main__")
    assert sum(passes) == 48
    example = re.search(r"    from hf_datasel.*?store=store\)\n", text, re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    names = {}
    code = textwrap.dedent(example).replace("Qwen/Qwen3-0.6B", str(tiny_model_dir)).replace('"me/', '"tester/')
    exec(code, names)
    assert sum(passes) == 48
    assert len(names["scored"]["ifd"][:]) == 24
