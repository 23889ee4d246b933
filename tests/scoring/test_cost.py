"""Cost of scoring: FLOPs against counts by hand and by PyTorch, and tokens of each kind of pass."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    Qwen2MoeConfig,
)

from hf_datasel import score
from hf_datasel.formats import Pool
from hf_datasel.scores import IFD, Embedding, Judge, Length, Loss, Nuggets
from hf_datasel.scoring import measure_cost
from hf_datasel.scoring.cost import Parameters, device_name, peak_memory, total_cost
from hf_datasel.scoring.generation import Decoding, Generator, Prompts
from hf_datasel.scoring.prefix_cache import PrefixCacheRunner
from hf_datasel.scoring.runner import ModelRunner
from hf_datasel.tokens import TokenRows, TokenSettings
from tests.scores.endpoint_server import serving

HIDDEN, FFN, LAYERS, HEADS, KV, VOCAB = 32, 64, 2, 4, 2, 300
SIZE = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
}
MATMULS = LAYERS * (2 * HIDDEN * HIDDEN + 2 * HIDDEN * HIDDEN * KV // HEADS + 3 * HIDDEN * FFN)
NORMS = (2 * LAYERS + 1) * HIDDEN
HEAD = VOCAB * HIDDEN


def tiny(config):
    return AutoModelForCausalLM.from_config(config).eval()


def token_rows(rows, tokenizer):
    return TokenRows(Pool(rows), tokenizer, TokenSettings(max_length=1024))


def measured(run):
    """Return the cost of a call."""
    with measure_cost() as meter:
        run()
    return meter.cost


# -- parameters -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tied", [False, True])
def test_parameters_counted_by_hand(tied):
    model = tiny(LlamaConfig(**SIZE, tie_word_embeddings=tied))
    assert Parameters.of(model) == Parameters(MATMULS + NORMS + HEAD, MATMULS + NORMS + HEAD)
    assert Parameters.of(model.base_model).active == MATMULS + NORMS  # no head, whose weights are looked up only
    assert Parameters.of(model).flops(10) == 20 * (MATMULS + NORMS + HEAD)
    assert Parameters.of(model).flops(10, 10) == 60 * (MATMULS + NORMS + HEAD)


def test_positions_are_looked_up():
    model = tiny(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=300))
    looked_up = 1024 * 32  # those of the tokens are the head
    assert Parameters.of(model).active == model.num_parameters() - looked_up


@pytest.mark.parametrize("length", [1, 64])
def test_flops_near_those_of_pytorch(length):
    model = tiny(LlamaConfig(**SIZE, attn_implementation="eager"))
    ids = torch.arange(4 * length).reshape(4, length) % VOCAB
    with FlopCounterMode(display=False) as counter:
        loss = model(input_ids=ids, labels=ids).loss
    forward = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    parameters = Parameters.of(model)
    attention = 4 * 4 * length * length * HIDDEN * LAYERS  # scores and weighted values, of every pair of positions
    assert parameters.flops(4 * length) == pytest.approx(forward - attention, rel=0.01)  # norms are no products
    assert parameters.flops(0, 4 * length) == pytest.approx(counter.get_total_flops() - 2 * attention, rel=0.01)


def test_backward_flops_of_lora():
    model = tiny(LlamaConfig(**SIZE, attn_implementation="eager"))
    base = Parameters.of(model).active
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    trained = LAYERS * 4 * (HIDDEN + HIDDEN + FFN + HIDDEN)
    parameters = Parameters.of(model)
    assert parameters == Parameters(base + trained, trained)
    assert parameters.flops(7, 7) == 7 * (4 * (base + trained) + 2 * trained)
    ids = torch.arange(64)[None]
    loss = model(input_ids=ids, labels=ids).loss
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    # Nothing is trainable below the first layer's attention: its projections need no gradients of their input, and
    # its keys and values none at all.
    attention = 2 * 64 * 64 * HIDDEN * (4 * LAYERS - 2)
    not_needed = 2 * 64 * (HIDDEN * HIDDEN + 2 * HIDDEN * HIDDEN * KV // HEADS)
    expected = counter.get_total_flops() - attention + not_needed
    assert parameters.flops(0, 64) == pytest.approx(expected, rel=0.02)


def test_a_copied_head_counts_once():
    model = tiny(LlamaConfig(**SIZE))
    base = Parameters.of(model).active
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]))
    lora = LAYERS * 4 * 2 * HIDDEN
    assert Parameters.of(model) == Parameters(base + lora, lora + HEAD)


@pytest.mark.parametrize(
    ("config", "share"),
    [
        (MixtralConfig(**SIZE, num_local_experts=8, num_experts_per_tok=2), 1 / 4),
        (
            Qwen2MoeConfig(
                **SIZE, num_experts=8, num_experts_per_tok=4, moe_intermediate_size=64,
                shared_expert_intermediate_size=64, decoder_sparse_step=1,
            ),
            1 / 2,
        ),
    ],
    ids=["mixtral", "qwen2_moe"],
)  # fmt: skip
def test_only_active_experts_count(config, share):
    model = tiny(config)
    experts = LAYERS * 8 * 3 * HIDDEN * FFN
    others = model.num_parameters() - HEAD - experts  # without the embeddings
    assert Parameters.of(model).active == others + share * experts


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning", "ignore:.*:DeprecationWarning")
def test_weights_in_4_bits_count_by_their_number(tiny_model_dir):
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    quantized = AutoModelForCausalLM.from_pretrained(
        tiny_model_dir, quantization_config=BitsAndBytesConfig(load_in_4bit=True), device_map="cpu"
    )
    assert {type(weight).__name__ for weight in quantized.parameters()} == {"Params4bit", "Parameter"}
    assert Parameters.of(quantized).active == Parameters.of(plain).active


# -- tokens -----------------------------------------------------------------------------------------------------------
def test_ifd_takes_both_sequences(model, tokenizer, pool_rows):
    tokens = token_rows(pool_rows, tokenizer).training()
    num_tokens = int(tokens.conditional.lengths.sum() + tokens.prior.lengths.sum())
    live = {"model": model, "processing_class": tokenizer, "scoring_tokens_per_batch": 300}
    cost = measured(lambda: score(pool_rows, [IFD(), Length()], **live))
    assert (cost["tokens_forward"], cost["tokens_backward"]) == (num_tokens, 0)
    assert cost["flops"] == 2 * (MATMULS + NORMS + len(tokenizer) * HIDDEN) * num_tokens
    assert cost["device"] == "cpu"
    assert cost["device_seconds"] == cost["wall_seconds"] > 0
    assert cost["peak_memory"] > 10**8
    assert json.loads(json.dumps(cost)) == cost
    both = measured(lambda: score(pool_rows, [Loss(), IFD()], **live))
    assert both["tokens_forward"] == num_tokens  # they share a pass


def test_nested_measurements_add_up(model, tokenizer, pool_rows):
    def run():
        return score(pool_rows, [Loss()], model=model, processing_class=tokenizer)

    once = measured(run)
    with measure_cost() as outer:
        inner = [measured(run), measured(run)]
    run()  # after it
    assert [cost["tokens_forward"] for cost in inner] == [once["tokens_forward"]] * 2
    assert outer.cost["tokens_forward"] == 2 * once["tokens_forward"]
    assert outer.cost["flops"] == 2 * once["flops"]
    assert outer.cost["wall_seconds"] >= total_cost(inner)["wall_seconds"]


def test_stored_results_cost_nothing(tiny_model_dir, tokenizer, pool_rows, tmp_path):
    def run(rows):
        return measured(lambda: score(rows, [Loss()], model=str(tiny_model_dir), store=tmp_path))

    first, second = run(pool_rows.select(range(20))), run(pool_rows)
    last = token_rows(pool_rows.select(range(20, 24)), tokenizer).training().conditional.lengths
    assert second["tokens_forward"] == last.sum() > 0
    third = run(pool_rows)
    assert (third["tokens_forward"], third["flops"]) == (0, 0.0)
    assert first["tokens_forward"] > 0


def test_embeddings_run_no_head(model, tokenizer, pool_rows):
    live = {"model": model, "processing_class": tokenizer}
    for subject in (Embedding(), Embedding(as_trained=True)):
        cost = measured(lambda subject=subject: score(pool_rows, [subject], **live))
        assert cost["flops"] == 2 * (MATMULS + NORMS) * cost["tokens_forward"] > 0
    states = token_rows(pool_rows, tokenizer).training().conditional.lengths.sum()
    assert cost["tokens_forward"] == states


def test_generated_tokens(model, tokenizer, pool_rows):
    prompts = Prompts.from_rows(token_rows(pool_rows, tokenizer)).prompt_ids
    model.generation_config.eos_token_id = list(range(150))  # so that some answers end early
    answers = []

    def run():
        answers.append(Generator(ModelRunner(model, progress=False), tokenizer, Decoding(8)).answers(prompts))

    cost = measured(run)
    ended = answers[0].lengths < 8
    assert 0 < ended.sum() < len(ended)
    new = answers[0].lengths + ended  # the end token too
    assert cost["tokens_forward"] == (prompts.lengths + new - 1).sum()  # the last one is not read


@pytest.mark.parametrize("cached", [True, False])
def test_cached_examples_cost_once(cached, model, tokenizer, pool_rows, tmp_path, monkeypatch):
    subject = Nuggets().fit(pool_rows, tmp_path / "anchors.jsonl", rows=range(10, 17))
    widths, original = [], torch.nn.Embedding.forward

    def forward(self, ids):
        widths.append(ids.numel())
        return original(self, ids)

    monkeypatch.setattr(PrefixCacheRunner, "_can_use_cache", lambda *args: cached)
    monkeypatch.setattr(torch.nn.Embedding, "forward", forward)
    rows = pool_rows.select(range(3))
    cost = measured(  # one sequence a batch, so that there is no padding
        lambda: score(rows, [subject], model=model, processing_class=tokenizer, scoring_tokens_per_batch=1)
    )
    checks = sum(widths) - cost["tokens_forward"]  # the head and the model on up to 32 tokens, for two runners
    assert 0 < checks <= 2 * 2 * 32


def test_tokens_of_an_endpoint_have_no_flops(pool_rows):
    with serving(None) as server:
        judge = Judge("m", base_url=server.url, timeout=5.0)
        cost = measured(lambda: score(pool_rows.select(range(8)), [judge]))
    assert (cost["tokens_forward"], cost["flops"], cost["device"]) == (80, 0.0, "cpu")


def test_cost_of_a_score_is_logged(model, tokenizer, pool_rows, caplog):
    with caplog.at_level(logging.INFO, "hf_datasel.scoring.cost"):
        score(pool_rows, [Loss()], model=model, processing_class=tokenizer)
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("Scoring 24 rows took ")
    num_tokens = int(token_rows(pool_rows, tokenizer).training().conditional.lengths.sum())
    assert f"models processed {num_tokens:,} tokens, with about " in line


def test_own_scores_may_count(model):
    runner = ModelRunner(model, progress=False)

    def compute(batch):
        runner.count_tokens(5 * len(batch))
        return np.zeros((len(batch), 1))

    lengths = np.full(6, 3)
    assert measured(lambda: runner.run(compute, lengths, 1, label="own"))["tokens_forward"] == 30
    silent = measured(lambda: runner.run(lambda batch: np.zeros((len(batch), 1)), lengths, 1, label="own"))
    assert silent["tokens_forward"] == 18


def test_a_gpu_is_named_and_its_memory_counts(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 123)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA {device.index}")
    assert device_name(torch.device("cuda", 1)) == "NVIDIA 1"
    assert peak_memory() == 123


def test_total_of_costs():
    part = measured(lambda: None)
    gpu = {**part, "tokens_forward": 3, "flops": 2.0, "wall_seconds": 1.0, "device": "NVIDIA A100", "peak_memory": 7}
    other = {**gpu, "device": "NVIDIA H100", "peak_memory": None}
    total = total_cost([{**part, "wall_seconds": 0.5, "peak_memory": None}, gpu, gpu, other])
    assert (total["tokens_forward"], total["flops"], total["wall_seconds"]) == (9, 6.0, 3.5)
    assert (total["device"], total["peak_memory"]) == ("NVIDIA A100, NVIDIA H100", 7)
    assert total_cost([]) == {**part, "wall_seconds": 0.0, "device_seconds": 0.0, "peak_memory": None}
