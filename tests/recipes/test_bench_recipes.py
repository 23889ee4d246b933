"""The experiments in recipes/bench: what they name exists, agrees with the other recipes, and can be drawn."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_datasel.cli import main
from hf_datasel.cli.bench import BenchArguments
from hf_datasel.cli.config_file import read_config
from hf_datasel.evaluation import Experiment
from hf_datasel.evaluation.code import CodeTask
from hf_datasel.evaluation.suites import read_tasks
from hf_datasel.selectors import get_selector
from tests.recipes.test_paper_settings import run_script
from tests.recipes.toys import FOLDER, on_toys, read

BENCH = FOLDER / "bench"
EXPERIMENTS = sorted(BENCH.glob("*.yaml"))
KEYS = sorted(each.name for each in fields(BenchArguments))
RUN_LINE = re.compile(
    r"^# Run: hf-datasel bench --config recipes/bench/(\S+)( --allow_code_execution)?$", re.MULTILINE
)

each_experiment = pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def methods(path: Path) -> dict[str, Any]:
    """Return the methods of an experiment as it reads them, by their labels."""
    return {method.name: method for method in Experiment(**load(path)).read_methods()}


def test_the_experiments():
    papers = ["at-scale", "iterit-code", "iterit-table1", "kmq"]
    assert [path.stem for path in EXPERIMENTS] == [*papers, "mix-weights", "small", "smollm2-cpu-more", "smollm2-cpu"]


@each_experiment
def test_comment_and_keys(path):
    text = path.read_text(encoding="utf-8")
    comment = [line for line in text.splitlines() if line.startswith("#")]
    assert text.splitlines()[: len(comment)] == comment, "the comment is at the top"
    name, executes_code = RUN_LINE.findall(comment[-1])[0]
    assert name == path.name
    assert bool(executes_code) == any(isinstance(task, CodeTask) for task in read_tasks(load(path)["suite"]))
    assert read_config(path, KEYS) == load(path)
    assert load(path)["output_dir"] == f"outputs/bench/{path.stem}"


@each_experiment
def test_plan(path, tmp_path, toy_files, models, tiny_text_model_dir, tiny_model_dir):
    experiment = load(path)
    train = dict(experiment["train"])
    if "chat_template_path" in train:
        train["chat_template_path"] = str(tiny_model_dir)
    if "selection_size" in train:
        train["selection_size"] = 12
    rows = toy_files["tulu" if "chat_template_path" in train else "alpaca"]  # a base model has no template of its own
    toys = {"model_name_or_path": str(tiny_text_model_dir), "dataset_name": str(rows), "train": train}
    toys |= {"methods": on_toys(experiment["methods"], models), "output_dir": str(tmp_path / "out"), "primary": None}
    heldout = tmp_path / "heldout.jsonl"
    heldout.write_text('{"prompt": "Which bird stands on one leg?", "completion": "The flamingo does."}\n')
    toys["suite"] = [{"heldout": {"dataset_name": str(heldout)}}]
    plan = Experiment(**{**experiment, **toys}).plan().to_text()
    for name in methods(path):
        assert name == "untrained" or f"| {name} |" in plan
    assert not (tmp_path / "out").exists()


def copies() -> list[tuple[str, str]]:
    """Return command and file of each copy of an experiment in the README."""
    return re.findall(r"^(sed .* > (\S+\.yaml))$", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("command", "name"), copies(), ids=[name for _, name in copies()])
def test_copies_with_changed_keys(command, name, tmp_path):
    original = command.split()[-3]
    (tmp_path / original).write_bytes((BENCH / original).read_bytes())
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    before, after = load(BENCH / original), load(tmp_path / name)
    assert after["output_dir"] == f"outputs/bench/{Path(name).stem}"
    assert methods(tmp_path / name).keys() == methods(BENCH / original).keys()
    assert after.keys() == before.keys()
    assert [key for key in before if before[key] != after[key]] != ["output_dir"]
    assert "meta-llama" not in str(after) or "qwen" not in name


@each_experiment
def test_tasks(path):
    suite = load(path)["suite"]
    assert load(path)["primary"] in [*(task.name for task in read_tasks(suite)), "average"]
    for name in [suite] if isinstance(suite, str) else suite:
        if isinstance(name, str):
            comment = path.read_text(encoding="utf-8").replace("\n# ", " ")
            assert f"suite {name} has" in comment, "what the suite consists of is in the comment"


@pytest.mark.parametrize(
    ("experiment", "recipe"),
    [
        ("iterit-table1", "alpaca-iterit-llama3-8b"),
        ("iterit-code", "code-alpaca-iterit"),
        ("at-scale", "openhermes-random"),
        ("small", "alpaca-iterit"),
    ],
)
def test_training_is_that_of_the_recipe_for_one_method(experiment, recipe):
    own = load(BENCH / f"{experiment}.yaml")
    _, keys = read(FOLDER / f"{recipe}.yaml")
    of_cell = {"output_dir", "seed", "selector", "selector_kwargs", "save_strategy", "save_total_limit"}
    assert own["train"] | {key: own[key] for key in ("model_name_or_path", "dataset_name")} == {
        key: value for key, value in keys.items() if key not in of_cell
    }


@pytest.mark.parametrize(
    ("experiment", "label", "recipe"),
    [
        ("iterit-table1", "iterit", "alpaca-iterit-llama3-8b"),
        ("iterit-table1", "superfiltering", "alpaca-superfiltering-llama3-8b"),
        ("iterit-table1", "graphfilter", "alpaca-graphfilter"),
        ("iterit-table1", "deita", "alpaca-deita-llama3-8b"),
        ("iterit-code", "iterit", "code-alpaca-iterit"),
        ("at-scale", "entropy_km", "openhermes-cross-entropy-km"),
        ("small", "iterit", "alpaca-iterit"),
    ],
)
def test_methods_are_those_of_the_recipes(experiment, label, recipe):
    _, keys = read(FOLDER / f"{recipe}.yaml")
    assert methods(BENCH / f"{experiment}.yaml")[label].selector == get_selector(
        keys["selector"], keys["selector_kwargs"]
    )


@pytest.mark.parametrize("name", ["alpaca-gpt4", "wizardlm", "dolly"])
def test_copies_are_those_of_the_recipes(name, tmp_path):
    (command,) = [command for command, file in copies() if file == f"iterit-{name}.yaml"]
    (tmp_path / "iterit-table1.yaml").write_bytes((BENCH / "iterit-table1.yaml").read_bytes())
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    _, keys = read(FOLDER / f"{name}-iterit.yaml")
    selector = methods(tmp_path / f"iterit-{name}.yaml")["iterit"].selector
    assert selector == get_selector("iterit", keys["selector_kwargs"])
    assert load(tmp_path / f"iterit-{name}.yaml")["dataset_name"] == keys["dataset_name"]


# -- the rows of the experiments for a CPU ----------------------------------------------------------------------------
FEW_ROWS = ["--pool_rows", "60", "--heldout_rows", "15", "--target_rows", "12"]


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    """Give the flags that name three files, with a row of GSM8K that is written as on the Hub."""
    words = [["heron", "otter", "crane", "newt"], ["loop", "list", "tree", "sort"], ["coins", "pens", "cups", "keys"]]

    def rows(names: list[str]) -> list[dict[str, str]]:
        pairs = [(name, number) for name in names for number in range(10)]
        return [
            {
                "instruction": " ".join(f"{name}{number}{letter}" for letter in "abcdef") + "?",
                "input": "",
                "output": f"{name} {number}",
            }
            for name, number in pairs
        ]

    flags = []
    for source, names in zip(("alpaca", "code_alpaca", "gsm8k"), words, strict=True):
        made = rows(names)
        if source == "gsm8k":
            made = [
                {"question": row["instruction"], "answer": f"2*3=<<2*3=6>>6\n#### {at}"} for at, row in enumerate(made)
            ]
        else:
            made += [{**made[0], "instruction": made[0]["instruction"].replace("?", " ?")}, {**made[1], "output": ""}]
            made.append({**made[2], "instruction": "A long one.", "output": "word " * 200})
        file = tmp_path / f"{source}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in made))
        flags += [f"--{source}", str(file)]
    return flags


def rows_of(folder: Path, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_mixture_has_as_many_rows_of_each_source(sources, tmp_path, monkeypatch):
    words = [*sources, *FEW_ROWS, "--output_dir", str(tmp_path / "out")]
    run_script(BENCH / "make_mixture.py", ["make_mixture.py", *words], monkeypatch)
    pool, heldout, target = (rows_of(tmp_path / "out", name) for name in ("pool", "heldout", "target"))
    for rows, count in ((pool, 20), (heldout, 5), (target, 4)):
        for source in ("alpaca", "code_alpaca", "gsm8k"):
            assert [row["source"] for row in rows].count(source) == count
    gsm8k = [row for row in [*pool, *heldout] if row["source"] == "gsm8k"]
    assert all("<<" not in row["output"] and "####" in row["output"] for row in gsm8k)
    prompts = [re.sub(r"\W", "", row["instruction"]) for row in [*pool, *heldout, *target]]
    assert len(set(prompts)) == len(prompts), "the same prompt with another space is not drawn"
    assert all(row["output"].strip() and len(row["output"].split()) < 200 for row in [*pool, *heldout])


def test_the_draw_depends_on_the_seed_alone(sources, tmp_path, monkeypatch):
    drawn = []
    for folder, seed in (("first", "0"), ("again", "0"), ("other", "1")):
        words = [*sources, *FEW_ROWS, "--seed", seed]
        words += ["--output_dir", str(tmp_path / folder)]
        run_script(BENCH / "make_mixture.py", ["make_mixture.py", *words], monkeypatch)
        drawn.append(rows_of(tmp_path / folder, "pool"))
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_source_with_too_few_rows(sources, tmp_path, monkeypatch):
    words = [*sources, "--pool_rows", "300", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"alpaca\.jsonl has 40 of the 150 rows .* Lower --pool_rows"):
        run_script(BENCH / "make_mixture.py", ["make_mixture.py", *words], monkeypatch)


@pytest.mark.parametrize("name", ["smollm2-cpu", "smollm2-cpu-more"])
def test_the_experiments_for_a_cpu_read_the_mixture(sources, tmp_path, monkeypatch, tiny_model_dir, capsys, name):
    monkeypatch.chdir(tmp_path)
    path = BENCH / f"{name}.yaml"
    assert "# First: python recipes/bench/make_mixture.py\n" in path.read_text(encoding="utf-8")
    run_script(BENCH / "make_mixture.py", ["make_mixture.py", *sources, *FEW_ROWS], monkeypatch)
    assert main(["bench", "--config", str(path), "--plan", "--model_name_or_path", str(tiny_model_dir)]) == 0
    printed = capsys.readouterr().out
    for method in methods(path):
        assert method == "untrained" or f"| {method} |" in printed
