"""Evaluation questions from text files, files of rows and the Hub."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset, DatasetDict

from hf_datasel.errors import ConfigError, ScoreError
from hf_datasel.scoring.question_sets import checked_sources, read_questions

ROWS = [
    {"question": "Which is red?", "choices": ["a cherry", "a pear"], "answer": 0},
    {"question": "Which is heavier?", "choices": ["a brick", "a feather"], "answer": 0},
]


def read(source):
    return read_questions("exam", checked_sources({"exam": source}, "Contamination")["exam"])


@pytest.fixture
def rows_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def test_text_file_has_one_question_per_line(tmp_path):
    path = tmp_path / "exam.txt"
    path.write_text("Which is red?\n\n  \nWhich is heavier?\u2028Say.\n", encoding="utf-8")
    assert read(str(path)) == ["Which is red?", "Which is heavier?\u2028Say."]


def test_columns_are_joined(rows_file):
    assert read({"dataset_name": rows_file, "columns": "question"}) == ["Which is red?", "Which is heavier?"]
    both = read({"dataset_name": rows_file, "columns": ["question", "choices"]})
    assert both == ["Which is red?\na cherry\na pear", "Which is heavier?\na brick\na feather"]


def test_without_columns_the_prompt_is_the_question(tmp_path):
    Dataset.from_dict({"question": ["Why?", "Who?"], "answer": ["So.", "Mia."]}).to_parquet(tmp_path / "pairs.parquet")
    assert read(str(tmp_path / "pairs.parquet")) == ["Why?", "Who?"]
    Dataset.from_dict({"text": ["Why?", "Who?"]}).to_parquet(tmp_path / "text.parquet")
    assert [text.strip() for text in read(str(tmp_path / "text.parquet"))] == ["Why?", "Who?"]


def test_split_is_test_by_default(tmp_path):
    splits = {name: Dataset.from_dict({"question": [f"Of {name}?"]}) for name in ("train", "test")}
    DatasetDict(splits).save_to_disk(tmp_path / "exam")
    source = {"dataset_name": str(tmp_path / "exam"), "columns": ["question"]}
    assert read(source) == ["Of test?"]
    assert read({**source, "dataset_split": "train"}) == ["Of train?"]
    with pytest.raises(
        ScoreError, match=r"of 'exam' \(dataset_name='.*exam', dataset_split='dev'\): .* no split 'dev'"
    ):
        read({**source, "dataset_split": "dev"})


def test_from_the_hub(local_hub):
    Dataset.from_dict({"question": ["Why is it red?"], "answer": ["It is ripe."]}).push_to_hub(
        "tester/exam", split="test"
    )
    assert read("tester/exam") == ["Why is it red?"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "it has to be a path, a Hub id, or a dict with dataset_name"),
        (3, "it has to be a path, a Hub id, or a dict with dataset_name"),
        (["Why?"], r"Write the questions to a \.txt file .* or pass texts to hf_datasel\.scoring\.contaminated_rows"),
        (
            {"dataset_name": "a/b", "dataset_spilt": "test"},
            r"has the key 'dataset_spilt'\. .*Did you mean 'dataset_split'\?",
        ),
        ({"dataset_name": "a/b", "dataset_split": 3}, "dataset_split has to be a text, and is 3"),
        ({"dataset_name": "a/b", "columns": {"prompt": "question"}}, r"columns has to be a list of names, such as"),
        ({"dataset_name": "a.txt", "columns": ["question"]}, r"one question per line, so it takes no columns"),
    ],
)
def test_impossible_sources(source, message):
    with pytest.raises(ConfigError, match=message):
        checked_sources({"exam": source}, "Contamination")


def test_impossible_questions():
    for questions in ({}, None, "exam.txt", ["exam.txt"]):
        with pytest.raises(ConfigError, match=r"it has to be a dict with the file or dataset of each evaluation set"):
            checked_sources(questions, "Contamination")
    with pytest.raises(ConfigError, match="the name of an evaluation set has to be a text"):
        checked_sources({3: "exam.txt"}, "Contamination")


def test_unreadable_questions(rows_file, tmp_path):
    with pytest.raises(ScoreError, match=r"have no column 'qestion', but .*Did you mean 'question'\?"):
        read({"dataset_name": rows_file, "columns": ["qestion"]})
    with pytest.raises(ScoreError, match=r"Question 0 of 'exam' has .*, which is no text\. Name columns with text"):
        read({"dataset_name": rows_file, "columns": ["question", "answer"]})
    with pytest.raises(ScoreError, match=r"Question 0 of 'exam' cannot be read .* Name the columns .*\[question\]"):
        read(rows_file)
    with pytest.raises(ScoreError, match=r"The questions of 'exam' \(dataset_name='.*none\.txt'\): .*No such file"):
        read(str(tmp_path / "none.txt"))
    with pytest.raises(ScoreError, match=r"There is no file or folder '.*none\.jsonl'"):
        read(str(tmp_path / "none.jsonl"))
    Dataset.from_dict({"riddle": ["Why?"]}).to_parquet(tmp_path / "riddles.parquet")
    with pytest.raises(ScoreError, match=r"in no supported row format\. Name the columns .*\['riddle'\]"):
        read(str(tmp_path / "riddles.parquet"))
