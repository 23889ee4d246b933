import pytest
import yaml

from hf_datasel.errors import PublishError
from hf_datasel.hub.card_yaml import (
    combined_metadata,
    data_configs,
    inherited_metadata,
    merged_metadata,
    split_card,
    to_yaml,
)
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


def test_inherited_metadata():
    parent = {
        "license": "cc-by-nc-4.0",
        "license_link": "LICENSE.md",
        "license_name": "Their Own License, 2.0",
        "language": "en",
        "task_categories": ["text-generation", "question-answering"],
        "pretty_name": "Not ours",
        "tags": ["x"],
    }
    assert inherited_metadata(parent, "https://hub/datasets/a/b/blob/main/") == {
        "license": "cc-by-nc-4.0",
        "license_name": "Their Own License, 2.0",
        "license_link": "https://hub/datasets/a/b/blob/main/LICENSE.md",
        "language": ["en"],
        "task_categories": ["text-generation", "question-answering"],
    }


def test_missing_metadata_stays_missing():
    assert inherited_metadata({}) == {}
    assert inherited_metadata({"license": None, "language": [], "task_categories": "x" * 100}) == {}


@pytest.mark.parametrize(
    "value", ["mit\ntags: [evil]", "<script>", "{{ 7*7 }}", "a: b", "---", 7, {"a": 1}, ["a b", "c\n"]]
)
def test_malformed_values_are_dropped(value):
    result = inherited_metadata({"license": value, "language": value, "license_link": value}, "https://hub/")
    assert result.pop("license_as_written", "") == text(value)
    assert result == {}


def test_license_link():
    assert inherited_metadata({"license_link": "javascript:alert(1)"}, "https://hub/") == {}
    assert inherited_metadata({"license_link": "LICENSE"}) == {}
    assert inherited_metadata({"license_link": "https://x.org/a?b=c"}) == {"license_link": "https://x.org/a?b=c"}


def merged(existing, before=None, now=None, replaced=("default",)):
    now = OURS if now is None else now
    plain = {key: value for key, value in now.items() if key != "configs"}
    return merged_metadata(existing, before or {}, plain, now["configs"], set(replaced))


def test_manual_changes_are_preserved():
    mine = {"pretty_name": "A better name", "license": "apache-2.0", "extra_gated_prompt": "Please"}
    result = merged({**OURS, **mine, "tags": ["my-tag"]}, before=OURS)
    assert {key: result[key] for key in mine} == mine
    assert result["tags"] == ["my-tag", "hf_datasel"]
    assert result["language"] == ["en"]


def test_generated_metadata_is_updated():
    now = {**OURS, "license": "cc0-1.0", "source_datasets": ["them/other"]}
    now.pop("language")
    result = merged({**OURS, "pretty_name": "Mine"}, before=OURS, now=now)
    assert (result["license"], result["source_datasets"], result["pretty_name"]) == ("cc0-1.0", ["them/other"], "Mine")
    assert "language" not in result


def test_foreign_card_is_preserved():
    result = merged({"license": "cc0-1.0"})
    assert (result["license"], result["language"]) == ("cc0-1.0", ["en"])


def test_combined_licences():
    other = {**OURS, "license": "cc-by-nc-4.0", "language": ["en", "code"], "source_datasets": ["them/code"]}
    result = combined_metadata([OURS, other])
    assert result["license"] == ["mit", "cc-by-nc-4.0"]
    assert result["language"] == ["en", "code"]
    assert result["source_datasets"] == ["them/parent", "them/code"]
    assert result["pretty_name"] == "mine"
    assert combined_metadata([OURS, OURS])["license"] == "mit"
    named = [{"license_name": "a", "license_link": "x"}, {"license_name": "b", "license_link": "x"}]
    assert combined_metadata(named) == {"license_link": "x"}


def test_configurations_are_merged():
    other = {"config_name": "k5", "data_files": "data/k5/*"}
    old = {"config_name": "round-7", "data_files": "data/round-7/*"}
    result = merged({"configs": [old, other]}, replaced={"default", "round-7"})
    assert [item["config_name"] for item in result["configs"]] == ["k5", "default"]


def test_second_default_is_refused():
    with pytest.raises(PublishError, match=r"The configuration 'mine' is the default of this repository already"):
        merged({"configs": [{"config_name": "mine", "data_files": [], "default": True}]})
    beside = {**OURS, "configs": [{"config_name": "k5", "data_files": []}]}
    result = merged({"configs": OURS["configs"]}, now=beside, replaced={"k5"})
    assert [item.get("default", False) for item in result["configs"]] == [True, False]


def test_yaml_booleans():
    metadata = split_card("---\nlanguage: [no, en]\nflag: true\n---\n")[0]
    assert metadata == {"language": ["no", "en"], "flag": True}
    assert split_card(to_yaml(metadata))[0] == metadata
    assert inherited_metadata(metadata) == {"language": ["no", "en"]}


def test_byte_order_mark():
    assert split_card("\ufeff---\nlicense: mit\n---\n# Title") == ({"license": "mit"}, "# Title")


@pytest.mark.parametrize("configs", ["default", ["default"], {"a": 1}])
def test_malformed_configurations_are_refused(configs):
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
def test_split_card(card, metadata, body):
    assert split_card(card) == (metadata, body)


@pytest.mark.parametrize("head", ["a: [", "- a\n- b", "just words"])
def test_invalid_metadata_is_refused(head):
    with pytest.raises(PublishError, match="The metadata of the existing card"):
        split_card(f"---\n{head}\n---\n")


def test_data_configs():
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
