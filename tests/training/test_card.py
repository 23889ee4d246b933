"""The model card of a run: how the rows were selected, and what was measured."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard

from hf_datasel.cards.build import gather, read_run
from hf_datasel.cards.card import page
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import Selector
from hf_datasel.scores import Cluster
from hf_datasel.selectors import All, Cherry, DiverseEvol, IterIT, Random
from hf_datasel.training.model_card import evaluation_results, extend_card, training_data_section


@dataclass(frozen=True)
class Evil(Selector):
    """A <b>selector</b> of another package."""

    note: str = ""
    citation = "@article{x,\n```\n# Not a heading\n}"

    def select(self, context: RoundContext) -> np.ndarray:
        return np.flatnonzero(context.eligible)[: context.budget]


def metadata_of(folder: Path) -> dict[str, Any]:
    found = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert isinstance(found, dict)
    return found


def section_of(folder: Path) -> str:
    card = (folder / "README.md").read_text(encoding="utf-8")
    return card[card.index("## Training data") : card.index("## Training procedure")]


def test_card_of_a_run(train, tmp_path, pool_rows):
    trainer = train(
        IterIT(decay=0.5),
        selection_size=8,
        num_train_epochs=2,
        save_strategy="epoch",
        eval_strategy="epoch",
        eval_dataset=pool_rows.select(range(4)),
    )
    first, second = trainer.selections
    after_training = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")  # written with the last checkpoint
    section = section_of(tmp_path / "run")
    assert "selected by IterIT from 24 rows of a dataset that is not on the Hub. Rows with a high IFD" in section
    assert "Settings that differ from its defaults: `decay` = `0.5`." in section
    assert "8 of the 24 rows were selected in each of 2 rounds." in section
    seconds = [f"{each.provenance['seconds']:.3g}" for each in trainer.selections]
    assert f"| 0 | 24 | 8 |  | {seconds[0]} | `selections/round-0` |" in section
    scored = second.provenance["rows_scored"]
    assert f"| 1 | {scored} | 8 | {second.overlap(first):.3f} | {seconds[1]} | `selections/round-1` |" in section
    assert "Boosting LLM via Learning from Data Iteratively" in section
    metadata = metadata_of(tmp_path / "run")
    assert not {"licence", "license", "datasets", "base_model", "eval_results"} & set(metadata)
    [found] = metadata["model-index"][0]["results"]
    assert found["dataset"] == {"name": "evaluation set", "type": "evaluation set"}
    last = [each for each in trainer.state.log_history if "eval_loss" in each][-1]
    assert last["step"] == trainer.state.global_step
    assert found["metrics"] == [
        {"type": "loss", "value": last["eval_loss"], "name": "Loss"},
        {"type": "accuracy", "value": last["eval_mean_token_accuracy"], "name": "Mean token accuracy"},
    ]
    assert "None](" not in after_training
    trainer.create_model_card(model_name="run")
    again = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    share = next(each["selection_time_share"] for each in trainer.state.log_history if "train_runtime" in each)
    parts, before = again.split("\n\n"), after_training.split("\n\n")
    assert [part for part in parts if part in before] == before
    added = [part for part in parts if part not in before]
    assert added[0] == f"Selecting took {share:.1%} of the wall time of the run."
    assert [part.split(",")[0] for part in added[1:]] == ["To select", "Training took 1"]  # what they cost
    assert again.count("## Training data") == 1


def test_card_of_growing_rounds(train, tmp_path):
    trainer = train(DiverseEvol(rounds=3), selection_size=9, num_train_epochs=2)
    trainer.create_model_card(model_name="run")
    section = section_of(tmp_path / "run")
    assert (
        "9 of the 24 rows were selected in 3 rounds. Each round has the rows of the previous rounds and new" in section
    )
    assert "were trained on for 2 epochs; each round but the first started again from the base model." in section
    assert "| round | rows scored | rows selected | new rows | seconds | folder |" in section
    assert "| 2 | 24 | 9 | 3 |" in section
    assert "each the farthest from all selected before, by the vectors of the current model." in section
    trainer = train(DiverseEvol(rounds=2, restart_each_round=False), selection_size=9, num_train_epochs=2)
    trainer.create_model_card(model_name="run")
    section = section_of(tmp_path / "run")
    assert "were trained on for 1 epoch; each round continued with the model of the previous one." in section


def test_a_warm_up_is_called_one(train, tmp_path):
    selector = Cherry(clusters=Cluster(k=3), warmup_size=5)
    trainer = train(selector, selection_size=8, num_train_epochs=2)
    trainer.create_model_card(model_name="run")
    section = section_of(tmp_path / "run")
    assert (
        "8 of the 24 rows were selected in one selection, after a warm-up on 5. Round 0 was a warm-up: the" in section
    )
    assert "Round 1 started again from the base model and trained it on its rows for 2 epochs." in section
    assert "| 0 (warm-up) | 24 | 5 |  |" in section
    only = training_data_section(trainer.selections[:1], {}, 24, selector, None)
    assert (
        "5 of the 24 rows were selected for a warm-up. Round 0 is a warm-up: the model is trained on its rows" in only
    )
    assert "rows for 1 epoch before the actual selection." in only
    assert "had learnt" not in only


@pytest.mark.parametrize(
    ("run", "when", "settings", "how_many"),
    [
        (
            {"reselection_strategy": "steps", "reselection_steps": 3},
            "no selected row has yet, reselected every 3 updates.",
            "`decay` = `0.5`, `reselection_strategy` = `steps`, `reselection_steps` = `3`.",
            "selected in each of 2 rounds.",
        ),
        (
            {"reselection_strategy": "no", "scoring_dtype": "bfloat16"},
            "no selected row has yet, selected once before training.",
            "`decay` = `0.5`, `reselection_strategy` = `no`, `scoring_dtype` = `bfloat16`.",
            "8 of the 24 rows were selected in one selection.",
        ),
    ],
)
def test_card_reselection_strategy(train, tmp_path, pool_rows, run, when, settings, how_many):
    trainer = train(IterIT(decay=0.5), selection_size=8, num_train_epochs=2, **run)
    trainer.create_model_card(model_name="run")
    facts = gather(trainer.selections, pool_rows, title="x")
    for said in (section_of(tmp_path / "run"), page(facts)):
        assert when in said
        assert "Before every epoch" not in said
    section = section_of(tmp_path / "run")
    assert f"Settings that differ from its defaults: {settings}" in section
    assert how_many in section
    assert all(f"| `{name}` | `{value}` |" in page(facts) for name, value in run.items())


def test_card_selection_schedule(train, tmp_path):
    train(IterIT(), selection_schedule=[8, 4], num_train_epochs=2).create_model_card(model_name="run")
    assert "defaults: `selection_schedule` = `[8, 4]`." in section_of(tmp_path / "run")


def test_card_reused_losses(train, tmp_path, pool_rows):
    trainer = train(IterIT(), selection_size=8, num_train_epochs=3, reuse_training_loss=True, loss_type="nll")
    trainer.create_model_card(model_name="run")
    computed = [each.provenance["scores"][0]["computed"] for each in trainer.selections]
    counts = [each.get("reused_training_loss", 0) for each in computed]
    assert counts[0] == 0 < min(counts[1:])
    sentence = f"The losses of {sum(counts)} rows, in all rounds together, were reused from the training steps of the"
    section = section_of(tmp_path / "run")
    facts = gather(trainer.selections, pool_rows, title="x")
    assert sentence in section and sentence in page(facts)
    assert "`reuse_training_loss` = `true`." in section
    assert [each["reused"] for each in facts["rounds"]] == counts


def test_card_steps_of_the_selecting_model(train, tmp_path, pool_rows):
    trainer = train(DiverseEvol(rounds=3), selection_size=9, num_train_epochs=2, save_strategy="epoch")
    models = [each.provenance["model"] for each in trainer.selections]
    assert [each["global_step"] for each in models] == [0, 2, 6]
    assert [each["steps"] for each in models] == [0, 2, 4], "the base weights were put back after step 2"
    selections, run = read_run(tmp_path / "run")
    facts = gather(selections, pool_rows, title="x", training=run)
    text, last = page(facts), f"{run['loss'][-1][1]:.4g}"
    assert " after 4 steps of training" in text
    assert " was trained on these rows for 6 steps, starting again from the base model" in text
    assert f" The last training loss was {last}. " in text
    assert "The whole run took 12 steps over 6 epochs, including earlier rounds." in text
    assert "Training started again from the base model after step 2, 6, where the lines are interrupted." in text
    trainer = train(DiverseEvol(rounds=3, restart_each_round=False), "on", selection_size=9, num_train_epochs=3)
    assert [each.provenance["model"]["steps"] for each in trainer.selections] == [0, 1, 3]


def test_restarts_of_a_resumed_run(train):
    settings = {"selection_size": 9, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 1}
    whole = train(DiverseEvol(rounds=3), **settings)
    checkpoint = Path(whole.args.output_dir) / "checkpoint-4"
    again = train(DiverseEvol(rounds=3), resume=str(checkpoint), **settings)
    assert [each.provenance["model"]["steps"] for each in again.selections] == [0, 2, 4]


def test_card_manual_evaluation(train, tmp_path, pool_rows, from_hub):
    few = pool_rows.select(range(4))
    trainer = train(
        Random(), selection_size=4, num_train_epochs=1, eval_strategy="epoch", eval_dataset={"a": few, "b": few}
    )
    other = from_hub(trainer.eval_dataset["a"], "test")
    trainer.evaluate(other)
    value = EvalResult("text-generation", "openai/gsm8k", "GSM8K", "exact_match", np.float64(0.25))
    trainer.evaluation_results.append(value)
    trainer.create_model_card()
    [index] = metadata_of(tmp_path / "run")["model-index"]
    assert index["name"] == "run"
    found = {each["dataset"]["name"]: each["metrics"] for each in index["results"]}
    assert list(found) == ["evaluation set a", "evaluation set b", "them/rows", "GSM8K"]
    assert [each["type"] for each in found["evaluation set b"]] == ["loss", "accuracy"]
    assert found["GSM8K"] == [{"type": "exact_match", "value": 0.25}]
    assert found["them/rows"][0]["value"] == trainer.state.log_history[-1]["eval_loss"]
    assert isinstance(ModelCard.load(tmp_path / "run" / "README.md").data.eval_results, list)


def test_card_evaluation_of_the_best_model():
    log = [{"step": 1, "eval_loss": 2.0}, {"step": 2, "eval_loss": 1.0}, {"step": 3, "eval_loss": 3.0, "loss": 1}]
    assert [each.metric_value for each in evaluation_results(log, {"eval": {}})] == [3.0]
    assert [each.metric_value for each in evaluation_results(log, {"eval": {}}, step=2)] == [1.0]
    assert evaluation_results([{"step": 1, "eval_loss": float("nan")}], {"eval": {}}) == []
    assert evaluation_results(log, {}) == []


def test_card_before_training(train, tmp_path):
    train.make(All(), "run").create_model_card(model_name="mine", tags="x")
    section = section_of(tmp_path / "run")
    assert "No rows have been selected yet." in section
    assert "All its settings are its defaults." in section
    tags = metadata_of(tmp_path / "run")["tags"]
    assert {"x", "hf_datasel", "sft", "trl"} <= set(tags)
    assert tags == sorted(tags)


def test_card_escapes_markdown(train):
    evil = Evil(note="`|x|\n\n# Heading <script>")
    parent = {"name": "a](http://evil) <b>", "revision": "main", "config": "`c`", "split": "train"}
    trainer = train(evil, selection_size=4, num_train_epochs=1)
    section = training_data_section(trainer.selections, parent, 24, evil, "x](http://evil)")
    outside = re.sub(r"^(`{3,})bibtex\n.*?^\1$", "", section, flags=re.DOTALL | re.MULTILINE)
    outside = re.sub(r"`[^`\n]*`", "", outside)
    assert [line for line in outside.splitlines() if line.startswith("#")] == ["## Training data"]
    assert not re.search(r"<script|<b>|\]\(http:", outside)
    assert "A &#60;b&#62;selector" in section


def test_card_without_usual_heading(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("---\ntags: [a]\nlicence: license\n---\n\n# Model\n", encoding="utf-8")
    extend_card(path, section="## Training data", datasets=["a/b", "c/d", "a/b"], results=[], name="m")
    assert path.read_text().endswith("# Model\n\n## Training data\n")
    assert metadata_of(tmp_path) == {"tags": ["a"], "datasets": ["a/b", "c/d"]}


def test_card_parent_revision(train, tmp_path, pool_rows, from_hub):
    rows = from_hub(pool_rows, "train")
    trainer = train.make(Random(), "run", rows=rows, selection_size=4)
    trainer.create_model_card()
    assert metadata_of(tmp_path / "run")["datasets"] == ["them/rows"]
    assert (
        "[them/rows](https://huggingface.co/datasets/them/rows) (`train`) at revision `aaaaaaaaaaaa`."
        in section_of(tmp_path / "run")
    )
    trainer.create_model_card(dataset_name="me/mixture")
    assert metadata_of(tmp_path / "run")["datasets"] == ["me/mixture", "them/rows"]
