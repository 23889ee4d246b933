"""The cards in `cards/`, byte for byte: a change of wording shows here, and `make cards` renews them."""

import re
from pathlib import Path

import pytest

from hf_datasel.cards.report import read_facts, write_card
from hf_datasel.hub.card_yaml import split_card

CARDS = sorted((Path(__file__).parents[2] / "cards").glob("*/facts.json"))


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_is_what_its_facts_give(path, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_datasel.cards.report.png", lambda *_: b"")  # bytes of a plot differ between versions
    written = {each.relative_to(tmp_path).as_posix() for each in write_card(read_facts(path), tmp_path)}
    assert (tmp_path / "README.md").read_bytes() == (path.parent / "README.md").read_bytes()
    assert (tmp_path / "facts.json").read_bytes() == path.read_bytes()
    there = {each.relative_to(path.parent).as_posix() for each in path.parent.rglob("*") if each.is_file()}
    assert written == there


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_its_plots_are_small_and_there(path):
    text = (path.parent / "README.md").read_text(encoding="utf-8")
    images = [path.parent / each for each in re.findall(r'src(?:set)?="([^"]+)"', text)]
    assert len(images) >= 6
    assert all(each.stat().st_size < 60_000 for each in images)


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_its_metadata_is_complete(path):
    metadata = split_card((path.parent / "README.md").read_text(encoding="utf-8"))[0]
    assert metadata.keys() >= {"pretty_name", "task_categories", "size_categories", "tags", "configs"}
    assert [each["config_name"] for each in metadata["configs"]][-1] == "scores"
    assert "license" not in metadata  # their parents are files, whose licence is not the card's to state


def test_which_there_are():
    named = ["alpaca-iterative-kmq", "alpaca-iterit", "alpaca-kmq", "gsm8k-superfiltering", "quickstart"]
    assert [path.parent.name for path in CARDS] == named
