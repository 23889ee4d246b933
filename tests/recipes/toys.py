"""The YAML recipes, and the toy rows and models that they are run on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from datasets import Dataset, load_dataset

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
COPIES = 5
ELIGIBLE = COPIES * 24
ROWS = ELIGIBLE + 1  # as in Alpaca, a row with an empty output is among them
RUN_LINE = re.compile(r"^# Run: hf-datasel (\w+) --config recipes/(\S+)( --trust_config)?$", re.MULTILINE)

COLUMNS = {
    "alpaca-all-scores": [
        "loss", "ifd", "loss_prior", "loss_prompt", "response_words", "compressibility", "embedding", "cluster_id",
        "cluster_distance", "selectit",
    ],
    "alpaca-bergson": ["imported_score"],
    "alpaca-clusters": ["embedding", "cluster_id", "cluster_distance"],
    "alpaca-dattri": ["imported_score"],
    "alpaca-deita": ["complexity", "quality", "deita"],
    "alpaca-ifd": ["ifd", "loss", "loss_prior", "response_words"],
    "alpaca-influence": ["influence"],
    "alpaca-instag": ["tags", "tag_count"],
    "alpaca-judge": ["judge"],
    "alpaca-nuggets": ["embedding", "golden"],
    "alpaca-reward": ["reward"],
    "alpaca-reward-gap": ["reward_gap"],
    "alpaca-reward-gap-endpoint": ["reward_gap"],
    "alpaca-selectit": ["selectit"],
    "gsm8k-pass-rate": ["pass_rate", "pass_rate_answers"],
}  # fmt: skip
"""What each recipe that scores writes, besides reasons."""
EVERY_ROW = ["embedding", "cluster_id", "cluster_distance", "compressibility", "imported_score"]
"""Those of them that a row without an answer may have too."""
CONSTANT = ["pass_rate_answers"]
"""Those of them that are the same in all rows with a value."""
SCORED = re.compile(r"outputs/([\w-]+)/scored\.parquet")


def write_toys(folder: Path, pool_rows: Any) -> dict[str, Path]:
    """Files like datasets on the Hub: 120 different rows, and one without an answer."""
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
        "tulu": [
            {
                "messages": [
                    {"role": "user", "content": row["instruction"]},
                    {"role": "assistant", "content": row["output"]},
                ],
                "source": ["flan", "code", "math"][at % 5 // 2],
            }
            for at, row in enumerate(rows)
        ],
        "dolly": [
            {
                "instruction": row["instruction"],
                "context": row["input"],
                "response": row["output"],
                "category": "open_qa",
            }
            for row in rows
        ],
        "openhermes": [
            {
                "conversations": [{"from": "system", "value": "Be brief."}, *each],
                "system_prompt": None,
                "source": "flan",
            }
            for each in turns
        ],
        "wildchat": [
            {
                "messages": [
                    {"role": "user", "content": row["instruction"]},
                    {"role": "assistant", "content": row["output"]},
                ]
            }
            for row in rows
        ],
        "no_robots": [
            {"prompt": each[0]["content"], "prompt_id": "id", "messages": each, "category": ["Chat", "Coding"][at % 2]}
            for at, each in enumerate(chats)
        ],
        "gsm8k": [
            {"question": row["instruction"], "answer": f"It is {at % 3}.\n#### {at % 3}" * bool(row["output"])}
            for at, row in enumerate(rows)
        ],
        "exam": [{"question": f"{row['instruction']} {row['output']}", "answer": row["output"]} for row in rows[8:16]],
    }
    files = {name: folder / f"{name}.jsonl" for name in made}
    for name, file in files.items():
        file.write_text("".join(json.dumps(row) + "\n" for row in made[name]))
    return files


def toy_file(keys: dict[str, Any], toy_files: dict[str, Path]) -> Path:
    """The toy that stands for the recipe's dataset: on the Hub, or written by another recipe."""
    name = keys["dataset_name"]
    scored = SCORED.fullmatch(name)
    if scored is None:
        kinds = ("magpie", "tulu", "dolly", "openhermes", "wildchat", "gsm8k")
        return toy_files[next((each for each in kinds if each in name.lower()), "alpaca")]
    toy = toy_files["gsm8k" if scored[1].startswith("gsm8k") else "alpaca"]
    file = toy.with_name(f"{scored[1]}.parquet")
    if not file.is_file():
        rows = load_dataset("json", data_files=str(toy), split="train")
        _with_columns(rows, COLUMNS[scored[1]]).to_parquet(file)
    return file


def _with_columns(rows: Dataset, names: list[str]) -> Dataset:
    """The rows with what a recipe that scores would add, made up; the row without an answer has no score."""
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {name: rng.uniform(0.1, 1.2, len(rows)).tolist() for name in names}
    if "embedding" in names:
        made["embedding"] = list(rng.normal(size=(len(rows), 4)).astype(np.float32))
    if "tags" in names:
        made["tags"] = [[f"tag {number}" for number in numbers] for numbers in rng.integers(0, 5, (len(rows), 2))]
        made["tag_count"] = [len(set(tags)) for tags in made["tags"]]
    if "cluster_id" in names:
        made["cluster_id"] = rng.integers(0, 3, len(rows)).tolist()
    for name, values in made.items():
        if name not in EVERY_ROW:
            values[ELIGIBLE] = None
        rows = rows.add_column(name, values)
    return rows


def on_toys(value: Any, models: dict[str, str]) -> Any:
    """Settings with the models and files that stand for those they name, and what rows and models so small need."""
    if isinstance(value, list):
        return [on_toys(each, models) for each in value]
    if not isinstance(value, dict):
        return value
    changed = {key: on_toys(each, models) for key, each in value.items()}
    changed |= {key: models[each] for key, each in value.items() if key.endswith("model") or key == "validation"}
    changed |= (
        {"dataset_name": models[value["dataset_name"]], "dataset_split": "train"} if "dataset_name" in value else {}
    )
    changed |= {"models": [[models[name], size] for name, size in value["models"]]} if "models" in value else {}
    changed |= {"validation_split": "train"} if "validation" in value else {}
    changed |= {"projection_dim": 64} if {"checkpoints", "warmup_ratio"} & value.keys() else {}
    changed |= {"warmup_size": 12} if "warmup_size" in value else {}
    changed |= {"warmup_ratio": 0.2} if "warmup_ratio" in value else {}  # in the first of its steps nothing is learnt
    changed |= {"rounds": min(value["rounds"], 3)} if "rounds" in value else {}
    is_cosine = "threshold" in value and value.get("filter") != "decontaminate"
    changed |= {"threshold": 1.0} if is_cosine else {}  # to an untrained encoder all texts are alike
    return changed | ({"k": 3} if value.get("score") == "cluster" else {})


def read(recipe: Path) -> tuple[str, dict[str, Any]]:
    """The command that the recipe's comment names, and its keys."""
    text = recipe.read_text()
    found = RUN_LINE.search(text)
    assert found is not None, (
        f"{recipe.name} has no line like '# Run: hf-datasel train --config recipes/{recipe.name}'"
    )
    return found[1], yaml.safe_load(text)


def config_flags(recipe: Path) -> list[str]:
    """The flags with which the recipe's comment says to run it."""
    found = RUN_LINE.search(recipe.read_text())
    assert found is not None
    return ["--config", str(recipe), *(["--trust_config"] if found[3] else [])]


def only(command: str) -> pytest.MarkDecorator:
    """The recipes of one command."""
    return pytest.mark.parametrize(
        "recipe", [path for path in RECIPES if read(path)[0] == command], ids=lambda path: path.stem
    )
