"""Tokenizing in several processes: the same scores and records for any number of them."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import load_pool, score
from hf_datasel.cli import main
from hf_datasel.errors import ScoreError
from hf_datasel.scores import IFD, Length
from hf_datasel.scoring.column_provenance import provenance_of

SCORES = [IFD(), IFD(convention="cherry", column_prefix="cherry_")]
NAMES = ["ifd", "ifd_reason", "cherry_ifd", "cherry_ifd_reason"]


@pytest.fixture
def rows(tmp_path, pool_rows):
    """Return conversations in a file: some with a turn that is not trained on, one with an empty response."""
    lines = []
    for index, row in enumerate(pool_rows):
        turns = [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]
        if index % 5 == 0:
            turns += [{"role": "user", "content": "More."}, {"role": "assistant", "content": "Gladly.", "weight": 0}]
        lines.append({"messages": turns})
    lines[3]["messages"][1]["content"] = ""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return load_pool(str(path))


@pytest.fixture
def maps(monkeypatch):
    """Return a list of the description and number of processes of each `Dataset.map` since it was cleared."""
    seen, original = [], Dataset.map

    def mapped(self, *args, **options):
        seen.append((options.get("desc"), options.get("num_proc")))
        return original(self, *args, **options)

    monkeypatch.setattr(Dataset, "map", mapped)
    return seen


def values(dataset):
    return {name: dataset[name][:] for name in NAMES}


@pytest.mark.slow
def test_equal_for_any_number_of_processes(rows, maps, tiny_model_dir):
    datasets.disable_caching()
    try:
        one = score(rows, SCORES, model=tiny_model_dir)
        spec = provenance_of("ifd", one.with_format("numpy")["ifd"][:].astype(np.float64))
        maps.clear()
        two = score(rows, SCORES, model=tiny_model_dir, num_proc=2)
    finally:
        datasets.enable_caching()
    assert values(one) == values(two)
    assert spec == provenance_of("ifd", two.with_format("numpy")["ifd"][:].astype(np.float64))
    assert {processes for _, processes in maps} == {2}
    steps = [desc.split()[0] for desc, _ in maps]
    assert {"Converting", "Tokenizing", "Masking", "Locating"} <= set(steps)


def test_command_line(tmp_path, maps, pool_rows, tiny_model_dir):
    pool_rows.to_json(tmp_path / "rows.jsonl")
    command = ["score", "--dataset_name", str(tmp_path / "rows.jsonl"), "--model_name_or_path", str(tiny_model_dir)]
    command += ["--scores", "loss", "--output_dir", str(tmp_path / "out"), "--num_proc", "2"]
    assert main(command) == 0
    assert ("Tokenizing pool dataset", 2) in maps
    assert ("Converting alpaca rows", 2) in maps


@pytest.mark.parametrize("num_proc", [0, -1, 1.5, True, "2"])
def test_invalid_number_of_processes(pool_rows, num_proc):
    with pytest.raises(ScoreError, match=r"num_proc=.* has to be an int above 0, or None"):
        score(pool_rows, [Length()], num_proc=num_proc)
