"""`selection_order`: the rows that the model sees at each step, in order."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trl import SFTTrainer

from hf_datasel import SelectiveSFTConfig, SelectiveSFTTrainer
from hf_datasel.cards.build import gather, read_run
from hf_datasel.cards.card import page
from hf_datasel.cards.sections.training import describe_order
from hf_datasel.errors import ColumnError, ConfigError, ModelError, ResumeError
from hf_datasel.formats import Pool, convert_pool
from hf_datasel.rounds.cache import RoundCache
from hf_datasel.scores import IFD, Loss
from hf_datasel.scoring.engine import Engine
from hf_datasel.scoring.score_rows import score
from hf_datasel.selectors import IterIT, Random, Top
from hf_datasel.training.run_identity import check_identity

TOP = Top(by="quality")
PASS = {"selection_size": 10, "num_train_epochs": 2}


class Ordered(SelectiveSFTTrainer):
    """Notes the rows of each batch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.batches: list[list[int]] = []
        self.row_of = {tuple(row["input_ids"]): row["pool_row"] for row in self._candidates}

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        lines = zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
        self.batches.append([self.row_of[tuple(ids[mask].tolist())] for ids, mask in lines])
        return super().training_step(model, inputs, *args, **kwargs)

    def passes(self) -> list[list[int]]:
        """Rows of each epoch in the order in which the model saw them."""
        rows = list(itertools.chain(*self.batches))
        size = len(self.selections[-1].indices)
        return [rows[start : start + size] for start in range(0, len(rows), size)]


@pytest.fixture
def rows(pool_rows):
    """Rows with a quality, a difficulty that three of the best ten rows do not have, and three stages."""
    quality = np.random.default_rng(0).permutation(24)
    best = np.argsort(-quality)[:10].tolist()
    difficulty: list[float | None] = np.random.default_rng(1).permutation(24).astype(float).tolist()
    for row in best[2:9:3]:
        difficulty[row] = None
    rows = pool_rows.add_column("quality", quality.tolist()).add_column("difficulty", difficulty)
    return rows.add_column("stage", [2**60 + row % 3 for row in range(24)])


@pytest.fixture
def order(train, rows):
    def run(selection_order: Any, selector: Any = TOP, **more: Any) -> Ordered:
        return train(selector, base=Ordered, rows=rows, selection_order=selection_order, **{**PASS, **more})

    return run


def best_rows(rows: Any) -> list[int]:
    return sorted(range(24), key=lambda row: -rows[row]["quality"])[:10]


def by_difficulty(rows: Any, reverse: bool = False) -> tuple[list[int], list[int]]:
    """Return the selected rows with a difficulty, sorted by it, and those without one, best first."""
    best, values = best_rows(rows), rows["difficulty"]
    missing = [row for row in best if values[row] is None]
    return sorted(set(best) - set(missing), key=lambda row: values[row], reverse=reverse), missing


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        {"dataloader_num_workers": 2},
        {"train_sampling_strategy": "sequential"},
    ],
    ids=["plain", "accumulation", "workers", "sequential"],
)
def test_order_of_the_selection(order, rows, more):
    assert order("selected", **more).passes() == [best_rows(rows)] * 2


def test_reversed(order, rows):
    trainer = order("reversed")
    assert trainer.passes() == [best_rows(rows)[::-1]] * 2
    assert trainer.selections[0].indices.tolist() == best_rows(rows)
    assert trainer.train_dataset["pool_row"] == best_rows(rows)[::-1]


def test_rows_without_a_value_come_last(order, rows, caplog):
    trainer = order({"by": "difficulty"})
    expected, missing = by_difficulty(rows)
    assert len(missing) == 3
    assert trainer.passes() == [expected + missing] * 2
    assert (
        "Round 0: 3 of 10 rows have no value of 'difficulty' to order them by. The round trains on them last."
        in caplog.text
    )
    assert trainer.state.log_history[0]["selection_rows_without_order"] == 3


def test_folded(order, rows):
    hardest_first, missing = by_difficulty(rows, reverse=True)
    trainer = order({"by": "difficulty", "pattern": "folded", "folds": 3, "descending": True})
    folds = [hardest_first[fold::3] for fold in range(3)]
    assert trainer.passes() == [[*itertools.chain(*folds), *missing]] * 2
    assert order({"pattern": "folded", "folds": 2}).passes()[0] == best_rows(rows)[::2] + best_rows(rows)[1::2]


def test_segmented(order, rows):
    first, second = order({"by": "difficulty", "pattern": "segmented", "segments": 2}).passes()
    easy_first, missing = by_difficulty(rows)
    assert first != second
    for seen in (first, second):
        assert sorted(seen[:4]) == sorted(easy_first[:4])
        assert sorted(seen[4:7]) == sorted(easy_first[4:])
        assert seen[7:] == missing
    assert first != [*easy_first, *missing]


def test_a_segment_for_each_value(order, rows):
    """Stages that float64 cannot tell apart are trained on one after the other, each shuffled."""
    passes = order({"by": "stage", "pattern": "segmented"}).passes()
    for seen in passes:
        assert [row % 3 for row in seen] == sorted(row % 3 for row in best_rows(rows))
        assert sorted(seen) == sorted(best_rows(rows))
    assert passes[0] != passes[1]


def test_another_seed_shuffles_otherwise(order):
    setting = {"pattern": "segmented", "segments": 1}
    assert order(setting).passes() == order(setting).passes()
    assert order(setting).passes() != order(setting, data_seed=7).passes()


def test_equals_sfttrainer_on_sorted_rows(train, order, rows, assert_equal_weights):
    """Training in the order of the selection is what `SFTTrainer` does with these rows in this order."""
    subset = convert_pool(Pool(rows.select(best_rows(rows))), chat_template=True)
    more = {"train_sampling_strategy": "sequential", "num_train_epochs": 2}
    assert_equal_weights(order("selected"), train(base=SFTTrainer, rows=subset, name="plain", **more))


def test_random_is_the_default(order, train, rows, assert_equal_weights):
    assert_equal_weights(order("random"), train(TOP, rows=rows, name="default", **PASS))


# -- scores -----------------------------------------------------------------------------------------------------------
def test_score_of_each_round(order, rows, tmp_path):
    """Each round is ordered by the model as it is at its beginning."""
    trainer = order(
        {"by": {"score": "loss"}, "descending": True},
        IterIT(),
        save_strategy="epoch",
        selection_size=8,
        max_length=128,
    )
    second = trainer.selections[1].indices
    checkpoint = str(tmp_path / "run" / f"checkpoint-{trainer._schedule.records[1].start}")
    losses = np.array(score(rows, [Loss(checkpoint, max_length=128)])["loss"][:])
    assert trainer.passes()[1] == sorted(second.tolist(), key=lambda row: -losses[row])


def test_scores_are_computed_once(order, monkeypatch):
    scored: list[tuple[str, int | None]] = []
    original = Engine.compute

    def compute(self: Engine, score: Any, indices: Any = None) -> Any:
        if indices is None or len(indices):
            scored.append((type(score).__name__, None if indices is None else len(indices)))
        return original(self, score, indices)

    monkeypatch.setattr(Engine, "compute", compute)
    order({"by": {"score": "ifd"}}, IterIT(), selection_size=8)
    assert scored[0] == ("IFD", None)  # the whole pool in the first round, a window in the second
    assert len(scored) == 2
    scored.clear()
    ordered_at_random = order({"by": IFD()}, Random(), selection_size=8)
    assert scored == [("IFD", 8)]
    assert ordered_at_random.selections[0].score_columns == []  # the order is no part of the selection


def test_values_are_computed_for_other_rows_only(pool_rows):
    seen: list[list[int]] = []

    def compute(score: Any, rows: Any) -> Any:
        import pyarrow as pa

        seen.append(rows.tolist())
        return {"loss": pa.array([row / 2 for row in rows], pa.float32())}

    cache = RoundCache(Pool(pool_rows), compute, lambda score: score.spec())
    cache.score(Loss(), np.array([3, 1]))
    cache.score(Loss(), np.array([8]))
    assert cache.values(Loss(), np.array([8, 2, 3, 5])).tolist() == [4.0, 1.0, 1.5, 2.5]
    assert seen == [[3, 1], [8], [2, 5]]


# -- resuming ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("setting", "more"),
    [
        ({"by": {"score": "loss"}, "pattern": "segmented", "segments": 2}, {"gradient_accumulation_steps": 2}),
        ("selected", {"packing": True, "packing_strategy": "wrapped", "max_length": 100}),
    ],
    ids=["segmented", "packed"],
)
def test_resume_in_mid_epoch(train, resumed, rows, setting, more):
    settings = {
        "rows": rows,
        "selection_order": setting,
        "selection_size": 10,
        "per_device_train_batch_size": 2 if "packing" not in more else 1,
        "num_train_epochs": 2,
        "save_strategy": "steps",
        "save_steps": 1,
        **more,
    }
    whole = train(IterIT(), name="whole", **settings)
    per_pass = whole._schedule.records[0].per_pass
    assert per_pass > 2
    for again in resumed(whole, IterIT(), steps=(1, per_pass, per_pass + 1), **settings):
        assert again.train_dataset["input_ids"] == whole.train_dataset["input_ids"]


def test_resume_in_another_order(train, rows, tmp_path):
    settings = {"rows": rows, "save_strategy": "steps", "save_steps": 1, **PASS}
    setting = {"by": "difficulty", "pattern": "folded", "folds": 2}
    train(TOP, selection_order=setting, **settings)
    checkpoint = tmp_path / "run" / "checkpoint-1"
    with pytest.raises(ResumeError, match=r"selection_order differ \(folds: 2 in the checkpoint, 3 in this run\)"):
        train(TOP, selection_order={**setting, "folds": 3}, resume=str(checkpoint), **settings)
    values = rows["difficulty"][::-1]
    settings["rows"] = rows.remove_columns("difficulty").add_column("difficulty", values)
    with pytest.raises(ResumeError, match="selected or ordered by column 'difficulty', which has other values now"):
        train(TOP, selection_order=setting, resume=str(checkpoint), **settings)


def test_checkpoints_without_the_setting_have_a_random_order():
    path, saved = Path("checkpoint-1"), {"arguments": {}}
    check_identity(path, saved, {"selection_order": "random", **saved}, "")
    with pytest.raises(ResumeError, match=r"\(random in the checkpoint, selected in this run\)"):
        check_identity(path, saved, {"selection_order": "selected", **saved}, "")


def test_lora(order, rows):
    from peft import LoraConfig

    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.1)
    trainer = order({"by": {"score": "loss"}}, Random(), peft_config=lora, num_train_epochs=1)
    frozen = np.array(score(rows, [Loss(max_length=128)], **_untrained(trainer))["loss"][:])
    assert trainer.passes()[0] == sorted(trainer.selections[0].indices.tolist(), key=lambda row: frozen[row])


def _untrained(trainer: Any) -> dict[str, Any]:
    """Return the base model and tokenizer of a trainer with an adapter."""
    return {"model": trainer.model.unload(), "processing_class": trainer.processing_class}


def test_packed_in_order(train, rows):
    more = {"packing": True, "packing_strategy": "wrapped", "max_length": 100, "per_device_train_batch_size": 1}
    trainer = train(TOP, rows=rows, selection_order="selected", **more, **PASS)
    tokens = {row["pool_row"]: row["input_ids"] for row in trainer._candidates}
    packed = list(itertools.chain(*trainer.train_dataset["input_ids"]))
    assert packed == [token for row in best_rows(rows) for token in tokens[row]]


# -- refusals ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("setting", "more", "match"),
    [
        ("best", {}, "selection_order='best': it has to be 'random', 'selected' or 'reversed'"),
        (3, {}, "selection_order=3 has to be one of random, selected, reversed, or a mapping such as"),
        ({"pattern": "sortd"}, {}, "pattern='sortd': .* Did you mean 'sorted'"),
        ({"fold": 2}, {}, "selection_order has no key 'fold'. Did you mean 'folds'"),
        ({"pattern": "folded"}, {}, "pattern='folded' needs folds, an int above 0, but it is None"),
        ({"folds": 2}, {}, "folds=2 needs pattern='folded', but it is 'sorted'"),
        ({"pattern": "segmented"}, {}, "pattern='segmented' needs segments, an int above 0, but it is None"),
        ({"descending": "yes"}, {}, "descending='yes' has to be True or False"),
        ({"by": 3}, {}, "by=3 has to be the name of a column, or a score"),
        ({"by": {"score": "los"}}, {}, "There is no score 'los'. Did you mean 'loss'"),
        ({"by": {"score": "cluster"}}, {}, "cluster gives a row no number of its own"),
        ({"by": {"score": "my_lab:Mine"}}, {}, "is code outside hf_datasel. Compute it, and name its column"),
        (
            "selected",
            {"packing": True},
            "packing_strategy='bfd', which sorts rows .*='wrapped', which packs them in order",
        ),
        (
            {"pattern": "segmented", "segments": 2},
            {"packing": True, "packing_strategy": "wrapped"},
            "shuffles rows in every epoch, but packing joins them once per round",
        ),
        ("reversed", {"shuffle_dataset": True}, "shuffle_dataset=True contradict each other"),
        ("selected", {"train_sampling_strategy": "group_by_length"}, "'group_by_length', which orders by length"),
    ],
)
def test_settings_that_are_refused(tmp_path, setting, more, match):
    with pytest.raises(ConfigError, match=match):
        SelectiveSFTConfig(str(tmp_path), use_cpu=True, bf16=False, selection_order=setting, **more)


@pytest.mark.parametrize(
    ("by", "error", "match"),
    [
        ("dificulty", ColumnError, "selection_order needs column 'dificulty'.* Did you mean 'difficulty'"),
        ("output", ColumnError, "Column 'output' holds string"),
        ({"score": "loss", "model": "no/such-model"}, ModelError, "no/such-model"),
        ("loss", ColumnError, r'Did you mean \{"score": "loss"\}'),
        ("none", ColumnError, "column 'none' has no value in any of the 24 rows"),
    ],
)
def test_what_is_missing_is_said_before_training(train, rows, by, error, match):
    rows = rows.add_column("none", [None] * 24)
    with pytest.raises(error, match=match):
        train.make(TOP, "run", rows=rows, selection_order={"by": by}, **PASS)


@pytest.mark.parametrize("setting", [{"pattern": "folded", "folds": 11}, {"pattern": "segmented", "segments": 11}])
def test_more_parts_than_rows(train, rows, setting):
    with pytest.raises(ConfigError, match="s=11 is more than the 10 rows of a round"):
        train.make(TOP, "run", rows=rows, selection_order=setting, **PASS)


# -- records ----------------------------------------------------------------------------------------------------------
def test_order_is_recorded(train, rows, tmp_path):
    text = json.dumps({"by": {"score": "loss"}, "pattern": "folded", "folds": 3})  # as on the command line
    trainer = train(Random(), rows=rows, selection_order=text, **PASS)
    assert trainer.selections[0].provenance["training"]["settings"]["selection_order"] == json.loads(text)
    trainer.save_state()
    trainer.create_model_card("model")
    selections, run = read_run(tmp_path / "run")
    card = page(gather(selections, rows, title="x", training=run))
    for written in ((tmp_path / "run" / "README.md").read_text(), card):
        assert (
            "In every epoch, the rows were trained on in the order of `loss`, lowest first and rows without a value "
            "last, dealt into 3 folds that follow one another."
        ) in written
    assert "rows were scored only to order them" in card
    assert re.search(r"Models processed .* tokens.*, to order them\.", card)
    assert "another model would select other rows" not in card
    assert "| `selection_order` | `by: loss, pattern: folded, folds: 3` |" in card


def test_a_column_that_orders_rows_is_recorded(train, rows):
    trainer = train(Random(), rows=rows, selection_order={"by": "stage", "pattern": "segmented"}, **PASS)
    assert trainer.selections[0].provenance["columns_unverified"] == ["stage"]
    card = page(gather(trainer.selections, rows, title="x"))
    assert "Column 'stage' has to be in the dataset. How it was computed is not recorded." in card


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("random", ""),
        ("selected", "of the selection, best first."),
        ({"descending": True, "pattern": "folded", "folds": 2}, "of the selection, best last, dealt into 2 folds"),
        ({"by": "stage", "pattern": "segmented"}, "of `stage`, lowest first and rows without a value last, shuffled"),
        ({"by": "stage", "pattern": "segmented", "segments": 4, "descending": True}, "shuffled within 4 segments."),
    ],
)
def test_order_in_words(setting, expected):
    assert expected in describe_order(setting)
