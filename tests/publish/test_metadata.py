import pytest
import yaml

from hf_datasel.errors import PublishError
from hf_datasel.publish.metadata import carried_over, data_configs, merged_metadata, split_card

OURS = {
    "pretty_name": "mine",
    "license": "mit",
    "language": ["en"],
    "size_categories": ["n<1K"],
    "source_datasets": ["them/parent"],
    "tags": ["hf_datasel"],
    "configs": [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/default/*"}], "default": True}
    ],
}


def test_what_the_parent_says_is_carried_over():
    parent = {
        "license": "cc-by-nc-4.0",
        "license_link": "LICENSE.md",
        "language": "en",
        "task_categories": ["text-generation", "question-answering"],
        "pretty_name": "Not ours",
        "tags": ["x"],
    }
    assert carried_over(parent) == {
        "license": "cc-by-nc-4.0",
        "license_link": "LICENSE.md",
        "language": ["en"],
        "task_categories": ["text-generation", "question-answering"],
    }


def test_nothing_is_made_up():
    assert carried_over({}) == {}
    assert carried_over({"license": None, "language": [], "task_categories": "x" * 100}) == {}


@pytest.mark.parametrize(
    "value", ["mit\ntags: [evil]", "<script>", "{{ 7*7 }}", "a: b", "---", 7, {"a": 1}, ["a b", "c\n"]]
)
def test_values_that_are_no_words_are_left_out(value):
    assert carried_over({"license": value, "language": value, "license_link": value}) == {}


def test_a_link_is_a_link():
    assert carried_over({"license_link": "javascript:alert(1)"}) == {}
    assert carried_over({"license_link": "https://x.org/a?b=c"}) == {"license_link": "https://x.org/a?b=c"}


def test_what_a_person_wrote_stays():
    mine = {
        "pretty_name": "A better name",
        "license": "apache-2.0",
        "tags": ["my-tag"],
        "extra_gated_prompt": "Please",
    }
    merged = merged_metadata({**mine, "source_datasets": ["them/parent"]}, OURS, {"default"})
    assert {key: merged[key] for key in mine if key != "tags"} == {key: mine[key] for key in mine if key != "tags"}
    assert merged["tags"] == ["my-tag", "hf_datasel"]
    assert merged["language"] == ["en"]


def test_the_licence_of_another_parent_goes():
    merged = merged_metadata(
        {"license": "cc0-1.0", "language": ["fr"], "source_datasets": ["them/other"]}, OURS, set()
    )
    assert (merged["license"], merged["language"], merged["source_datasets"]) == ("mit", ["en"], ["them/parent"])


def test_other_configurations_stay_and_ours_are_replaced():
    other = {"config_name": "k5", "data_files": "data/k5/*"}
    old = {"config_name": "round-7", "data_files": "data/round-7/*"}
    merged = merged_metadata({"configs": [old, other]}, OURS, {"default", "round-7"})
    assert [each["config_name"] for each in merged["configs"]] == ["k5", "default"]


def test_there_is_one_default():
    k5 = [{"config_name": "k5", "data_files": [], "default": True}]
    merged = merged_metadata({"configs": OURS["configs"]}, {**OURS, "configs": k5}, {"k5"})
    assert [each.get("default", False) for each in merged["configs"]] == [True, False]


@pytest.mark.parametrize(
    ("card", "metadata", "body"),
    [
        ("---\nlicense: mit\n---\n# Title\n", {"license": "mit"}, "# Title\n"),
        ("---\r\nlicense: mit\r\n---\r\n# Title", {"license": "mit"}, "# Title"),
        ("---\n---\ntext", {}, "text"),
        ("no metadata\n---\nx: 1\n---\n", {}, "no metadata\n---\nx: 1\n---\n"),
        ("", {}, ""),
    ],
)
def test_splits_a_card(card, metadata, body):
    assert split_card(card) == (metadata, body)


@pytest.mark.parametrize("head", ["a: [", "- a\n- b", "just words"])
def test_metadata_that_cannot_be_read_is_refused(head):
    with pytest.raises(PublishError, match="The metadata of the card that is there"):
        split_card(f"---\n{head}\n---\n")


def test_lists_the_files_of_configurations():
    configs = [
        {"config_name": "a", "data_files": "a/*.parquet"},
        {"config_name": "b", "data_files": ["b/1", "b/2"]},
        {
            "config_name": "c",
            "data_files": [{"split": "train", "path": ["c/1", "c/2"]}, {"split": "test", "path": "c/3"}],
        },
        {"data_dir": "x"},
    ]
    assert data_configs(f"---\n{yaml.safe_dump({'configs': configs})}---\n") == {
        "a": ["a/*.parquet"], "b": ["b/1", "b/2"], "c": ["c/1", "c/2", "c/3"], "default": [],
    }  # fmt: skip
    assert data_configs(None) == {}
