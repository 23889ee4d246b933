"""What the tests of scores share: the small model, and losses computed the slow and obvious way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def model(tiny_model_dir: Path) -> Any:
    """Give the small chat model, freshly loaded and in evaluation mode."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()


@pytest.fixture
def tokenizer(tiny_model_dir: Path) -> Any:
    """Give its tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_dir)


@pytest.fixture
def plain_losses() -> Any:
    """Give a function that computes the loss of each token at `positions`, from the whole logits of one row."""
    import torch

    def losses(model: Any, ids: Any, positions: Any) -> Any:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([list(map(int, ids))])).logits[0].float()
        chances = torch.log_softmax(logits, dim=-1)
        return torch.stack([-chances[at - 1, int(ids[at])] for at in positions]).numpy()

    return losses
