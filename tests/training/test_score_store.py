"""A score store in training: several runs on one pool score it with the base model once."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from hf_datasel import score
from hf_datasel.scores import IFD
from hf_datasel.scoring import ScoreStore
from hf_datasel.scoring.weights import weights_digest
from hf_datasel.selectors import IterIT

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


@contextmanager
def rows_scored(monkeypatch):
    """Count the sequences that pass through models for scores."""
    from hf_datasel.scoring.logprobs import LogprobRunner

    counts, original = [], LogprobRunner.__call__
    with monkeypatch.context() as patch:
        patch.setattr(
            LogprobRunner,
            "__call__",
            lambda self, rows, *rest: counts.append(len(rows)) or original(self, rows, *rest),
        )
        yield counts


def selected(trainer):
    return [selection.indices.tolist() for selection in trainer.selections]


@pytest.mark.parametrize("adapter", [None, LORA])
def test_a_second_run_scores_only_what_its_own_training_changes(
    train, tmp_path, monkeypatch, assert_equal_weights, adapter
):
    options = {"selection_size": 4, "num_train_epochs": 2, **({"peft_config": adapter} if adapter else {})}
    store = str(tmp_path / "scores")
    plain = train(IterIT(), "plain", **options)
    with rows_scored(monkeypatch) as first_counts:
        first = train(IterIT(), "first", score_store=store, **options)
    with rows_scored(monkeypatch) as second_counts:
        second = train(IterIT(), "second", score_store=store, **options, seed=1)
    assert selected(first) == selected(plain)
    assert_equal_weights(first, plain)
    assert selected(second)[0] == selected(first)[0]
    assert sum(second_counts) < sum(first_counts) - len(first.selections[0].indices)
    assert sum(second_counts) > 0, "the second round reads the model as it is then"


def test_the_same_run_again_scores_nothing(train, tmp_path, monkeypatch):
    options = {"selection_size": 4, "num_train_epochs": 2, "score_store": str(tmp_path / "scores")}
    first = train(IterIT(), "first", **options)
    with rows_scored(monkeypatch) as counts:
        again = train(IterIT(), "again", **options)
    assert sum(counts) == 0
    assert selected(again) == selected(first)


def test_results_of_the_named_model_are_found(train, tmp_path, monkeypatch, pool_rows, tiny_model_dir):
    score(pool_rows, IFD(max_length=128), model=str(tiny_model_dir), store=tmp_path / "scores")
    with rows_scored(monkeypatch) as counts:
        train(IterIT(), "run", selection_size=4, num_train_epochs=1, score_store=str(tmp_path / "scores"))
    assert sum(counts) == 0


def test_a_store_with_a_loaded_model(pool_rows, model, tokenizer, tmp_path, monkeypatch):
    store = ScoreStore(tmp_path / "scores")
    first = score(pool_rows, IFD(), model, tokenizer, store=store)
    with rows_scored(monkeypatch) as counts:
        again = score(pool_rows, IFD(), model, tokenizer, store=store)
    assert sum(counts) == 0
    assert again["ifd"][:] == first["ifd"][:]
    with torch.no_grad():
        model.get_output_embeddings().weight[0, 0] += 1
    with rows_scored(monkeypatch) as counts:
        score(pool_rows, IFD(), model, tokenizer, store=store)
    assert sum(counts) > 0, "other weights have other results"


def test_a_new_adapter_changes_no_digest_and_a_trained_one_does(tiny_model_dir):
    from peft import get_peft_model

    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    digest = weights_digest(base)
    adapted = get_peft_model(base, LORA)
    assert weights_digest(adapted) == digest
    weight = next(value for name, value in adapted.named_parameters() if "lora_B" in name)
    with torch.no_grad():
        weight[0, 0] = 1e-3
    assert weights_digest(adapted) != digest


def test_the_config_of_a_model_is_part_of_its_digest(tiny_model_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    digest = weights_digest(model)
    model.config.use_cache = not model.config.use_cache
    assert weights_digest(model) == digest
    model.config.rms_norm_eps *= 2
    assert weights_digest(model) != digest
