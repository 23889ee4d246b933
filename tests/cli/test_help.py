"""Help, and config files that cannot be meant."""

from __future__ import annotations

import pytest

from hf_datasel.cli import main
from hf_datasel.cli.main import COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    try:
        assert main([command, "--help"]) == 0
    except SystemExit as stop:  # of argparse, which prints it
        assert stop.code == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"usage: hf-datasel {command}")
    assert printed.err == ""


def test_help_is_a_command_too(capsys):
    assert main(["--help"]) == 0
    usage = capsys.readouterr().out
    assert main(["help"]) == 0
    assert capsys.readouterr().out == usage
    assert main(["help", "env"]) == 0
    assert capsys.readouterr().out == "usage: hf-datasel env\n\nversions and devices, for a bug report\n"


def test_the_help_of_explain_shows_the_rows(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["explain", "--help"])
    printed = capsys.readouterr().out
    assert printed.startswith("usage: hf-datasel explain ROW [ROW ...] [-h]")
    assert "ROW: number of a row of the dataset, counted from 0." in printed


@pytest.mark.parametrize("command", ["score", "select", "train", "compare", "report", "push"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "output_dir: a\nselektor: b\noutput_dir: c\n",
            "line 3: the key 'output_dir' is there twice, first in line 1.",
        ),
        ("selector_kwargs: {by: ifd, by: loss}\n", "line 1: the key 'by' is there twice, first in line 1."),
        (
            "methods:\n- random\n- top:\n    by: a\n    by: b\n",
            "line 5: the key 'by' is there twice, first in line 4.",
        ),
        ("", "has to hold keys and values, such as selector: random, and holds nothing."),
        ("# to do\n", "and holds nothing."),
        ("- random\n", "and holds a list."),
        ("random\n", "and holds 'random'."),
    ],
)
def test_a_config_file_that_cannot_be_meant(command, text, message, tmp_path, capsys):
    (tmp_path / "some.yaml").write_text(text)
    assert main([command, "--config", str(tmp_path / "some.yaml")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"hf-datasel {command}: error: {tmp_path / 'some.yaml'}")
    assert message in said


def test_a_key_may_come_once_in_each_mapping_and_in_one_that_is_merged(tmp_path, rows_file):
    (tmp_path / "some.yaml").write_text(
        "methods:\n- random: &settings {seed: 1}\n- random: {<<: *settings, seed: 2}\n"
        f"dataset_name: {rows_file}\noutput_dir: {tmp_path / 'out'}\n"
    )
    assert main(["compare", "--config", str(tmp_path / "some.yaml")]) == 0
    assert {path.name for path in (tmp_path / "out").glob("random*")} == {"random-seed=1", "random-seed=2"}


@pytest.mark.parametrize(("command", "key"), [("score", "scores"), ("compare", "methods")])
def test_names_are_separated_by_spaces(command, key, rows_file, tmp_path, capsys):
    words = ["--dataset_name", str(rows_file), "--output_dir", str(tmp_path / "out")]
    assert main([command, *words, f"--{key}", "one, two"]) == 2
    said = capsys.readouterr().err
    assert f"{key}: 'one, two' is one name with commas in it." in said
    assert f"separated by spaces, --{key} one two, and in a config file they are a list, [one, two]." in said
