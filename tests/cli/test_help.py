"""Help texts, and invalid config files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from hf_datasel.cli import main
from hf_datasel.cli.examples import EXAMPLES
from hf_datasel.cli.main import COMMANDS

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command, capsys):
    try:
        assert main([command, "--help"]) == 0
    except SystemExit as stop:  # of argparse, which prints it
        assert stop.code == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"usage: hf-datasel {command}")
    assert printed.err == ""
    for example in EXAMPLES[command]:
        assert f"  {example}\n" in printed.out
        words = shlex.split(example)
        assert words[:2] == ["hf-datasel", command]
        assert set(re.findall(r"--\w+", example)) <= {
            *re.findall(r"^  (--\w+)", printed.out, re.MULTILINE),
            "--config",
        }
        assert all((RECIPES.parent / word).is_file() for word in words if word.endswith(".yaml"))


def test_help_command(capsys):
    assert main(["--help"]) == 0
    usage = capsys.readouterr().out
    assert main(["help"]) == 0
    assert capsys.readouterr().out == usage
    assert main(["help", "env"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: hf-datasel env\n\nprint versions and devices, for a bug report\n")


def test_help_of_train_begins_with_what_the_trainer_of_trl_does_not_have(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    own, others = capsys.readouterr().out.split("other options, those of trl sft:")
    assert {"--selector", "--selection_ratio", "--selection_order", "--model_name_or_path"} <= set(own.split())
    assert not {"--learning_rate", "--packing"} & set(own.split())
    assert {"--learning_rate", "--packing"} <= set(others.split())
    assert "--selection-ratio" not in own
    assert "default: None" not in own + others


def test_help_of_explain(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["explain", "--help"])
    printed = capsys.readouterr().out
    assert printed.startswith("usage: hf-datasel explain ROW [ROW ...] [--config FILE.yaml] [--KEY VALUE ...]")
    assert "ROW: number of a row of the dataset, counted from 0." in printed


@pytest.mark.parametrize("command", ["score", "select", "train", "compare", "report", "push"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "output_dir: a\nselektor: b\noutput_dir: c\n",
            "line 3: duplicate key 'output_dir', first in line 1.",
        ),
        ("selector_kwargs: {by: ifd, by: loss}\n", "line 1: duplicate key 'by', first in line 1."),
        (
            "methods:\n- random\n- top:\n    by: a\n    by: b\n",
            "line 5: duplicate key 'by', first in line 4.",
        ),
        ("", "has to contain keys and values, such as selector: random, and contains nothing."),
        ("# to do\n", "and contains nothing."),
        ("- random\n", "and contains a list."),
        ("random\n", "and contains 'random'."),
    ],
)
def test_invalid_config_file(command, text, message, tmp_path, capsys):
    (tmp_path / "some.yaml").write_text(text)
    assert main([command, "--config", str(tmp_path / "some.yaml")]) == 2
    output = capsys.readouterr().err
    assert output.startswith(f"hf-datasel {command}: error: {tmp_path / 'some.yaml'}")
    assert message in output


def test_same_key_in_different_mappings(tmp_path, rows_file):
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
    output = capsys.readouterr().err
    assert f"{key}: 'one, two' is one name with commas in it." in output
    assert f"separated by spaces, --{key} one two, and in a config file they are a list, [one, two]." in output
