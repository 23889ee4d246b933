"""The experiments in recipes/bench: what they name exists, agrees with the other recipes, and can be drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_datasel.cli.arguments import parse
from hf_datasel.cli.config_file import read_config
from hf_datasel.evaluation.code import CodeTask
from hf_datasel.evaluation.suites import read_tasks
from hf_datasel.selectors import get_selector
from tests.recipes.conftest import ON_CPU
from tests.recipes.test_paper_settings import run_script
from tests.recipes.test_recipes import KINDS
from tests.recipes.toys import FOLDER, read

BENCH = FOLDER / "bench"
EXPERIMENTS = sorted(BENCH.glob("*.yaml"))
KEYS = {"model_name_or_path", "dataset_name", "output_dir", "train", "methods", "baselines", "seeds", "random_seeds"}
KEYS |= {"equal", "suite", "primary", "margin", "sd"}
RUN_LINE = re.compile(
    r"^# Run: hf-datasel bench --config recipes/bench/(\S+)( --allow_code_execution)?$", re.MULTILINE
)

each_experiment = pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def named(entry: str | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return name and settings of an entry of a list."""
    if isinstance(entry, str):
        return entry, {}
    ((name, settings),) = entry.items()
    return name, settings


def methods(path: Path) -> dict[str, tuple[str, dict[str, Any], dict[str, Any]]]:
    """Return selector, settings and training keys of each method, by its label."""
    found = {}
    for name, settings in map(named, load(path)["methods"]):
        if "selector" in settings:
            assert settings.keys() <= {"selector", "selector_kwargs", "train"}
            found[name] = settings["selector"], settings.get("selector_kwargs", {}), settings.get("train", {})
        else:
            found[name] = name, settings, {}
    return found


def test_the_experiments():
    names = ["at-scale", "iterit-code", "iterit-table1", "kmq", "small", "smollm2-cpu"]
    assert [path.stem for path in EXPERIMENTS] == names


@each_experiment
def test_comment_and_keys(path):
    text = path.read_text(encoding="utf-8")
    comment = [line for line in text.splitlines() if line.startswith("#")]
    assert text.splitlines()[: len(comment)] == comment, "the comment is at the top"
    name, executes_code = RUN_LINE.findall(comment[-1])[0]
    assert name == path.name
    assert bool(executes_code) == any(isinstance(task, CodeTask) for task in read_tasks(load(path)["suite"]))
    assert read_config(path, sorted(KEYS)) == load(path)
    assert load(path)["output_dir"] == f"outputs/bench/{path.stem}"


@each_experiment
def test_methods_can_be_built_and_trained(path, tmp_path):
    experiment = load(path)
    assert len(methods(path)) == len(experiment["methods"])
    for selector, settings, changed in methods(path).values():
        keys = {key: experiment[key] for key in ("model_name_or_path", "dataset_name")} | experiment["train"] | changed
        keys |= {"selector": selector, "selector_kwargs": settings, "output_dir": str(tmp_path), "seed": 1}
        (tmp_path / "train.yaml").write_text(yaml.safe_dump(keys))
        parsed = parse(KINDS["train"], ["--config", str(tmp_path / "train.yaml"), *ON_CPU], "train")
        arrived = {key: value for each in parsed for key, value in vars(each).items()}
        del keys["selector_kwargs"]
        assert {key: arrived[key] for key in keys if key not in ("use_cpu", "bf16")} == {
            key: value for key, value in keys.items() if key not in ("use_cpu", "bf16")
        }
        built = get_selector(selector, settings)
        assert built.plan(100, arrived["num_train_epochs"], 1_000_000)


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
    selector, settings, _ = methods(BENCH / f"{experiment}.yaml")[label]
    _, keys = read(FOLDER / f"{recipe}.yaml")
    assert get_selector(selector, settings) == get_selector(keys["selector"], keys["selector_kwargs"])


@pytest.mark.parametrize("name", ["alpaca-gpt4-iterit", "wizardlm-iterit", "dolly-iterit"])
def test_the_comment_names_the_other_datasets(name):
    _, keys = read(FOLDER / f"{name}.yaml")
    comment = " ".join((BENCH / "iterit-table1.yaml").read_text(encoding="utf-8").split())
    assert keys["dataset_name"] in comment
    assert (f"{keys['dataset_name']}, which also has decay: 0.0" in comment) == (keys["selector_kwargs"]["decay"] == 0)


# -- the rows of the experiment for a CPU -----------------------------------------------------------------------------
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
    words = [*sources, "--pool_rows", "60", "--heldout_rows", "15", "--output_dir", str(tmp_path / "out")]
    run_script(BENCH / "make_mixture.py", ["make_mixture.py", *words], monkeypatch)
    pool, heldout, gsm8k = (rows_of(tmp_path / "out", name) for name in ("pool", "heldout", "heldout-gsm8k"))
    for rows, count in ((pool, 20), (heldout, 5)):
        for source in ("alpaca", "code_alpaca", "gsm8k"):
            assert [row["source"] for row in rows].count(source) == count
    assert gsm8k == [row for row in heldout if row["source"] == "gsm8k"]
    assert all("<<" not in row["output"] and "####" in row["output"] for row in gsm8k)
    prompts = [re.sub(r"\W", "", row["instruction"]) for row in [*pool, *heldout]]
    assert len(set(prompts)) == len(prompts), "the same prompt with another space is not drawn"
    assert all(row["output"].strip() and len(row["output"].split()) < 200 for row in [*pool, *heldout])


def test_the_draw_depends_on_the_seed_alone(sources, tmp_path, monkeypatch):
    drawn = []
    for folder, seed in (("first", "0"), ("again", "0"), ("other", "1")):
        words = [*sources, "--pool_rows", "30", "--heldout_rows", "6", "--seed", seed]
        words += ["--output_dir", str(tmp_path / folder)]
        run_script(BENCH / "make_mixture.py", ["make_mixture.py", *words], monkeypatch)
        drawn.append(rows_of(tmp_path / folder, "pool"))
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_source_with_too_few_rows(sources, tmp_path, monkeypatch):
    words = [*sources, "--pool_rows", "300", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"alpaca\.jsonl has 40 of the 150 rows .* Lower --pool_rows"):
        run_script(BENCH / "make_mixture.py", ["make_mixture.py", *words], monkeypatch)


def test_the_files_of_the_mixture_are_those_of_the_experiment():
    experiment = load(BENCH / "smollm2-cpu.yaml")
    read_files = {settings["dataset_name"] for _, settings in map(named, experiment["suite"])}
    assert read_files == {f"outputs/smollm2-cpu/{name}.jsonl" for name in ("heldout", "heldout-gsm8k")}
    assert experiment["dataset_name"] == "outputs/smollm2-cpu/pool.jsonl"
    assert "python recipes/bench/make_mixture.py" in (BENCH / "smollm2-cpu.yaml").read_text(encoding="utf-8")
