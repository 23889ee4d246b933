"""The flags for the settings of the papers in the README of the recipes, read and run on toy rows."""

from __future__ import annotations

import json
import math
import re
import shlex
from typing import Any

import pytest
from datasets import Dataset, load_dataset

from hf_datasel import Selection
from hf_datasel.cli.arguments import parse
from hf_datasel.selectors import get_selector
from tests.recipes.conftest import ON_CPU, run_script
from tests.recipes.test_recipes import KINDS
from tests.recipes.toys import ELIGIBLE, FOLDER, on_toys, read

README = (FOLDER / "README.md").read_text(encoding="utf-8")
ROWS_OF = {
    "vicgalle/alpaca-gpt4": 52_002,
    "WizardLMTeam/WizardLM_evol_instruct_70k": 70_000,
    "databricks/databricks-dolly-15k": 15_011,
    "sahil2801/CodeAlpaca-20k": 20_022,
}
"""Rows of the datasets on the Hub."""


def flags_of(title: str) -> dict[str, list[dict[str, Any]]]:
    """Return the flags in each row of the table of a section, by the first cell of the row."""
    section = README.split(f"### {title}\n")[1].split("\n##")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return {row[0]: [as_keys(text) for cell in row[1:] for text in re.findall(r"`(--[^`]+)`", cell)] for row in rows}


def as_keys(text: str) -> dict[str, Any]:
    words = shlex.split(text)
    keys: dict[str, Any] = {
        flag.removeprefix("--"): value for flag, value in zip(words[::2], words[1::2], strict=True)
    }
    if "selector_kwargs" in keys:
        keys["selector_kwargs"] = json.loads(keys["selector_kwargs"])
    return keys


ITERIT = {name: flags for name, flags in flags_of("IterIT's comparison").items() if flags}
AT_SCALE = {name: flags[0] for name, flags in flags_of("The at-scale comparison").items() if flags}


@pytest.mark.parametrize("recipe", ["alpaca-longest-llama3-8b", "alpaca-all-same-steps"])
@pytest.mark.parametrize("setting", ITERIT)
def test_flags_of_iterits_settings(setting, recipe):
    words = [f"--{key}={value}" for flags in ITERIT[setting][:1] for key, value in flags.items()]
    parsed = parse(KINDS["train"], ["--config", str(FOLDER / f"{recipe}.yaml"), *ON_CPU, *words], "train")
    arrived = {key: value for each in parsed for key, value in vars(each).items()}
    assert {key: arrived[key] for key in ITERIT[setting][0]} == ITERIT[setting][0]


@pytest.mark.parametrize("setting", [name for name, flags in ITERIT.items() if len(flags) == 2])
def test_updates_at_equal_steps(setting):
    dataset, steps = ITERIT[setting]
    rows = int(0.05 * ROWS_OF[dataset["dataset_name"]])
    assert int(steps["max_steps"]) == 3 * math.ceil(rows / 32)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:_check_is_size will be removed:FutureWarning")  # bitsandbytes 0.49 on torch 2.13
@pytest.mark.parametrize("setting", AT_SCALE)
def test_flags_of_the_at_scale_comparison(setting, run, models):
    folder, _ = run(FOLDER / "openhermes-random.yaml", AT_SCALE[setting])
    first = Selection.load(folder / "selections" / "round-0")
    name, settings = (AT_SCALE[setting].get(key) for key in ("selector", "selector_kwargs"))
    selector = get_selector(name or "random", on_toys(settings, models))
    assert first.provenance["selector"]["selector"] == (name or "random")
    assert len(first.indices) == selector.plan(7, 3, ELIGIBLE)[0].budget


def test_the_warm_up_of_less_has_the_checkpoints_that_are_read():
    _, warm_up = read(FOLDER / "openhermes-less-warmup.yaml")
    per_epoch = math.ceil(warm_up["selection_size"] / warm_up["gradient_accumulation_steps"])
    names = [f"{warm_up['output_dir']}/checkpoint-{epoch * per_epoch}" for epoch in (1, 2, 3, 4)]
    assert AT_SCALE["LESS"]["selector_kwargs"]["by"]["checkpoints"] == names


def test_english_conversations_of_wildchat(tmp_path, monkeypatch, capsys):
    def conversation(number: int) -> list[dict[str, Any]]:
        roles = ("user", "assistant")
        return [
            {"role": role, "content": f"{role} {number}", "toxic": False, "turn_identifier": number} for role in roles
        ]

    languages = ["English", "Chinese", "English", "French"]
    rows = [{"conversation": conversation(at), "language": name, "turn": 1} for at, name in enumerate(languages)]
    (tmp_path / "rows").mkdir()
    Dataset.from_list(rows).to_parquet(tmp_path / "rows" / "train.parquet")
    output = tmp_path / "new" / "english.parquet"
    words = ["english_wildchat.py", "--dataset_name", str(tmp_path / "rows"), "--output_file", str(output)]
    run_script(FOLDER / "english_wildchat.py", words, monkeypatch)
    assert "2 of 4 conversations" in capsys.readouterr().out
    kept = load_dataset("parquet", data_files=str(output), split="train")
    assert kept.column_names == ["messages"]
    assert [each[1]["content"] for each in kept["messages"]] == ["assistant 0", "assistant 2"]
    assert set(kept[0]["messages"][0]) == {"role", "content"}
