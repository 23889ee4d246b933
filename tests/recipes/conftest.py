"""What the tests of recipes share: toy rows in files, and small models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.recipes.toys import write_toys


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
        "openai-community/gpt2": str(tiny_text_model_dir),
        "hkust-nlp/deita-complexity-scorer": str(tiny_text_model_dir),
        "hkust-nlp/deita-quality-scorer": str(tiny_model_dir),
        "Skywork/Skywork-Reward-V2-Qwen3-0.6B": reward,
        "sentence-transformers/all-MiniLM-L6-v2": encoder,
        "HuggingFaceH4/no_robots": str(toy_files["no_robots"]),
        "openai/gsm8k": str(toy_files["exam"]),
        "truthfulqa/truthful_qa": str(toy_files["exam"]),
    }
