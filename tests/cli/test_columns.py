"""Datasets with other column names, and datasets in several files, from scores to the card."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from hf_datasel import Selection, load_pool
from hf_datasel.cli import main

COLUMNS = {"prompt": "task", "completion": "gold"}
MAPPED = ["--columns", json.dumps(COLUMNS)]


@pytest.fixture
def csv_file(pool_rows, tmp_path, monkeypatch):
    """Give a CSV file in a folder, whose answers are numbers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards").mkdir()
    lines = [f'"{row["instruction"]}",{number},{number / 10}' for number, row in enumerate(pool_rows)]
    (tmp_path / "shards" / "rows.csv").write_text("\n".join(["task,gold,ifd", *lines]) + "\n")
    return "./shards/rows.csv"


def run(*arguments: str) -> None:
    assert main(list(arguments)) == 0


def test_from_score_to_report(csv_file, pool_rows, capsys):
    run("score", "--dataset_name", csv_file, *MAPPED, "--scores", "length", "--output_dir", "scored")
    assert load_pool("scored/scored.parquet")["response_words"][:] == [1] * len(pool_rows)
    select = ["--selector", '{"top": {"by": "ifd"}}', "--selection_size", "3"]
    run("select", "--dataset_name", csv_file, *MAPPED, *select, "--output_dir", "out", "--save_subset", "true")
    selection = Selection.load("out")
    assert selection.columns == COLUMNS
    assert selection.indices.tolist() == [len(pool_rows) - 1, len(pool_rows) - 2, len(pool_rows) - 3]
    assert load_pool("out/subset.parquet").column_names[:3] == ["task", "gold", "ifd"]
    run("explain", "0", "--selection", "out", "--dataset_name", csv_file)
    assert "Row 0 was not selected" in capsys.readouterr().out
    run("report", "--selection", "out", "--dataset_name", csv_file, "--output_dir", "report")
    page = Path("report/report.md").read_text()
    assert "| **columns** | `task` is read as `prompt`, `gold` is read as `completion` |" in page
    assert str(selection.provenance["dataset"]["id"]) in page
    facts = json.loads(Path("report/facts.json").read_text())
    assert facts["parent"]["columns"] == COLUMNS
    command = next(part for part in page.split("```") if part.startswith("bash\nhf-datasel"))
    arguments = shlex.split(command.removeprefix("bash\nhf-datasel").replace("\\\n", ""))
    run(*[csv_file if argument == "PATH" else argument for argument in arguments], "--output_dir", "again")
    assert Selection.load("again").indices.tolist() == selection.indices.tolist()


def test_config_file(csv_file, tmp_path):
    (tmp_path / "select.yaml").write_text(
        f"dataset_name: {csv_file}\ncolumns: {{prompt: task, completion: gold}}\nselector: {{top: {{by: ifd}}}}\n"
        "selection_size: 2\noutput_dir: out\n"
    )
    run("select", "--config", "select.yaml")
    assert Selection.load("out").provenance["selector"] == {"selector": "top", "by": "ifd"}
    (tmp_path / "compare.yaml").write_text(
        f"dataset_name: {csv_file}\ncolumns: {{prompt: task, completion: gold}}\nmethods: [random, longest]\n"
        "selection_size: 2\noutput_dir: compared\n"
    )
    run("compare", "--config", "compare.yaml")
    assert json.loads(Path("compared/compare.json").read_text())["dataset"]["columns"] == COLUMNS
    run("compare", "--dataset_name", csv_file, "--selections", "compared/random", "compared/longest")


@pytest.mark.parametrize("name", ["shards", "./shards", "shards/*.csv"])
def test_folder_and_glob(csv_file, name):
    run(
        "select",
        "--dataset_name",
        name,
        *MAPPED,
        "--selector",
        "random",
        "--selection_size",
        "2",
        "--output_dir",
        "out",
    )
    assert "shards" not in Path("out/selection.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["select"], 'Name the columns with --columns \'{"prompt": '),
        (["select", "shards/rows.csv"], "Put a glob into quotes, so that the shell does not expand it."),
        (["select", "--columns", "task"], "--columns has to be JSON on the command line"),
        (["select", "--columns", '{"prompt": "tusk", "completion": "gold"}'], "Did you mean 'task'?"),
        (["select", *MAPPED, "--selection_size", "0"], "selection_size=0 has to be a number of rows"),
        (
            ["select", *MAPPED, "--selector", "random", "--selection_size", "99"],
            "error: selection_size=99 is more than",
        ),
        (
            ["select", *MAPPED, "--dataset_train_split", "dev"],
            "It has 'train'. Pass one of them, as --dataset_train_split",
        ),
        (
            ["select", "--selector", '{"top": {"by": "ifd"}}', "--selector_kwargs", '{"by": "x"}'],
            "has settings, and so has selector_kwargs",
        ),
        (
            ["score", *MAPPED, "--scores", "loss", "length"],
            "error: loss has no model to run. Pass --model_name_or_path MODEL",
        ),
    ],
)
def test_messages(csv_file, arguments, message, capsys):
    command, *more = arguments
    assert main([command, "--dataset_name", csv_file, *more]) == 2
    assert message in capsys.readouterr().err


def test_selection_without_a_recorded_mapping(csv_file, tmp_path):
    renamed = (tmp_path / csv_file).read_text().replace("task,gold", "prompt,completion")
    (tmp_path / "named.csv").write_text(renamed)
    run(
        "select", "--dataset_name", "named.csv", "--selector", "random", "--selection_size", "2", "--output_dir", "out"
    )
    assert Selection.load("out").columns is None
    run("report", "--selection", "out", "--dataset_name", csv_file, *MAPPED, "--output_dir", "report")
    assert json.loads(Path("report/facts.json").read_text())["parent"]["columns"] == COLUMNS
