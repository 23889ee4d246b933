"""`hf-datasel report`: output files, plots and errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hf_datasel import Selection, select
from hf_datasel.cards.report import read_facts
from hf_datasel.cli import main
from hf_datasel.selectors import Random

RESULT = {"trained_on": "this selection", "metric": "exact match", "dataset": "sums", "value": 0.75}


@pytest.fixture
def run_folder(tmp_path, pool_rows):
    """Give the folder of a training run, as far as its selections go."""
    for index in range(2):
        selected = select(pool_rows, Random(), size=6, seed=index)
        selected.provenance |= {"round": index, "seed": 0}
        selected.save(tmp_path / "run" / "selections" / f"round-{index}")
    return tmp_path / "run"


def test_report_of_a_selection(selection, rows_file, tmp_path, capsys):
    (tmp_path / "results.json").write_text(json.dumps([RESULT]))
    command = ["report", "--selection", str(selection), "--dataset_name", str(rows_file)]
    command += ["--results", str(tmp_path / "results.json"), "--output_dir", str(tmp_path / "out")]
    assert main(command) == 0
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    images = {name for name in written if name.startswith("plots/")}
    assert written - images == {"report.html", "report.md", "facts.json"}
    printed = capsys.readouterr().out.strip().splitlines()
    assert printed == [
        f"Written to {tmp_path / 'out'}: report.html (all in one file), report.md, facts.json and {len(images)} "
        "images in plots/."
    ]
    facts = read_facts(tmp_path / "out" / "facts.json")
    assert facts["title"] == "Longest on rows"
    assert facts["sections"]["evaluation"] == [{**RESULT, "note": ""}]
    assert [item["name"] for item in facts["sections"]["lengths"]["groups"]] == ["pool", "selected", "Random"]
    assert "exact match" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("inner", [".", "selections"])
def test_report_of_a_run(inner, run_folder, tmp_path):
    config = tmp_path / "report.yaml"
    config.write_text(f"selection: {run_folder / inner}\noutput_dir: {tmp_path / 'out'}\ntitle: Two rounds\n")
    assert main(["report", "--config", str(config), "--title", "Both rounds"]) == 0
    facts = read_facts(tmp_path / "out" / "facts.json")
    assert facts["title"] == "Both rounds"
    assert [item["config"] for item in facts["rounds"]] == ["round-0", "round-1"]
    assert facts["sections"]["overlap"]["names"] == ["round 0", "round 1"]


def test_without_dataset(selection, tmp_path, capsys):
    assert main(["report", "--selection", str(selection), "--output_dir", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out.strip().splitlines()
    assert len(printed) == 2
    assert printed[0].startswith("Without --dataset_name it has no response lengths and no baselines")
    facts = read_facts(tmp_path / "out" / "facts.json")
    assert facts["title"] == "Longest on 24 rows"
    assert facts["sections"]["lengths"] is None


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--selektion SELECTION", "Unknown flag --selektion. Did you mean '--selection'?"),
        ("", "No selection is named. Pass --selection FOLDER"),
        ("--selection NOWHERE", "nowhere"),
        ("--selection SELECTION --dataset_name OTHER", "1 of 24 rows differ (the first that differs is row 3)"),
        ("--selection SELECTION --dataset_name SHORT", "was made from 24 rows, and this dataset has 23"),
        ("--selection SELECTION --results NOWHERE", "Cannot read"),
        ("--selection SELECTION --results BROKEN", "[0]['value'] has to be a number, not text"),
        ("--selection SELECTION --output_dir ROWS", "cannot be created"),
        ("--config TYPO", "unknown key 'dataset_nam'. Did you mean 'dataset_name'?"),
    ],
)
def test_errors_are_one_line(command, message, selection, rows_file, tmp_path, capsys):
    lines = rows_file.read_text().splitlines()
    changed = json.dumps({**json.loads(lines[3]), "output": "Something else."})
    files = {
        "OTHER": ("other.jsonl", "\n".join([*lines[:3], changed, *lines[4:]])),
        "SHORT": ("short.jsonl", "\n".join(lines[:-1])),
        "BROKEN": ("broken.json", json.dumps([{**RESULT, "value": "high"}])),
        "TYPO": ("typo.yaml", "dataset_nam: x\n"),
    }
    for name, content in files.values():
        (tmp_path / name).write_text(content)
    places = {key: tmp_path / name for key, (name, _) in files.items()}
    places |= {"SELECTION": selection, "ROWS": rows_file, "NOWHERE": tmp_path / "nowhere"}
    words = [str(places.get(word, word)) for word in command.split()]
    if "--output_dir" not in words:
        words += ["--output_dir", str(tmp_path / "out")]
    assert main(["report", *words]) == 2
    printed = capsys.readouterr()
    assert message in printed.err.strip().splitlines()[-1]
    assert printed.err.strip().splitlines()[-1].startswith("hf-datasel report: error: ")
    assert printed.out == ""
    assert not list((tmp_path / "out").glob("*"))


def test_without_matplotlib(selection, rows_file, tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    command = ["report", "--selection", str(selection), "--dataset_name", str(rows_file)]
    assert main([*command, "--output_dir", str(tmp_path / "out")]) == 2
    assert "matplotlib" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_selection_is_unchanged(selection, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_datasel.cards.report.png", lambda facts, name, dark: b"")
    before = {path.name: path.read_bytes() for path in Path(selection).iterdir()}
    main(["report", "--selection", str(selection), "--output_dir", str(tmp_path / "out")])
    assert {path.name: path.read_bytes() for path in Path(selection).iterdir()} == before
    assert len(Selection.load(selection).indices) == 6


def test_stale_plots_are_removed(selection, rows_file, run_folder, tmp_path, capsys):
    command, folder = ["report", "--output_dir", str(tmp_path / "out")], tmp_path / "out" / "plots"
    assert main([*command, "--selection", str(selection), "--dataset_name", str(rows_file)]) == 0
    assert (folder / "scores-response-words-light.png").is_file()
    (folder / "mine-light.png").write_bytes(b"mine")
    assert main([*command, "--selection", str(run_folder)]) == 0
    names = {path.name for path in folder.iterdir()} - {"mine-light.png"}
    assert len(names) < len(list(folder.iterdir()))
    assert not any(name.startswith(("scores-response-words", "lengths")) for name in names)
    assert f"{len(names)} images in plots/." in capsys.readouterr().out.strip().splitlines()[-1]
