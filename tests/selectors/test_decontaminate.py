"""Rows that repeat evaluation questions are excluded and counted, in selections, explanations and cards."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from datasets import Dataset

from hf_datasel import Selection, load_pool, score, select
from hf_datasel.cards.build import gather
from hf_datasel.cards.card import page
from hf_datasel.cli import main
from hf_datasel.errors import ColumnError, ConfigError, SelectionError
from hf_datasel.scores import Contamination, Length
from hf_datasel.selection import explain
from hf_datasel.selectors import Chain, Decontaminate, InRange, Longest, Random, Top, get_selector
from hf_datasel.testing import contract

EXAM = Contamination({"exam": str(Path(__file__).parents[1] / "scores" / "questions.txt")}, n=7)


@contract(
    Chain([Decontaminate(EXAM)], Random()),
    Chain([InRange(Length(), low=2), Decontaminate(EXAM, threshold=0.5)], Top(by="ifd")),
)
def test_contract(check, selector, full):
    check(selector, full)


@pytest.fixture
def selection(rows):
    return select(rows, Chain([Decontaminate(EXAM)], Longest()), size=9)


def test_contaminated_rows_are_excluded_and_counted_by_set(rows, tmp_path):
    (tmp_path / "other.txt").write_text("A banana\nHello there, it is lovely to see you!\n")
    both = Contamination({**EXAM.questions, "other": str(tmp_path / "other.txt")}, n=7)
    selected = select(rows, Chain([Decontaminate(both)], Longest()), size=9)
    assert selected.provenance["exclusions"] == {"contaminated with exam": 2, "contaminated with other": 1}
    assert not {1, 9, 11} & set(selected.indices.tolist())
    with pytest.raises(
        SelectionError, match=r"the 9 of 12 rows .*\(2 contaminated with exam, 1 contaminated with other\)"
    ):
        select(rows, Chain([Decontaminate(both)], Longest()), size=10)


def test_threshold(rows):
    shares = score(rows, EXAM)["contamination"][:]
    for threshold, expected in ((0, 3), (0.6, 2), (shares[1], 1), (0.9, 0)):
        selected = select(rows, Chain([Decontaminate(EXAM, threshold)], Random()), size=5)
        assert sum(selected.provenance["exclusions"].values()) == expected


def test_column_of_the_score(rows, selection):
    scored = score(rows, EXAM)
    selected = select(scored, Chain([Decontaminate()], Longest()), size=9)
    assert selected.indices.tolist() == selection.indices.tolist()
    assert selected.provenance["exclusions"] == selection.provenance["exclusions"] == {"contaminated with exam": 3}
    assert selected.provenance["scores"][0] == selection.provenance["scores"][0], "what the rows were compared with"
    with pytest.raises(ColumnError, match=r"Decontaminate needs column 'contamination', but"):
        select(rows, Chain([Decontaminate()], Longest()), size=9)
    with pytest.raises(ColumnError, match=r"Decontaminate needs column 'contamination_match', but"):
        select(scored.remove_columns("contamination_match"), Chain([Decontaminate()], Longest()), size=9)
    gaps = scored.remove_columns("contamination").add_column("contamination", [None, *scored["contamination"][1:]])
    selected = select(gaps, Chain([Decontaminate()], Longest()), size=8)
    assert selected.provenance["exclusions"] == {"without contamination": 1, "contaminated with exam": 3}


def test_record_says_what_was_checked(selection, tmp_path):
    selection.save(tmp_path)
    loaded = Selection.load(tmp_path)
    spec = loaded.provenance["scores"][0]
    numbers = spec["resolved_questions"]["exam"]
    assert (spec["n"], numbers["questions"], numbers["too_short"]) == (7, 7, 1)
    assert len(numbers["sha256"]) == 64
    assert loaded.score_columns == ["contamination", "response_words"]


def test_explanation_without_the_questions(rows, tmp_path):
    file = tmp_path / "exam.txt"
    file.write_text(Path(EXAM.questions["exam"]["dataset_name"]).read_text())
    chain = Chain([Decontaminate(Contamination({"exam": str(file)}, n=7))], Longest())
    select(rows, chain, size=9).save(tmp_path / "selection")
    file.unlink()
    selection = Selection.load(tmp_path / "selection")
    assert explain(selection, rows, 1)["decided"] == [
        "The filter 'contamination with exam <= 0' excluded it: contaminated with exam.",
        "Its n-grams cover 62% of the words of question 1 of exam.",
    ]
    assert explain(selection, rows, 0)["decided"][0] == "It is one of 9 rows that the filters kept."


def test_card(rows, selection):
    text = page(gather([selection], rows, title="x"))
    assert "| 3 | `contaminated with exam` | the row repeats part of an evaluation question |" in text
    assert "Rows were compared with evaluation questions by 7-grams of words: 6 of exam." in text
    assert "Questions with fewer than 7 words were not checked: 1 of exam." in text
    assert "@article{lambert2024tulu3" in text
    assert "| **mean score** | `response_words` " in text
    assert str(Path(__file__).parent.parent) not in text
    digest = hashlib.sha256(Path(EXAM.questions["exam"]["dataset_name"]).read_bytes()).hexdigest()
    assert f"'questions.txt' is a local file (sha256 {digest}): replace it with its path." in text.replace("`", "'")
    clean = select(rows, Chain([Decontaminate(EXAM, threshold=0.9)], Longest()), size=9)
    text = page(gather([clean], rows, title="x"))
    assert "No rows were excluded.\n\n" in text
    assert "Rows were compared with evaluation questions" in text


def test_command_line(pool_rows, tmp_path, capsys):
    pool_rows.to_json(tmp_path / "rows.jsonl")
    command = ["--dataset_name", str(tmp_path / "rows.jsonl"), "--output_dir", str(tmp_path / "out")]
    source = {"score": "contamination", "questions": EXAM.questions, "n": 7}
    settings = {"filters": [{"filter": "decontaminate", "by": source}], "then": {"selector": "longest"}}
    select_command = ["select", *command, "--selector", "chain", "--selector_kwargs", json.dumps(settings)]
    assert main([*select_command, "--selection_size", "5"]) == 0
    printed = capsys.readouterr()
    assert "Excluded: 3 contaminated with exam." in printed.out
    assert "Questions with fewer than 7 words were not checked: 1 of exam." in printed.err
    kwargs = {"contamination": {"questions": EXAM.questions, "n": 7}}
    assert main(["score", *command, "--scores", "contamination", "--scores_kwargs", json.dumps(kwargs)]) == 0
    scored = load_pool(str(tmp_path / "out" / "scored.parquet"))
    assert [match for match in scored["contamination_match"] if match] == ["exam:1", "exam:3", "exam:2"]
    settings = {"filters": [{"filter": "decontaminate"}], "then": {"selector": "longest"}}
    command = ["select", "--dataset_name", str(tmp_path / "out" / "scored.parquet"), "--selection_size", "5"]
    command += ["--output_dir", str(tmp_path / "two"), "--selector", "chain"]
    assert main([*command, "--selector_kwargs", json.dumps(settings)]) == 0
    one, two = (Selection.load(tmp_path / name) for name in ("out", "two"))
    assert one.indices.tolist() == two.indices.tolist()
    assert one.provenance["scores"][0] == two.provenance["scores"][0]


def test_several_rounds_keep_the_exclusions(rows, make_round):
    context = make_round(rows, 3)
    chain = Chain([Decontaminate(EXAM)], Random())
    chain.select(context)
    later = make_round(rows, 3)
    later.state.update(context.state)
    chain.select(later)
    assert later.record.exclusions == {"contaminated with exam": 3}
    assert later.record.score_specs[0]["resolved_questions"]["exam"]["questions"] == 7


def test_as_recipes_write_it():
    written = {"filter": "decontaminate", "by": {"score": "contamination", "questions": EXAM.questions, "n": 13}}
    chain = get_selector("chain", {"filters": [written], "then": {"selector": "random"}})
    assert chain.filters == (Decontaminate(Contamination(EXAM.questions, n=13)),)
    assert chain.spec()["filters"] == [written]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": Length()}, r"Decontaminate\(by=Length\(.*or Contamination\(\.\.\.\)"),
        ({"by": ""}, r"it has to be the name of a column, or Contamination\(\.\.\.\)"),
        ({"threshold": 1}, "excludes no row: it has to be below 1"),
        ({"threshold": -0.1}, r"threshold=-0\.1\): it has to be a number from 0 to 1"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        Decontaminate(**settings)


def test_rows_of_conversations(tmp_path):
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello there, it is lovely to see you"},
    ]
    clean = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    data = Dataset.from_dict({"messages": [turns, clean]})
    assert select(data, Chain([Decontaminate(EXAM)], Random()), size=1).indices.tolist() == [1]
