"""The page of a comparison: one file that asks nothing of a network, and says what the numbers say."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import select
from hf_datasel.analysis import compare
from hf_datasel.cards import comparison as publishing
from hf_datasel.cards.comparison import notes, overlap_table, overview_table, page, write_comparison
from hf_datasel.errors import PublishError
from hf_datasel.selectors import Longest, Random, Top


@pytest.fixture(scope="module")
def data(pool_rows):
    rows = pool_rows.add_column("ifd", np.linspace(0.1, 1.3, len(pool_rows)))
    rows = rows.add_column("cluster_id", [position % 5 for position in range(len(rows))])
    return rows.add_column("embedding", np.random.default_rng(0).normal(size=(len(rows), 3)).tolist())


@pytest.fixture
def result(data):
    selections = {"Random": select(data, Random(), size=6), "Longest": select(data, Longest(), size=6)}
    return compare({**selections, "Top": select(data, Top("ifd"), size=6)}, data)


@pytest.fixture
def no_drawing(monkeypatch):
    monkeypatch.setattr(publishing, "png_of", lambda figure, dark: b"dark" if dark else b"light")


def test_files_of_a_comparison(result, tmp_path):
    paths = write_comparison(result, tmp_path, "Three selections")
    names = {path.relative_to(tmp_path).as_posix() for path in paths}
    stems = {"overlap", "lengths", "score-ifd", "clusters"}
    assert names == {
        "compare.html", "compare.md", "compare.json",
        *(f"plots/{stem}-{theme}.png" for stem in stems for theme in ("light", "dark")),
    }  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths if path.suffix == ".png")
    shown = (tmp_path / "compare.html").read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|srcset)="([^"]*)"', shown)
    assert len(sources) == 8
    assert all(item.startswith("data:image/png;base64,") for item in sources)
    assert "<title>Three selections</title>" in shown
    assert json.loads((tmp_path / "compare.json").read_text(encoding="utf-8")) == result


def test_overview_table(result):
    head, rows = overview_table(result)
    cells = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert list(cells) == ["pool", "Random", "Longest", "Top"]
    longest = result["selections"][1]
    assert cells["Longest"]["rows"] == "6"
    assert cells["Longest"]["words"] == f"{longest['size']:,}"
    assert cells["Longest"]["clusters"] == str(longest["coverage"]["covered"])
    assert cells["Longest"]["near-duplicates"] == f"{longest['near_duplicates']['share']:.1%}"
    assert cells["pool"]["seconds"] == ""
    assert cells["Top"]["median ifd"] == f"{np.median(np.linspace(0.1, 1.3, 24)[-6:]):.3g}"
    expected_text = " ".join(notes(result))
    assert "Words are those of whole rows (prompt and response)." in expected_text
    assert "Mean words and median words are those of a response." in expected_text
    assert "cosine similarity above 0.9 in embedding" in expected_text


def test_unknown_values_have_no_column(pool_rows):
    head, rows = overview_table(compare({"Random": select(pool_rows, Random(), size=3)}))
    assert head == ["", "rows", "words", "mean words", "median words", "duplicates", "rows scored", "seconds"]
    assert {len(row) for row in rows} == {len(head)}


def test_median_close_to_1_is_not_rounded_to_1(pool_rows):
    rows = pool_rows.add_column("ifd", [1.003] * 24)
    head, cells = overview_table(compare({"Random": select(rows, Random(), size=3)}, rows, scores=["ifd"]))
    assert cells[0][head.index("median ifd")] == "1.003"


def test_scores_whose_names_begin_in_the_same_way_have_columns_of_their_own(pool_rows):
    by = [f"quality_of_the_responses_by_model_{name}" for name in "ab"]
    data = pool_rows.add_column(by[0], np.arange(24.0)).add_column(by[1], np.arange(24.0) * 10)
    head, cells = overview_table(compare({"Top": select(data, Top(by=by[0]), size=3)}, data, scores=by))
    assert [cells[0][head.index(f"median {name}")] for name in by] == ["11.5", "115"]


def test_wide_table_is_split(result):
    head, rows = overview_table(result)
    tables = [part for part in page(result, "Three").split("\n\n") if part.startswith("|")][:2]
    heads = [[cell.strip() for cell in part.split("\n")[0].strip("|").split("|")] for part in tables]
    assert [item[0] for item in heads] == ["", ""]
    assert heads[0][1:] + heads[1][1:] == head[1:]
    assert all(part.count("\n") == len(rows) + 1 for part in tables)
    for named in heads:
        assert sum(max(map(len, cell.split()), default=0) + 2 for cell in named) <= 80
    narrow = compare({"Random": _plain(3)})
    assert sum(part.startswith("| ") for part in page(narrow, "One").split("## Settings")[0].split("\n\n")) == 1


def _plain(size):
    rows = Dataset.from_dict({"prompt": ["p"] * 9, "completion": ["c c"] * 9})
    return select(rows, Random(), size=size)


def test_plot_does_not_repeat_its_heading(result):
    for figure in publishing._figures(result):
        assert f"## {figure.heading}\n" in page(result, "Three")
        assert figure.draw().get_suptitle() == ""


def test_overlap_table(result):
    head, rows = overlap_table(result)
    assert head == ["", "1", "2"]
    assert [row[0] for row in rows] == ["1 Random", "2 Longest", "3 Top"]
    shared = result["overlap"]["matrix"]
    assert [row[1:] for row in rows] == [
        ["", ""],
        [f"{shared[1][0]:.3f}", ""],
        [f"{shared[2][0]:.3f}", f"{shared[2][1]:.3f}"],
    ]


def test_comparison_of_one_selection(data, tmp_path, no_drawing):
    alone = compare({"Random": select(data, Random(), size=6)})
    names = {path.name for path in write_comparison(alone, tmp_path, "One")}
    assert "overlap-light.png" not in names
    assert "lengths-light.png" in names
    assert "**1 selection from the 24 rows.**" in page(alone, "One")


def test_failed_methods_are_listed(result):
    result["failures"] = [{"name": "Top (by=idf)", "selector": {"selector": "top"}, "error": "needs column <idf>."}]
    shown = page(result, "Four")
    assert "## Failed methods" in shown
    assert "| Top (by=idf) | needs column &#60;idf&#62;. |" in shown


def test_foreign_text_is_escaped(tmp_path, no_drawing):
    name = '"><script>alert(1)</script>|x'
    columns = {"prompt": ["p"] * 9, "completion": ["c c"] * 9, name: np.arange(9.0), "a/../b": np.arange(9.0)}
    rows = Dataset.from_dict(columns)
    selections = {name: select(rows, Top(name), size=3), "other": select(rows, Top("a/../b"), size=3)}
    paths = write_comparison(compare(selections, rows), tmp_path, f"On {name}")
    assert all(path.resolve().is_relative_to(tmp_path.resolve()) for path in paths)
    assert "<script" not in (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "<script" not in (tmp_path / "compare.md").read_text(encoding="utf-8")


def test_similar_score_names_get_different_files(pool_rows, tmp_path, no_drawing):
    rows = pool_rows.add_column("a b", np.arange(24.0)).add_column("a-b", np.arange(24.0)[::-1])
    result = compare({"Random": select(rows, Random(), size=3)}, scores=["a b", "a-b"])
    names = {path.name for path in write_comparison(result, tmp_path, "Two")}
    assert {"score-a-b-light.png", "score-a-b-2-light.png"} <= names


def test_unwritable_folder(result, tmp_path, no_drawing):
    (tmp_path / "taken").write_text("")
    with pytest.raises(PublishError, match=r"Cannot write .*taken"):
        write_comparison(result, tmp_path / "taken", "x")
