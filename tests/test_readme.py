"""The README: its examples run, and its tables, links and numbers are right."""

import io
import re
from pathlib import Path

import pytest

from hf_datasel import score, select
from hf_datasel.selection import explain
from hf_datasel.selectors import DiverseEvol

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")


def example(title: str) -> str:
    """Return the first Python block of a section."""
    section = TEXT.split(f"\n## {title}", 1)[1].split("\n## ")[0]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


@pytest.fixture
def alpaca(local_hub, pool_rows, monkeypatch):
    monkeypatch.setattr("hf_datasel.hub.retry.WAIT", 0.01)
    content = io.BytesIO()
    pool_rows.to_parquet(content)
    local_hub.commit("tatsu-lab/alpaca", {"data/train-00000-of-00001.parquet": content.getvalue()})
    return local_hub


def test_ten_lines_example(alpaca, tiny_model_dir):
    code = example("In ten lines")
    assert len(code.splitlines()) == 10
    names = {}
    exec(code.replace("Qwen/Qwen3-0.6B", str(tiny_model_dir)).replace('"me/', '"tester/'), names)
    assert len(names["subset"]) == 1
    assert "README.md" in alpaca.files("tester/alpaca-superfiltering")


def test_trainer_example(alpaca, tiny_model_dir, tmp_path):
    code = example("Train on what the current model needs")
    small = 'num_train_epochs=3, bf16=False, use_cpu=True, gradient_checkpointing=False, report_to="none", '
    code = code.replace("num_train_epochs=3", f'{small}selection_ratio=0.25, disable_tqdm=True, save_strategy="no"')
    code = code.replace("Qwen/Qwen3-0.6B", str(tiny_model_dir)).replace('"alpaca-iterit"', repr(str(tmp_path / "run")))
    names = {}
    exec(code, names)
    assert [len(selection.indices) for selection in names["trainer"].selections] == [6, 6, 6]


def test_score_and_select_example(alpaca, tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(example("Score, look, select").replace("Qwen/Qwen3-0.6B", str(tiny_model_dir)), names)
    assert len(names["subset"]) == len(names["selection"].indices) == 1
    assert (tmp_path / "selection" / "selection.json").is_file()
    (arguments,) = re.findall(r"`hf_datasel\.selection\.explain\((.*?)\)` says", TEXT)
    names |= {"explain": explain, "selection": select(names["scored"], names["IterIT"](quality="ifd"), ratio=0.05)}
    reasons = eval(f"explain({arguments})", names)["decided"]
    assert reasons
    assert "More cannot be said" not in " ".join(reasons)
    assert "More cannot be said" in " ".join(eval(f"explain({arguments.replace('scored', 'rows')})", names)["decided"])


def test_methods_example(pool_rows, tiny_model_dir, tmp_path):
    scored = pool_rows.add_column("ifd", [0.03 * row for row in range(24)])
    scored = scored.add_column("cluster_id", [row % 3 for row in range(24)]).add_column("num_tokens", [80_000] * 24)
    mixture = scored.add_column("source", ["alpaca", "gsm8k"] * 12)
    code = example("Methods").replace("sentence-transformers/all-MiniLM-L6-v2", str(tiny_model_dir))
    code = code.replace('Reward("me/reward-model")', "Length()").replace("import Cluster,", "import Length, Cluster,")
    code = code.replace("k=1000", "k=3").replace("10_000", "10")
    select_lines = [line.startswith("select(") for line in code.splitlines()]
    assert sum(select_lines) == 3
    names = {"select": select, "rows": pool_rows, "scored": scored, "mixture": mixture}
    selected = []
    for line, is_select in zip(code.splitlines(), select_lines, strict=True):
        selected += [eval(line.partition("  #")[0], names)] if is_select else []
        exec("" if is_select else line, names)
    assert [len(selection.indices) for selection in selected] == [1, 12, 10]
    assert sum(row % 2 == 0 for row in selected[2].indices) == 3


def test_mix_example(pool_rows, tiny_model_dir):
    scored = pool_rows.add_column("reward", [0.5 + row for row in range(24)])
    for name, values in (("ifd", [0.03 * row for row in range(24)]), ("num_tokens", [9] * 24)):
        scored = scored.add_column(name, values)
    names = {"select": select, "score": score, "scored": scored.add_column("cluster_id", [0, 1] * 12)}
    code = TEXT.split("`Mix` combines several scores", 1)[1].split("```python\n", 1)[1].split("```")[0]
    code = code.replace('Reward("me/reward-model")', "Length()").replace("import IFD,", "import IFD, Length,")
    exec(
        "from hf_datasel.selectors import within_clusters\n" + code.replace("Qwen/Qwen3-0.6B", str(tiny_model_dir)),
        names,
    )
    assert max(names["scored"]["mix"][:]) < 1


def test_large_pool_example(alpaca, tiny_model_dir, tmp_path, monkeypatch):
    from hf_datasel.scoring.store.store import ScoreStore

    monkeypatch.chdir(tmp_path)
    code = re.sub(r"Qwen/Qwen3-[0-9.]+B", str(tiny_model_dir), example("Score a large pool"))
    names = {}
    exec(code.replace("(512, 1024)", "(2, 3)").replace('"me/', '"tester/'), names)
    assert {"loss", "ifd", "embedding", "cluster_id"} <= set(names["scored"].column_names)
    assert next(iter(names["stream"]))["ifd"] == pytest.approx(names["scored"]["ifd"][0], rel=1e-4)
    assert score(names["rows"], [names["four_bit"]])["loss"][0] != names["scored"]["loss"][0]
    store = ScoreStore.from_hub("tester/alpaca-scores", "downloaded")
    assert sum(table["rows"] for table in store.tables()) > 0


def test_evaluate_example(pool_rows, tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pool_rows.select(range(4)).to_json("train.jsonl")
    pool_rows.select(range(4, 10)).add_column("source", ["a", "b"] * 3).to_json("heldout.jsonl")
    names = {}
    exec(example("Evaluate").replace("outputs/alpaca-iterit", str(tiny_model_dir)), names)
    assert names["loss"].bits_per_byte() > 0
    assert list(names["loss"].to_dict()["groups"]) == ["a", "b"]
    assert names["answers"].to_dict()["rows_with_value"] == 1


def test_scores_table():
    from hf_datasel.scores import list_scores

    names_in_table = re.findall(r"^\| `(\w+)` \|", TEXT.split("\n## Scores", 1)[1].split("\n## ")[0], re.MULTILINE)
    assert sorted(names_in_table) == sorted(score_class.__name__ for score_class in list_scores().values())


def test_links():
    links = re.findall(r"\]\((?!http)([^)#]+)\)|(?:src|srcset)=\"(?!http)([^\"]+)\"", TEXT)
    missing = [link or image for link, image in links if not (README.parent / (link or image)).exists()]
    assert not missing


def test_all_commands_are_shown():
    from hf_datasel.cli.main import COMMANDS

    shown = set(re.findall(r"^hf-datasel (\w+)", TEXT, re.MULTILINE))
    assert shown == set(COMMANDS)


def test_number_of_diverse_evol_trainings():
    rounds = DiverseEvol().plan(1100, 3, 10_000)
    assert (len(rounds), sum(plan.restart for plan in rounds)) == (11, 10)
    assert "(`DiverseEvol`: all eleven of them;" in TEXT
    assert "ten more trainings from the base weights" in TEXT
