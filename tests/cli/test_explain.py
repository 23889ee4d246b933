import json

import pytest

from hf_datasel.cli import main


@pytest.fixture
def chosen(tmp_path, pool_rows):
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


def test_rows_in_words(chosen, capsys):
    capsys.readouterr()
    assert main(["explain", "11", "0", *chosen]) == 0
    out = capsys.readouterr().out
    assert "Row 11 was taken: number " in out
    assert "ifd: 0.55, place 1 of 12; those taken have " in out
    assert "Its heaviest n-grams: " in out
    assert "Row 0 was not taken; 3 others were.\n  ifd: 0, place 12 of 12" in out


def test_rows_as_json(chosen, capsys):
    capsys.readouterr()
    assert main(["explain", "11", "2", *chosen, "--json", "true"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["row"], each["taken"]) for each in found] == [(11, True), (2, False)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "No row is named: hf-datasel explain 17 --selection"),
        (["eleven"], "Row 'eleven' is no row number"),
        (["12"], "row=12 is none of the 12 rows: 0 to 11"),
        (["1", "--selektion", "x"], "Unknown flag --selektion. Did you mean '--selection'?"),
    ],
)
def test_what_is_asked_wrongly(chosen, capsys, arguments, message):
    assert main(["explain", *arguments, *(chosen if "--selektion" not in arguments else [])]) == 2
    assert message in capsys.readouterr().err


def test_no_selection(capsys):
    assert main(["explain", "3"]) == 2
    assert "No selection is named" in capsys.readouterr().err
