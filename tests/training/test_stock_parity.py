"""With the whole pool selected, training equals that of `SFTTrainer`: weights and logs, bit for bit."""

from __future__ import annotations

from inspect import getsource
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from hf_datasel import SelectiveSFTConfig, SelectiveSFTTrainer
from hf_datasel.selectors import All

TIMES = ("runtime", "per_second", "flos", "selection_")
LONG = "The tide comes in twice a day, and so do the gulls. " * 6
QUESTIONS = ["What floats?", "Name a tree.", LONG, "Is glass a liquid?", "Say one word.", "Why does bread rise?"]
ANSWERS = ["Cork.", "An ash, or an elm.", "Then they leave.", LONG, "Lantern.", "Yeast makes gas in it."]


def say(role: str, texts: list[str]) -> list[list[dict[str, str]]]:
    return [[{"role": role, "content": text}] for text in texts]


PAIRS = {"prompt": QUESTIONS, "completion": [f" {answer}" for answer in ANSWERS]}
CHATS = {"prompt": say("user", QUESTIONS), "completion": say("assistant", ANSWERS)}
MESSAGES = {"messages": [[*ask, *tell] for ask, tell in zip(CHATS["prompt"], CHATS["completion"], strict=True)]}
IDS = [[5 + (7 * row + place) % 200 for place in range(6 + 9 * row)] for row in range(6)]
MASKS = [[int(place >= 3) for place in range(len(ids))] for ids in IDS]
LABELS = [[-100, -100, *ids[2:]] for ids in IDS]


def joined(row: dict[str, Any]) -> str:
    return f"Q: {row['question']} A: {row['answer']}"


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "pairs": (PAIRS, {}),
    "pairs-full-loss": (PAIRS, {"completion_only_loss": False}),
    "chats": (CHATS, {}),
    "messages": (MESSAGES, {}),
    "messages-assistant-only": (MESSAGES, {"assistant_only_loss": True, "template": "qwen3"}),
    "chats-assistant-and-completion-only": (
        CHATS,
        {"assistant_only_loss": True, "completion_only_loss": True, "template": "qwen3"},
    ),
    "text": ({"text": ANSWERS}, {}),
    "text-field": ({"body": ANSWERS, "source": QUESTIONS}, {"dataset_text_field": "body"}),
    "formatting-func": ({"question": QUESTIONS, "answer": ANSWERS}, {"formatting_func": joined}),
    "tokens": ({"input_ids": IDS}, {}),
    "tokens-labels": ({"input_ids": IDS, "labels": LABELS, "assistant_masks": MASKS}, {}),
    "tokens-completion-mask": ({"input_ids": IDS, "completion_mask": MASKS}, {"completion_only_loss": True}),
    "tokens-completion-mask-unused": ({"input_ids": IDS, "completion_mask": MASKS}, {}),
    "tokens-assistant-masks": ({"input_ids": IDS, "assistant_masks": MASKS}, {"max_length": 20}),
    "cut": (PAIRS, {"max_length": 24}),
    "cut-at-the-start": (PAIRS, {"max_length": 24, "truncation_mode": "keep_end"}),
    "packing": (PAIRS, {"packing": True, "max_length": 60}),
    "packing-keep-end": (CHATS, {"packing": True, "max_length": 60, "truncation_mode": "keep_end"}),
    "packing-split": (PAIRS, {"packing": True, "max_length": 60, "packing_strategy": "bfd_split"}),
    "packing-wrapped": (MESSAGES, {"packing": True, "max_length": 60, "packing_strategy": "wrapped"}),
    "packing-tokens": ({"input_ids": IDS, "labels": LABELS}, {"packing": True, "max_length": 30}),
    "padding-free": (PAIRS, {"padding_free": True, "max_length": None}),
    "shuffled": (PAIRS, {"shuffle_dataset": True, "train_sampling_strategy": "sequential"}),
    "neftune": (CHATS, {"neftune_noise_alpha": 5.0}),
    "dft": (CHATS, {"loss_type": "dft"}),
    "epochs-stopped": (PAIRS, {"callbacks": [True]}),
    "evaluation": (PAIRS, {"eval_dataset": {"first": PAIRS, "second": CHATS}, "eval_strategy": "epoch"}),
    "evaluation-formatted": (
        {"question": QUESTIONS, "answer": ANSWERS},
        {
            "formatting_func": joined,
            "eval_dataset": {"only": {"question": ANSWERS, "answer": QUESTIONS}},
            "eval_strategy": "epoch",
        },
    ),
    "evaluation-text-field": (
        {"body": ANSWERS},
        {"dataset_text_field": "body", "eval_dataset": {"only": {"body": QUESTIONS}}, "eval_strategy": "epoch"},
    ),
}


def trained(kind: type, folder: Path, model_dir: Path, rows: dict[str, Any], settings: dict[str, Any]) -> Any:
    """Train on all rows and return the trainer."""
    settings = dict(settings)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    if name := settings.pop("template", None):
        tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()
    extra = {name: settings.pop(name) for name in ("formatting_func",) if name in settings}
    if settings.pop("callbacks", None):
        extra["callbacks"] = [StopEpochs()]
    if evaluation := settings.pop("eval_dataset", None):
        extra["eval_dataset"] = {name: Dataset.from_dict(columns) for name, columns in evaluation.items()}
    config: type = SFTConfig
    if kind is SelectiveSFTTrainer:
        config, extra["selector"] = SelectiveSFTConfig, All()
    arguments = {
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "num_train_epochs": 2,
        "logging_steps": 1,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "use_cpu": True,
        "max_length": 128,
        **settings,
    }
    set_seed(0)
    trainer = kind(
        model=AutoModelForCausalLM.from_pretrained(model_dir, attention_dropout=0.1),
        args=config(str(folder), **arguments),
        train_dataset=Dataset.from_dict(rows),
        processing_class=tokenizer,
        **extra,
    )
    before = len(trainer.train_dataset)
    trainer.train()
    assert len(trainer.train_dataset) == before
    return trainer


def logs(trainer: Any) -> list[dict[str, float]]:
    entries = [entry for entry in trainer.state.log_history if "selection_round" not in entry]
    return [{key: value for key, value in entry.items() if not any(t in key for t in TIMES)} for entry in entries]


class StopEpochs(TrainerCallback):
    """Ends every epoch after its first step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_epoch_stop = True


@pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore:You are using packing", "ignore:.*fork.*:DeprecationWarning"
)
@pytest.mark.parametrize("case", CASES)
def test_whole_pool_trains_as_stock(case, tmp_path, tiny_model_dir):
    rows, settings = CASES[case]
    if "dataset_text_field" in settings and "add_eos(example, eos_token, dataset" not in getsource(SFTTrainer):
        pytest.skip("this version of TRL appends EOS to the column 'text' only")
    stock = trained(SFTTrainer, tmp_path / "stock", tiny_model_dir, rows, settings)
    ours = trained(SelectiveSFTTrainer, tmp_path / "ours", tiny_model_dir, rows, settings)
    assert ours.state.global_step == stock.state.global_step > 0
    weights, expected = ours.model.state_dict(), stock.model.state_dict()
    assert [name for name in expected if not torch.equal(weights[name], expected[name])] == []
    assert logs(ours) == logs(stock)
    assert ours.train_dataset["input_ids"][:] == stock.train_dataset["input_ids"][:]


def calls(**padding: None) -> dict[str, Any]:
    """Rows with a tool and a call of it; both have the padding besides what they need."""
    call = {"type": "function", "function": {"name": "tide", "arguments": {"town": "Deal", **padding}}}
    parameters = {"type": "object", "properties": {"town": {"type": "string"}, **padding}}
    tool = {"type": "function", "function": {"name": "tide", "description": "Tide.", "parameters": parameters}}
    chats = [[*ask, {"role": "assistant", "content": "", "tool_calls": [call]}] for ask in CHATS["prompt"]]
    return {"messages": chats, "tools": [[tool]] * len(chats)}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_nulls_that_arrow_adds_to_tools_and_calls_are_not_trained_on(tmp_path, tiny_model_dir):
    settings = {"template": "qwen2_5", "max_length": 1024, "num_train_epochs": 1}
    stock = trained(SFTTrainer, tmp_path / "stock", tiny_model_dir, calls(), settings)
    ours = trained(SelectiveSFTTrainer, tmp_path / "ours", tiny_model_dir, calls(hour=None), settings)
    assert ours.train_dataset["input_ids"][:] == stock.train_dataset["input_ids"][:]
    weights, expected = ours.model.state_dict(), stock.model.state_dict()
    assert [name for name in expected if not torch.equal(weights[name], expected[name])] == []
