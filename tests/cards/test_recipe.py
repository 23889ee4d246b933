import shlex

import pytest
import yaml

from hf_datasel import Selection, load_pool, select
from hf_datasel.cards.sections.reproduce import as_command, as_yaml, recipe
from hf_datasel.cli import main
from hf_datasel.scores import Cluster, Embedding, Loss
from hf_datasel.selectors import KMQ, ZIP, CrossEntropy, GraphFilter, IterIT, Random, Superfiltering, Top, Within

POOL = {"changed": False, "sources": [], "id": "0" * 64, "rows": 24}
HUB = {"name": "them/parent", "revision": "a" * 40, "config": "plain", "split": "test", **POOL}
LOCAL = {"name": None, "revision": None, "config": None, "split": None, **POOL}


def test_recipe_has_the_changed_settings(pool_rows, tiny_model_dir):
    selection = select(pool_rows, IterIT(decay=0.0, diversity="both"), size=4, seed=3, model=str(tiny_model_dir))
    command, keys, missing = recipe(selection.provenance, HUB)
    assert command == "select"
    assert [item.split(" is a ")[1].split(" (")[0] for item in missing] == ["model in a local folder"]
    assert keys == {
        "dataset_name": "them/parent",
        "dataset_config": "plain",
        "dataset_train_split": "test",
        "dataset_revision": "a" * 40,
        "selector": "iterit",
        "selector_kwargs": {"decay": 0.0, "diversity": "both"},
        "selection_size": 4,
        "seed": 3,
        "model_name_or_path": str(tiny_model_dir),
    }


def test_recipe_pins_the_model(pool_rows, tiny_model_dir):
    selection = select(pool_rows, Superfiltering(), size=4, model=str(tiny_model_dir))
    selection.provenance["model"] = {"name": "me/model", "resolved": f"me/model@{'b' * 40}"}
    keys = recipe(selection.provenance, HUB)[1]
    assert keys["selector_kwargs"] == {"model": "me/model", "revision": "b" * 40}
    assert "model_name_or_path" not in keys


def test_unsettled(pool_rows, tiny_model_dir):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rated = pool_rows.add_column("mine", list(range(len(pool_rows))))
    by_column = recipe(select(rated, Top(by="mine"), size=4).provenance, LOCAL)
    on_dataset, on_column = by_column[2]
    assert on_dataset.startswith("The dataset is not on the Hub: replace PATH with the file or folder")
    assert on_column == "Column 'mine' has to be in the dataset. How it was computed is not recorded."
    live = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    selection = select(
        pool_rows, Superfiltering(), size=4, model=live, processing_class=AutoTokenizer.from_pretrained(tiny_model_dir)
    )
    assert "was an object in a Python program" in recipe(selection.provenance, HUB)[2][0]


@pytest.mark.parametrize(
    "selector",
    [
        Random(),
        IterIT(decay=0.3),
        Superfiltering(convention="iterit"),
        CrossEntropy(Loss(over="pair")),
        KMQ(clusters=Cluster(k=3), vectors=Embedding(part="prompt"), quality=Loss(reduction="sum")),
        Within(GraphFilter(decay=0.5), Cluster(k=(2, 3)), vectors=Embedding()),
        ZIP(k1=8, k2=4, k3=2, columns=("output", "instruction")),
    ],
    ids=lambda selector: type(selector).__name__,
)
def test_recipe_reproduces_the_selection(pool_rows, tiny_model_dir, tmp_path, selector):
    path = tmp_path / "rows.jsonl"
    pool_rows.to_json(path)
    before = select(load_pool(str(path)), selector, size=4, seed=1, model=str(tiny_model_dir))
    command, keys, _ = recipe(before.provenance, {**LOCAL, "name": str(path)})
    file = tmp_path / "recipe.yaml"
    file.write_text(as_yaml(keys, command, file.name), encoding="utf-8")
    words = shlex.split(as_command(keys, command).replace("\\\n", " "))
    assert words[0] == "hf-datasel"
    for name, arguments in (("file", [command, "--config", str(file)]), ("flags", words[1:])):
        assert main([*arguments, "--output_dir", str(tmp_path / name)]) == 0
        after = Selection.load(tmp_path / name)
        assert after.indices.tolist() == before.indices.tolist()
        assert after.provenance["selector"] == before.provenance["selector"]


def test_values_are_quoted():
    keys = {
        "selector_kwargs": {"by": "it's; rm -rf $HOME"},
        "dataset_name": "a b",
        "flag": True,
        "names": ["x y", "z"],
    }
    words = shlex.split(as_command(keys, "select").replace("\\\n", " "))
    assert words == [
        "hf-datasel", "select", "--selector_kwargs", '{"by": "it\'s; rm -rf $HOME"}', "--dataset_name", "a b",
        "--flag", "true", "--names", "x y", "z",
    ]  # fmt: skip
    assert yaml.safe_load(as_yaml(keys, "select", "recipe.yaml")) == keys


def test_file_says_how_it_is_permitted():
    judge = {"score": "judge", "model": "m", "base_url": "http://localhost:8000/v1"}
    keys = {"selector": "top", "selector_kwargs": {"by": judge}}
    run = "# Run: hf-datasel select --config recipe.yaml"
    assert as_yaml(keys, "select", "recipe.yaml").splitlines()[0] == f"{run} --trust_config"
    assert as_yaml({"selector": "random"}, "select", "recipe.yaml").splitlines()[0] == run
