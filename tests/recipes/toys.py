"""The YAML recipes, and the toy rows that they are run on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
COPIES = 5
ELIGIBLE = COPIES * 24
ROWS = ELIGIBLE + 1  # as in Alpaca, a row with an empty output is among them
RUN_LINE = re.compile(r"^# Run: hf-datasel (\w+) --config recipes/(\S+)$", re.MULTILINE)


def write_toys(folder: Path, pool_rows: Any) -> dict[str, Path]:
    """Files like Alpaca, Magpie and No Robots on the Hub: 120 different rows, and one without an answer."""
    rows = [{**row, "instruction": f"{row['instruction']} ({copy})"} for copy in range(COPIES) for row in pool_rows]
    rows.append({"instruction": "Say nothing.", "input": "", "output": ""})
    turns = [[{"from": "human", "value": row["instruction"]}, {"from": "gpt", "value": row["output"]}] for row in rows]
    chats = [
        [{"role": role, "content": row[key]} for role, key in (("user", "instruction"), ("assistant", "output"))]
        for row in rows[:6]
    ]
    made = {
        "alpaca": [{**row, "text": row["output"]} for row in rows],
        "magpie": [{"conversations": each} for each in turns],
        "no_robots": [
            {"prompt": each[0]["content"], "prompt_id": "id", "messages": each, "category": ["Chat", "Coding"][at % 2]}
            for at, each in enumerate(chats)
        ],
    }
    files = {name: folder / f"{name}.jsonl" for name in made}
    for name, file in files.items():
        file.write_text("".join(json.dumps(row) + "\n" for row in made[name]))
    return files


def toy_file(keys: dict[str, Any], toy_files: dict[str, Path]) -> Path:
    """The toy that stands for the recipe's dataset."""
    return toy_files["magpie" if keys["dataset_name"].startswith("Magpie") else "alpaca"]


def read(recipe: Path) -> tuple[str, dict[str, Any]]:
    """The command that the recipe's comment names, and its keys."""
    text = recipe.read_text()
    found = RUN_LINE.search(text)
    assert found is not None, (
        f"{recipe.name} has no line like '# Run: hf-datasel train --config recipes/{recipe.name}'"
    )
    return found[1], yaml.safe_load(text)


def only(command: str) -> pytest.MarkDecorator:
    """The recipes of one command."""
    return pytest.mark.parametrize(
        "recipe", [path for path in RECIPES if read(path)[0] == command], ids=lambda path: path.stem
    )
