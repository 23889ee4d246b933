"""Pushing a trained model, and the selections it was trained on, to a Hub over HTTP."""

from __future__ import annotations

import copy
import io
import pickle
import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import yaml
from datasets import Dataset, load_dataset

from hf_datasel import Selection, SelectiveSFTConfig, SelectiveSFTTrainer
from hf_datasel.cards.build import gather
from hf_datasel.cli import main
from hf_datasel.errors import PublishError
from hf_datasel.formats import load_pool
from hf_datasel.hub.parents import write_parquet
from hf_datasel.selectors import IterIT, Random

SECRET = "ghp_0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX"
QUICK = {"selection_size": 6, "num_train_epochs": 2, "hub_model_id": "tester/model"}


@pytest.fixture
def hub(local_hub: Any, pool_rows: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a Hub that holds the pool as `tester/parent`, and has no figures drawn."""
    monkeypatch.setattr("hf_datasel.hub.retry.WAIT", 0.01)
    monkeypatch.setattr("hf_datasel.cards.repository_files.png", lambda *args: b"drawn")
    content = io.BytesIO()
    pool_rows.to_parquet(content)
    card = b"---\nlicense: cc-by-4.0\n---\n"
    local_hub.commit("tester/parent", {"README.md": card, "data/train-00000-of-00001.parquet": content.getvalue()})
    return local_hub


@pytest.fixture
def parent(hub: Any) -> Dataset:
    return load_dataset("tester/parent", split="train")


def card_of(hub: Any, repo_id: str = "tester/model") -> tuple[dict[str, Any], str]:
    card = hub.files(repo_id, "model")["README.md"].decode()
    return yaml.safe_load(card.split("---\n")[1]), card


def test_push_model_and_selections(train, hub, parent, tmp_path):
    trainer = train(
        IterIT(),
        rows=parent,
        push_to_hub=True,
        push_selection=True,
        save_strategy="epoch",
        eval_strategy="epoch",
        eval_dataset=parent.select(range(4)),
        **QUICK,
    )
    assert ("dataset", "tester/model-selection") not in hub.repos  # checkpoints were pushed, selections not
    assert len(hub.commits("tester/model", "model")) > 1
    trainer.push_to_hub()
    assert len(hub.commits("tester/model-selection")) == 2  # the Hub's own, and the push
    assert {"model.safetensors", "selections/round-1/selection.json"} <= set(hub.files("tester/model", "model"))
    metadata, card = card_of(hub)
    assert metadata["datasets"] == ["tester/parent", "tester/model-selection"]
    assert metadata["model-index"][0]["results"][0]["dataset"]["type"] == "tester/parent"
    assert "[tester/model-selection](https://huggingface.co/datasets/tester/model-selection)" in card
    assert all(f"| `round-{at}` |" in card for at in (0, 1))
    assert "licence" not in metadata
    for at, selection in enumerate(trainer.selections):
        rows = load_dataset("tester/model-selection", f"round-{at}", split="train")
        assert rows["instruction"] == parent.select(selection.indices)["instruction"]
        there = Selection.from_hub("tester/model-selection", config_name=f"round-{at}")
        np.testing.assert_array_equal(there.indices, selection.indices)
    about = hub.files("tester/model-selection")["README.md"].decode()
    assert f"{trainer.state.global_step} steps" in about
    assert "hf-datasel train" in about
    assert hub.token not in card + about


def test_manual_push(train, hub, parent):
    trainer = train(Random(), rows=parent, push_selection=True, selection_repo_id="lab/selected", **QUICK)
    trainer.push_to_hub(private=True)
    assert hub.repo("lab/selected").private
    assert hub.repo("tester/model", "model").private
    assert card_of(hub)[0]["datasets"] == ["tester/parent", "lab/selected"]
    assert "| `default` |" in card_of(hub)[1]


def test_push_without_selections(train, hub, parent):
    train(Random(), rows=parent, **QUICK).push_to_hub()
    assert {repo_id for kind, repo_id in hub.repos if kind == "dataset"} == {"tester/parent"}
    metadata, card = card_of(hub)
    assert metadata["datasets"] == ["tester/parent"]
    assert "| `selections/round-0` |" in card


def test_model_is_pushed_if_selections_fail(train, hub, parent):
    trainer = train(Random(), rows=parent, push_selection=True, **QUICK)
    hub.repo("tester/parent").private = True
    with pytest.raises(PublishError, match=r"The parent 'tester/parent' is private"):
        trainer.push_to_hub()
    assert "model.safetensors" in hub.files("tester/model", "model")
    assert card_of(hub)[0]["datasets"] == ["tester/parent"]
    assert "| `selections/round-0` |" in card_of(hub)[1]


@pytest.mark.parametrize("kind", ["private", "gated", "public", "unknown"])
def test_push_of_rows_from_a_file(train, hub, parent, tmp_path, kind):
    hub.repo("tester/parent").private, hub.repo("tester/parent").gated = kind == "private", kind == "gated"
    hub.granted.add("tester")
    write_parquet(parent, tmp_path / "rows.parquet")
    rows = Dataset.from_list(parent.to_list()) if kind == "unknown" else load_pool(tmp_path / "rows.parquet")
    trainer = train(Random(), rows=rows, push_selection=True, **QUICK)
    if kind in ("private", "gated"):
        with pytest.raises(PublishError, match=f"The parent 'tester/parent' is {kind}"):
            trainer.push_to_hub()
        assert ("dataset", "tester/model-selection") not in hub.repos
        trainer.push_to_hub(private=True)
    else:
        trainer.push_to_hub()
    assert hub.repo("tester/model-selection").private == (kind != "public")
    source = "a dataset that is not on the Hub" if kind == "unknown" else "[tester/parent]"
    assert f"rows of {source}" in card_of(hub)[1]


def test_push_before_training(train, hub, parent):
    trainer = train.make(Random(), "run", rows=parent, push_selection=True, **QUICK)
    with pytest.raises(PublishError, match="No rows have been selected yet"):
        trainer.push_to_hub()
    assert "model.safetensors" in hub.files("tester/model", "model")


@pytest.mark.parametrize(
    ("private_parent", "more", "message"),
    [
        (True, {}, "The parent 'tester/parent' is private"),
        (False, {"hub_token": "hf_nobodys"}, "rejects this token"),
        (False, {"selection_repo_id": "stranger/rows"}, "cannot publish under 'stranger'"),
        (False, {"selection_repo_id": "tester/parent"}, "is the parent dataset itself"),
        (False, {"lr_scheduler_kwargs": {"note": SECRET}}, r"the settings of the run \(GitHub token ghp_…\)"),
    ],
)
def test_push_is_checked_first(hub, parent, tmp_path, tiny_model_dir, private_parent, more, message):
    hub.repo("tester/parent").private = private_parent
    config = SelectiveSFTConfig(
        str(tmp_path / "run"), use_cpu=True, bf16=False, push_to_hub=True, push_selection=True, **QUICK, **more
    )
    model = shutil.copytree(tiny_model_dir, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    seen = len(hub.requests)
    with pytest.raises(PublishError, match=message):
        SelectiveSFTTrainer(str(model), config, train_dataset=parent)
    assert not [each for each in hub.requests[seen:] if each.method == "POST"]


def test_push_by_recipe(hub, tmp_path, tiny_model_dir, capsys):
    settings = {
        **QUICK,
        "model_name_or_path": str(tiny_model_dir),
        "dataset_name": "tester/parent",
        "output_dir": str(tmp_path / "run"),
        "selector": "random",
        "push_to_hub": True,
        "push_selection": True,
        "hub_strategy": "end",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    assert main(["train", "--config", str(recipe)]) == 0, capsys.readouterr().err
    assert card_of(hub)[0]["datasets"] == ["tester/parent", "tester/model-selection"]
    assert len(hub.commits("tester/model", "model")) == 2
    assert (tmp_path / "run" / "trainer_state.json").is_file()
    hub.commit("tester/parent", {"data/train-00000-of-00001.parquet": b"another version, which nobody can read"})
    there = Selection.from_hub("tester/model-selection")
    keys = gather([there], title="rows")["sections"]["reproduce"]["recipe"]
    assert keys["dataset_revision"] == hub.commits("tester/parent")[1].oid
    here = {"model_name_or_path": str(tiny_model_dir), "output_dir": str(tmp_path / "again"), "disable_tqdm": True}
    recipe.write_text(yaml.safe_dump(keys | here))
    assert main(["train", "--config", str(recipe)]) == 0, capsys.readouterr().err
    again = Selection.load(tmp_path / "again" / "selections" / "round-0")
    assert again.indices.tolist() == there.indices.tolist()


@dataclass(frozen=True)
class Elsewhere(IterIT):
    """As IterIT, with settings that are nobody else's business."""

    validation: str = ""
    model_init_kwargs: dict[str, Any] | None = None


@pytest.mark.parametrize("strategy", ["every_save", "all_checkpoints"])
def test_no_secrets_or_paths_are_pushed(train, hub, parent, tmp_path, strategy):
    settings = {"save_strategy": "epoch", "hub_strategy": strategy, "hub_always_push": True, **QUICK}
    secret = {"hub_token": hub.token, "model_init_kwargs": {"token": "hf_of_the_base_model"}}
    selector = Elsewhere(
        validation=str(tmp_path / "held_out.jsonl"), model_init_kwargs={"token": "hf_of_the_selector"}
    )
    trainer = train(selector, rows=parent, push_to_hub=True, **settings, **secret)
    trainer.push_to_hub()
    assert {name: getattr(trainer.args, name) for name in secret} == secret
    commits = [hub.files("tester/model", "model", each.oid) for each in hub.commits("tester/model", "model")]
    assert len([files for files in commits if "training_args.bin" in files]) > 2
    assert any("checkpoint-2/training_args.bin" in files for files in commits) == (strategy == "all_checkpoints")
    for files in commits:
        for token in (hub.token, "hf_of_the_base_model", "hf_of_the_selector"):
            assert not [path for path, content in files.items() if token.encode() in content]
        ours = {path: content for path, content in files.items() if path.split("/")[-1].startswith("select")}
        assert not [path for path, content in ours.items() if str(tmp_path).encode() in content]
    assert "selection_state.json" in ours


@pytest.mark.parametrize("given", [{"token": "hf_of_the_base_model"}, '{"token": "hf_of_the_base_model"}'])
def test_config_hides_tokens(tmp_path, given):
    config = SelectiveSFTConfig(str(tmp_path), model_init_kwargs=given, hub_token="hf_own", use_cpu=True, bf16=False)
    copies = [copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))]
    assert [(each.hub_token, each.model_init_kwargs["token"]) for each in copies] == [
        ("hf_own", "hf_of_the_base_model")
    ] * 3
    with config.hidden_secrets():
        pickled = pickle.dumps(config)
        assert config.hub_token == "hf_own"
    assert b"hf_o" not in pickled
    there = pickle.loads(pickled)
    assert (there.hub_token, there.model_init_kwargs) == (None, {"token": None})
    assert there.user_values()["output_dir"] == config.output_dir
    assert b"hf_own" in pickle.dumps(config)
    assert "hf_o" not in config.to_json_string()


def test_push_selection_without_push_to_hub(tiny_model_dir, tmp_path, capsys):
    command = ["train", "--model_name_or_path", str(tiny_model_dir), "--dataset_name", "x", "--push_selection", "true"]
    assert main([*command, "--output_dir", str(tmp_path), "--use_cpu", "true", "--bf16", "false"]) == 2
    assert "push_selection publishes the selections with the model. Add --push_to_hub." in capsys.readouterr().err
