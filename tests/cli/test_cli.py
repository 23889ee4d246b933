"""Commands of the command line: their output and their errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import Selection, load_pool
from hf_datasel.cli import main
from hf_datasel.scores import list_scores
from hf_datasel.selectors import list_filters, list_selectors


@pytest.fixture
def rows_file(tmp_path: Path, pool_rows: Any) -> Path:
    """Give a jsonl file of the small pool and one row with an empty output."""
    path = tmp_path / "rows.jsonl"
    empty = {"instruction": "Say nothing.", "input": "", "output": ""}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*pool_rows, empty]))
    return path


TRAINING = ["--bf16", "false", "--report_to", "none", "--use_cpu", "true", "--max_length", "128", "--disable_tqdm"]
TRAINING += ["true", "--per_device_train_batch_size", "4", "--learning_rate", "1e-2"]


def test_list(capsys):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    groups = [group.split("\n\n")[1] for group in re.split("^(?=Selectors|Filters|Scores)", printed, flags=re.M)[1:]]
    listed = [re.findall(r"^  (\w+)\*? ", group, re.MULTILINE) for group in groups]
    assert listed == [list(list_selectors()), list(list_filters()), list(list_scores())]
    assert set(re.findall(r"(\w+)\*", printed)) == {"cherry", "diverse_evol", "iterative_kmq", "less"}
    assert max(map(len, printed.splitlines())) <= 100
    assert main(["list", "filters"]) == 0
    assert capsys.readouterr().out.startswith(f"Filters{printed.split('Filters')[1].split('Scores')[0].rstrip()}")


def test_list_of_one(capsys):
    assert main(["list", "in_range", "IterIT"]) == 0
    first, second = capsys.readouterr().out.split("\n\niterit: selector, in Python hf_datasel.selectors.IterIT\n")
    assert first.startswith(
        "in_range: filter, in Python hf_datasel.selectors.InRange\n\nRows with `low <= value < high`"
    )
    assert "    by: str | Score (required)\n        Name of a numeric column, or a score.\n" in first
    assert "    high: float | None = None\n" in first
    assert "2412.17365" in second
    assert main(["list", "less"]) == 0
    assert "\nTrains between its rounds: hf-datasel train.\n" in capsys.readouterr().out


def test_list_as_json(capsys):
    assert main(["list", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert {(entry["kind"], entry["name"]) for entry in entries} > {("score", "ifd"), ("selector", "top")}
    assert [(entry["name"], item) for entry in entries for item in entry["settings"] if not item["about"]] == []
    defaults = {(entry["name"], item["name"]): item["default"] for entry in entries for item in entry["settings"]}
    assert defaults["top", "by"] is None
    assert defaults["length_km", "by"] == "Length(unit='tokens')"
    assert defaults["selectit", "prompts"] == "(5 prompts)"
    prompt = defaults["deita_score", "complexity_prompt"]
    assert prompt.startswith("'You are a helpful assistant. ")
    assert prompt.endswith("…'")
    assert len(prompt) <= 60


def test_list_of_an_unknown_name(capsys):
    assert main(["list", "iterti"]) == 2
    assert "no selector, filter or score 'iterti'. Did you mean 'iterit'?" in capsys.readouterr().err


def test_list_into_a_closed_pipe():
    command = f"{sys.executable} -m hf_datasel.cli list selectors | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert (done.stdout[:9], done.stderr) == ("Selectors", "")


@pytest.mark.parametrize("command", ["train", "select"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('{"rounds":3', "has to be JSON on the command line, such as --selector_kwargs '{\"NAME\": VALUE}', and is"),
        (
            '["rounds"]',
            "has to be a mapping of settings, such as --selector_kwargs '{\"NAME\": VALUE}', and is ['rounds']",
        ),
    ],
)
def test_invalid_json_names_the_flag(capsys, command, value, message):
    for arguments in (["--selector_kwargs", value], [f"--selector_kwargs={value}"]):
        assert main([command, *arguments]) == 2
        assert f"hf-datasel {command}: error: --selector_kwargs {message}" in capsys.readouterr().err


def test_invalid_json_in_a_file(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("selector_kwargs: '{\"rounds\":3'\n")
    assert main(["train", "--config", str(tmp_path / "recipe.yaml")]) == 2
    assert """'{"rounds":3' is no valid JSON: Expecting ',' delimiter""" in capsys.readouterr().err


def test_select_several_rounds_suggests_train(rows_file, tmp_path, capsys):
    command = ["select", "--dataset_name", str(rows_file), "--output_dir", str(tmp_path / "out")]
    assert main([*command, "--selector", "diverse_evol", "--selection_size", "12"]) == 2
    output = capsys.readouterr().err
    assert "with training between them. Use it with hf-datasel train." in output


def test_env(capsys):
    assert main(["env"]) == 0
    assert "- trl: " in capsys.readouterr().out


def test_select(rows_file, tmp_path, capsys):
    command = ["select", "--dataset_name", str(rows_file), "--selector", "longest", "--selection_size", "5"]
    assert main([*command, "--output_dir", str(tmp_path / "out"), "--save_subset"]) == 0
    assert "Excluded: 1 empty_response." in capsys.readouterr().out
    selection = Selection.load(tmp_path / "out")
    subset = selection.apply(load_pool(str(rows_file)))
    lengths = [len(text.split()) for text in subset["output"]]
    assert lengths == sorted(lengths, reverse=True)
    assert load_pool(str(tmp_path / "out" / "subset.parquet"))["output"][:] == subset["output"][:]


def test_train_with_recipe_and_flag(rows_file, tiny_model_dir, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model_name_or_path: {tiny_model_dir}\ndataset_name: {rows_file}\noutput_dir: {tmp_path / 'run'}\n"
        "selector: iterit\nselector_kwargs:\n  decay: 0.0\nselection_size: 6\nnum_train_epochs: 3\n"
    )
    assert main(["train", "--config", str(recipe), "--num_train_epochs", "2", *TRAINING]) == 0
    table = capsys.readouterr().out
    assert "overlap with earlier rounds" in table
    selections = [Selection.load(tmp_path / "run" / "selections" / f"round-{index}") for index in range(2)]
    assert not (tmp_path / "run" / "selections" / "round-2").exists()
    assert selections[0].provenance["selector"]["decay"] == 0.0
    assert f"{selections[1].overlap(selections[0]):.3f}" in table
    assert all((item.scores("ifd")[item.indices] < 1).all() for item in selections)
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert (tmp_path / "run" / "trainer_state.json").is_file()
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")  # also of a run that saved no checkpoint
    assert "of the wall time of the run" in card


def test_resume_without_checkpoint(rows_file, tiny_model_dir, tmp_path, capsys):
    command = ["train", "--dataset_name", str(rows_file), "--model_name_or_path", str(tiny_model_dir), *TRAINING]
    run = tmp_path / "run"
    (run / "selections" / "round-0").mkdir(parents=True)
    assert main([*command, "--output_dir", str(run), "--resume_from_checkpoint", "true"]) == 0
    message = "has no complete checkpoint: its run ended before the first one was saved. Training begins again."
    assert message in capsys.readouterr().err


def test_train_with_own_selector(rows_file, tiny_model_dir, tmp_path, monkeypatch):
    (tmp_path / "users_file.py").write_text(
        "from dataclasses import dataclass\n"
        "import numpy as np\n"
        "from hf_datasel.selectors import Selector\n\n\n"
        "@dataclass(frozen=True)\n"
        "class Last(Selector):\n"
        "    def select(self, round):\n"
        "        return np.flatnonzero(round.eligible)[-round.budget :]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    command = ["train", "--dataset_name", str(rows_file), "--model_name_or_path", str(tiny_model_dir), *TRAINING]
    command += ["--selector", "users_file:Last", "--selection_size", "4", "--num_train_epochs", "1"]
    command += ["--output_dir", str(tmp_path / "run")]
    assert main(command) == 2
    assert main([*command, "--allow_imports"]) == 0
    assert Selection.load(tmp_path / "run" / "selections" / "round-0").indices.tolist() == [20, 21, 22, 23]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("trian", "There is no command 'trian'. Did you mean 'train'?"),
        ("score --dataset_nam x", "Unknown flag --dataset_nam. Did you mean '--dataset_name'?"),
        ("select --selector iterrit --dataset_name ROWS", "There is no selector 'iterrit'. Did you mean 'iterit'?"),
        ("select --selector top --selector_kwargs {'by':1 --dataset_name ROWS", "selector_kwargs has to be JSON"),
        ("select --selector longest --selection_size 25 --dataset_name ROWS", "is more than the 24 of 25 rows"),
        ("select --selector longest --dataset_name EMPTY", "has no rows"),
        (
            "select --selector longest --dataset_name no/such/file.json",
            "There is no file or folder 'no/such/file.json'",
        ),
        ("score --scores lenght --dataset_name ROWS", "There is no score 'lenght'. Did you mean 'length'?"),
        ("score --dataset_name ROWS", "has no model to run"),
        ("score --dataset_name ROWS --model_name_or_path no/such/model/here", "No model 'no/such/model/here'"),
        (
            "train --use_cpu true --bf16 false --dataset_name ROWS --model_name_or_path /no/such/model",
            "No model '/no/such/model'",
        ),
        ("train --config TYPO", "unknown key 'selektor'. Did you mean 'selector'?"),
        ("train --lr_scheduler_type cosin", "--lr_scheduler_type cosin: it has to be 'linear', 'cosine', "),
        ("train --lr_scheduler_type cosin", "or 'greedy'. Did you mean 'cosine'?"),
        (
            "train --config OPTION",
            "packing_strategy='bfdd': it has to be 'bfd', 'bfd_split' or 'wrapped'. Did you mean",
        ),
        ("train --config NO", 'YAML reads no as false: write "no", with quotes.'),
        ("train --config missing.yaml", "Cannot read 'missing.yaml'"),
        ("train --config BROKEN", "is no valid YAML"),
        ("train --use_cpu true --bf16 false --model_name_or_path MODEL", "No dataset is named"),
        ("env all", "env takes no arguments"),
    ],
)
def test_errors_are_one_line(command, message, rows_file, tiny_model_dir, tmp_path, capsys):
    files = {"EMPTY": "", "TYPO": "selektor: iterit\n", "BROKEN": "a: [1\n"}
    files |= {"OPTION": "packing_strategy: bfdd\n", "NO": "save_strategy: no\n"}
    for name, content in files.items():
        (tmp_path / f"{name.lower()}.{'json' if name == 'EMPTY' else 'yaml'}").write_text(content)
    replaced = {name: tmp_path / f"{name.lower()}.{'json' if name == 'EMPTY' else 'yaml'}" for name in files}
    words = [str({**replaced, "ROWS": rows_file, "MODEL": tiny_model_dir}.get(word, word)) for word in command.split()]
    assert main(words) == 2
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in printed
    assert printed.startswith("hf-datasel")


@pytest.mark.parametrize(
    "command",
    [
        "select --selector longest --selection_size 25 --dataset_name ROWS",
        "score --scores ifd --dataset_name ROWS",
        "score --scores length --dataset_name ./missing",
        "report --selection missing --dataset_name ./missing",
        "train --use_cpu true --bf16 false --dataset_name ./missing --model_name_or_path /no/such/model",
    ],
)
def test_a_command_that_fails_leaves_no_empty_folder(command, rows_file, tmp_path):
    words = [str(rows_file) if word == "ROWS" else word for word in command.split()]
    new, existing = tmp_path / "new", tmp_path / "existing"
    existing.mkdir()
    for folder in (new / "inner", existing):
        assert main([*words, "--output_dir", str(folder)]) == 2
    assert not new.exists()
    assert existing.is_dir()


def test_missing_column(rows_file, capsys):
    assert main(["select", "--dataset_name", str(rows_file), "--selector_kwargs", '{"quality": "ifd"}']) == 2
    assert (
        "IterIT needs column 'ifd', but the dataset has ['instruction', 'input', 'output']" in capsys.readouterr().err
    )


def test_select_by_scored_column(tmp_path, pool_rows):
    scored = pool_rows.add_column("ifd", np.linspace(0.1, 1.3, len(pool_rows)).astype(np.float32))
    assert isinstance(scored, Dataset)
    scored.to_parquet(tmp_path / "scored.parquet")
    command = ["select", "--dataset_name", str(tmp_path / "scored.parquet"), "--selector", "superfiltering"]
    command += [
        "--selector_kwargs",
        '{"quality": "ifd"}',
        "--selection_size",
        "3",
        "--output_dir",
        str(tmp_path / "o"),
    ]
    assert main(command) == 0
    below = np.flatnonzero(np.array(scored["ifd"][:]) < 1)
    assert Selection.load(tmp_path / "o").indices.tolist() == below[::-1][:3].tolist()
