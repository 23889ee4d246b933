"""How hard the prompt itself is to foresee."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_datasel import score
from hf_datasel.errors import ConfigError
from hf_datasel.scores import Loss, PromptLoss, by_name, writer_of
from hf_datasel.testing import contract


@contract(PromptLoss(), PromptLoss(convention="cherry", column_prefix="base_"), PromptLoss(max_length=96))
def test_contract(check, score, pool_rows, tiny_model_dir):
    check(score, pool_rows, tiny_model_dir)


@pytest.fixture(scope="module")
def by_hand(tiny_text_model_dir):
    """Give a function for the mean loss of a text's first tokens, but for the very first one."""
    model = AutoModelForCausalLM.from_pretrained(tiny_text_model_dir).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_text_model_dir)

    def loss(prompt, whole):
        length = len(tokenizer(prompt)["input_ids"])  # the last token may be one with the beginning of the answer
        ids = torch.tensor([tokenizer(whole)["input_ids"][:length]])
        with torch.no_grad():
            return float(model(input_ids=ids, labels=ids).loss)

    return loss


def test_equals_a_forward_pass_over_the_prompt_alone(by_hand, tiny_text_model_dir):
    rows = [
        {"prompt": "Name a red fruit.", "completion": " A cherry."},
        {"prompt": "What does a baker make? ", "completion": "Bread, and cake too."},
        {"prompt": "Say hello.", "completion": " Hello!"},
    ]
    found = score(Dataset.from_list(rows), [PromptLoss()], model=str(tiny_text_model_dir), on_summary=str)
    expected = [by_hand(row["prompt"], row["prompt"] + row["completion"]) for row in rows]
    np.testing.assert_allclose(found["loss_prompt"][:], expected, rtol=1e-5)


def test_the_answer_does_not_matter(tiny_text_model_dir):
    prompt = "Count to five."
    rows = Dataset.from_dict({"prompt": [prompt] * 2, "completion": [" One, two.", " No."]})
    found = score(rows, [PromptLoss(), Loss()], model=str(tiny_text_model_dir), on_summary=str)
    assert found["loss_prompt"][0] == pytest.approx(found["loss_prompt"][1], rel=1e-6)
    assert found["loss"][0] != pytest.approx(found["loss"][1], rel=1e-3)


def test_the_prompt_of_the_published_code(pool_rows, by_hand, tiny_text_model_dir):
    found = score(pool_rows, [PromptLoss(convention="cherry")], model=str(tiny_text_model_dir))["loss_prompt"]
    row = pool_rows[0]
    text = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        f"\n\n### Instruction:\n{row['instruction']}\n\n### Response:"
    )
    assert found[0] == pytest.approx(by_hand(text, text + row["output"]), rel=1e-5)


def test_a_prompt_of_one_token_has_no_loss(tiny_text_model_dir):
    rows = [{"prompt": "a", "completion": "b c d"}, {"prompt": "a long question", "completion": "b"}]
    found = score(Dataset.from_list(rows), [PromptLoss()], model=str(tiny_text_model_dir), on_summary=str)
    assert found["loss_prompt"][0] is None
    assert found["loss_prompt"][1] is not None
    assert found["loss_prompt_reason"][:] == ["no_prompt_token", ""]


def test_by_name_and_the_column_that_it_writes():
    assert by_name("promptloss", {"convention": "cherry"}) == PromptLoss(convention="cherry")
    assert writer_of("loss_prompt") == "promptloss"
    with pytest.raises(ConfigError, match="Did you mean 'cherry'"):
        PromptLoss(convention="chery")
