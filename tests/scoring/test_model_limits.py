"""Rows that a model cannot read: more tokens than positions, and ids without an embedding."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from hf_datasel import score
from hf_datasel.errors import ModelError
from hf_datasel.scores import IFD, Embedding, Length, Loss, PromptLoss, RewardGap, SelectIT
from hf_datasel.selectors import Random
from hf_datasel.training import SelectiveSFTConfig, SelectiveSFTTrainer


@pytest.fixture(scope="module")
def short_model(tmp_path_factory, tiny_model_dir):
    """A model with a table of 64 positions."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    folder = tmp_path_factory.mktemp("short")
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2)
    with torch.random.fork_rng(devices=[]):
        GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def small_vocabulary(tmp_path_factory, tiny_model_dir):
    """A model whose tokenizer has two tokens more than it."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    folder = tmp_path_factory.mktemp("small")
    AutoModelForCausalLM.from_pretrained(tiny_model_dir).save_pretrained(folder)
    tokenizer.add_tokens(["<call>", "</call>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    return str(folder)


ROWS = Dataset.from_dict({"prompt": ["Is it slow?", "Go on."], "completion": ["Yes. <call>", "And on, " * 40]})


@pytest.mark.parametrize(
    "subject", [Loss, IFD, PromptLoss, SelectIT, lambda *args, **more: RewardGap(*args, scorer="perplexity", **more)]
)
def test_max_length_above_the_positions(short_model, subject):
    expected = r"\(max_length=100\) is more than the 64 tokens that .*short.* supports\. Lower it\."
    with pytest.raises(ModelError, match=expected):
        score(ROWS, [Length(), subject(max_length=100)], model=short_model)
    with pytest.raises(ModelError, match=expected):
        ROWS.map(subject(short_model, max_length=100), batched=True)


def test_rows_longer_than_the_positions(short_model):
    with pytest.raises(ModelError, match=r"A row has \d+ tokens, and .* for each of 64 positions. Set max_length=64"):
        score(ROWS, [Loss()], model=short_model)
    assert score(ROWS, [Loss(max_length=64)], model=short_model)["loss"][1] > 0


@pytest.mark.parametrize("subject", [Loss(), IFD(convention="cherry"), Embedding(), SelectIT(level="token")])
def test_token_without_an_embedding(small_vocabulary, subject):
    expected = r"gives the token id 30\d, and .*small.* embeddings for 300 tokens .*resize_token_embeddings"
    with pytest.raises(ModelError, match=expected):
        score(ROWS, [subject], model=small_vocabulary)
    without = ROWS.select([1])
    assert score(without, [subject], model=small_vocabulary).num_rows == 1


@pytest.mark.parametrize("kind", ["vocabulary", "positions"])
def test_in_a_trainer(tmp_path, small_vocabulary, short_model, kind):
    path = small_vocabulary if kind == "vocabulary" else short_model
    args = SelectiveSFTConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", selection_ratio=0.5, max_length=512
    )
    with pytest.raises(ModelError, match="token id 30" if kind == "vocabulary" else "64 positions"):
        SelectiveSFTTrainer(model=path, args=args, train_dataset=ROWS, selector=Random())
