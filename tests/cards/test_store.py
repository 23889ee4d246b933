"""Scores that go through the Hub: nothing is computed again, and nothing that is not ours is taken."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import load_dataset
from huggingface_hub import HfApi

from hf_datasel import score
from hf_datasel.errors import PublishError
from hf_datasel.scores import Loss, SelectIT
from hf_datasel.scoring import logprobs as forward
from hf_datasel.scoring.store.store import ScoreStore

REPO = "tester/scores"


@pytest.fixture
def filled(tmp_path, tiny_model_dir, pool_rows):
    store = ScoreStore(tmp_path / "mine")
    score(pool_rows, [Loss(), SelectIT(level="token")], model=tiny_model_dir, store=store)
    return store


def test_pulled_store_is_used(local_hub, tmp_path, filled, tiny_model_dir, pool_rows, monkeypatch):
    expected = score(pool_rows, [Loss(), SelectIT(level="token")], model=tiny_model_dir)
    info = filled.push_to_hub(REPO)
    assert info.commit_message == "Add scores: 48 entries"
    existing = ScoreStore.from_hub(REPO, tmp_path / "theirs")
    assert [item["rows"] for item in existing.tables()] == [24, 24]
    monkeypatch.setattr(forward.LogprobRunner, "hidden", None)  # no pass can be run
    result = score(pool_rows, [Loss(), SelectIT(level="token")], model=tiny_model_dir, store=existing)
    assert result.to_dict() == expected.to_dict()


def test_stores_are_merged(local_hub, tmp_path, filled, tiny_model_dir, pool_rows):
    first = filled.push_to_hub(REPO)
    assert filled.push_to_hub(REPO).oid == first.oid
    other = ScoreStore(tmp_path / "other")
    score(pool_rows, [Loss(over="pair")], model=tiny_model_dir, store=other)
    other.push_to_hub(REPO)
    assert len(ScoreStore.from_hub(REPO, tmp_path / "theirs").tables()) == 2
    parts = [path for path in HfApi().list_repo_files(REPO, repo_type="dataset") if path.endswith(".parquet")]
    assert len(parts) == 3


def test_card_of_a_store(local_hub, filled):
    filled.push_to_hub(REPO)
    folder = filled.tables()[0]["folder"]
    assert load_dataset(REPO, folder, split="train").num_rows == 24
    card = Path(HfApi().hf_hub_download(REPO, "README.md", repo_type="dataset")).read_text()
    assert f'ScoreStore.from_hub("{REPO}", "scores")' in card
    assert f"`{folder}`: 24 entries" in card


def test_foreign_card_is_preserved(local_hub, filled):
    api = HfApi()
    api.create_repo(REPO, repo_type="dataset")
    api.upload_file(path_or_fileobj=b"Mine.\n", path_in_repo="README.md", repo_id=REPO, repo_type="dataset")
    filled.push_to_hub(REPO, private=False)
    assert Path(api.hf_hub_download(REPO, "README.md", repo_type="dataset")).read_text() == "Mine.\n"


def test_other_files_are_not_pulled(local_hub, tmp_path, filled):
    api = HfApi()
    filled.push_to_hub(REPO)
    for path in ("nll-0123456789abcdef/evil.py", "notes.parquet"):
        api.upload_file(path_or_fileobj=b"x", path_in_repo=path, repo_id=REPO, repo_type="dataset")
    ScoreStore.from_hub(REPO, tmp_path / "theirs")
    names = {path.name for path in (tmp_path / "theirs").rglob("*") if path.is_file()}
    assert "evil.py" not in names
    assert "notes.parquet" not in names


def test_empty_stores(local_hub, tmp_path):
    with pytest.raises(PublishError, match="holds no scores yet"):
        ScoreStore(tmp_path).push_to_hub(REPO)
    HfApi().create_repo(REPO, repo_type="dataset")
    with pytest.raises(PublishError, match="'tester/scores' holds no scores"):
        ScoreStore.from_hub(REPO, tmp_path)


@pytest.mark.parametrize(("private", "gated", "word"), [(True, False, "private"), (False, "auto", "gated")])
def test_scores_of_a_private_parent_do_not_become_public(
    local_hub, tmp_path, tiny_model_dir, pool_rows, private, gated, word
):
    pool_rows.push_to_hub("tester/parent")
    rows = load_dataset("tester/parent", split="train")
    store = ScoreStore(tmp_path / "mine")
    score(rows, [Loss()], model=tiny_model_dir, store=store)
    store.push_to_hub("tester/before")
    assert not local_hub.repo("tester/before").private
    local_hub.repo("tester/parent").private, local_hub.repo("tester/parent").gated = private, gated
    local_hub.granted.add("tester")
    pulled = ScoreStore.from_hub("tester/before", tmp_path / "theirs")
    for each in (store, pulled):
        with pytest.raises(PublishError, match=f"The parent 'tester/parent' is {word}"):
            each.push_to_hub(REPO)
        assert ("dataset", REPO) not in local_hub.repos
    store.push_to_hub(REPO, private=True)
    assert local_hub.repo(REPO).private


def test_scores_of_unknown_rows_are_private_by_default(local_hub, tmp_path, filled, tiny_model_dir, pool_rows):
    filled.push_to_hub(REPO)
    assert local_hub.repo(REPO).private
    pool_rows.push_to_hub("tester/parent")
    score(load_dataset("tester/parent", split="train"), [Loss(over="pair")], model=tiny_model_dir, store=filled)
    filled.push_to_hub("tester/both")
    assert local_hub.repo("tester/both").private, "some of its entries are of unknown rows"
