"""Every YAML recipe, loaded as it is; those that select, compare and train, and the TRL script, run on toy rows."""

from __future__ import annotations

import json
import math
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments
from trl.trainer import utils as trl_utils

from hf_datasel import Selection, SelectiveSFTConfig, load_pool
from hf_datasel.cli.arguments import DatasetArguments, parse
from hf_datasel.cli.compare import CompareArguments
from hf_datasel.cli.score import ScoreArguments
from hf_datasel.cli.select import SelectArguments
from hf_datasel.cli.train import TrainArguments
from hf_datasel.scores import get_score
from hf_datasel.selection.provenance import without_paths
from hf_datasel.selectors import get_selector, list_selectors
from tests.recipes.conftest import ON_CPU
from tests.recipes.toys import (
    COLUMNS,
    COPIES,
    ELIGIBLE,
    FOLDER,
    RECIPES,
    ROWS,
    RUN_LINE,
    SCORED,
    config_flags,
    on_toys,
    only,
    read,
    toy_file,
)

KINDS = {
    "train": (ScriptArguments, SelectiveSFTConfig, ModelConfig, DatasetMixtureConfig, TrainArguments),
    "select": (DatasetArguments, SelectArguments),
    "compare": (DatasetArguments, CompareArguments),
    "score": (DatasetArguments, ScoreArguments),
}

each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)


def wanted(keys: dict[str, Any]) -> int:
    """The rows that a recipe selects among the toy rows."""
    if keys["selector"] == "all":
        return ELIGIBLE
    return 7 if "selection_size" in keys else int(keys["selection_ratio"] * ROWS)


@each_recipe
def test_recipe_comments(recipe):
    lines = recipe.read_text().splitlines()
    comment = [line for line in lines if line.startswith("#")]
    assert lines[: len(comment)] == comment, "the comment is at the top"
    assert 2 <= len(comment) <= 7
    command, name, _ = RUN_LINE.findall("\n".join(comment))[-1]
    assert name == recipe.name
    assert command in KINDS


@each_recipe
def test_every_key_arrives(recipe):
    command, keys = read(recipe)
    parsed = parse(KINDS[command], [*config_flags(recipe), *(ON_CPU if command == "train" else [])], command)
    arrived: dict[str, Any] = {}
    for each in parsed:
        arrived |= vars(each)
    different = {key: arrived[key] for key, value in keys.items() if arrived[key] != value}
    assert not different
    assert arrived["output_dir"] == f"outputs/{recipe.stem}", "no recipe writes into the folder of another"
    if "selector" in keys:
        get_selector(keys["selector"], keys.get("selector_kwargs"), keys.get("allow_imports", False))
    for each in keys.get("methods", []):
        name, settings = next(iter(each.items())) if isinstance(each, dict) else (each, {})
        get_selector(name, {key: value for key, value in settings.items() if (name, key) != ("random", "seed")})
    if "scores_kwargs" in keys:
        for name, settings in keys["scores_kwargs"].items():
            get_score(name, settings)


@pytest.mark.filterwarnings("ignore:_check_is_size will be removed:FutureWarning")  # bitsandbytes 0.49 on torch 2.13
@pytest.mark.filterwarnings(
    "ignore:Setting `save_embedding_layers`:UserWarning"
)  # the toy gets tokens of the template
@only("train")
def test_train_recipes(recipe, run, models):
    _, keys = read(recipe)
    if (keys["selector"] == "weighted" or "step_filter" in keys) and not hasattr(trl_utils, "add_fused_lm_head"):
        pytest.skip("this version of TRL does not compute the loss of each row")
    meant = get_selector(keys["selector"], on_toys(keys.get("selector_kwargs"), models))
    folder, printed = run(recipe)
    rounds = sorted((folder / "selections").iterdir(), key=lambda path: path.name)
    selections = [Selection.load(path) for path in rounds]
    plan = meant.plan(wanted(keys), keys.get("num_train_epochs", 3), ELIGIBLE)
    for selection, each in zip(selections, plan, strict=True):
        assert len(selection.indices) == each.budget
        assert ELIGIBLE not in selection.indices, "the row without an answer"
        recorded = selection.provenance["selector"]
        assert {**recorded, "model": None} == without_paths({**meant.spec(), "model": None})
    steps = 4 if "max_steps" in keys else sum(math.ceil(math.ceil(each.budget / 8) * each.epochs) for each in plan)
    assert (folder / ("adapter_model.safetensors" if keys.get("use_peft") else "model.safetensors")).is_file()
    if keys["save_strategy"] == "epoch":
        assert (folder / f"checkpoint-{steps}" / "trainer_state.json").is_file()
    assert f"{wanted(keys):>9,}" in printed


@only("select")
def test_select_recipes_save_the_selection_and_its_rows(recipe, run, toy_files, models):
    _, keys = read(recipe)
    folder, printed = run(recipe)
    selection = Selection.load(folder)
    keeps_all = "selection_ratio" not in keys and "selection_size" not in keys
    size = ELIGIBLE - sum(selection.provenance["exclusions"].values()) if keeps_all else wanted(keys)
    assert len(selection.indices) == size > 0
    assert f"{size} of {ROWS} rows" in printed
    assert ELIGIBLE not in selection.indices, "the row without an answer"
    meant = get_selector(
        keys["selector"], on_toys(keys.get("selector_kwargs"), models), keys.get("allow_imports", False)
    )
    assert selection.provenance["selector"] == meant.spec()
    if "convention" in keys.get("selector_kwargs", {}):
        assert selection.provenance["scores"][0]["convention"] == keys["selector_kwargs"]["convention"]
    subset = load_pool(str(folder / "subset.parquet"))
    assert subset[:] == selection.apply(load_pool(str(toy_file(keys, toy_files))))[:]


def test_decontaminated_rows_are_counted_by_evaluation_set(run):
    folder, printed = run(FOLDER / "alpaca-decontaminated.yaml")
    exclusions = Selection.load(folder).provenance["exclusions"]
    assert exclusions.keys() == {"contaminated with gsm8k"}, "which comes before the other one, of the same toys"
    assert 0 < exclusions["contaminated with gsm8k"] <= COPIES * 8
    assert f"{exclusions['contaminated with gsm8k']} contaminated with gsm8k" in printed


def named(value: Any) -> list[str]:
    """The selectors within settings."""
    if not isinstance(value, dict):
        return []
    inner = [name for each in value.values() for name in named(each)]
    return [value["selector"], *inner] if "selector" in value else inner


def test_every_selector_has_a_recipe():
    there = {name for path in RECIPES for name in named(read(path)[1])}
    assert list_selectors().keys() - there == set()


@pytest.mark.parametrize("recipe", [path for path in RECIPES if "scored.parquet" in str(read(path)[1])], ids=str)
def test_second_step_reads_columns_of_first(recipe, run):
    command, keys = read(recipe)
    found = SCORED.fullmatch(keys["dataset_name"])
    assert found is not None
    assert found[1] in COLUMNS
    assert f"{found[1]}.yaml" in recipe.read_text(), "where the comment says what to run first"
    if command == "select":
        selection = Selection.load(run(recipe)[0])
        assert selection.provenance["columns_unverified"], "the columns are there, and used"
        assert set(selection.provenance["columns_unverified"]) <= set(COLUMNS[found[1]])


def test_comparison_runs_every_method(run, monkeypatch):
    monkeypatch.setattr("hf_datasel.cards.comparison.png_of", lambda *_: b"")  # no plots, which take the longest
    recipe = FOLDER / "alpaca-compare.yaml"
    _, keys = read(recipe)
    folder, _ = run(recipe)
    comparison = json.loads((folder / "compare.json").read_text())
    assert comparison["failures"] == []
    assert len(comparison["selections"]) == len(keys["methods"])
    assert {each["rows"] for each in comparison["selections"]} == {int(keys["selection_ratio"] * ROWS)}
    scoring = {each["selector"]["selector"] for each in comparison["selections"] if each["rows_scored"]}
    assert scoring == {"longest", "length_km"}, "the others go by columns"
    selected = {tuple(np.load(path).tolist()) for path in folder.glob("*/indices.npy")}
    assert len(selected) > len(keys["methods"]) - 4, "hardly any two select alike"


def test_superfiltering_recipes_agree(run):
    trained, _ = run(FOLDER / "alpaca-superfiltering.yaml")
    rows = Selection.load(trained / "selections" / "round-0").indices
    selected, _ = run(FOLDER / "alpaca-superfiltering-select.yaml")
    assert Selection.load(selected).indices.tolist() == rows.tolist()


OF_ITERIT = ["alpaca-superfiltering", "alpaca-superfiltering-llama3-8b", "alpaca-graphfilter", "alpaca-random"]
OF_ITERIT += ["alpaca-all", "alpaca-all-same-steps", "alpaca-longest-llama3-8b", "alpaca-deita-llama3-8b"]
OF_ITERIT += ["alpaca-gpt4-iterit", "wizardlm-iterit", "dolly-iterit", "code-alpaca-iterit"]
AT_SCALE = ["openhermes-cross-entropy-km", "wildchat-random"]


@pytest.mark.parametrize(
    ("reference", "name"),
    [("alpaca-iterit-llama3-8b", name) for name in OF_ITERIT] + [("openhermes-random", name) for name in AT_SCALE],
)
def test_methods_that_are_compared_are_trained_alike(reference, name):
    _, first = read(FOLDER / f"{reference}.yaml")
    _, other = read(FOLDER / f"{name}.yaml")
    own = {"dataset_name", "output_dir", "selector", "selector_kwargs", "selection_ratio"}
    own |= {"num_train_epochs", "max_steps"} if "max_steps" in other else set()
    assert {key: other[key] for key in other.keys() - own} == {key: first[key] for key in first.keys() - own}


def test_the_flags_of_iterits_ablations_are_read_and_differ():
    section = (FOLDER / "README.md").read_text().split("## IterIT's ablations")[1].split("\n## ")[0]
    assert "hf-datasel train --config recipes/alpaca-iterit.yaml" in section
    found = []
    for flags in re.findall(r"^\|[^|]+\| `(--[^`]+)` \|", section, re.MULTILINE):
        words = ["--config", str(FOLDER / "alpaca-iterit.yaml"), *ON_CPU, *shlex.split(flags)]
        config = parse(KINDS["train"], words, "train")[1]
        selector = get_selector(config.selector, config.selector_kwargs)
        found.append((selector, config.selection_ratio, config.reselection_strategy))
    assert len(found) == len(set(found)) == 8
    _, usual = read(FOLDER / "alpaca-iterit.yaml")
    assert (get_selector("iterit", usual["selector_kwargs"]), usual["selection_ratio"], "epoch") in found, (
        "one of them is the method itself"
    )


@pytest.mark.parametrize("name", ["small-iterit", "small-superfiltering"])
def test_the_comment_of_a_small_recipe_counts_right(name):
    recipe = FOLDER / f"{name}.yaml"
    _, keys = read(recipe)
    split = re.fullmatch(r"train\[:(\d+)\]", keys["dataset_train_split"])
    assert split is not None
    assert f"first {split[1]} rows" in recipe.read_text()
    assert f"{int(keys['selection_ratio'] * int(split[1]))} of" in recipe.read_text()


def test_table_lists_requirements():
    rows = [line.split(" | ") for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith("| `")]
    needs = {name: each[2] for each in rows for name in re.findall(r"`([\w-]+\.yaml)`", each[0])}
    assert not [name for name, need in needs.items() if need.startswith("the same")]
    for name in RECIPES:
        if "lama" in name.read_text().split("model_name_or_path: ")[-1].splitlines()[0]:
            assert "access to Llama" in needs[name.name], name


# -- the TRL script --------------------------------------------------------------------------------------------------
SCRIPT = FOLDER / "trl_sft_script.py"


@pytest.fixture
def flags(tmp_path: Path, pool_rows: Any, tiny_model_dir: Path) -> list[str]:
    """Give a script's flags; the dataset is a folder of train and test rows in a form that TRL reads by itself."""
    rows = [{"prompt": f"{row['instruction']}\n{row['input']}\n", "completion": row["output"]} for row in pool_rows]
    (tmp_path / "rows").mkdir()
    for split, part in (("train", rows), ("test", rows[:4])):
        (tmp_path / "rows" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    paths = {"model_name_or_path": tiny_model_dir, "dataset_name": tmp_path / "rows", "output_dir": tmp_path / "out"}
    settings = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "max_length": 128, "disable_tqdm": "true"}
    return [*ON_CPU, *(str(word) for key, value in {**paths, **settings}.items() for word in (f"--{key}", value))]


def steps_trained(folder: Path) -> int:
    """Steps of the last checkpoint, which is written at the end."""
    states = [json.loads(path.read_text()) for path in folder.glob("checkpoint-*/trainer_state.json")]
    return max(state["global_step"] for state in states)


@pytest.mark.usefixtures("warm_python")
def test_the_trl_script_selects_trains_evaluates_and_saves(flags, tmp_path):
    command = [sys.executable, str(SCRIPT), *flags, "--eval_strategy", "epoch"]
    command += ["--selector", "iterit", "--selector_kwargs", '{"decay": 0.0}', "--selection_size", "5"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    rounds = [Selection.load(tmp_path / "out" / "selections" / f"round-{index}") for index in range(2)]
    assert [len(each.indices) for each in rounds] == [5, 5]
    assert rounds[0].provenance["selector"]["decay"] == 0.0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert steps_trained(tmp_path / "out") == 2
    assert "eval metrics" in done.stdout


def test_with_the_two_names_changed_back_it_is_a_trl_script(flags, tmp_path, monkeypatch):
    text = SCRIPT.read_text()
    changed = text.replace("from hf_datasel import", "from trl import")
    changed = changed.replace("SelectiveSFTConfig", "SFTConfig").replace("SelectiveSFTTrainer", "SFTTrainer")
    assert "hf_datasel" not in changed
    plain = tmp_path / "plain.py"
    plain.write_text(changed)
    monkeypatch.setattr(sys, "argv", [str(plain), *flags])
    runpy.run_path(str(plain), run_name="__main__")
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert not (tmp_path / "out" / "selections").exists()
    assert steps_trained(tmp_path / "out") == 6, "all 24 rows, 8 a step, twice"
