"""Flags of `hf-datasel bench` and its errors; what it does is in tests/evaluation/test_experiment.py."""

from __future__ import annotations

import pytest
import yaml

from hf_datasel.cli import main

VALUES = {"model_name_or_path": "model", "dataset_name": "rows.jsonl", "methods": ["iterit"], "suite": ["quick"]}


def bench(folder, *flags, **changes):
    values = {key: value for key, value in {**VALUES, **changes}.items() if value is not None}
    (folder / "bench.yaml").write_text(yaml.safe_dump(values))
    return ["bench", "--config", str(folder / "bench.yaml"), "--output_dir", str(folder / "out"), *flags]


@pytest.mark.parametrize(
    ("flags", "changes", "message"),
    [
        ((), {"model_name_or_path": None}, "model_name_or_path is missing. Pass --model_name_or_path NAME"),
        ((), {"dataset_name": None}, "dataset_name is missing. Pass --dataset_name NAME"),
        ((), {"suite": None}, "No task is named. Pass --suite NAME"),
        ((), {"methods": ["iterti"]}, "There is no selector 'iterti'. Did you mean 'iterit'?"),
        ((), {"train": {"learning_rat": 1}}, "unknown key 'learning_rat'. Did you mean 'learning_rate'?"),
        ((), {"sedes": 3}, "unknown key 'sedes'. Did you mean 'seeds'?"),
        (("--shard", "9/8"), {}, "--shard '9/8' has to be the number of a part and that of all parts, such as 3/8."),
        (("--plan", "--gather"), {}, "--plan, --list and --gather exclude each other"),
        (("--gather",), {}, "has no experiment.json: no experiment has begun there"),
        (
            ("--gather", "--margin", "2"),
            dict.fromkeys(VALUES),
            "--gather reads the settings that the experiment in '",
        ),
        (("--seeds", "many"), {}, "seeds='many' has to be a number of runs"),
        ((), {"launcher": ["rm", "-rf", "x"]}, "runs a command of its own (launcher). If you trust the file"),
        ((), {"allow_code_execution": True}, "runs programs that a model writes (allow_code_execution)"),
        ((), {"train": {"trust_remote_code": True}}, "runs Python code from the repository of a model"),
    ],
    ids=str,
)
def test_errors(tmp_path, capsys, flags, changes, message):
    assert main(bench(tmp_path, *flags, **changes)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "cells").exists()
