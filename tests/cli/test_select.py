"""Output and errors of `hf-datasel select`."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import Selection
from hf_datasel.cli import main


@pytest.fixture
def command(rows_file, tmp_path):
    return ["select", "--dataset_name", str(rows_file), "--output_dir", str(tmp_path / "out")]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (["--selector", "longest", "--selection_tokens", "300"], "A budget of tokens needs a tokenizer to count with"),
        (
            ["--selector", "longest", "--selection_tokens", "300", "--selector_kwargs", '{"unit": "tokens"}'],
            "A budget of tokens needs a tokenizer to count with, or the column num_tokens.",
        ),
        (["--selector", "longest", "--selector_kwargs", '{"unit": "tokens"}'], "Length has no model to run."),
    ],
)
def test_suggested_command_adds_the_tokens(method, message, command, rows_file, tiny_model_dir, tmp_path, capsys):
    assert main([*command, *method]) == 2
    output = capsys.readouterr().err
    assert message in output
    match = re.search(r"with hf-datasel (score .*) --model_name_or_path MODEL, and select from the file", output)
    assert match is not None
    more = ["--dataset_name", str(rows_file), "--model_name_or_path", str(tiny_model_dir)]
    assert main([*shlex.split(match[1]), *more, "--output_dir", str(tmp_path / "scored")]) == 0
    scored = ["--dataset_name", str(tmp_path / "scored" / "scored.parquet"), "--selector", "top"]
    assert main([*command, *scored, "--selector_kwargs", '{"by": "num_tokens"}', "--selection_tokens", "300"]) == 0
    assert Selection.load(tmp_path / "out").provenance["tokens"]["selected"] <= 300


@pytest.mark.parametrize("settings", [[], ["--selector_kwargs", '{"no_such": 1}'], ["--selection_size", "2"]])
@pytest.mark.parametrize(
    ("name", "kind", "rounds"),
    [
        ("cherry", "Cherry", 2),
        ("iterative_kmq", "IterativeKMQ", 3),
        ("less", "LESS", 2),
        ("diverse_evol", "DiverseEvol", 11),
    ],
)
def test_training_selectors_suggest_train(name, kind, rounds, settings, command, tmp_path, capsys):
    assert main([*command, "--selector", name, *settings]) == 2
    assert capsys.readouterr().err == (
        f"hf-datasel select: error: {kind} selects in {rounds} rounds with training between them. Use it "
        "with hf-datasel train.\n"
    )
    assert not (tmp_path / "out").exists()


def test_single_round(command, tmp_path):
    one = ["--selector", "diverse_evol", "--selector_kwargs", '{"rounds": 1}', "--selection_size", "3"]
    assert main([*command, *one]) == 0
    assert len(Selection.load(tmp_path / "out").indices) == 3


def test_missing_column_suggests_a_command(command, pool_rows, tmp_path, capsys):
    pool_rows.add_column("ifd", np.linspace(0, 1, 24)).to_parquet(tmp_path / "scored.parquet")
    scored = ["--dataset_name", str(tmp_path / "scored.parquet"), "--selector", "top", "--selector_kwargs"]
    assert main([*command, *scored, '{"by": "idf"}']) == 2
    assert capsys.readouterr().err.endswith("Did you mean 'ifd'? Scores are added with hf-datasel score.\n")
    assert main([*command, *scored, '{"by": "response_words"}']) == 2
    way = "It is added with hf-datasel score --scores length (see hf-datasel list for its settings).\n"
    assert capsys.readouterr().err.endswith(way)


def test_earlier_selection_is_replaced_only_on_request(command, tmp_path, capsys):
    assert main([*command, "--selector", "longest", "--selection_size", "3"]) == 0
    assert main([*command, "--selector", "random", "--selection_size", "4"]) == 2
    message = f"{tmp_path / 'out'} contains a selection, Longest: 3 of 24 rows. Pass another --output_dir, or --over"
    assert message in capsys.readouterr().err
    assert len(Selection.load(tmp_path / "out")) == 3
    assert main([*command, "--selector", "random", "--selection_size", "4", "--overwrite"]) == 0
    assert len(Selection.load(tmp_path / "out")) == 4
    interrupted = Selection.load(tmp_path / "out")
    interrupted.provenance["interrupted"] = True
    interrupted.save(tmp_path / "out")
    assert main([*command, "--selector", "random", "--selection_size", "5"]) == 0
    assert len(Selection.load(tmp_path / "out")) == 5


def test_json(command, tmp_path, capsys):
    assert main([*command, "--selector", "random", "--selection_size", "4", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record.pop("output_dir") == str(tmp_path / "out")
    assert record == Selection.load(tmp_path / "out").provenance


def test_printed_next_steps_run(command, rows_file, tmp_path, capsys):
    assert main([*command, "--selector", "random", "--selection_size", "4"]) == 0
    report, push = capsys.readouterr().out.split("Next, for example:\n")[1].splitlines()
    rows = f"--selection {tmp_path / 'out'} --dataset_name {rows_file}"
    assert push == f"  hf-datasel push {rows} --repo_id NAMESPACE/NAME --dry_run"
    assert main([*shlex.split(report)[1:], "--output_dir", str(tmp_path / "report")]) == 0
    score = ["score", "--dataset_name", str(rows_file), "--scores", "length", "--output_dir", str(tmp_path / "scored")]
    capsys.readouterr()
    assert main(score) == 0
    (select,) = capsys.readouterr().out.split("Next, for example:\n")[1].splitlines()
    assert '\'{"by": "prompt_words"}\'' in select or '\'{"by": "response_words"}\'' in select
    assert main([*shlex.split(select)[1:], "--output_dir", str(tmp_path / "selected")]) == 0


def test_next_step_after_a_score_of_flaws_excludes_rows(tmp_path, capsys):
    loops = ["Sing it once more, and then again. " * (1 + number % 3) + "Yes. " * number for number in range(24)]
    rows = Dataset.from_dict({"prompt": [f"Sing {number}" for number in range(24)], "completion": loops})
    rows.to_json(tmp_path / "rows.jsonl")
    flags = ["--dataset_name", str(tmp_path / "rows.jsonl"), "--output_dir", str(tmp_path / "scored")]
    assert main(["score", *flags, "--scores", "repetition"]) == 0
    (select,) = capsys.readouterr().out.split("Next, for example:\n")[1].splitlines()
    assert main([*shlex.split(select)[1:], "--output_dir", str(tmp_path / "selected")]) == 0
    selection = Selection.load(tmp_path / "selected")
    assert 0 < len(selection) < 24
    assert selection.scores("repetition")[selection.indices].max() < 0.5
    assert main(["score", *flags, "--scores", "repetition", "length"]) == 0
    assert '\'{"by": "response_words"}\'' in capsys.readouterr().out
