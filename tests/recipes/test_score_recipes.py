"""Every YAML recipe that scores, run for real on toy rows: tiny models, a server on the loopback, a warm-up run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_datasel import Selection, load_pool
from hf_datasel.cli import main
from hf_datasel.scoring import logprobs as forward
from tests.recipes.toys import (
    COLUMNS,
    CONSTANT,
    ELIGIBLE,
    EVERY_ROW,
    FOLDER,
    RECIPES,
    ROWS,
    config_flags,
    only,
    read,
    toy_file,
)
from tests.scores.endpoint_server import EndpointServer, Reply, completion, rating_of, serving

THEN = re.compile(r"^# Then: hf-datasel (select .*)\n#   (.*)$", re.MULTILINE)
SECRET = "sk-not-for-anybody"


def tags_of(text: str) -> str:
    """Return an answer with tags by the length of the request."""
    return json.dumps([{"tag": f"Tag {number}", "explanation": "-"} for number in range(1 + len(text) % 4)])


# -- what stands for the runs and servers that recipes name ----------------------------------------------------------
@pytest.fixture
def server() -> Iterator[EndpointServer]:
    """Give an endpoint, whose key is in the environment."""
    with serving(SECRET) as started:
        rating = started.reply
        started.reply = lambda text: Reply(completion(tags_of(text))) if "<request>" in text else rating(text)
        yield started


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """Give a list of how many rows went through a causal model in each forward pass."""
    rows, whole = [], forward.LogprobRunner.hidden

    def counted(self: Any, batch: Any) -> Any:
        rows.append(len(batch))
        return whole(self, batch)

    monkeypatch.setattr(forward.LogprobRunner, "hidden", counted)
    return rows


@pytest.fixture
def run(tmp_path, toy_files, models, request, capsys, without_histograms) -> Callable[[Path], Dataset]:
    """Give a function that runs a recipe with only what a toy needs changed, and returns what it writes."""

    def start(recipe: Path) -> Dataset:
        _, keys = read(recipe)
        settings = json.loads(json.dumps(keys["scores_kwargs"]))
        for name, own in settings.items():
            own |= {key: models[value] for key, value in own.items() if key.endswith("model") and value in models}
            small = {"cluster": {"k": [2, 3]}, "nuggets": {"anchors": 5}, "reward_gap": {"max_new_tokens": 4}}
            small["pass_rate"] = {"max_new_tokens": 8, "num_generations": 2}
            own |= small.get(name, {})
            own |= {"base_url": request.getfixturevalue("server").url} if "base_url" in own else {}
        if "influence" in settings:
            settings["influence"] |= {
                "checkpoints": request.getfixturevalue("warm_up"),
                "validation": str(toy_files["no_robots"]),
                "validation_split": "train",
                "gradients": str(tmp_path / "gradients"),
                "projection_dim": 64,
            }
        if "imported_score" in settings:
            settings["imported_score"]["path"] = saved_scores(tmp_path / settings["imported_score"]["path"])
        flags = {"dataset_name": toy_file(keys, toy_files), "dataset_train_split": "train"}
        flags |= {"output_dir": tmp_path / recipe.stem, "scores_kwargs": json.dumps(settings)}
        if "model_name_or_path" in keys:
            flags["model_name_or_path"] = models[keys["model_name_or_path"]]
        words = [str(word) for key, value in flags.items() for word in (f"--{key}", value)]
        code = main(["score", *config_flags(recipe), *words])
        assert code == 0, capsys.readouterr().err
        return load_pool(str(tmp_path / recipe.stem / "scored.parquet"))

    return start


def saved_scores(path: Path) -> str:
    """Write scores of all toy rows for three queries as bergson or dattri does; the row without an answer is last.

    Args:
        path: A folder of bergson, or a file of a tensor.
    """
    scores = np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float32)
    scores[ELIGIBLE] = -9
    if path.suffix == ".pt":
        torch.save(torch.tensor(scores), path)
        return str(path)
    shutil.copytree(FOLDER.parent / "tests" / "scores" / "bergson", path)
    cells = (struct.pack("<f?3x", float(value), True) for row in scores for value in row)
    (path / "scores.bin").write_bytes(b"".join(cells))
    info = json.loads((path / "info.json").read_text())
    (path / "info.json").write_text(json.dumps({**info, "num_items": ROWS, "num_rows": ROWS}))
    return str(path)


# -- the recipes ------------------------------------------------------------------------------------------------------
def test_every_score_recipe_has_its_columns_named_here():
    assert sorted(path.stem for path in RECIPES if read(path)[0] == "score") == sorted(COLUMNS)


@only("score")
def test_score_recipes_write_their_columns(recipe, run, tmp_path, passes):
    scored = run(recipe)
    if recipe.stem == "alpaca-all-scores":
        shared = (
            "one pass for loss, ifd and vectors, one for ifd without the instruction, one for the prompts alone, five "
            "for selectit; and trials"
        )
        assert 8 * ELIGIBLE <= sum(passes) < 8 * ELIGIBLE + 20, shared
    assert len(scored) == ROWS
    added = scored.column_names[scored.column_names.index("text" if "text" in scored.column_names else "answer") + 1 :]
    own = [name for name in added if not name.endswith("_reason")]
    assert sorted(own) == sorted(COLUMNS[recipe.stem])
    for name in own:
        values = scored[name][:]
        assert all(value is not None for value in values[:ELIGIBLE])
        assert values[ELIGIBLE] is None or name in EVERY_ROW, "the row without an answer"
        assert len({json.dumps(value) for value in values[: ELIGIBLE if name in CONSTANT else None]}) > (
            name not in CONSTANT
        )
    for first, second in THEN.findall(recipe.read_text()):
        check_what_it_chooses(shlex.split(f"{first} {second}"), recipe.stem, scored, tmp_path)


def check_what_it_chooses(words: list[str], name: str, scored: Dataset, folder: Path) -> None:
    """The command that a comment suggests takes the highest values, and knows where they come from."""
    assert f"outputs/{name}/scored.parquet" in words
    assert main([word.replace("outputs/", f"{folder}/") for word in words]) == 0
    selected = Selection.load(folder / f"{name}-top")
    by = selected.provenance["selector"]["by"]
    values = scored[by][:]
    assert by in COLUMNS[name]
    assert [values[at] for at in selected.indices] == sorted(values[:ELIGIBLE], reverse=True)[:6]
    assert selected.provenance["columns_unverified"] == []


def test_columns_that_comments_suggest_to_select_by_quality(run, tmp_path):
    run(FOLDER / "alpaca-ifd.yaml")
    file = str(tmp_path / "alpaca-ifd" / "scored.parquet")
    command = ["select", "--dataset_name", file, "--output_dir", str(tmp_path / "selected")]
    assert main([*command, "--selector", "superfiltering", "--selector_kwargs", '{"quality": "ifd"}']) == 0
    selected = Selection.load(tmp_path / "selected")
    assert (selected.scores("ifd")[selected.indices] < 1).all()


def test_judge_one_request_per_row_without_stored_key(run, server, tmp_path):
    scored = run(FOLDER / "alpaca-judge.yaml")
    assert len(server.asked) == ELIGIBLE
    assert sorted(scored["judge"][:ELIGIBLE]) == sorted(float(rating_of(text)) for text in server.asked)
    assert server.tokens == {f"Bearer {SECRET}"}
    for file in (tmp_path / "alpaca-judge").rglob("*.*"):
        assert SECRET.encode() not in (file.read_bytes() if file.is_file() else b"")


def test_the_judge_stops_at_its_budget_and_goes_on(run, server, tmp_path, toy_files):
    folder = tmp_path / "alpaca-judge"
    settings = {"model": "m", "base_url": server.url, "max_tokens_spent": 300, "concurrency": 1}  # 10 each
    words = ["--dataset_name", str(toy_files["alpaca"]), "--output_dir", str(folder)]
    words += ["--scores_kwargs", json.dumps({"judge": settings})]
    for asked in (30, 60):
        assert main(["score", *config_flags(FOLDER / "alpaca-judge.yaml"), *words]) == 0
        assert len(server.asked) == asked
        reasons = load_pool(str(folder / "scored.parquet"))["judge_reason"][:]
        assert reasons.count("budget_spent") == ELIGIBLE - asked


def test_influence_warmup_length():
    _, influence = read(FOLDER / "alpaca-influence.yaml")
    _, warm_up = read(FOLDER / "alpaca-influence-warmup.yaml")
    update = warm_up["per_device_train_batch_size"] * warm_up["gradient_accumulation_steps"]
    epoch = -(-int(warm_up["selection_ratio"] * 52_002) // update)
    names = [f"{warm_up['output_dir']}/checkpoint-{epoch * at}" for at in range(1, warm_up["num_train_epochs"] + 1)]
    assert influence["scores_kwargs"]["influence"]["checkpoints"] == names
    assert influence["scores_kwargs"]["influence"]["max_length"] == warm_up["max_length"]


@pytest.mark.slow
def test_the_command_for_several_processes_of_the_guide(tmp_path, toy_files, tiny_model_dir):
    guide = (FOLDER.parent / "docs" / "guides" / "large-pools.md").read_text(encoding="utf-8")
    found = re.search(r"^torchrun --nproc_per_node 4 (--no-python) hf-datasel (.*) scores.yaml$", guide, re.MULTILINE)
    flags = {"dataset_name": toy_files["alpaca"], "model_name_or_path": tiny_model_dir, "output_dir": tmp_path / "two"}
    settings = {"embedding": {"as_trained": True}, "cluster": {"k": [2, 3]}, "selectit": {"level": "token"}}
    flags["scores_kwargs"] = json.dumps(settings)
    recipe = [*found[2].split(), "recipes/alpaca-all-scores.yaml"]
    words = [*recipe, *(str(word) for key, value in flags.items() for word in (f"--{key}", value))]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", found[1]]
    command = [*launcher, str(Path(sys.executable).parent / "hf-datasel"), *words]
    done = subprocess.run(command, cwd=FOLDER.parent, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert main([*words, "--output_dir", str(tmp_path / "one")]) == 0
    one, two = (load_pool(str(tmp_path / name / "scored.parquet")) for name in ("one", "two"))
    assert one[:] == two[:]
