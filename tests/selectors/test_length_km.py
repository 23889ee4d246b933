import numpy as np
import pytest

from hf_datasel import score, select
from hf_datasel.errors import ColumnError, ConfigError, ScoreError, SelectionError
from hf_datasel.scores import Cluster, Length, Loss
from hf_datasel.selectors import LengthKM, get_selector
from hf_datasel.strategies.clusters import top_per_cluster
from hf_datasel.testing import contract


@contract(
    LengthKM(),
    LengthKM(by="num_tokens", shares="equal"),
    LengthKM(clusters=Cluster(k=3), by=Length()),
)
def test_contract(check, selector, full, tiny_model_dir):
    check(selector, full, tiny_model_dir)


@pytest.mark.parametrize("shares", ["proportional", "equal"])
@pytest.mark.parametrize("budget", [1, 4, 9])
def test_the_longest_of_each_cluster(gaps, shares, budget):
    length = np.array(gaps["num_tokens"][:], dtype=float)
    ids = np.array(gaps["cluster_id"][:], dtype=float)
    ids[2] = np.nan  # no response, so that it does not count in the size of its cluster either
    selected = select(gaps, LengthKM(by="num_tokens", shares=shares), size=budget)
    assert selected.indices.tolist() == top_per_cluster(length, ids, budget, shares).tolist()
    assert not {2, 5, 8} & set(selected.indices.tolist())


def test_by_default_of_prompt_and_response_in_tokens(full, tiny_model_dir):
    model = str(tiny_model_dir)
    lengths = score(full.remove_columns("num_tokens"), [Length("tokens")], model=model)["num_tokens"][:]
    expected = top_per_cluster(lengths, full["cluster_id"][:], 6)
    assert select(full, LengthKM(), size=6, model=model).indices.tolist() == expected.tolist()


def test_without_a_model_the_column_is_read(full):
    expected = top_per_cluster(full["num_tokens"][:], full["cluster_id"][:], 6)
    assert select(full, LengthKM(), size=6).indices.tolist() == expected.tolist()


def test_why_there_are_no_more(gaps):
    message = r"size=10 is more than the 9 of 12 rows .*1 empty_response, 1 in no cluster, 1 without num_tokens"
    with pytest.raises(SelectionError, match=message):
        select(gaps, LengthKM(by="num_tokens"), size=10)


def test_a_row_is_counted_once_where_it_has_neither(gaps):
    ids = [None if at in (5, 8) else each for at, each in enumerate(gaps["cluster_id"][:])]
    data = gaps.remove_columns("cluster_id").add_column("cluster_id", ids)
    assert select(data, LengthKM(by="num_tokens"), size=9).provenance["exclusions"] == {"in no cluster": 2}


def test_clusters_fitted_here_are_recorded(full):
    selected = select(full, LengthKM(clusters=Cluster(k=3), by="num_tokens"), size=5)
    assert [spec["score"] for spec in selected.provenance["scores"]] == ["cluster"]
    assert selected.provenance["scores"][0]["k"] == 3
    found = selected.scores("cluster_id")
    expected = top_per_cluster(full["num_tokens"][:], found, 5)
    assert selected.indices.tolist() == expected.tolist()


def test_more_clusters_than_rows(full):
    with pytest.raises(ScoreError, match=r"Cluster\(k=13\) has only 12 vectors to fit to\. Lower k"):
        select(full, LengthKM(clusters=Cluster(k=13), by="num_tokens"), size=3)


def test_all_equal_is_dataset_order(full):
    same = full.remove_columns(["num_tokens", "cluster_id"])
    same = same.add_column("num_tokens", [9] * 12).add_column("cluster_id", [4] * 12)
    assert select(same, LengthKM(by="num_tokens"), size=5).indices.tolist() == [0, 1, 2, 3, 4]


def test_within_a_token_budget(full):
    lengths = np.array(full["num_tokens"][:])
    selected = select(full, LengthKM(by="num_tokens"), tokens=120)
    assert 0 < lengths[selected.indices].sum() <= 120
    more = select(full, LengthKM(by="num_tokens"), size=len(selected.indices) + 1)
    assert lengths[more.indices].sum() > 120


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": Loss()}, r"LengthKM\(by=Loss.*a column, or Length\(\.\.\.\)"),
        ({"shares": "half"}, r"LengthKM\(shares='half'\): it has to be 'proportional' or 'equal'"),
        ({"clusters": 8}, r"LengthKM\(clusters=8\).*a column, or Cluster\(\.\.\.\)"),
        ({"clusters": Length()}, r"LengthKM\(clusters=Length.*a column, or Cluster\(\.\.\.\)"),
        ({"vectors": None}, r"LengthKM\(vectors=None\).*a column, or Embedding\(\.\.\.\)"),
    ],
)
def test_impossible_settings_are_found_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        LengthKM(**settings)


def test_a_column_that_is_missing(rows):
    with pytest.raises(ColumnError, match=r"LengthKM needs column 'cluster_id', .*\[Cluster\(") as caught:
        select(rows, LengthKM(by=Length()), size=3)
    assert "--scores cluster" in caught.value.cli_message


def test_in_a_recipe():
    made = get_selector("length_km", {"by": {"score": "length"}, "clusters": {"score": "cluster", "k": 3}})
    assert made == LengthKM(by=Length(), clusters=Cluster(k=3))
    assert get_selector("length_km") == LengthKM(by=Length("tokens"))
