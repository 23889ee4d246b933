"""Every notebook, compared with its source and run for real against a Hub of its own, with small data and models."""

from __future__ import annotations

import ast
import io
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest
import yaml
from nbclient import NotebookClient

from hf_datasel.hub.card_yaml import split_card
from tests.local_hub import LocalHub

FOLDER = Path(__file__).parents[2] / "recipes" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SOURCES = sorted(FOLDER.glob("*.py"))
COPIES = 5
ROWS = COPIES * 24 + 1  # as in Alpaca, a row with an empty output is among them
HOME = "https://colab.research.google.com/github/hf-datasel/hf_datasel/blob/main/recipes/notebooks"
CARD = b"""---
license: cc-by-nc-4.0
language:
- en
---

# Toy Alpaca
"""

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def tagged(notebook: Any, tag: str) -> list[Any]:
    """The cells with a tag."""
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def assigned(source: str) -> dict[str, Any]:
    """The names that a cell of plain assignments sets, and their values."""
    return {each.targets[0].id: ast.literal_eval(each.value) for each in ast.parse(source).body}


# -- as they are committed -------------------------------------------------------------------------------------------
def test_every_source_has_its_notebook():
    assert [path.stem for path in SOURCES] == [path.stem for path in NOTEBOOKS]
    assert len(NOTEBOOKS) == 3


@each_notebook
def test_a_notebook_has_the_cells_of_its_source(path):
    source, made = jupytext.read(path.with_suffix(".py")), nbformat.read(path, as_version=4)
    nbformat.validate(made)

    def cells(notebook):
        return [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]

    assert cells(made) == cells(source), "run `make notebooks`"
    for key in ("accelerator", "colab", "kernelspec"):
        assert made.metadata[key] == source.metadata[key]


@each_notebook
def test_a_notebook_is_ready_for_colab(path):
    made = nbformat.read(path, as_version=4)
    badge, opening = made.cells[0].source, made.cells[1].source
    assert badge.startswith("[![Open in Colab](")
    assert badge.endswith(f"({HOME}/{path.name})")
    assert opening.startswith("# ")
    assert "**Result:**" in opening
    assert "**Cost:**" in opening
    assert made.metadata.accelerator == "GPU"
    assert made.metadata.colab == {"gpuType": "T4"}
    install, login = tagged(made, "skip-execution")
    package = "hf-datasel[plot]"
    development = f"{package} @ git+https://github.com/hf-datasel/hf_datasel"
    assert install.source == f'!pip install -Uq "{package}" || pip install -Uq "{development}"'
    assert login.source == "notebook_login()"
    (parameters,) = tagged(made, "parameters")
    assert assigned(parameters.source)


@each_notebook
def test_a_notebook_has_no_outputs_and_no_secrets(path):
    made = nbformat.read(path, as_version=4)
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert all(len(cell.source.splitlines()) <= 45 for cell in code)
    assert not re.search(r"\bhf_[A-Za-z0-9]{16,}", path.read_text(encoding="utf-8"))
    assert not re.search(r"/(home|root|work|Users|tmp)/", path.read_text(encoding="utf-8"))


# -- run -------------------------------------------------------------------------------------------------------------
@pytest.fixture
def chat_model_dir(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """Give the folder of a chat model that is wide enough for 4-bit blocks, which hold 64 weights of a row."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

    config = AutoConfig.from_pretrained(tiny_model_dir, hidden_size=64, head_dim=16, intermediate_size=128)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(tmp_path / "chat")
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path / "chat")
    return tmp_path / "chat"


@pytest.fixture
def hub(pool_rows: Any, chat_model_dir: Path, tiny_text_model_dir: Path) -> Any:
    """Give a Hub with 121 rows in the columns of Alpaca, a chat model and a model for plain text."""
    from datasets import Dataset

    rows = [{**row, "instruction": f"{row['instruction']} ({copy})"} for copy in range(COPIES) for row in pool_rows]
    rows.insert(7, {"instruction": "Say nothing.", "input": "", "output": ""})
    content = io.BytesIO()
    Dataset.from_list(rows).to_parquet(content)
    with LocalHub() as local:
        local.commit("lab/alpaca", {"README.md": CARD, "data/train-00000-of-00001.parquet": content.getvalue()})
        for name, folder in (("lab/tiny-chat", chat_model_dir), ("lab/tiny-text", tiny_text_model_dir)):
            files = {path.name: path.read_bytes() for path in folder.iterdir()}
            local.commit(name, files, repo_type="model")
        yield local


@pytest.fixture
def run(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a function that runs a notebook with other parameters, and returns it with values of some expressions."""
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.delenv("MPLBACKEND")  # as in a notebook, where the kernel sets the backend
    kernel = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Test",
        "language": "python",
    }
    specs = tmp_path / "kernels" / "test"
    specs.mkdir(parents=True)
    (specs / "kernel.json").write_text(json.dumps(kernel))
    where = tmp_path / "content"
    where.mkdir()

    def start(name: str, parameters: dict[str, Any], *wanted: str) -> tuple[Any, list[Any]]:
        notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        (cell,) = tagged(notebook, "parameters")
        assert set(parameters) == set(assigned(cell.source)), "every parameter is set, and no other"
        cell.source = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
        values = f"import json\nprint(json.dumps([{', '.join(wanted)}]))"
        notebook.cells.append(nbformat.v4.new_code_cell(values))
        client = NotebookClient(
            notebook,
            kernel_name="test",
            timeout=120,
            resources={"metadata": {"path": str(where)}},
            skip_cells_with_tag="skip-execution",
        )
        client.execute(env=hub.environment(tmp_path / "hf_home", xet=False))
        return notebook, json.loads(printed(notebook.cells[-1]))

    return start


def printed(cell: Any) -> str:
    return "".join(each.text for each in cell.outputs if each.output_type == "stream" and each.name == "stdout")


def output_of(notebook: Any, beginning: str, kind: str) -> list[str]:
    """Outputs of a kind (a MIME type) of the cell that has a line beginning so."""
    (cell,) = [each for each in notebook.cells if re.search(rf"^{re.escape(beginning)}", each.source, re.MULTILINE)]
    return [each.data[kind] for each in cell.outputs if kind in each.get("data", {})]


def shows_plot(notebook: Any, beginning: str) -> bool:
    return len(output_of(notebook, beginning, "image/png")) == 1


def card(hub: Any, repo_id: str, repo_type: str = "dataset") -> tuple[dict[str, Any], str]:
    text = hub.files(repo_id, repo_type)["README.md"].decode()
    return split_card(text)[0], text


@pytest.mark.slow
def test_select_and_publish(run, hub):
    notebook, (indices, exclusions, overlap, repo) = run(
        "select_and_publish",
        {
            "dataset_name": "lab/alpaca",
            "split": "train",
            "scoring_model": "lab/tiny-text",
            "convention": "superfiltering",
            "ratio": 0.1,
            "sample_rows": 16,
            "repo_id": "toy-superfiltering",
            "private": True,
        },
        "selection.indices.tolist()",
        "selection.provenance['not_eligible']",
        "selection.overlap(selections['Longest'])",
        "published",
    )
    for plot in ("draw_scores(", "draw_overlaps(", "draw_lengths("):
        assert shows_plot(notebook, plot)
    assert repo == "tester/toy-superfiltering"
    assert hub.repo(repo).private
    files = hub.files(repo)
    assert {"README.md", "recipe.yaml", "data/default/train-00000-of-00001.parquet"} < set(files)
    assert {"plots/scores-ifd-light.png", "plots/lengths-dark.png"} < set(files)
    recipe = yaml.safe_load(files["recipe.yaml"])
    assert recipe["selector"] == "superfiltering"
    assert recipe["selector_kwargs"]["model"] == "lab/tiny-text"
    metadata, text = card(hub, repo)
    assert [each["config_name"] for each in metadata["configs"]] == ["default", "scores"]
    assert (metadata["license"], metadata["source_datasets"]) == ("cc-by-nc-4.0", ["lab/alpaca"])
    assert f"12 of the {ROWS} rows" in text
    assert "No model trained on these rows has been evaluated." in text
    assert f"/datasets/{repo}" in printed(next(each for each in notebook.cells if "push_to_hub" in each.source))
    assert len(indices) == 12
    assert exclusions == {"empty_response": 1}
    assert 0 <= overlap < 1


@pytest.mark.slow
def test_iterit_qlora_t4(run, hub):
    notebook, (rounds, losses, dtypes, quantized, steps) = run(
        "iterit_qlora_t4",
        {
            "model_name": "lab/tiny-chat",
            "dataset_name": "lab/alpaca",
            "pool_rows": 100,
            "eval_rows": 20,
            "selection_size": 10,
            "epochs": 2,
            "batch_size": 5,
            "gradient_accumulation_steps": 1,
            "max_length": 128,
            "learning_rate": 1e-2,
            "random_seeds": [0],
            "hub_model_id": "toy-iterit",
            "private": True,
        },
        "[each.indices.tolist() for each in trainer.selections]",
        "losses",
        "sorted({str(each.dtype) for each in trainer.model.parameters() if each.requires_grad})",
        "trainer.model.is_loaded_in_4bit",
        "[trainer.state.global_step, baseline.state.global_step]",
    )
    assert shows_plot(notebook, "plot_rounds(")
    assert quantized
    assert dtypes == ["torch.float32"]
    assert steps == [4, 4]
    assert [len(each) for each in rounds] == [10, 10]
    assert [each["trained on"] for each in losses] == ["nothing yet", "IterIT", "random rows, seed 0"]
    assert all(math.isfinite(each["evaluation loss"]) for each in losses)
    assert losses[1]["evaluation loss"] < losses[0]["evaluation loss"]
    (table,) = output_of(notebook, "rounds.filter(", "text/html")
    assert "selection_ifd_mean" in table
    assert "selection_overlap" in table

    model, selection = "tester/toy-iterit", "tester/toy-iterit-selection"
    assert {"adapter_model.safetensors", "adapter_config.json"} < set(hub.files(model, "model"))
    assert hub.repo(model, "model").private
    assert hub.repo(selection).private
    metadata, text = card(hub, model, "model")
    assert metadata["base_model"] == "lab/tiny-chat"
    assert set(metadata["datasets"]) == {"lab/alpaca", selection}
    assert selection in text
    metrics = metadata["model-index"][0]["results"][0]["metrics"]
    assert [each["value"] for each in metrics if each["type"] == "loss"] == [losses[1]["evaluation loss"]]
    metadata, text = card(hub, selection)
    assert {"round-0", "round-1", "scores"} == {each["config_name"] for each in metadata["configs"]}
    assert metadata["license"] == "cc-by-nc-4.0"
    selected = json.loads(hub.files(selection)["selections/round-1/selection.json"])
    assert selected["selector"]["selector"] == "iterit"
    assert printed(notebook.cells[-2]).endswith("\n"), "an answer"


@pytest.mark.slow
def test_compare_selectors(run, hub):
    commits = {key: len(repo.branches["main"]) for key, repo in hub.repos.items()}
    notebook, (sizes, chance, rows, above) = run(
        "compare_selectors",
        {
            "dataset_name": "lab/alpaca",
            "split": "train[:110]",
            "scoring_model": "lab/tiny-text",
            "convention": "superfiltering",
            "size": 12,
        },
        "{name: len(at) for name, at in selected.items()}",
        "overlaps(selected, pool_rows=len(rows))['chance']",
        "table.to_dict('index')",
        "len(above)",
    )
    for plot in (
        'draw_scores(distribution("ifd"',
        'draw_lengths(distribution("ifd"',
        'draw_lengths(distribution("words',
        "draw_overlaps(",
    ):
        assert shows_plot(notebook, plot)
    names = ["Random", "Longest", "Highest loss", "Superfiltering", "GraphFilter", "IterIT", "Random again"]
    assert sizes == dict.fromkeys(names, 12)
    assert chance == pytest.approx(12 / (2 * 110 - 12), rel=1e-4)
    assert list(rows) == names
    for name, row in rows.items():
        assert row["selected"] + row["refused"] + row["ranked lower"] == 109, name
    assert rows["Superfiltering"]["refused"] == rows["IterIT"]["refused"] == above > 0
    assert rows["Superfiltering"]["selected with IFD of 1 or more"] == 0
    assert rows["Longest"]["median words"] > rows["Random"]["median words"]
    assert {key: len(repo.branches["main"]) for key, repo in hub.repos.items()} == commits, "nothing is published"
