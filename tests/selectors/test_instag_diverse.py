import pytest

from hf_datasel import select
from hf_datasel.errors import ColumnError, ConfigError, SelectionError
from hf_datasel.scores import Cluster
from hf_datasel.selection import explain
from hf_datasel.selectors import MIG, InsTagDiverse
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
    rare = "1 with only tags of fewer than 2 rows"
    with pytest.raises(SelectionError, match=rf"the 9 of 12 rows that can be selected \(2 without tags, {rare}\)"):
        select(tagged, InsTagDiverse(min_count=2), size=10)
    selection = select(tagged, InsTagDiverse(min_count=2), size=9)
    assert 9 not in selection.indices
    [sentence] = explain(selection, tagged, 9)["decided"]
    assert sentence.startswith("It was excluded: with only tags of fewer than 2 rows (min_count). Its tags")
    assert sentence.endswith("'e' (1).")
    with pytest.raises(SelectionError, match=r"None of the tags has 1,000 rows .* has 5\. Lower min_count\."):
        select(tagged, InsTagDiverse(min_count=1000), size=1)


def test_columns_that_are_no_tags(tagged):
    joined = tagged.add_column("ctags", [", ".join(tags) if tags else None for tags in TAGS])
    for selector in (InsTagDiverse(tags="ctags"), MIG(quality="deita", labels="ctags", vectors=None)):
        with pytest.raises(ColumnError, match=r"'a, b', and each text is one tag\. Split them: dataset\.map\("):
            select(joined, selector, size=3)
    split = joined.map(lambda row: {"ctags": [tag.strip() for tag in (row["ctags"] or "").split(",")]})
    assert select(split, InsTagDiverse("ctags"), size=9).indices.tolist() == [4, 7, 9, 1, 11, 6, 0, 3, 8]
    topics = tagged.add_column("topic", ["Arts, crafts", "Food", "Home, garden"] * 4)
    assert len(select(topics, InsTagDiverse("topic"), size=12).indices) == 12
    with pytest.raises(ColumnError, match=r"'ifd' holds \w+, and must contain tags: lists of texts"):
        select(tagged, InsTagDiverse("ifd"), size=3)


def test_clusters_are_no_tags():
    with pytest.raises(ConfigError, match=r"tags=.*the name of a column, or InsTag\(\.\.\.\)\."):
        InsTagDiverse(tags=Cluster(k=2))
