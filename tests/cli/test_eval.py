"""`hf-datasel eval` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import Dataset

from hf_datasel.cli import main
from hf_datasel.evaluation import HeldoutLoss, heldout_loss

BASE = Path(__file__).parents[2] / "recipes" / "quickstart" / "base"


@pytest.fixture
def rows(tmp_path):
    rows = Dataset.from_dict(
        {
            "prompt": ["What does Babor order? Answer:", "What does Babor practise? Answer:", "Who? Answer:"],
            "completion": [" tea.", " harp.", " I do not know."],
            "kind": ["drink", "music", "drink"],
        }
    )
    rows.to_json(tmp_path / "rows.jsonl")
    return rows


def config(folder, **changes):
    suite = [{"mine": {"task": "heldout", "dataset_name": str(folder / "rows.jsonl"), "group_by": "kind"}}]
    values = {"model_name_or_path": str(BASE), "suite": suite, "output_dir": str(folder / "out"), **changes}
    values["suite"][0]["mine"]["max_length"] = 64
    (folder / "eval.yaml").write_text(yaml.safe_dump(values))
    return ["eval", "--config", str(folder / "eval.yaml")]


def test_a_table_and_the_values_of_all_items(tmp_path, rows, capsys):
    assert main(config(tmp_path)) == 0
    printed = capsys.readouterr().out
    expected = heldout_loss(rows, str(BASE), group_by="kind", max_length=64)
    assert (
        f"| mine | bits_per_byte | {expected.bits_per_byte('rows'):.4g} | lower | 2 | 1 response_not_rendered |"
        in printed
    )
    assert "| mine/drink |" in printed
    assert main([*config(tmp_path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [each["task"] for each in record["results"]] == ["mine", "mine/drink", "mine/music"]
    assert record["results"][0] == {
        "task": "mine",
        "metric": "bits_per_byte",
        "value": expected.bits_per_byte("rows"),
        "higher_is_better": False,
        "group": False,
        "items": 2,
        "without_value": {"response_not_rendered": 1},
    }
    (file,) = (tmp_path / "out").glob("mine-*.parquet")
    np.testing.assert_array_equal(HeldoutLoss.load(file).nats, expected.nats)


def test_what_is_there_is_not_repeated_but_for_another_model(tmp_path, rows, capsys):
    assert main(config(tmp_path)) == 0
    first = capsys.readouterr().out
    (file,) = (tmp_path / "out").glob("mine-*.parquet")
    before = file.stat().st_mtime_ns
    assert main(config(tmp_path)) == 0
    assert file.stat().st_mtime_ns == before
    assert capsys.readouterr().out == first

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    other = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    with torch.no_grad():
        other.get_input_embeddings().weight.mul_(0.5)
    other.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(BASE).save_pretrained(tmp_path / "other")
    assert main(config(tmp_path, model_name_or_path=str(tmp_path / "other"))) == 0
    assert file.stat().st_mtime_ns != before
    assert capsys.readouterr().out != first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "quick"], "No model is named. Pass --model_name_or_path"),
        (["--model_name_or_path", "x"], "No task is named. Pass --suite NAME"),
        (["--model_name_or_path", "x", "--suit", "quick"], "Unknown flag --suit. Did you mean '--suite'?"),
        (["--model_name_or_path", "x", "--suite", "quick", "--tier", "ful"], "Did you mean 'full'?"),
    ],
)
def test_errors(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["eval", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("name", "meant"), [("quik", "quick"), ("exactmatch", "exact_match"), ("gsm8", "gsm8k")])
def test_a_typo_in_the_name_of_a_suite_or_task(name, meant, capsys):
    pytest.importorskip("lm_eval")
    assert main(["eval", "--model_name_or_path", "x", "--suite", name]) == 2
    error = capsys.readouterr().err
    assert f"no task {name!r}, and there is no suite of this name. Did you mean {meant!r}?" in error


def test_a_typo_in_a_task(tmp_path, rows, capsys):
    command = config(tmp_path)
    values = yaml.safe_load((tmp_path / "eval.yaml").read_text())
    values["suite"][0]["mine"]["group_bye"] = "kind"
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump(values))
    assert main(command) == 2
    assert "The task 'mine' has no setting 'group_bye'. Did you mean 'group_by'?" in capsys.readouterr().err
