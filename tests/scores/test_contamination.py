"""The score of rows that repeat evaluation questions."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import pytest
from datasets import Dataset

from hf_datasel import score
from hf_datasel.errors import ConfigError, FormatError, ScoreError
from hf_datasel.scores import Contamination, get_score
from hf_datasel.testing import contract

QUESTIONS = {"exam": str(Path(__file__).with_name("questions.txt"))}


@pytest.fixture(scope="module")
def rows(pool_rows):
    return pool_rows.select(range(12))


@contract(
    Contamination(QUESTIONS),
    Contamination(QUESTIONS, n=2, part="response", column_prefix="old_"),
    Contamination({**QUESTIONS, "other": {"dataset_name": QUESTIONS["exam"]}}, n=3, part="prompt"),
)
def test_contract(check, score, rows):
    check(score, rows)


def test_shares_and_matches(rows):
    scored = score(rows, Contamination(QUESTIONS, n=7))
    matches = {row: match for row, match in enumerate(scored["contamination_match"]) if match}
    assert matches == {1: "exam:1", 9: "exam:3", 11: "exam:2"}
    assert scored["contamination"][1] == pytest.approx(8 / 13)
    assert scored["contamination"][0] == 0
    fewer = score(rows, Contamination(QUESTIONS, n=8))
    assert {row for row, match in enumerate(fewer["contamination_match"]) if match} == {1}


def test_the_best_set_is_named(rows, tmp_path):
    (tmp_path / "other.txt").write_text("Hello there, it is lovely to see you!\n")
    for names in (("exam", "other"), ("other", "exam")):
        files = {"exam": QUESTIONS["exam"], "other": str(tmp_path / "other.txt")}
        scored = score(rows, Contamination({name: files[name] for name in names}))
        assert (scored["contamination"][1], scored["contamination_match"][1]) == (1, "other:0")


def test_record_holds_number_and_digest_of_questions(tmp_path):
    path = tmp_path / "exam.txt"
    path.write_text("Which is red: a cherry, a pear or a fig?\nShort.\n")
    first = Contamination({"exam": str(path)})
    assert first.questions == {"exam": {"dataset_name": str(path)}}
    counts = first.spec()["resolved_questions"]["exam"]
    assert (counts["questions"], counts["too_short"], len(counts["sha256"])) == (2, 1, 64)
    json.dumps(first.spec())
    before = pickle.dumps(first)
    path.write_text("Which is red: a cherry, a plum or a fig?\nShort.\n")
    changed = Contamination({"exam": str(path)})
    assert changed.spec()["resolved_questions"]["exam"]["sha256"] != counts["sha256"]
    assert pickle.dumps(changed) != before, "so that Dataset.map computes the score again"
    assert first.spec()["resolved_questions"]["exam"] == counts, "what it compares with"


def test_short_questions_are_counted_in_a_warning(rows, caplog):
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        score(rows, Contamination(QUESTIONS))
    assert caplog.text.count("Contamination: Questions with fewer than 8 words were not checked: 1 of exam.") == 1


def test_no_question_is_long_enough():
    with pytest.raises(ScoreError, match=r"can check no question: none of exam has 30 words\. Lower n"):
        Contamination(QUESTIONS, n=30).spec()


def test_rows_without_a_response_have_a_reason(rows):
    data = Dataset.from_list([*rows, {"instruction": rows["output"][1], "input": "", "output": ""}])
    scored = score(data, Contamination(QUESTIONS), on_summary=str)
    assert scored[12]["contamination"] is None
    assert (scored[12]["contamination_match"], scored[12]["contamination_reason"]) == ("", "empty_response")


def test_errors():
    with pytest.raises(ConfigError, match=r"Contamination\(n=0\): it has to be an int of at least 1"):
        Contamination(QUESTIONS, n=0)
    with pytest.raises(ConfigError, match=r"part='respons'\).*Did you mean 'response'"):
        Contamination(QUESTIONS, part="respons")
    with pytest.raises(ConfigError, match=r"contamination needs the setting 'questions'"):
        get_score("contamination")
    with pytest.raises(FormatError, match=r"no response to compare\. Pass part='both'"):
        score(Dataset.from_dict({"text": ["Why?"]}), Contamination(QUESTIONS, part="response"))
