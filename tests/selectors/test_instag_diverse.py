import pytest

from hf_datasel import select
from hf_datasel.errors import ConfigError, SelectionError
from hf_datasel.scores import Cluster
from hf_datasel.selectors import InsTagDiverse
from hf_datasel.testing import contract

TAGS = [["a"], ["a", "b"], [], ["c"], ["a", "b", "c"], None, ["d"], ["a", "d"], ["b"], ["e"], ["a", "a"], ["b", "c"]]


@pytest.fixture(scope="module")
def tagged(full):
    return full.add_column("tags", TAGS)


@contract(InsTagDiverse(), InsTagDiverse(min_count=2))
def test_contract(check, selector, tagged, tiny_model_dir):
    check(selector, tagged, tiny_model_dir)


def test_passes_of_rows_with_new_tags(tagged):
    selection = select(tagged, InsTagDiverse(), size=10)
    # By number of tags: 4; 1, 7, 11; 0, 3, 6, 8, 9, 10.
    assert selection.indices.tolist() == [4, 7, 9, 1, 11, 6, 0, 3, 8, 10]
    assert selection.provenance["exclusions"] == {"without tags": 2}


def test_rare_tags_are_ignored(tagged):
    with pytest.raises(SelectionError, match=r"the 9 of 12 rows that can be selected \(3 without tags\)"):
        select(tagged, InsTagDiverse(min_count=2), size=10)
    assert 9 not in select(tagged, InsTagDiverse(min_count=2), size=9).indices


def test_clusters_are_no_tags():
    with pytest.raises(ConfigError, match=r"tags=.*the name of a column, or InsTag\(\.\.\.\)\."):
        InsTagDiverse(tags=Cluster(k=2))
