"""A score store in training: several runs on one pool score it with the base model once."""

from __future__ import annotations

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


def selected(trainer):
    return [selection.indices.tolist() for selection in trainer.selections]


@pytest.mark.parametrize("adapter", [None, LORA])
def test_a_second_run_scores_only_what_its_own_training_changes(
    train, tmp_path, passes, assert_equal_weights, adapter
):
    options = {"selection_size": 4, "num_train_epochs": 2, **({"peft_config": adapter} if adapter else {})}
    store = str(tmp_path / "scores")
    plain = train(IterIT(), "plain", **options)
    in_plain = sum(passes)
    passes.clear()
    first = train(IterIT(), "first", score_store=store, **options)
    in_first = sum(passes)
    passes.clear()
    second = train(IterIT(), "second", score_store=store, **options, seed=1)
    assert in_first == in_plain
    assert selected(first) == selected(plain)
    assert_equal_weights(first, plain)
    assert selected(second)[0] == selected(first)[0]
    assert 0 < sum(passes) < in_first / 2, "the second round reads the model as it is then, and the first one nothing"


def test_the_same_run_again_scores_nothing(train, tmp_path, passes):
    options = {"selection_size": 4, "num_train_epochs": 2, "score_store": str(tmp_path / "scores")}
    first = train(IterIT(), "first", **options)
    passes.clear()
    again = train(IterIT(), "again", **options)
    assert passes == []
    assert selected(again) == selected(first)


def test_results_of_the_named_model_are_found(train, tmp_path, passes, pool_rows, tiny_model_dir):
    score(pool_rows, IFD(max_length=128), model=str(tiny_model_dir), store=tmp_path / "scores")
    passes.clear()
    train(IterIT(), "run", selection_size=4, num_train_epochs=1, score_store=str(tmp_path / "scores"))
    assert passes == []


def test_a_loaded_model_with_other_weights_has_other_results(pool_rows, model, tokenizer, tmp_path, passes):
    store = ScoreStore(tmp_path / "scores")
    first = score(pool_rows, IFD(), model, tokenizer, store=store)
    passes.clear()
    again = score(pool_rows, IFD(), model, tokenizer, store=store)
    assert passes == []
    assert again["ifd"][:] == first["ifd"][:]
    with torch.no_grad():
        model.get_output_embeddings().weight[0, 0] += 1
    score(pool_rows, IFD(), model, tokenizer, store=store)
    assert passes


def test_a_new_adapter_changes_no_digest_and_a_trained_one_does(tiny_model_dir):
    from peft import get_peft_model

    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    digest = weights_digest(base)
    adapted = get_peft_model(base, LORA)
    assert weights_digest(adapted) == digest
    weight = next(value for name, value in adapted.named_parameters() if "lora_B" in name)
    with torch.no_grad():
        weight[0, 0] = 1e-3
    trained = weights_digest(adapted)
    assert trained != digest
    adapted.peft_config["default"].lora_alpha *= 2
    assert weights_digest(adapted) != trained, "the scaling of an adapter is not among its weights"


def test_the_config_of_a_model_is_part_of_its_digest(tiny_model_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    digest = weights_digest(model)
    model.config.use_cache = not model.config.use_cache
    assert weights_digest(model) == digest
    model.config.rms_norm_eps *= 2
    assert weights_digest(model) != digest
