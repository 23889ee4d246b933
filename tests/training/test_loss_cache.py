"""Losses of training steps instead of forward passes: which rows, which numbers, and that training stays as it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTTrainer

from hf_datasel import SelectiveSFTTrainer
from hf_datasel.errors import ConfigError, ResumeError
from hf_datasel.formats import POOL_ROW, Pool, convert_pool
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.rounds.selector import Selector
from hf_datasel.scores import IFD, Embedding, Loss
from hf_datasel.scoring.base import Score
from hf_datasel.scoring.logprobs import LogprobRunner
from hf_datasel.selectors import All, IterIT
from hf_datasel.tokens import Sequences
from hf_datasel.training import loss_cache
from hf_datasel.training.schedule import Schedule

REUSE = {"reuse_training_loss": True, "loss_type": "nll", "selection_size": 8}
SAVED = {**REUSE, "save_strategy": "steps", "save_steps": 1}


@dataclass(frozen=True)
class Shifting(Selector):
    """Rows 0 to 7, then 4 to 11, then 8 to 15, and the scores of all rows each time."""

    by: Score = field(default_factory=IFD)
    also: Score | None = None
    restart: bool = False
    passes: float = 1.0
    reselects = True

    def plan(self, total_budget: int, num_epochs: float, pool_size: int) -> tuple[RoundPlan, ...]:
        again = RoundPlan(total_budget, self.passes, restart=self.restart)
        return RoundPlan(total_budget, self.passes), again, again

    def select(self, context: RoundContext) -> np.ndarray:
        for each in (self.by, self.also):
            if each is not None:
                context.score(each)
        return 4 * context.index + np.arange(context.budget)


class Still(SelectiveSFTTrainer):
    """Without dropout."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for module in self.model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0


class Told(SelectiveSFTTrainer):
    """Notes the mean loss of each row when it is trained on, from a pass of its own with the same dropout."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.told: dict[tuple[int, ...], float] = {}

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if not model.training:
            return super().compute_loss(model, inputs, *args, **kwargs)
        state = torch.get_rng_state()
        with torch.no_grad():
            logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        torch.set_rng_state(state)
        losses = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten(), reduction="none"
        ).view(len(logits), -1)
        for ids, mask, labels, each in zip(
            inputs["input_ids"], inputs["attention_mask"].bool(), inputs["labels"][:, 1:], losses, strict=True
        ):
            self.told[tuple(ids[mask].tolist())] = float(each.sum() / (labels != -100).sum())
        return super().compute_loss(model, inputs, *args, **kwargs)

    def told_of(self, row: int) -> float:
        """What was noted of a row of the pool."""
        return self.told[tuple(self._candidates[int(np.flatnonzero(self._data.prepared.rows == row)[0])]["input_ids"])]


def logs_of(trainer: Any, key: str) -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def reused(trainer: Any) -> list[list[int]]:
    """Of each round, what its scores say of rows whose losses came from training."""
    return [
        [each["computed"].get("reused_training_loss", 0) for each in selection.provenance["scores"]]
        for selection in trainer.selections
    ]


@pytest.fixture
def forwarded(monkeypatch) -> list[int]:
    """Give the sizes of all batches that scoring has run through a model, as they happen."""
    sizes: list[int] = []
    original = LogprobRunner.__call__

    def call(self: LogprobRunner, batch: Any, reductions: Any) -> Any:
        sizes.append(len(batch))
        return original(self, batch, reductions)

    monkeypatch.setattr(LogprobRunner, "__call__", call)
    return sizes


@pytest.mark.parametrize(
    ("by", "more"),
    [
        (IFD(), {}),
        (IFD(end_token=False), {}),
        (IFD(prior_context="none"), {}),
        (Loss(), {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}),
        (Loss(reduction="sum"), {"max_length": 80}),
        (Loss(), {"completion_only_loss": False}),
        (Loss(over="pair"), {"completion_only_loss": False}),
        (Loss(), {"packing": True, "per_device_train_batch_size": 2, "max_length": 96}),
        (Loss(), {"padding_free": True, "max_length": None}),
        (Loss(), {"pad_to_multiple_of": 16}),
        (Loss(), {"pad_to_multiple_of": 16, "padding_free": True, "max_length": None}),
    ],
    ids=lambda each: repr(each) if isinstance(each, Score) else "-".join(each) or "plain",
)
def test_losses_equal_a_forward_pass(train, by, more):
    still = {"base": Still, "learning_rate": 0.0, **REUSE, **more}
    ours = train(Shifting(by), name="ours", **still)
    plain = train(Shifting(by), name="plain", **{**still, "reuse_training_loss": False})
    assert reused(ours) == [[0], [8], [8]]
    assert logs_of(ours, "selection_rows_reused") == [0, 8, 8]
    for one, other in zip(ours.selections, plain.selections, strict=True):
        for name in one.score_columns:
            np.testing.assert_allclose(one.scores(name), other.scores(name), rtol=1e-5, atol=1e-5)


def test_losses_of_training_steps(train):
    ours = train(Shifting(Loss()), name="ours", base=Told, **{**REUSE, "num_train_epochs": 2})
    plain = train(Shifting(Loss()), name="plain", **{**REUSE, "reuse_training_loss": False})
    losses, fresh = ours.selections[1].scores("loss"), plain.selections[1].scores("loss")
    assert np.abs(losses[:8] - fresh[:8]).min() > 1e-4
    np.testing.assert_allclose(losses[8:], fresh[8:], rtol=1e-5)
    # rows 0 to 3 are trained on in the first round alone
    noted = [ours.told_of(row) for row in range(4)]
    np.testing.assert_allclose(losses[:4], noted, rtol=1e-5)


def test_last_step_of_a_row_counts(train):
    twice = train(Shifting(Loss(), passes=2.0), name="twice", base=Told, **REUSE)
    once = train(Shifting(Loss()), name="once", **REUSE)
    assert reused(twice) == [[0], [8], [8]]
    assert np.abs(twice.selections[1].scores("loss")[:8] - once.selections[1].scores("loss")[:8]).min() > 1e-4
    np.testing.assert_allclose(
        twice.selections[1].scores("loss")[:4], [twice.told_of(row) for row in range(4)], rtol=1e-5
    )


def test_fewer_rows_go_through_the_model(train, forwarded):
    train(Shifting(IFD(), also=Loss()), name="ours", **REUSE)
    assert sum(forwarded) == 48 + 2 * (16 + 24)  # of the rows reused, the prior alone
    forwarded.clear()
    train(Shifting(IFD(), also=Loss()), name="plain", **{**REUSE, "reuse_training_loss": False})
    assert sum(forwarded) == 3 * 48


def test_all_rows_reused_leave_no_forward_pass(train, forwarded):
    @dataclass(frozen=True)
    class Everything(Shifting):
        def select(self, context: RoundContext) -> np.ndarray:
            context.score(Loss())
            return np.flatnonzero(context.eligible)

    trainer = train(Everything(), **{**REUSE, "selection_size": 24})
    assert sum(forwarded) == 24
    assert reused(trainer) == [[0], [24], [24]]


@pytest.mark.parametrize("more", [{}, {"packing": True, "per_device_train_batch_size": 1}], ids=["plain", "packing"])
def test_weights_do_not_change(train, assert_equal_weights, pool_rows, monkeypatch, more):
    more = {"loss_type": "nll", **more}
    plain = train(base=SFTTrainer, rows=convert_pool(Pool(pool_rows), chat_template=True), name="plain", **more)
    ours = train.make(All(), "ours", reuse_training_loss=True, **more)
    monkeypatch.setattr(ours._losses, "_are_needed", lambda: True)  # or one round reads nothing
    ours.train()
    assert len(ours._losses.arrays()["rows"]) == 24
    assert_equal_weights(ours, plain)
    selected = train(Shifting(), name="scored", **{**REUSE, **more})
    without = train(Shifting(), name="without", **{**REUSE, **more, "reuse_training_loss": False})
    assert_equal_weights(selected, without)
    assert logs_of(selected, "loss") == logs_of(without, "loss")
    assert not selected.model._forward_hooks
    assert not logs_of(without, "selection_rows_reused")


# -- what is recorded, read and kept ---------------------------------------------------------------------------------
def test_scores_record_reused_rows(train):
    trainer = train(Shifting(Loss(), also=Embedding(as_trained=True)), name="one", **REUSE)
    assert reused(trainer) == [[0, 0], [8, 0], [8, 0]]
    assert logs_of(trainer, "selection_rows_reused") == [0, 8, 8]
    both = train(Shifting(Loss(), also=Loss(reduction="sum")), name="both", **REUSE)
    assert reused(both) == [[0, 0], [8, 8], [8, 8]]  # the second takes over what the first one has


def test_tokens_are_not_read_without_losses(train, monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(Sequences, "digests", lambda self: asked.append(len(self)))
    assert reused(train(Shifting(), **REUSE)) == [[0], [8], [8]]
    assert not asked


@pytest.mark.parametrize(
    ("selector", "more", "kept"),
    [
        (Shifting(), {}, [4, 8, 4, 8, 0, 0]),
        (Shifting(), {"max_steps": 5}, [4, 8, 4, 8, 0]),
        (Shifting(), {"reselection_strategy": "steps", "reselection_steps": 3}, [4, 8, 8, 0, 0, 0]),
        (All(), {"num_train_epochs": 1, "selection_size": None}, [0] * 6),
        (All(), {"max_steps": 5, "selection_size": None}, [0] * 5),
    ],
    ids=["epochs", "max_steps", "steps", "one-round", "one-round-max_steps"],
)
def test_last_round_records_no_losses(train, tmp_path, selector, more, kept):
    train(selector, **{**SAVED, **more})
    found = []
    for step in range(1, len(kept) + 1):
        with np.load(tmp_path / "run" / f"checkpoint-{step}" / "selection_state.npz") as stored:
            found.append(len(stored["losses/rows"]) if "losses/rows" in stored else 0)
    assert found == kept


class Hasty(TrainerCallback):
    """Ends an epoch after the third update of the run."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_epoch_stop = state.global_step == 3


def test_extended_run_scores_its_last_round(train, forwarded):
    trainer = train(Shifting(Loss()), callbacks=[Hasty()], max_steps=4, **REUSE)
    assert reused(trainer) == [[0], [8], [0]]
    assert sum(forwarded) == 24 + 16 + 24


class Peeking(TrainerCallback):
    """Runs the model in training, with another label for each token, on every row of the pool."""

    trainer: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        for row in self.trainer._candidates["input_ids"]:
            ids = torch.tensor([row])
            model(input_ids=ids, labels=ids)


class Measuring(Told):
    """Runs the model once more in every step, for a number to log."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        with torch.no_grad():
            model(**inputs)
        return loss


@pytest.mark.parametrize("who", ["callback", "compute_loss", "evaluation"])
def test_only_training_steps_are_recorded(train, pool_rows, who):
    base = Measuring if who == "compute_loss" else Told
    more = {"eval_strategy": "steps", "eval_steps": 1, "eval_dataset": pool_rows} if who == "evaluation" else {}
    trainer = train.make(Shifting(Loss()), "run", base=base, **REUSE, **more)
    if who == "callback":
        callback = Peeking()
        callback.trainer = trainer
        trainer.add_callback(callback)
    trainer.train()
    assert reused(trainer) == [[0], [8], [8]]
    noted = [trainer.told_of(row) for row in range(4)]
    np.testing.assert_allclose(trainer.selections[1].scores("loss")[:4], noted, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing")  # by their new name no older version knows the settings
@pytest.mark.filterwarnings("ignore:None of the inputs")  # of the pass that Told makes without gradients
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(train, monkeypatch, reentrant):
    read: list[Any] = []
    original = loss_cache._token_losses
    monkeypatch.setattr(loss_cache, "_token_losses", lambda *args: read.append(args) or original(*args))
    more = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    trainer = train(Shifting(Loss()), base=Told, **{**REUSE, **more})
    assert trainer.model.is_gradient_checkpointing
    assert len(read) == 4  # two rounds of two batches; the third is the last
    noted = [trainer.told_of(row) for row in range(4)]
    np.testing.assert_allclose(trainer.selections[1].scores("loss")[:4], noted, rtol=1e-5)


@pytest.mark.parametrize("selected", [[0], [0, 24]], ids=["one", "both"])
def test_equal_rows_share_losses(train, pool_rows, selected):
    @dataclass(frozen=True)
    class These(Shifting):
        def select(self, context: RoundContext) -> np.ndarray:
            context.score(Loss())
            return np.array(selected)

    more = {"base": Told, "rows": pool_rows.select([*range(24), 0]), **REUSE, "selection_size": len(selected)}
    trainer = train(These(), **more, num_train_epochs=1, per_device_train_batch_size=1)
    assert reused(trainer) == [[0], [2], [2]]
    first, copy = trainer.selections[2].scores("loss")[[0, 24]]
    assert first == copy


def test_two_runs_are_identical(train, assert_equal_weights):
    one, other = (train(IterIT(), name=name, **REUSE) for name in ("one", "other"))
    assert sum(logs_of(one, "selection_rows_reused")) > 0
    assert [each.indices.tolist() for each in one.selections] == [each.indices.tolist() for each in other.selections]
    np.testing.assert_array_equal(one.selections[2].scores("ifd"), other.selections[2].scores("ifd"))
    assert_equal_weights(one, other)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 2},
        {"packing": True, "per_device_train_batch_size": 1, "max_length": 160},
        pytest.param({"reselection_strategy": "steps", "reselection_steps": 3}, marks=pytest.mark.slow),
    ],
    ids=["plain", "accumulation", "packing", "steps"],
)
def test_resume_from_every_checkpoint_is_exact(train, assert_equal_weights, tmp_path, more):
    whole = train(IterIT(), name="whole", **SAVED, **more)
    assert sum(logs_of(whole, "selection_rows_reused")) > 0
    for step in range(1, whole.state.global_step):
        shutil.copytree(tmp_path / "whole" / "selections", tmp_path / f"from-{step}" / "selections")
        checkpoint = str(tmp_path / "whole" / f"checkpoint-{step}")
        resumed = train(IterIT(), name=f"from-{step}", resume=checkpoint, **SAVED, **more)
        assert_equal_weights(resumed, whole)
        assert resumed.selections[-1].indices.tolist() == whole.selections[-1].indices.tolist()
        assert resumed.selections[-1].provenance["scores"] == whole.selections[-1].provenance["scores"]
        assert logs_of(resumed, "selection_rows_reused") == logs_of(whole, "selection_rows_reused")


def test_resume_with_another_setting(train, tmp_path):
    train(IterIT(), name="run", **SAVED)
    with pytest.raises(ResumeError, match=r"reuse_training_loss differ \(True in the checkpoint, False in this run\)"):
        checkpoint = str(tmp_path / "run" / "checkpoint-3")
        train(IterIT(), name="run", resume=checkpoint, **{**SAVED, "reuse_training_loss": False})


def test_restart_clears_losses(train):
    trainer = train(Shifting(Loss(), restart=True), base=Told, **REUSE)
    assert reused(trainer) == [[0], [8], [8]]
    plain = train(Shifting(Loss(), restart=True), name="plain", **{**REUSE, "reuse_training_loss": False})
    # rows 0 to 3 were trained on before the restart alone
    first, expected = (each.selections[2].scores("loss")[:4] for each in (trainer, plain))
    np.testing.assert_allclose(first, expected, rtol=1e-5)


def test_second_training_clears_losses(train):
    trainer = train(Shifting(), **REUSE)
    trainer.train()
    assert reused(trainer) == [[0], [8], [8]]


def test_adapters(train):
    from peft import LoraConfig

    more = {"base": Still, "learning_rate": 0.0, **REUSE}
    peft = {"peft_config": LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")}
    ours = train(Shifting(), name="ours", **more, **peft)
    plain = train(Shifting(), name="plain", **{**more, "reuse_training_loss": False}, **peft)
    assert reused(ours) == [[0], [8], [8]]
    np.testing.assert_allclose(ours.selections[2].scores("ifd"), plain.selections[2].scores("ifd"), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # dynamo takes those that it traces through in TRL for errors
def test_a_compiled_model(train, assert_equal_weights):
    more = {**REUSE, "torch_compile": True, "torch_compile_backend": "eager"}
    ours = train(Shifting(), name="ours", **more)
    plain = train(Shifting(), name="plain", **{**more, "reuse_training_loss": False})
    assert reused(ours) == [[0], [8], [8]]
    assert_equal_weights(ours, plain)


def test_equal_tokens_with_other_labels(train, tiny_model_dir):
    """Two rows of one text, cut into question and answer at different places."""
    rows = Dataset.from_list(
        [{"prompt": "One two three", "completion": " four five."}, {"prompt": "One two", "completion": " three four"}]
    )
    split = Dataset.from_list([{"prompt": "One two", "completion": " three four five."}, *rows])

    @dataclass(frozen=True)
    class First(Shifting):
        def select(self, context: RoundContext) -> np.ndarray:
            context.score(Loss())
            return np.array([1])

    more = {"base": Still, "learning_rate": 0.0, "rows": split, **REUSE, "selection_size": 1}
    ours = train(First(), name="ours", **more)
    plain = train(First(), name="plain", **{**more, "reuse_training_loss": False})
    assert ours._candidates[0]["input_ids"] == ours._candidates[1]["input_ids"]
    assert reused(ours) == [[0], [1], [1]]
    np.testing.assert_allclose(ours.selections[1].scores("loss"), plain.selections[1].scores("loss"), rtol=1e-5)


# -- reading a step --------------------------------------------------------------------------------------------------
def test_logits_equal_log_probs():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((3, 200, 11), generator=generator, requires_grad=True)
    ids = torch.randint(0, 11, (3, 200), generator=generator)
    labels = torch.where(torch.rand((3, 200), generator=generator) < 0.7, ids, -100)
    labels[2] = -100
    log_probs = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    fused = SimpleNamespace(log_probs=log_probs.masked_fill(labels[:, 1:] == -100, 0.0))
    one, other = (loss_cache._token_losses(output, ids, labels) for output in (fused, SimpleNamespace(logits=logits)))
    np.testing.assert_allclose(one, other, rtol=1e-5)
    np.testing.assert_array_equal(~np.isnan(one[:, 1:]), labels[:, 1:].numpy() >= 0)
    assert np.isnan(one[:, 0]).all()
    nothing = loss_cache._token_losses(SimpleNamespace(logits=logits), ids, torch.full_like(labels, -100))
    assert np.isnan(nothing).all()


def test_output_without_logits():
    ids = torch.zeros((1, 4), dtype=torch.long)
    with pytest.raises(ConfigError, match="SimpleNamespace has none while the model trains"):
        loss_cache._token_losses(SimpleNamespace(loss=0.0, logits=None), ids, ids)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"attention_mask": [[1, 1, 1, 0], [0, 1, 1, 1]]}, [(0, [0, 1, 2]), (1, [1, 2, 3])]),
        ({"position_ids": [[0, 1, 0, 1], [0, 1, 2, 3]]}, [(0, [0, 1]), (0, [2, 3]), (1, [0, 1, 2, 3])]),
        ({}, [(0, [0, 1, 2, 3]), (1, [0, 1, 2, 3])]),
    ],
    ids=["padding", "joined", "alone"],
)
def test_rows_of_a_batch(more, expected):
    inputs = {"input_ids": torch.zeros((2, 4)), **{name: torch.tensor(values) for name, values in more.items()}}
    assert [(line, at.tolist()) for line, at in loss_cache._rows_of_batch(inputs)] == expected


@pytest.fixture
def watched() -> Any:
    """Give losses in the first of two rounds of a trainer, and a model whose logits can be set."""

    class Model(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> Any:
            return SimpleNamespace(logits=self.logits)

    def make(on: bool = True) -> Any:
        args = SimpleNamespace(reuse_training_loss=on, packing=False, loss_type="nll", use_liger_kernel=False)
        none = {"compute_loss_func": None, "label_smoother": None, "accelerator": None}
        schedule = Schedule((RoundPlan(1), RoundPlan(1)), [1, 1])
        schedule.begin(np.array([0]), 1, 0)
        trainer = SimpleNamespace(args=args, state=SimpleNamespace(global_step=3), **none)
        return loss_cache.LossCache(trainer, lambda: schedule), Model()

    return make


def test_arrays_roundtrip(watched):
    """Two turns: the question between them has no label."""
    generator = torch.Generator().manual_seed(0)
    ids, spans = torch.randint(0, 11, (3, 20), generator=generator), [[2, 6, 9, 17], [2, 6, 9, 17], [5, 12]]
    labels = ids.clone()
    labels[:, :2] = labels[:, 6:9] = labels[:, 17:] = -100
    losses, model = watched()
    model.logits = torch.randn((3, 20, 11), generator=generator)
    with losses.hooked(model), losses.recording():
        model(input_ids=ids, labels=labels)
    arrays = losses.arrays()
    assert arrays["losses"].dtype == np.float32
    assert arrays["losses"].size == 3 * (4 + 8)
    again, _ = watched()
    again.restore(arrays)
    data = Dataset.from_dict({"input_ids": ids.tolist(), "spans": spans, POOL_ROW: [0, 1, 2]})
    expected = torch.nn.functional.cross_entropy(model.logits[:, :-1].mT, ids[:, 1:], reduction="none")
    known = [sum(float(row[start - 1 : stop - 1].sum()) for start, stop in ((2, 6), (9, 17))) for row in expected[:2]]
    found = again.summed(Sequences(data, np.arange(3)))
    np.testing.assert_allclose(found[:2], [[each, 12] for each in known], rtol=1e-6)
    assert np.isnan(found[2]).any()  # it scores tokens that had no label
    assert again.logs() == {"rows_reused": 2}


def test_switched_off_it_does_nothing(watched):
    losses, model = watched(on=False)
    model.logits, ids = torch.zeros((1, 4, 3)), torch.zeros((1, 4), dtype=torch.long)
    with losses.hooked(model), losses.recording():
        assert not model._forward_hooks
        model(input_ids=ids, labels=ids)
    losses.gather()
    assert (losses.arrays(), losses.logs()) == ({}, {})


# -- refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reuse_training_loss": "yes"}, "reuse_training_loss='yes' has to be True or False"),
        (
            {"packing": True, "packing_strategy": "wrapped"},
            "unsplit rows, but packing_strategy='wrapped' splits them",
        ),
        ({"packing": True, "packing_strategy": "bfd_split"}, "but packing_strategy='bfd_split' splits them"),
    ],
)
def test_invalid_settings(train, settings, message):
    with pytest.raises(ConfigError, match=message):
        train.make(IterIT(), "bad", **{**REUSE, **settings})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("loss_type", "chunked_nll", "does not compute with loss_type='chunked_nll' and use_liger_kernel=False"),
        ("use_liger_kernel", True, "and use_liger_kernel=True. Use loss_type='nll' without Liger"),
        ("sp_enabled", True, "context and sequence parallelism split the tokens of a row"),
        ("cp_enabled", True, "context and sequence parallelism split the tokens of a row"),
    ],
)
def test_unsupported_settings_of_trl(monkeypatch, name, value, message):
    monkeypatch.setattr(loss_cache, "_HAS_LOG_PROBS", False)
    with pytest.raises(ConfigError, match=message):
        loss_cache.check_reuse(_stand_in(**{name: value}))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", ["label_smoother", "compute_loss_func"])
def test_unsupported_losses(monkeypatch, fused, name):
    monkeypatch.setattr(loss_cache, "_HAS_LOG_PROBS", fused)
    loss_cache.check_reuse(_stand_in())
    with pytest.raises(ConfigError, match="cannot be combined with compute_loss_func or label_smoothing_factor"):
        loss_cache.check_reuse(_stand_in(**{name: object()}))


@pytest.mark.filterwarnings("ignore:`label_smoothing_factor` is deprecated:FutureWarning")
def test_label_smoothing(train):
    with pytest.raises(ConfigError, match="cannot be combined with compute_loss_func or label_smoothing_factor"):
        train.make(IterIT(), "bad", label_smoothing_factor=0.1, **REUSE)


def _stand_in(**more: Any) -> SimpleNamespace:
    """What is looked at of a trainer."""
    args = {"packing": False, "packing_strategy": "bfd", "loss_type": "nll", "use_liger_kernel": False}
    trainer = {"compute_loss_func": None, "label_smoother": None}
    parallel = {"cp_enabled": False, "sp_enabled": False}
    for each in (args, trainer, parallel):
        each |= {name: value for name, value in more.items() if name in each}
    accelerator = SimpleNamespace(parallelism_config=SimpleNamespace(**parallel))
    return SimpleNamespace(args=SimpleNamespace(**args), accelerator=accelerator, **trainer)


# -- two processes ---------------------------------------------------------------------------------------------------
_SCRIPT = """
import hashlib, json, sys
import numpy as np
from accelerate import PartialState
from datasets import disable_progress_bars, load_from_disk
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from hf_datasel import SelectiveSFTConfig, SelectiveSFTTrainer
from hf_datasel.selectors import IterIT

disable_progress_bars()
folder, model, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
output, resume, dropout = settings.pop("output"), settings.pop("resume"), settings.pop("dropout")
prior = settings.pop("prior", None)
set_seed(0)
args = SelectiveSFTConfig(f"{folder}/{output}", **{**dict(
    num_train_epochs=3, per_device_train_batch_size=2, learning_rate=1e-2, bf16=False, logging_steps=1,
    gradient_checkpointing=False, report_to="none", save_strategy="steps", save_steps=1, use_cpu=True, max_length=128,
    disable_tqdm=True, selection_size=8, loss_type="nll", reuse_training_loss=True), **settings})
trainer = SelectiveSFTTrainer(
    model=AutoModelForCausalLM.from_pretrained(model, attention_dropout=dropout), args=args,
    train_dataset=load_from_disk(f"{folder}/pool"), processing_class=AutoTokenizer.from_pretrained(model),
    selector=IterIT(prior=prior),
)
trainer.train(resume_from_checkpoint=f"{folder}/{resume}" if resume else None)
digest = hashlib.sha256()
for name, weight in sorted(trainer.accelerator.unwrap_model(trainer.model).state_dict().items()):
    digest.update(name.encode() + weight.numpy().tobytes())
result = {
    "weights": digest.hexdigest(), "selected": [each.indices.tolist() for each in trainer.selections],
    "scores": [np.nan_to_num(each.scores("ifd"), nan=-1).tolist() for each in trainer.selections],
    "reused": [each.provenance["scores"][0]["computed"].get("reused_training_loss", 0) for each in trainer.selections],
    "priors": [each.provenance["scores"][0]["computed"].get("reused_prior_loss", 0) for each in trainer.selections],
}
with open(f"{folder}/{output}-{trainer.args.process_index}.json", "w") as file:
    json.dump(result, file)
PartialState().destroy_process_group()
"""


@pytest.fixture
def run_two(tmp_path: Path, pool_rows: Any, tiny_model_dir: Path) -> Any:
    """Give a function that trains in two processes, and returns what each found."""
    (tmp_path / "script.py").write_text(_SCRIPT)
    pool_rows.save_to_disk(tmp_path / "pool")

    def call(output: str, resume: str = "", dropout: float = 0.1, **more: Any) -> list[dict[str, Any]]:
        settings = json.dumps({"output": output, "resume": resume, "dropout": dropout, **more})
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        done = subprocess.run(
            [sys.executable, *launcher, str(tmp_path / "script.py"), str(tmp_path), str(tiny_model_dir), settings],
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return [json.loads((tmp_path / f"{output}-{rank}.json").read_text()) for rank in range(2)]

    return call


@pytest.mark.slow
def test_losses_of_two_processes(run_two):
    still = {"dropout": 0.0, "learning_rate": 0.0}
    first, second = run_two("reused", **still)
    plain, _ = run_two("plain", reuse_training_loss=False, **still)
    assert first == second
    assert first["reused"] == [0, 8, 8]  # with what one process saw alone it would be half of them
    np.testing.assert_allclose(first["scores"], plain["scores"], rtol=1e-5)


@pytest.mark.slow
def test_two_processes_resume_exactly(run_two):
    whole, other = run_two("whole", num_train_epochs=2)
    assert whole == other
    for step in (1, 2):  # in the middle of the first round, and at its end
        resumed = run_two(f"from-{step}", resume=f"whole/checkpoint-{step}", num_train_epochs=2)
        assert [each["weights"] for each in resumed] == [whole["weights"]] * 2
        assert resumed[0]["scores"][-1] == whole["scores"][-1]


@pytest.mark.slow
def test_priors_of_the_first_round_in_two_processes(run_two):
    settings = {"prior": "first-round", "reuse_training_loss": False}
    whole, other = run_two("whole", **settings)
    assert whole == other
    assert whole["priors"][0] == 0 < whole["priors"][1] == whole["priors"][2]
    assert [sum(value >= 0 for value in scores) for scores in whole["scores"][1:]] == whole["priors"][1:]
    resumed = run_two("resumed", resume="whole/checkpoint-2", **settings)
    assert [each["weights"] for each in resumed] == [whole["weights"]] * 2
    assert resumed[0]["priors"][1:] == whole["priors"][1:]
