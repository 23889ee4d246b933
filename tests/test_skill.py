"""The skill for assistants of users: its examples run, and its names exist."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

import hf_datasel
from hf_datasel.cli.main import COMMANDS, main
from hf_datasel.scores import list_scores
from hf_datasel.selectors import list_filters, list_selectors

PATH = Path(__file__).parents[1] / "skills" / "hf-datasel" / "SKILL.md"
_, HEADER, TEXT = PATH.read_text(encoding="utf-8").split("---\n", 2)


def test_header():
    header = yaml.safe_load(HEADER)
    assert header["name"] == PATH.parent.name
    assert len(header["description"]) <= 1024


def test_example_of_selecting(pool_rows, tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pool_rows.to_parquet("rows.parquet")
    code = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)[1].replace("tatsu-lab/alpaca", "rows.parquet")
    names = {}
    exec(code.replace("Qwen/Qwen3-0.6B", str(tiny_model_dir)), names)
    assert len(names["subset"]) == len(names["baseline"].indices) == 1
    assert (tmp_path / "selection" / "selection.json").is_file()


def test_names_exist():
    classes = {cls.__name__ for cls in [*list_scores().values(), *list_selectors().values(), *list_filters().values()]}
    table = TEXT.split("## What to choose")[1].split("\n## ")[0]
    assert set(re.findall(r"`(\w+)", table)) <= classes | set(hf_datasel.__all__)


@pytest.mark.parametrize("line", re.findall(r"^hf-datasel .*?(?= *#|$)", TEXT, re.MULTILINE))
def test_flags_exist(line, capsys):
    command, *arguments = shlex.split(line)[1:]
    assert command in COMMANDS
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    flags = {argument for argument in arguments if argument.startswith("--")}
    assert flags - set(re.findall(r"--\w+", capsys.readouterr().out)) == set()
