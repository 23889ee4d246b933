"""Training on selected rows: what is trained, when it is selected, and that nothing else changes."""

from __future__ import annotations

import json
import math
import multiprocessing
import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, IterableDataset
from transformers import TrainerCallback
from trl import SFTTrainer

from hf_datasel import SelectiveSFTConfig, SelectiveSFTTrainer
from hf_datasel.errors import ConfigError, SelectionError
from hf_datasel.formats import Pool, convert_pool
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.rounds.selector import Selector
from hf_datasel.scores import IFD, Loss
from hf_datasel.scoring.score_rows import score
from hf_datasel.selectors import All, IterIT, Longest, Random, Top


@dataclass(frozen=True)
class AllAgain(Selector):
    """Every row, scored and selected again each round: selection that should change nothing."""

    reselects = True

    def select(self, context: RoundContext) -> np.ndarray:
        context.score(IFD())
        return np.flatnonzero(context.eligible)

    def plan(self, total_budget: int, num_epochs: float, pool_size: int) -> tuple[RoundPlan, ...]:
        return super().plan(pool_size, num_epochs, pool_size)


@dataclass(frozen=True)
class Sizes(Selector):
    """The first rows by the loss of the current model, as many as each round's budget."""

    reselects = True

    def select(self, context: RoundContext) -> np.ndarray:
        loss = context.score(Loss())["loss"]
        rows = np.flatnonzero(context.eligible)
        return rows[np.argsort(-loss[rows], kind="stable")][: context.budget]


@dataclass(frozen=True)
class Replay(Selector):
    """Given row numbers, nothing scored."""

    rounds: tuple[tuple[int, ...], ...]
    reselects = True

    def select(self, context: RoundContext) -> np.ndarray:
        return np.array(self.rounds[context.index])


class Seen(TrainerCallback):
    """The training rows as they are at each step."""

    def __init__(self) -> None:
        self.steps: list[list[int]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        self.steps.append(len(train_dataloader.dataset))


def logs_of(trainer: Any, key: str) -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def test_full_pool_equals_sfttrainer(train, assert_equal_weights, pool_rows):
    plain_rows = convert_pool(Pool(pool_rows), chat_template=True)
    plain = train(base=SFTTrainer, rows=plain_rows, name="plain")
    assert_equal_weights(train(All(), name="all"), plain)
    again = train(AllAgain(), name="again")
    assert len(again.selections) == 3
    assert_equal_weights(again, plain)


@pytest.mark.parametrize("more", [{"gradient_accumulation_steps": 3}, {"num_train_epochs": 2.5}, {"max_steps": 7}])
def test_whole_pool_equals_sfttrainer_with(train, assert_equal_weights, pool_rows, more):
    plain = train(base=SFTTrainer, rows=convert_pool(Pool(pool_rows), chat_template=True), name="plain", **more)
    ours = train(AllAgain(), name="again", **more)
    assert ours.state.global_step == plain.state.global_step
    assert logs_of(ours, "learning_rate") == logs_of(plain, "learning_rate")
    assert_equal_weights(ours, plain)


@pytest.mark.parametrize("strategy", ["bfd", "wrapped"])
def test_full_pool_packed_equals_sfttrainer(train, assert_equal_weights, pool_rows, strategy):
    more = {"packing": True, "packing_strategy": strategy, "per_device_train_batch_size": 1}
    plain = train(base=SFTTrainer, rows=convert_pool(Pool(pool_rows), chat_template=True), name="plain", **more)
    assert_equal_weights(train(AllAgain(), name="again", **more), plain)


def test_scoring_does_not_change_training(train, assert_equal_weights):
    scored = train(IterIT(), selection_size=8, name="scored")
    rounds = tuple(tuple(selection.indices.tolist()) for selection in scored.selections)
    assert_equal_weights(train(Replay(rounds), selection_size=8, name="replayed"), scored)


def test_rounds_train_on_their_rows(train, pool_rows):
    trainer = train(IterIT(), selection_size=8)
    assert [len(selection.indices) for selection in trainer.selections] == [8, 8, 8]
    assert trainer.state.global_step == 6
    assert sorted(trainer.train_dataset["pool_row"]) == sorted(trainer.selections[-1].indices.tolist())
    everything, window, again = logs_of(trainer, "selection_rows_scored")
    assert everything == 24 > window == again >= 8
    first, second = trainer.selections[:2]
    assert logs_of(trainer, "selection_overlap")[0] == pytest.approx(first.overlap(second), abs=1e-4)
    assert (first.scores("ifd")[first.indices] < 1).all()
    assert (second.scores("ifd") != first.scores("ifd"))[second.indices].all()


@pytest.mark.parametrize("sizes", [[8, 16, 24], [24, 16, 8], [5, 23, 9]])
def test_unequal_rounds(train, sizes):
    seen = Seen()
    trainer = train(Sizes(), selection_schedule=sizes, gradient_accumulation_steps=2, callbacks=[seen])
    updates = [math.ceil(math.ceil(size / 4) / 2) for size in sizes]
    assert seen.steps == [size for size, count in zip(sizes, updates, strict=True) for _ in range(count)]
    assert trainer.state.global_step == trainer.state.max_steps == sum(updates)
    assert trainer.lr_scheduler.get_last_lr()[0] == 0.0


def test_short_round(train, caplog):
    @dataclass(frozen=True)
    class Shrinking(Selector):
        reselects = True

        def select(self, context: RoundContext) -> np.ndarray:
            return np.flatnonzero(context.eligible)[: 16 if context.index == 0 else 5]

    trainer = train(Shrinking(), selection_size=16)
    assert trainer.state.global_step == trainer.state.max_steps == 4 + 2 + 2
    assert trainer.lr_scheduler.get_last_lr()[0] == 0.0
    assert "Round 1" in caplog.text


def test_budget_above_the_pool(train):
    with pytest.raises(SelectionError, match=r"selection_size=30 is more than the 24 of 24 rows"):
        train.make(Longest(), "bad", selection_size=30)


def test_shortfall_in_first_round(train):
    with pytest.raises(SelectionError, match=r"more than the \d+ of 24 rows that can be selected \(\d+ with ifd >= 1"):
        train(IterIT(), selection_size=24)


def test_one_selection_for_all_epochs(train):
    trainer = train(Random(), selection_size=8)
    assert len(trainer.selections) == 1
    assert trainer.state.global_step == 6


def test_reselection_can_be_switched_off(train):
    assert len(train(IterIT(), selection_size=8, reselection_strategy="no").selections) == 1


def test_malformed_rows_are_not_selected(train, pool_rows):
    rows = Dataset.from_list([*pool_rows, {"instruction": "Say nothing.", "input": "", "output": ""}])
    trainer = train(Random(), rows=rows, selection_size=24)
    assert 24 not in trainer.selections[0].indices
    assert trainer.selections[0].provenance["not_eligible"] == {"empty_response": 1}


def test_rows_without_labels_are_not_eligible(train, pool_rows):
    trainer = train(All(), max_length=40, num_train_epochs=1)
    short = trainer.selections[0]
    assert 0 < len(short.indices) < 24
    assert short.provenance["not_eligible"] == {"no_label_after_truncation": 24 - len(short.indices)}


def test_lora(train, assert_equal_weights, pool_rows):
    from peft import LoraConfig

    lora = {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.1)}
    plain = train(base=SFTTrainer, rows=convert_pool(Pool(pool_rows), chat_template=True), name="plain", **lora)
    assert_equal_weights(train(AllAgain(), name="lora", **lora), plain)


def test_plain_sft_config(tmp_path, tiny_model_dir, pool_rows):
    from trl import SFTConfig

    args = SFTConfig(str(tmp_path), bf16=False, report_to="none", learning_rate=3e-4, use_cpu=True)
    trainer = SelectiveSFTTrainer(model=str(tiny_model_dir), args=args, train_dataset=pool_rows)
    assert isinstance(trainer.args, SelectiveSFTConfig)
    assert trainer.args.learning_rate == 3e-4
    assert trainer._selector == IterIT()


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("iterit", IterIT()),
        ({"top": {"by": "ifd"}}, Top(by="ifd")),
        ({"selector": "iterit", "decay": 0.5}, IterIT(decay=0.5)),
    ],
)
def test_selector_by_name(train, selector, expected):
    assert train.make(selector, "run", selection_size=4)._selector == expected


def test_selector_of_wrong_type(train):
    with pytest.raises(ConfigError, match=r"selector has to be a Selector such as IterIT\(\), or its name, but is 3"):
        train.make(3, "run", selection_size=4)


def test_trust_remote_code(tmp_path, tiny_model_dir, pool_rows):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    code = "from transformers import PreTrainedTokenizerFast\n\nclass Mine(PreTrainedTokenizerFast):\n    pass\n"
    (folder / "tokens_of_mine.py").write_text(code)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": [None, "tokens_of_mine.Mine"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    args = SelectiveSFTConfig(str(tmp_path / "run"), trust_remote_code=True, use_cpu=True, bf16=False)
    trainer = SelectiveSFTTrainer(str(folder), args, train_dataset=pool_rows)
    assert type(trainer.processing_class).__name__ == "Mine"


def test_second_training_selects_from_the_pool(train):
    trainer = train(Random(), selection_size=8, num_train_epochs=1)
    first = trainer.selections[0].indices.tolist()
    trainer.train()
    assert [selection.indices.tolist() for selection in trainer.selections] == [first]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"selection_size": 0.05}, r"selection_size=0.05 has to be a number of rows"),
        ({"selection_size": 4, "selection_ratio": 0.1}, "same thing twice"),
        ({"selection_ratio": 5}, r"selection_ratio=5 has to be a share"),
        ({"selection_schedule": [4, 0]}, "numbers of rows above 0"),
        (
            {"selection_schedule": []},
            r"selection_schedule=\[\] has to be a list of numbers of rows above 0, one for each",
        ),
        ({"selection_schedule": 4}, r"selection_schedule=4 has to be a list"),
        ({"selection_schedule": [4, 8]}, r"2 rounds, but IterIT has 3"),
        ({"selection_schedule": [4, 8], "max_steps": 3}, "Remove max_steps"),
        ({"reselection_strategy": "epochs"}, "reselection_strategy='epochs'"),
        ({"selector": "iterrit"}, "Did you mean 'iterit'"),
        ({"selector_kwargs": {"decai": 0.1}}, "no setting 'decai'. Did you mean 'decay'"),
        ({"dataset_kwargs": {"skip_prepare_dataset": True}}, "skip_prepare_dataset"),
        ({"scoring_dtype": "fp8"}, "scoring_dtype='fp8'"),
    ],
)
def test_invalid_settings(train, settings, message):
    with pytest.raises(ConfigError, match=message):
        train.make(None, "bad", **settings)


def test_selector_passed_twice(train):
    with pytest.raises(ConfigError, match="passed twice"):
        train.make(Random(), "bad", selector="longest")


def test_streaming_pool(train, pool_rows):
    with pytest.raises(ConfigError, match="streaming"):
        train.make(Random(), "bad", rows=pool_rows.to_iterable_dataset())


def test_moved_private_names(train, monkeypatch):
    monkeypatch.setattr(SFTTrainer, "_run_epoch", lambda self, epoch: None, raising=False)
    with pytest.raises(ConfigError, match="_run_epoch has no train_dataloader"):
        train.make(Random(), "bad")


def test_evaluation_row_formats(train, pool_rows):
    trainer = train(IterIT(), selection_size=8, eval_dataset=pool_rows.select(range(4)), eval_strategy="epoch")
    assert len(logs_of(trainer, "eval_loss")) == 3


def test_evaluate_row_formats(train, pool_rows):
    rows = pool_rows.select(range(4))
    trainer = train(Random(), selection_size=8, num_train_epochs=1, eval_dataset=rows)
    there = trainer.evaluate()["eval_loss"]
    assert trainer.evaluate(rows)["eval_loss"] == there
    assert trainer.evaluate({"held_out": rows})["eval_held_out_loss"] == there
    texts = list(zip(rows["instruction"], rows["output"], strict=True))
    shared = [[{"from": "human", "value": asked}, {"from": "gpt", "value": said}] for asked, said in texts]
    chats = [[{"role": "user", "content": asked}, {"role": "assistant", "content": said}] for asked, said in texts]
    sets = Dataset.from_dict({"conversations": shared}), Dataset.from_dict({"messages": chats})
    assert trainer.evaluate(sets[0])["eval_loss"] == trainer.evaluate(sets[1])["eval_loss"]


@pytest.mark.parametrize("epochs", [0, -1, 0.5])
def test_max_steps_overrides_epochs(train, epochs):
    trainer = train(IterIT(), selection_size=8, max_steps=3, num_train_epochs=epochs)
    assert trainer.state.global_step == 3


@pytest.mark.filterwarnings("ignore:`return_outputs=True`:FutureWarning")
@pytest.mark.parametrize("more", [{}, {"packing": True}], ids=["plain", "packing"])
def test_predict(train, pool_rows, more):
    rows = pool_rows.select(range(6, -1, -1))
    trainer = train(Random(), selection_size=8, num_train_epochs=1, shuffle_dataset=True, **more)
    done = trainer.predict(rows, metric_key_prefix="held_out")
    labels = dict(zip(trainer._data.prepared.rows.tolist(), trainer._candidates["labels"], strict=True))
    found = [[token for token in line if token != -100] for line in done.label_ids.tolist()]
    assert found == [[token for token in labels[at] if token != -100] for at in range(6, -1, -1)]
    assert done.metrics["held_out_loss"] > 0
    prepared = trainer.train_dataset.select([0])
    assert len(trainer.predict(prepared).label_ids) == 1


@pytest.mark.parametrize("by_hand", [False, True])
def test_streaming_evaluation_rows(train, pool_rows, by_hand):
    as_they_are = convert_pool(Pool(pool_rows.select(range(4))), chat_template=True)

    def evaluated(rows: Any) -> float:
        trainer = train.make(Random(), "run", selection_size=8, eval_dataset=None if by_hand else rows)
        return float((trainer.evaluate(rows) if by_hand else trainer.evaluate())["eval_loss"])

    assert evaluated(as_they_are.to_iterable_dataset()) == pytest.approx(evaluated(as_they_are))
    unnamed = IterableDataset.from_generator(lambda: iter(pool_rows.select(range(4))))
    for stream in (pool_rows.select(range(4)).to_iterable_dataset(), unnamed):
        assert evaluated(stream) == pytest.approx(evaluated(as_they_are))


def test_the_best_model_is_loaded_at_the_end(train, pool_rows):
    trainer = train(
        IterIT(),
        selection_size=8,
        eval_dataset=pool_rows.select(range(4)),
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
    )
    assert trainer.state.best_metric == min(logs_of(trainer, "eval_loss"))


def test_training_metrics(train):
    trainer = train(IterIT(), selection_size=8)
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [1, 2, 3, 4, 5, 6]
    assert all("loss" not in entry for entry in trainer.state.log_history if "selection_round" in entry)


@pytest.mark.parametrize("workers", [2])
def test_persistent_workers(train, workers):
    trainer = train(IterIT(), selection_size=8, dataloader_num_workers=workers, dataloader_persistent_workers=True)
    assert multiprocessing.active_children() == []
    assert sorted(trainer.train_dataset["pool_row"]) == sorted(trainer.selections[-1].indices.tolist())


@pytest.mark.slow
def test_bf16_scoring_dtype(train, tmp_path, pool_rows, caplog):
    trainer = train(
        IterIT(),
        selection_size=8,
        num_train_epochs=2,
        save_strategy="epoch",
        bf16=True,
        gradient_checkpointing=True,
    )
    assert "LM head" not in caplog.text
    second = trainer.selections[1].scores("ifd")
    fresh = score(pool_rows, [IFD(str(tmp_path / "run" / "checkpoint-2"), max_length=128)])
    window = ~np.isnan(second)
    np.testing.assert_allclose(second[window], np.array(fresh["ifd"][:], dtype=float)[window], rtol=1e-5)


@pytest.mark.parametrize("epochs", [1.1, 1.3, 2.1])
def test_partial_epochs(train, assert_equal_weights, pool_rows, epochs):
    rows = pool_rows.select(range(20))
    more = {"num_train_epochs": epochs, "per_device_train_batch_size": 2}
    plain = train(base=SFTTrainer, rows=convert_pool(Pool(rows), chat_template=True), name="plain", **more)
    ours = train(AllAgain(), rows=rows, name="ours", **more)
    assert ours.state.global_step == plain.state.global_step
    assert_equal_weights(ours, plain)


def test_growing_schedule(train):
    trainer = train(IterIT(candidate_factor=1), selection_schedule=[2, 4, 8])
    assert [len(selection.indices) for selection in trainer.selections] == [2, 4, 8]


def test_shorter_run_removes_later_rounds(train, tmp_path):
    train(IterIT(), name="run", selection_size=8)
    train(Random(), name="run", selection_size=8, num_train_epochs=1)
    assert [path.name for path in (tmp_path / "run" / "selections").iterdir()] == ["round-0"]


def test_provenance_of_scores(train):
    [first, *_] = train(IterIT(), selection_size=8).selections
    [spec] = first.provenance["scores"]
    assert spec["tokens"]["max_length"] == 128
    assert spec["computed"]["weights_dtype"] == "torch.float32"
    assert len(spec["tokens"]["tokenizer"]) == 64


def test_rows_are_converted_in_several_processes(train, monkeypatch):
    seen, original = [], Dataset.map

    def mapped(self, *args, **options):
        seen.append((options.get("desc"), options.get("num_proc")))
        return original(self, *args, **options)

    monkeypatch.setattr(Dataset, "map", mapped)
    train.make(Random(), "run", dataset_num_proc=2)
    assert ("Converting alpaca rows", 2) in seen
