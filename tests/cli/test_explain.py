import json
import shutil

import pytest
from datasets import Dataset

from hf_datasel import select
from hf_datasel.cli import main
from hf_datasel.scores import Embedding
from hf_datasel.selectors import Chain, InRange, KCenter, Random

REFUSED = "The filter 'refusal < 1' excluded it"


@pytest.fixture
def selected(tmp_path, pool_rows):
    data = pool_rows.select(range(12)).add_column("ifd", [0.05 * row for row in range(12)])
    data.to_parquet(tmp_path / "rows.parquet")
    flags = ["--dataset_name", str(tmp_path / "rows.parquet")]
    kwargs = json.dumps({"quality": "ifd"})
    assert (
        main(
            [
                "select",
                *flags,
                "--selector_kwargs",
                kwargs,
                "--selection_size",
                "3",
                "--output_dir",
                str(tmp_path / "s"),
            ]
        )
        == 0
    )
    return [*flags, "--selection", str(tmp_path / "s")]


def test_text(selected, capsys):
    capsys.readouterr()
    assert main(["explain", "11", "0", *selected]) == 0
    out = capsys.readouterr().out
    assert "Row 11 was selected: rank " in out
    assert "ifd: 0.55, rank 1 of 12; selected rows have " in out
    assert "Its heaviest n-grams: " in out
    assert "Row 0 was not selected; 3 other rows were.\n  Prompt: " in out
    assert "\n  ifd: 0, rank 12 of 12" in out


def test_reason_of_exclusion_comes_first_and_ties_are_counted(tmp_path, pool_rows, capsys):
    rows = pool_rows.select(range(8)).add_column("refusal", [0, 1, 0, 0, 0, 0, 0, 0]).add_column("v", [*range(8)])
    rows = rows.add_column("my_id", [*range(100_000, 100_008)])
    rows.to_parquet(tmp_path / "rows.parquet")
    chain = Chain([InRange("refusal", high=1), InRange("my_id", low=0), InRange("v", high=7)], Random())
    select(rows, chain, size=3).save(tmp_path / "s")
    command = ["--dataset_name", str(tmp_path / "rows.parquet"), "--selection", str(tmp_path / "s")]
    assert main(["explain", "1", "7", *command]) == 0
    first, second = capsys.readouterr().out.split("Row 7 ")
    assert [line.split(":")[0].strip() for line in first.splitlines()[3:6:2]] == [REFUSED, "refusal"]
    assert "refusal: 0, rank 1 of 7, tied with 6 other rows; selected rows have 0 to 0." in second
    assert "  my_id: 100007.\n" in second


def test_text_of_the_row(tmp_path, capsys):
    rows = Dataset.from_dict({"prompt": ["One\n\x1b[2Jline", "Two"], "completion": ["x" * 500, ""]})
    rows.to_parquet(tmp_path / "rows.parquet")
    select(rows, Random(), size=1).save(tmp_path / "s")
    command = ["--dataset_name", str(tmp_path / "rows.parquet"), "--selection", str(tmp_path / "s")]
    assert main(["explain", "0", "1", *command]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == ["  Prompt: One [2Jline", f"  Response: {'x' * 199}…"]
    assert (
        lines[lines.index("Row 1 could not be selected: empty_response.") + 1]
        == '  Prompt: {"prompt": "Two", "completion": ""}'
    )
    assert main(["explain", "0", *command, "--json", "true"]) == 0
    assert json.loads(capsys.readouterr().out)["response"] == "x" * 500


def test_json(selected, capsys):
    capsys.readouterr()
    assert main(["explain", "11", "2", *selected, "--json", "true"]) == 0
    result = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(item["row"], item["selected"]) for item in result] == [(11, True), (2, False)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "No row is named: hf-datasel explain 17 --selection"),
        (["eleven"], "Row 'eleven' is no row number"),
        (["-1"], "Row '-1' is no row number: rows are counted from 0."),
        (["12"], "There is no row 12: the dataset has 12 rows, 0 to 11"),
        (["1", "--selektion", "x"], "Unknown flag --selektion. Did you mean '--selection'?"),
    ],
)
def test_errors_are_one_line(selected, capsys, arguments, message):
    assert main(["explain", *arguments, *(selected if "--selektion" not in arguments else [])]) == 2
    assert message in capsys.readouterr().err


def test_no_selection(capsys):
    assert main(["explain", "3"]) == 2
    assert "No selection is named" in capsys.readouterr().err


def test_folder_of_a_run(selected, tmp_path, capsys):
    run = tmp_path / "run"
    for number in (0, 1, 9, 10):
        shutil.copytree(tmp_path / "s", run / "selections" / f"round-{number}")
    for folder in (run, run / "selections"):
        assert main(["explain", "3", *selected[:2], "--selection", str(folder)]) == 2
        output = capsys.readouterr().err
        assert f"{str(folder)!r} is a run with 4 rounds" in output
        assert output.endswith(f"name one, as {run / 'selections' / 'round-10'}.\n")
    assert main(["explain", "3", *selected[:2], "--selection", str(run / "selections" / "round-9")]) == 0


@pytest.mark.parametrize("saved", [False, True])
def test_checkpoint_hint(tmp_path, pool_rows, tiny_model_dir, monkeypatch, capsys, saved):
    pool_rows.to_parquet(tmp_path / "rows.parquet")
    selection = select(pool_rows, KCenter(vectors=Embedding()), size=3, model=str(tiny_model_dir))
    selection.provenance["model"] = {"name": "tiny", "global_step": 6}
    selection.save(tmp_path / "run" / "selections" / "round-1")
    if saved:
        (tmp_path / "run" / "checkpoint-6").mkdir()
    monkeypatch.chdir(tmp_path)
    command = ["explain", str(selection.indices[1]), "--dataset_name", "rows.parquet"]
    assert main([*command, "--selection", "run/selections/round-1"]) == 0
    output = capsys.readouterr().out.splitlines()
    assert "Embedding was that of 'tiny' after 6 updates of training. Pass the checkpoint-6 of the run" in output[-2]
    expected = "Pass --model_name_or_path run/checkpoint-6." if saved else "There is no run/checkpoint-6."
    assert output[-1].strip() == expected
    monkeypatch.chdir(tmp_path / "run" / "selections" / "round-1")
    assert main([*command[:2], "--dataset_name", str(tmp_path / "rows.parquet"), "--selection", "."]) == 0
    assert f"{tmp_path / 'run' / 'checkpoint-6'}" in capsys.readouterr().out
