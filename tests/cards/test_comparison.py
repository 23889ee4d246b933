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
from hf_datasel.cards.comparison import matrix, notes, overview, page, write_comparison
from hf_datasel.errors import PublishError
from hf_datasel.selectors import Longest, Random, Top


@pytest.fixture(scope="module")
def data(pool_rows):
    rows = pool_rows.add_column("ifd", np.linspace(0.1, 1.3, len(pool_rows)))
    rows = rows.add_column("cluster_id", [at % 5 for at in range(len(rows))])
    return rows.add_column("embedding", np.random.default_rng(0).normal(size=(len(rows), 3)).tolist())


@pytest.fixture
def found(data):
    made = {"Random": select(data, Random(), size=6), "Longest": select(data, Longest(), size=6)}
    return compare({**made, "Top": select(data, Top("ifd"), size=6)}, data)


@pytest.fixture
def no_drawing(monkeypatch):
    monkeypatch.setattr(publishing, "png_of", lambda figure, dark: b"dark" if dark else b"light")


def test_all_files_are_written_and_the_page_holds_its_images(found, tmp_path):
    paths = write_comparison(found, tmp_path, "Three selections")
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
    assert all(each.startswith("data:image/png;base64,") for each in sources)
    assert "<title>Three selections</title>" in shown
    assert json.loads((tmp_path / "compare.json").read_text(encoding="utf-8")) == found


def test_the_table_says_what_the_facts_say(found):
    head, rows = overview(found)
    cells = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert list(cells) == ["pool", "Random", "Longest", "Top"]
    longest = found["selections"][1]
    assert cells["Longest"]["rows"] == "6"
    assert cells["Longest"]["words"] == f"{longest['size']:,}"
    assert cells["Longest"]["clusters"] == str(longest["coverage"]["covered"])
    assert cells["Longest"]["near copies"] == f"{longest['near_copies']['share']:.1%}"
    assert cells["pool"]["seconds"] == ""
    assert cells["Top"]["median ifd"] == f"{np.median(np.linspace(0.1, 1.3, 24)[-6:]):.3g}"
    said = " ".join(notes(found))
    assert "Words are those of whole rows (prompt and response)." in said
    assert "Mean words and median words are those of a response." in said
    assert "cosine above 0.9 in embedding" in said


def test_what_is_not_known_has_no_column(pool_rows):
    head, rows = overview(compare({"Random": select(pool_rows, Random(), size=3)}))
    assert head == ["", "rows", "words", "mean words", "median words", "duplicates", "rows scored", "seconds"]
    assert {len(row) for row in rows} == {len(head)}


def test_a_median_beside_1_is_not_written_as_1(pool_rows):
    rows = pool_rows.add_column("ifd", [1.003] * 24)
    head, cells = overview(compare({"Random": select(rows, Random(), size=3)}, rows, scores=["ifd"]))
    assert cells[0][head.index("median ifd")] == "1.003"


def test_a_wide_table_is_shown_in_parts_that_fit_the_page(found):
    head, rows = overview(found)
    tables = [part for part in page(found, "Three").split("\n\n") if part.startswith("|")][:2]
    heads = [[cell.strip() for cell in part.split("\n")[0].strip("|").split("|")] for part in tables]
    assert [each[0] for each in heads] == ["", ""]
    assert heads[0][1:] + heads[1][1:] == head[1:]
    assert all(part.count("\n") == len(rows) + 1 for part in tables)
    for named in heads:
        assert sum(max(map(len, cell.split()), default=0) + 2 for cell in named) <= 80
    narrow = compare({"Random": _plain(3)})
    assert sum(part.startswith("| ") for part in page(narrow, "One").split("## How each")[0].split("\n\n")) == 1


def _plain(size):
    rows = Dataset.from_dict({"prompt": ["p"] * 9, "completion": ["c c"] * 9})
    return select(rows, Random(), size=size)


def test_a_heading_is_not_said_again_in_its_plot(found):
    for _, heading, _, draw in publishing._figures(found):
        figure = draw()
        assert f"## {heading}\n" in page(found, "Three")
        assert figure.get_suptitle() == ""


def test_the_matrix_has_each_pair_once(found):
    head, rows = matrix(found)
    assert head == ["", "1", "2"]
    assert [row[0] for row in rows] == ["1 Random", "2 Longest", "3 Top"]
    shared = found["overlap"]["matrix"]
    assert [row[1:] for row in rows] == [
        ["", ""],
        [f"{shared[1][0]:.3f}", ""],
        [f"{shared[2][0]:.3f}", f"{shared[2][1]:.3f}"],
    ]


def test_one_selection_is_a_page_too(data, tmp_path, no_drawing):
    alone = compare({"Random": select(data, Random(), size=6)})
    names = {path.name for path in write_comparison(alone, tmp_path, "One")}
    assert "overlap-light.png" not in names
    assert "lengths-light.png" in names
    assert "**1 selection from the 24 rows.**" in page(alone, "One")


def test_methods_that_failed_are_listed(found):
    found["failed"] = [{"name": "Top (by=idf)", "selector": {"selector": "top"}, "error": "needs column <idf>."}]
    shown = page(found, "Four")
    assert "## What made no selection" in shown
    assert "| Top (by=idf) | needs column &#60;idf&#62;. |" in shown


def test_words_of_others_are_shown_and_never_obeyed(tmp_path, no_drawing):
    name = '"><script>alert(1)</script>|x'
    columns = {"prompt": ["p"] * 9, "completion": ["c c"] * 9, name: np.arange(9.0), "a/../b": np.arange(9.0)}
    rows = Dataset.from_dict(columns)
    made = {name: select(rows, Top(name), size=3), "other": select(rows, Top("a/../b"), size=3)}
    paths = write_comparison(compare(made, rows), tmp_path, f"On {name}")
    assert all(path.resolve().is_relative_to(tmp_path.resolve()) for path in paths)
    assert "<script" not in (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "<script" not in (tmp_path / "compare.md").read_text(encoding="utf-8")


def test_scores_of_like_names_have_files_of_their_own(pool_rows, tmp_path, no_drawing):
    rows = pool_rows.add_column("a b", np.arange(24.0)).add_column("a-b", np.arange(24.0)[::-1])
    found = compare({"Random": select(rows, Random(), size=3)}, scores=["a b", "a-b"])
    names = {path.name for path in write_comparison(found, tmp_path, "Two")}
    assert {"score-a-b-light.png", "score-a-b-2-light.png"} <= names


def test_a_folder_that_cannot_be_written(found, tmp_path, no_drawing):
    (tmp_path / "taken").write_text("")
    with pytest.raises(PublishError, match="Cannot write to"):
        write_comparison(found, tmp_path / "taken", "x")
