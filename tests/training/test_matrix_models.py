"""The trainer over its whole matrix: precisions, losses, row formats, adapters and quantised models."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTTrainer

from hf_datasel import SelectiveSFTTrainer
from hf_datasel.errors import FormatError
from hf_datasel.formats import Pool, convert_pool
from hf_datasel.scores import Loss
from hf_datasel.scoring.score_rows import score
from hf_datasel.selectors import IterIT, Longest, Random

from .test_matrix import EQUAL, GROWING, LORA, SAVED, Watched, check_end, check_rows, quantized
from .test_trainer import AllAgain, Sizes, logs_of

pytestmark = [
    pytest.mark.slow,
    # of bitsandbytes on a CPU
    pytest.mark.filterwarnings("ignore:MatMul8bitLt. inputs will be cast"),
    pytest.mark.filterwarnings("ignore:_check_is_size will be removed:FutureWarning"),
]

_GENERATION = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}<|im_end|>\n{% endgeneration %}{% else %}"
    "{{ message['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The template of the tiny model, with the marks that an assistant-only loss needs."""


def marked(kind: type) -> Callable[..., Any]:
    """Give what makes a trainer of this kind with a template that marks what the assistant says."""

    def make(**given: Any) -> Any:
        given["processing_class"].chat_template = _GENERATION
        return kind(**given)

    return make


@pytest.fixture
def turns(pool_rows) -> Dataset:
    """Give the rows as conversations, two questions to one, so that what is trained on lies in several places."""
    asked = [f"{row['instruction']}\n{row['input']}".strip() for row in pool_rows]
    texts = list(zip(asked, pool_rows["output"], strict=True))
    pairs = [texts[at : at + 2] for at in range(0, len(texts), 2)] + [[each] for each in texts[:12]]
    return Dataset.from_list([{"messages": [turn for pair in pairs_ for turn in _said(*pair)]} for pairs_ in pairs])


def _said(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


# ---- precisions ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "more",
    [
        {"bf16": True},
        {"gradient_checkpointing": True},
        {"bf16": True, "gradient_checkpointing": True, "gradient_accumulation_steps": 2},
        {"gradient_checkpointing": True, **LORA},
    ],
    ids=["bf16", "checkpointing", "both", "checkpointing-lora"],
)
def test_precision_and_checkpointing(train, resumed, assert_equal_weights, pool_rows, more):
    plain = train(base=SFTTrainer, rows=convert_pool(Pool(pool_rows), chat_template=True), name="plain", **more)
    assert_equal_weights(train(AllAgain(), name="all", **more), plain)
    more = {"selection_schedule": EQUAL, **SAVED, **more}
    whole = train(Sizes(), name="whole", **more)
    for _ in resumed(whole, Sizes(), **more):
        pass


# ---- what the loss is of -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("shape", "more"),
    [
        ("alpaca", {"completion_only_loss": True}),
        ("alpaca", {"completion_only_loss": False}),
        ("turns", {}),
        ("turns", {"assistant_only_loss": True}),
        ("turns", {"assistant_only_loss": True, "packing": True, "per_device_train_batch_size": 1}),
    ],
    ids=["completion", "all-of-it", "messages", "assistant", "assistant-packed"],
)
def test_losses_of_a_part_of_a_row(train, resumed, assert_equal_weights, pool_rows, turns, tmp_path, shape, more):
    rows = pool_rows if shape == "alpaca" else turns
    more = {"num_train_epochs": 2, "max_length": 256, **more}
    plain_rows = convert_pool(Pool(rows), chat_template=True)
    plain = train(base=marked(SFTTrainer), rows=plain_rows, name="plain", **more)
    ours = {"base": marked(SelectiveSFTTrainer), "rows": rows, **more}
    assert_equal_weights(train(AllAgain(), name="all", **ours), plain)
    ours |= {"selection_size": 8, **SAVED}
    whole = train(Sizes(), name="whole", **ours)
    start = whole._schedule.records[1].start
    fresh = score(rows, [Loss(str(tmp_path / "whole" / f"checkpoint-{start}"), max_length=256)])
    np.testing.assert_allclose(whole.selections[1].scores("loss"), np.array(fresh["loss"][:], dtype=float), rtol=1e-5)
    assert np.abs(whole.selections[1].scores("loss") - whole.selections[0].scores("loss")).min() > 0
    for _ in resumed(whole, Sizes(), range(start - 1, min(start + 2, whole.state.global_step)), **ours):
        pass


def test_assistant_only_loss(train, turns):
    more = {"rows": turns, "selection_size": 8, "num_train_epochs": 1, "learning_rate": 0.0, "max_length": 256}
    whole = train(Sizes(), name="whole", base=marked(SelectiveSFTTrainer), **more)
    part = train(Sizes(), name="part", base=marked(SelectiveSFTTrainer), assistant_only_loss=True, **more)
    assert logs_of(part, "loss") != logs_of(whole, "loss")
    np.testing.assert_allclose(part.selections[0].scores("loss"), whole.selections[0].scores("loss"), rtol=1e-6)


# ---- row formats ---------------------------------------------------------------------------------------------------
def _texts(rows: Any) -> list[tuple[str, str]]:
    return [(f"{row['instruction']}\n{row['input']}".strip(), row["output"]) for row in rows]


def _chat(name: str, value: str, roles: tuple[str, str], pair: tuple[str, str]) -> list[dict[str, str]]:
    return [{name: role, value: text} for role, text in zip(roles, pair, strict=True)]


FORMATS: dict[str, Callable[[tuple[str, str]], dict[str, Any]]] = {
    "prompt-completion-text": lambda pair: {"prompt": pair[0] + "\n", "completion": pair[1]},
    "prompt-completion-chat": lambda pair: {
        "prompt": [{"role": "user", "content": pair[0]}],
        "completion": [{"role": "assistant", "content": pair[1]}],
    },
    "messages": lambda pair: {"messages": _said(*pair)},
    "messages-other-roles": lambda pair: {"messages": _chat("role", "content", ("human", "gpt"), pair)},
    "sharegpt": lambda pair: {"conversations": _chat("from", "value", ("human", "gpt"), pair)},
    "lima": lambda pair: {"conversations": list(pair)},
    "preference": lambda pair: {"prompt": pair[0] + "\n", "chosen": pair[1], "rejected": "No."},
}


@pytest.mark.parametrize("shape", ["alpaca", *FORMATS])
def test_every_row_format_trains(train, resumed, pool_rows, shape):
    rows = pool_rows if shape == "alpaca" else Dataset.from_list([FORMATS[shape](each) for each in _texts(pool_rows)])
    more = {"rows": rows, "base": Watched, "selection_size": 8, **SAVED}
    whole = train(IterIT(), name="whole", **more)
    check_rows(whole)
    check_end(whole, [2, 2, 2])
    assert (whole.selections[1].scores("ifd") != whole.selections[0].scores("ifd"))[whole.selections[1].indices].all()
    [_] = resumed(whole, IterIT(), [3], **more)


def test_formats_select_equal_rows(train, pool_rows):
    more = {"selection_size": 8, "num_train_epochs": 1}
    chat = ("prompt-completion-chat", "messages", "messages-other-roles", "sharegpt", "lima")
    selected = {}
    for name in chat:
        rows = Dataset.from_list([FORMATS[name](each) for each in _texts(pool_rows)])
        [selection] = train(IterIT(), name=name, rows=rows, **more).selections
        selected[name] = selection.indices.tolist()
    assert len({tuple(each) for each in selected.values()}) == 1, selected


def test_plain_text_without_response(train, resumed, pool_rows):
    rows = Dataset.from_dict({"text": ["\n".join(each) for each in _texts(pool_rows)]})
    more = {"rows": rows, "base": Watched, "selection_size": 8, **SAVED}
    whole = train(Random(), name="whole", **more)
    assert whole.trained(0) == Counter(whole.selections[0].indices.tolist() * 3)
    check_end(whole, [6])
    [_] = resumed(whole, Random(), [3], **more)


@pytest.mark.parametrize("selector", [IterIT(), Longest()], ids=["iterit", "longest"])
def test_plain_text_with_response_scores(train, pool_rows, selector):
    rows = Dataset.from_dict({"text": pool_rows["output"]})
    with pytest.raises(FormatError, match="Rows with only a text column have no response"):
        train(selector, rows=rows, selection_size=8)


# ---- adapters and quantised models ---------------------------------------------------------------------------------
class Moving(SelectiveSFTTrainer):
    """Notes the weights that are trained whenever a round is chosen."""

    def _select(self, index: int) -> Any:
        self.snapshots = [*getattr(self, "snapshots", []), self.trainable()]
        return super()._select(index)

    def trainable(self) -> dict[str, torch.Tensor]:
        return {name: each.detach().clone() for name, each in self.model.named_parameters() if each.requires_grad}


@pytest.mark.parametrize("sizes", [EQUAL, GROWING], ids=["equal", "growing"])
@pytest.mark.parametrize("kind", ["full", "lora", "nf4", "int8"])
def test_every_round_moves_the_weights(train, resumed, kind, sizes):
    more = {"selection_schedule": sizes, "base": Moving, **SAVED, **({} if kind == "full" else LORA)}
    if kind in ("nf4", "int8"):
        more["base"] = quantized(kind, Moving)
    whole = train(Sizes(), name="whole", **more)
    assert all(norm > 0 for norm in logs_of(whole, "grad_norm"))
    states = [*whole.snapshots, whole.trainable()]
    assert len(states) == 4
    for before, after in itertools.pairwise(states):
        assert sum(not torch.equal(before[name], after[name]) for name in before) >= len(before) // 2
    for _ in resumed(whole, Sizes(), None if sizes == EQUAL else [3, 7], **more):
        pass


@pytest.mark.parametrize("kind", ["lora", "nf4", "int8"])
def test_adapter_is_part_of_later_scores(train, kind):
    base = SelectiveSFTTrainer if kind == "lora" else quantized(kind)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.1)
    whole = train(Sizes(), name="whole", base=base, selection_size=8, peft_config=lora)
    with whole.model.disable_adapter():
        without = np.array(whole._runner.engine(whole.model).compute(Loss())["loss"], dtype=float)
    now = np.array(whole._runner.engine(whole.model).compute(Loss())["loss"], dtype=float)
    first, *later = (each.scores("loss") for each in whole.selections)
    np.testing.assert_array_equal(first, without)
    for each in (*later, now):
        assert np.abs(each - without).min() > 0
