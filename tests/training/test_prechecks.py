"""What a round after the first one would come upon is refused before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig, VeraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_datasel import SelectiveSFTTrainer
from hf_datasel.errors import ConfigError, FormatError, ModelError, ScoreError
from hf_datasel.scores import Cluster, Embedding, RewardGap
from hf_datasel.scoring import models
from hf_datasel.selectors import LESS, Chain, Cherry, DiverseEvol, InRange, IterativeKMQ, Within

TEXT_ONLY = "Rows with only a text column have no response to"
VIRTUAL = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
ADAPTER = LoraConfig(r=2, target_modules=["q_proj"])


@pytest.fixture(scope="module")
def rows(pool_rows):
    """Give rows with a quality and clusters."""
    data = pool_rows.add_column("q", [float(at % 7) for at in range(24)])
    return data.add_column("cluster_id", [at % 3 for at in range(24)])


@pytest.fixture(scope="module")
def texts(rows):
    """Give the same with their responses alone, as plain text."""
    return rows.select_columns(["output", "q", "cluster_id"]).rename_column("output", "text")


@pytest.fixture
def refused(train, rows, tmp_path):
    """Give a function that sees a run be refused when the trainer is built, or before its first step."""

    def check(selector: Any, error: type[Exception], match: str, optimizer: bool = False, **more: Any) -> None:
        with pytest.raises(error, match=match):
            trainer = train.make(selector, "run", **{"rows": rows, "selection_size": 9, **more})
            if optimizer:  # what is wrong with it is known once it is there
                trainer.train()
        assert not list((tmp_path / "run").glob("selections/*"))

    return check


# -- rounds that grow ------------------------------------------------------------------------------------------------
def kmq(**gap: Any) -> IterativeKMQ:
    return IterativeKMQ(quality="q", gap=RewardGap(**gap))


JUDGE = {"model": "m", "base_url": "http://127.0.0.1:9/v1", "api_key_env": "NO_SUCH_KEY"}


@pytest.mark.parametrize(
    ("gap", "error", "match"),
    [
        ({"reward_model": "/no/such/model"}, ModelError, "No model '/no/such/model'"),
        ({"scorer": "judge", "judge": JUDGE}, ScoreError, "set the environment variable NO_SUCH_KEY"),
        ({"scorer": "perplexity", "max_new_tokens": 1024}, ModelError, "leaves no room for a prompt. Lower it"),
    ],
    ids=["no_model", "no_key", "no_room"],
)
def test_unsupported_gap(refused, gap, error, match):
    refused(kmq(**gap), error, match)


def test_a_gap_by_a_model_without_a_head(refused, tiny_model_dir):
    refused(kmq(reward_model=str(tiny_model_dir)), ModelError, "LlamaForCausalLM without the head of a reward model")


@pytest.mark.parametrize("outer", ["alone", "chain", "within"])
def test_a_gap_of_plain_text(refused, texts, outer):
    inner = kmq(scorer="perplexity")
    selector = {
        "alone": inner,
        "chain": Chain([InRange("q", low=1)], inner),
        "within": Within(inner, "cluster_id"),
    }[outer]
    refused(selector, FormatError, TEXT_ONLY, rows=texts)


def test_reward_gap_with_virtual_tokens(refused):
    refused(kmq(scorer="perplexity"), ConfigError, "whose prompt-learning adapter puts virtual", peft_config=VIRTUAL)


def test_unused_reward_gap_is_not_checked(train, rows):
    selector = IterativeKMQ(quality="q", gap=RewardGap(reward_model="/no/such/model"), rounds=1)
    assert len(train(selector, rows=rows, selection_size=9, num_train_epochs=1).selections) == 1


@pytest.mark.parametrize(
    ("vectors", "error", "match"),
    [
        (Embedding("/no/such/model"), ModelError, "No model '/no/such/model'"),
        (Embedding("m", base_url=JUDGE["base_url"], api_key_env="NO_SUCH_KEY"), ScoreError, "variable NO_SUCH_KEY"),
    ],
    ids=["no_model", "no_key"],
)
def test_vectors_that_cannot_be_had(refused, vectors, error, match):
    refused(DiverseEvol(vectors, rounds=3, restart_each_round=False), error, match)


def test_trained_embeddings_of_plain_text(refused, texts):
    refused(DiverseEvol(rounds=3), FormatError, TEXT_ONLY, rows=texts)


def test_embeddings_with_virtual_tokens(refused):
    selector = DiverseEvol(rounds=3, restart_each_round=False)
    refused(selector, ConfigError, "whose prompt-learning adapter puts virtual", peft_config=VIRTUAL)


def test_models_are_loaded_once(train, rows, tiny_model_dir, tmp_path, monkeypatch):
    folder, steps, plain = tmp_path / "rates", [], models.load_model
    AutoModelForSequenceClassification.from_pretrained(tiny_model_dir, num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(folder)
    selector = IterativeKMQ(quality="q", gap=RewardGap(reward_model=str(folder), max_new_tokens=3), rounds=2)
    trainer = train.make(selector, "run", rows=rows, selection_size=8, num_train_epochs=2)
    monkeypatch.setattr(models, "load_model", lambda how: steps.append(trainer.state.global_step) or plain(how))
    trainer.train()
    assert steps == [1], "one round of 4 rows has been trained by then"
    assert len(trainer.selections) == 2


# -- a warm-up -------------------------------------------------------------------------------------------------------
def test_cherry_with_plain_text(refused, texts, monkeypatch):
    monkeypatch.setattr(
        Embedding, "compute", lambda self, rows, runner: pytest.fail("the pool was embedded") if len(rows) else {}
    )
    selector = Cherry(warmup_size=6, clusters=Cluster(k=2), vectors=Embedding())
    refused(selector, FormatError, f"{TEXT_ONLY} score", rows=texts)


@pytest.fixture
def less(tmp_path, pool_rows):
    """Give LESS with a warm-up on 8 rows for 2 epochs."""
    pool_rows.select([1, 7]).to_json(tmp_path / "target.jsonl")
    return lambda **more: LESS(
        **{"validation": str(tmp_path / "target.jsonl"), "warmup_size": 8, "warmup_epochs": 2, "projection_dim": 16}
        | more
    )


def test_less_of_plain_text(refused, less, texts):
    refused(less(), FormatError, f"{TEXT_ONLY} score", rows=texts)


@pytest.mark.parametrize(
    ("columns", "error", "match"),
    [
        ({"text": ["x"]}, FormatError, r"The validation rows '.*' have only a text column"),
        (
            {"prompt": ["so long " * 200], "completion": ["x"]},
            ScoreError,
            r"None of the 1 rows of '.*' can be used: 1 prompt_fills_window",
        ),
    ],
    ids=["text", "long"],
)
def test_less_for_a_target_without_responses(refused, less, tmp_path, columns, error, match):
    Dataset.from_dict(columns).to_json(tmp_path / "other.jsonl")
    refused(less(validation=str(tmp_path / "other.jsonl")), error, match)


def test_less_with_a_folder_that_cannot_be_written_to(refused, less, tmp_path):
    (tmp_path / "file").write_text("")
    refused(less(gradients=str(tmp_path / "file" / "kept")), ScoreError, r"gradients='.*kept' cannot be written to: ")


def changed(change: Any) -> Any:
    """A trainer of what a function makes of the model; it gives the optimizers too."""

    def make(**arguments: Any) -> SelectiveSFTTrainer:
        model, optimizer = change(arguments["model"])
        return SelectiveSFTTrainer(**arguments | {"model": model, "optimizers": (optimizer, None)})

    return make


def frozen(model: Any) -> tuple[Any, None]:
    model.get_input_embeddings().weight.requires_grad_(False)
    return model, None


def thawed(model: Any) -> tuple[Any, None]:
    model = get_peft_model(model, ADAPTER)
    model.get_input_embeddings().weight.requires_grad_(True)
    return model, None


def grouped(model: Any) -> tuple[Any, Any]:
    head, *rest = list(model.parameters())
    return model, torch.optim.AdamW([{"params": rest}, {"params": [head]}])


def two_adapters(model: Any) -> Any:
    model = get_peft_model(model, ADAPTER, adapter_name="other")
    model.add_adapter("default", ADAPTER)
    model.set_adapter("default")
    return model


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (frozen, r"the optimizer has none of 1 of the 21, such as 'model\.embed_tokens\.weight'\. Train all of the"),
        (thawed, "which has to be that of Trainer's own AdamW with all of the adapter, and nothing else, in training"),
        (grouped, r"LESS assigns the moments .* by their order.* with all of the model.*: do not pass optimizers"),
        (lambda model: (model, torch.optim.SGD(model.parameters())), "given SGD, which does not save them"),
        (
            lambda model: (get_peft_model(model, ADAPTER, adapter_name="mine"), None),
            r"'default', and the model in training has 'mine': leave adapter_name out",
        ),
        (lambda model: (get_peft_model(model, VIRTUAL), None), "is supported for LoRA, not for PROMPT_TUNING"),
        (
            lambda model: (get_peft_model(model, VeraConfig(r=4, target_modules=["q_proj", "o_proj"])), None),
            "is supported for LoRA, not for VERA: train LoRA",
        ),
        (
            lambda model: (get_peft_model(model, LoraConfig(target_modules=["q_proj"], use_dora=True)), None),
            "is supported for LoRA, not for DoRA: train LoRA",
        ),
    ],
    ids=["frozen", "thawed", "grouped", "sgd", "named", "virtual_tokens", "vera", "dora"],
)
def test_less_unreadable_checkpoints(refused, less, change, match):
    refused(less(), ConfigError, match, optimizer=True, base=changed(change))


@pytest.mark.parametrize(
    "change",
    [
        lambda model: (model, torch.optim.AdamW(model.parameters(), lr=1e-2)),
        lambda model: (get_peft_model(model, ADAPTER), None),
        lambda model: (two_adapters(model), None),
    ],
    ids=["own_adamw", "adapter", "adapters"],
)
def test_less_where_they_can(train, less, change):
    trainer = train(less(), base=changed(change), num_train_epochs=1, selection_size=4)
    assert len(set(trainer.selections[1].scores("influence"))) > 20


def test_less_of_the_whole_model_where_an_adapter_was_trained_before(train, less, tmp_path):
    settings = {"num_train_epochs": 1, "selection_size": 4}
    alone = train(less(), "alone", **settings)
    train(less(), "run", peft_config=ADAPTER, **settings)
    assert (Path(tmp_path) / "run" / "checkpoint-2" / "adapter_config.json").is_file()
    again = train(less(), "run", **settings)
    assert again.selections[1].indices.tolist() == alone.selections[1].indices.tolist()
    assert again.selections[1].scores("influence").tolist() == alone.selections[1].scores("influence").tolist()
    assert not list((tmp_path / "run").glob("checkpoint-*/adapter_*"))
