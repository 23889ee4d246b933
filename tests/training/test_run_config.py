"""The recipe that a selection keeps of the run that made it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig
from transformers import BitsAndBytesConfig, TrainerCallback, TrainingArguments
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig, get_peft_config, get_quantization_config

from hf_datasel import Selection, SelectiveSFTConfig, SelectiveSFTTrainer
from hf_datasel.cards.sections.reproduce import as_command
from hf_datasel.cli import main
from hf_datasel.cli.arguments import parse
from hf_datasel.cli.train import TrainArguments
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import Selector
from hf_datasel.scores import Cluster, Embedding, Length, Loss, Reward, RewardGap
from hf_datasel.selectors import (
    Chain,
    Cherry,
    DiverseEvol,
    InRange,
    IterativeKMQ,
    IterIT,
    Longest,
    NoNearDuplicates,
    Random,
)
from hf_datasel.training.run_config import RunConfig, adapter_keys, model_keys, run_settings

KINDS = (ScriptArguments, SelectiveSFTConfig, ModelConfig, DatasetMixtureConfig, TrainArguments)
CPU = {"use_cpu": True, "bf16": False}


@dataclass(frozen=True)
class Mine(Selector):
    """Defined where a recipe can import it."""

    rows: tuple[int, ...] = (1, 2)

    def select(self, context: RoundContext) -> np.ndarray:
        return np.array(self.rows)


def config_of(**settings: Any) -> SelectiveSFTConfig:
    return SelectiveSFTConfig("out", **CPU, **settings)


def record_of(rows: Any, config: SelectiveSFTConfig, selector: Selector | None = None, **more: Any) -> dict[str, Any]:
    arguments = {"model": "them/model", "args": config, "train_dataset": rows, **more}
    return RunConfig.from_arguments(arguments, config, selector or Random()).provenance(config, None)


@pytest.fixture
def recipe(tmp_path: Path, pool_rows: Any, tiny_model_dir: Path) -> Callable[[dict[str, Any]], Path]:
    """Give a function that writes a recipe with what only this machine knows put in: rows, model and output folder."""

    def write(settings: dict[str, Any]) -> Path:
        pool_rows.to_parquet(tmp_path / "rows.parquet")
        here = {
            "dataset_name": str(tmp_path / "rows.parquet"),
            "model_name_or_path": str(tiny_model_dir),
            "output_dir": str(tmp_path / "again"),
            "disable_tqdm": True,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(settings | here))
        return path

    return write


def test_recipe_reproduces_selections(recipe, tmp_path, pool_rows, tiny_model_dir):
    config = SelectiveSFTConfig(
        str(tmp_path / "run"), **CPU, selection_ratio=0.25, reselection_strategy="epoch", num_train_epochs=2,
        learning_rate=1e-2, per_device_train_batch_size=4, lr_scheduler_type="cosine", max_length=96, seed=3,
        gradient_checkpointing=False, weight_decay=1e-5, save_strategy="no", disable_tqdm=True, logging_steps=1,
        model_init_kwargs={"attn_implementation": "eager"},
    )  # fmt: skip
    trainer = SelectiveSFTTrainer(
        str(tiny_model_dir), config, selector=IterIT(decay=0.5, weighting="paper"), train_dataset=pool_rows
    )
    trainer.train()
    saved = [Selection.load(tmp_path / "run" / "selections" / f"round-{at}").provenance for at in (0, 1)]
    assert saved[0]["training"] == saved[1]["training"]
    settings = saved[0]["training"]["settings"]
    assert settings == {
        "model_name_or_path": tiny_model_dir.name,
        "attn_implementation": "eager",
        "selector": "iterit",
        "selector_kwargs": {"decay": 0.5, "weighting": "paper"},
        "selection_ratio": 0.25,
        **CPU,
        **{"num_train_epochs": 2, "learning_rate": 1e-2, "per_device_train_batch_size": 4, "max_length": 96},
        **{"lr_scheduler_type": "cosine", "gradient_checkpointing": False, "seed": 3, "weight_decay": 1e-5},
        "save_strategy": "no",
    }
    assert saved[0]["training"]["in_python"] == [
        f"'{tiny_model_dir.name}' in model_name_or_path is a file or folder of one machine: replace it with its path"
    ]
    assert main(["train", "--config", str(recipe(settings))]) == 0
    again = [Selection.load(tmp_path / "again" / "selections" / f"round-{at}") for at in (0, 1)]
    assert [each.indices.tolist() for each in again] == [each.indices.tolist() for each in trainer.selections]
    assert again[1].scores("ifd").tolist() == pytest.approx(trainer.selections[1].scores("ifd").tolist(), nan_ok=True)
    assert again[0].provenance["training"]["settings"] == settings


IN_ROUNDS = {
    "steps": (IterIT(), {"reselection_strategy": "steps", "reselection_steps": 2, "max_steps": 5}),
    "restart": (
        IterativeKMQ(
            quality=Loss(over="pair"),
            gap=RewardGap(scorer="perplexity", max_new_tokens=2),
            clusters=Cluster(k=3),
            vectors=Embedding(as_trained=True, pooling="last"),
            update="softmax",
            rounds=2,
            restart_each_round=True,
        ),
        {"num_train_epochs": 1},
    ),
    "warm-up": (Cherry(clusters=Cluster(k=3), warmup_size=4, warmup_epochs=0.5), {"num_train_epochs": 1}),
    "chain": (
        Chain(
            [InRange(Length("tokens"), low=8, high=60), NoNearDuplicates(threshold=0.999, vectors=Embedding())],
            DiverseEvol(Embedding(as_trained=True, normalize=False), once=True, rounds=2),
        ),
        {"num_train_epochs": 2},
    ),
}


@pytest.mark.parametrize("name", IN_ROUNDS)
def test_recipe_of_rounds(recipe, tmp_path, pool_rows, tiny_model_dir, name):
    selector, more = IN_ROUNDS[name]
    config = SelectiveSFTConfig(
        str(tmp_path / "run"), **CPU, selection_size=6, learning_rate=1e-2, per_device_train_batch_size=4,
        gradient_checkpointing=False, seed=3, save_strategy="no", disable_tqdm=True, **more,
    )  # fmt: skip
    trainer = SelectiveSFTTrainer(str(tiny_model_dir), config, selector=selector, train_dataset=pool_rows)
    trainer.train()
    assert len(trainer.selections) == (3 if name == "steps" else 2)
    saved = Selection.load(tmp_path / "run" / "selections" / "round-1").provenance
    settings = saved["training"]["settings"]
    assert settings.items() >= {each: more[each] for each in more if each != "num_train_epochs"}.items()
    assert len(saved["training"]["in_python"]) == 1, "but for the model's folder nothing is missing"
    assert main(["train", "--config", str(recipe(settings))]) == 0
    for at, each in enumerate(trainer.selections):
        again = Selection.load(tmp_path / "again" / "selections" / f"round-{at}")
        assert again.indices.tolist() == each.indices.tolist()
        assert again.provenance["selector"] == each.provenance["selector"] == selector.spec()
        assert again.provenance.get("plan") == each.provenance.get("plan")
        assert again.provenance["training"]["settings"] == settings


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"eval_strategy": "steps", "eval_steps": 3, "load_best_model_at_end": True, "save_steps": 3},
        {"activation_checkpointing": False} if "activation_checkpointing" in SFTConfig.__dataclass_fields__ else {},
        {"accelerator_config": {"split_batches": True}, "lr_scheduler_kwargs": {"num_cycles": 2}},
        {"lr_scheduler_type": "cosine_with_restarts", "optim": "adamw_torch", "warmup_steps": 0.1},
        {"selection_schedule": [4, 8], "num_train_epochs": 2, "data_seed": 0, "neftune_noise_alpha": 5.0},
        {"packing": True, "packing_strategy": "wrapped", "assistant_only_loss": True, "eos_token": "</s>"},
        {"scoring_tokens_per_batch": 100, "scoring_dtype": "bfloat16", "average_tokens_across_devices": False},
        {"selector_kwargs": '{"decay": 0.5}', "max_steps": 7},
        {"reselection_strategy": "steps", "reselection_steps": 4, "num_train_epochs": 2},
    ],
)
def test_settings_yaml_roundtrip(given, tmp_path):
    config = config_of(**given)
    found = record_of(Dataset.from_dict({"prompt": ["a"], "completion": ["b"]}), config)["settings"]
    assert given.keys() - set(found) <= {"eval_strategy", "eval_steps", "load_best_model_at_end", "selector_kwargs"}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**run_settings(config), "output_dir": "out"}))
    command = shlex.split(as_command(run_settings(config), "train").replace("\\\n", ""))
    for arguments in (["--config", str(path)], [*command[2:], "--output_dir", "out"]):
        again = parse(KINDS, arguments, "train")[1]
        config.selector_kwargs = None  # put in with the selector, which the trainer makes
        assert again.to_dict() == config.to_dict()


def test_default_settings_are_excluded():
    assert run_settings(config_of()) == CPU
    assert run_settings(config_of(learning_rate=2e-5, selection_size=None, max_length=1024)) == CPU


@pytest.mark.parametrize("kind", [SFTConfig, TrainingArguments])
def test_defaults_of_other_configs_are_excluded(kind, tmp_path, tiny_model_dir, pool_rows):
    args = kind(str(tmp_path), **CPU, report_to="none", learning_rate=3e-4, logging_steps=10)
    trainer = SelectiveSFTTrainer(str(tiny_model_dir), args, train_dataset=pool_rows)
    expected = CPU | {"learning_rate": 3e-4}
    if kind is TrainingArguments:
        expected |= {"gradient_checkpointing": False}
        expected |= {"activation_checkpointing": False} if hasattr(args, "activation_checkpointing") else {}
    assert run_settings(trainer.args) == expected


def test_assigned_settings_are_recorded(train):
    trainer = train.make(Random(), "run", selection_size=4, num_train_epochs=1)
    trainer.args.learning_rate = 5e-3
    trainer.train()
    [selection] = trainer.selections
    settings = selection.provenance["training"]["settings"]
    assert settings["learning_rate"] == 5e-3
    assert "gradient_checkpointing_kwargs" not in settings
    config = config_of()
    config.model_init_kwargs = {"dtype": "bfloat16", "revision": "v1", "attn_implementation": None}
    keys = record_of(trainer._pool.dataset, config)["settings"]
    assert keys["dtype"] == "bfloat16"
    assert keys["model_revision"] == "v1"
    assert "attn_implementation" not in keys


def test_secrets_and_paths_are_excluded(tmp_path, pool_rows, tiny_model_dir):
    secret = "hf_" + "secret" * 6
    config = SelectiveSFTConfig(
        str(tmp_path / "run"), **CPU, hub_token=secret, hub_model_id="me/model", run_name="mine", report_to="none",
        model_init_kwargs={"token": secret, "low_cpu_mem_usage": True}, chat_template_path=str(tiny_model_dir),
        num_train_epochs=1, selection_size=4, disable_tqdm=True, save_strategy="epoch",
    )  # fmt: skip
    trainer = SelectiveSFTTrainer(str(tiny_model_dir), config, train_dataset=pool_rows)
    trainer.train()
    training = trainer.selections[0].provenance["training"]
    assert training["settings"]["model_init_kwargs"] == {"low_cpu_mem_usage": True}
    assert training["settings"]["chat_template_path"] == tiny_model_dir.name
    assert len(training["in_python"]) == 2
    assert not {"output_dir", "hub_model_id", "run_name", "report_to"} & set(training["settings"])
    assert str(tmp_path) not in json.dumps(training)
    written = [path for path in (tmp_path / "run").rglob("*") if path.suffix in (".json", ".md")]
    assert {"selection.json", "README.md"} <= {path.name for path in written}
    assert [path for path in written if secret in path.read_text()] == []


@pytest.mark.parametrize(
    ("lora", "unsettled"),
    [
        ({}, ""),
        ({"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "use_rslora": True}, ""),
        ({"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": "all-linear"}, ""),
        ({"modules_to_save": ["lm_head", "embed_tokens"], "use_dora": True, "task_type": "CAUSAL_LM"}, ""),
        ({"bias": "all", "rank_pattern": {"q_proj": 2}}, "rank_pattern, bias"),
    ],
)
def test_adapter_keys(lora, unsettled, tmp_path):
    given = LoraConfig(**lora)
    keys, missing = adapter_keys(given)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(keys))
    made = get_peft_config(parse(KINDS, ["--config", str(path), "--use_cpu", "true", "--bf16", "false"], "train")[2])
    differ = [name for name, value in given.to_dict().items() if made.to_dict()[name] != value and name != "task_type"]
    if unsettled:
        assert sorted(differ) == sorted(unsettled.split(", "))
        assert all(name in missing[0] for name in differ)
    else:
        assert (differ, missing) == ([], [])


def test_local_folder_is_reported_once(pool_rows, tiny_model_dir):
    folder = str(tiny_model_dir)
    gap = RewardGap(reward_model=folder)
    found = record_of(pool_rows, config_of(), IterativeKMQ(quality=Reward(folder), gap=gap))
    said = [each for each in found["in_python"] if "selector_kwargs" in each]
    assert said == [
        f"'{tiny_model_dir.name}' in selector_kwargs is a file or folder of one machine: replace it with its path"
    ]
    assert found["settings"]["selector_kwargs"]["gap"]["reward_model"] == tiny_model_dir.name


def test_relative_model_folder_is_local(pool_rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "iterit").mkdir()  # a selector's name is no folder, whatever lies there
    said = record_of(pool_rows, config_of(), IterIT(), model="tiny")
    assert said["settings"]["model_name_or_path"] == "tiny"
    assert said["in_python"] == [
        "'tiny' in model_name_or_path is a file or folder of one machine: replace it with its path"
    ]
    gap = RewardGap(reward_model="tiny")
    within = record_of(pool_rows, config_of(), IterativeKMQ(quality=Reward("tiny"), gap=gap))
    assert (
        "'tiny' in selector_kwargs is a file or folder of one machine: replace it with its path"
        in (within["in_python"])
    )
    (tmp_path / "tiny").rmdir()
    assert record_of(pool_rows, config_of(), IterIT(), model="tiny")["in_python"] == []


def test_single_target_module(train):
    keys, _ = adapter_keys(LoraConfig(target_modules=["q_proj"]))
    again = get_peft_config(ModelConfig(**keys))
    model = train.make(Random(), "run", selection_size=4, peft_config=again).model
    names = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name, _ in model.named_parameters() if "lora_" in name}
    assert names == {"q_proj"}


def test_another_adapter_is_left_to_python():
    [sentence] = adapter_keys(PromptTuningConfig(num_virtual_tokens=3))[1]
    assert "PromptTuningConfig" in sentence


@pytest.mark.parametrize(
    "given",
    [
        {"load_in_8bit": True},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"},
        {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "fp4",
            "bnb_4bit_compute_dtype": "bfloat16",
            "bnb_4bit_use_double_quant": True,
        },
    ],
)
def test_quantization_keys(given):
    quantization = BitsAndBytesConfig(**given)
    for where in (
        {"quantization": quantization, "init_kwargs": {}},
        {"quantization": None, "init_kwargs": {"quantization_config": quantization}},
    ):
        where["init_kwargs"]["dtype"] = "bfloat16"
        keys, missing = model_keys("them/model", **where)
        assert missing == []
        assert get_quantization_config(ModelConfig(**keys)).to_dict() == quantization.to_dict()


def test_quantization_without_key():
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="bfloat16")
    [sentence] = model_keys("them/model", None, quantization)[1]
    assert "bnb_4bit_compute_dtype" in sentence


def test_outside_selector(pool_rows):
    found = record_of(pool_rows, config_of(), Mine(rows=(3, 1)))
    assert found["settings"]["selector"] == f"{Mine.__module__}:Mine"
    assert found["settings"]["allow_imports"] is True
    assert found["settings"]["selector_kwargs"] == {"rows": [3, 1]}

    @dataclass(frozen=True)
    class Hidden(Mine):
        pass

    assert any(
        "Hidden is defined in the program" in each for each in record_of(pool_rows, config_of(), Hidden())["in_python"]
    )


def test_settings_in_python_only(train, pool_rows):
    trainer = train.make(Random(), "run", selection_size=4, callbacks=[TrainerCallback()], max_length=None)
    found = trainer._run_config.provenance(trainer.args, trainer.model.config)
    assert found["in_python"][0].startswith("the model was an object in Python")
    assert "callbacks was passed to the trainer in Python" in found["in_python"]
    assert "processing_class was passed to the trainer in Python" in found["in_python"]
    assert "`max_length: null` has to be added to the recipe as a file" in found["in_python"]
    assert "max_length" not in found["settings"]

    class Ours(SelectiveSFTTrainer):
        pass

    sentence = "the trainer was Ours, which is defined in Python"
    assert sentence in train.make(Random(), "run", selection_size=4, base=Ours)._run_config.in_python
    odd = config_of(lr_scheduler_kwargs={"lr_lambda": print})
    assert any("lr_scheduler_kwargs holds" in each for each in record_of(pool_rows, odd)["in_python"])


def test_evaluation_keys(pool_rows, from_hub):
    rows, few = from_hub(pool_rows), pool_rows.select(range(4))
    config = config_of(eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True)
    with_split = record_of(rows, config, eval_dataset=from_hub(few, "validation"))
    assert with_split["settings"]["dataset_test_split"] == "validation"
    assert with_split["settings"]["eval_strategy"] == "epoch"
    assert with_split["in_python"] == []
    for unnamed in (few, from_hub(few, "train", of=100), {"a": from_hub(few, "validation")}):
        without = record_of(rows, config, eval_dataset=unnamed)
        assert not [key for key in without["settings"] if "eval" in key or "best" in key or "test_split" in key]
        assert without["in_python"] == ["the run was evaluated on rows that the recipe does not name"]
    plateau = config_of(eval_strategy="epoch", lr_scheduler_type="reduce_lr_on_plateau")
    kept = record_of(rows, plateau, eval_dataset=few)
    assert kept["settings"]["eval_strategy"] == "epoch"
    assert "dataset_test_split" in kept["in_python"][0]
    assert record_of(rows, config_of(), Longest(), eval_dataset=few)["in_python"] == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"push_selection": 1}, "push_selection=1 has to be True or False"),
        ({"push_selection": "yes"}, "push_selection='yes'"),
        ({"selection_repo_id": "a/b/c"}, "selection_repo_id='a/b/c' has to be 'name' or 'namespace/name'"),
        ({"selection_repo_id": 3}, "selection_repo_id=3"),
    ],
)
def test_settings_of_the_push_are_checked(settings, message):
    from hf_datasel.errors import ConfigError

    with pytest.raises(ConfigError, match=message):
        config_of(**settings)
