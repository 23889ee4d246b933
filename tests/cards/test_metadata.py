import pytest
import yaml

from hf_datasel.errors import PublishError
from hf_datasel.hub.card_yaml import carried_over, data_configs, joined, merged_metadata, split_card, to_yaml
from hf_datasel.hub.markdown import text

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
        "license_name": "Their Own License, 2.0",
        "language": "en",
        "task_categories": ["text-generation", "question-answering"],
        "pretty_name": "Not ours",
        "tags": ["x"],
    }
    assert carried_over(parent, "https://hub/datasets/a/b/blob/main/") == {
        "license": "cc-by-nc-4.0",
        "license_name": "Their Own License, 2.0",
        "license_link": "https://hub/datasets/a/b/blob/main/LICENSE.md",
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
    found = carried_over({"license": value, "language": value, "license_link": value}, "https://hub/")
    assert found.pop("license_as_written", "") == text(value)
    assert found == {}


def test_a_link_is_a_link():
    assert carried_over({"license_link": "javascript:alert(1)"}, "https://hub/") == {}
    assert carried_over({"license_link": "LICENSE"}) == {}
    assert carried_over({"license_link": "https://x.org/a?b=c"}) == {"license_link": "https://x.org/a?b=c"}


def merged(existing, before=None, now=None, replaced=("default",)):
    now = OURS if now is None else now
    plain = {key: value for key, value in now.items() if key != "configs"}
    return merged_metadata(existing, before or {}, plain, now["configs"], set(replaced))


def test_what_a_person_wrote_stays():
    mine = {"pretty_name": "A better name", "license": "apache-2.0", "extra_gated_prompt": "Please"}
    found = merged({**OURS, **mine, "tags": ["my-tag"]}, before=OURS)
    assert {key: found[key] for key in mine} == mine
    assert found["tags"] == ["my-tag", "hf_datasel"]
    assert found["language"] == ["en"]


def test_what_nobody_changed_is_renewed():
    now = {**OURS, "license": "cc0-1.0", "source_datasets": ["them/other"]}
    now.pop("language")
    found = merged({**OURS, "pretty_name": "Mine"}, before=OURS, now=now)
    assert (found["license"], found["source_datasets"], found["pretty_name"]) == ("cc0-1.0", ["them/other"], "Mine")
    assert "language" not in found


def test_a_card_that_was_never_ours_keeps_what_it_says():
    found = merged({"license": "cc0-1.0"})
    assert (found["license"], found["language"]) == ("cc0-1.0", ["en"])


def test_two_selections_have_the_licences_of_both():
    other = {**OURS, "license": "cc-by-nc-4.0", "language": ["en", "code"], "source_datasets": ["them/code"]}
    found = joined([OURS, other])
    assert found["license"] == ["mit", "cc-by-nc-4.0"]
    assert found["language"] == ["en", "code"]
    assert found["source_datasets"] == ["them/parent", "them/code"]
    assert found["pretty_name"] == "mine"
    assert joined([OURS, OURS])["license"] == "mit"
    named = [{"license_name": "a", "license_link": "x"}, {"license_name": "b", "license_link": "x"}]
    assert joined(named) == {"license_link": "x"}


def test_other_configurations_stay_and_ours_are_replaced():
    other = {"config_name": "k5", "data_files": "data/k5/*"}
    old = {"config_name": "round-7", "data_files": "data/round-7/*"}
    found = merged({"configs": [old, other]}, replaced={"default", "round-7"})
    assert [each["config_name"] for each in found["configs"]] == ["k5", "default"]


def test_there_is_one_default():
    with pytest.raises(PublishError, match=r"The configuration 'mine' is the repository's default already"):
        merged({"configs": [{"config_name": "mine", "data_files": [], "default": True}]})
    beside = {**OURS, "configs": [{"config_name": "k5", "data_files": []}]}
    found = merged({"configs": OURS["configs"]}, now=beside, replaced={"k5"})
    assert [each.get("default", False) for each in found["configs"]] == [True, False]


def test_words_that_yaml_once_took_for_booleans():
    metadata = split_card("---\nlanguage: [no, en]\nflag: true\n---\n")[0]
    assert metadata == {"language": ["no", "en"], "flag": True}
    assert split_card(to_yaml(metadata))[0] == metadata
    assert carried_over(metadata) == {"language": ["no", "en"]}


def test_a_card_that_begins_with_a_byte_order_mark():
    assert split_card("\ufeff---\nlicense: mit\n---\n# Title") == ({"license": "mit"}, "# Title")


@pytest.mark.parametrize("configs", ["default", ["default"], {"a": 1}])
def test_configurations_of_another_form_are_refused(configs):
    with pytest.raises(PublishError, match="has to be a list of mappings"):
        data_configs(to_yaml({"configs": configs}))


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
