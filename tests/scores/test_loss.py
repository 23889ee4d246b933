"""Cross-entropy of the response."""

from __future__ import annotations

import logging
import random

import numpy as np
import pytest
import torch
from datasets import Dataset, Value
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from hf_datasel import score
from hf_datasel.errors import ConfigError
from hf_datasel.formats import Pool, convert_pool
from hf_datasel.scores import IFD, Loss
from hf_datasel.scoring.engine import Engine
from hf_datasel.testing import contract
from hf_datasel.tokens import TokenRows, TokenSettings

SETTINGS = [
    ("loss", "response", "mean"),
    ("loss_sum", "response", "sum"),
    ("loss_pair", "pair", "mean"),
    ("loss_pair_sum", "pair", "sum"),
]
ALL = [Loss(over=over, reduction=reduction) for _, over, reduction in SETTINGS]


@contract(
    Loss(reduction="sum"), Loss(over="pair", max_length=96), Loss(reduction="sum", over="pair", column_prefix="old_")
)
def test_contract(check, score, pool_rows, tiny_model_dir):
    check(score, pool_rows.select(range(6)), tiny_model_dir)


@pytest.mark.parametrize("folder", ["tiny_model_dir", "tiny_text_model_dir"])
@pytest.mark.parametrize("max_length", [1024, 64])
def test_equals_the_eval_loss_of_sfttrainer(request, pool_rows, tmp_path, folder, max_length):
    folder = request.getfixturevalue(folder)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows = pool_rows.select(range(6))
    chat = tokenizer.chat_template is not None
    if not chat:  # the Alpaca prompt alone would fill 64 tokens
        rows = Dataset.from_dict({"prompt": rows["instruction"], "completion": rows["output"]})
    config = SFTConfig(
        output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, max_length=max_length, disable_tqdm=True
    )
    data = convert_pool(Pool(rows), chat)
    trainer = SFTTrainer(model=model, args=config, train_dataset=data, eval_dataset=data, processing_class=tokenizer)
    own = score(rows, [Loss(max_length=max_length)], model=model, processing_class=tokenizer)["loss"]
    reference = [trainer.evaluate(data.select([row]))["eval_loss"] for row in range(6)]
    np.testing.assert_allclose(own, reference, rtol=1e-5)


def test_multiple_turns_average_over_tokens(model, tokenizer, plain_losses):
    turns = ["Hi", "Hello!", "Tell a story.", "A fox found a lantern. It lit the way home."]
    messages = [{"role": "assistant" if index % 2 else "user", "content": text} for index, text in enumerate(turns)]
    data = Dataset.from_dict({"messages": [messages, messages[:2]]})
    ends = [len(tokenizer.apply_chat_template(messages[:n], return_dict=True)["input_ids"]) for n in range(1, 5)]
    prompt = len(
        tokenizer.apply_chat_template(messages[:1], return_dict=True, add_generation_prompt=True)["input_ids"]
    )
    header = prompt - ends[0]
    full = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    positions = [*range(ends[0] + header, ends[1]), *range(ends[2] + header, ends[3])]
    losses = plain_losses(model, full, positions)
    first = losses[: ends[1] - ends[0] - header]
    result = score(data, [Loss()], model=model, processing_class=tokenizer)["loss"]
    np.testing.assert_allclose(result, [losses.mean(), first.mean()], rtol=1e-5)
    assert losses.mean() != pytest.approx((first.mean() + losses[len(first) :].mean()) / 2, rel=1e-3)


def test_rows_without_score(model, tokenizer, caplog):
    data = Dataset.from_dict({
        "prompt": ["Hi?", "a", None, "a long question " * 9, "b"],
        "completion": ["Hello.", " ", "x", "No.", None],
    })  # fmt: skip
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        scored = score(data, [Loss(max_length=32)], model=model, processing_class=tokenizer)
    assert [value is None for value in scored["loss"]] == [False, True, True, True, True]
    reasons = ["", "empty_response", "wrong_type", "prompt_fills_window", "empty_response"]
    assert scored["loss_reason"][:] == reasons
    assert scored.features["loss"] == Value("float32")
    line = "loss: 1 of 5 rows scored, 4 without: 2 empty_response, 1 prompt_fills_window, 1 wrong_type"
    assert line in caplog.text
    lines = []
    score(data, [Loss(max_length=32)], model=model, processing_class=tokenizer, on_summary=lines.append)
    assert lines == [line]


def test_non_finite_row_is_null(model, tokenizer):
    data = Dataset.from_dict({"prompt": ["Hi?", "Hi?"], "completion": ["Hello.", "A zebra."]})
    [token] = tokenizer("z", add_special_tokens=False)["input_ids"]
    expected = score(data, [Loss()], model=model, processing_class=tokenizer)["loss"][0]
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = float("nan")
    scored = score(data, [Loss()], model=model, processing_class=tokenizer)
    assert scored["loss"][:] == [pytest.approx(expected, rel=1e-5), None]
    assert scored["loss_reason"][:] == ["", "not_finite"]


def test_token_zero_and_padding_token_in_response(model, tokenizer, plain_losses):
    assert tokenizer.pad_token_id == 0
    data = Dataset.from_dict({"prompt": ["Hi?\n", "Hi?\n"], "completion": ["a<pad>b", "a long answer to nothing"]})
    tokens = TokenRows(Pool(data), tokenizer).training().conditional
    rows = tokens.fetch(np.array([0, 1]))
    assert 0 in rows[0].ids[rows[0].scored]
    expected = [plain_losses(model, row.ids, row.scored).mean() for row in rows]
    np.testing.assert_allclose(
        score(data, [Loss()], model=model, processing_class=tokenizer)["loss"], expected, rtol=1e-5
    )


def test_end_token_equal_to_padding(model, tokenizer, pool_rows):
    rows = Dataset.from_dict({"prompt": pool_rows["instruction"], "completion": pool_rows["output"]})
    expected = score(rows, [Loss()], model=model, processing_class=tokenizer)["loss"][:]
    tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.eos_token_id
    assert score(rows, [Loss()], model=model, processing_class=tokenizer)["loss"][:] == expected


def random_state():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_scoring_preserves_state(tiny_model_dir, tokenizer, pool_rows):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, attention_dropout=0.5)
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = random_state()
    first = score(pool_rows, [Loss()], model=model, processing_class=tokenizer)["loss"][:]
    assert random_state() == before
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    assert score(pool_rows, [Loss()], model=model, processing_class=tokenizer)["loss"][:] == first
    assert score(pool_rows, [Loss()], model=model.eval(), processing_class=tokenizer)["loss"][:] == first


def test_mode_is_restored_after_error(model, tokenizer, pool_rows):
    model.train()

    def stop(*_):
        raise RuntimeError("out of memory")

    model.model.register_forward_hook(stop)
    with pytest.raises(RuntimeError, match="out of memory"):
        score(pool_rows, [Loss()], model=model, processing_class=tokenizer)
    assert all(module.training for module in model.modules())


def losses_of(model, ids, positions):
    """Plain cross-entropy of each token at `positions`, given all before it."""
    losses = []
    for position in positions:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids[:position]])).logits[0, -1]
        losses.append(torch.nn.functional.cross_entropy(logits.double(), torch.tensor(ids[position])).item())
    return losses


CHAT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Sing."},
    {"role": "assistant", "content": "La la."},
]


@pytest.mark.parametrize(("name", "over", "reduction"), SETTINGS)
def test_settings_equal_reference(model, tokenizer, name, over, reduction):
    def render(messages, prompt=False):
        return tokenizer.apply_chat_template(messages, return_dict=True, add_generation_prompt=prompt)["input_ids"]

    expected = []
    for messages in (CHAT, CHAT[:2]):
        ids = render(messages)
        positions = list(range(1, len(ids)))
        if over == "response":
            turns = [(len(render(messages[:index], True)), len(render(messages[: index + 1]))) for index in (1, 3)]
            positions = [number for start, stop in turns[: len(messages) // 2] for number in range(start, stop)]
        losses = losses_of(model, ids, positions)
        expected.append(sum(losses) / (len(losses) if reduction == "mean" else 1))
    subject = Loss(reduction=reduction, over=over)
    scored = score(
        Dataset.from_dict({"messages": [CHAT, CHAT[:2]]}), [subject], model=model, processing_class=tokenizer
    )
    assert scored.column_names == ["messages", name, f"{name}_reason"]
    assert subject.column == name
    np.testing.assert_allclose(scored[name], expected, rtol=1e-5)


def test_pair_equals_training_row(model, tokenizer):
    data = Dataset.from_dict({"prompt": ["Hi?\n", "a long question " * 9], "completion": ["Hello.", "No."]})
    scored = score(data, [Loss(over="pair", max_length=32)], model=model, processing_class=tokenizer, on_summary=str)
    ids = tokenizer("Hi?\nHello.")["input_ids"] + [tokenizer.eos_token_id]
    assert scored["loss_pair"][:] == [
        pytest.approx(np.mean(losses_of(model, ids, range(1, len(ids)))), rel=1e-5),
        None,
    ]
    assert scored["loss_pair_reason"][:] == ["", "prompt_fills_window"]


def test_first_token_has_no_loss(model, tokenizer):
    data = Dataset.from_dict({"prompt": ["Hi?", "Hi?"], "completion": ["a long answer to nothing", "Yes."]})
    settings = TokenSettings(max_length=9, truncation_mode="keep_end")
    engine = Engine(Pool(data), model, tokenizer, settings=settings, progress=False)
    result = {name: column.to_pylist() for item in ALL for name, column in engine.compute(item).items()}
    ids = tokenizer("Hi?a long answer to nothing")["input_ids"] + [tokenizer.eos_token_id]
    losses = losses_of(model, ids[-9:], range(1, 9))  # the prompt is cut off
    assert [result[name][0] for name, *_ in SETTINGS] == pytest.approx([np.mean(losses), sum(losses)] * 2, rel=1e-5)
    assert result["loss_sum"][1] < result["loss_pair_sum"][1]


def test_shared_forward_passes(model, tokenizer, pool_rows):
    calls = []
    model.model.register_forward_hook(lambda *_: calls.append(1))

    def run(scores):
        before = len(calls)
        return score(pool_rows, scores, model=model, processing_class=tokenizer, scoring_tokens_per_batch=512), len(
            calls
        ) - before

    alone = [run([item]) for item in (*ALL, IFD())]
    together, passes = run([*ALL, IFD()])
    for result, _ in alone:
        added = [name for name in result.column_names if name not in pool_rows.column_names]
        assert together.select_columns(added).to_dict() == result.select_columns(added).to_dict()
    ifd, pair = alone[4][1], alone[2][1]
    # the backend is selected once, not in each call, with two passes for each of two rows: hidden states and logits
    assert passes == ifd + pair - 4
    assert run([ALL[2], ALL[3]])[1] == pair


def test_rows_without_sum(model, tokenizer):
    data = Dataset.from_dict({"prompt": ["Hi?", "a", None], "completion": ["Hello.", " ", "x"]})
    scored = score(data, ALL, model=model, processing_class=tokenizer, on_summary=str)
    for name, *_ in SETTINGS:
        assert [value is None for value in scored[name]] == [False, True, True]
        assert scored[f"{name}_reason"][:] == ["", "empty_response", "wrong_type"]
        nothing = score(data.select([1, 2]), ALL, model=model, processing_class=tokenizer, on_summary=str)
        assert nothing[name][:] == [None, None]


def test_errors():
    with pytest.raises(ConfigError, match=r"Loss\(reduction='summ'\).*'mean' or 'sum'.*Did you mean 'sum'\?"):
        Loss(reduction="summ")
    with pytest.raises(ConfigError, match=r"Loss\(over='prompt'\): it has to be 'response' or 'pair'"):
        Loss(over="prompt")
