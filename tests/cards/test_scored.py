"""A page about rows that were selected by a column of `hf-datasel score`: what the score is, and with which model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_datasel import load_pool, score, select
from hf_datasel.cards.build import gather
from hf_datasel.cards.card import card, page
from hf_datasel.cards.facts import Facts
from hf_datasel.cli import main
from hf_datasel.scores import Influence, Judge, Nuggets, RewardGap, SelectIT
from hf_datasel.selection.provenance import without_paths
from hf_datasel.selectors import Top


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory, pool_rows: Any, tiny_model_dir: Path) -> Facts:
    """Give the facts of rows selected by SelectIT in one command after the other."""
    folder = tmp_path_factory.mktemp("scored")
    pool_rows.to_parquet(folder / "rows.parquet")
    command = ["score", "--dataset_name", str(folder / "rows.parquet"), "--output_dir", str(folder / "out")]
    command += ["--model_name_or_path", str(tiny_model_dir), "--scores", "selectit", "loss"]
    assert main([*command, "--scores_kwargs", '{"selectit": {"alpha": 0.4}}']) == 0
    file = str(folder / "out" / "scored.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_datasel.scoring.column_provenance._specs", {})  # another process
        expected = ["--selector", "top", "--selector_kwargs", '{"by": "selectit"}', "--selection_size", "4"]
        assert main(["select", "--dataset_name", file, *expected, "--output_dir", str(folder / "selected")]) == 0
    report = ["report", "--selection", str(folder / "selected"), "--dataset_name", file]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_datasel.cards.report.png", lambda *_: b"")
        assert main([*report, "--output_dir", str(folder / "report")]) == 0
    result: Facts = json.loads((folder / "report" / "facts.json").read_text(encoding="utf-8"))
    assert (folder / "report" / "report.md").read_text(encoding="utf-8") == page(result)
    return result


def test_card_describes_the_score(facts, tiny_model_dir):
    text = card(facts)
    settings = text.split("Computed scores:")[1].split("## Excluded rows")[0]
    assert "`selectit`: The rating that a model gives to a row" in settings
    assert f"| `model` | `{tiny_model_dir.name}` |" in settings
    assert "| `level` | `sentence` |" in settings
    assert "| `alpha` | `0.4` |" in settings
    assert "Loss" not in settings, "a column that the selection did not read"
    assert "Uncertainty-Aware Self-Reflection" in text.split("## Citation")[1]
    assert "The scores depend on the model" in text
    assert "has to be in the dataset: compute it with `hf-datasel score`" in text
    assert "no rows were scored" not in text


def test_card_contains_no_local_path(facts, tiny_model_dir):
    for text in (card(facts), json.dumps(facts)):
        assert str(tiny_model_dir.parent) not in text
        assert "/tmp" not in text


def test_computed_score_is_cited(pool_rows, tiny_model_dir):
    scored = score(pool_rows, [SelectIT(str(tiny_model_dir), level="token")])
    result = gather([select(scored, Top(by="selectit"), size=3)], title="t")
    assert [item["model"] for item in result["scores"]] == [tiny_model_dir.name]
    assert page(result).count("@inproceedings{liu2024selectit") == 1


@pytest.mark.parametrize(
    ("score", "left"),
    [
        (
            Influence(
                checkpoints=("run/checkpoint-4", "/home/me/run/checkpoint-8"),
                validation="/data/me/tasks.jsonl",
                gradients="../me/gradients",
            ),
            {
                "checkpoints": ("run/checkpoint-4", "checkpoint-8"),
                "validation": "tasks.jsonl",
                "gradients": "gradients",
            },
        ),
        (Influence(checkpoints=("a",), validation="me/tasks"), {"checkpoints": ("a",), "validation": "me/tasks"}),
        (
            RewardGap(
                "~/me/model", reward_model="C:\\me\\rewards", reward_init_kwargs={"cache_dir": "me/c", "token": "hf_x"}
            ),
            {"model": "model", "reward_model": "rewards", "reward_init_kwargs": {"cache_dir": "c"}},
        ),
        (
            RewardGap(scorer="judge", judge={"model": "/me/judge", "base_url": "http://localhost:8000/v1"}),
            {"judge": {"model": "judge", "base_url": "http://localhost:8000/v1"}},
        ),
        (Judge("./me/judge"), {"model": "judge"}),
        (Nuggets(anchor_file="me/anchors.jsonl"), {"anchor_file": "anchors.jsonl"}),
        (
            SelectIT(
                "Qwen/Qwen3-0.6B", level="model", parameters=1, models=(("/me/other", 2.0), ("Qwen/Qwen3-4B", 4))
            ),
            {"model": "Qwen/Qwen3-0.6B", "models": (("other", 2.0), ("Qwen/Qwen3-4B", 4))},
        ),
    ],
    ids=lambda item: type(item).__name__ if not isinstance(item, dict) else "",
)
def test_without_paths(score, left):
    shown = without_paths(score.settings())
    assert {key: shown[key] for key in left} == left
    assert "me/" not in json.dumps(shown).replace("me/tasks", "")


def test_column_provenance_in_a_file(tmp_path, pool_rows, tiny_model_dir):
    score(pool_rows, [SelectIT(level="token")], model=tiny_model_dir).to_parquet(tmp_path / "rows.parquet")
    result = gather([select(load_pool(str(tmp_path / "rows.parquet")), Top(by="selectit"), size=3)], title="t")
    assert result["rounds"][0]["columns_unverified"] == []
    assert "is not recorded" not in page(result)
