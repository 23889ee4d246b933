"""Rows that a training step drops by their losses: against loops written by hand, resumed, and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value
from peft import LoraConfig, PromptTuningConfig
from torch.utils._python_dispatch import TorchDispatchMode

from hf_datasel import SelectiveSFTConfig
from hf_datasel.cards.build import gather, read_run
from hf_datasel.cards.card import page
from hf_datasel.cards.sections.training import describe_step_filter
from hf_datasel.errors import ConfigError, ResumeError
from hf_datasel.selectors import IterIT, Random, Weighted
from hf_datasel.training.checkpoint_files import save_digests
from hf_datasel.training.label_loss import with_label_spans
from hf_datasel.training.step_filter import BottomLoss, MiddleLoss, StepFilter, TailSFT, TopLoss, step_filter_of
from tests.training.hand_written import (
    SGD,
    Recorded,
    assert_close,
    fresh_model,
    needs_row_losses,
    row_losses,
    train_by_hand,
)

pytestmark = needs_row_losses

PLAIN = {"loss_type": "nll", "selection_size": 14, "num_train_epochs": 2}
LORA = LoraConfig(r=4, target_modules=["q_proj", "up_proj"])
TAIL = {"tail_sft": {"fraction": 0.5, "schedule": "ramp"}}
LOSSES = np.array([0.5, 3.0, 1.0, 3.0, 2.0])
NONE = np.full(5, np.nan)
IDS, ROW = List(Value("int32")), Value("int64")


def dropped(trainer: Any) -> list[float]:
    return [entry["step_filter_dropped"] for entry in trainer.state.log_history if "step_filter_dropped" in entry]


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
def test_tail_sft_equals_a_loop_by_hand(train, tiny_model_dir, adapter):
    """Algorithm 1 of the paper: losses of the initial model once, then the largest decreases are dropped."""
    settings = {**PLAIN, **SGD, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    more = {} if adapter is None else {"peft_config": adapter}
    step_filter = {"tail_sft": {"fraction": 0.6, "schedule": "ramp"}}
    trainer = train.make(Random(), "run", None, Recorded, step_filter=step_filter, **settings, **more)
    trainer.train()

    model = fresh_model(trainer, tiny_model_dir, adapter)
    rows = {tuple(row[0]): row for batch in trainer.batches for row in batch}
    with torch.no_grad():
        initial = {ids: row_losses(model, row).mean().item() for ids, row in rows.items()}
    batches, steps = iter(trainer.batches), iter(range(100))
    updates = -(-len(trainer.batches) // 2)
    shares: list[float] = []

    def loss(update: list[list[torch.Tensor]]) -> torch.Tensor:
        step, means = next(steps), []
        fraction = 0.6 * step / (updates - 1)
        for losses in update:
            margins = [
                each.mean().item() - initial[tuple(ids)] for each, (ids, _) in zip(losses, next(batches), strict=True)
            ]
            order = sorted(range(len(losses)), key=lambda row: margins[row])
            kept = order[min(round(fraction * len(losses)), len(losses) - 1) :]
            means.append(torch.cat([losses[row] for row in kept]).mean())
            shares.append(1 - len(kept) / len(losses))
        return torch.stack(means).mean()

    assert_close(trainer, train_by_hand(model, trainer.batches, 2, loss))
    expected = [np.mean(shares[start : start + 2]) for start in range(0, len(shares), 2)]
    np.testing.assert_allclose(dropped(trainer), expected, atol=1e-6)
    assert max(expected) > 0


@pytest.mark.parametrize("name", ["top_loss", "bottom_loss"])
def test_loss_filters_equal_a_loop_by_hand(train, tiny_model_dir, name):
    settings = {**PLAIN, **SGD, "per_device_train_batch_size": 5, "num_train_epochs": 1}
    trainer = train.make(Random(), "run", None, Recorded, step_filter={name: {"ratio": 0.4}}, **settings)
    trainer.train()

    def loss(update: list[list[torch.Tensor]]) -> torch.Tensor:
        [losses] = update
        ordered = sorted(losses, key=lambda each: each.mean().item(), reverse=name == "top_loss")
        return torch.cat(ordered[: round(0.4 * len(losses))]).mean()

    assert_close(trainer, train_by_hand(fresh_model(trainer, tiny_model_dir), trainer.batches, 1, loss))
    np.testing.assert_allclose(dropped(trainer), [0.6, 0.6, 0.5])


def test_row_weights_of_the_rows_that_are_kept(train, tiny_model_dir, pool_rows):
    weights = [round(1 - 0.03 * row, 2) for row in range(24)]
    rated = pool_rows.add_column("weight", weights)
    settings = {**PLAIN, **SGD, "per_device_train_batch_size": 7, "num_train_epochs": 1, "step_filter": "top_loss"}
    trainer = train.make(Weighted(Random(), by="weight"), "run", rated, Recorded, **settings)
    trainer.train()
    numbers = iter([[trainer.number_of(row) for row in batch] for batch in trainer.batches])

    def loss(update: list[list[torch.Tensor]]) -> torch.Tensor:
        pairs = sorted(zip(update[0], next(numbers), strict=True), key=lambda pair: -pair[0].mean().item())[:4]
        return sum(weights[row] * each.sum() for each, row in pairs) / sum(len(each) for each, _ in pairs)

    assert_close(trainer, train_by_hand(fresh_model(trainer, tiny_model_dir), trainer.batches, 1, loss))
    trainer.create_model_card()
    card = (Path(trainer.args.output_dir) / "README.md").read_text()
    used = [weights[row] for row in trainer.selections[0].indices]
    assert f"multiplied by its weight: {min(used):.3g} to {max(used):.3g}, mean {np.mean(used):.3g}." in card
    assert "Of the rows of each batch, the 50% with the highest losses were trained on." in card
    trainer.save_state()
    selections, run = read_run(trainer.args.output_dir)
    for written in (card, page(gather(selections, rated, title="x", training=run))):
        assert "The logged training loss is that of the rows that were kept, times their weights." in written
        assert "title={Ordered SGD" in written


def test_sentences_of_the_page():
    dropped = "furthest below that of the model before training were dropped"
    assert describe_step_filter("tail_sft").startswith(
        "Of the rows of each batch, a share rising from none to 50% over"
    )
    static = describe_step_filter({"tail_sft": {"fraction": 0.3, "schedule": "static"}})
    assert static.startswith(f"Of the rows of each batch, the 30% whose loss had fallen {dropped}")
    assert "the 20% with losses in the middle were" in describe_step_filter({"middle_loss": {"ratio": 0.2}})
    assert describe_step_filter(None) == ""


@pytest.mark.parametrize(
    ("batch_filter", "expected"),
    [
        (TopLoss(0.4), [1, 3]),  # equal losses in the order of the batch
        (TopLoss(0.2), [1]),
        (TopLoss(0.01), [1]),
        (BottomLoss(0.4), [0, 2]),
        (MiddleLoss(0.4), [2, 4]),
        (MiddleLoss(0.6), [2, 4, 1]),
        (TopLoss(1), [1, 3, 4, 2, 0]),
        (BottomLoss(1.0), [0, 2, 4, 1, 3]),
    ],
)
def test_loss_filters(batch_filter, expected):
    assert batch_filter.keep(LOSSES, NONE, 0.0).tolist() == expected


def test_tail_sft_keeps_a_row_and_follows_its_schedule():
    initial = np.array([1.0, 3.5, 0.5, 4.5, 2.0])  # changes: -0.5, -0.5, 0.5, -1.5, 0
    static, ramp = TailSFT(0.5, "static"), TailSFT(0.5, "ramp")
    assert static.keep(LOSSES, initial, 0.0).tolist() == [1, 4, 2]
    assert [len(ramp.keep(LOSSES, initial, progress)) for progress in (0.0, 0.5, 0.7, 1.0)] == [5, 4, 3, 3]
    assert TailSFT(0.99, "static").keep(LOSSES, initial, 0.0).tolist() == [2]


@pytest.mark.parametrize("selector", [Random(), IterIT()], ids=["one-round", "rounds"])
def test_resume(train, resumed, selector):
    saved = {**PLAIN, "selection_size": 8, "save_strategy": "steps", "save_steps": 1, "step_filter": TAIL}
    whole = train(selector, **saved)
    for again in resumed(whole, selector, **saved):
        assert dropped(again) == dropped(whole)
    assert dropped(whole)[-1] == 0.5
    initial = whole._factors.initial_losses
    assert np.isfinite(initial).sum() == (8 if selector == Random() else 24)


def test_another_filter_is_another_run(train, tmp_path):
    saved = {**PLAIN, "save_strategy": "steps", "save_steps": 2}
    train(Random(), step_filter=TAIL, **saved)
    with pytest.raises(ConfigError.__base__, match=r"arguments differ \(step_filter: .*tail_sft"):
        train(Random(), step_filter="top_loss", resume=str(tmp_path / "run" / "checkpoint-2"), **saved)


def test_checkpoint_of_a_release_without_filters(train, tmp_path):
    saved = {**PLAIN, "save_strategy": "steps", "save_steps": 2, "num_train_epochs": 1}
    train(Random(), **saved)
    path = tmp_path / "run" / "checkpoint-2" / "selection_state.json"
    content = json.loads(path.read_text())
    del content["identity"]["arguments"]["step_filter"]
    path.write_text(json.dumps(content))
    save_digests(path.parent)
    train(Random(), name="same", resume=str(path.parent), **saved)
    with pytest.raises(ResumeError, match=r"arguments differ \(step_filter: None in the checkpoint, top_loss in this"):
        train(Random(), name="other", resume=str(path.parent), step_filter="top_loss", **saved)


class _NoFloat64(TorchDispatchMode):
    """Refuses what a device without float64 refuses."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        assert not isinstance(output, torch.Tensor) or output.dtype != torch.float64, function
        return output


def test_device_without_float64(train, monkeypatch):
    factors, found = StepFilter.factors, []

    def in_float32(*args: Any) -> Any:
        with _NoFloat64():
            found.append(factors(*args))
        return found[-1]

    monkeypatch.setattr(StepFilter, "factors", in_float32)
    train(Random(), step_filter=TAIL, **{**PLAIN, "max_steps": 2})
    assert found and found[-1].dtype == torch.float32


@pytest.mark.parametrize("on_disk", [True, False])
def test_label_spans(tmp_path, on_disk):
    labels = [[5, 6, -100, 7], [-100, 8], [9], [], [-100, -100], [-100, 1, 2, -100, 3], [4, 5, 6]]
    rows = {"input_ids": labels, "labels": labels, "pool_row": range(7), "text": ["x"] * 7}
    tokens = Dataset.from_dict(rows, features=Features(input_ids=IDS, labels=IDS, pool_row=ROW, text=Value("string")))
    if on_disk:
        tokens.save_to_disk(tmp_path / "tokens")
        tokens = Dataset.load_from_disk(str(tmp_path / "tokens"))
    data = with_label_spans(tokens.select([0, 1, 2, 3, 5, 4, 6]))
    expected = [[1, 2, 3, 4], [1, 2], [], [], [1, 3, 4, 5], [], [1, 3]]
    assert [row["spans"] for row in data.with_format(None)] == expected
    assert data["pool_row"][:].to_pylist() == [0, 1, 2, 3, 5, 4, 6]
    assert bool(data.cache_files) == on_disk, "tokens on disk stay there"


def test_initial_losses_are_read_from_the_store(train, tmp_path, monkeypatch):
    from hf_datasel.scoring.logprobs import LogprobRunner

    settings = {**PLAIN, "score_store": str(tmp_path / "store"), "step_filter": TAIL}
    first = train(Random(), name="first", **settings)
    monkeypatch.setattr(LogprobRunner, "__call__", lambda *_: pytest.fail("the model was run again"))
    second = train(Random(), name="second", **settings)
    np.testing.assert_array_equal(first._factors.initial_losses, second._factors.initial_losses)
    assert first.costs["selecting"]["tokens_forward"] > 0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("tail", "Did you mean 'tail_sft'"),
        ({"tail_sft": {"fraction": 1}}, "tail_sft: fraction=1 has to be a number of at least 0 and below 1"),
        ({"tail_sft": {"schedule": "linear"}}, "schedule='linear'"),
        ({"tail_sft": {"ratio": 0.5}}, "tail_sft has no setting 'ratio', only fraction, schedule"),
        ({"middle_loss": {"ratio": 0}}, "middle_loss: ratio=0 has to be above 0 and at most 1"),
        ({"top_loss": {}, "tail_sft": {}}, "has to be the name of a filter"),
        ({"tail_sft": 0.4}, r'Write \{"tail_sft": \{"fraction": 0.4\}\}'),
        ({"top_loss": [0.4]}, r'Write \{"top_loss": \{"ratio": 0.5\}\}'),
        ('{"top_loss": ', "is no valid JSON"),
    ],
)
def test_settings(tmp_path, value, message):
    with pytest.raises(ConfigError, match=message):
        SelectiveSFTConfig(str(tmp_path), bf16=False, use_cpu=True, step_filter=value)


def test_json_and_names(tmp_path):
    config = SelectiveSFTConfig(str(tmp_path), bf16=False, use_cpu=True, step_filter='{"top_loss": {"ratio": 0.3}}')
    assert step_filter_of(config.step_filter) == TopLoss(0.3)
    assert step_filter_of(None) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"packing": True}, "^step_filter=.*packing=True puts several rows into one sequence"),
        (
            {"auto_find_batch_size": True},
            "auto_find_batch_size=True lowers their number .* set per_device_train",
        ),
        ({"per_device_train_batch_size": 1}, "rows of one forward pass, and there is 1; .* to at least 2"),
        ({"step_filter": {"top_loss": {"ratio": 0.9}}}, "there are 4, too few to drop one; .* to at least 5"),
        ({"loss_type": "dft"}, "loss_type='dft' weights tokens by itself"),
        (
            {"peft_config": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)},
            "prompt-learning adapter puts virtual tokens before every row",
        ),
    ],
)
def test_refused(train, settings, message):
    with pytest.raises(ConfigError, match=message):
        train.make(Random(), "run", **{**PLAIN, "step_filter": TAIL, **settings})


def test_a_filter_that_is_meant_to_keep_all_rows(train):
    train.make(Random(), "run", step_filter={"top_loss": {"ratio": 1}}, **PLAIN)
