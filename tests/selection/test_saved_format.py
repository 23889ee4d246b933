"""Selections saved by earlier and later versions of hf_datasel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset

from hf_datasel.cards.build import gather
from hf_datasel.errors import SelectionError
from hf_datasel.selection import Selection, explain
from hf_datasel.selection.saved_format import FORMAT_VERSION, upgrade_provenance

FORMAT_1 = Path(__file__).parent / "format_1"
ROWS = 8
EXPLAINED = {"rounds": "Its heaviest n-grams", "tokens": "It is one of 6 rows that the filters kept."}


@pytest.fixture
def parent():
    """Give the dataset that the selections in `format_1` were made from."""
    return Dataset.from_dict(
        {
            "prompt": [f"Add {row} and {row}." for row in range(ROWS)],
            "completion": ["It is " + "very " * row + f"{2 * row}." for row in range(ROWS)],
            "num_tokens": [6 + row for row in range(ROWS)],
            "ifd": [round(0.2 + 0.1 * row, 1) for row in range(ROWS)],
        }
    )


@pytest.mark.parametrize("name", ["rounds", "tokens"])
def test_format_1(parent, name, tmp_path):
    selection = Selection.load(FORMAT_1 / name)
    assert selection.provenance["format_version"] == FORMAT_VERSION
    assert selection.apply(parent)["selection_rank"][:] == list(range(len(selection.indices)))
    decided = " ".join(explain(selection, parent, int(selection.indices[0]))["decided"])
    assert EXPLAINED[name] in decided
    assert gather([selection], parent, title="Selected rows")["parent"]["rows"] == ROWS
    selection.save(tmp_path)
    assert Selection.load(tmp_path) == selection


def test_format_1_keys():
    rounds, tokens = (Selection.load(FORMAT_1 / name).provenance for name in ("rounds", "tokens"))
    assert (rounds["selected"], rounds["selected_before"], rounds["exclusions"]) == (3, 2, {})
    assert [step["kind"] for step in rounds["plan"]] == ["selection", "selection"]
    assert tokens["tokens"] == {"budget": 25, "read_from_column": True, "selected": 21}
    assert (tokens["columns_verified"], tokens["scores"][0]["score"]) == ([], "length")
    assert tokens["exclusions"] == {"with response_words >= 8.5": 2}


def test_format_1_names():
    provenance = {
        "format_version": 1,
        "selector": {
            "selector": "chain",
            "filters": [{"filter": "no_near_copies"}],
            "then": {"selector": "iterit", "candidates": "paper"},
        },
        "scores": [{"score": "RewardGap"}, {"score": "my_lab:Loss"}],
    }
    upgraded = upgrade_provenance(provenance, "a folder")
    assert upgraded["selector"]["filters"] == [{"filter": "no_near_duplicates"}]
    assert upgraded["selector"]["then"] == {"selector": "iterit", "candidates": "filtered"}
    assert [spec["score"] for spec in upgraded["scores"]] == ["reward_gap", "my_lab:Loss"]


@pytest.mark.parametrize(
    ("versions", "writer"), [({"hf-datasel": "9.1"}, "hf_datasel 9.1"), ({}, "a later version of hf_datasel")]
)
def test_later_format_is_refused(tmp_path, versions, writer):
    Selection.load(FORMAT_1 / "rounds").save(tmp_path)
    path = tmp_path / "selection.json"
    provenance = json.loads(path.read_text()) | {"format_version": FORMAT_VERSION + 1, "versions": versions}
    path.write_text(json.dumps(provenance))
    with pytest.raises(SelectionError, match=f"format_version 4, written by {writer}, and .* reads up to 3. Upgrade"):
        Selection.load(tmp_path)
