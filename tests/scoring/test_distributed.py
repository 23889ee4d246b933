"""Scoring with several processes: bit-equal results under each launcher, and no deadlocks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel.scoring import Processes, ScoreStore
from hf_datasel.scoring.runner import ModelRunner

pytestmark = pytest.mark.usefixtures("warm_python")

_SCRIPT = """
import json, sys
from accelerate import PartialState
from datasets import Dataset, disable_progress_bars
from hf_datasel import score
from hf_datasel.scores import IFD, Cluster, Embedding, Loss, SelectIT
from hf_datasel.scoring import Processes, measure_cost, vector_files, windows
from hf_datasel.tokens.row_tokenizer import RowTokenizer
disable_progress_bars()
folder, model, store = sys.argv[1:4]
if store:
    vector_files.MAX_BYTES_IN_MEMORY = 0  # vectors are in a file, which both processes map
tokenized, original = [], RowTokenizer.apply_chat_template
def counted(*arguments, **options):
    tokenized.append(arguments)
    return original(*arguments, **options)
RowTokenizer.apply_chat_template = counted
rows = Dataset.from_parquet(f"{folder}/rows.parquet", cache_dir=f"{folder}/cache")
scores = [IFD(), Embedding(as_trained=True), SelectIT(level="token")] + ([Cluster(k=3)] if store else [])
lines = []
with measure_cost() as meter:
    found = score(
        rows, scores, model=model, scoring_tokens_per_batch=200, store=store or None, on_summary=lines.append
    )
one = score(rows.select([0]), [Loss()], model=model)
windows.MIN_ROWS = windows.WINDOW_ROWS = 8
in_windows = score(rows, [IFD()], model=model, scoring_tokens_per_batch=200, store=store or None)
processes = Processes.current()
names = ["ifd", "loss", "loss_prior", "embedding", "selectit"] + (["cluster_id"] if store else [])
values = [found[name][:] for name in names]
result = {"size": processes.num_processes, "lines": len(lines), "one": one["loss"][:], "found": values,
          "in_windows": in_windows["ifd"][:], "cost": meter.cost, "tokenized": len(tokenized)}
with open(f"{folder}/result-{processes.num_processes}-{processes.process_index}.json", "w") as file:
    json.dump(result, file)
PartialState().destroy_process_group()
"""

LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    "accelerate": ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"],
}


def run(folder: Path, model: Path, launcher: str | None = None, store: str = "") -> list[dict]:
    """Return the result of each process."""
    (folder / "script.py").write_text(_SCRIPT)
    command = [sys.executable, *LAUNCHERS.get(launcher or "", []), str(folder / "script.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(folder), str(model), store],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    size = 2 if launcher else 1
    return [json.loads((folder / f"result-{size}-{rank}.json").read_text()) for rank in range(size)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pool_rows: Dataset) -> Path:
    built = tmp_path_factory.mktemp("processes")
    pool_rows.to_parquet(built / "rows.parquet")
    return built


@pytest.fixture(scope="module")
def alone(folder: Path, tiny_model_dir: Path) -> dict:
    """Return the result of a single process."""
    return run(folder, tiny_model_dir)[0]


@pytest.mark.parametrize("launcher", list(LAUNCHERS))
def test_two_processes_equal_one(launcher, folder, tiny_model_dir, alone, tmp_path):
    shutil.copy(folder / "rows.parquet", tmp_path)
    first, second = run(tmp_path, tiny_model_dir, launcher)
    assert first["tokenized"] >= 24
    assert second["tokenized"] == 0  # it reads what the main process has cached
    assert (first["size"], second["size"]) == (2, 2)
    assert first["found"] == second["found"] == alone["found"]
    assert first["in_windows"] == second["in_windows"] == alone["in_windows"]
    assert first["one"] == second["one"] == alone["one"]  # one row: a process without a batch
    assert (first["lines"], second["lines"]) == (3, 0)
    for result in (first, second):
        for key in ("tokens_forward", "flops"):
            assert result["cost"][key] == alone["cost"][key] > 0
        assert result["cost"]["device_seconds"] == 2 * result["cost"]["wall_seconds"]


class _OneOfFour(Processes):
    """A process that meets no other, and in which every second item is cached."""

    def all_reduce(self, values):
        return values

    def broadcast(self, values):
        values[:] = np.arange(len(values)) % 2
        return values

    def gather_object(self, value):
        return [value]


def test_requests_of_a_resumed_run_are_shared_evenly(tmp_path):
    requested = []

    def compute(batch):
        requested.append(batch.tolist())
        for position in range(len(batch)):
            yield batch[position : position + 1], np.ones((1, 1))

    keys = np.arange(16, dtype=np.uint8).repeat(16).reshape(16, 16)
    for rank in range(4):
        runner = ModelRunner(progress=False, processes=_OneOfFour(rank, 4), store=ScoreStore(tmp_path))
        runner.run_as_completed(compute, 16, 1, label="answers", keys=lambda: keys, spec={"computed": "test"})
    assert sorted(chain(*requested)) == list(range(0, 16, 2))
    assert [len(batch) for batch in requested] == [2, 2, 2, 2]


_REFUSED = """
import sys
from accelerate import PartialState
from datasets import Dataset, disable_progress_bars
from hf_datasel import score
from hf_datasel.errors import ScoreError
from hf_datasel.scores import Cluster, Embedding, Loss
from hf_datasel.scoring import Processes
disable_progress_bars()
folder, model, store = sys.argv[1:4]
rows = Dataset.from_parquet(f"{folder}/rows.parquet", cache_dir=f"{folder}/cache")
with PartialState().main_process_first():  # as trainers map: one process after the other
    mapped = rows.map(Loss(model), batched=True, load_from_cache_file=False)
same = score(rows, [Embedding(as_trained=True)], model=model).map(lambda row: {"embedding": [1.0, 2.0]})
try:
    score(same, [Cluster(k=3)], store=store)
except ScoreError as error:
    with open(f"{folder}/refused-{Processes.current().process_index}.txt", "w") as file:
        file.write(str(error))
assert mapped["loss"][0] > 0
PartialState().destroy_process_group()
"""


def test_error_is_raised_on_all_processes(tmp_path, folder, tiny_model_dir):
    (tmp_path / "script.py").write_text(_REFUSED)
    done = subprocess.run(
        [sys.executable, *LAUNCHERS["torchrun"], str(tmp_path / "script.py"), folder, tiny_model_dir, tmp_path / "s"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    messages = [(folder / f"refused-{rank}.txt").read_text() for rank in range(2)]
    assert messages[0] == messages[1]
    assert messages[0].startswith("Cluster(k=3): so many of the 24 vectors are equal")


def test_two_processes_share_a_store(tmp_path, folder, tiny_model_dir, alone):
    for _ in range(2):
        first, second = run(folder, tiny_model_dir, "torchrun", str(tmp_path))
        assert first["found"] == second["found"]
        assert first["found"][:5] == alone["found"]
        assert first["in_windows"] == second["in_windows"] == first["found"][0]  # which the store holds
        assert list(tmp_path.glob("*/*.segment")) == []
        assert len(list(tmp_path.glob("vectors/*"))) == 1
    assert run(folder, tiny_model_dir, None, str(tmp_path))[0]["found"] == first["found"]
