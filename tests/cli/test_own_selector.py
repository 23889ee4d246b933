"""A selector in a file of the current folder, where the command is a console script, which does not look there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_datasel import Selection
from hf_datasel.cli import main

MINE = """
from dataclasses import dataclass
import numpy as np
from hf_datasel.selectors import RowFilter, Selector

@dataclass(frozen=True)
class Mine(Selector):
    step: int = 2
    def select(self, round):
        return np.flatnonzero(round.eligible)[:: self.step][: round.budget]
    def explain(self, round, selected, row):
        return [f"Every row number {self.step}."]

@dataclass(frozen=True)
class Late(RowFilter):
    after: int = 0
    def keep(self, round, rows):
        return rows[rows > self.after]
"""
BOUNDED = [
    "--per_device_train_batch_size",
    "8",
    "--max_length",
    "128",
    "--report_to",
    "none",
    "--disable_tqdm",
    "true",
]
TRAINING = ["--use_cpu", "true", "--bf16", "false", "--num_train_epochs", "1", "--save_strategy", "no", *BOUNDED]


@pytest.fixture
def folder(tmp_path: Path, rows_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a current folder with `my_selector.py` in it that Python does not look in, as for a console script."""
    (tmp_path / "my_selector.py").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [item for item in sys.path if item not in ("", str(tmp_path))])
    yield tmp_path
    sys.modules.pop("my_selector", None)


def select(*more: str) -> int:
    command = ["select", "--dataset_name", "rows.jsonl", "--output_dir", "out", "--selection_size", "3"]
    return main([*command, "--selector", "my_selector:Mine", *more])


def test_from_a_console_script(folder):
    command = [sys.executable, "-P", "-m", "hf_datasel.cli", "select", "--dataset_name", "rows.jsonl"]
    command += ["--selector", "my_selector:Mine", "--selector_kwargs", '{"step": 4}', "--allow-imports"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert "Mine (step=4): 1 of 24 rows." in done.stdout


def test_select_with_settings_and_explain(folder, capsys):
    assert select("--allow_imports", "--selector_kwargs", '{"step": 5}') == 0
    assert Selection.load(folder / "out").indices.tolist() == [0, 5, 10]
    sys.modules.pop("my_selector")
    sys.path.remove(str(folder))
    explain = ["explain", "5", "--selection", "out", "--dataset_name", "rows.jsonl"]
    capsys.readouterr()
    assert main(explain) == 0
    assert "Permit it with allow_imports if you trust it." in capsys.readouterr().out
    assert main([*explain, "--allow_imports"]) == 0
    assert "Every row number 5." in capsys.readouterr().out


def test_import_needs_permission(folder, capsys):
    assert select() == 2
    assert "'my_selector:Mine' is code outside hf_datasel. Permit it with --allow_imports" in capsys.readouterr().err
    assert str(folder) not in sys.path
    assert "my_selector" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_selecter:Mine", "No module named 'my_selecter'. Did you mean 'my_selector'? Looked for my_selecter.py"),
        ("my_selector:Mien", "my_selector.py has no 'Mien'. Did you mean 'Mine'?"),
        ("my_selector.py:Mine", "Leave .py out: my_selector:Mine."),
        ("my_selector", "There is no selector 'my_selector'."),
        ("my_selector", "Your own is named by its module and class, as in my_selector:Mine."),
    ],
)
def test_typo(folder, capsys, name, message):
    assert select("--allow_imports", "--selector", name) == 2
    output = capsys.readouterr().err
    assert message in output
    assert len(output.splitlines()) == 1
    if "Looked" in message:
        assert str(folder) in output


def test_a_misspelt_setting(folder, capsys):
    assert select("--allow_imports", "--selector_kwargs", '{"stepp": 5}') == 2
    assert "my_selector:Mine has no setting 'stepp'. Did you mean 'step'?" in capsys.readouterr().err


def test_local_files_do_not_hide_packages(folder):
    (folder / "pyarrow.py").write_text("raise RuntimeError('the wrong one')\n", encoding="utf-8")
    assert select("--allow_imports") == 0
    assert sys.path[-1] == str(folder)


def test_compare(folder):
    methods = ["my_selector:Mine", '{"my_selector:Mine": {"step": 3}}', "longest"]
    command = ["compare", "--dataset_name", "rows.jsonl", "--output_dir", "out", "--selection_size", "4"]
    assert main([*command, "--methods", *methods]) == 2
    assert main([*command, "--allow_imports", "--methods", *methods]) == 0
    selected = json.loads((folder / "out" / "compare.json").read_text())["selections"]
    assert [item["selector"].get("step") for item in selected] == [2, 3, None]


def test_train(folder, tiny_model_dir, capsys):
    command = ["train", "--dataset_name", "rows.jsonl", "--model_name_or_path", str(tiny_model_dir), *TRAINING]
    command += ["--selection_size", "3", "--output_dir", "run"]
    assert main([*command, "--selector", "my_selecter:Mine", "--allow_imports"]) == 2
    assert "No module named 'my_selecter'. Did you mean 'my_selector'?" in capsys.readouterr().err
    assert not (folder / "run").exists(), "found out before anything is done"
    assert (
        main([*command, "--selector", "my_selector:Mine", "--selector_kwargs", '{"step": 6}', "--allow_imports"]) == 0
    )
    assert Selection.load(folder / "run" / "selections" / "round-0").indices.tolist() == [0, 6, 12]


def test_train_with_own_filter(folder, tiny_model_dir, capsys):
    command = ["train", "--dataset_name", "rows.jsonl", "--model_name_or_path", str(tiny_model_dir), *TRAINING]
    command += ["--selection_size", "3", "--output_dir", "run", "--selector", "chain", "--selector_kwargs"]
    late = {"filter": "my_selector:Late", "after": 20}
    command += [json.dumps({"filters": [late], "then": {"selector": "longest"}})]
    assert main(command) == 2
    assert (
        "Filter 'my_selector:Late' is code outside hf_datasel. Permit it with --allow_imports"
        in capsys.readouterr().err
    )
    assert main([*command, "--allow_imports"]) == 0
    assert sorted(Selection.load(folder / "run" / "selections" / "round-0").indices.tolist()) == [21, 22, 23]
