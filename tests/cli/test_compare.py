"""`hf-datasel compare`: selecting with methods, reuse of selections, failures, and saved selections."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from hf_datasel import Selection, load_pool, select
from hf_datasel.cli import main
from hf_datasel.selection import SelectionSession
from hf_datasel.selectors import Longest, Random


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    """Draw nothing but in the tests of drawing."""
    monkeypatch.setattr("hf_datasel.cards.comparison.png_of", lambda figure, dark: b"")


@pytest.fixture
def scored_file(tmp_path, pool_rows):
    """Give the pool as a file, with two scores and two topics."""
    rows = pool_rows.add_column("ifd", np.linspace(0.1, 0.9, 24)).add_column("loss", np.linspace(3, 1, 24))
    rows = rows.add_column("topic", ["a", "b"] * 12)
    rows.to_parquet(tmp_path / "scored.parquet")
    return tmp_path / "scored.parquet"


@pytest.fixture
def compare(scored_file, tmp_path):
    """Give a function that runs the command with methods in a config file."""

    def run(methods, *more):
        (tmp_path / "compare.yaml").write_text(yaml.safe_dump({"methods": methods, "selection_size": 5}))
        command = ["compare", "--config", str(tmp_path / "compare.yaml"), "--dataset_name", str(scored_file)]
        return main([*command, "--output_dir", str(tmp_path / "out"), *more])

    return run


@pytest.fixture
def runs(monkeypatch):
    """Count the selections that are made."""
    calls, select = [], SelectionSession.select

    def counted(self, selector, *args, **more):
        calls.append(selector)
        return select(self, selector, *args, **more)

    monkeypatch.setattr(SelectionSession, "select", counted)
    return calls


def facts(tmp_path):
    return json.loads((tmp_path / "out" / "compare.json").read_text(encoding="utf-8"))


def test_methods(compare, tmp_path, scored_file, capsys):
    methods = ["random", {"random": {"seed": 7}}, "longest", {"top": {"by": "ifd"}}, {"top": {"by": "loss"}}]
    assert compare(methods) == 0
    names = ["Random (seed=0)", "Random (seed=7)", "Longest", "Top by ifd", "Top by loss"]
    printed = capsys.readouterr().out
    assert compare(methods, "--json") == 0
    assert json.loads(capsys.readouterr().out) == facts(tmp_path)
    result = facts(tmp_path)
    assert [item["name"] for item in result["selections"]] == names
    assert [item["seed"] for item in result["selections"]] == [0, 7, 0, 0, 0]
    assert result["overlap"]["matrix"][3][4] == 0
    assert [item["column"] for item in result["scores"]] == ["ifd", "loss"]
    data = load_pool(str(scored_file))
    top = Selection.load(tmp_path / "out" / "top-by-ifd")
    assert top.indices.tolist() == [23, 22, 21, 20, 19]
    assert Selection.load(tmp_path / "out" / "random-seed=7") != select(data, Random(), size=5, seed=0)
    assert {"compare.html", "compare.md", "compare.json"} <= {path.name for path in (tmp_path / "out").iterdir()}
    lines = [line for line in printed.splitlines() if line.startswith("Top by ifd ")]
    assert lines[0].split()[3] == "5"
    assert "4 Top by ifd" in printed
    assert "Two random selections of these sizes would have 0.12." in printed  # 5 of 24: 5 / 43


def test_methods_on_the_command_line(scored_file, tmp_path):
    command = ["compare", "--dataset_name", str(scored_file), "--output_dir", str(tmp_path / "out")]
    assert main([*command, "--methods", "random", '{"top": {"by": "ifd"}}', "--selection_ratio", "0.25"]) == 0
    assert [(item["name"], item["rows"]) for item in facts(tmp_path)["selections"]] == [
        ("Random", 6),
        ("Top by ifd", 6),
    ]


def test_failed_method(compare, tmp_path, capsys):
    assert compare(["random", {"top": {"by": "idf"}}, "longest"]) == 2
    printed = capsys.readouterr()
    last = printed.err.strip().splitlines()[-1]
    assert last == "hf-datasel compare: error: 1 of 3 methods failed: Top by idf. See above."
    assert "Top by idf: failed. Top needs column 'idf'" in printed.out
    result = facts(tmp_path)
    assert [item["name"] for item in result["selections"]] == ["Random", "Longest"]
    [failed] = result["failures"]
    assert (failed["name"], failed["selector"]) == ("Top by idf", {"selector": "top", "by": "idf"})
    assert "Did you mean 'ifd'?" in failed["error"]
    assert "Failed methods" in (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")


def test_all_methods_fail(compare, tmp_path, capsys):
    assert compare(["random", "longest"], "--selection_size", "25") == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "None of the methods selected rows. Random: selection_size=25 is more than the 24 of 24 rows" in last
    assert not (tmp_path / "out" / "compare.html").exists()


# -- going on ---------------------------------------------------------------------------------------------------------
def test_second_run_reuses_selections(compare, runs, tmp_path):
    methods = ["random", {"random": {"seed": 1}}, {"top": {"by": "ifd"}}, "all"]
    assert compare(methods) == 0
    assert len(runs) == 4
    before = facts(tmp_path)
    assert compare(methods) == 0
    assert len(runs) == 4
    assert facts(tmp_path) == before
    assert compare([{"top": {"by": "loss"}}, *methods[1:]]) == 0  # under other names, with one more
    assert len(runs) == 5
    assert facts(tmp_path)["selections"][0]["name"] == "Top by loss"


def test_interrupted_run_continues(compare, runs, monkeypatch, capsys):
    select = Longest.select
    monkeypatch.setattr(Longest, "select", lambda self, round: (_ for _ in ()).throw(KeyboardInterrupt))
    assert compare(["random", "longest"]) == 130
    assert "Interrupted. Run the same command again to continue with what is in" in capsys.readouterr().err
    monkeypatch.setattr(Longest, "select", select)
    assert compare(["random", "longest"]) == 0
    assert [type(item).__name__ for item in runs] == ["Random", "Longest", "Longest"]


@pytest.mark.parametrize(
    ("more", "again"),
    [(["--selection_size", "6"], 2), (["--seed", "3"], 2), (["--selection_ratio", "0.21"], 2), (["--seed", "0"], 0)],
)
def test_changed_budget_or_seed(compare, runs, more, again, tmp_path, scored_file):
    methods = ["random", {"top": {"by": "ifd"}}]
    assert compare(methods) == 0
    if "--selection_ratio" in more:
        (tmp_path / "other.yaml").write_text(yaml.safe_dump({"methods": methods}))
        command = ["compare", "--config", str(tmp_path / "other.yaml"), "--dataset_name", str(scored_file)]
        assert main([*command, *more, "--output_dir", str(tmp_path / "out")]) == 0
        again = 0  # 0.21 of 24 rows are 5
    else:
        assert compare(methods, *more) == 0
    assert len(runs) == 2 + again


def test_changed_column(compare, runs, scored_file, tmp_path):
    assert compare(["random", {"top": {"by": "ifd"}}]) == 0
    data = load_pool(str(scored_file))
    changed = data.remove_columns("ifd").add_column("ifd", np.linspace(0.9, 0.1, 24))
    changed.to_parquet(tmp_path / "new.parquet")
    (tmp_path / "new.parquet").replace(scored_file)
    assert compare(["random", {"top": {"by": "ifd"}}]) == 0
    assert [type(item).__name__ for item in runs] == ["Random", "Top", "Top"]
    assert Selection.load(tmp_path / "out" / "top-by-ifd").indices.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "method",
    [
        {"superfiltering": {"model": "MODEL"}},
        {"top": {"by": {"score": "loss", "model": "MODEL"}}},
        {"within": {"method": {"selector": "graphfilter", "model": "MODEL"}, "groups": "topic"}},
        {"top": {"by": {"score": "length", "unit": "tokens", "model": "MODEL"}}},
    ],
    ids=["setting", "score", "nested", "tokenizer"],
)
def test_changed_weights(method, compare, runs, tiny_model_dir, tmp_path):
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    methods = json.loads(json.dumps([method]).replace("MODEL", str(model)))
    for _ in range(2):
        assert compare(methods) == 0
    assert len(runs) == 1
    weights = load_file(model / "model.safetensors")
    save_file({name: 1.5 * values for name, values in weights.items()}, model / "model.safetensors", {"format": "pt"})
    for _ in range(2):
        assert compare(methods) == 0
    assert len(runs) == 2


def test_changed_centroids_and_anchors(pool_rows, runs, tiny_model_dir, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
    pool_rows.add_column("embedding", vectors.tolist()).to_parquet(tmp_path / "rows.parquet")
    clusters = {"score": "cluster", "k": 2, "centroids": str(tmp_path / "centroids.npy")}
    anchors = {"score": "nuggets", "model": str(tiny_model_dir), "anchor_file": str(tmp_path / "anchors.jsonl")}
    methods = [{"km_random": {"clusters": clusters}}, {"nuggets_top": {"by": anchors}}]
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump({"methods": methods, "selection_size": 5}))
    command = ["compare", "--config", str(tmp_path / "compare.yaml"), "--dataset_name", str(tmp_path / "rows.parquet")]
    for first in (0, 0, 4):
        np.save(tmp_path / "centroids.npy", vectors[first : first + 2])
        pool_rows.select(range(first, first + 2)).to_json(tmp_path / "anchors.jsonl")
        assert main([*command, "--output_dir", str(tmp_path / "out")]) == 0
    assert [type(item).__name__ for item in runs] == ["KMRandom", "NuggetsTop"] * 2


def test_changed_code_of_own_selector(compare, runs, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a second edit within a second would run the first one's
    for first in (0, 0, 6):
        (tmp_path / "their_lab.py").write_text(
            "from dataclasses import dataclass\nimport numpy as np\nfrom hf_datasel.selectors import Selector\n"
            "@dataclass(frozen=True)\nclass Mine(Selector):\n    def select(self, round):\n"
            f"        return np.arange({first}, {first} + round.budget)\n"
        )
        sys.modules.pop("their_lab", None)
        nested = {"within": {"method": {"selector": "their_lab:Mine"}, "groups": "topic"}}
        assert compare(["their_lab:Mine", nested], "--allow_imports") == 0
    assert len(runs) == 4
    assert Selection.load(tmp_path / "out" / "mine").indices.tolist() == [6, 7, 8, 9, 10]


def test_unused_score_with_missing_model(compare, runs, tmp_path):
    vectors = {"score": "embedding", "model": str(tmp_path / "nowhere")}
    method = {"within": {"method": {"selector": "random"}, "groups": "topic", "vectors": vectors}}
    for _ in range(2):
        assert compare([method]) == 0
    assert len(runs) == 1


def test_changed_token_counts(pool_rows, runs, tmp_path):
    for tokens, expected in ((5, 4), (10, 2), (10, 2)):
        pool_rows.add_column("num_tokens", [tokens] * 24).to_parquet(tmp_path / "rows.parquet")
        command = ["compare", "--dataset_name", str(tmp_path / "rows.parquet"), "--output_dir", str(tmp_path / "out")]
        assert main([*command, "--methods", "random", "--selection_tokens", "20"]) == 0
        [selected] = facts(tmp_path)["selections"]
        assert (selected["rows"], selected["size"]) == (expected, 20)
    assert len(runs) == 2


def test_incomplete_record(compare, runs, tmp_path):
    assert compare(["random"]) == 0
    (tmp_path / "out" / "random" / "made_from.json").write_text("{")
    assert compare(["random"]) == 0
    (tmp_path / "out" / "random" / "indices.npy").unlink()
    assert compare(["random"]) == 0
    assert len(runs) == 3


def test_folders_are_not_shared(compare, tmp_path):
    assert compare([{"top": {"by": "ifd"}}]) == 0
    assert compare([{"random": {"seed": 2}}, {"top": {"by": "ifd"}}, "random"]) == 0
    assert Selection.load(tmp_path / "out" / "top-by-ifd").provenance["selector"]["by"] == "ifd"
    assert facts(tmp_path)["selections"][1]["name"] == "Top by ifd"


# -- saved selections -------------------------------------------------------------------------------------------------
@pytest.fixture
def saved(tmp_path, scored_file):
    """Give the folders of two saved selections."""
    data = load_pool(str(scored_file))
    for selector in (Random(), Longest()):
        select(data, selector, size=4).save(tmp_path / type(selector).__name__)
    return [str(tmp_path / "Random"), str(tmp_path / "Longest")]


def test_saved_selections(saved, scored_file, tmp_path, capsys):
    command = ["compare", "--selections", *saved, "--output_dir", str(tmp_path / "out")]
    assert main(command) == 0
    assert "Without --dataset_name it has no response lengths" in capsys.readouterr().out
    assert facts(tmp_path)["lengths"] is None
    assert main([*command, "--dataset_name", str(scored_file), "--scores", "loss", "--title", "Mine & yours"]) == 0
    assert "Without --dataset_name" not in capsys.readouterr().out
    result = facts(tmp_path)
    assert [group["name"] for group in result["lengths"]["groups"]] == ["pool", "Random", "Longest"]
    assert result["scores"][0]["column"] == "loss"
    assert "<title>Mine &amp; yours</title>" in (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")


def test_dataset_mismatch(saved, rows_file, tmp_path, capsys):
    lines = rows_file.read_text().splitlines()
    rows_file.write_text("\n".join(lines[:-1]))
    command = ["compare", "--selections", *saved, "--output_dir", str(tmp_path / "out")]
    assert main([*command, "--dataset_name", str(rows_file)]) == 2
    assert "was made from 24 rows, and this dataset has 23" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--metods random", "Unknown flag --metods. Did you mean '--methods'?"),
        ("--config TYPO", "unknown key 'metods'. Did you mean 'methods'?"),
        ("--selectors random", "Unknown flag --selectors. Did you mean '--methods'?"),
        ("--config SELECTORS", "unknown key 'selectors'. Did you mean 'methods'?"),
        ("--dataset_name ROWS", "Neither selections nor methods are named"),
        ("--methods random --selections x --dataset_name ROWS", "Both selections and methods are named"),
        ("--methods random", "No dataset is named"),
        ("--methods randm --dataset_name ROWS", "There is no selector 'randm'. Did you mean 'random'?"),
        ('--methods {"top":{"bye":"x"}} --dataset_name ROWS', "top has no setting 'bye'. Did you mean 'by'?"),
        ('--methods {"top":{"by":"x"},"random":{}} --dataset_name ROWS', "it has to be a name, or a name and its"),
        ('--methods {"random":{"seed":"x"}} --dataset_name ROWS', "methods['random']: seed='x' has to be an int"),
        ("--config ONE", "methods has to be a list of names, and is {'top': {'by': 'ifd'}}"),
        ("--methods random --dataset_name ROWS --selection_ratio 2", "selection_ratio=2.0 has to be a share"),
        ("--methods random --dataset_name ROWS --selection_tokens 9 --selection_size 2", "Pass one of them"),
        ("--methods random --dataset_name ROWS --clusters theme", "There is no column 'theme'"),
        ("--methods lab:Mine --dataset_name ROWS", "Permit it with --allow_imports if you trust it"),
        ("--selections nowhere", "'nowhere' holds no selection"),
        ("--selections RUN", "is a run with 11 rounds, each with its own selection: name one, as "),
    ],
)
def test_errors_are_one_line(command, message, rows_file, tmp_path, capsys):
    (tmp_path / "typo.yaml").write_text("metods: [random]\n")
    (tmp_path / "one.yaml").write_text(f"methods: {{top: {{by: ifd}}}}\ndataset_name: {rows_file}\n")
    for number in range(11):
        (tmp_path / "run" / "selections" / f"round-{number}").mkdir(parents=True)
        (tmp_path / "run" / "selections" / f"round-{number}" / "selection.json").write_text("{}")
    places = {"ROWS": rows_file, "RUN": tmp_path / "run", "TYPO": tmp_path / "typo.yaml", "ONE": tmp_path / "one.yaml"}
    (tmp_path / "selectors.yaml").write_text("selectors: [random]\n")
    places["SELECTORS"] = tmp_path / "selectors.yaml"
    words = [str(places.get(word, word)) for word in command.split()]
    assert main(["compare", *words, "--output_dir", str(tmp_path / "out")]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("hf-datasel compare: error: ")
    assert message in last
    assert not (tmp_path / "out" / "compare.html").exists()


def test_leftovers_of_earlier_comparisons(compare, tmp_path, capsys):
    assert compare([{"top": {"by": "ifd"}}, "longest"], "--scores", "ifd") == 0
    assert "from earlier comparisons" not in capsys.readouterr().out
    plots = tmp_path / "out" / "plots"
    assert {"overlap-light.png", "overlap-dark.png"} < {path.name for path in plots.iterdir()}
    (plots / "mine-light.png").write_bytes(b"mine")
    assert compare(["random"]) == 0
    message = "from earlier comparisons and not part of this one: longest, top-by-ifd."
    assert f"Also in {tmp_path / 'out'}, {message}\n" in capsys.readouterr().out
    assert not list(plots.glob("overlap-*"))
    assert (plots / "mine-light.png").is_file()
    assert (tmp_path / "out" / "longest" / "selection.json").is_file(), "it is found again where it is compared again"
