"""Gradients of each row of a batch, compared with autograd on single rows."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen3Config,
)

from hf_datasel.errors import ModelError
from hf_datasel.scoring.gradients import AdamMoments, RowGradients
from hf_datasel.tokens.sequences import Sequence

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def tiny(config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


def batch(*lengths, seed=0):
    draw = np.random.default_rng(seed)
    rows = []
    for length in lengths:
        scored = np.sort(draw.choice(np.arange(1, length), size=max(length // 2, 1), replace=False))
        rows.append(Sequence(draw.integers(0, 50, length), scored))
    return rows


def plain(model, parameters, rows):
    """Compute gradients of the model's own loss, one row at a time."""
    result = []
    for row in rows:
        labels = torch.full((1, len(row.ids)), -100)
        labels[0, row.scored] = torch.from_numpy(row.ids[row.scored])
        model.zero_grad()
        model(input_ids=torch.from_numpy(row.ids)[None], labels=labels).loss.backward()
        result.append([item.grad.float().flatten().clone() for item in parameters.values()])
    model.zero_grad(set_to_none=True)
    return [torch.stack(item) for item in zip(*result, strict=True)]


def require_close(result, expected, near=1e-5):
    largest = max(float(item.abs().max()) for item in expected)
    for left, right in zip(result, expected, strict=True):
        assert left.dtype == torch.float32
        torch.testing.assert_close(left, right, rtol=near, atol=near * largest)


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SMALL, attention_bias=True),
        LlamaConfig(**SMALL, tie_word_embeddings=True),
        Qwen2Config(**SMALL),
        Qwen3Config(**SMALL),
        GemmaConfig(**SMALL),
    ],
    ids=["llama", "llama-tied", "qwen2", "qwen3", "gemma"],
)
def test_all_parameters_of_a_model(config, caplog):
    model = tiny(config)
    parameters = dict(model.named_parameters())
    rows = batch(9, 3, 14, 2)
    expected = plain(model, parameters, rows)
    gradients = RowGradients(model, parameters)
    assert gradients.size == sum(item.numel() for item in parameters.values())
    require_close(gradients.batched(rows), expected)
    require_close(gradients.single(rows), expected)
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        require_close(gradients(rows), expected)
        require_close(gradients(rows[1:2]), [item[1:2] for item in expected])
    assert caplog.text == ""
    assert all(item.grad is None for item in parameters.values())


def lora(model, **more):
    config = LoraConfig(r=3, lora_dropout=0.5, init_lora_weights=False, **more)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wrapped = get_peft_model(model, config).eval()
    parameters = {name: item for name, item in wrapped.named_parameters() if item.requires_grad}
    return wrapped.get_base_model(), {
        name.removeprefix("base_model.model."): item for name, item in parameters.items()
    }


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear", ["q_proj", "down_proj"]])
def test_lora(targets, caplog):
    model, parameters = lora(tiny(Qwen3Config(**SMALL)), target_modules=targets)
    rows = batch(9, 3, 14, 14, 2)
    gradients = RowGradients(model, parameters)
    with caplog.at_level(logging.WARNING, "hf_datasel"), gradients.active():
        result = gradients(rows)
    require_close(result, plain(model, parameters, rows))
    assert caplog.text == ""


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # older versions of PEFT
def test_lora_with_modules_to_save(caplog):
    model, parameters = lora(tiny(LlamaConfig(**SMALL)), target_modules=["q_proj"], modules_to_save=["lm_head"])
    assert any("lm_head" in name for name in parameters)
    rows = batch(9, 3)
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        require_close(RowGradients(model, parameters)(rows), plain(model, parameters, rows))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("config", "more"),
    [
        (LlamaConfig(**SMALL), {"use_dora": True, "target_modules": ["q_proj"]}),
        (LlamaConfig(**SMALL), {"target_modules": ["embed_tokens", "q_proj"]}),
        (MixtralConfig(**SMALL, num_local_experts=4), None),
        (GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=4, initializer_range=0.2), None),
    ],
    ids=["dora", "lora-embedding", "experts", "positions"],
)
def test_modules_that_cannot_batch(config, more, caplog):
    model = tiny(config)
    model, parameters = lora(model, **more) if more else (model, dict(model.named_parameters()))
    rows = batch(9, 3, 6)
    expected = [
        torch.stack([item[0] for item in of_rows])
        for of_rows in zip(*(RowGradients(model, parameters).single([row]) for row in rows), strict=True)
    ]
    gradients = RowGradients(model, parameters)
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        for _ in range(2):
            require_close(gradients(rows), expected)
    assert caplog.text.count("are computed one row at a time, which is slower") == 1


def test_module_that_mixes_rows(caplog):
    """A weight is also used without calling its module, so that its input does not give the full gradient."""
    model = tiny(LlamaConfig(**SMALL))
    inner = model.model.layers[0].mlp.down_proj
    model.model.norm.register_forward_hook(lambda module, args, out: out + inner.weight.sum())
    parameters = dict(model.named_parameters())
    rows = batch(9, 3)
    gradients = RowGradients(model, parameters)
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        require_close(gradients(rows), plain(model, parameters, rows))
    assert "down_proj.weight differs from that of the row alone" in caplog.text


@pytest.mark.parametrize("autocast", [False, True])
def test_16_bit_weights(autocast, caplog):
    exact = tiny(Qwen3Config(**SMALL))
    rows = batch(9, 3, 14, 2)
    expected = RowGradients(exact, dict(exact.named_parameters())).single(rows)
    model = exact if autocast else tiny(Qwen3Config(**SMALL)).to(torch.bfloat16)
    gradients = RowGradients(model, dict(model.named_parameters()))
    with caplog.at_level(logging.WARNING, "hf_datasel"), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        result = torch.cat(gradients(rows), dim=1)
    assert caplog.text == ""
    assert result.dtype == torch.float32
    near = torch.nn.functional.cosine_similarity(result, torch.cat(expected, dim=1))
    assert (near > 0.99).all()


def test_active_parameters():
    model = tiny(LlamaConfig(**SMALL))
    requested = {"model.norm.weight": model.model.norm.weight}
    model.requires_grad_(False)
    model.lm_head.weight.requires_grad_(True)
    gradients = RowGradients(model, requested)
    with pytest.raises(KeyError, match="stop"), gradients.active():
        assert [name for name, item in model.named_parameters() if item.requires_grad] == list(requested)
        raise KeyError("stop")
    assert [name for name, item in model.named_parameters() if item.requires_grad] == ["lm_head.weight"]


def test_hooks_are_removed():
    model = tiny(LlamaConfig(**SMALL))
    RowGradients(model, dict(model.named_parameters()))(batch(5, 4))
    assert not any(module._forward_hooks for module in model.modules())


def test_invalid_parameters():
    model = tiny(LlamaConfig(**SMALL))
    with pytest.raises(ModelError, match="there are none"):
        RowGradients(model, {})
    complete = torch.nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ModelError, match="x and others are quantized"):
        RowGradients(model, {"x": complete})


def test_adam_update_direction():
    moments = AdamMoments(torch.tensor([1.0, 0.0]), torch.tensor([4.0, 0.0]), (0.9, 0.99))
    result = moments.update_direction(torch.tensor([[2.0, 0.0], [-9.0, 1e-4]]))
    root = [(4 * 0.99 + 0.01 * 4 + 1e-8) ** 0.5, (4 * 0.99 + 0.01 * 81 + 1e-8) ** 0.5]
    last = 1e-5 / (0.01 * 1e-8 + 1e-8) ** 0.5
    expected = [[(0.9 + 0.2) / root[0], 0.0], [(0.9 - 0.9) / root[1], last]]
    torch.testing.assert_close(result, torch.tensor(expected), rtol=1e-5, atol=1e-7)
