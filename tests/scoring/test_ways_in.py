"""Rows that people have, by every way in: `score`, `map`, a stream, `select`, the command line and the trainer."""

from __future__ import annotations

import functools
import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trl
from datasets import Dataset

from hf_datasel import Selection, load_pool, score, select
from hf_datasel.cli import main
from hf_datasel.scores import IFD
from hf_datasel.selectors import Top

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


IN_ROWS = {"invalid_json"}
"""Reasons that the rows alone show, whatever the model."""


@dataclass(frozen=True)
class Case:
    """A file of rows, the chat template of the model, and why rows have no score.

    Args:
        write: Writes the rows into a folder, and returns what to load.
        reasons: Reason of each row, "" for a row that has a score.
        template: Name of a chat template of TRL's, or "smollm2".
        responses: Response of each row with a score.
    """

    write: Callable[[Path], Path | str]
    reasons: list[str]
    responses: list[str] = field(default_factory=list)
    template: str = "qwen3"


def lines(*rows: dict[str, Any]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder / "rows.jsonl"

    return write


def text(name: str, content: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return write


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def bot(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def call(port: Any, as_text: bool = False, **more: Any) -> dict[str, Any]:
    arguments = json.dumps({"port": port}) if as_text else {"port": port}
    return {**more, "type": "function", "function": {"name": "tide", "arguments": arguments}}


def schema(name: str, argument: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {argument: {"type": "string"}}}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


ASK, HIGH, AT_FIVE = (
    user("When is high tide in Cork?"),
    {"role": "tool", "name": "tide", "content": "5 pm"},
    bot("At 5."),
)
TOOLS = [schema("tide", "port")]
OPENAI = lines(
    {
        "messages": [
            ASK,
            bot(None, tool_calls=[call("Cork", as_text=True, id="c1")]),
            {"role": "tool", "tool_call_id": "c1", "content": '{"hour": 17}'},
            AT_FIVE,
        ],
        "tools": TOOLS,
        "parallel_tool_calls": False,
    },
    {"messages": [{"role": "system", "content": "Be kind."}, user("Hi"), bot("Hey.")], "tools": TOOLS},
)
CALLING = bot("", tool_calls=[call("Cork")])
ALPACA = [
    {"instruction": "Name a stone.", "input": "", "output": "Slate."},
    {"instruction": "Add.", "input": "3 and 8", "output": "11"},
]


def shards(folder: Path) -> str:
    (folder / "shards").mkdir()
    for number, row in enumerate(ALPACA):
        Dataset.from_list([row]).to_parquet(folder / "shards" / f"train-0000{number}-of-00002.parquet")
    return str(folder / "shards" / "*.parquet")


def zipped(folder: Path) -> Path:
    with gzip.open(folder / "rows.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in ALPACA)
    return folder / "rows.jsonl.gz"


CASES = {
    "dolly": Case(
        lines(
            {"instruction": "Which is a metal?", "context": "", "response": "Tin is one.", "category": "open_qa"},
            {"instruction": "Where is it?", "context": "The key is in the shed.", "response": "In the shed."},
        ),
        ["", ""],
        ["Tin is one.", "In the shed."],
    ),
    "openai": Case(OPENAI, ["", ""]),
    "openai, template without calls": Case(OPENAI, ["template_error", ""], template="smollm2"),
    "sharegpt": Case(
        lines(
            {
                "conversations": [
                    {"from": "human", "value": "Tide?"},
                    {"from": "function_call", "value": '{"name": "tide", "arguments": {"port": "Cork"}}'},
                    {"from": "observation", "value": "5 pm"},
                    {"from": "gpt", "value": "At 5."},
                ],
                "system": "You are a harbour master.",
                "tools": json.dumps([{"name": "tide", "parameters": {"type": "object"}}]),
            },
            {
                "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ahoy."}],
                "system": "You are a harbour master.",
                "tools": "",
            },
        ),
        ["", ""],
    ),
    "csv": Case(
        text(
            "rows.csv", "instruction,input,output\nAny left?,,None\nWhich area?,,NA\nWhat is it?,,null\nSum?,1 2,3\n"
        ),
        [""] * 4,
        ["None", "NA", "null", "3"],
    ),
    "shards": Case(shards, ["", ""], ["Slate.", "11"]),
    "gz": Case(zipped, ["", ""], ["Slate.", "11"]),
    "system refused": Case(
        lines(
            {"messages": [user("Name a star."), bot("Vega is one.")]},
            {"messages": [{"role": "system", "content": "Be kind."}, user("Name a moon."), bot("Io is one.")]},
            {"messages": [user("Name a sea."), bot("The Aral Sea.")]},
        ),
        ["", "template_error", ""],
        ["Vega is one.", "The Aral Sea."],
        "gemma",
    ),
    "tools": Case(
        lines(
            {"messages": [ASK, CALLING, HIGH, AT_FIVE]},
            {"messages": [ASK, CALLING]},
            {"messages": [ASK, CALLING, HIGH, bot("", tool_calls=[call({"exact": True})]), HIGH, AT_FIVE]},
            {"messages": [user("Hi"), bot("Hey."), ASK, CALLING, HIGH, AT_FIVE]},
            {"messages": [user("Hi"), bot("Hey.")]},
        ),
        [""] * 5,
    ),
    "odd role": Case(
        lines(
            {
                "messages": [
                    ASK,
                    {**CALLING, "reasoning_content": "I look it up."},
                    HIGH,
                    {**AT_FIVE, "reasoning_content": "5 pm it is."},
                ]
            },
            {"messages": [user("And low tide?"), bot("Wait."), {**HIGH, "role": "function"}, bot("At 11.")]},
        ),
        ["", ""],
    ),
    "parts": Case(
        lines(
            {
                "messages": [
                    user([{"type": "text", "text": "Good "}, {"type": "text", "text": "day"}]),
                    bot([{"type": "text", "text": "Hey."}]),
                ]
            },
            {"messages": [user("Bye"), bot("So long.")]},
        ),
        ["", ""],
        ["Hey.", "So long."],
    ),
    "broken JSON text": Case(
        lines(
            {"messages": json.dumps([user("Hi"), bot("Hey there.")])},
            {"messages": '[{"role": "user", "content": "Hi"'},
            {"messages": json.dumps([user("Bye"), bot("So long.")])},
        ),
        ["", "invalid_json", ""],
        ["Hey there.", "So long."],
    ),
    "arguments": Case(
        lines(
            {"messages": [ASK, bot("", tool_calls=[call(5)])], "tools": [schema("tide", "port")], "meta": {"at": 5}},
            {"messages": [ASK, bot("", tool_calls=[call("five")])], "tools": [schema("moon", "day")], "meta": "five"},
        ),
        ["", ""],
    ),
}
"""Inputs after public bug reports."""


@pytest.fixture(scope="module")
def model_of(tmp_path_factory, tiny_model_dir):
    @functools.cache
    def folder_of(template: str) -> str:
        folder = tmp_path_factory.mktemp("models") / template
        shutil.copytree(tiny_model_dir, folder)
        trls = Path(trl.__file__).parent / "chat_templates" / f"{template}.jinja"
        (folder / "chat_template.jinja").write_text(SMOLLM2 if template == "smollm2" else trls.read_text())
        return str(folder)

    return folder_of


@pytest.fixture(scope="module")
def scored(tmp_path_factory, model_of):
    """Give a function that returns a case with its rows, their scores, and what the rows are loaded from."""

    @functools.cache
    def of(name: str) -> tuple[Case, Dataset, Dataset, str]:
        case = CASES[name]
        source = str(case.write(tmp_path_factory.mktemp("rows")))
        data = load_pool(source)
        return case, data, score(data, IFD(), model=model_of(case.template), on_summary=str), source

    return of


def usable(case: Case) -> list[int]:
    return [number for number, reason in enumerate(case.reasons) if not reason]


def excluded(case: Case, in_rows: bool) -> dict[str, int]:
    """Return the number of rows by reason: of reasons that are in the rows themselves, or of the others."""
    found = [reason for reason in case.reasons if reason and (reason in IN_ROWS) == in_rows]
    return {reason: found.count(reason) for reason in found}


def assert_same_scores(rows: Any, expected: Dataset) -> None:
    rows = list(rows)
    assert [row["ifd_reason"] for row in rows] == expected["ifd_reason"][:]
    for name in ("ifd", "loss", "loss_prior"):
        values = [np.array([row[name] for row in data], dtype=float) for data in (rows, expected)]
        np.testing.assert_allclose(*values, rtol=2e-5, err_msg=name)


def quick(*names: str) -> Any:
    """Parametrize a test with all cases, of which those that are not named here are slow."""
    return pytest.mark.parametrize(
        "name", [name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
    )


@pytest.mark.parametrize("name", CASES)
def test_score_has_a_value_or_the_reason(scored, name):
    case, data, expected, _ = scored(name)
    assert expected["ifd_reason"][:] == case.reasons
    assert [value is None for value in expected["ifd"]] == [bool(reason) for reason in case.reasons]
    assert [data.features[column] for column in data.column_names] == [
        expected.features[column] for column in data.column_names
    ]
    if case.responses:
        words = score(data.select(usable(case)), "length")["response_words"][:]
        assert words == [len(response.split()) for response in case.responses]


@quick(*(name for name in CASES if name not in ("dolly", "csv", "shards", "gz")))
def test_map_and_stream(scored, model_of, name):
    case, data, expected, _ = scored(name)
    ifd = IFD(model_of(case.template))
    for batch_size in sorted({1, 2, len(data)}):
        settings = {"batched": True, "batch_size": batch_size, "features": ifd.features(data)}
        mapped = data.map(ifd, **settings)
        assert_same_scores(mapped, expected)
        assert mapped.select_columns(data.column_names).to_list() == data.to_list()
        assert_same_scores(data.to_iterable_dataset().map(ifd, **settings), expected)


@quick("openai, template without calls", "broken JSON text", "arguments")
def test_select_keeps_the_rows_with_a_score(scored, model_of, name):
    case, data, expected, _ = scored(name)
    selection = select(data, Top(by=IFD()), size=len(usable(case)), model=model_of(case.template))
    assert sorted(selection.indices.tolist()) == usable(case)
    assert selection.provenance["not_eligible"] == excluded(case, in_rows=True)
    assert selection.provenance["exclusions"] == excluded(case, in_rows=False)
    np.testing.assert_allclose(selection.scores("ifd"), np.array(expected["ifd"][:], dtype=float), rtol=2e-5)


@quick("csv", "shards", "openai, template without calls", "broken JSON text")
def test_command_line(scored, model_of, tmp_path, name, capsys):
    case, _, expected, source = scored(name)
    folder, size = str(tmp_path / "scored"), str(len(usable(case)))
    command = ["score", "--dataset_name", source, "--scores", "ifd", "--output_dir", folder]
    assert main([*command, "--model_name_or_path", model_of(case.template)]) == 0
    assert_same_scores(load_pool(f"{folder}/scored.parquet"), expected)
    top = ["--selector", "top", "--selector_kwargs", '{"by": "ifd"}', "--selection_size", size]
    command = ["select", "--dataset_name", f"{folder}/scored.parquet", *top, "--output_dir", str(tmp_path / "out")]
    assert main(command) == 0
    selection = Selection.load(tmp_path / "out")
    assert sorted(selection.indices.tolist()) == usable(case)
    assert selection.provenance["not_eligible"] == excluded(case, in_rows=True)
    without = sum(excluded(case, in_rows=False).values())
    assert selection.provenance["exclusions"] == ({"without ifd": without} if without else {})


def train_command(case: Case, source: str, model: str, folder: Path) -> list[str]:
    data = ["--dataset_name", source, "--selection_size", str(len(usable(case))), "--max_length", "1024"]
    method = ["--selector", "top", "--selector_kwargs", '{"by": {"score": "loss"}}', "--model_name_or_path", model]
    quiet = ["--report_to", "none", "--disable_tqdm", "true", "--save_strategy", "no", "--gradient_checkpointing"]
    return [
        *("train", *data, *method, *quiet, "false", "--use_cpu", "true", "--bf16", "false", "--max_steps", "2"),
        *("--output_dir", str(folder), "--logging_steps", "1"),
    ]


@quick("broken JSON text")
def test_two_steps_of_training(scored, model_of, tmp_path, name):
    case, _, _, source = scored(name)
    assert main(train_command(case, source, model_of(case.template), tmp_path)) == 0
    log = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    assert [np.isfinite(entry["loss"]) for entry in log if "loss" in entry] == [True, True]
    rounds = [entry["selection_rows_excluded"] for entry in log if "selection_round" in entry]
    assert set(rounds) == {len(case.reasons) - len(usable(case))}
    selection = Selection.load(tmp_path / "selections" / "round-0")
    assert sorted(selection.indices.tolist()) == usable(case)
    assert selection.provenance["not_eligible"] == {**excluded(case, True), **excluded(case, False)}


def test_a_row_does_not_depend_on_others(scored, model_of):
    for name in ("odd role", "arguments", "openai"):
        case, data, expected, _ = scored(name)
        alone = score(data.select([0]), IFD(), model=model_of(case.template))
        assert alone["ifd"][0] == pytest.approx(expected["ifd"][0], rel=2e-5), name
