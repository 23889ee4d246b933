"""Fixtures of scores that compare with a reward model."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def reward_dir(tmp_path_factory, tiny_model_dir):
    """Give the folder of a small reward model that reads another template than the model that answers."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    folder = tmp_path_factory.mktemp("gap_reward")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"
    )
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(tokenizer), initializer_range=0.2, pad_token_id=None, num_labels=1, dtype="float32", **sizes
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
