"""Local files that settings name: found by the kind of the setting, with their digests, on cards without folders."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields

import numpy as np
import pytest

from hf_datasel import Selection, score, select
from hf_datasel.cards.build import gather
from hf_datasel.cards.card import page
from hf_datasel.cards.sections.reproduce import recipe
from hf_datasel.scores import Cluster, Contamination, Duplicates, ImportedScore, Length, Nuggets, Similarity
from hf_datasel.scoring.setting_files import FILE, file_digest, named_files
from hf_datasel.selection.provenance import without_paths
from hf_datasel.selectors import BM25, Chain, Decontaminate, Random, RDSPlus, Top, TopShare, Weighted, Within
from hf_datasel.spec import list_classes


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Mine(Length):
    """A score of a user that reads a file."""

    table: str = field(default="table.csv", kw_only=True, metadata=FILE)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with files, some of them with names that settings also have for columns and datasets on the Hub."""
    monkeypatch.chdir(tmp_path)
    names = (
        "rows.jsonl",
        "questions.txt",
        "a.npy",
        "b.npy",
        "table.csv",
        "train",
        "source",
        "ifd",
        "main",
        "data/x.csv",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"content of {name}")
    return tmp_path


EXAM = {"exam": "questions.txt", "hub": {"dataset_name": "openai/gsm8k", "dataset_config": "main", "columns": ["ifd"]}}


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (RDSPlus(validation="rows.jsonl"), ["rows.jsonl"]),
        (Similarity("a/model", validation="me/tasks", subtask="source"), []),
        (Top(by=ImportedScore("a.npy", row_numbers="b.npy")), ["a.npy", "b.npy"]),
        (Nuggets(anchor_file="rows.jsonl"), ["rows.jsonl"]),
        (Contamination(EXAM), ["questions.txt"]),
        (
            Chain([Decontaminate(Contamination(EXAM)), TopShare("ifd", 0.5)], Top(by=Mine())),
            ["questions.txt", "table.csv"],
        ),
        (Within(Weighted(Top("ifd"), by="ifd"), Cluster(k=2, centroids="a.npy")), ["a.npy"]),
        (Within(Top("ifd"), "source"), []),
        (Duplicates(groups="missing.npy"), []),
        (BM25(validation="data"), ["data"]),
        (BM25(validation="dat*/*.csv"), ["dat*/*.csv"]),
    ],
    ids=lambda item: type(item).__name__ if not isinstance(item, list) else "",
)
def test_files_are_found_by_the_kind_of_the_setting(place, value, names):
    found = {file["path"]: file["sha256"] for file in named_files(value)}
    assert list(found) == names
    assert all(found[name] == sha256(place / name) for name in names if (place / name).is_file())


def test_folder_has_the_digest_of_the_lines_of_sha256sum(place):
    (place / "data" / "sub").mkdir()
    (place / "data" / "sub" / "y.csv").write_text("y")
    (place / "data" / ".cache").write_text("hidden")
    lines = "".join(f"{sha256(place / 'data' / name)}  {name}\n" for name in ("sub/y.csv", "x.csv"))
    (file,) = named_files(BM25(validation="data"))
    assert file == {"path": "data", "sha256": hashlib.sha256(lines.encode()).hexdigest(), "files": 2}


@pytest.mark.parametrize("kind", ["score", "selector", "filter"])
def test_folders_of_files_are_not_published(kind):
    for cls in list_classes(kind).values():
        names = [entry.name for entry in fields(cls) if entry.metadata.get("file")]
        record = {
            name: {"set": {"dataset_name": "/home/me/x"}} if name == "questions" else "/home/me/x" for name in names
        }
        assert "home" not in json.dumps(without_paths(record)), cls


def test_card_names_files_with_digests(pool_rows, tmp_path):
    target, scores = tmp_path / "target.jsonl", tmp_path / "scores.npy"
    pool_rows.select(range(3)).to_json(target)
    np.save(scores, np.random.default_rng(5).normal(size=len(pool_rows)).astype(np.float32))
    scored = score(pool_rows, ImportedScore(str(scores)))
    selector = Chain([TopShare(by="imported_score", share=0.5)], BM25(validation=str(target), copies="keep"))
    selection = select(scored, selector, size=3)
    selection.save(tmp_path / "selection")
    text = page(gather([Selection.load(tmp_path / "selection")], scored, title="x"))
    assert f"- 'target.jsonl' is a local file (sha256 {sha256(target)}): replace it with its path." in text
    shown = f"- 'scores.npy' is a local file (sha256 {sha256(scores)}), which the settings of imported_score name."
    assert shown in text.replace("\\", "")
    assert str(tmp_path) not in text


def test_recipe_of_a_training_run(pool_rows, tmp_path):
    target = tmp_path / "rows"
    target.mkdir()
    pool_rows.select(range(3)).to_json(target / "train.jsonl")
    selection = select(pool_rows, BM25(validation=str(target), copies="keep"), size=3)
    provenance = {**selection.provenance, "training": {"settings": {}, "in_python": []}}
    parent = {"rows": 24, "id": "0" * 64, "sources": [], "name": "me/rows", "config": None, "split": None}
    _, _, unsettled = recipe(without_paths(provenance), {**parent, "revision": None, "changed": False})
    assert unsettled == [
        f"'rows' is local, with 1 file (sha256 {file_digest(target)} of what `sha256sum` prints for them): replace it "
        "with its path."
    ]


def test_verifier_of_a_score(pool_rows):
    selection = select(pool_rows, Random(), size=3)
    spec = {"score": "pass_rate", "verifier": "my_checks:right", "resolved_verifier": f"sha256:{'ab' * 32}"}
    selection.provenance["scores"] = [spec]
    text = page(gather([selection], pool_rows, title="x"))
    assert f"The source code of my_checks:right has the sha256 {'ab' * 32}." in text.replace("\\", "")


def test_digest_of_a_pattern_does_not_depend_on_where_the_files_are(tmp_path):
    for place in ("here", "elsewhere"):
        (tmp_path / place / "data").mkdir(parents=True)
        for name in ("a", "b"):
            (tmp_path / place / "data" / f"{name}.csv").write_text(name)
    one, other = (named_files(Mine(table=f"{tmp_path}/{place}/*/*.csv")) for place in ("here", "elsewhere"))
    assert one[0]["sha256"] == other[0]["sha256"]
    (tmp_path / "elsewhere" / "data" / "b.csv").write_text("changed")
    assert named_files(Mine(table=f"{tmp_path}/elsewhere/*/*.csv"))[0]["sha256"] != one[0]["sha256"]
