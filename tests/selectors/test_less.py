import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from hf_datasel import Selection, load_pool, select
from hf_datasel.cards.build import gather
from hf_datasel.cards.card import card
from hf_datasel.errors import ColumnError, ConfigError, FormatError, SelectionError
from hf_datasel.formats import Pool, convert_pool
from hf_datasel.rounds.cache import RoundCache
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.rounds.run import run_round, run_selector
from hf_datasel.scores import Influence
from hf_datasel.scoring import models
from hf_datasel.scoring.engine import Engine
from hf_datasel.selection.explanation import explain
from hf_datasel.selection.provenance import without_paths
from hf_datasel.selectors import LESS, LESSTop, Random, get_selector
from hf_datasel.testing import contract
from hf_datasel.tokens import TokenSettings


@pytest.fixture(scope="module")
def validation(tmp_path_factory, pool_rows):
    """Give the path of five rows of two subtasks."""
    path = tmp_path_factory.mktemp("validation") / "rows.jsonl"
    pool_rows.select(range(16, 21)).add_column("task", list("babab")).to_json(path)
    return str(path)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, tiny_model_dir, pool_rows):
    """Give what two epochs of SFTTrainer leave, with an adapter, on eight rows."""
    folder = tmp_path_factory.mktemp("warm_up")
    config = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=2,
        per_device_train_batch_size=4,
        logging_steps=1,
        save_strategy="epoch",
        learning_rate=1e-2,
        report_to="none",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    data = convert_pool(Pool(pool_rows.select(range(8))), chat_template=True)
    adapter = LoraConfig(r=2, target_modules=["q_proj", "v_proj", "down_proj"])
    SFTTrainer(model=str(tiny_model_dir), args=config, train_dataset=data, peft_config=adapter).train()
    return [folder / "checkpoint-2", folder / "checkpoint-4"]


@pytest.fixture
def less(validation):
    return LESS(validation=validation, subtask="task", projection_dim=32, warmup_epochs=2, warmup_ratio=0.3)


@pytest.fixture
def play(pool_rows):
    """Give a function that makes a round over the pool, as the trainer does."""
    pool = Pool(pool_rows)

    def make(index, budget, settings=None, **more):
        engine = Engine(pool, settings=settings)
        return RoundContext(
            RoundCache(pool, engine.compute, engine.describe),
            budget=budget,
            index=index,
            eligible=np.ones(24, dtype=bool),
            **more,
        )

    return make


@contract(LESS(validation="to be named", warmup_ratio=1.0))
def test_contract(check, selector, full, validation):
    check(replace(selector, validation=validation), full)


# -- the warm-up -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "rows"),
    [({}, 260), ({"warmup_ratio": 0.29}, 1508), ({"warmup_size": 1000}, 1000), ({"warmup_ratio": 1e-6}, 1)],
)
def test_a_share_of_the_pool_for_four_epochs_with_a_checkpoint_each(settings, rows):
    plan = LESS(validation="bbh.jsonl", **settings).plan(300, 3.0, 5200)
    first = RoundPlan(rows, 4, checkpoints=True, kind="warm-up")
    assert plan == (first, RoundPlan(300, 3.0, restart=True))


def test_the_warm_up_is_drawn_at_random(less, play):
    budget = less.plan(5, 1.0, 24)[0].budget
    assert budget == 7
    selected = run_round(less, play(0, budget))
    assert selected.tolist() == run_selector(Random(), play(0, budget)).tolist()
    assert selected.tolist() != run_round(less, play(0, budget, seed=1)).tolist()


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"validation": "nothing.jsonl"}, FormatError, r"There is no file or folder 'nothing\.jsonl'"),
        ({"subtask": "tasc"}, ColumnError, r"Did you mean 'task'\?"),
    ],
)
def test_a_target_that_cannot_be_read_is_found_before_the_warm_up(less, play, settings, error, match):
    with pytest.raises(error, match=match):
        replace(less, **settings).check_later_rounds(play(0, 7))


# -- the selection ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("more", [{}, {"aggregate": "mean", "subtask": None, "seed": 3, "learning_rates": [1, 5]}])
def test_second_round_is_less_top(less, play, pool_rows, checkpoints, more):
    less = replace(less, **more)
    context = play(1, 6, checkpoints=checkpoints, selected=np.arange(7))
    selected = run_round(less, context)
    settings = {"subtask": "task", "projection_dim": 32, "validation": less.validation} | more
    alone = LESSTop(by=Influence(checkpoints=tuple(map(str, checkpoints)), **settings))
    expected = select(pool_rows, alone, size=6)
    assert selected.tolist() == expected.indices.tolist()
    assert context.record.scored["influence"][1].to_numpy() == pytest.approx(expected.scores("influence"), abs=1e-6)
    assert len(context.record.scored["influence"][0]) == 24, "the whole pool, the rows of the warm-up too"


def test_the_record_names_the_checkpoints_and_nothing_of_the_machine(less, play, pool_rows, checkpoints, tmp_path):
    less = replace(less, gradients=str(tmp_path / "kept"))
    rounds = [play(0, 7), play(1, 6, checkpoints=checkpoints)]
    found = [Selection.from_round(each, less, run_round(less, each)) for each in rounds]
    for each in found:
        each.provenance = without_paths(each.provenance)
    [spec] = found[1].provenance["scores"]
    assert list(spec["checkpoints"]) == ["checkpoint-2", "checkpoint-4"]
    assert len(spec["resolved_learning_rates"]) == 2
    facts = gather(found, pool_rows, title="x")
    for folder in (checkpoints[0].parent, Path(less.validation).parent, tmp_path):
        assert str(folder) not in json.dumps([each.provenance for each in found])
        assert str(folder) not in json.dumps(facts)
    text = card(facts)
    assert "**LESS with warm-up.** Rows with the highest influence" in text
    assert "{'" not in text
    assert "xia2024less" in facts["method"]["citation"]


def test_it_can_be_explained_when_the_checkpoints_are_gone(less, play, pool_rows, checkpoints):
    less = replace(less, learning_rates=(1, 5))
    rounds = [play(0, 7), play(1, 6, checkpoints=checkpoints)]
    found = [Selection.from_round(each, less, run_round(less, each)) for each in rounds]
    [warm_up, choice] = [explain(each, pool_rows, int(each.indices[0]))["decided"] for each in found]
    assert warm_up == ["These are the rows of the warm-up.", "Rows were drawn at random, with seed 0."]
    assert choice[0].startswith(
        "Of the 24 rows to select from 0 have a higher influence; the lowest that was selected"
    )


@pytest.mark.parametrize("kept", [0, 1])
def test_missing_checkpoints(less, play, checkpoints, kept):
    with pytest.raises(
        SelectionError,
        match=rf"Round 1 of LESS needs the checkpoints of its warm-up, one per epoch: {kept} of 2 exist\. "
        r"SelectiveSFTTrainer .*LESSTop\(by=Influence",
    ):
        run_round(less, play(1, 6, checkpoints=checkpoints[:kept]))


# -- the model in training -------------------------------------------------------------------------------------------
@pytest.fixture
def beside(pool_rows, tiny_model_dir):
    """Give a function that makes a round beside a live model, whose base can be another than the one on disk."""
    pool, tokenizer = Pool(pool_rows), AutoTokenizer.from_pretrained(tiny_model_dir)

    def make(index, dtype=torch.float32, adapter=True, name=None, **more):
        model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=dtype)
        if name is not None:
            model.name_or_path = model.config._name_or_path = name
        for key, value in more.pop("attributes", {}).items():
            setattr(model, key, value)
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])) if adapter else model
        engine = Engine(pool, model, tokenizer, settings=TokenSettings(completion_only_loss=True))
        return RoundContext(
            RoundCache(pool, engine.compute, engine.describe),
            budget=6,
            index=index,
            eligible=np.ones(24, dtype=bool),
            **more,
        )

    return make


def loaded(monkeypatch):
    """The dtypes of the models that are loaded from now on."""
    seen, plain = [], models.load_model

    def read(loading):
        model = plain(loading)
        seen.append(str(model.dtype))
        return model

    monkeypatch.setattr(models, "load_model", read)
    return seen


@pytest.mark.parametrize("adapter", [True, False])
@pytest.mark.parametrize(
    ("given", "live", "expected"),
    [("auto", torch.float32, "float32"), ("auto", torch.bfloat16, "bfloat16"), ("float32", torch.bfloat16, "float32")],
)
def test_checkpoints_have_the_dtype_of_the_model_in_training(
    less, beside, checkpoints, monkeypatch, adapter, given, live, expected
):
    seen = loaded(monkeypatch)
    context = beside(1, live, adapter, checkpoints=checkpoints)
    run_round(replace(less, dtype=given), context)
    assert seen == [f"torch.{expected}"] * 2
    [spec] = context.record.score_specs
    assert (spec["score"], spec["dtype"]) == ("influence", expected)


def test_without_a_model_in_training_it_is_that_of_the_files(less, play, checkpoints, monkeypatch):
    seen, context = loaded(monkeypatch), play(1, 6, checkpoints=checkpoints)
    run_round(less, context)
    assert seen == ["torch.float32"] * 2
    assert context.record.score_specs[0]["dtype"] == "auto"


def test_the_other_arguments_are_those_of_the_setting(less, beside, checkpoints):
    less = replace(less, model_init_kwargs={"attn_implementation": "eager", "token": "secret"})
    context = beside(1, checkpoints=checkpoints)
    run_round(less, context)
    assert context.record.score_specs[0]["model_init_kwargs"] == {"attn_implementation": "eager"}
    assert less.spec()["model_init_kwargs"] == {"attn_implementation": "eager"}
    assert "secret" not in str(Selection.from_round(context, less, np.arange(6)).provenance)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"name": ""}, r"LESS loads the base model of its adapters again by name, and the model in training has none"),
        (
            {"name": "/no/such/folder"},
            r"that of the model in training cannot be found\. No model '/no/such/folder'",
        ),
        ({"attributes": {"is_quantized": True}}, r"quantized when '.*' was loaded: pass model_init_kwargs=.* to LESS"),
    ],
)
def test_a_base_that_cannot_be_loaded_again_is_found_before_the_warm_up(less, beside, more, match):
    with pytest.raises(ConfigError, match=match):
        less.check_later_rounds(beside(0, **more))
    less.check_later_rounds(beside(0, adapter=False, **more))  # a checkpoint is the whole model


def test_a_quantized_base_that_comes_back_quantised(less, beside):
    attributes = {"is_quantized": True, "hf_quantizer": SimpleNamespace(pre_quantized=True)}
    less.check_later_rounds(beside(0, attributes=attributes))
    given = replace(less, model_init_kwargs={"quantization_config": {"load_in_4bit": True}})
    given.check_later_rounds(beside(0, attributes={"is_quantized": True}))


def test_settings_of_training_under_which_nothing_can_be_read(less, tmp_path):
    def args(**settings):
        return TrainingArguments(str(tmp_path), use_cpu=True, bf16=False, **settings)

    less.check_training(args(optim="adamw_torch"))
    less.check_training(args(optim="adamw_torch_fused", learning_rate=1e-9))
    with pytest.raises(
        ConfigError, match="LESS reads the optimizer's state in checkpoints: leave save_only_model out"
    ):
        less.check_training(args(save_only_model=True))
    with pytest.raises(ConfigError, match=r"optim='adafactor' does not save them: make it one of 'adamw_torch', "):
        less.check_training(args(optim="adafactor"))
    with pytest.raises(ConfigError, match=r"LESS weighs its checkpoints .*learning_rate=0 .*make it more than 0"):
        less.check_training(args(learning_rate=0.0))


# -- rows as the trainer cuts them -----------------------------------------------------------------------------------
def test_rows_are_cut_where_the_trainer_cuts_them(less, play, pool_rows, checkpoints):
    short = replace(less.influence(list(map(str, checkpoints))), max_length=48)
    expected = select(pool_rows, LESSTop(by=short), size=6)
    settings = TokenSettings(max_length=48, completion_only_loss=True)
    context = play(1, 6, settings, checkpoints=checkpoints)
    selected = run_round(less, context)
    found = context.record.scored["influence"][1].to_numpy(zero_copy_only=False)
    np.testing.assert_allclose(found, expected.scores("influence"), atol=1e-6)
    assert selected.tolist() == expected.indices.tolist()
    assert np.isnan(found).any(), "or nothing was cut"
    assert context.record.score_specs[0]["tokens"]["max_length"] == 48
    whole = play(1, 6, checkpoints=checkpoints)
    run_round(less, whole)
    assert not np.allclose(found, whole.record.scored["influence"][1].to_numpy(), atol=1e-4, equal_nan=True)
    assert whole.record.score_specs[0]["tokens"]["max_length"] == 1024


def test_a_target_of_chats_for_a_pool_of_prompts(less, play, checkpoints, tmp_path):
    rows = load_pool(less.validation)
    chats = [
        {
            "messages": [
                {"role": "user", "content": row["instruction"]},
                {"role": "assistant", "content": row["output"]},
            ]
        }
        for row in rows
        if not row["input"]
    ]
    (tmp_path / "chats.jsonl").write_text("\n".join(json.dumps(each) for each in chats))
    given = [{"instruction": row["instruction"], "output": row["output"]} for row in rows if not row["input"]]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(each) for each in given))
    found = []
    for name in ("chats", "rows"):
        context = play(1, 6, TokenSettings(completion_only_loss=True), checkpoints=checkpoints)
        run_round(replace(less, validation=str(tmp_path / f"{name}.jsonl"), subtask=None), context)
        found.append(context.record.scored["influence"][1].to_numpy())
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


# -- settings --------------------------------------------------------------------------------------------------------
def test_by_name_and_back():
    settings = {"validation": "bbh.jsonl", "subtask": "task", "warmup_epochs": 2, "learning_rates": [2, 1]}
    made = get_selector("less", settings)
    assert made == LESS(validation="bbh.jsonl", subtask="task", warmup_epochs=2, learning_rates=(2.0, 1.0))
    spec = json.loads(json.dumps(made.spec()))
    assert get_selector(spec.pop("selector"), spec) == made


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"validation": ""}, r"validation=''\): it has to be a text"),
        ({"aggregate": "papr"}, r"Did you mean 'paper'\?"),
        ({"projection_dim": 0}, "projection_dim=0"),
        ({"seed": -1}, "seed=-1"),
        ({"warmup_epochs": 1.5}, r"LESS\(warmup_epochs=1\.5\): it has to be an int from 1 to 1000"),
        ({"warmup_ratio": 0}, r"LESS\(warmup_ratio=0\): .* above 0 and at most 1"),
        ({"warmup_size": 0}, r"LESS\(warmup_size=0\)"),
        ({"warmup_size": 5, "warmup_ratio": 0.1}, "leave one of them out"),
        ({"dtype": "bfloat61"}, "dtype='bfloat61'"),
        ({"model_init_kwargs": {"dtype": "auto"}}, r"model_init_kwargs\['dtype'\]"),
        ({"learning_rates": (1.0, 2.0)}, "one number of at least 0 for each of the 4 checkpoints"),
    ],
)
def test_what_it_refuses(settings, match):
    with pytest.raises(ConfigError, match=match):
        LESS(**{"validation": "bbh.jsonl", **settings})
