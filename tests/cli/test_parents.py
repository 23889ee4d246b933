"""Rows of private, gated, public and unknown datasets on their way through score, select and push."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from hf_datasel import Selection, score, select
from hf_datasel.cli import main
from hf_datasel.errors import PublishError
from hf_datasel.formats import load_pool
from hf_datasel.hub.card_yaml import split_card
from hf_datasel.hub.parents import parents_of, write_parquet
from hf_datasel.selectors import Longest, Top

CARD = b"---\nlicense: cc-by-nc-4.0\n---\n"
KINDS = ("private", "gated", "public", "unknown")


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    monkeypatch.setattr("hf_datasel.hub.retry.WAIT", 0.01)
    monkeypatch.setattr("hf_datasel.cards.repository_files.png", lambda facts, name, dark: f"{name} {dark}".encode())


@pytest.fixture
def parent(local_hub, pool_rows, tmp_path):
    """Return a function that gives the name of a dataset of a kind: on the Hub, or a file for an unknown one."""

    def make(kind):
        path = tmp_path / "rows.parquet"
        pool_rows.to_parquet(path)
        if kind == "unknown":
            return str(path)
        files = {"README.md": CARD, "data/train-00000-of-00001.parquet": path.read_bytes()}
        local_hub.commit(f"tester/{kind}", files)
        repo = local_hub.repo(f"tester/{kind}")
        repo.private, repo.gated = kind == "private", "manual" if kind == "gated" else False
        local_hub.granted.add("tester")
        return f"tester/{kind}"

    return make


def run(*words):
    return main([str(word) for word in words])


def by_command_line(name, folder):
    """Return the scored file and the folder of a selection, made by two commands."""
    scored = folder / "score" / "scored.parquet"
    assert run("score", "--dataset_name", name, "--scores", "length", "--output_dir", folder / "score") == 0
    select_words = ("--selector_kwargs", '{"by": "response_words"}', "--selection_size", 6, "--save_subset", "true")
    command = (
        "select",
        "--dataset_name",
        scored,
        "--selector",
        "top",
        *select_words,
        "--output_dir",
        folder / "selected",
    )
    assert run(*command) == 0
    return scored, folder / "selected"


@pytest.mark.parametrize("kind", KINDS)
def test_command_line(kind, parent, local_hub, tmp_path, capsys):
    name = parent(kind)
    scored, folder = by_command_line(name, tmp_path)
    push = ("push", "--selection", folder, "--dataset_name", scored, "--repo_id", "tester/new")
    if kind in ("private", "gated"):
        for words in ((), ("--public",), ("--private", "false")):
            assert run(*push, *words) == 2
            message = capsys.readouterr().err.strip().splitlines()[-1]
            assert f"The parent 'tester/{kind}' is {kind}, but 'tester/new' would show its rows" in message
        local_hub.create_repo("tester/open")
        assert run(*push[:-1], "tester/open") == 2
        assert ("dataset", "tester/new") not in local_hub.repos
        assert len(local_hub.commits("tester/open")) == 1
    assert run(*push, *(("--private", "true") if kind in ("private", "gated") else ())) == 0
    assert local_hub.repo("tester/new").private == (kind != "public")
    metadata, text = split_card(local_hub.files("tester/new")["README.md"].decode())
    assert metadata.get("license") == (None if kind == "unknown" else "cc-by-nc-4.0")
    assert metadata.get("source_datasets") == (None if kind == "unknown" else [f"tester/{kind}"])
    if kind == "unknown":
        assert run(*push[:-1], "tester/shown", "--public") == 0
        assert not local_hub.repo("tester/shown").private
        assert "unknown" in text


@pytest.mark.parametrize("kind", KINDS)
def test_python(kind, parent, local_hub, tmp_path):
    name = parent(kind)
    dataset = load_pool(name) if kind == "unknown" else load_dataset(name, split="train")
    scored = score(dataset, ["length"])
    write_parquet(scored, tmp_path / "mine.parquet")
    loaded = load_pool(tmp_path / "mine.parquet")
    for place, rows in {"direct": scored, "file": loaded}.items():
        selection, repo_id = select(rows, Top(by="response_words"), size=6), f"tester/{place}"
        if kind in ("private", "gated"):
            for private in (None, False):
                with pytest.raises(PublishError, match=f"The parent 'tester/{kind}' is {kind}"):
                    selection.push_to_hub(repo_id, private=private)
            assert ("dataset", repo_id) not in local_hub.repos
            selection.push_to_hub(repo_id, private=True)
        else:
            selection.push_to_hub(repo_id)
        assert local_hub.repo(repo_id).private == (kind != "public")
        metadata = split_card(local_hub.files(repo_id)["README.md"].decode())[0]
        assert metadata.get("license") == (None if kind == "unknown" else "cc-by-nc-4.0")


def test_files_and_records_name_the_parent(parent, local_hub, tmp_path, capsys, monkeypatch):
    scored, folder = by_command_line(parent("private"), tmp_path)
    commit = local_hub.commits("tester/private")[-1].oid
    place = {"name": "tester/private", "revision": commit, "config": "default", "split": "train", "changed": False}
    place |= {"private": True, "gated": False, "license": "cc-by-nc-4.0"}
    assert json.loads(pq.read_schema(scored).metadata[b"hf_datasel"])["parents"] == place
    assert json.loads(scored.with_name("scored.origins.json").read_text())["parents"] == place
    assert place.items() <= Selection.load(folder).provenance["dataset"].items()
    assert parents_of(load_pool(folder / "subset.parquet")).only == place | {"changed": True}
    words = ("report", "--selection", folder, "--dataset_name", scored, "--output_dir", tmp_path / "report")
    with monkeypatch.context() as offline:
        offline.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert run(*words) == 0
    page = (tmp_path / "report" / "report.md").read_text()
    assert "cc-by-nc-4.0, as for the parent dataset" in page
    assert "tester/private" in page


def test_chain_of_files(parent, local_hub, tmp_path, capsys):
    _, folder = by_command_line(parent("gated"), tmp_path)
    scored, folder = by_command_line(folder / "subset.parquet", tmp_path / "again")
    push = ("push", "--selection", folder, "--dataset_name", scored, "--repo_id", "tester/new")
    assert run(*push) == 2
    assert "The parent 'tester/gated' is gated" in capsys.readouterr().err
    store_and_rows = ("--dataset_name", scored, "--scores", "compressibility", "--repo_id", "tester/new")
    assert run("score", *store_and_rows, "--output_dir", tmp_path / "third") == 2
    assert "The parent 'tester/gated' is gated" in capsys.readouterr().err
    assert ("dataset", "tester/new") not in local_hub.repos


def test_copy_of_the_rows_without_a_record(parent, local_hub, tmp_path, capsys):
    scored, folder = by_command_line(parent("private"), tmp_path)
    rows = load_pool(scored)
    rows.to_json(tmp_path / "copy.jsonl")
    push = ("push", "--selection", folder, "--dataset_name", tmp_path / "copy.jsonl", "--repo_id", "tester/new")
    assert run(*push) == 2
    assert "The parent 'tester/private' is private" in capsys.readouterr().err


def test_file_in_the_cache_of_the_hub(parent, local_hub, pool_rows, tmp_path):
    from huggingface_hub import hf_hub_download

    name = parent("private")
    path = hf_hub_download(name, "data/train-00000-of-00001.parquet", repo_type="dataset")
    selection = select(load_pool(path), Longest(), size=6)
    with pytest.raises(PublishError, match="The parent 'tester/private' is private"):
        selection.push_to_hub("tester/new")


def test_parent_that_is_private_and_out_of_reach(parent, local_hub, tmp_path, capsys):
    scored, folder = by_command_line(parent("private"), tmp_path)
    del local_hub.repos["dataset", "tester/private"]
    push = ("push", "--selection", folder, "--dataset_name", scored, "--repo_id", "tester/new")
    assert run(*push) == 2
    assert "The parent 'tester/private' is private" in capsys.readouterr().err
    assert run(*push, "--private", "true") == 0
    assert split_card(local_hub.files("tester/new")["README.md"].decode())[0]["license"] == "cc-by-nc-4.0"


def test_a_hub_that_cannot_be_asked(parent, local_hub, tmp_path, capsys, monkeypatch):
    name = parent("public")
    load_dataset(name, split="train")
    with monkeypatch.context() as offline:
        offline.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        offline.setattr("datasets.config.HF_HUB_OFFLINE", True)
        _scored, folder = by_command_line(name, tmp_path)
    printed = capsys.readouterr().err
    assert printed.count("The Hub does not say whether tester/public is private or gated") == 1
    record = Selection.load(folder).provenance["dataset"]
    assert record["name"] == "tester/public"
    assert "private" not in record


def test_damaged_record(parent, local_hub, tmp_path, capsys):
    scored, _folder = by_command_line(parent("private"), tmp_path)
    table = pq.read_table(scored)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"hf_datasel": b"{"}), scored)
    scored.with_name("scored.origins.json").unlink()
    assert not parents_of(load_pool(scored)).complete
    assert "its record is damaged" in capsys.readouterr().err


def test_contradicting_flags(parent, local_hub, tmp_path, capsys):
    scored, folder = by_command_line(parent("public"), tmp_path)
    push = ("push", "--selection", folder, "--dataset_name", scored, "--repo_id", "tester/new")
    assert run(*push, "--private", "true", "--public") == 2
    assert "--private true and --public contradict each other" in capsys.readouterr().err


def test_a_private_repository_stays_private(parent, local_hub, tmp_path, capsys):
    scored, folder = by_command_line(parent("unknown"), tmp_path)
    push = ("push", "--selection", folder, "--dataset_name", scored, "--repo_id", "tester/new")
    assert run(*push) == 0
    capsys.readouterr()
    assert run(*push, "--public") == 0
    assert local_hub.repo("tester/new").private
    assert "tester/new is private and stays so. Make it public in the settings" in capsys.readouterr().err


def test_card_of_a_scored_dataset_has_the_licence(parent, local_hub, tmp_path):
    words = ("--scores", "length", "--repo_id", "tester/scored", "--output_dir", tmp_path / "score")
    assert run("score", "--dataset_name", parent("public"), *words) == 0
    metadata = split_card(local_hub.files("tester/scored")["README.md"].decode())[0]
    assert metadata["license"] == "cc-by-nc-4.0"
    assert load_dataset("tester/scored", split="train").num_rows == 24


TOKEN = "ghp_0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX"


def test_secrets_in_rows_are_not_published(local_hub, pool_rows, tmp_path, capsys):
    rows = pool_rows.map(
        lambda row, number: {"output": row["output"] + f" {TOKEN}" * (number in (3, 7))}, with_indices=True
    )
    rows.to_parquet(tmp_path / "rows.parquet")
    score_words = ("--scores", "length", "--repo_id", "tester/scored", "--output_dir", tmp_path / "score")
    assert run("score", "--dataset_name", tmp_path / "rows.parquet", *score_words) == 2
    expected = "row 3 (GitHub token ghp_… in output), row 7 (GitHub token ghp_… in output). Remove the rows"
    message = capsys.readouterr().err
    assert expected in message, message.splitlines()[-1]
    select(rows, Longest(), size=24).save(tmp_path / "all")
    push = (
        "push",
        "--selection",
        tmp_path / "all",
        "--dataset_name",
        tmp_path / "rows.parquet",
        "--repo_id",
        "tester/new",
    )
    assert run(*push) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert expected in message
    assert message.endswith("or pass --allow_secrets if they may be public.")
    assert TOKEN[:6] not in message
    with pytest.raises(PublishError, match=r"row 3 \(GitHub token"):
        select(rows, Longest(), size=24).push_to_hub("tester/new")
    assert not local_hub.repos
    assert run(*push, "--allow_secrets") == 0
    assert run("score", "--dataset_name", tmp_path / "rows.parquet", *score_words, "--allow_secrets") == 0


def test_secrets_in_settings_are_found_before_rows_are_published(local_hub, pool_rows, tmp_path, capsys, monkeypatch):
    pool_rows.to_parquet(tmp_path / "rows.parquet")
    words = ("--scores", "length", "--repo_id", "tester/scored", "--output_dir", tmp_path / "score")
    monkeypatch.setattr("hf_datasel.cards.scored.describe_score", lambda spec, model: {**spec, "prompt": TOKEN})
    monkeypatch.setattr("hf_datasel.cards.scored.score_settings", lambda shown: str(shown))
    assert run("score", "--dataset_name", tmp_path / "rows.parquet", *words) == 2
    assert "README.md (GitHub token ghp_" in capsys.readouterr().err
    assert ("dataset", "tester/scored") not in local_hub.repos
