"""Snapshots: the cards in `cards/` are rendered from their facts, byte for byte; `make cards` updates them."""

import re
from pathlib import Path

import pytest

from hf_datasel.cards.report import read_facts, write_card
from hf_datasel.hub.card_yaml import split_card

CARDS = sorted((Path(__file__).parents[2] / "cards").glob("*/facts.json"))


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_card_snapshot(path, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_datasel.cards.report.png", lambda *_: b"")  # bytes of a plot differ between versions
    written = {item.relative_to(tmp_path).as_posix() for item in write_card(read_facts(path), tmp_path)}
    assert (tmp_path / "README.md").read_bytes() == (path.parent / "README.md").read_bytes()
    assert (tmp_path / "facts.json").read_bytes() == path.read_bytes()
    existing = {item.relative_to(path.parent).as_posix() for item in path.parent.rglob("*") if item.is_file()}
    assert written == existing


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_plots_exist_and_are_small(path):
    text = (path.parent / "README.md").read_text(encoding="utf-8")
    images = [path.parent / item for item in re.findall(r'src(?:set)?="([^"]+)"', text)]
    assert len(images) >= 6
    assert all(item.stat().st_size < 60_000 for item in images)


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_metadata_is_complete(path):
    metadata = split_card((path.parent / "README.md").read_text(encoding="utf-8"))[0]
    assert metadata.keys() >= {"pretty_name", "task_categories", "size_categories", "tags", "configs"}
    assert [item["config_name"] for item in metadata["configs"]][-1] == "scores"
    assert "license" not in metadata  # their parents are files, whose licence is not the card's to state


def test_list_of_cards():
    named = [
        "alpaca-iterative-kmq",
        "alpaca-iterit",
        "alpaca-kmq",
        "alpaca-rds-plus",
        "gsm8k-superfiltering",
        "quickstart",
        "smollm2-iterit",
    ]
    assert [path.parent.name for path in CARDS] == named
