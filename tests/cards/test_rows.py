"""Rows on cards and reports: which ones, and that their text stays text."""

import re

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import select
from hf_datasel.analysis import compare
from hf_datasel.cards.build import PublishTarget, gather
from hf_datasel.cards.card import card, page
from hf_datasel.cards.comparison import write_comparison
from hf_datasel.cards.report import read_facts, write_card, write_report
from hf_datasel.cards.row_examples import rows_of_one
from hf_datasel.selectors import Chain, InRange, Longest, Random, Top

HOSTILE = "</table><script>alert(1)</script> | a | <!-- {{ 7 * 7 }} `x` \0 \u202e ![x](https://example.org/x.png)"


@pytest.fixture
def rows():
    texts = [f"Answer {row} of the pool." for row in range(12)]
    texts[4] = HOSTILE
    return Dataset.from_dict(
        {
            "prompt": [f"Question {row}" for row in range(12)],
            "completion": texts,
            "ifd": np.linspace(0.1, 1.2, 12).round(2),
        }
    )


@pytest.fixture
def selection(rows):
    return select(rows, Chain([InRange("ifd", high=0.95)], Top(by="ifd")), size=6)  # rows 8 to 3


@pytest.fixture
def no_drawing(monkeypatch):
    monkeypatch.setattr("hf_datasel.cards.report.png", lambda *_: b"")


def shown_rows(content):
    return [(outcome, int(row)) for outcome, row in re.findall(r"^\| (.+?)<br>row (\d+)<br>", content, re.MULTILINE)]


def test_report_shows_both_sides_of_the_border(rows, selection, tmp_path, no_drawing):
    facts = gather([selection], rows, title="Rows")
    write_report(facts, tmp_path)
    content = (tmp_path / "report.md").read_text()
    assert shown_rows(content) == [
        ("rank 1 of 6", 8),
        ("rank 2 of 6", 7),
        ("rank 3 of 6", 6),
        ("rank 5 of 6", 4),
        ("rank 6 of 6", 3),
        ("not selected", 2),
        ("not selected", 1),
        ("with ifd ≥ 0.95", 9),
    ]
    assert "ifd 0.9 (rank 1) | Question 8 | Answer 8 of the pool. |" in content
    assert "those that `ifd` would have selected next and an excluded row for each of" in content
    shown = (tmp_path / "report.html").read_text()
    assert "<script" not in shown and "&lt;/table&gt;&lt;script&gt;alert(1)" in shown and "\0" not in shown
    assert shown.count('<img src="https') == 0
    assert read_facts(tmp_path / "facts.json") == facts


def test_cards_show_selected_rows_alone(rows, selection, tmp_path, no_drawing):
    published = gather([selection], rows, title="Rows", target=PublishTarget("me/rows"))
    local = gather([selection], rows, title="Rows")
    write_card(local, tmp_path)
    for content in (page(published), card(local), *(file.read_text() for file in tmp_path.glob("*.*"))):
        assert all(f"Answer {row} of" in content for row in (8, 7, 6, 3))
        assert not [row for row in range(12) if row not in range(3, 9) and f"Answer {row} of" in content]


def test_rows_without_an_order_have_no_border(rows):
    content = page(gather([select(rows, Random(), size=2)], rows, title="Rows"))
    assert [outcome for outcome, _ in re.findall(r"^\| (.+?)<br>row (\d+) \|", content, re.MULTILINE)] == [
        "rank 1 of 2",
        "rank 2 of 2",
    ]
    assert "ranked highest" not in content and "would have selected next" not in content


def test_comparison_shows_rows_of_one_selection_alone(rows, selection, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_datasel.cards.comparison.png_of", lambda *_: b"")
    selections = {
        "Top | <b>": selection,
        "Longest": select(rows, Longest(), size=3),
        "All but one": select(rows, Top("ifd"), size=11),
    }
    table = rows_of_one(selections, selection.pool(rows))
    assert "Only Top" not in table and "**Only Longest** has 1 of its 3 rows:" in table  # row 0
    assert "**Only All but one** has 4 of its 11 rows:" in table
    assert shown_rows(table)[-3:] == [("rank 1 of 11", 11), ("rank 2 of 11", 10), ("rank 3 of 11", 9)]
    two = rows_of_one(dict([*selections.items()][:2]), selection.pool(rows))
    assert "**Only Top &#124; &#60;b&#62;** has" in two and "<b>" not in two
    write_comparison(compare(selections, rows), tmp_path, "Three", table)
    assert "## Rows" in (tmp_path / "compare.md").read_text()
    assert rows_of_one({"Top": selection}, selection.pool(rows)) == ""


def test_pages_without_text_have_no_rows(rows):
    selection = select(rows, Longest(), size=2)
    assert "## Rows" not in page(gather([selection], title="Rows"))
    tokens = Dataset.from_dict({"input_ids": [[1, 2], [3, 4]], "labels": [[1, 2], [3, 4]]})
    assert "## Rows" not in page(gather([select(tokens, Random(), size=1)], tokens, title="Rows"))
