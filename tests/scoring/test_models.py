"""Models by name: the identity of weights, and errors."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, LlamaModel

from hf_datasel import score
from hf_datasel.errors import ConfigError, ModelError
from hf_datasel.scores import Loss
from hf_datasel.scoring.models import MAP_MODELS, Loading, load_tokenizer, model_identity, tokenizer_identity


@pytest.fixture
def copy(tiny_model_dir, tmp_path):
    return shutil.copytree(tiny_model_dir, tmp_path / "copy")


def rewrite(folder, factor):
    """Write other weights to the same path, in files of the same size."""
    model = MAP_MODELS.get(Loading(str(folder)))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(factor)
    model.save_pretrained(folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight.div_(factor)


def test_folder_identity_is_its_files(tiny_model_dir, copy):
    assert model_identity(str(copy)) == model_identity(str(tiny_model_dir))


def test_overwritten_weights(copy, pool_rows):
    before, first = model_identity(str(copy)), score(pool_rows, [Loss(str(copy))])["loss"][:]
    rewrite(copy, 2.0)
    assert model_identity(str(copy)) != before
    assert score(pool_rows, [Loss(str(copy))])["loss"][:] != first
    rewrite(copy, 0.5)
    assert model_identity(str(copy)) == before
    assert score(pool_rows, [Loss(str(copy))])["loss"][:] == first


def test_training_files_are_ignored(copy):
    before = model_identity(str(copy))
    for name in ("optimizer.pt", "trainer_state.json", "rng_state.pth", "README.md", "training_args.bin"):
        (copy / name).write_text("x")
    (copy / "checkpoint-10").mkdir()
    (copy / "checkpoint-10" / "model.safetensors").write_text("x")
    assert model_identity(str(copy)) == before
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    assert model_identity(str(copy)) != before


def test_adapter_identity(copy, model, tmp_path, pool_rows):
    model.name_or_path = model.config._name_or_path = str(copy)
    config = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    adapter = tmp_path / "adapter"
    adapted.save_pretrained(adapter)
    load_tokenizer(str(copy)).save_pretrained(adapter)
    before = model_identity(str(adapter))
    tokenizer = load_tokenizer(str(copy))
    by_name = score(pool_rows, [Loss(str(adapter))])["loss"][:]
    live = score(pool_rows, [Loss()], model=adapted, processing_class=tokenizer)["loss"][:]
    assert by_name == pytest.approx(live, rel=1e-5)
    assert by_name != pytest.approx(score(pool_rows, [Loss(str(copy))])["loss"][:], rel=1e-3)
    rewrite(copy, 2.0)
    assert model_identity(str(adapter)) != before


def test_models_are_loaded_once(tiny_model_dir):
    assert MAP_MODELS.get(Loading(str(tiny_model_dir))) is MAP_MODELS.get(Loading(str(tiny_model_dir)))
    assert load_tokenizer(str(tiny_model_dir)) is load_tokenizer(str(tiny_model_dir))
    assert not MAP_MODELS.get(Loading(str(tiny_model_dir))).training


def test_dtype(tiny_model_dir):
    assert MAP_MODELS.get(Loading(str(tiny_model_dir), dtype="bfloat16")).dtype == torch.bfloat16
    assert MAP_MODELS.get(Loading(str(tiny_model_dir))).dtype == torch.float32


@pytest.mark.parametrize(
    "name", ["./no/such/model", "/no/such/model", "a/b/c", "nobody/no-such-model", "no such model"]
)
def test_missing_model(name, pool_rows):
    is_path = name[0] in "./" or name.count("/") > 1
    with pytest.raises(ModelError, match=rf"No model '{name}': there is no such folder.* Check the path") as caught:
        score(pool_rows, [Loss(name)])
    assert ("the Hub" not in str(caught.value)) == is_path, "a path is no name on the Hub"
    with pytest.raises(ModelError, match=f"No model '{name}'"):
        Loss(name)(pool_rows[:2])


def test_missing_revision():
    with pytest.raises(ModelError, match="No model 'nobody/no-such-model' at revision 'v2'"):
        model_identity("nobody/no-such-model", "v2")


def test_commit_needs_no_request():
    assert model_identity("nobody/model", "0" * 40) == f"nobody/model@{'0' * 40}"


def test_cached_hub_model_offline(tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit = "a" * 40
    snapshot = tmp_path / "models--some--model" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = tmp_path / "models--some--model" / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert model_identity("some/model") == f"some/model@{commit}"


def test_folder_without_model(tmp_path):
    with pytest.raises(ModelError, match=r"has no config.json or adapter_config.json, so it holds no model"):
        model_identity(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"not weights at all"])
def test_damaged_weights(copy, content):
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"The model .* cannot be loaded"):
        MAP_MODELS.get(Loading(str(copy)))


def test_missing_weights(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"The model .* cannot be loaded"):
        MAP_MODELS.get(Loading(str(copy)))


def test_missing_tokenizer(copy, pool_rows):
    for file in copy.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"The tokenizer of .* cannot be loaded"):
        score(pool_rows, [Loss(str(copy))])


def test_checkpoint_without_head(tmp_path, tiny_model_dir, pool_rows):
    config = AutoConfig.from_pretrained(tiny_model_dir)
    config.tie_word_embeddings = False
    LlamaModel(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"is not a causal language model: its files lack lm_head\.weight"):
        score(pool_rows, [Loss(str(tmp_path))])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "float99"}, "dtype='float99': it has to be 'auto', or the name of a floating-point dtype"),
        ({"dtype": "int8"}, "dtype='int8'"),
        ({"model_init_kwargs": {"dtype": "bfloat16"}}, r"pass Loss\(dtype=\.\.\.\) instead"),
        ({"model_init_kwargs": {"torch_dtype": "bfloat16"}}, r"pass Loss\(dtype=\.\.\.\) instead"),
        ({"model_init_kwargs": {"revision": "main"}}, r"pass Loss\(revision=\.\.\.\) instead"),
        ({"model_init_kwargs": {"quantization_config": BitsAndBytesConfig(load_in_4bit=True)}}, "has to be JSON"),
        ({"model_init_kwargs": [1]}, "has to be a dict"),
    ],
)
def test_invalid_loading(settings, message):
    with pytest.raises(ConfigError, match=message):
        Loss(**settings)


def test_adapter_with_uninitialized_weights(copy, model, tmp_path, pool_rows):
    model.name_or_path = model.config._name_or_path = str(copy)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], use_dora=True, task_type="CAUSAL_LM"))
    adapted.save_pretrained(tmp_path / "dora")
    load_tokenizer(str(copy)).save_pretrained(tmp_path / "dora")
    with pytest.raises(ModelError, match=r"dora' cannot be loaded: transformers leaves some of its weights"):
        score(pool_rows, [Loss(str(tmp_path / "dora"))])


@pytest.mark.parametrize("local_hub", ["lfs"], indirect=True)
def test_hub_adapter_base(local_hub, tmp_path, tiny_model_dir, pool_rows):
    base, adapter = "tester/base", "tester/adapter"
    api = HfApi()
    for name in (base, adapter):
        api.create_repo(name)
    api.upload_folder(repo_id=base, folder_path=tiny_model_dir)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model_dir),
        LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path)
    api.upload_folder(repo_id=adapter, folder_path=tmp_path)
    expected = score(pool_rows, [Loss()], model=model, processing_class=AutoTokenizer.from_pretrained(tiny_model_dir))[
        "loss"
    ]
    np.testing.assert_allclose(score(pool_rows, [Loss(adapter)])["loss"], expected, rtol=1e-5)
    assert model_identity(adapter).count("@") == 2


def test_folder_becomes_an_adapter(copy, tmp_path, tiny_model_dir, pool_rows):
    rows = pool_rows.select(range(4))
    before = score(rows, [Loss(str(copy))])["loss"][:]
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    tuned = get_peft_model(base, LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM"))
    for name in ("config.json", "model.safetensors"):
        (copy / name).unlink()
    tuned.save_pretrained(copy)
    after = score(rows, [Loss(str(copy))])["loss"][:]
    expected = score(rows, [Loss()], model=tuned, processing_class=AutoTokenizer.from_pretrained(tiny_model_dir))[
        "loss"
    ][:]
    np.testing.assert_allclose(after, expected, rtol=1e-5)
    assert np.abs(np.array(after) - before).max() > 1e-3


def test_tokenizer_identity_ignores_its_state(tiny_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    before = tokenizer_identity(tokenizer)
    tokenizer(["Say hello.", "Go."], truncation=True, max_length=4, padding=True)
    assert tokenizer.backend_tokenizer.truncation is not None
    assert tokenizer_identity(tokenizer) == before
    tokenizer.add_tokens(["<new>"])
    assert tokenizer_identity(tokenizer) != before
