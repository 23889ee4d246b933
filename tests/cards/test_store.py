"""Scores that go through the Hub: nothing is computed again, and nothing that is not ours is taken."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from datasets import get_dataset_config_names, load_dataset
from huggingface_hub import DatasetCard, HfApi

from hf_datasel import Selection, score, select
from hf_datasel.cards.scored import push_scored
from hf_datasel.errors import PublishError
from hf_datasel.scores import Loss, SelectIT
from hf_datasel.scoring import logprobs as forward
from hf_datasel.scoring.store.card import config_names
from hf_datasel.scoring.store.store import ScoreStore
from hf_datasel.selectors import Longest

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


def read_card(repo_id=REPO):
    return Path(HfApi().hf_hub_download(repo_id, "README.md", repo_type="dataset")).read_text()


def test_card_of_a_store(local_hub, filled):
    filled.push_to_hub(REPO)
    assert get_dataset_config_names(REPO) == ["loss-local", "ratings-local"]
    assert load_dataset(REPO, "loss-local", split="train").features["values"].length == 2
    assert load_dataset(REPO, split="train").num_rows == 24
    card = read_card()
    assert f'ScoreStore.from_hub("{REPO}", "scores")' in card
    contents = "sum of the losses of tokens in nats, and number of the tokens: `Loss`, `IFD`, `PromptLoss`"
    assert f"| `loss-local` | {contents} | in a local folder, or in memory | `float32` | `nll-" in card
    assert "It is unknown which dataset the rows come from." in card


def test_card_has_licences_of_all_parents(local_hub, tmp_path, tiny_model_dir, pool_rows):
    for name, licence in (("tester/one", "cc-by-nc-4.0"), ("tester/two", "odc-by")):
        pool_rows.push_to_hub(name)
        card = f"---\nlicense: {licence}\nlanguage: en\n---\n".encode()
        HfApi().upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=name, repo_type="dataset")
        store = ScoreStore(tmp_path / licence)
        score(load_dataset(name, split="train"), [Loss()], model=tiny_model_dir, store=store)
        store.push_to_hub(REPO)
    metadata = DatasetCard.load(REPO).data
    assert metadata.license == ["odc-by", "cc-by-nc-4.0"]
    assert metadata.language == ["en"]
    assert sorted(metadata.source_datasets) == ["tester/one", "tester/two"]
    assert "[tester/one](https://huggingface.co/datasets/tester/one)" in read_card()


def test_names_are_readable_and_kept():
    model = {"weights": f"Qwen/Qwen3-0.6B@{'a' * 40}", "kind": "causal"}
    nll = {"computed": "nll", "version": 1, "model": model, "weights_dtype": "torch.bfloat16"}
    specs = {
        f"nll-{'1' * 16}": nll,
        f"nll-{'2' * 16}": {**nll, "weights_dtype": "torch.float32"},
        f"nll-{'3' * 16}": {**nll, "autocast": "bf16"},
        f"states-{'4' * 16}": {"computed": "states", "model": model},
        f"judge-{'5' * 16}": {"computed": "judge", "model": "gpt: 5", "base_url": "https://example.org"},
        f"unheard_of-{'6' * 16}": {"computed": "unheard_of", "model": {"digest": "0"}},
    }
    names = list(config_names(specs, {}).values())
    assert sorted(names) == [
        "embedding-Qwen3-0.6B", "judge-gpt-5", "loss-Qwen3-0.6B", "loss-Qwen3-0.6B-bfloat16",
        "loss-Qwen3-0.6B-float32", "unheard-of-local",
    ]  # fmt: skip
    existing = {"loss-Qwen3-0.6B": [f"nll-{'3' * 16}/*.parquet"], "mine": [f"nll-{'2' * 16}/*.parquet"]}
    kept = config_names(specs, existing)
    assert (kept[f"nll-{'3' * 16}"], kept[f"nll-{'2' * 16}"]) == ("loss-Qwen3-0.6B", "mine")
    assert kept[f"nll-{'1' * 16}"] == "loss-Qwen3-0.6B-bfloat16"
    assert len(set(kept.values())) == 6


def test_card_of_an_earlier_version_is_replaced(local_hub, tmp_path, filled, tiny_model_dir, pool_rows):
    filled.push_to_hub(REPO)
    folders = [table["folder"] for table in filled.tables()]
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/*.parquet\n" for name in folders)
    earlier = f"---\ntags:\n- hf_datasel\n- scores\nconfigs:\n{configs}---\n\n# Score store\n\nOutputs of models.\n"
    HfApi().upload_file(path_or_fileobj=earlier.encode(), path_in_repo="README.md", repo_id=REPO, repo_type="dataset")
    pulled = ScoreStore.from_hub(REPO, tmp_path / "theirs")
    score(pool_rows, [Loss(over="pair")], model=tiny_model_dir, store=pulled)
    pulled.push_to_hub(REPO)
    assert get_dataset_config_names(REPO) == ["loss-local", "ratings-local"]
    assert load_dataset(REPO, split="train").num_rows == 48
    assert read_card().count("# Score store") == 1


def test_other_text_is_preserved(local_hub, filled):
    api = HfApi()
    api.create_repo(REPO, repo_type="dataset")
    api.upload_file(path_or_fileobj=b"Mine.\n", path_in_repo="README.md", repo_id=REPO, repo_type="dataset")
    filled.push_to_hub(REPO, private=False)
    assert "Mine.\n" in read_card()
    assert load_dataset(REPO, split="train").num_rows == 24


@pytest.mark.parametrize("store_first", [True, False])
def test_store_beside_a_selection(local_hub, filled, pool_rows, store_first):
    selection = select(pool_rows, Longest(), size=5)
    pushes = [lambda: filled.push_to_hub(REPO), lambda: selection.push_to_hub(REPO, pool_rows)]
    for push in pushes if store_first else pushes[::-1]:
        push()
    filled.push_to_hub(REPO)
    assert load_dataset(REPO, split="train").num_rows == 5, "the rows are the default"
    assert load_dataset(REPO, "ratings-local", split="train").num_rows == 24
    assert Selection.from_hub(REPO).indices.tolist() == selection.indices.tolist()
    assert read_card().count("# Score store") == 1


@pytest.mark.parametrize("store_first", [True, False])
def test_store_beside_a_scored_dataset(local_hub, filled, tiny_model_dir, pool_rows, store_first):
    scored = score(pool_rows, [Loss()], model=tiny_model_dir, store=filled)
    pushes = [lambda: filled.push_to_hub(REPO), lambda: push_scored(scored, REPO, ["loss"])]
    for push in pushes if store_first else pushes[::-1]:
        push()
    assert load_dataset(REPO, split="train").column_names == scored.column_names
    assert load_dataset(REPO, "loss-local", split="train").num_rows == 24
    assert "# Score store" in read_card()


def test_dataset_without_configurations_is_not_hidden(local_hub, filled, pool_rows):
    content = io.BytesIO()
    pool_rows.to_parquet(content)
    local_hub.commit(REPO, {"train.parquet": content.getvalue()})
    with pytest.raises(PublishError, match=r"holds another dataset \(train\.parquet\)"):
        filled.push_to_hub(REPO, private=False)
    assert load_dataset(REPO, split="train").column_names == pool_rows.column_names


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
