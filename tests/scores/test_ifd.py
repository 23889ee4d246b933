"""Instruction-following difficulty: published numbers, awkward rows, and every setting against a plain computation."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, Value

from hf_datasel import load_pool, score
from hf_datasel.errors import ConfigError, ModelError, ScoreError
from hf_datasel.formats import alpaca_prompt
from hf_datasel.scores import IFD, Loss

COLUMNS = {  # of the published numbers: losses or perplexities with the instruction and without, and their ratio
    "iterit": ("iterit_loss_cond", "iterit_loss_prior", "iterit_ifd"),
    "superfiltering": ("sf_bos_ppl_cond", "sf_bos_ppl_prior", "sf_bos_ifd"),
    "cherry": ("cherry_alpaca_ppl_cond", "cherry_alpaca_ppl_prior", "cherry_alpaca_ifd_ppl_ratio"),
}


def losses_of(table, convention):
    """Published losses with the instruction and without; NaN where the published code has none."""
    numbers = [pd.to_numeric(table[name], errors="coerce").to_numpy() for name in COLUMNS[convention][:2]]
    return numbers if convention == "iterit" else [np.log(number) for number in numbers]


# -- published numbers ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def published(shared):
    """Give 200 rows of Alpaca and what the authors' code made of them with a tiny model."""
    rows = load_pool(str(shared / "data" / "alpaca_random_5200.json"), split="train[:200]")
    return rows, pd.read_csv(shared / "golden" / "ifd_reference_200.csv"), str(shared / "golden" / "tiny-lm")


@pytest.mark.parametrize("convention", COLUMNS)
def test_published_numbers(published, convention):
    rows, table, model = published
    result = score(rows, [IFD(model, convention=convention)])
    assert set(result["ifd_reason"]) == {""}
    for name, expected in zip(("loss", "loss_prior"), losses_of(table, convention), strict=True):
        np.testing.assert_allclose(result[name], expected, rtol=1e-4)
    np.testing.assert_allclose(result["ifd"], table[COLUMNS[convention][2]], rtol=1e-4)
    assert np.array_equal(np.array(result["ifd"]) < 1, table[COLUMNS[convention][2]] < 1)


def test_published_loss_ratio(published):
    rows, table, model = published
    result = score(rows, [IFD(model, convention="cherry", ratio="loss")])
    np.testing.assert_allclose(result["ifd_loss_ratio"], table["cherry_alpaca_ifd_loss_ratio"], rtol=1e-4)
    assert "ifd" not in result.column_names


@pytest.fixture(scope="module")
def edge(shared):
    """Give the awkward rows by name, what the authors' code made of them, and the tiny model."""
    rows = json.loads((shared / "golden" / "rows_edge.json").read_text())
    names = json.loads((shared / "golden" / "rows_edge_names.json").read_text())
    data = Dataset.from_dict({key: [row.get(key) for row in rows] for key in ("instruction", "input", "output")})
    return names, data, pd.read_csv(shared / "golden" / "ifd_reference_edge.csv"), str(shared / "golden" / "tiny-lm")


@pytest.mark.parametrize("convention", COLUMNS)
def test_awkward_rows(edge, convention):
    names, data, table, model = edge
    result = score(data, [IFD(model, convention=convention)]).to_pandas()
    without = {names[index]: reason for index, reason in enumerate(result["ifd_reason"]) if reason}
    assert without == {"empty_output": "empty_response", "long_prompt": "prompt_fills_window"}
    assert result.loc[result["ifd_reason"] != "", ["ifd", "loss", "loss_prior"]].isna().all(axis=None)
    for name, expected in zip(("loss", "loss_prior"), losses_of(table, convention), strict=True):
        right = np.isfinite(expected)
        assert right.sum() >= 13
        np.testing.assert_allclose(result[name][right], expected[right], rtol=1e-4)


def test_white_space_trimmed_by_the_template(edge):
    names, data, table, model = edge
    variants = ["leading_space", "leading_newline", "trailing_newline"]
    rows = data.select([names.index(name) for name in variants])
    plain = Dataset.from_dict({"instruction": ["Name a colour."], "output": ["Blue is a colour."]})
    for convention in ("iterit", "sft"):
        [expected] = score(plain, [IFD(model, convention=convention)])["ifd"]
        np.testing.assert_allclose(score(rows, [IFD(model, convention=convention)])["ifd"], [expected] * 3, rtol=1e-5)
    published_as = table.set_index("case").loc[variants, "iterit_loss_cond"]
    assert published_as.isna().tolist() == [True, False, True]


# -- against a plain computation --------------------------------------------------------------------------------------
END = "<|im_end|>\n"


def messages(*contents):
    return [{"role": "assistant" if index % 2 else "user", "content": text} for index, text in enumerate(contents)]


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


SETTINGS = {
    "default": ({}, "<s><|im_start|>assistant\n", True),
    "bos": ({"prior_context": "bos"}, "<s>", True),
    "none": ({"prior_context": "none"}, "", True),
    "no end token": ({"end_token": False}, "<s><|im_start|>assistant\n", False),
    "none, no end token": ({"prior_context": "none", "end_token": False}, "", False),
}


@pytest.mark.parametrize(("settings", "before", "end_token"), SETTINGS.values(), ids=SETTINGS.keys())
def test_equals_reference(model, tokenizer, plain_losses, settings, before, end_token):
    answers = ["Hello, it is lovely to see you!", "A fox.", "13"]
    data = Dataset.from_dict({"messages": [messages("Say hello.", answer) for answer in answers]})
    expected = []
    prompt = encode(tokenizer, f"<|im_start|>user\nSay hello.{END}<|im_start|>assistant\n")
    for answer in answers:
        response = encode(tokenizer, answer + END)
        scored = response if end_token else encode(tokenizer, answer)
        first = 0 if before else 1
        prefix = encode(tokenizer, before)
        passed = plain_losses(model, prompt + response, range(len(prompt) + first, len(prompt) + len(scored)))
        alone = plain_losses(model, prefix + response, range(len(prefix) + first, len(prefix) + len(scored)))
        assert len(passed) == len(alone)
        expected.append((passed.mean(), alone.mean()))
    result = score(data, [IFD(**settings)], model=model, processing_class=tokenizer)
    loss, prior = np.array(expected).T
    np.testing.assert_allclose(result["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(result["loss_prior"], prior, rtol=1e-5)
    np.testing.assert_allclose(result["ifd"], np.exp(loss - prior), rtol=1e-4)
    ratio = score(data, [IFD(ratio="loss", **settings)], model=model, processing_class=tokenizer)
    np.testing.assert_allclose(ratio["ifd_loss_ratio"], loss / prior, rtol=1e-4)


def test_multiple_turns_have_own_priors(model, tokenizer, plain_losses):
    turns = messages("Hi", "Hello!", "Tell a story.", "A fox found a lantern.")
    result = score(Dataset.from_dict({"messages": [turns]}), [IFD()], model=model, processing_class=tokenizer)
    prefix = encode(tokenizer, "<s><|im_start|>assistant\n")
    alone = [
        plain_losses(model, prefix + response, range(len(prefix), len(prefix) + len(response)))
        for response in (encode(tokenizer, turns[index]["content"] + END) for index in (1, 3))
    ]
    assert result["loss_prior"][0] == pytest.approx(np.concatenate(alone).mean(), rel=1e-5)


@pytest.mark.parametrize("convention", ["sft", "iterit", "superfiltering", "cherry"])
def test_batch_size_invariance(model, tokenizer, pool_rows, convention):
    one, many = (
        score(
            pool_rows,
            [IFD(convention=convention)],
            model=model,
            processing_class=tokenizer,
            scoring_tokens_per_batch=tokens,
        )
        for tokens in (1, 100_000)
    )
    np.testing.assert_allclose(one["ifd"], many["ifd"], rtol=1e-5)


def test_plain_text_model(tiny_text_model_dir, pool_rows):
    result = score(pool_rows, [IFD(str(tiny_text_model_dir))])
    assert set(result["ifd_reason"]) == {""}
    same = Dataset.from_dict({
        "prompt": [f"{alpaca_prompt(row['instruction'], row['input'])}\n" for row in pool_rows],
        "completion": pool_rows["output"],
    })  # fmt: skip
    assert score(same, [IFD(str(tiny_text_model_dir))])["ifd"][:] == result["ifd"][:]


def test_loss_equals_loss_score(model, tokenizer, pool_rows):
    loss = score(pool_rows, [Loss()], model=model, processing_class=tokenizer)["loss"][:]
    assert score(pool_rows, [IFD()], model=model, processing_class=tokenizer)["loss"][:] == loss
    bos = score(pool_rows, [IFD(prior_context="bos")], model=model, processing_class=tokenizer)
    np.testing.assert_allclose(bos["loss"], loss, rtol=1e-5)


def test_conventions_differ(model, tokenizer, pool_rows):
    processes = [
        np.argsort(score(pool_rows, [IFD(convention=item)], model=model, processing_class=tokenizer)["ifd"]).tolist()
        for item in ("sft", "iterit", "superfiltering", "cherry")
    ]
    assert len({tuple(processe) for processe in processes}) == 4


def test_scores_are_float32(model, tokenizer, pool_rows):
    result = score(pool_rows, [IFD()], model=model, processing_class=tokenizer)
    assert [result.features[name] for name in ("ifd", "loss", "loss_prior")] == [Value("float32")] * 3
    assert result.features["ifd_reason"] == Value("string")
    assert len(set(result["ifd"])) == 24


def test_single_token_without_context(tiny_text_model_dir):
    data = Dataset.from_dict({"instruction": ["a", "a"], "output": ["b", "bc"]})
    result = score(data, [IFD(str(tiny_text_model_dir), prior_context="none", end_token=False)])
    assert result["ifd_reason"][0] == "no_response_token"
    assert result["ifd"][0] is None


# -- settings ---------------------------------------------------------------------------------------------------------
def test_settings_are_recorded(tiny_model_dir):
    spec = IFD(str(tiny_model_dir)).spec()
    assert spec["prior_context"] == "generation-prompt"
    assert spec["end_token"] is True
    assert spec["resolved_model"].startswith("files:")
    cherry = IFD(convention="cherry").spec()
    assert (cherry["prior_context"], cherry["end_token"], cherry["max_length"]) == ("response-header", False, 512)
    assert json.loads(json.dumps(spec)) == spec


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"convention": "itterit"}, r"IFD\(convention='itterit'\).*Did you mean 'iterit'\?"),
        ({"ratio": "losses"}, r"IFD\(ratio='losses'\).*Did you mean 'loss'\?"),
        (
            {"prior_context": "eos"},
            r"IFD\(prior_context='eos'\): it has to be 'generation-prompt', 'bos', 'none' or None",
        ),
        ({"convention": "cherry", "end_token": True}, "convention='cherry' fixes the context of the prior"),
        ({"convention": "iterit", "prior_context": "bos"}, "convention='iterit' fixes the context of the prior"),
        ({"max_length": 0}, "max_length has to be an int of at least 2"),
        ({"max_length": 0.5}, "max_length has to be an int of at least 2"),
    ],
)
def test_invalid_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        IFD(**settings)


def test_live_model_is_not_a_setting(model):
    with pytest.raises(ConfigError, match=r"IFD\(model=\.\.\.\) has to be a name or a path.*LlamaForCausalLM.*model="):
        IFD(model)


def test_no_model(pool_rows):
    with pytest.raises(ScoreError, match=r"IFD\(\) has no model to run in map. Pass IFD\('name or path'\)"):
        IFD()(pool_rows[:2])
    with pytest.raises(ScoreError, match=r"IFD has no model to run. Pass its name or path"):
        score(pool_rows, [IFD()])


def test_iterit_needs_a_chat_template(tiny_text_model_dir, pool_rows):
    with pytest.raises(ModelError, match="convention='iterit' renders rows with a chat template"):
        score(pool_rows, [IFD(str(tiny_text_model_dir), convention="iterit")])
