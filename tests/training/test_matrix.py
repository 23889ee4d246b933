"""The trainer over its whole matrix: how rows reach it, how a run ends, and that every checkpoint can be resumed."""

from __future__ import annotations

import itertools
import math
import multiprocessing
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
import torch
from packaging.version import Version
from peft import LoraConfig
from transformers import BitsAndBytesConfig, EarlyStoppingCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTTrainer

from hf_datasel import SelectiveSFTConfig, SelectiveSFTTrainer
from hf_datasel.formats import Pool, convert_pool
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.rounds.selector import Selector
from hf_datasel.scores import Loss

from .test_restart import Given
from .test_trainer import AllAgain, Sizes, logs_of

pytestmark = [
    pytest.mark.slow,
    # of bitsandbytes on a CPU
    pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU"),
    pytest.mark.filterwarnings("ignore:_check_is_size will be removed:FutureWarning"),
]

SAVED = {"save_strategy": "steps", "save_steps": 1}
EQUAL, GROWING, SHRINKING = [8, 8, 8], [6, 11, 16], [16, 11, 6]


@dataclass(frozen=True)
class Rounds(Selector):
    """The rows with the highest loss, in rounds of so many rows, which may turn out to be fewer than planned."""

    planned: tuple[int, ...]
    found: tuple[int, ...]
    epochs: tuple[float, ...]
    restart: bool = False

    def plan(self, total_budget: int, num_epochs: float, pool_size: int) -> tuple[RoundPlan, ...]:
        each = zip(self.planned, self.epochs, strict=True)
        return tuple(RoundPlan(rows, epochs, restart=self.restart) for rows, epochs in each)

    def select(self, context: RoundContext) -> np.ndarray:
        loss = context.score(Loss())["loss"]
        return np.argsort(-loss, kind="stable")[: self.found[context.index]]


class Watched(SelectiveSFTTrainer):
    """Notes the rows of every batch, live workers, and what is left of gradients when a round is selected."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.batches: list[tuple[int, list[int]]] = []
        self.leaked: list[str] = []
        self.workers = 0
        self._others = {each.pid for each in multiprocessing.active_children()}
        rows = zip(self._candidates["input_ids"], self._data.prepared.rows.tolist(), strict=True)
        self._row_of = {tuple(ids): row for ids, row in rows}

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        lines = zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
        self.batches.append((self._current_round, [self._row_of[tuple(ids[mask].tolist())] for ids, mask in lines]))
        alive = {each.pid for each in multiprocessing.active_children()} - self._others
        self.workers = max(self.workers, len(alive))
        return super().training_step(model, inputs, *args, **kwargs)

    def _select(self, index: int) -> Any:
        grads = {name: each.grad for name, each in self.model.named_parameters() if each.grad is not None}
        self.leaked += [name for name, grad in grads.items() if grad.abs().sum() > 0]
        return super()._select(index)

    def trained(self, index: int) -> Counter[int]:
        """How often each row was trained on in a round."""
        return Counter(row for number, rows in self.batches if number == index for row in rows)


def samplers() -> list[str]:
    """Those of these that the installed version of transformers has."""
    said = SelectiveSFTConfig.__dataclass_fields__["train_sampling_strategy"].metadata
    return ["random", *(name for name in ("group_by_length", "batch_rebalance") if name in str(said))]


def check_end(trainer: Any, updates: list[int]) -> None:
    """That all updates were made, those of each round, with a learning rate that ended at 0."""
    assert [record.updates for record in trainer._schedule.records] == updates
    assert trainer.state.global_step == trainer.state.max_steps == sum(updates)
    assert set(trainer.lr_scheduler.get_last_lr()) == {0.0}
    assert len(trainer.accelerator._dataloaders) == (0 if trainer.args.dataloader_num_workers else 1)


def check_rows(trainer: Watched, passes: int = 1) -> None:
    """That every round trained exactly its rows, each once an epoch, and began without gradients."""
    for index, selection in enumerate(trainer.selections):
        assert trainer.trained(index) == Counter(selection.indices.tolist() * passes)
    assert trainer.leaked == []


# ---- samplers, workers, accumulation, rounds ---------------------------------------------------------------------
WORKERS = {
    "0-workers": {},
    "2-workers": {"dataloader_num_workers": 2},
    "2-persistent": {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
}
SIZES = {"equal": EQUAL, "growing": GROWING, "shrinking": SHRINKING}


@pytest.mark.parametrize("rounds", SIZES)
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("sampler", samplers())
@pytest.mark.parametrize("workers", WORKERS)
def test_rounds_of_rows(train, resumed, workers, sampler, accumulation, rounds):
    sizes = SIZES[rounds]
    batch = 4 if accumulation == 1 else 2
    updates = [math.ceil(math.ceil(size / batch) / accumulation) for size in sizes]
    batches, repeated = [math.ceil(size / batch) for size in sizes], [0, 0, 0]
    if sampler == "batch_rebalance":  # every update has as many batches, if rows have to be taken twice for that
        batches = [each * accumulation for each in updates]
        repeated = [max(accumulation - (size % (batch * accumulation) or accumulation), 0) for size in sizes]
    middle = updates[0] + 1 if updates[1] > 1 else updates[0] - 1
    more = {
        **WORKERS[workers],
        "base": Watched,
        "selection_schedule": sizes,
        "train_sampling_strategy": sampler,
        "gradient_accumulation_steps": accumulation,
        "per_device_train_batch_size": batch,
    }
    whole = train(Sizes(), name="whole", save_strategy="steps", save_steps=middle, **more)
    for index, selection in enumerate(whole.selections):
        asked, trained = set(selection.indices.tolist()), whole.trained(index)
        assert len(asked) == sizes[index]
        assert set(trained) == asked
        assert trained.total() == len(asked) + repeated[index]
    assert whole.leaked == []
    check_end(whole, updates)
    [again] = resumed(whole, Sizes(), steps=[middle], **more)
    assert again.leaked == []
    done = batches[0] + accumulation if updates[1] > 1 else middle * accumulation
    assert again.batches == whole.batches[done:]
    for trainer in (whole, again):
        asked = WORKERS[workers].get("dataloader_num_workers", 0)
        assert trainer.workers == asked if "persistent" in workers else trainer.workers <= asked
        assert len(trainer.accelerator._dataloaders) == (0 if trainer.args.dataloader_num_workers else 1)


# ---- packing -------------------------------------------------------------------------------------------------------
class Tokens(SelectiveSFTTrainer):
    """Counts the tokens of every round, as they are trained on and as its rows have them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.trained: dict[int, Counter[int]] = {}

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        ids = inputs["input_ids"]
        if "attention_mask" in inputs:
            ids = ids[inputs["attention_mask"].bool()]
        self.trained.setdefault(self._current_round, Counter()).update(ids.flatten().tolist())
        return super().training_step(model, inputs, *args, **kwargs)

    def asked(self, rows: np.ndarray) -> Counter[int]:
        """The tokens of these rows of the pool."""
        part = self._candidates.select(np.flatnonzero(np.isin(self._data.prepared.rows, rows)))
        return Counter(itertools.chain.from_iterable(part["input_ids"]))


@pytest.mark.parametrize("sizes", [EQUAL, [4, 8, 12]], ids=["equal", "growing"])
@pytest.mark.parametrize(
    "how",
    [
        {"packing": True, "packing_strategy": "bfd", "max_length": 160},
        {"packing": True, "packing_strategy": "bfd_split", "max_length": 60, "per_device_train_batch_size": 4},
        {"packing": True, "packing_strategy": "wrapped", "max_length": 100},
        {"packing": True, "packing_strategy": "bfd", "max_length": 160, "gradient_accumulation_steps": 2},
        {"padding_free": True, "max_length": None, "per_device_train_batch_size": 4},
    ],
    ids=["bfd", "bfd_split", "wrapped", "bfd-accumulation", "padding_free"],
)
def test_packed_rounds(train, resumed, how, sizes):
    more = {"base": Tokens, "selection_schedule": sizes, "per_device_train_batch_size": 2, **SAVED, **how}
    whole = train(Sizes(), name="whole", **more)
    assert len(whole.selections) == 3
    for index, selection in enumerate(whole.selections):
        assert whole.trained[index] == whole.asked(selection.indices)
    check_end(whole, [record.updates for record in whole._schedule.records])
    for _ in resumed(whole, Sizes(), **more):
        pass


# ---- how long a run is, and evaluation on the way ------------------------------------------------------------------
@pytest.mark.parametrize(
    ("selector", "more", "updates"),
    [
        (Sizes(), {"selection_size": 8, "max_steps": 5}, [2, 2, 2]),
        (Sizes(), {"selection_size": 8, "num_train_epochs": 2.5}, [2, 2, 1]),
        (Sizes(), {"selection_size": 20, "num_train_epochs": 1.3}, [5, 2]),
        (Rounds((16, 16, 16), (16, 5, 5), (1, 1, 0.5)), {}, [4, 2, 1]),
        (Rounds((16, 16), (16, 5), (1.5, 2.5)), {}, [6, 5]),
        (Rounds((20, 20), (20, 3), (1.1, 1.1)), {}, [6, 2]),
        (Rounds((16, 16), (16, 5), (1.5, 2.5)), {"gradient_accumulation_steps": 3}, [3, 3]),
    ],
    ids=["max_steps", "2.5", "1.3", "short-half", "short-2.5", "short-1.1", "short-accumulation"],
)
def test_updates_and_final_learning_rate(train, resumed, selector, more, updates):
    more = {"base": Watched, **SAVED, **more}
    whole = train(selector, name="whole", **more)
    assert [record.updates for record in whole._schedule.records] == updates
    assert whole.state.global_step == whole.state.max_steps == more.get("max_steps", sum(updates))
    rates = [*logs_of(whole, "learning_rate"), whole.lr_scheduler.get_last_lr()[0]]
    assert all(later < before for before, later in itertools.pairwise(rates))
    assert rates[-1] == 0.0
    for index, selection in enumerate(whole.selections):
        assert set(whole.trained(index)) <= set(selection.indices.tolist())
    for again in resumed(whole, selector, **more):
        assert again.batches == whole.batches[len(whole.batches) - len(again.batches) :]


def test_packed_partial_epochs(train, resumed):
    """How many packed rows there are is known only when they are selected, so that the plan is an estimate."""
    more = {"packing": True, "packing_strategy": "bfd", "max_length": 96, "per_device_train_batch_size": 2, **SAVED}
    whole = train(Sizes(), name="whole", selection_size=10, num_train_epochs=2.5, **more)
    records = whole._schedule.records
    assert any(record.updates != record.planned for record in records)
    assert whole.state.global_step == whole.state.max_steps == sum(record.updates for record in records)
    assert records[-1].updates == math.ceil(0.5 * records[-1].per_pass)
    assert set(whole.lr_scheduler.get_last_lr()) == {0.0}
    for _ in resumed(whole, Sizes(), selection_size=10, num_train_epochs=2.5, **more):
        pass


@pytest.mark.parametrize("sets", ["one", "two"])
def test_evaluation_and_the_best_model(train, resumed, pool_rows, sets):
    rows = pool_rows.select(range(4))
    more = {
        "selection_size": 8,
        "eval_dataset": rows if sets == "one" else {"train": rows, "other": pool_rows.select(range(4, 8))},
        "metric_for_best_model": "loss" if sets == "one" else "train_loss",
        "eval_strategy": "steps",
        "eval_steps": 1,
        "load_best_model_at_end": True,
        **SAVED,
    }
    whole = train(Sizes(), name="whole", **more)
    metric = "eval_loss" if sets == "one" else "eval_train_loss"
    assert len(logs_of(whole, metric)) == 6
    assert whole.state.best_metric == min(logs_of(whole, metric))
    for again in resumed(whole, Sizes(), **more):
        assert logs_of(again, metric) == logs_of(whole, metric)
        assert again.state.best_global_step == whole.state.best_global_step


# ---- rounds that begin again from the base model -------------------------------------------------------------------
def quantized(kind: str, trainer: type = SelectiveSFTTrainer) -> Callable[..., Any]:
    """Give what makes a trainer of the same model in 4 or 8 bits."""

    def make(**given: Any) -> Any:
        from transformers import AutoModelForCausalLM

        how = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"} if kind == "nf4" else {"load_in_8bit": True}
        model = AutoModelForCausalLM.from_pretrained(
            given["model"].config.name_or_path,
            attention_dropout=0.1,
            quantization_config=BitsAndBytesConfig(**how),
            device_map="cpu",
        )
        return trainer(**{**given, "model": model})

    return make


LORA = {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.1)}


@pytest.mark.parametrize(
    "more",
    [
        LORA,
        {"base": quantized("nf4"), **LORA},
        {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 2},
        {"packing": True, "packing_strategy": "bfd", "max_length": 160, "per_device_train_batch_size": 1},
        pytest.param(
            {"optim": "paged_adamw_8bit"},
            marks=pytest.mark.skipif(
                Version(version("bitsandbytes")) < Version("0.50"), reason="this bitsandbytes optimizes on GPUs alone"
            ),
        ),
        {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True},
    ],
    ids=["lora", "nf4", "accumulation", "packing", "paged_adamw_8bit", "best"],
)
def test_restart_from_base(train, resumed, pool_rows, more):
    if "eval_strategy" in more:
        more = {**more, "eval_dataset": pool_rows.select(range(4))}
    more = {**SAVED, "num_train_epochs": 2, **more}
    whole = train(Given(), name="whole", **more)
    first = whole._schedule.records[0].updates
    rates = logs_of(whole, "learning_rate")
    assert rates[first] == rates[0] == 1e-2
    assert set(whole.lr_scheduler.get_last_lr()) == {0.0}
    for again in resumed(whole, Given(), **more):
        assert again.state.best_global_step == whole.state.best_global_step


def test_restart_with_custom_optimizers(train, resumed):
    more = {"base": with_optimizer(SelectiveSFTTrainer), "num_train_epochs": 2, **SAVED}
    whole = train(Given(), name="whole", **more)
    assert logs_of(whole, "learning_rate") == [0.1, 0.1, 0.1, 0.1, 0.05, 0.05]
    for _ in resumed(whole, Given(), **more):
        pass


# ---- batches that do not fit into memory ---------------------------------------------------------------------------
def short_of_memory(most: int, first_round: int = 0) -> type[Watched]:
    """A trainer that runs out of memory in a batch of more rows than `most`, from this round on."""

    class Short(Watched):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if len(inputs["input_ids"]) > most and self._current_round >= first_round:
                self.batches.clear()
                raise RuntimeError("CUDA out of memory.")
            return super().training_step(model, inputs, *args, **kwargs)

    return Short


@pytest.mark.parametrize("sizes", [EQUAL, GROWING], ids=["equal", "growing"])
@pytest.mark.parametrize("first_round", [0, 2])
def test_auto_find_batch_size(train, resumed, first_round, sizes):
    more = {
        "base": short_of_memory(2, first_round),
        "auto_find_batch_size": True,
        "selection_schedule": sizes,
        **SAVED,
    }
    whole = train(Sizes(), name="whole", **more)
    assert [each.provenance["round"] for each in whole.selections] == [0, 1, 2]
    updates = [math.ceil(size / 2) for size in sizes]
    check_end(whole, updates)
    assert [record.planned for record in whole._schedule.records] == updates
    assert [len(rows) for _, rows in whole.batches[:2]] == [2, 2]
    for index, selection in enumerate(whole.selections):
        assert whole.trained(index) == Counter(selection.indices.tolist())
    for _ in resumed(whole, Sizes(), [1, updates[0] + 1, sum(updates) - 1], **more):
        pass


def test_auto_find_batch_size_with_restarts(train, resumed):
    more = {"base": short_of_memory(2, 1), "auto_find_batch_size": True, "num_train_epochs": 1, **SAVED}
    whole = train(Given(), name="whole", **more)
    assert whole.state.global_step == whole.state.max_steps == 3 + 4
    assert logs_of(whole, "learning_rate") == pytest.approx(
        [1e-2 * each for each in (1, 2 / 3, 1 / 3, 1, 0.75, 0.5, 0.25)]
    )
    for _ in resumed(whole, Given(), **more):
        pass


# ---- runs that are ended, and trainers that are changed ------------------------------------------------------------
class Stop(TrainerCallback):
    """Ends the training, or the epoch, after a step, and saves there."""

    def __init__(self, step: int, what: str = "should_training_stop") -> None:
        self.step, self.what = step, what

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            control.should_save = True
            setattr(control, self.what, True)


@pytest.mark.parametrize("step", [1, 3, 4])
def test_resume_after_a_callback_stopped_training(train, resumed, step):
    more = {"selection_size": 8}
    whole = train(Sizes(), name="whole", **more)
    stopped = train(Sizes(), name="stopped", callbacks=[Stop(step)], **more)
    assert stopped.state.global_step == step
    assert len(stopped.selections) == math.ceil(step / 2)
    whole.args.output_dir = stopped.args.output_dir
    [again] = resumed(whole, Sizes(), [step], **more)
    assert again.state.global_step == again.state.max_steps == 6


def test_callback_ends_a_round(train, resumed):
    more = {"base": Watched, "selection_size": 12, **SAVED}
    whole = train(Sizes(), name="whole", callbacks=[Stop(4, "should_epoch_stop")], **more)
    assert [sum(whole.trained(index).values()) for index in range(3)] == [12, 4, 12]
    assert whole.leaked == []
    assert whole.state.global_step == whole.state.max_steps == 7
    assert set(whole.lr_scheduler.get_last_lr()) == {0.0}
    for again in resumed(whole, Sizes(), callbacks=[Stop(4, "should_epoch_stop")], **more):
        assert again.batches == whole.batches[len(whole.batches) - len(again.batches) :]


@dataclass(frozen=True)
class Passes(Selector):
    """So many passes over each of two selections, and of the last a part."""

    passes: float

    def plan(self, total_budget: int, num_epochs: float, pool_size: int) -> tuple[RoundPlan, ...]:
        return RoundPlan(total_budget, self.passes), RoundPlan(total_budget, self.passes + 0.25)

    def select(self, context: RoundContext) -> np.ndarray:
        return np.arange(context.budget) + 4 * context.index


@pytest.mark.parametrize("step", [2, 6, 10, 14])
def test_callback_ends_a_pass(train, resumed, step):
    more = {"base": Watched, "selection_size": 16, **SAVED}
    whole = train(Passes(2.0), name="whole", callbacks=[Stop(step, "should_epoch_stop")], **more)
    assert whole.state.global_step == whole.state.max_steps == 17 - 2  # of 2 passes of 4 and 9 / 4 of 4 more
    for again in resumed(whole, Passes(2.0), callbacks=[Stop(step, "should_epoch_stop")], **more):
        assert again.batches == whole.batches[len(whole.batches) - len(again.batches) :]


def test_early_stopping(train, resumed, pool_rows):
    more = {
        "selection_size": 8,
        "eval_dataset": pool_rows.select(range(4)),
        "eval_strategy": "steps",
        "eval_steps": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "restore_callback_states_from_checkpoint": True,
        **SAVED,
    }

    def callbacks() -> list[Any]:
        return [EarlyStoppingCallback(early_stopping_patience=2, early_stopping_threshold=100)]

    whole = train(Sizes(), name="whole", callbacks=callbacks(), **more)
    assert whole.state.global_step == 3
    assert len(whole.selections) == 2
    for step in (1, 2):
        for again in resumed(whole, Sizes(), [step], callbacks=callbacks(), **more):
            assert len(again._schedule.records) == 2


def with_optimizer(kind: type) -> Callable[..., Any]:
    """Give what makes a trainer of this kind with an optimizer and a schedule of the user's own."""

    def make(**given: Any) -> Any:
        optimizer = torch.optim.SGD(given["model"].parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
        return kind(**given, optimizers=(optimizer, schedule))

    return make


def with_loss(kind: type) -> type:
    """A trainer of this kind with a loss of the user's own."""

    class Doubled(kind):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            loss = super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
            return (2 * loss[0], *loss[1:]) if return_outputs else 2 * loss

    return Doubled


def as_it_is(kind: type) -> type:
    return kind


@pytest.mark.parametrize(
    ("changed", "more"),
    [
        (as_it_is, {"neftune_noise_alpha": 5.0}),
        (with_optimizer, {}),
        (with_loss, {"max_grad_norm": 0.0, "optim": "sgd"}),
        (as_it_is, {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 1}),
    ],
    ids=["neftune", "optimizers", "compute_loss", "plateau"],
)
def test_other_settings_equal_sfttrainer(train, resumed, assert_equal_weights, pool_rows, changed, more):
    if "eval_strategy" in more:
        more = {**more, "eval_dataset": pool_rows.select(range(4))}
    more = {"num_train_epochs": 2, **more}
    rows = convert_pool(Pool(pool_rows), chat_template=True)
    if "eval_dataset" in more:
        plain_more = {**more, "eval_dataset": rows.select(range(4))}
    else:
        plain_more = more
    plain = train(base=changed(SFTTrainer), rows=rows, name="plain", **plain_more)
    ours = train(AllAgain(), base=changed(SelectiveSFTTrainer), name="ours", **more)
    assert len(ours.selections) == 2
    assert_equal_weights(ours, plain)
    assert logs_of(ours, "learning_rate") == logs_of(plain, "learning_rate")
    more = {"base": changed(SelectiveSFTTrainer), "selection_size": 8, **SAVED, **more}
    for _ in resumed(train(Sizes(), name="whole", **more), Sizes(), **more):
        pass


def test_scores_without_noise_and_custom_losses(train):
    more = {"selection_size": 8, "num_train_epochs": 1, "learning_rate": 0.0}
    plain = train(Sizes(), name="plain", **more).selections[0].scores("loss")
    for name, changed in {
        "noise": {"neftune_noise_alpha": 5.0},
        "loss": {"base": with_loss(SelectiveSFTTrainer)},
    }.items():
        np.testing.assert_array_equal(train(Sizes(), name=name, **more, **changed).selections[0].scores("loss"), plain)


def test_second_training_equals_sfttrainer(train, assert_equal_weights, pool_rows):
    plain = train(base=SFTTrainer, rows=convert_pool(Pool(pool_rows), chat_template=True), name="plain")
    plain.train()
    ours = train(AllAgain(), name="ours")
    ours.train()
    assert len(ours.selections) == 3
    assert ours.state.global_step == plain.state.global_step
    assert_equal_weights(ours, plain)


def test_resume_second_training(train, tmp_path, assert_equal_weights):
    more = {"selection_size": 8, **SAVED}
    whole = train(Sizes(), name="whole", **more)
    whole.train()
    again = train(Sizes(), name="again", resume=get_last_checkpoint(str(tmp_path / "whole")), **more)
    assert_equal_weights(again, whole)
    again = train(Sizes(), name="again", resume=str(tmp_path / "whole" / "checkpoint-3"), **more)
    assert_equal_weights(again, whole)
