"""Every score on rows with tools, tool calls, thoughts, loss flags and unusual turns, under Qwen3's chat template."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trl
from datasets import Dataset, IterableDataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from hf_datasel import score
from hf_datasel.scores import (
    IFD,
    Compressibility,
    DeitaScore,
    Embedding,
    Judge,
    Length,
    Loss,
    Nuggets,
    PassRate,
    PromptLoss,
    Reward,
    RewardGap,
    SelectIT,
)
from tests.scores.awkward import REASONS
from tests.scores.endpoint_server import serving

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "tide",
            "description": "Time of the next high tide.",
            "parameters": {"type": "object", "properties": {"port": {"type": "string"}, "days": {"type": "integer"}}},
        },
    }
]


def user(text):
    return {"role": "user", "content": text}


def bot(text, **more):
    return {"role": "assistant", "content": text, **more}


def call(**arguments):
    calls = [{"type": "function", "function": {"name": "tide", "arguments": arguments}}]
    return {"role": "assistant", "content": "", "tool_calls": calls}


RESULT = {"role": "tool", "name": "tide", "content": '{"at": "14:05"}'}
ROWS = {
    "plain": ([user("Hi"), bot("Hello.")], None),
    "a call and an answer": ([user("Tide in Vlore?"), call(port="Vlore"), RESULT, bot("At five past two.")], TOOLS),
    "a call last": ([user("Tides this week?"), call(port="Vlore", days=7, exact=52.37)], TOOLS),
    "thoughts": ([user("2 + 2?"), bot("4", reasoning_content="Two and two make four.")], None),
    "thoughts and tools": ([user("Tide?"), bot("At noon.", reasoning_content="No port is named.")], TOOLS),
    "a system message": ([{"role": "system", "content": "Be brief."}, user("Hi"), bot("Hey.")], None),
    "a question last": ([user("Hi"), bot("Hello, how are you?"), user("Fine, thanks.")], None),
    "a greeting first": ([bot("Welcome aboard."), user("Where is my cabin?"), bot("Down the stairs.")], None),
    "nothing but a greeting": ([bot("Welcome aboard.")], None),
    "two answers in turn": ([user("Count."), bot("One."), bot("Two.")], None),
    "an answer that the loss excludes": ([user("a"), bot("wrong", train=False), user("b"), bot("right")], None),
    "unused tools": ([user("Thanks!"), bot("You are welcome.")], TOOLS),
}


def as_dataset():
    columns = {"messages": [json.dumps(turns) for turns, _ in ROWS.values()]}
    return Dataset.from_dict({**columns, "tools": [json.dumps(tools) if tools else "" for _, tools in ROWS.values()]})


def as_stream():
    for turns, tools in ROWS.values():
        yield {"messages": turns, "tools": tools}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model_dir, pool_rows):
    folder = tmp_path_factory.mktemp("tools")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()
    AutoModelForCausalLM.from_pretrained(tiny_model_dir).save_pretrained(folder / "chat")
    tokenizer.save_pretrained(folder / "chat")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(tokenizer), **sizes, initializer_range=0.2, pad_token_id=None, num_labels=1, dtype="float32"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        LlamaForSequenceClassification(config).save_pretrained(folder / "reward")
    tokenizer.save_pretrained(folder / "reward")
    pool_rows.select([0, 8]).to_json(folder / "anchors.jsonl")
    return folder


@pytest.fixture(scope="module")
def scored(folder):
    with serving("sk-0123456789") as server:
        scores = [
            IFD(),
            Loss(),
            PromptLoss(),
            Length(),
            Length("tokens", column_prefix="as_tokens_"),
            Compressibility(),
            Embedding(),
            SelectIT(level="token"),
            DeitaScore(complexity_model=str(folder / "chat"), quality_model=str(folder / "chat")),
            Judge("m", base_url=server.url, timeout=5.0),
            Reward(str(folder / "reward")),
            RewardGap(scorer="perplexity", max_new_tokens=4, column_prefix="by_perplexity_"),
            RewardGap(reward_model=str(folder / "reward"), max_new_tokens=4),
            PassRate(num_generations=2, max_new_tokens=4),
            Nuggets(anchor_file=str(folder / "anchors.jsonl")),
        ]
        return scores, score(as_dataset(), scores, model=str(folder / "chat"), on_summary=str)


def test_every_score_has_a_value_or_a_reason(scored):
    scores, data = scored
    without = {}
    for each in scores:
        *values, reason = [f"{each.column_prefix}{name}" for name in each.columns()]
        for name, row in zip(ROWS, data.select_columns([*values, reason]), strict=True):
            why = row.pop(reason)
            assert why in {"", *REASONS}, (each, name)
            assert all((value is None) == bool(why) for value in row.values()), (each, name, why)
            if why:
                without.setdefault(why, set()).add((type(each).__name__, name))
    assert without.pop("tool_calls") == {("PassRate", "a call last")}
    assert without == {"empty_prompt": {("DeitaScore", "nothing but a greeting")}}


@pytest.fixture(scope="module")
def chat(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder / "chat")

    def rendered(turns, tools, **more):
        return list(tokenizer.apply_chat_template(turns, tools=tools, return_dict=True, **more)["input_ids"])

    return rendered


def test_loss_of_last_responses(scored, chat, folder):
    model = AutoModelForCausalLM.from_pretrained(folder / "chat").eval()
    for name in ("plain", "a call last", "thoughts", "thoughts and tools", "a system message", "unused tools"):
        turns, tools = ROWS[name]
        ids = chat(turns, tools)
        start = len(chat(turns[:-1], tools, add_generation_prompt=True))
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = -np.mean([logprobs[number - 1, ids[number]].item() for number in range(start, len(ids))])
        row = list(ROWS).index(name)
        np.testing.assert_allclose(scored[1]["loss"][row], expected, rtol=1e-5, err_msg=name)
        assert scored[1]["as_tokens_num_tokens"][row] == len(ids)


def test_rewards_are_of_the_conversation_up_to_the_last_response(scored, chat, folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder / "reward").eval()
    for name, (turns, tools) in ROWS.items():
        stop = max(number for number, turn in enumerate(turns) if turn["role"] == "assistant") + 1
        messages = [{key: value for key, value in turn.items() if key != "train"} for turn in turns[:stop]]
        with torch.no_grad():
            expected = model(torch.tensor([chat(messages, tools)])).logits.item()
        np.testing.assert_allclose(scored[1]["reward"][list(ROWS).index(name)], expected, rtol=1e-4, atol=1e-5)


def test_tools_are_part_of_what_models_read(scored, folder):
    row = list(ROWS).index("unused tools")
    bare = Dataset.from_dict({"messages": [json.dumps(ROWS["unused tools"][0])]})
    subjects = [Loss(), SelectIT(level="token"), Reward(str(folder / "reward"))]
    without_tools = score(bare, subjects, model=str(folder / "chat"))
    for name in ("loss", "selectit", "reward"):
        assert abs(without_tools[name][0] - scored[1][name][row]) > 1e-4


@pytest.mark.parametrize("batch_size", [1, 3, 12])
def test_streams_of_mappings_give_the_same_numbers(scored, folder, batch_size):
    _, data = scored
    for subject in (Compressibility(), Loss(str(folder / "chat")), Reward(str(folder / "reward"))):
        [name, *_] = subject.columns()
        stream = IterableDataset.from_generator(as_stream).map(subject, batched=True, batch_size=batch_size)
        np.testing.assert_allclose([row[name] for row in stream], data[name], rtol=1e-4, atol=1e-5)
        mapped = as_dataset().with_format("arrow").map(subject, batched=True, batch_size=batch_size)
        np.testing.assert_allclose(mapped.with_format(None)[name], data[name], rtol=1e-4, atol=1e-5)
