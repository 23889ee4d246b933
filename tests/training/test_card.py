"""The model card of a run: how the rows were chosen, and what was measured."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard

from hf_datasel.cards.build import gather
from hf_datasel.cards.card import page
from hf_datasel.cards.run import read_run
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.selector import Selector
from hf_datasel.scores import Cluster
from hf_datasel.selectors import All, Cherry, DiverseEvol, IterIT, Random
from hf_datasel.training.model_card import extend_card, measured, training_data


@dataclass(frozen=True)
class Evil(Selector):
    """Not shown, since it is nobody's of ours."""

    note: str = ""
    citation = "@article{x,\n```\n# Not a heading\n}"

    def choose(self, round: Round) -> np.ndarray:
        return np.flatnonzero(round.eligible)[: round.budget]


def metadata_of(folder: Path) -> dict[str, Any]:
    found = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert isinstance(found, dict)
    return found


def section_of(folder: Path) -> str:
    card = (folder / "README.md").read_text(encoding="utf-8")
    return card[card.index("## Training data") : card.index("## Training procedure")]


def test_the_card_says_how_each_round_was_chosen_and_what_the_last_evaluation_gave(train, tmp_path, pool_rows):
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
    assert "chosen by IterIT from 24 rows of a dataset that is not on the Hub. Before every epoch" in section
    assert "Settings that differ from its defaults: `decay` = `0.5`." in section
    assert "8 of the 24 rows were chosen in each of 2 rounds." in section
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
    assert again.replace(f"Choosing took {share:.1%} of the wall time of the run.\n\n", "") == after_training != again
    assert again.count("## Training data") == 1


def test_rounds_that_grow_are_told_by_their_new_rows(train, tmp_path):
    trainer = train(DiverseEvol(rounds=3), selection_size=9, num_train_epochs=2)
    trainer.create_model_card(model_name="run")
    section = section_of(tmp_path / "run")
    assert "9 of the 24 rows were chosen in 3 rounds. Each round has the rows of the rounds before and new" in section
    assert "were trained on for 2 epochs, each but the first from the base model again." in section
    assert "| round | rows scored | rows chosen | new rows | seconds | folder |" in section
    assert "| 2 | 24 | 9 | 3 |" in section
    assert "vectors that the model in training now has of them: DiverseEvol." in section, "to its end"
    trainer = train(DiverseEvol(rounds=2, restart_each_round=False), selection_size=9, num_train_epochs=2)
    trainer.create_model_card(model_name="run")
    section = section_of(tmp_path / "run")
    assert "were trained on for 1 epoch, each with the model of the one before." in section


def test_a_warm_up_is_called_one(train, tmp_path):
    selector = Cherry(clusters=Cluster(k=3), warmup_size=5)
    trainer = train(selector, selection_size=8, num_train_epochs=2)
    trainer.create_model_card(model_name="run")
    section = section_of(tmp_path / "run")
    assert "8 of the 24 rows were chosen in one choice, after a warm-up on 5. Round 0 was a warm-up: the" in section
    assert "Round 1 began again from the base model, which was trained on its rows for 2 epochs." in section
    assert "| 0 (warm-up) | 24 | 5 |  |" in section
    only = training_data(trainer.selections[:1], {}, 24, selector, None)
    assert "5 of the 24 rows were chosen for a warm-up. Round 0 is a warm-up: the model is trained on its rows" in only
    assert "rows for 1 epoch before the choice itself is made." in only
    assert "had learnt" not in only


@pytest.mark.parametrize(
    ("run", "when", "settings", "how_many"),
    [
        (
            {"reselection_strategy": "steps", "reselection_steps": 3},
            "Every 3 updates, the rows with the highest IFD",
            "`decay` = `0.5`, `reselection_strategy` = `steps`, `reselection_steps` = `3`.",
            "chosen in each of 2 rounds.",
        ),
        (
            {"reselection_strategy": "no", "scoring_dtype": "bfloat16"},
            "Once, before training, the rows with the highest IFD",
            "`decay` = `0.5`, `reselection_strategy` = `no`, `scoring_dtype` = `bfloat16`.",
            "8 of the 24 rows were chosen in one choice.",
        ),
    ],
)
def test_when_the_rows_are_chosen_is_as_the_run_has_it(train, tmp_path, pool_rows, run, when, settings, how_many):
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


def test_rounds_of_different_sizes_are_a_setting_of_the_choice(train, tmp_path):
    train(IterIT(), selection_schedule=[8, 4], num_train_epochs=2).create_model_card(model_name="run")
    assert "defaults: `selection_schedule` = `[8, 4]`." in section_of(tmp_path / "run")


def test_losses_that_were_taken_from_training_are_told(train, tmp_path, pool_rows):
    trainer = train(IterIT(), selection_size=8, num_train_epochs=3, reuse_training_loss=True)
    trainer.create_model_card(model_name="run")
    computed = [each.provenance["scores"][0]["computed"] for each in trainer.selections]
    counts = [each.get("reused_training_loss", 0) for each in computed]
    assert counts[0] == 0 < min(counts[1:])
    said = f"The losses of {sum(counts)} rows, all rounds together, were taken from the training steps of the round"
    section = section_of(tmp_path / "run")
    facts = gather(trainer.selections, pool_rows, title="x")
    assert said in section and said in page(facts)
    assert "`reuse_training_loss` = `true`." in section
    assert [each["reused"] for each in facts["choices"]] == counts


def test_what_the_model_had_learnt_that_chose_and_what_the_last_one_was_trained_on(train, tmp_path, pool_rows):
    trainer = train(DiverseEvol(rounds=3), selection_size=9, num_train_epochs=2, save_strategy="epoch")
    models = [each.provenance["model"] for each in trainer.selections]
    assert [each["global_step"] for each in models] == [0, 2, 6]
    assert [each["steps"] for each in models] == [0, 2, 4], "the base weights were put back after step 2"
    selections, run = read_run(tmp_path / "run")
    facts = gather(selections, pool_rows, title="x", training=run)
    text, last = page(facts), f"{run['loss'][-1][1]:.4g}"
    assert ", as it is after 4 steps of training, seed" in text
    assert " was trained on these rows for 6 steps, from the base model again, ending at a training loss of" in text
    assert f" training loss of {last}. " in text
    assert "The whole run took 12 steps over 6 epochs, those of earlier rounds included." in text
    assert "Training began again from the base model after step 2, 6, where the lines break." in text
    trainer = train(DiverseEvol(rounds=3, restart_each_round=False), "on", selection_size=9, num_train_epochs=3)
    assert [each.provenance["model"]["steps"] for each in trainer.selections] == [0, 1, 3]


def test_a_resumed_run_knows_where_the_base_model_was_put_back(train):
    settings = {"selection_size": 9, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 1}
    whole = train(DiverseEvol(rounds=3), **settings)
    checkpoint = Path(whole.args.output_dir) / "checkpoint-4"
    again = train(DiverseEvol(rounds=3), resume=str(checkpoint), **settings)
    assert [each.provenance["model"]["steps"] for each in again.selections] == [0, 2, 4]


def test_what_is_measured_by_hand_goes_into_the_metadata_under_its_own_name(train, tmp_path, pool_rows, from_hub):
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


def test_the_best_model_is_shown_with_its_own_evaluation():
    log = [{"step": 1, "eval_loss": 2.0}, {"step": 2, "eval_loss": 1.0}, {"step": 3, "eval_loss": 3.0, "loss": 1}]
    assert [each.metric_value for each in measured(log, {"eval": {}})] == [3.0]
    assert [each.metric_value for each in measured(log, {"eval": {}}, step=2)] == [1.0]
    assert measured([{"step": 1, "eval_loss": float("nan")}], {"eval": {}}) == []
    assert measured(log, {}) == []


def test_a_card_before_anything_was_chosen(train, tmp_path):
    train.make(All(), "run").create_model_card(model_name="mine", tags="x")
    section = section_of(tmp_path / "run")
    assert "No rows have been chosen yet." in section
    assert "All its settings are its defaults." in section
    tags = metadata_of(tmp_path / "run")["tags"]
    assert {"x", "hf_datasel", "sft", "trl"} <= set(tags)
    assert tags == sorted(tags)


def test_strange_words_cannot_leave_their_place(train):
    evil = Evil(note="`|x|\n\n# Heading <script>")
    parent = {"name": "a](http://evil) <b>", "revision": "main", "config": "`c`", "split": "train"}
    trainer = train(evil, selection_size=4, num_train_epochs=1)
    section = training_data(trainer.selections, parent, 24, evil, "x](http://evil)")
    outside = re.sub(r"^(`{3,})bibtex\n.*?^\1$", "", section, flags=re.DOTALL | re.MULTILINE)
    outside = re.sub(r"`[^`\n]*`", "", outside)
    assert [line for line in outside.splitlines() if line.startswith("#")] == ["## Training data"]
    assert not re.search(r"<script|<b>|\]\(http:", outside)
    assert "Not shown" not in section


def test_a_card_without_the_usual_heading_gets_the_section_at_its_end(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("---\ntags: [a]\nlicence: license\n---\n\n# Model\n", encoding="utf-8")
    extend_card(path, section="## Training data", datasets=["a/b", "c/d", "a/b"], results=[], name="m")
    assert path.read_text().endswith("# Model\n\n## Training data\n")
    assert metadata_of(tmp_path) == {"tags": ["a"], "datasets": ["a/b", "c/d"]}


def test_the_parent_is_named_with_its_revision(train, tmp_path, pool_rows, from_hub):
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
