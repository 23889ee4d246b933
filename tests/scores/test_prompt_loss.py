"""How hard the prompt itself is to foresee."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_datasel import score
from hf_datasel.errors import ConfigError
from hf_datasel.scores import Loss, PromptLoss, get_score, score_for_column
from hf_datasel.testing import contract


@contract(PromptLoss(), PromptLoss(convention="cherry", column_prefix="base_"), PromptLoss(max_length=96))
def test_contract(check, score, pool_rows, tiny_model_dir):
    check(score, pool_rows, tiny_model_dir)


@pytest.fixture(scope="module")
def by_hand(tiny_text_model_dir):
    """Give a function for the mean loss of a text's first tokens, but for the very first one."""
    model = AutoModelForCausalLM.from_pretrained(tiny_text_model_dir).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_text_model_dir)

    def loss(prompt, text):
        length = len(tokenizer(prompt)["input_ids"])  # the last token may be one with the beginning of the answer
        ids = torch.tensor([tokenizer(text)["input_ids"][:length]])
        with torch.no_grad():
            return float(model(input_ids=ids, labels=ids).loss)

    return loss


def test_equals_forward_pass_over_prompt(by_hand, tiny_text_model_dir):
    rows = [
        {"prompt": "Name a red fruit.", "completion": " A cherry."},
        {"prompt": "What does a baker make? ", "completion": "Bread, and cake too."},
        {"prompt": "Say hello.", "completion": " Hello!"},
    ]
    scored = score(Dataset.from_list(rows), [PromptLoss()], model=str(tiny_text_model_dir), on_summary=str)
    expected = [by_hand(row["prompt"], row["prompt"] + row["completion"]) for row in rows]
    np.testing.assert_allclose(scored["loss_prompt"][:], expected, rtol=1e-5)


def test_independent_of_response(tiny_text_model_dir):
    prompt = "Count to five."
    rows = Dataset.from_dict({"prompt": [prompt] * 2, "completion": [" One, two.", " No."]})
    scored = score(rows, [PromptLoss(), Loss()], model=str(tiny_text_model_dir), on_summary=str)
    assert scored["loss_prompt"][0] == pytest.approx(scored["loss_prompt"][1], rel=1e-6)
    assert scored["loss"][0] != pytest.approx(scored["loss"][1], rel=1e-3)


def test_published_prompt(pool_rows, by_hand, tiny_text_model_dir):
    result = score(pool_rows, [PromptLoss(convention="cherry")], model=str(tiny_text_model_dir))["loss_prompt"]
    row = pool_rows[0]
    text = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        f"\n\n### Instruction:\n{row['instruction']}\n\n### Response:"
    )
    assert result[0] == pytest.approx(by_hand(text, text + row["output"]), rel=1e-5)


def test_prompt_of_one_token(tiny_text_model_dir):
    rows = [{"prompt": "a", "completion": "b c d"}, {"prompt": "a long question", "completion": "b"}]
    scored = score(Dataset.from_list(rows), [PromptLoss()], model=str(tiny_text_model_dir), on_summary=str)
    assert scored["loss_prompt"][0] is None
    assert scored["loss_prompt"][1] is not None
    assert scored["loss_prompt_reason"][:] == ["no_prompt_token", ""]


def test_name_and_column():
    assert get_score("prompt_loss", {"convention": "cherry"}) == PromptLoss(convention="cherry")
    assert score_for_column("loss_prompt") == "prompt_loss"
    with pytest.raises(ConfigError, match="Did you mean 'cherry'"):
        PromptLoss(convention="chery")
