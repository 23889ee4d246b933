"""Rows of a target task: where they come from, and rows of a pool that repeat them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel.errors import ColumnError, ConfigError, FormatError
from hf_datasel.formats import Pool
from hf_datasel.scoring.question_sets import read_questions
from hf_datasel.scoring.target_rows import TargetRows, TargetSettings

LONG = "A farmer has 17 sheep and buys 5 more, then sells 9 of them: how many sheep are left in the end?"


@dataclass(frozen=True)
class Named(TargetSettings):
    """Settings of something."""


def write(path, rows):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_config_of_a_folder(tmp_path):
    for name in ("main", "other"):
        write(tmp_path / "data" / name / "train.jsonl", [{"question": name, "answer": "1"}])
    configs = [{"config_name": name, "data_files": f"{name}/*.jsonl"} for name in ("main", "other")]
    (tmp_path / "data" / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    rows = Named(validation=str(tmp_path / "data"), validation_config="other").target()
    assert [row.prompt for row in rows.pool.rows()] == ["other"]


def test_warnings_name_the_setting(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("hf_datasel.formats.pool._warned", set())
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    path = write(tmp_path / "target" / "rows.jsonl", [row | {"tool_defs": "[]"}])
    assert Named(validation=path).target().pool.format == "messages"
    Named(validation=path).target().pool.subset([0])
    read_questions("target", {"dataset_name": path})
    unread = "tool_defs is not read, though the name suggests a part of the row"
    first, second = caplog.messages
    assert first.endswith(f'{unread}: validation_columns={{"tools": "tool_defs"}} reads it.')
    assert second.endswith(f"{unread}."), "columns of questions are a list, and have their own advice"
    mapped = Named(validation=path, validation_columns={"tools": "tool_defs"}).target()
    assert next(mapped.pool.rows()).reason == "" and len(caplog.messages) == 2


def test_errors_name_the_setting(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"frage": "1 + 1?", "antwort": "2", "topic": "sums"}])
    with pytest.raises(FormatError, match=r"Named\(validation='nothing\.jsonl'\): There is no file or folder"):
        Named(validation="nothing.jsonl").target()
    with pytest.raises(FormatError, match=r"Named\(validation='.*rows\.jsonl'\): .*match none of the supported form"):
        Named(validation=path).target()
    columns = {"prompt": "frage", "completion": "antwort"}
    with pytest.raises(FormatError, match=r"Named\(validation=.*: validation_columns maps .*'fraga'"):
        Named(validation=path, validation_columns={**columns, "prompt": "fraga"}).target()
    with pytest.raises(ColumnError, match=r"Named\(subtask='topics'\).*Did you mean 'topic'\?"):
        Named(validation=path, validation_columns=columns, subtask="topics").target()
    for settings in ({"validation": ""}, {"validation_config": ""}, {"validation_split": None}, {"subtask": 3}):
        with pytest.raises(ConfigError, match="it has to be a text that is not empty"):
            Named(**{"validation": "x", **settings}).check_target()


@pytest.mark.parametrize(
    ("settings", "hint", "cli_hint"),
    [
        ({"validation_split": "test"}, "as validation_split='train'.", 'as "validation_split": "train".'),
        (
            {},
            'Name the columns with validation_columns={"prompt": "frage", "completion": "antwort"}.',
            'Name the columns with "validation_columns": {"prompt": "frage", "completion": "antwort"}.',
        ),
    ],
)
def test_errors_name_the_settings_to_change(tmp_path, settings, hint, cli_hint):
    path = write(tmp_path / "rows.jsonl", [{"frage": "1 + 1?", "antwort": "2"}])
    with pytest.raises(FormatError, match=f"{re.escape(hint)}$") as caught:
        Named(validation=path, **settings).target()
    assert caught.value.cli_message.endswith(cli_hint)


def test_copies():
    target = Dataset.from_dict({"prompt": ["What is 2 + 2?", LONG, "Go on."], "completion": ["4", "13", "Yes."]})
    rows = {
        "what is 2 2": 0,  # punctuation
        "What is 2 + 3?": -1,
        LONG.upper(): 1,
        f"Think step by step. {LONG} Answer with a number.": 1,
        LONG.replace("farmer", "shepherd"): 1,  # 18 of 20 words
        LONG.replace("buys 5 more", "gets some more from his uncle"): -1,
        "Go on, please.": -1,
        "go on": 2,
    }
    pool = Pool(Dataset.from_dict({"prompt": list(rows), "completion": ["another answer"] * len(rows)}))
    found = TargetRows(Pool(target), np.full(3, ""), "")
    assert found.copies(pool, np.arange(len(rows))).tolist() == list(rows.values())
    assert found.copies(pool, np.array([7, 2])).tolist() == [2, 1]
    text = Pool(Dataset.from_dict({"text": [f"{LONG}\n13", LONG, "What is 2 + 2?\n4"]}))
    assert found.copies(text, np.arange(3)).tolist() == [1, 1, 0]
