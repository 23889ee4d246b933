"""Settings of a run with checkpoints that a selection reads: what cannot be read is refused before the warm-up."""

from __future__ import annotations

from typing import Any

import pytest

from hf_datasel.errors import ConfigError
from hf_datasel.selectors import LESS, Random


@pytest.fixture
def less(tmp_path, pool_rows) -> LESS:
    """Give LESS with a warm-up on 8 rows for 2 epochs."""
    pool_rows.select([1, 7]).to_json(tmp_path / "target.jsonl")
    return LESS(validation=str(tmp_path / "target.jsonl"), warmup_size=8, warmup_epochs=2, projection_dim=16)


@pytest.mark.parametrize("optim", ["adafactor", "sgd", "adamw_bnb_8bit", "paged_adamw_32bit", "lion_32bit"])
def test_less_unsupported_optimizer(train, less, optim):
    said = (
        rf"LESS reads the moments of AdamW.*optim='{optim}' does not save them.*'adamw_torch', 'adamw_torch_fused'\."
    )
    with pytest.raises(ConfigError, match=said):
        train.make(less, "run", optim=optim, selection_size=4)


def test_less_zero_learning_rate(train, less):
    with pytest.raises(ConfigError, match=r"LESS weighs its checkpoints .*learning_rate=0 .*make it more than 0"):
        train.make(less, "run", learning_rate=0.0, selection_size=4)


@pytest.mark.parametrize("more", [{"optim": "sgd"}, {"learning_rate": 0.0}])
def test_unsupported_optimizer_without_checkpoints(train, more: dict[str, Any]):
    assert len(train(Random(), "run", num_train_epochs=1, selection_size=4, **more).selections) == 1


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
def test_less_supported_optimizers(train, less, optim):
    trainer = train(less, "run", optim=optim, num_train_epochs=1, selection_size=4)
    assert trainer.selections[1].provenance["rows_scored"] == 24
    assert len(set(trainer.selections[1].scores("influence"))) > 20
