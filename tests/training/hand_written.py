"""A training loop written by hand: one row at a time, without padding, and plain SGD."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM
from trl.trainer import utils as trl_utils

from hf_datasel import SelectiveSFTTrainer

needs_row_losses = pytest.mark.skipif(
    not hasattr(trl_utils, "add_fused_lm_head"), reason="this version of TRL does not compute the loss of each row"
)
SGD = {"optim": "sgd", "lr_scheduler_type": "constant", "learning_rate": 0.5, "max_grad_norm": 0.0}
"""Settings whose update is the gradient times the learning rate."""

Row = tuple[list[int], list[int]]
"""Token ids and labels."""


class Recorded(SelectiveSFTTrainer):
    """Without dropout; records the rows of each batch, in order, and the trainable weights before training."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.batches: list[list[Row]] = []
        for module in self.model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0
        self.before = {name: weight.detach().clone() for name, weight in self.trainable()}

    def trainable(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad]

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        lines = zip(inputs["input_ids"], inputs["labels"], inputs["attention_mask"].bool(), strict=True)
        self.batches.append([(ids[mask].tolist(), labels[mask].tolist()) for ids, labels, mask in lines])
        return super().training_step(model, inputs, *args, **kwargs)

    def number_of(self, row: Row) -> int:
        """Return the row number in the pool of a row of a batch."""
        return next(int(each["pool_row"]) for each in self._candidates if each["input_ids"] == row[0])


def fresh_model(trainer: Recorded, model_dir: Any, peft_config: Any = None) -> Any:
    """Return another model with the weights that the trainer's model had before training."""
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    model = model if peft_config is None else get_peft_model(model, peft_config)
    model.load_state_dict(trainer.before, strict=False)
    return model.eval()


def row_losses(model: Any, row: Row) -> torch.Tensor:
    """Return the loss of each labelled token of a row."""
    ids, labels = (torch.tensor([each]) for each in row)
    logits = model(input_ids=ids).logits[0, :-1]
    losses = torch.nn.functional.cross_entropy(logits, labels[0, 1:], ignore_index=-100, reduction="none")
    return losses[labels[0, 1:] != -100]


def train_by_hand(
    model: Any, batches: list[list[Row]], accumulation: int, loss: Callable[[list[list[torch.Tensor]]], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Train on batches and return the trainable weights.

    Args:
        model: The model.
        batches: Rows of each forward and backward pass.
        accumulation: Number of these in an update.
        loss: Function of the losses of the labelled tokens of each row of each batch of an update.
    """
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    for start in range(0, len(batches), accumulation):
        update = [[row_losses(model, row) for row in batch] for batch in batches[start : start + accumulation]]
        gradients = torch.autograd.grad(loss(update), list(weights.values()))
        with torch.no_grad():
            for weight, gradient in zip(weights.values(), gradients, strict=True):
                weight -= SGD["learning_rate"] * gradient
    return {name: weight.detach() for name, weight in weights.items()}


def assert_close(trainer: Recorded, expected: dict[str, torch.Tensor]) -> None:
    """Assert that the weights of a trainer are these, and that training has changed them."""
    for name, weight in trainer.trainable():
        torch.testing.assert_close(weight.detach(), expected[name], rtol=1e-4, atol=1e-6, msg=name)
    assert any(not torch.equal(weight, trainer.before[name]) for name, weight in trainer.trainable())
