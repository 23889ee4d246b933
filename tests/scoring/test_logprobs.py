"""Losses of scored tokens, compared with full logits of single rows."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import (
    BitsAndBytesConfig,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from hf_datasel.errors import ModelError
from hf_datasel.scoring import logprobs as forward
from hf_datasel.scoring.logprobs import SummedNLL
from hf_datasel.scoring.runner import ModelRunner
from hf_datasel.tokens import Sequences

VOCABULARY = 80
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


def granite():
    return GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=8.0))


def cohere():
    return CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.0625))


def gemma2():
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0))


def gpt2():
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes, bos_token_id=1, eos_token_id=2))


def built(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


@pytest.fixture
def sequences():
    """Return rows of 2 to 40 tokens with one or two scored spans, some with ids 0 and 2 (pad and end)."""
    rng = np.random.default_rng(0)
    ids, spans = [], []
    for length in [2, 40, 17, 5, 33, 8, 25, 40, 3, 12]:
        row = rng.integers(0, VOCABULARY, length)
        row[-1] = 2
        row[length // 2] = 0
        first = int(rng.integers(1, max(length - 4, 2)))
        ids.append(row.tolist())
        spans.append([first, first + 2, first + 3, length] if length - first > 4 else [first, length])
    return Sequences(Dataset.from_dict({"input_ids": ids, "spans": spans}), np.arange(len(ids)))


def scored(model, sequences, tokens_per_batch=8192, autocast=None):
    """Return the summed losses and the number of scored tokens of each sequence."""
    result = ModelRunner(model, tokens_per_batch, autocast).reduce(sequences, SummedNLL(), "loss")
    return result[:, 0], result[:, 1].astype(int)


def plain(model, sequences, plain_losses):
    rows = sequences.fetch(np.arange(len(sequences)))
    return np.array([plain_losses(model, row.ids, row.scored).sum() for row in rows])


@pytest.mark.parametrize("build", [gpt2, gemma2, granite, cohere])
def test_losses_equal_those_of_full_logits(build, sequences, plain_losses):
    model = built(build)
    sums, counts = scored(model, sequences)
    np.testing.assert_allclose(sums, plain(model, sequences, plain_losses), rtol=1e-5)
    assert counts.tolist() == sequences.scored.tolist()


@pytest.mark.parametrize(("build", "full"), [(gpt2, False), (gemma2, False), (granite, True), (cohere, True)])
def test_heads_that_scale_logits_are_detected(build, full, sequences, caplog):
    model = built(build)
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        scored(model, sequences)
    assert ("the whole model is run" in caplog.text) == full
    assert (type(model).__name__ in caplog.text) == full


def test_scaled_logits_of_a_certain_model_are_detected(sequences, plain_losses):
    """The loss of a token that the model is certain of is 0, whatever scales its logits."""
    model = built(granite)
    state = {}
    model.base_model.register_forward_hook(lambda module, args, output: state.update(hidden=output[0]))
    ids = torch.from_numpy(sequences.fetch(np.array([1]))[0].ids)[None]
    with torch.no_grad():
        model(ids)
        model.lm_head.weight[2] = state["hidden"][0, -2] * 100  # the last token of every sequence
        assert model(ids).logits[0, -2].log_softmax(0)[2] > -1e-3
    sums, _ = scored(model, sequences)
    np.testing.assert_allclose(sums, plain(model, sequences, plain_losses), rtol=1e-5)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_dynamic_positions(kind, plain_losses):
    factors = {"long_factor": [4.0] * 4, "short_factor": [1.0] * 4} if kind == "longrope" else {}
    rope = {"rope_type": kind, "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 16, **factors}
    sizes = {**SIZES, "max_position_embeddings": 64 if kind == "longrope" else 16}
    model = built(lambda: LlamaForCausalLM(LlamaConfig(**sizes, rope_parameters=rope)))
    rng = np.random.default_rng(0)
    ids = [rng.integers(3, VOCABULARY, length).tolist() for length in (12, 50, 30, 8)]
    rows = Sequences(Dataset.from_dict({"input_ids": ids, "spans": [[1, len(row)] for row in ids]}), np.arange(4))
    alone = [scored(model, Sequences(rows.data.select([index]), np.arange(1)))[0][0] for index in range(4)]
    # in older versions of transformers the positions of a short row depend on earlier long rows
    index = slice(1, 3) if kind == "dynamic" else slice(None)
    np.testing.assert_allclose(scored(model, rows)[0][index], alone[index], rtol=1e-5)


@pytest.mark.parametrize("tokens_per_batch", [1, 50, 100])
def test_batch_size(model, sequences, tokens_per_batch):
    alone, together = scored(model, sequences, tokens_per_batch)[0], scored(model, sequences)[0]
    np.testing.assert_allclose(alone, together, rtol=1e-5)


def test_head_chunks(model, sequences, monkeypatch):
    full = scored(model, sequences)[0]
    monkeypatch.setitem(forward._CHUNK_BYTES, "cpu", 4 * 300 * 3)
    np.testing.assert_allclose(scored(model, sequences)[0], full, rtol=1e-5)


def test_rows_without_scored_tokens(sequences, plain_losses):
    data = Dataset.from_dict({"input_ids": [[5], *sequences.data["input_ids"]], "spans": [[0, 1], *[[1, 2]] * 10]})
    with_empty = Sequences(data, np.arange(11))
    model = built(granite)
    sums, counts = scored(model, with_empty)
    assert counts.tolist() == [0, *[1] * 10]
    np.testing.assert_allclose(sums[1:], [
        plain_losses(model, ids, [1]).sum() for ids in sequences.data["input_ids"]
    ], rtol=1e-5)  # fmt: skip


def test_adapters(model, sequences, plain_losses):
    bare = plain(model, sequences, plain_losses)
    config = LoraConfig(target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config).eval()
    sums, _ = scored(adapted, sequences)
    np.testing.assert_allclose(sums, plain(adapted, sequences, plain_losses), rtol=1e-5)
    assert np.abs(sums - bare).max() > 0.1


def test_virtual_tokens(model, sequences):
    config = PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    with pytest.raises(ModelError, match="Prompt-learning adapters"):
        scored(get_peft_model(model, config), sequences)


def test_half_precision(model, sequences):
    exact = scored(model, sequences)[0]
    low = scored(model.to(torch.bfloat16), sequences)[0]
    np.testing.assert_allclose(low, exact, rtol=0.05)
    assert not np.array_equal(low, exact)


def test_autocast(model, sequences):
    exact = scored(model, sequences)[0]
    low = scored(model, sequences, autocast=torch.bfloat16)[0]
    np.testing.assert_allclose(low, exact, rtol=0.05)
    assert not np.array_equal(low, exact)
    assert all(weight.dtype == torch.float32 for weight in model.parameters())


@pytest.fixture
def quantized(tiny_model_dir):
    """Return a 4-bit model with an adapter, in training mode."""
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = LlamaForCausalLM.from_pretrained(tiny_model_dir, quantization_config=quantization, device_map={"": "cpu"})
    config = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(model, config).train()


def gradients(model):
    model.zero_grad()
    ids = torch.arange(5, 25)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    first = [weight for name, weight in model.named_parameters() if "lora" in name and "layers.0" in name]
    assert first
    return [weight.grad.abs().sum().item() for weight in first]


@pytest.mark.filterwarnings("ignore:_check_is_size will be removed:FutureWarning")
def test_4_bit_gradients_after_scoring(quantized, sequences):
    before = gradients(quantized)
    assert all(value > 0 for value in before)
    scored(quantized, sequences)
    assert gradients(quantized) == pytest.approx(before, rel=1e-4)
    scored(quantized.eval(), sequences)  # the mode of a model before its first training step
    assert gradients(quantized.train()) == pytest.approx(before, rel=1e-4)
